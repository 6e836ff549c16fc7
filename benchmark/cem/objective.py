"""The regulariser of Eq 8: conditional entropy as released (scalar) or as in Eq 5-8 (diagonal, full)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from benchmark.cem import statistics, terms
from benchmark.cem.memory import check_memory
from benchmark.cem.mixture import kmeans
from benchmark.errors import UserError

ESTIMATORS = ("scalar", "diagonal", "full")
SCOPES = ("class", "all")

# Cap on the weight of a batch against the epoch's covariances, so that these never vanish.
_MAX_BLEND = 0.99
# Distance assigned to an empty cluster: only a class without any features falls back to one.
_FAR = 1e30


class ConditionalEntropy(nn.Module):
    """L_C of a batch: the smaller it is, the less the noisy feature tells about the input.

    `fit` clusters the clean training features once an epoch; `forward` adds a batch to those statistics by Eq
    5-6 and returns L_C with its gradient to the feature. The statistics stay as fitted throughout the epoch: each
    batch is blended with them separately, so that a step depends only on its batch and the last fit.

    estimator "scalar": one variance a cluster and the released, thresholded term. "diagonal" and "full": Eq 7
    itself, with a variance per dimension or the exact covariance. scope "class": `components` clusters in
    each class (the class of a training sample is known); "all" (not for scalar): `components * classes` over
    everything, Algorithm 1. dims = D, elements of one feature map; noise_std = sigma >= 0 (0 turns the term
    off); threshold = t and epsilon belong to scalar. Quirks of the released code, for scalar alone:
    first_class_lookup (Q1), batch_weight_x10 (Q2), and shifted_statistics: the list of variances omits empty clusters,
    the list of weights also one-member clusters, so that later clusters read the values of others, and a batch's
    features may go to the centre of an empty cluster. Without it each cluster has its own statistics, and one without
    members attracts no features.

    The release stops with an error at a batch with a class it could not cluster (of `components` samples or fewer), and
    at a class in which every cluster has one member. Here both are clustered like any other; a class that the fit never
    saw adds nothing to the scalar term.

    State: buffers of fixed shape, so a saved state_dict restores every later value bit for bit. K components
    take 4 K D bytes for centres, and "full" another 4 K D^2 for the inverses A^-1 (half of that in a
    state_dict, which holds one triangle of each). `fit` temporarily takes some 6 N D bytes and 1 GiB. Give `device`
    so that the free memory is checked.

    Raises UserError for values out of range, and if the inverses would take over 80 % of the free memory.
    """

    fitted: Tensor
    centers: Tensor
    counts: Tensor
    information: Tensor
    inverse: Tensor
    variance: Tensor
    share: Tensor

    def __init__(
        self,
        estimator: str,
        dims: int,
        classes: int,
        noise_std: float,
        components: int = 5,
        scope: str = "class",
        first_class_lookup: bool = True,
        batch_weight_x10: bool = True,
        shifted_statistics: bool = True,
        threshold: float = 0.125,
        epsilon: float = 0.01,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.estimator, self.scope = estimator, scope
        self.dims, self.classes, self.noise_std = dims, classes, noise_std
        self.groups = classes if scope == "class" else 1
        self.per_group = components if scope == "class" else components * classes
        self.first_class_lookup = first_class_lookup
        self.shifted_statistics = shifted_statistics and estimator == "scalar"
        # a quirk of the released, scalar form; the paper's Eq 6 has no such factor
        self.gain = 10.0 if batch_weight_x10 and estimator == "scalar" else 1.0
        self.threshold, self.epsilon = threshold, epsilon
        self._check(components)

        total = self.groups * self.per_group
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool, device=device))
        self.register_buffer("centers", torch.zeros(total, dims, device=device))
        self.register_buffer("counts", torch.zeros(total, device=device))
        # 1/2 log(|Sigma_j + sigma^2 I| / |sigma^2 I|), nats.
        self.register_buffer("information", torch.zeros(total, device=device))
        if estimator == "full":
            total = total if noise_std > 0 else 0
            check_memory(total, dims, torch.device(device or "cpu"))
            # Saved through get_extra_state, one triangle of it.
            self.register_buffer("inverse", torch.zeros(total, dims, dims, device=device), persistent=False)
        else:
            shape = (total,) if estimator == "scalar" else (total, dims)
            self.register_buffer("variance", torch.zeros(shape, device=device))
        if estimator == "scalar":  # weights within a class, in the release's order
            self.register_buffer("share", torch.zeros(total, device=device))

    def _check(self, components: int) -> None:
        """UserError for settings out of range."""
        if self.estimator not in ESTIMATORS:
            raise UserError(f"CEM estimator {self.estimator!r} is unknown; choose one of {', '.join(ESTIMATORS)}.")
        if self.scope not in SCOPES:
            raise UserError(f"CEM scope {self.scope!r} is unknown; choose one of {', '.join(SCOPES)}.")
        if self.estimator == "scalar" and self.scope == "all":
            raise UserError(
                "CEM scope 'all' needs the diagonal or full estimator: the scalar term is defined per class."
            )
        for name, value in (("dims", self.dims), ("classes", self.classes), ("components", components)):
            if value < 1:
                raise UserError(f"CEM {name} is {value}; it must be at least 1.")
        if not (math.isfinite(self.noise_std) and self.noise_std >= 0):
            told = "it must be finite and not negative (0 turns CEM off)"
            raise UserError(f"CEM noise_std is {self.noise_std}; {told}.")
        if not (self.threshold >= 0 and self.epsilon > 0):
            told = f"CEM threshold {self.threshold} must not be negative and epsilon {self.epsilon} must be positive."
            raise UserError(told)

    @property
    def num_components(self) -> int:
        return self.groups * self.per_group

    @property
    def weights(self) -> Tensor:
        """pi [K]: each component's share of all training features; 0 for an empty one."""
        return self.counts / self.counts.sum().clamp_min(1)

    @property
    def empty_components(self) -> int:
        """How many clusters have no member (waits for the device)."""
        return int((self.counts == 0).sum())

    def bound(self) -> Tensor:
        """Eq 7 / S8 in nats, only from the statistics of the last fit: 0-dim float64; 0 before it or without
        noise.

        Also for scalar, whose clusters are taken as isotropic (which never gives less than the full covariance).
        """
        pi = self.counts.double() / self.counts.double().sum().clamp_min(1)
        return (torch.special.entr(pi) + pi * self.information.double()).sum()

    @torch.no_grad()
    def fit(self, features_clean: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """Cluster the clean features [N, D] (or [N, C, h, w]) with labels [N] and take the clusters'
        statistics.

        k-means++ on the first call, afterwards from the last centres. The scalar term uses N / classes as the mean
        number of training samples a class. The noise enters as sigma^2 I added to each covariance.
        Waits for the device. Raises UserError for shapes or labels that do not fit, Diverged for features that are not
        finite.
        """
        if self.noise_std == 0:
            return
        features = features_clean.flatten(1).float()
        if features.shape[1] != self.dims:
            raise UserError(f"CEM was made for features of {self.dims} elements but got {features.shape[1]}.")
        groups = labels if self.scope == "class" else torch.zeros_like(labels)
        start = self.centers.view(self.groups, self.per_group, -1) if bool(self.fitted) else None
        clusters = kmeans(features, groups, self.groups, self.per_group, generator, start)
        self.centers.copy_(clusters.centers.flatten(0, 1))
        self.counts.copy_(clusters.counts.flatten())
        self._take_statistics(features, groups * self.per_group + clusters.assignment)
        self.fitted.fill_(True)

    def _take_statistics(self, features: Tensor, component: Tensor) -> None:
        noise = self.noise_std**2
        given = (features, component, self.centers, self.counts)
        if self.estimator == "full":
            statistics.covariance_(self.inverse, *given)
            self.information.copy_(statistics.invert_(self.inverse, noise))
            return
        take = statistics.scalar_variance if self.estimator == "scalar" else statistics.diagonal_variance
        variance = take(*given)
        self.information.copy_(statistics.noisy_information(variance, noise, self.dims))
        if self.estimator == "scalar":
            hold = statistics.shifted if self.shifted_statistics else statistics.own
            variance, share = hold(variance.view(self.groups, -1), self.counts.view(self.groups, -1))
            self.share.copy_(share.flatten())
        self.variance.copy_(variance.view_as(self.variance))

    def forward(self, z_clean: Tensor, z_noisy: Tensor, labels: Tensor) -> Tensor:
        """L_C, 0-dim float32, of features [B, D] or [B, C, h, w] and labels [B]; scalar reads z_clean, the
        others z_noisy = z_clean + sigma * noise. Zero, with a zero gradient, before the first fit and
        where sigma = 0."""
        z = (z_clean if self.estimator == "scalar" else z_noisy).flatten(1).float()
        zero = z.sum() * 0
        if self.noise_std == 0:
            return zero
        with torch.autocast(z.device.type, enabled=False):
            component = self._nearest(z.detach(), labels)
            offset = z - self.centers[component]
            if self.estimator == "scalar":
                loss = self._released(offset, component, labels)
            else:
                loss = self._eq7(offset, component)
        return torch.where(self.fitted, loss, 0.0) + zero

    def _nearest(self, z: Tensor, labels: Tensor) -> Tensor:
        """Index [B] of the nearest component, within the label's class for scope "class"; only among those with
        members, unless statistics are shifted."""
        distance = torch.addmm(self.centers.square().sum(1).unsqueeze(0), z, self.centers.mT, alpha=-2)
        if not self.shifted_statistics:
            distance = distance + _FAR * (self.counts == 0)
        if self.scope == "class":
            owner = torch.arange(self.num_components, device=z.device) // self.per_group
            distance = distance.masked_fill(owner != labels.unsqueeze(1), torch.inf)
        return distance.min(1).indices

    def _released(self, offset: Tensor, component: Tensor, labels: Tensor) -> Tensor:
        """The released term: summed over a class's clusters present, averaged over classes present.

        As released, a blend of 1 or more becomes 0.99, and one between 0.99 and 1 stays.
        """
        row = component
        if self.first_class_lookup:
            row = row + (terms.lookup_class(labels, self.classes) - labels) * self.per_group
        # per member of the batch: its cluster's weight within its class and variance, both from the epoch
        share, variance = self.share[row], self.variance[row]
        together = terms.same(component)
        members = together.sum(1)
        blend = self.gain * members / (share * self.counts.sum() / self.classes)
        blend = torch.where(blend < 1, blend, 0.99)
        updated = blend * (together @ offset.square().mean(1) / members) + (1 - blend) * variance
        floor = torch.full_like(updated, self.threshold * self.noise_std**2 + self.epsilon)
        excess = relu(torch.log(updated + self.epsilon) - torch.log(floor))
        classes_present = (1 / terms.same(labels).sum(1)).sum()
        return (share * excess / members).sum() / classes_present

    def _eq7(self, offset: Tensor, component: Tensor) -> Tensor:
        members = (component.unsqueeze(1) == torch.arange(self.num_components, device=offset.device)).float().sum(0)
        samples = self.counts.sum().clamp_min(1)
        pi = (self.weights * (samples - len(offset)).clamp_min(0) + members) / samples  # Eq 5
        blend = (self.gain * members / (pi * samples))[component].clamp_max(_MAX_BLEND)  # of Eq 6
        if self.estimator == "full":
            change = terms.full_change(offset, component, self.inverse, blend)
        else:
            noisy_variance = self.variance[component] + self.noise_std**2
            change = terms.diagonal_change(offset, component, noisy_variance, blend)
        return (torch.special.entr(pi) + pi * self.information).sum() + (pi[component] * change).sum()  # Eq 7

    def get_extra_state(self) -> Tensor:
        """One triangle of each inverse, [K, D(D+1)/2], on the CPU; empty for the other estimators."""
        if self.estimator != "full":
            return torch.zeros(0)
        row, column = torch.tril_indices(self.dims, self.dims, device=self.inverse.device)
        triangles = torch.empty(len(self.inverse), len(row))
        for triangle, inverse in zip(triangles, self.inverse, strict=True):  # one by one: memory is limited
            triangle.copy_(inverse[row, column])
        return triangles

    def set_extra_state(self, state: Tensor) -> None:
        if self.estimator == "full":
            row, column = torch.tril_indices(self.dims, self.dims, device=self.inverse.device)
            for inverse, triangle in zip(self.inverse, state, strict=True):
                inverse[row, column] = inverse[column, row] = triangle.to(inverse.device)
