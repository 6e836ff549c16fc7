"""ResSFL: an inversion adversary is trained together with the encoder, which is penalised if the adversary succeeds.

Source: Li et al., CVPR 2022, as released with the CEM paper: CE + weight * relu(SSIM(AE(z_clean), x) - target). AE is
the decoder family with 4 blocks. In every step the AE first takes a step of its own towards a higher SSIM, on the
feature of the encoder in evaluation mode; then the encoder is penalised by the AE in evaluation mode. Before training,
the AE is fitted by MSE on the initial encoder. The two-stage transfer of the original is not included.
"""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss, relu

from benchmark.config import Count, Fraction, NotNegative
from benchmark.defenses import DEFENSES, Batch
from benchmark.defenses.adversary import Adversarial
from benchmark.metrics.ssim import ssim_per_image
from benchmark.models import SplitModel
from benchmark.training.graph import Captured, adam, cosine, set_lr

PRETRAIN_FINAL_LR = 1e-5  # where the pre-training's cosine ends (released code)


@DEFENSES.register("ressfl")
class ResSFL(Adversarial):
    """The adversary sees the clean feature; only the path to the server has noise (released code)."""

    title = "ResSFL"
    version = 2
    train_quirks = ("q8",)

    class Params(Adversarial.Params):
        weight: NotNegative = Field(description="alpha: factor on the adversarial term")
        ssim_target: Fraction = Field(description="t: SSIM below which the adversary is not fought")
        adversary_milestones: list[Fraction] = Field(
            description="fractions of the epochs (counted from 1) from which adversary_lr has fallen to a fifth"
        )
        pretrain_epochs: Annotated[int, Field(ge=0)] = Field(description="epochs of MSE fitting on the initial encoder")
        pretrain_batch_size: Count = Field(description="images in a step of it")

    decay = 0.2  # of the adversary's learning rate at each milestone

    def miss(self, rebuilt: Tensor, x01: Tensor) -> Tensor:
        return -ssim_per_image(rebuilt, x01).mean()

    @classmethod
    def extra_flop(cls, params, scale):
        return super().extra_flop(params, scale) * (1 + params.pretrain_epochs / scale.epochs)

    def prepare(self, model: SplitModel, batches, generator) -> None:
        """Fits the adversary, with a separate Adam, on the feature as sent; the encoder is in evaluation mode."""
        params = self.params
        fitting = adam(self.adversary.parameters(), params.adversary_lr, self.setting.device)
        captured = Captured(self.setting.device, [generator], "" if self.capturable else "the defence forbids it")
        model.encoder.eval()
        for epoch in range(params.pretrain_epochs):
            set_lr(fitting, cosine(params.adversary_lr, PRETRAIN_FINAL_LR, epoch, params.pretrain_epochs))
            for batch in batches(epoch, params.pretrain_batch_size):
                captured(partial(self._pretrain, model.encoder, fitting, generator, *batch))
        captured.forget()
        model.encoder.train()

    def _pretrain(self, encoder, fitting, generator, x01: Tensor, x: Tensor) -> None:
        with torch.no_grad(), torch.autocast(**self.setting.autocast):
            z = self.transform(encoder(x), generator, "train")
        self.fit(fitting, z, x01, mse_loss)

    def loss(self, batch: Batch) -> Tensor:
        """weight * relu(SSIM - target) of the adversary in evaluation mode, whose weights get no gradient."""
        ssim = ssim_per_image(self.judged(batch.z_clean), batch.x01).mean()
        self.seen[2] += ssim.detach()
        return self.params.weight * relu(ssim - self.params.ssim_target)

    def begin_epoch(self, epoch: int) -> None:
        passed = sum(epoch + 1 >= part * self.setting.epochs for part in self.params.adversary_milestones)
        set_lr(self.optimizer, self.params.adversary_lr * self.decay**passed)

    def end_epoch(self, epoch, model, optimizer) -> dict[str, float]:
        adversary, encoder = self.means()
        return {"adversary_ssim": -adversary, "encoder_ssim": encoder}
