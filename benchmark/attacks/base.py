"""Base classes of attackers, which rebuild images from the features that were sent.

An attacker is one file in this folder (or in an installed package, entry-point group `benchmark.attacks`), registered
under its name, with its parameters as the fields of its `Params`. It is a subclass of `Attack`, whose `build` and
`fit_batch` fit a model on pairs (feature as sent, image), or which overrides more of it. Or it is a subclass of
`Selection`, which chooses among the results of the row's other attackers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from benchmark.config import Count, NotNegative, Positive, Quirks, Strict
from benchmark.data import to_unit
from benchmark.models import macs
from benchmark.models.decoder import Decoder
from benchmark.models.macs import Network, Scale
from benchmark.registry import Registry
from benchmark.training.device import where
from benchmark.training.graph import Captured, Order, cosine, set_lr
from benchmark.training.loop import Task, epoch_order, generators, seeded

ATTACKS: Registry[Any] = Registry("attacker", "benchmark.attacks", "benchmark.attacks")  # Attack, Selection
Send = Callable[[Tensor, torch.Generator], Tensor]  # (clean feature, generator) -> what is sent, same shape
NOT_GIVEN: Any = None  # for fields that no attacker fitted on this target reads
SCORE_BATCH = 128  # images in a batch of every evaluation
NO_QUIRKS = Quirks(**dict.fromkeys(Quirks.model_fields, False))


@dataclass(frozen=True)
class Target:
    """What the attacker has.

    features: clean features z_hat [N, C, h, w] of its own images; images: uint8 [N, 3, H, W]; send(z_hat, generator)
    -> z: the defence's transform with fresh noise, as often as it likes (it knows the encoder and the defence).

    Only some attackers use these: encode(x01) -> z_hat, the encoder, with its gradient, for images [B, 3, H, W] in
    [0, 1]; kept(z) -> bool of z's shape, the elements that no mask has zeroed; misfit(z_hat, z) -> [B], the negative
    log-likelihood of z as sent, given z_hat; received: z [M, C, h, w] of the images that it is scored on; split:
    `train` or `infer`; quirks: those that affect the attack, the others off; tested: clean features and uint8 images
    that it is scored on, for the quirks that let an attack see them; passes: how often an epoch goes over its images,
    so that an attacker with few images takes as many steps.
    """

    features: Tensor
    images: Tensor
    send: Send
    image_size: int
    device: torch.device
    seed: int
    autocast: dict[str, Any]
    encode: Callable[[Tensor], Tensor] = NOT_GIVEN
    kept: Callable[[Tensor], Tensor] = NOT_GIVEN
    misfit: Callable[[Tensor, Tensor], Tensor] = NOT_GIVEN
    received: Tensor = NOT_GIVEN
    split: str = "train"
    quirks: Quirks = NO_QUIRKS
    tested: tuple[Tensor, Tensor] = NOT_GIVEN
    passes: int = 1

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.features.shape[1:]
        return channels, height, width


class Attacker:
    """The interface of every attacker to the matrix and the jobs."""

    params: Any  # the subclass's Params

    name = ""
    title = ""  # its name in tables; "": the registered name
    version = 1
    one_feature = True  # whether it sees only one feature as sent of each image under attack; bounds hold for those
    printed = False  # whether it is in the paper's tables
    quirks: tuple[str, ...] = ()  # "q11": those that it reads; keys depend on them
    psnr_batch = SCORE_BATCH  # images in a batch of the paper's PSNR
    # the attack (attacker, split) whose fitted state `warm_up` is given, or None (with quirk q4 alone)
    warm_start: tuple[str, str] | None = None
    single_fit = False  # whether with quirk q14 its `infer` result comes from the fit on the training images

    class Params(Strict):
        """No parameters."""

    @classmethod
    def starts_from(cls, params: Params, split: str) -> tuple[str, str] | None:
        """The attack (attacker, split) whose rebuilt images `start` is given, {"images": [M, 3, H, W]}, or None."""
        return None

    @classmethod
    def flop(cls, params: Any, scale: Scale) -> float:
        """Floating-point operations of fitting and rebuilding, roughly, for estimates of time; 0: it reads results."""
        return 0.0


class Selection(Attacker):
    """Base of selections among the results of the row's other attackers; the parents of its job are their jobs.

    A subclass has `choose`, or `by_image = True` and `select`.
    """

    by_image = False  # whether it chooses for each image: then all others' per-image values must be in the store

    def choose(self, found: dict[str, dict[str, float]]) -> dict[str, str]:
        """{attacker: its metrics} -> {"mse": the attacker whose MSE and PSNR count, "ssim": whose SSIM counts}."""
        raise NotImplementedError

    def select(self, members: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """{attacker: {metric: fp32 [N]}} -> {metric: fp32 [N]} over the same N images; metrics `mse` and `ssim`."""
        raise NotImplementedError


class Attack(Attacker, Task):
    """Base: the order of the images, the batches, the loss of an epoch. A subclass has `build` and `fit_batch`.

    On CUDA the step is captured as a graph and replayed. So what `fit_batch` reads must stay at its place on the device
    (see benchmark/training/graph.py), and optimisers come from `graph.adam`, with rates set by `graph.set_lr`.
    """

    capturable = True  # False: `fit_batch` is called at every step
    keeps_state = False  # whether `fitted()` is kept as the job's checkpoint, for others to start from
    keeps_pictures = False  # whether that holds images, which are not kept for data sets of people

    class Params(Strict):
        epochs: int
        batch_size: int

    def __init__(self, params: Params, target: Target):
        self.params, self.target, self.where = params, target, where(target.autocast)
        self.epochs = params.epochs
        self.batch_size = min(params.batch_size, len(target.images))
        self.steps = target.passes * -(-len(target.images) // self.batch_size)
        self.noise = seeded(target.device, "attack-noise", target.seed)
        self.losses = torch.zeros((), device=target.device, dtype=torch.float64)
        self.order = Order(self.steps * self.batch_size, self.batch_size, target.device)
        self.build()
        obstacle = "" if self.capturable else f"the attacker '{self.name}' says that its step cannot be captured"
        self.captured = Captured(target.device, generators(self.parts()), obstacle)

    @classmethod
    def channel(cls, params: Params, send: Send, kept: Callable[[Tensor], Tensor]) -> Send:
        """What this attacker receives for an image, instead of one feature from `Target.send`.

        send, kept: as in Target. It applies both in fitting and in scoring.
        """
        return send

    @classmethod
    def macs(cls, params: Any, scale: Scale) -> float:
        """Multiply-accumulates of the fitted network for one image; by default, of the paper's decoder."""
        return macs.forward(Decoder, scale.feature, scale.image_size, getattr(params, "blocks", 8))

    @classmethod
    def flop(cls, params: Any, scale: Scale) -> float:
        return cls.macs(params, scale) * (6.0 * scale.fitted * params.epochs + 2.0 * scale.scored)

    def build(self) -> None:
        """Make the networks and optimisers."""
        raise NotImplementedError

    def initialised(self, make: Callable[[], Network]) -> Network:
        """make() with the initial weights that belong to the target's seed, on its device.

        They are not from the training's random stream: a defence's adversary must not start with the attacker's.
        """
        torch.manual_seed(seeded(torch.device("cpu"), "attack-weights", self.target.seed).initial_seed())
        return make().to(self.target.device, memory_format=torch.channels_last)

    def variant(self, step: int) -> object:
        """A plain value for step `step` (from 0): steps that do different things differ in it and in their graph."""
        return None

    def fit_batch(self, z: Tensor, x01: Tensor, variant: object) -> Tensor:
        """One step on features as sent [B, C, h, w] and images in [0, 1] [B, 3, H, W]; its loss (0-dim, detached)."""
        raise NotImplementedError

    def reconstruct(self, z: Tensor) -> Tensor:
        """Features as sent [B, C, h, w] -> images [B, 3, H, W] in [0, 1]."""
        raise NotImplementedError

    def reconstructions(self) -> Iterator[Tensor]:
        """The images rebuilt from `Target.received`, in its order: fp32 [SCORE_BATCH or fewer, 3, H, W] in [0, 1]."""
        for z in self.target.received.split(SCORE_BATCH):
            yield self.reconstruct(z).float()

    def fitted(self) -> dict:
        """The state from which the attack rebuilds images and another may start (tensors and JSON values)."""
        return {}

    def start(self, state: dict) -> None:
        """Restore the state that `fitted()` returned; if `single_fit` applies, that of the one fit."""

    def warm_up(self, state: dict) -> None:
        """Begin from the `fitted()` of its `warm_start`."""

    def found(self, values: dict[str, float]) -> dict[str, float]:
        """Values that replace or extend the scored images' `values` (named as in `summarise`)."""
        return {}

    def begin_epoch(self, epoch: int) -> None:
        target, places = self.target, self.steps * self.batch_size
        if target.quirks.q12_stored_order:
            order = torch.arange(places, device=target.device) % len(target.images)
        else:
            order = epoch_order(len(target.images), places, target.device, target.seed, "attack", epoch)
        self.order.begin(order)

    def step(self, epoch: int, index: int) -> None:
        self.order.move(index)
        self.captured(self._step, self.variant(epoch * self.steps + index), note=self.monitor.note)

    def pairs(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Clean features [B, C, h, w] and images in [0, 1] [B, 3, H, W] of its images `chosen`, int64 [B]."""
        return self.target.features[chosen], unit(self.target.images[chosen])

    def _step(self, variant: object) -> None:
        features, x01 = self.pairs(self.order.batch())
        z = self.target.send(features, self.noise)
        self.losses += self.fit_batch(z, x01.contiguous(memory_format=torch.channels_last), variant)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        loss = self.losses.item() / self.steps
        self.losses.zero_()
        return {"loss": loss}

    def parts(self) -> dict[str, object]:
        return {"noise": self.noise, "losses": self.losses}


class CosineAttack(Attack):
    """Base of attacks by one Adam optimiser on a cosine; `build` sets `optimizer`."""

    optimizer: torch.optim.Optimizer

    class Params(Strict):
        epochs: Count = Field(description="passes over the attacker's images")
        batch_size: Count = Field(description="images in a step")
        lr: Positive = Field(description="Adam's learning rate")
        final_lr: NotNegative = Field(description="end of the cosine schedule")
        weight_decay: NotNegative = Field(description="L2 penalty")

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        set_lr(self.optimizer, cosine(self.params.lr, self.params.final_lr, epoch, self.epochs))


def unit(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> fp32 in [0, 1], channels last."""
    return to_unit(images).contiguous(memory_format=torch.channels_last)


def mean_image(images: Tensor, dtype: torch.dtype, batch: int = SCORE_BATCH) -> Tensor:
    """uint8 [N, 3, H, W] -> the mean of the images in [0, 1], [3, H, W], summed in `dtype` over batches."""
    return torch.as_tensor(sum(unit(part).to(dtype).sum(0) for part in images.split(batch))) / len(images)


def to_bytes(x01: Tensor) -> Tensor:
    """Images in [0, 1] -> uint8; NaN becomes 0."""
    return (x01.nan_to_num().clamp(0, 1) * 255).round().byte()
