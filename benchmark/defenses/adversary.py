"""Base of defences that train a decoder together with the encoder, and penalise the encoder if it rebuilds well."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmark.config import Count, Positive
from benchmark.defenses import Defense
from benchmark.models import macs
from benchmark.models.decoder import Decoder, xavier_
from benchmark.training.casts import cast_once
from benchmark.training.graph import adam


class Adversarial(Defense):
    """Base: before each step of the encoder, the adversary G takes a step on the feature of the encoder in evaluation
    mode. A subclass has a `loss` that uses `judged`; it may replace `miss`, which G minimises."""

    class Params(Defense.Params):
        adversary_lr: Positive = Field(description="learning rate of the adversary's Adam")
        adversary_steps: Count = Field(description="steps of the adversary before each of the encoder's")
        adversary_blocks: Count = Field(description="residual blocks of the adversary")

    seen: Tensor
    adversary: Decoder  # G, made by `build`; the attacker never needs it
    optimizer: torch.optim.Adam

    def __init__(self, params: Params, setting):
        super().__init__(params, setting)
        # sums over this epoch: steps, `miss` before each step of the adversary, the encoder's adversarial value
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

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

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"adversary": self.optimizer}

    def miss(self, rebuilt: Tensor, x01: Tensor) -> Tensor:
        """The loss of G's output against the images in [0, 1], fp32 [B, 3, H, W] twice; 0-dim."""
        return mse_loss(rebuilt, x01)

    def shown(self, z_clean: Tensor) -> Tensor:
        """What G sees of a clean feature."""
        return z_clean

    def fit(self, optimizer: torch.optim.Optimizer, z: Tensor, x01: Tensor, miss) -> Tensor:
        """A step of G on features [B, C, h, w] and images in [0, 1] [B, 3, H, W]; `miss` before it, detached."""
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(**self.setting.autocast):
            rebuilt = cast_once(self.adversary, z)
        missed = miss(rebuilt.float(), x01)
        missed.backward()
        optimizer.step()
        return missed.detach()

    def before_step(self, x01, x, encode) -> None:
        z = self.shown(encode(x))
        for _ in range(self.params.adversary_steps):
            self.seen[1] += self.fit(self.optimizer, z, x01, self.miss) / self.params.adversary_steps
        self.seen[0] += 1

    def judged(self, z: Tensor) -> Tensor:
        """The output of G for features [B, C, h, w]; G is in evaluation mode, and its weights get no gradient."""
        self.adversary.eval().requires_grad_(False)
        rebuilt = cast_once(self.adversary, z)
        self.adversary.train().requires_grad_(True)
        return rebuilt

    def means(self) -> tuple[float, float]:
        """Means over the epoch, which this ends: `miss` of G, and the encoder's adversarial value."""
        steps, adversary, encoder = self.seen.tolist()
        self.seen.zero_()
        return adversary / steps, encoder / steps
