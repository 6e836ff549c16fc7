"""Base of the defences that train an inversion adversary beside the encoder: a decoder that rebuilds the images.

In every step the adversary first takes steps of its own, on the feature of the encoder in evaluation mode; then the
encoder is judged by the adversary in evaluation mode, whose weights get no gradient from that.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from benchmark.config import Count, Number
from benchmark.defenses import Batch, Defense
from benchmark.models import macs
from benchmark.models.decoder import Decoder, xavier_
from benchmark.training.casts import cast_once
from benchmark.training.graph import adam


class AdversaryDefense(Defense):
    """A subclass says how well the adversary does (`score`) and what the encoder is charged (`charge`)."""

    maximises = False  # whether the adversary does better the higher its score

    class Params(Defense.Params):
        weight: Annotated[Number, Field(ge=0)] = Field(description="factor on what the encoder is charged")
        adversary_lr: Annotated[Number, Field(gt=0)] = Field(description="learning rate of the adversary's Adam")
        adversary_steps: Count = Field(description="steps of the adversary before each of the encoder's")
        adversary_blocks: Count = Field(description="residual blocks of the adversary")

    seen: Tensor
    adversary: Decoder  # made by `build`: the attacker never needs it
    optimizer: torch.optim.Adam

    def __init__(self, params: Params, setting):
        super().__init__(params, setting)
        # of this epoch: steps, score of the adversary before each step of its own, what the encoder was charged
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

    def score(self, rebuilt: Tensor, x01: Tensor) -> Tensor:
        """Of rebuilt images and images in [0, 1], [B, 3, H, W] twice: 0-dim."""
        raise NotImplementedError

    def charge(self, rebuilt: Tensor, x01: Tensor) -> Tensor:
        """How much the encoder gives away, 0-dim, before its threshold and `weight`."""
        raise NotImplementedError

    @classmethod
    def extra_flop(cls, params, scale):
        decoder = macs.forward(Decoder, scale.feature, scale.image_size, params.adversary_blocks)
        return 6.0 * decoder * scale.fitted * scale.epochs

    def build(self) -> None:
        setting = self.setting
        adversary = Decoder(setting.feature_shape, setting.image_size, blocks=self.params.adversary_blocks)
        xavier_(adversary)
        self.adversary = adversary.to(setting.device, memory_format=torch.channels_last)
        self.optimizer = adam(self.adversary.parameters(), self.params.adversary_lr, setting.device)

    def optimizers(self):
        return {"adversary": self.optimizer}

    def before_step(self, x01, x, encode) -> None:
        z_clean = encode(x)
        for _ in range(self.params.adversary_steps):
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(**self.setting.autocast):
                rebuilt = cast_once(self.adversary, z_clean)
            score = self.score(rebuilt.float(), x01)
            (-score if self.maximises else score).backward()
            self.optimizer.step()
            self.seen[1] += score.detach() / self.params.adversary_steps
        self.seen[0] += 1

    def charged(self, batch: Batch) -> Tensor:
        self.adversary.eval().requires_grad_(False)
        charge = self.charge(cast_once(self.adversary, batch.z_clean).float(), batch.x01)
        self.adversary.train().requires_grad_(True)
        self.seen[2] += charge.detach()
        return charge

    def means(self) -> tuple[float, float]:
        """The epoch's mean score of the adversary, and the mean charge; counting begins anew."""
        steps, score, charge = self.seen.tolist()
        self.seen.zero_()
        return score / steps, charge / steps
