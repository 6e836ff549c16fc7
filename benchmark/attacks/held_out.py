"""The attacker's held-out images: it is not fitted on them, and the choice among attackers is made on them.

A real attacker does not have the originals of the images under attack, so it cannot compare attackers on them; a choice
made there gives a bound, not an attack. So a share of the attacker's own images is held out: the same images, with
the same features as sent, for all attackers of a row.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.attacks.base import SCORE_BATCH, Attack, Target, unit
from benchmark.errors import UserError
from benchmark.metrics.reconstruction import mse_per_image
from benchmark.metrics.ssim import ssim_per_image
from benchmark.training.device import where
from benchmark.training.graph import Captured
from benchmark.training.loop import seeded

SHARE = 0.05  # [ours] of the attacker's images, one at least
MSE, SSIM = "mse_held_out", "ssim_held_out"  # in a job's metrics


@dataclass(frozen=True)
class HeldOut:
    """z: features as sent [H, C, h, w]; images: uint8 [H, 3, H, W]."""

    z: Tensor
    images: Tensor


def set_aside(target: Target) -> tuple[Target, HeldOut]:
    """(the target with the other images, the held-out images), drawn only by its seed; UserError for a single image."""
    count = len(target.images)
    if count < 2:
        raise UserError("an attacker that sets images aside needs 2 of its own, not 1; raise data.train_images")
    order = torch.randperm(count, generator=seeded(torch.device("cpu"), "held-out", target.seed))
    held, kept = (part.sort().values.to(target.device) for part in order.tensor_split([max(1, round(SHARE * count))]))
    z = target.send(target.features[held], seeded(target.device, "held-out-noise", target.seed))
    others = replace(target, features=target.features[kept], images=target.images[kept])
    return others, HeldOut(z, target.images[held])


class Judged(Attack):
    """An attack that is fitted on 95 % of its images; its metrics say how well it rebuilds the others."""

    def __init__(self, params, target: Target):
        target, self.held_out = set_aside(target)
        super().__init__(params, target)

    def found(self, values):
        return self.judged()

    @torch.no_grad()
    def judged(self) -> dict[str, float]:
        """The current mean MSE and SSIM of the held-out images."""
        rebuilt = torch.cat([self.reconstruct(z).float() for z in self.held_out.z.split(SCORE_BATCH)])
        return judged(rebuilt, unit(self.held_out.images))


def judged(rebuilt: Tensor, x01: Tensor) -> dict[str, float]:
    """The metrics of held-out images, [H, 3, H, W] in [0, 1] twice."""
    return {
        MSE: mse_per_image(rebuilt, x01).double().mean().item(),
        SSIM: ssim_per_image(rebuilt, x01).double().mean().item(),
    }


class ClosedForm(Judged):
    """An attack that is computed, not fitted in steps: a subclass has `solve`, `reconstruct` and `state`.

    It has no epochs, so it has no history and cannot fail to converge.
    """

    keeps_state = True
    state: tuple[str, ...] = ()  # the attributes (tensors and numbers) from which `reconstruct` works

    def __init__(self, params, target: Target):
        self.target, self.held_out = set_aside(target)
        self.params, self.where = params, where(target.autocast)
        self.epochs = self.steps = self.batch_size = 0
        self.noise = seeded(target.device, "attack-noise", target.seed)
        self.captured = Captured(target.device, [])

    @torch.no_grad()
    def prepare(self) -> None:
        self.solve()

    def solve(self) -> None:
        """Compute all that `reconstruct` needs; choices such as hyperparameters are made on `held_out`."""
        raise NotImplementedError

    def fitted(self) -> dict:
        return {name: getattr(self, name) for name in self.state}

    def start(self, state: dict) -> None:
        for name in self.state:
            value = state[name]
            setattr(self, name, value.to(self.target.device) if isinstance(value, Tensor) else value)

    def parts(self) -> dict[str, object]:
        return {}
