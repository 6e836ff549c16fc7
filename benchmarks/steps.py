"""The project's own steps on random images, each built ready to be called; `measure speed` and tests time these."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.attacks import ATTACKS, Target
from benchmark.cem import ConditionalEntropy, kmeans, mixture
from benchmark.data import DataSet, ImageSet, normalise
from benchmark.defenses import DEFENSES
from benchmark.matrix.load import MatrixFile, Settings, parse_set
from benchmark.training.device import arithmetic
from benchmark.training.train import Recipe, Training, build_model
from benchmarks import plain

Call = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """The sizes of the timed cases. dims: elements of a feature that CEM and clustering are timed on."""

    batch: int = 128
    attack_batch: int = 256
    gan_batch: int = 128
    classes: int = 100
    components: int = 5
    dims: int = 512
    samples: int = 6400  # that CEM is fitted on before its term is timed
    clustered: int = 50_000  # features that are clustered once an epoch


FULL = Size()
SMALL = Size(batch=8, attack_batch=8, gan_batch=4, classes=10, dims=32, samples=200, clustered=500)


def generator(device: torch.device, seed: int = 0) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)


def host_draws() -> np.random.Generator:
    return np.random.default_rng(0)


def data(size: Size, device: torch.device) -> DataSet:
    """Random images of 32 px, eight batches for training."""

    def part(count: int) -> ImageSet:
        draws = torch.Generator().manual_seed(count)
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draws)
        return ImageSet(images, torch.arange(count) % size.classes)

    made = DataSet(
        name="random",
        classes=size.classes,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        crop=True,
        train=part(8 * max(size.batch, size.attack_batch)),
        test=part(size.batch),
        class_names=[str(label) for label in range(size.classes)],
        fingerprint="0" * 64,
        publishable=True,
    )
    return made.to(device)


def settings(size: Size, defense: str = "bottleneck", cem: str = "off") -> Settings:
    """The published CIFAR-100 cell, at the sizes given."""
    changes = [
        f"train.batch_size={size.batch}",
        f"attacks.decoder.batch_size={size.attack_batch}",
        f"attacks.gan.batch_size={size.gan_batch}",
    ]
    if cem != "off":
        changes.append(f"cem.components={size.components}")
    return MatrixFile().settings("cifar100", defense, cem, parse_set(changes))


def augmentation_one_by_one(size: Size) -> Call:
    """The augmentation of a batch by PIL."""
    images = data(size, torch.device("cpu")).train.images[: size.batch].permute(0, 2, 3, 1).numpy()
    draws = host_draws()
    return lambda: plain.augment(images, draws)


# -- training


class Contiguous(Training):
    """The training in contiguous memory (NCHW) instead of channels_last."""

    def __init__(self, *given):
        super().__init__(*given)
        self.model.to(memory_format=torch.contiguous_format)

    def augmented(self, images: Tensor) -> Tensor:
        return super().augmented(images).contiguous()


class TorchsOwn(Training):
    """The training with torch's own layers, in the defence's networks too."""

    kinds = plain.KINDS

    def __init__(self, *given):
        super().__init__(*given)
        plain.as_delivered(self.model, self.kinds)
        plain.as_delivered(self.defense, self.kinds)


class TorchsConvolutions(TorchsOwn):
    kinds = plain.CONVOLUTIONS


class TorchsPasses(TorchsOwn):
    """The training with BatchNorm, ReLU and pooling one after the other."""

    kinds = plain.NORMS


class OneByOne(Training):
    """The training with images that PIL augments one by one on the host."""

    def __init__(self, *given):
        super().__init__(*given)
        self.rng = host_draws()

    def augmented(self, images: Tensor) -> Tensor:
        batch = plain.augment(images.permute(0, 2, 3, 1).cpu().numpy(), self.rng)
        return batch.to(images.device).contiguous(memory_format=torch.channels_last)


class Plain(OneByOne, Contiguous, TorchsOwn):
    """All of these at once; in fp32 and without graphs this is the training with every feature off."""


def training(
    size: Size,
    device: torch.device,
    precision: str,
    cem: str = "off",
    defense: str = "bottleneck",
    kind: type[Training] = Training,
    graphs: bool = True,
) -> Training:
    """A training in the epoch in which CEM begins."""
    chosen = settings(size, defense, cem)
    recipe = Recipe(
        model=chosen.model,
        train=chosen.train,
        defense=DEFENSES.get(defense),
        params=chosen.params,
        cem=chosen.cem,
        quirks=MatrixFile().matrix.protocols["published"],
        seed=0,
    )
    task = kind(recipe, data(size, device), device, precision)
    if not graphs:
        task.captured.backend = None
    if task.cem is not None:
        features, labels = clusterable(replace(size, dims=task.cem.dims, clustered=size.samples), device)
        task.cem.fit(features, labels, generator(device))
    task.begin_epoch(1)
    return task


def training_step(*given, **options) -> Call:
    """The call of one step of `training(...)`, batch after batch."""
    return stepper(training(*given, **options), 1)


def torchs_own_training_step(*given) -> Call:
    """The training's step with torch's own layers."""
    return training_step(*given, kind=TorchsOwn)


def plain_training_step(size: Size, device: torch.device) -> Call:
    """The training's step with every feature off."""
    return training_step(size, device, "fp32", kind=Plain, graphs=False)


def stepper(task, epoch: int) -> Call:
    """One step of a task at each call, over and over through the epoch."""
    index = -1

    def step() -> None:
        nonlocal index
        index = (index + 1) % task.steps
        task.step(epoch, index)

    return step


# -- attacks


def attack(name: str, size: Size, device: torch.device, precision: str) -> Any:
    """The attacker on random features, ready for its steps."""
    chosen, images = settings(size), data(size, device).train.images
    features = torch.rand(len(images), 8, 8, 8, generator=generator(device), device=device)
    noise = chosen.params.noise_std
    target = Target(
        features=features,
        images=images,
        send=lambda z, draws: z + noise * torch.randn(z.shape, generator=draws, device=z.device),
        image_size=32,
        device=device,
        seed=0,
        autocast=arithmetic(device, precision),
    )
    task = ATTACKS.get(name)(chosen.attacks[name], target)
    task.begin_epoch(0)
    return task


def decoder_step(
    size: Size,
    device: torch.device,
    precision: str,
    layout: torch.memory_format = torch.channels_last,
    graphs: bool = True,
    kinds: tuple[type, ...] = (),
) -> Call:
    """A step of the decoder attack; kinds: of the layers that are torch's own."""
    task = attack("decoder", size, device, precision)
    task.decoder.to(memory_format=layout)
    plain.as_delivered(task.decoder, kinds)
    if not graphs:
        task.captured.backend = None
    return stepper(task, 0)


def decoder_step_with_encoder(size: Size, device: torch.device, precision: str) -> Call:
    """A step of the decoder attack that computes the features of its batch anew."""
    task = attack("decoder", size, device, precision)
    made = data(size, device)
    recipe = training(size, device, precision).recipe
    model = build_model(recipe, made, device).eval()
    step = stepper(task, 0)

    @torch.no_grad()
    def call() -> None:
        x01 = made.train.images[: task.batch_size].float().div_(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(**arithmetic(device, precision)):
            task.target.features[: task.batch_size] = model.encoder(normalise(x01, made.mean, made.std))
        with torch.enable_grad():
            step()

    return call


def gan_steps(size: Size, device: torch.device, precision: str) -> Call:
    """As many steps of the GAN attack as the critic takes for one of the generator."""
    task = attack("gan", size, device, precision)

    def call() -> None:
        for index in range(task.params.generator_every):  # the last of them includes the generator's step
            task.step(index // task.steps, index % task.steps)

    return call


# -- CEM


def clusterable(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random features [N, D] and labels [N]; uniform, without clusters, so the clustering takes long to converge."""
    features = torch.rand(size.clustered, size.dims, generator=generator(device), device=device)
    return features, torch.arange(size.clustered, device=device) % size.classes


def start_of(size: Size, features: Tensor, labels: Tensor) -> Tensor:
    """k-means++ centres [G, k, D], from which a clustering can start as from the last epoch's."""
    draws = generator(features.device)
    return kmeans(features, labels, size.classes, size.components, draws, iterations=0).centers


def fitted(estimator: str, size: Size, device: torch.device, noise_std: float = 0.025) -> ConditionalEntropy:
    """The regulariser after the fit of an epoch on `size.samples` features."""
    module = ConditionalEntropy(estimator, size.dims, size.classes, noise_std, size.components, device=device)
    module.fit(*clusterable(replace(size, clustered=size.samples), device), generator(device))
    return module


def cem_batch(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features [B, D] that require a gradient, and labels [B] drawn at random as in a shuffled epoch."""
    z = torch.rand(size.batch, size.dims, generator=generator(device, 1), device=device).requires_grad_()
    return z, torch.randint(0, size.classes, (size.batch,), generator=generator(device, 2), device=device)


def cem_term(estimator: str, size: Size, device: torch.device) -> Call:
    """Forward and backward pass of the term alone."""
    module = fitted(estimator, size, device)
    z, labels = cem_batch(size, device)
    return lambda: torch.autograd.grad(module(z, z, labels), z)


def cem_term_by_loop(size: Size, device: torch.device) -> Call:
    module = fitted("scalar", size, device)
    z, labels = cem_batch(size, device)
    return lambda: torch.autograd.grad(plain.scalar_by_loop(module, z, labels), z)


def clustering(size: Size, device: torch.device) -> Call:
    """The clustering of an epoch, from given centres."""
    features, labels = clusterable(size, device)
    start = start_of(size, features, labels)
    return lambda: kmeans(features, labels, size.classes, size.components, generator(device), start)


def clustering_batched(size: Size, device: torch.device) -> Call:
    """The same without the compiled steps, as on a GPU, or on a CPU where numba is missing."""
    features, labels = clusterable(size, device)
    start = start_of(size, features, labels)
    return lambda: mixture.batched_steps(features, labels, start, 50)


def clustering_by_loop(size: Size, device: torch.device) -> Call:
    features, labels = clusterable(size, device)
    start = start_of(size, features, labels)
    return lambda: plain.kmeans_by_loop(features, labels, start)


def refit(estimator: str, size: Size, device: torch.device) -> Call:
    """What CEM does at an epoch's end: clustering from the last centres, and the clusters' statistics."""
    features, labels = clusterable(size, device)
    module = ConditionalEntropy(estimator, size.dims, size.classes, 0.025, size.components, device=device)
    module.fit(features, labels, generator(device))
    start = module.centers.clone()

    def call() -> None:
        module.centers.copy_(start + 0.05 * (start - start.flip(0)))  # moved, as an epoch of training moves them
        module.fit(features, labels, generator(device))

    return call
