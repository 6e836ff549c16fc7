"""The decoder attack: a convolutional decoder fitted by MSE on pairs of features and images.

Sources: supplement S3 (8 residual blocks, 50 epochs, Adam, learning rate 0.005); released code (batch 256, cosine to
1e-5, weight decay 1e-4, un-augmented images, feature noise on; after every epoch a pass over the images that it is
scored on, for a log, with two side effects: quirks q11 and q15).
"""

import copy

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmark.attacks.base import ATTACKS, CosineAttack, unit
from benchmark.config import Count
from benchmark.models.decoder import Decoder
from benchmark.training.casts import cast_once
from benchmark.training.graph import adam


@ATTACKS.register("decoder")
class DecoderAttack(CosineAttack):
    """Minimises ||D(z) - x||^2; D has 711,539 parameters for an 8x8x8 feature of a 32 px image."""

    title = "Dec.-based"

    class Params(CosineAttack.Params):
        blocks: Count = Field(description="residual blocks of 64 channels")

    version = 2
    printed = True
    keeps_state = True
    quirks = ("q11", "q12", "q15")
    psnr_batch = 256

    def build(self) -> None:
        target, params = self.target, self.params
        self.decoder = self.initialised(self.network)
        self.optimizer = adam(self.decoder.parameters(), params.lr, target.device, weight_decay=params.weight_decay)
        self.best = None
        if target.quirks.q15_best_batch_snapshot:
            self.best = copy.deepcopy(self.decoder).requires_grad_(False)
            self.best_mse = torch.full((), torch.inf, device=target.device)

    def network(self) -> nn.Module:
        """The decoder, freshly initialised on the CPU: feature [B, C, h, w] -> image in [0, 1] [B, 3, H, W]."""
        return Decoder(self.target.feature_shape, self.target.image_size, blocks=self.params.blocks)

    def decode(self, z: Tensor) -> Tensor:
        """Feature as sent [B, C, h, w] -> image [B, 3, H, W], in whatever mode the decoder is in."""
        return cast_once(self.decoder, z)

    def fit_batch(self, z: Tensor, x01: Tensor, variant: object) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(**self.target.autocast):
            reconstruction = self.decode(z)
        loss = mse_loss(reconstruction.float(), x01)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def end_epoch(self, epoch: int) -> dict[str, float]:
        if self.best is not None or self.target.quirks.q11_norm_absorbs_test:
            self._test()
        return super().end_epoch(epoch)

    @torch.no_grad()
    def _test(self) -> None:
        """The released code's pass over the scored images after an epoch: in training mode with quirk q11."""
        for features, images in zip(*(part.split(self.psnr_batch) for part in self.target.tested), strict=True):
            z = self.target.send(features, self.noise)
            mse = mse_loss(self.reconstruct(z, self.target.quirks.q11_norm_absorbs_test), unit(images))
            if self.best is not None and mse < self.best_mse:
                self.best_mse.copy_(mse)
                self.best.load_state_dict(self.decoder.state_dict())

    @torch.no_grad()
    def reconstruct(self, z: Tensor, training: bool = False) -> Tensor:
        self.decoder.train(training)
        with torch.autocast(**self.target.autocast):
            reconstruction = self.decode(z)
        self.decoder.train()
        return reconstruction.float()

    def fitted(self) -> dict:
        """`decoder`; with quirk q15 also `best`, as it was after the best single batch of test images."""
        found = {"decoder": self.decoder.state_dict()}
        return found if self.best is None else found | {"best": self.best.state_dict()}

    def start(self, state: dict) -> None:
        self.decoder.load_state_dict(state["decoder"])

    def parts(self) -> dict[str, object]:
        parts = super().parts() | {"decoder": self.decoder, "optimizer": self.optimizer}
        return parts if self.best is None else parts | {"best": self.best, "best_mse": self.best_mse}
