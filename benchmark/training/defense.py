"""What a defence may do: change the encoder, change the feature, add a loss, train an adversary, act on an epoch.

This is the interface that a training calls (train.py), and an attack; the defences themselves are in
`benchmark.defenses`. A defence is a subclass of `Defense` with its parameters as the fields of its `Params`; it
overrides only the hooks it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.config import NotNegative, Quirks, Strict
from benchmark.errors import UserError
from benchmark.models.macs import Scale

Phase = Literal["train", "eval", "attack"]
Channel = Literal["gaussian", "processed", "other"]
SHARPEST = 0.01  # [ours] smallest standard deviation of the noise in `misfit`; about the precision of bf16


@dataclass(frozen=True)
class Setting:
    """What a defence may need to know about its cell."""

    classes: int
    image_size: int
    feature_shape: tuple[int, int, int]
    widths: tuple[int, ...]  # output channels of the encoder's conv layers before any pruning
    epochs: int
    quirks: Quirks
    device: torch.device
    autocast: dict[str, Any]  # arguments of torch.autocast: the arithmetic of the job


@dataclass(frozen=True)
class Batch:
    """One training batch, on the device.

    x01: images in [0, 1], augmented, [B, 3, H, W]; x: the same, normalised; labels: int64 [B];
    z_clean: the encoder's feature [B, C, h, w]; z: the feature as sent (after `transform`).
    """

    x01: Tensor
    x: Tensor
    labels: Tensor
    z_clean: Tensor
    z: Tensor


class Defense(nn.Module):
    """The base of every defence: isotropic Gaussian noise on the feature and nothing else.

    Paper section 5.1 and released code: noise of standard deviation `noise_std` (the paper says variance in places)
    in training, in evaluation and in the attack. Raise `version` when a change alters results.
    """

    params: Any  # the subclass's Params
    name = ""
    title = ""  # the name of its rows in tables; "": its registered name
    version = 1
    # On CUDA the training step is run a few times, captured as a graph and replayed: `transform`, `loss` and
    # `task_weight` are then no longer called. What changes from step to step must be a tensor on the device, changed in
    # place (`fill_`, `copy_`), and nothing may wait for the device. False: the step is not captured.
    capturable = True
    # the quirks ("q3") that it reads in training, and that `transform` reads in the attack; keys depend on them
    train_quirks: tuple[str, ...] = ()
    attack_quirks: tuple[str, ...] = ()
    # Names of its parameters and buffers, made in `__init__`, that training changes and that `transform`, `kept` or
    # `misfit` read. They are stored with the chosen encoder and given to its evaluations and attacks.
    learned: tuple[str, ...] = ()
    learner: torch.optim.Optimizer | None = None  # set by `build`: of parameters that the whole loss trains

    class Params(Strict):
        noise_std: NotNegative = Field(description="standard deviation of the Gaussian noise on the feature")

    def __init__(self, params: Params, setting: Setting):
        super().__init__()
        self.params, self.setting = params, setting

    @classmethod
    def model_options(cls, params: Params) -> dict:
        """Changes to the arguments of `benchmark.models.build` (`bottleneck`, `front`)."""
        return {}

    @classmethod
    def final_widths(cls, params: Params, widths) -> list[int]:
        """The output channels of the encoder's conv layers once trained, given those before (pruning lowers them)."""
        return list(widths)

    @classmethod
    def extra_flop(cls, params: Any, scale: Scale) -> float:
        """Floating-point operations of a training beside those of encoder and server, for estimates of time."""
        return 0.0

    def transform(self, z: Tensor, generator: torch.Generator, phase: Phase) -> Tensor:
        """The feature as sent: z_clean [B, C, h, w] -> z of the same shape, with fresh draws from `generator`."""
        return add_gaussian(z, self.params.noise_std, generator)

    def channel(self) -> Channel:
        """What an attacker is sent, given the clean feature z_hat; the bounds (benchmark/bounds/) rest on it.

        `gaussian`: z_hat + N(0, s^2 I), s = noise_level(); `processed`: a function of that which uses no further
        information about z_hat; `other`: anything else, without bounds.
        """
        return "gaussian" if type(self).transform is Defense.transform else "other"

    def noise_level(self) -> float:
        """The noise's standard deviation in a `gaussian` or `processed` channel, for the bounds."""
        return self.params.noise_std

    def learned_state(self) -> dict[str, Tensor]:
        """Copies of what `learned` names, as it is now."""
        return {name: getattr(self, name).detach().clone() for name in self.learned}

    @torch.no_grad()
    def load_learned(self, state: dict[str, Tensor]) -> None:
        """Load what `learned_state` returned. UserError if it is from another defence or has another shape."""
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        if shapes != {name: tuple(getattr(self, name).shape) for name in self.learned}:
            told = f"{shapes or 'nothing'}, which is not what the defence '{self.name}' learns"
            raise UserError(f"the stored state of the defence holds {told}; train again")
        for name, value in state.items():
            getattr(self, name).copy_(value)

    def kept(self, z: Tensor) -> Tensor:
        """What an attacker can see of a mask: the elements of a feature as sent that are not zeroed, bool as z."""
        return torch.ones_like(z, dtype=torch.bool)

    def misfit(self, z_clean: Tensor, z: Tensor) -> Tensor:
        """-log p(z | z_clean) up to a constant, [B, C, h, w] twice -> [B]: Gaussian, over the elements kept.

        A standard deviation below SHARPEST counts as SHARPEST; otherwise it would be infinite without noise.
        """
        residual = (z - z_clean) * self.kept(z) / max(self.params.noise_std, SHARPEST)
        return residual.square().flatten(1).sum(1) / 2

    def build(self) -> None:
        """Make the defence's own networks and optimisers. Called only for training: an attack does not need them."""

    def prepare(self, model: nn.Module, batches, generator: torch.Generator) -> None:
        """Before the first epoch. `batches(epoch, size)` yields un-augmented (x01, x), [size, 3, H, W] or fewer images
        if there are fewer: one pass over the images that a defence may be pre-trained on (quirk q8).

        They are the same two tensors each time, filled again.
        """

    def before_step(self, x01: Tensor, x: Tensor, encode: Callable[[Tensor], Tensor]) -> None:
        """Before the model's forward pass in every step: steps of the defence's own networks, with its own optimisers.

        x01, x: the batch's images in [0, 1] and normalised, augmented; encode(x): their clean feature from the current
        encoder, in evaluation mode and without gradient; encode(x, gradient=True): with one. Runs outside autocast,
        whose arguments are `autocast` of `Setting`.
        """

    def after_step(self) -> None:
        """After the model's optimiser in every step: a step for parameters of the defence that the loss also trains.

        Their gradients are those of the whole loss, including CEM's term. Only the defence zeroes them.
        """
        if self.learner is not None:
            self.learner.step()
            self.learner.zero_grad(set_to_none=True)

    def task_weight(self) -> float:
        """Factor on the cross-entropy."""
        return 1.0

    def loss(self, batch: Batch) -> Tensor | None:
        """A 0-dim tensor added to the cross-entropy, or None. Runs inside autocast."""
        return None

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The defence's own optimisers by name, for its own parameters. The loop saves them; the defence steps them.

        `benchmark.training.graph.adam` makes one that works in a CUDA graph.
        """
        return {}

    def begin_epoch(self, epoch: int) -> None:
        """Called before epoch `epoch` (from 0), for schedules."""

    def end_epoch(self, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Called last after each epoch; returns metrics of the epoch for the history.

        The gradients of the epoch's last step are still in `model` (pruning uses them).
        """
        return {}


class Masking(Defense):
    """Base of defences that zero elements of the noisy feature."""

    def channel(self) -> Channel:
        return "processed"

    def kept(self, z: Tensor) -> Tensor:
        """An element is 0 after the Sigmoid and the noise with probability 0, so a zero shows the mask."""
        return z != 0


def add_gaussian(z: Tensor, std: float | Tensor, generator: torch.Generator) -> Tensor:
    """z + std * N(0, I), drawn from `generator` in float32; z itself where std is the number 0."""
    if not isinstance(std, Tensor) and std == 0:
        return z
    noise = torch.randn(z.shape, generator=generator, device=z.device, dtype=torch.float32)
    return z + std * noise


def add_laplace(z: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """z + Laplace(0, scale) for each element, by the inverse distribution function of uniform float32 draws."""
    u = torch.rand(z.shape, generator=generator, device=z.device) - 0.5
    # 1 - 2|u| is in (0, 1] because rand is in [0, 1); the value that gives log 0 is shifted slightly
    return z - scale * u.sign() * torch.log((1 - 2 * u.abs()).clamp_min(1e-7))
