"""What the networks of the standard suite share: their fit, an averaged copy of their weights, a mean over members.

The images are rebuilt with the average of the weights over the steps (Polyak & Juditsky 1992; here exponential, so that
it forgets the beginning), not with the last weights. Several members with different initial weights are fitted on the
same batches, and the mean of their images is the answer: its squared error is the members' mean error minus their
variance. Snapshots of one run agree with each other, so their mean would gain less (Fort et al. 2019, "Deep ensembles:
a loss landscape perspective"). All members are also fitted on mirror images.
"""

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmark.attacks.base import CosineAttack
from benchmark.attacks.held_out import MSE, Judged
from benchmark.attacks.informed import mirror_half, mirrored
from benchmark.config import Count, Fraction
from benchmark.training.casts import cast_once
from benchmark.training.graph import adam


class NetworkAttack(Judged, CosineAttack):
    """Base: minimises `loss`. A subclass has `network`, and maybe a loss of its own."""

    keeps_state = True

    class Params(CosineAttack.Params):
        members: Count = Field(description="networks of different initial weights, whose images are averaged")
        decay: Annotated[Fraction, Field(lt=1)] = Field(description="of the averaged weights, in a step")

    @classmethod
    def flop(cls, params, scale):
        return params.members * super().flop(params, scale)

    def build(self) -> None:
        target, params = self.target, self.params
        self.networks = self.initialised(lambda: nn.ModuleList(self.network() for _ in range(params.members)))
        self.averages = Average(self.networks, params.decay)
        self.optimizer = adam(self.networks.parameters(), params.lr, target.device, weight_decay=params.weight_decay)
        self.mirrored = mirrored(target)

    def network(self) -> nn.Module:
        """A member, freshly initialised on the CPU."""
        raise NotImplementedError

    def rebuild(self, network: nn.Module, z: Tensor) -> Tensor:
        """A member's output for features as sent [B, C, h, w]; here the images [B, 3, H, W]."""
        return cast_once(network, z)

    def answer(self, rebuilt: Tensor) -> Tensor:
        """The images [B, 3, H, W] in the output of `rebuild`."""
        return rebuilt

    def loss(self, rebuilt: Tensor, x01: Tensor) -> Tensor:
        """The loss of the output of `rebuild`, in fp32, and the originals [B, 3, H, W] in [0, 1]; 0-dim."""
        return mse_loss(rebuilt, x01)

    def pairs(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return mirror_half(*super().pairs(chosen), self.mirrored[chosen], self.noise)

    def fit_batch(self, z: Tensor, x01: Tensor, variant: object) -> Tensor:
        """The members' mean loss. The networks share nothing, so one optimiser does the same as one for each."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros_like(self.losses)
        for network in self.networks:
            with torch.autocast(**self.target.autocast):
                rebuilt = self.rebuild(network, z)
            loss = self.loss(rebuilt.float(), x01)
            loss.backward()
            total += loss.detach()
        self.optimizer.step()
        self.averages.take(self.networks)
        return total / len(self.networks)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """The loss, and the MSE of the held-out images, which shows whether more epochs would help."""
        return super().end_epoch(epoch) | {MSE: self.judged()[MSE]}

    @torch.no_grad()
    def reconstruct(self, z: Tensor) -> Tensor:
        with torch.autocast(**self.target.autocast):
            members = [self.answer(self.rebuild(network, z)).float() for network in self.averages.module.children()]
        return torch.stack(members).mean(0).clamp(0, 1)

    def fitted(self) -> dict:
        return {"networks": self.averages.module.state_dict()}

    def start(self, state: dict) -> None:
        self.averages.module.load_state_dict(state["networks"])

    def parts(self) -> dict[str, object]:
        own = {"networks": self.networks, "averages": self.averages, "optimizer": self.optimizer}
        return super().parts() | own


class Average(nn.Module):
    """A copy of a module, in evaluation mode, whose weights and BatchNorm statistics slowly follow the original's.

    A step moves them by the fraction 1 - decay, at first by 9 / (10 + steps): the first weights are soon forgotten.
    """

    steps: Tensor

    def __init__(self, module: nn.Module, decay: float):
        super().__init__()
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.share = 1 - decay
        self.register_buffer("steps", torch.zeros((), device=next(module.parameters()).device))

    @torch.no_grad()
    def take(self, module: nn.Module) -> None:
        """One step towards the module as it is now."""
        self.steps += 1
        own, new = _numbers(self.module), _numbers(module)
        way, share = torch._foreach_sub(new, own), torch.clamp_min(9 / (10 + self.steps), self.share)
        torch._foreach_mul_(way, share)
        torch._foreach_add_(own, way)


def _numbers(module: nn.Module) -> list[Tensor]:
    return [value.data for value in module.state_dict(keep_vars=True).values() if value.is_floating_point()]
