"""ResSFL: an inversion adversary is trained along, and the encoder is penalised where it succeeds.

Source: Li et al., CVPR 2022, as released with the CEM paper: CE + weight * relu(SSIM(AE(z_clean), x) - target). AE is
the decoder family with 4 blocks. In every step it first takes a step of its own towards a higher SSIM, on the feature
of the encoder in evaluation mode; then the encoder is penalised by the AE in evaluation mode. Before, it is fitted by
MSE on the initial encoder. The two-stage transfer of the original is not included.
"""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss, relu

from benchmark.config import Count, Fraction, Number
from benchmark.defenses import DEFENSES, Batch, Defense
from benchmark.metrics.ssim import ssim_per_image
from benchmark.models import SplitModel
from benchmark.models.decoder import Decoder, xavier_
from benchmark.training.casts import cast_once
from benchmark.training.graph import Captured, adam, cosine, set_lr

PRETRAIN_FINAL_LR = 1e-5  # where the pre-training's cosine ends (released code)


@DEFENSES.register("ressfl")
class ResSFL(Defense):
    """The adversary sees the clean feature; noise is on the path to the server alone (released code)."""

    title = "ResSFL"
    version = 2
    train_quirks = ("q8",)

    class Params(Defense.Params):
        weight: Annotated[Number, Field(ge=0)] = Field(description="alpha: factor on the adversarial term")
        ssim_target: Fraction = Field(description="t: SSIM below which the adversary is not fought")
        adversary_lr: Annotated[Number, Field(gt=0)] = Field(description="learning rate of the adversary's Adam")
        adversary_milestones: list[Fraction] = Field(
            description="fractions of the epochs (counted from 1) from which that has fallen to a fifth"
        )
        adversary_steps: Count = Field(description="steps of the adversary before each of the encoder's")
        adversary_blocks: Count = Field(description="residual blocks of the adversary")
        pretrain_epochs: Annotated[int, Field(ge=0)] = Field(description="epochs of MSE fitting on the initial encoder")
        pretrain_batch_size: Count = Field(description="images in a step of it")

    seen: Tensor
    adversary: Decoder  # made by `build`: the attacker never needs it
    optimizer: torch.optim.Adam
    decay = 0.2  # of the adversary's learning rate at each milestone

    def __init__(self, params: Params, setting):
        super().__init__(params, setting)
        # of this epoch: steps, SSIM of the adversary before each step of its own, SSIM that the encoder was judged by
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

    def build(self) -> None:
        setting = self.setting
        adversary = Decoder(setting.feature_shape, setting.image_size, blocks=self.params.adversary_blocks)
        xavier_(adversary)
        self.adversary = adversary.to(setting.device, memory_format=torch.channels_last)
        self.optimizer = adam(self.adversary.parameters(), self.params.adversary_lr, setting.device)

    def prepare(self, model: SplitModel, batches, generator) -> None:
        """Fits the adversary, by an Adam of its own, on the feature as sent; the encoder is in evaluation mode."""
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
        with torch.autocast(**self.setting.autocast):
            with torch.no_grad():
                z = self.transform(encoder(x), generator, "train")
            fitting.zero_grad(set_to_none=True)
            rebuilt = cast_once(self.adversary, z)
        mse_loss(rebuilt.float(), x01).backward()
        fitting.step()

    def before_step(self, x01, x, encode) -> None:
        z_clean = encode(x)
        for _ in range(self.params.adversary_steps):
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(**self.setting.autocast):
                rebuilt = cast_once(self.adversary, z_clean)
            ssim = ssim_per_image(rebuilt, x01).mean()
            (-ssim).backward()
            self.optimizer.step()
            self.seen[1] += ssim.detach() / self.params.adversary_steps
        self.seen[0] += 1

    def loss(self, batch: Batch) -> Tensor:
        """weight * relu(SSIM - target) of the adversary in evaluation mode, whose weights get no gradient."""
        self.adversary.eval().requires_grad_(False)
        ssim = ssim_per_image(cast_once(self.adversary, batch.z_clean), batch.x01).mean()
        self.adversary.train().requires_grad_(True)
        self.seen[2] += ssim.detach()
        return self.params.weight * relu(ssim - self.params.ssim_target)

    def optimizers(self):
        return {"adversary": self.optimizer}

    def begin_epoch(self, epoch: int) -> None:
        passed = sum(epoch + 1 >= part * self.setting.epochs for part in self.params.adversary_milestones)
        set_lr(self.optimizer, self.params.adversary_lr * self.decay**passed)

    def end_epoch(self, epoch, model, optimizer) -> dict[str, float]:
        steps, adversary, encoder = self.seen.tolist()
        self.seen.zero_()
        return {"adversary_ssim": adversary / steps, "encoder_ssim": encoder / steps}
