"""The obvious scripts: images through PIL one by one, fp32, contiguous memory, eager steps, loops over clusters.

Written in the most obvious way, on the same networks. The project's steps are timed against them, and the tests compare
the batched code with the loops.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from benchmark import models
from benchmark.data import DataSet
from benchmark.matrix.load import Settings
from benchmark.metrics.ssim import ssim_per_image
from benchmark.models.critic import Critic
from benchmark.models.decoder import Decoder

Step = Callable[[], float]
CONVOLUTIONS, NORMS = (nn.Conv2d, nn.ConvTranspose2d), (nn.BatchNorm2d,)
KINDS = CONVOLUTIONS + NORMS  # kinds of layers that have versions of our own


# -- images


def load(image: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> fp32 [3, H, W] in [0, 1], through PIL as a data loader does it."""
    return torch.from_numpy(np.array(Image.fromarray(image))).permute(2, 0, 1).float() / 255


def augmented(image: np.ndarray, angle: float, flip: bool, top: int, left: int) -> Tensor:
    """Padded crop, flip and rotation of one image: uint8 [H, W, 3] -> fp32 [3, H, W] in [0, 1]."""
    height, width = image.shape[:2]
    picture = ImageOps.expand(Image.fromarray(image), border=4, fill=0)
    picture = picture.crop((left, top, left + width, top + height))
    if flip:
        picture = ImageOps.mirror(picture)
    return load(np.array(picture.rotate(angle, Image.Resampling.NEAREST, fillcolor=0)))


def augment(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """uint8 [B, H, W, 3] -> fp32 [B, 3, H, W] in [0, 1], every image with its own draws."""
    draws = [(rng.uniform(-15, 15), rng.random() < 0.5, *rng.integers(0, 9, 2)) for _ in images]
    return torch.stack([augmented(image, *draw) for image, draw in zip(images, draws, strict=True)])


class Loader:
    """Endless shuffled batches of a data set's training images, made as they are asked for."""

    def __init__(self, data: DataSet, batch: int, device: torch.device, augment: bool):
        self.images = data.train.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        self.labels, self.batch, self.device, self.augment = data.train.labels.cpu(), batch, device, augment
        self.mean, self.std = (torch.tensor(triple).view(3, 1, 1) for triple in (data.mean, data.std))
        self.rng, self.order = np.random.default_rng(0), np.zeros(0, dtype=np.int64)

    def next(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images in [0, 1], the same normalised, labels."""
        if len(self.order) < self.batch:
            self.order = self.rng.permutation(len(self.images))
        chosen, self.order = self.order[: self.batch], self.order[self.batch :]
        if self.augment:
            x01 = augment(self.images[chosen], self.rng)
        else:
            x01 = torch.stack([load(image) for image in self.images[chosen]])
        x = torch.stack([(image - self.mean) / self.std for image in x01])
        return x01.to(self.device), x.to(self.device), self.labels[chosen].to(self.device)


# -- steps


def training(data: DataSet, settings: Settings, device: torch.device, cem=None) -> Step:
    """A training step of the bottleneck defence, with the scalar CEM term by loops where `cem` (fitted) is given."""
    model = _model(data, device)
    loader = Loader(data, settings.train.batch_size, device, True)
    optimizer, noise = _sgd(model, settings), settings.params.noise_std

    def step() -> float:
        _, x, labels = loader.next()
        optimizer.zero_grad()
        z_clean = model.encoder(x)
        loss = cross_entropy(model.server(z_clean + noise * torch.randn_like(z_clean)), labels)
        if cem is not None and settings.cem is not None:
            loss = loss + settings.cem.weight * scalar_by_loop(cem, z_clean.flatten(1), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def adversarial(data: DataSet, settings: Settings, device: torch.device) -> Step:
    """A training step with an inversion adversary, in the released order: the adversary takes its step on the feature
    of the encoder in evaluation mode, then the encoder is penalised by the adversary in evaluation mode."""
    model, params = _model(data, device), settings.params
    adversary = _decoder(model, data, params.adversary_blocks, device)
    loader = Loader(data, settings.train.batch_size, device, True)
    optimizer, noise = _sgd(model, settings), params.noise_std
    second = torch.optim.Adam(adversary.parameters(), params.adversary_lr)

    def step() -> float:
        x01, x, labels = loader.next()
        model.encoder.eval()
        with torch.no_grad():
            z_clean = model.encoder(x)
        model.encoder.train()
        for _ in range(params.adversary_steps):
            second.zero_grad()
            (-ssim_per_image(adversary(z_clean), x01).mean()).backward()
            second.step()
        optimizer.zero_grad()
        z_clean = model.encoder(x)
        loss = cross_entropy(model.server(z_clean + noise * torch.randn_like(z_clean)), labels)
        adversary.eval().requires_grad_(False)
        similar = ssim_per_image(adversary(z_clean), x01).mean()
        adversary.train().requires_grad_(True)
        (loss + params.weight * torch.relu(similar - params.ssim_target)).backward()
        optimizer.step()
        return loss.item()

    return step


def decoder(data: DataSet, settings: Settings, device: torch.device) -> Step:
    """A step of the decoder attack; the encoder runs on every batch, as the images come from the loader."""
    model, params = _model(data, device).eval(), settings.attacks["decoder"]
    network = _decoder(model, data, params.blocks, device)
    optimizer = torch.optim.Adam(network.parameters(), params.lr)
    loader, noise = Loader(data, params.batch_size, device, False), settings.params.noise_std

    def step() -> float:
        x01, x, _ = loader.next()
        optimizer.zero_grad()
        loss = mse_loss(network(_feature(model, x, noise)), x01)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def gan(data: DataSet, settings: Settings, device: torch.device) -> Step:
    """`generator_every` steps of the GAN attack: the critic's, on the generator in evaluation mode, and at the end one
    of the generator's on the last images with fresh noise."""
    model, params = _model(data, device).eval(), settings.attacks["gan"]
    generator = _decoder(model, data, params.blocks, device)
    critic = as_delivered(Critic(data.image_size).to(device))
    betas = (params.beta1, 0.999)
    first = torch.optim.Adam(generator.parameters(), params.generator_lr, betas)
    second = torch.optim.Adam(critic.parameters(), params.critic_lr, betas)
    loader, noise = Loader(data, params.batch_size, device, False), settings.params.noise_std

    def critic_step() -> tuple[Tensor, Tensor]:
        real, x, _ = loader.next()
        generator.eval()
        with torch.no_grad():
            fake = generator(_feature(model, x, noise))
        generator.train()
        mix = torch.rand(len(real), 1, 1, 1, device=device)
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        gradient = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        second.zero_grad()
        (critic(fake).mean() - critic(real).mean() + params.penalty * penalty).backward()
        second.step()
        return real, x

    def step() -> float:
        for _ in range(params.generator_every):
            real, x = critic_step()
        first.zero_grad()
        fake = generator(_feature(model, x, noise))
        loss = params.mse_weight * mse_loss(fake, real) - critic(fake).mean()
        loss.backward()
        first.step()
        return loss.item()

    return step


def _model(data: DataSet, device: torch.device) -> Any:
    return as_delivered(models.build("vgg11", classes=data.classes, image_size=data.image_size).to(device))


def _decoder(model: models.SplitModel, data: DataSet, blocks: int, device: torch.device) -> Any:
    return as_delivered(Decoder(model.feature_shape, data.image_size, blocks=blocks).to(device))


def as_delivered(network: nn.Module, kinds: tuple[type, ...] = KINDS) -> nn.Module:
    """The network with torch's own operators in its layers of these kinds; it is changed in place."""
    for layer in network.modules():
        for kind in kinds:
            if isinstance(layer, kind):
                layer.__class__ = kind
    return network


def _sgd(model, settings: Settings) -> torch.optim.SGD:
    train = settings.train
    return torch.optim.SGD(model.parameters(), train.lr, train.momentum, weight_decay=train.weight_decay)


@torch.no_grad()
def _feature(model, x: Tensor, noise: float) -> Tensor:
    z = model.encoder(x)
    return z + noise * torch.randn_like(z)


# -- loops over classes and clusters


def scalar_by_loop(cem, z: Tensor, labels: Tensor) -> Tensor:
    """The released term of a batch z [B, D], labels [B], written literally: loops over classes and clusters present.

    cem: a fitted `ConditionalEntropy` (scalar); only its statistics and settings are used, not its code.
    """
    classes, k = cem.classes, cem.per_group
    centers = cem.centers.to(z.dtype).view(classes, k, -1)
    weights, variances = cem.share.to(z.dtype).view(classes, k), cem.variance.to(z.dtype).view(classes, k)
    counts = cem.counts.to(z.dtype).view(classes, k)
    attracting = torch.ones_like(counts) if cem.shifted_statistics else counts
    floor = math.log(cem.threshold * cem.noise_std**2 + cem.epsilon)
    stacked = labels.sort().values.tolist()
    present = sorted(set(stacked))
    total = z.sum() * 0
    for counter, label in enumerate(present):
        row = stacked[counter] if cem.first_class_lookup else label  # quirk q1
        members = z[labels == label]
        nearest = _nearest(members.detach(), centers[label], attracting[label])
        for j in range(k):
            own = members[nearest == j]
            if len(own) == 0:
                continue
            weight = weights[row, j]
            batch = (own - centers[label, j]).square().mean()
            blend = cem.gain * len(own) / (weight * counts.sum() / classes)
            blend = blend if blend < 1 else 0.99
            value = blend * batch + (1 - blend) * variances[row, j]
            total = total + weight * torch.relu(torch.log(value + cem.epsilon) - floor)
    return total / len(present)


def kmeans_by_loop(features: Tensor, labels: Tensor, start: Tensor, iterations: int = 50) -> tuple[Tensor, Tensor]:
    """Lloyd's steps from the centres `start` [G, k, D], class by class, cluster by cluster: (centres, assignment)."""
    centers, assignment = start.clone(), torch.zeros_like(labels)
    for label in range(len(centers)):
        members = features[labels == label]
        nearest = _nearest(members, centers[label])
        for _ in range(iterations if centers.shape[1] == 1 or nearest.any() else 0):  # all at centre 0: as released
            for j in range(centers.shape[1]):
                own = members[nearest == j]
                if len(own) > 0:
                    centers[label, j] = own.mean(0)
            before, nearest = nearest, _nearest(members, centers[label])
            if torch.equal(before, nearest):
                break
        assignment[labels == label] = nearest
    return centers, assignment


def _nearest(members: Tensor, centers: Tensor, counts: Tensor | None = None) -> Tensor:
    """The nearest centre of each member [n], one centre after the other; those with a count of 0 are out."""
    distances = torch.stack([(members - center).square().sum(1) for center in centers], 1)
    if counts is not None:
        distances[:, counts == 0] = torch.inf
    return distances.argmin(1)
