"""ResSFL: an inversion adversary is trained along, and the encoder is penalised where it succeeds.

Source: Li et al., CVPR 2022, as released with the CEM paper: CE + weight * relu(SSIM(AE(z), x) - target). AE is the
decoder family with 4 blocks; it maximises SSIM at every step (Adam, lr 1e-3, x0.2 at 60, 150 of 240 epochs) and
is fitted by MSE on the initial encoder for 30 epochs before. The two-stage transfer of the original is not included.
"""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmark.defenses.base import DEFENSES, Batch, Defense
from benchmark.matrix.schema import Count, Fraction, Number
from benchmark.metrics.ssim import ssim_per_image
from benchmark.models.decoder import Decoder
from benchmark.training.graph import Captured, adam, set_lr


@DEFENSES.register("ressfl")
class ResSFL(Defense):
    """The adversary sees the feature as sent (noisy)."""

    class Params(Defense.Params):
        weight: Annotated[Number, Field(ge=0)] = Field(description="alpha: factor on the adversarial term")
        ssim_target: Fraction = Field(description="t: SSIM below which the adversary is not fought")
        adversary_lr: Annotated[Number, Field(gt=0)] = Field(description="learning rate of the adversary's Adam")
        adversary_blocks: Count = Field(description="residual blocks of the adversary")
        pretrain_epochs: Annotated[int, Field(ge=0)] = Field(description="epochs of MSE fitting on the initial encoder")

    # fractions of the epochs at which the adversary's learning rate falls (60, 150 of 240; released code)
    milestones, decay = (0.25, 0.625), 0.2

    def __init__(self, params: Params, setting):
        super().__init__(params, setting)
        # the attacker never needs the adversary, so `build` makes it
        self.adversary: Decoder | None = None
        self.optimizer: torch.optim.Adam | None = None

    def build(self) -> None:
        adversary = Decoder(self.setting.feature_shape, self.setting.image_size, blocks=self.params.adversary_blocks)
        self.adversary = adversary.to(self.setting.device, memory_format=torch.channels_last)
        self.optimizer = adam(self.adversary.parameters(), self.params.adversary_lr, self.setting.device)

    def prepare(self, model, batches, generator) -> None:
        """The encoder stays as it is initially; its BatchNorm uses the batch's statistics, as the first step will."""
        captured = Captured(self.setting.device, [generator], "" if self.capturable else "the defence forbids it")
        for epoch in range(self.params.pretrain_epochs):
            for batch in batches(epoch):
                captured(partial(self._fit_adversary, model, generator, *batch))
        captured.forget()

    def _fit_adversary(self, model, generator, x01: Tensor, x: Tensor) -> None:
        with torch.no_grad():
            z_clean = model.encoder(x)
            z = self.view(z_clean, self.transform(z_clean, generator, "train"))
        self.optimizer.zero_grad(set_to_none=True)
        mse_loss(self.adversary(z).float(), x01).backward()
        self.optimizer.step()

    def view(self, z_clean: Tensor, z: Tensor) -> Tensor:
        """The feature that the adversary is given."""
        return z

    def loss(self, batch: Batch) -> Tensor:
        """One forward and one backward pass serve both players.

        The value returned is -SSIM, so its gradient trains the adversary to maximise SSIM; on the way into the
        encoder that gradient is multiplied by -weight * [SSIM > target], which is the gradient of
        weight * relu(SSIM - target).
        """
        factor = torch.zeros((), device=batch.z.device)
        reconstruction = self.adversary(_ScaleGradient.apply(self.view(batch.z_clean, batch.z), factor))
        ssim = ssim_per_image(reconstruction, batch.x01).mean()
        factor.copy_(-self.params.weight * (ssim.detach() > self.params.ssim_target))
        return -ssim

    def optimizers(self):
        return {"adversary": self.optimizer}

    def begin_epoch(self, epoch: int) -> None:
        passed = sum(epoch >= fraction * self.setting.epochs for fraction in self.milestones)
        set_lr(self.optimizer, self.params.adversary_lr * self.decay**passed)


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a device scalar, which may be filled in after the forward pass."""

    @staticmethod
    def forward(ctx, z, factor):
        ctx.factor = factor  # kept by reference on purpose: save_for_backward would refuse the later change
        return z.view_as(z)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None
