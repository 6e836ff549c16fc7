"""A decoder with side information about the defence: which elements a mask zeroed, and the noise.

The plain decoder sees the same noise but has to learn about it by itself. This one also gets the visible mask and the
best linear estimate of the clean feature (the Wiener filter: the attacker has clean features of its own images, and can
send them through the defence). As it also has the encoder, it is fitted on mirror images of its images as well.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.attacks.base import ATTACKS, SCORE_BATCH, Target, unit
from benchmark.attacks.decoder import DecoderAttack
from benchmark.models.decoder import Decoder

MOST_ELEMENTS = 4096  # of a feature, for a linear estimate: the matrix has the square of that many entries


@ATTACKS.register("informed")
class InformedAttack(DecoderAttack):
    """Minimises ||D(z, mask, linear estimate of z_hat) - x||^2 over images and mirror images."""

    printed = False
    quirks = ()  # the released code does not have it
    psnr_batch = SCORE_BATCH

    class Params(DecoderAttack.Params):
        mirror: bool = Field(description="each image is mirrored, and encoded as such, in half of the steps")

    def build(self) -> None:
        target = self.target
        self.briefing = Briefing(target, self.noise)
        if self.params.mirror:
            self.mirrored = mirrored(target)
        super().build()

    def network(self) -> nn.Module:
        return Decoder(self.briefing.shape, self.target.image_size, blocks=self.params.blocks)

    def pairs(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        features, x01 = super().pairs(chosen)
        if not self.params.mirror:
            return features, x01
        return mirror_half(features, x01, self.mirrored[chosen], self.noise)

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(self.briefing(z))


@torch.no_grad()
def mirrored(target: Target) -> Tensor:
    """Clean features [N, C, h, w] of the mirror images of the attacker's images, in their order."""
    return torch.cat([target.encode(unit(part.flip(-1))) for part in target.images.split(SCORE_BATCH)])


def mirror_half(features: Tensor, x01: Tensor, of_mirrored: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features and images of a batch, each replaced by its mirror image with probability 1/2."""
    turned = torch.rand(len(x01), 1, 1, 1, generator=draws, device=x01.device) < 0.5
    return torch.where(turned, of_mirrored, features), torch.where(turned, x01.flip(-1), x01)


class Briefing:
    """Side information for a feature as sent, each view in the feature's shape, computed from the attacker's images.

    views: how many features there are in all; shape: theirs together. A view without information (no element is ever
    masked; nothing is random) is left out.
    """

    def __init__(self, target: Target, generator: torch.Generator):
        self.kept = target.kept
        clean = target.features
        sent = torch.cat([target.send(part, generator) for part in clean.split(SCORE_BATCH)])
        kept = target.kept(sent)
        self.masked = not bool(kept.all())
        noisy = not torch.equal(sent, clean) and clean[0].numel() <= MOST_ELEMENTS
        self.estimate = LinearEstimate(clean, sent, kept) if noisy else None
        self.views = 1 + self.masked + noisy
        channels, height, width = target.feature_shape
        self.shape = (self.views * channels, height, width)

    def __call__(self, z: Tensor) -> Tensor:
        views = [z]
        if self.masked:
            views.append(self.kept(z).to(z.dtype))
        if self.estimate is not None:
            views.append(self.estimate(z))
        return torch.cat(views, 1)


class LinearEstimate:
    """E[z_hat | z] as if both were Gaussian: mean + C_(z_hat, z) C_z^-1 (z - E z), for z = mask * (z_hat + noise).

    clean, sent [N, C, h, w], kept (bool): of the attacker's images. Mask and noise are assumed independent between
    elements. The covariance of the clean features is shrunk towards its diagonal by d / (d + N) [ours], so that it can
    be inverted and does not overfit if there are fewer images than the d elements.
    """

    def __init__(self, clean: Tensor, sent: Tensor, kept: Tensor):
        flat, share = clean.flatten(1), kept.flatten(1).float().mean(0)
        count, size = flat.shape
        self.mean, self.share = flat.mean(0), share
        centred = flat - self.mean
        covariance = centred.T @ centred / max(count - 1, 1)
        shrinkage = size / (size + count)
        covariance = (1 - shrinkage) * covariance + shrinkage * covariance.diagonal().diag()
        noise = ((sent - clean).square() * kept).sum() / kept.sum().clamp_min(1)
        own = share * (1 - share) * (covariance.diagonal() + self.mean.square()) + share * noise
        of_sent = share[:, None] * covariance * share + (own + 1e-8).diag()
        self.gain = torch.linalg.solve(of_sent.double(), (share[:, None] * covariance).double()).float()

    def __call__(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            centred = z.float().flatten(1) - self.share * self.mean
            return (self.mean + centred @ self.gain).view_as(z)
