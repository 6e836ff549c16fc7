"""The decoder attack: a convolutional decoder fitted by MSE on pairs of features and images.

Sources: supplement S3 (8 residual blocks, 50 epochs, Adam, learning rate 0.005); released code (batch 256, cosine to
1e-5, un-augmented images, feature noise on).
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmark.attacks.base import ATTACKS, Attack
from benchmark.matrix.schema import Count, Number, Strict
from benchmark.models.decoder import Decoder
from benchmark.training.graph import adam, set_lr
from benchmark.training.loop import seeded


@ATTACKS.register("decoder")
class DecoderAttack(Attack):
    """Minimises ||D(z) - x||^2; D has 711,539 parameters for an 8x8x8 feature of a 32 px image."""

    class Params(Strict):
        epochs: Count = Field(description="passes over the attacker's images")
        batch_size: Count = Field(description="images in a step")
        lr: Annotated[Number, Field(gt=0)] = Field(description="Adam's learning rate")
        final_lr: Annotated[Number, Field(ge=0)] = Field(description="end of the cosine schedule")
        weight_decay: Annotated[Number, Field(ge=0)] = Field(description="L2 penalty")
        blocks: Count = Field(description="residual blocks of 64 channels")

    printed = True
    keeps_state = True

    def build(self) -> None:
        target = self.target
        # not the training's own stream: a defence's adversary must not begin as the attacker does
        torch.manual_seed(seeded(torch.device("cpu"), "attack-weights", target.seed).initial_seed())
        self.decoder = self.network().to(target.device, memory_format=torch.channels_last)
        self.optimizer = adam(
            self.decoder.parameters(), self.params.lr, target.device, weight_decay=self.params.weight_decay
        )

    def network(self) -> nn.Module:
        """The decoder, freshly initialised on the CPU: feature [B, C, h, w] -> image in [0, 1] [B, 3, H, W]."""
        return Decoder(tuple(self.target.features.shape[1:]), self.target.image_size, blocks=self.params.blocks)

    def decode(self, z: Tensor) -> Tensor:
        """Feature as sent [B, C, h, w] -> image [B, 3, H, W], in whatever mode the decoder is in."""
        return self.decoder(z)

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        low, high = self.params.final_lr, self.params.lr
        set_lr(self.optimizer, low + (high - low) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2)

    def fit_batch(self, z: Tensor, x01: Tensor, variant: object) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(**self.target.autocast):
            reconstruction = self.decode(z)
        loss = mse_loss(reconstruction.float(), x01)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def reconstruct(self, z: Tensor) -> Tensor:
        self.decoder.eval()
        with torch.autocast(**self.target.autocast):
            reconstruction = self.decode(z)
        self.decoder.train()
        return reconstruction.float()

    def fitted(self) -> dict:
        return self.decoder.state_dict()

    def start(self, state: dict) -> None:
        self.decoder.load_state_dict(state)

    def parts(self) -> dict[str, object]:
        return super().parts() | {"decoder": self.decoder, "optimizer": self.optimizer}
