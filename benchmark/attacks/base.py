"""What an attacker is: a model fitted on pairs (feature as sent, image) that rebuilds images from features.

An attacker is one file in this folder (or in an installed package, entry-point group `benchmark.attacks`): a subclass
of `Attack`, registered under its name, with its parameters as the fields of its `Params`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.matrix.schema import Strict
from benchmark.registry import Registry
from benchmark.training.graph import Captured, Order
from benchmark.training.loop import Task, epoch_order, generators, seeded

ATTACKS = Registry("attacker", "benchmark.attacks", "benchmark.attacks")


@dataclass(frozen=True)
class Target:
    """What the attacker holds.

    features: clean features z_hat [N, C, h, w] of its images; images: uint8 [N, 3, H, W]; send(z_hat, generator) -> z:
    the defence's transform with fresh noise, as often as the attacker likes (it knows the encoder and the defence).
    """

    features: Tensor
    images: Tensor
    send: object
    image_size: int
    device: torch.device
    seed: int
    autocast: dict

    @property
    def where(self) -> dict:
        return {"device": self.device.type, "precision": "bf16" if self.autocast["enabled"] else "fp32"}


class Attack(Task):
    """Base: the order of the images, the batches, the loss of an epoch. A subclass has `build` and `fit_batch`.

    On CUDA the step is captured as a graph and replayed: what `fit_batch` reads must stay where it is on the device
    (see benchmark/training/graph.py), and optimisers are made by `graph.adam` and steered by `graph.set_lr`.
    """

    name = ""
    version = 1
    capturable = True  # False: `fit_batch` is called at every step

    class Params(Strict):
        epochs: int
        batch_size: int

    keeps_state = False  # whether `fitted()` is kept as the job's checkpoint, for others to start from
    # the attack (attacker, split) whose fitted state `start` is given, or None
    warm_start: tuple[str, str] | None = None

    def __init__(self, params: Params, target: Target):
        self.params, self.target, self.where = params, target, target.where
        self.epochs = params.epochs
        self.batch_size = min(params.batch_size, len(target.images))
        self.steps = len(target.images) // self.batch_size
        self.noise = seeded(target.device, "attack-noise", target.seed)
        self.losses = torch.zeros((), device=target.device, dtype=torch.float64)
        self.order = Order(len(target.images), self.batch_size, target.device)
        self.build()
        obstacle = "" if self.capturable else f"the attacker '{self.name}' says that its step cannot be captured"
        self.captured = Captured(target.device, generators(self.parts()), obstacle)

    def build(self) -> None:
        """Make the networks and optimisers."""
        raise NotImplementedError

    def variant(self, step: int) -> object:
        """A plain value that tells step `step` (from 0) from those that do something else; each has its own graph."""
        return None

    def fit_batch(self, z: Tensor, x01: Tensor, variant: object) -> Tensor:
        """One step on features as sent [B, C, h, w] and images in [0, 1] [B, 3, H, W]; its loss (0-dim, detached)."""
        raise NotImplementedError

    def reconstruct(self, z: Tensor) -> Tensor:
        """Features as sent [B, C, h, w] -> images [B, 3, H, W] in [0, 1]."""
        raise NotImplementedError

    def fitted(self) -> dict:
        """The state by which another attack may start (tensors and JSON values)."""
        return {}

    def start(self, state: dict) -> None:
        """Begin from another attack's `fitted()`."""

    def begin_epoch(self, epoch: int) -> None:
        target = self.target
        self.order.begin(epoch_order(len(target.images), epoch, target.seed, target.device))

    def step(self, epoch: int, index: int) -> None:
        self.order.move(index)
        self.captured(self._step, self.variant(epoch * self.steps + index), note=self.monitor.note)

    def _step(self, variant: object) -> None:
        chosen = self.order.batch()
        z = self.target.send(self.target.features[chosen], self.noise)
        x01 = self.target.images[chosen].float().div_(255).contiguous(memory_format=torch.channels_last)
        self.losses += self.fit_batch(z, x01, variant)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        loss = self.losses.item() / self.steps
        self.losses.zero_()
        return {"loss": loss}

    def parts(self) -> dict[str, object]:
        return {"noise": self.noise, "losses": self.losses}
