"""DISCO: a small network looks at each feature and zeroes the channels that give its image away.

Source: Singh, Chopra, Garza, Zhang, Vepakomma, Sharma & Raskar, "DISCO: Dynamic and Invariant Sensitive Channel
Obfuscation for Deep Neural Networks", CVPR 2021: the pruning network lowers the task's loss and raises that of a
jointly trained decoder; encoder and server lower only the task's loss. Scores become a mask by a sigmoid of temperature
1/30 about the score at the threshold (the authors' code). Simplified: there the scores come from the rest of a
ResNet-18, here from one hidden layer on each channel's mean and standard deviation, which is cheap to run on the
device; the mask is 0 or 1, with the gradient of the sigmoid.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss, relu

from benchmark.config import Count, Fraction, NotNegative, Positive
from benchmark.defenses import DEFENSES, Batch, Masking
from benchmark.defenses.adversary import Adversarial
from benchmark.training.graph import adam

TEMPERATURE = 1 / 30


@DEFENSES.register("disco")
class Disco(Masking, Adversarial):
    """z = m(z') z', z' = z_clean + noise; m_c is 0 for the floor(share C) channels of the lowest scores, at most C - 1.

    CE - weight MSE(G(m(z_clean) z_clean), x) for the pruning network, CE for encoder and server; G lowers the MSE, and
    sees clean features, pruned.
    """

    title = "DISCO"
    learned = ("hidden", "hidden_bias", "out", "out_bias")

    class Params(Adversarial.Params):
        weight: NotNegative = Field(description="factor on the adversary's mean squared error")
        share: Annotated[Fraction, Field(lt=1)] = Field(description="share of a feature's channels that is zeroed")
        pruner_lr: Positive = Field(description="learning rate of the pruning network's Adam")
        pruner_width: Count = Field(description="units of its hidden layer")

    def __init__(self, params: Params, setting):
        super().__init__(params, setting)
        channels, width = setting.feature_shape[0], params.pruner_width
        self.hidden, self.hidden_bias = (nn.Parameter(torch.zeros(*size)) for size in ((width, 2 * channels), (width,)))
        self.out, self.out_bias = (nn.Parameter(torch.zeros(*size)) for size in ((channels, width), (channels,)))
        self.pruned = min(math.floor(params.share * channels), channels - 1)

    def build(self) -> None:
        super().build()
        for weight in (self.hidden, self.out):
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
        network = [getattr(self, name) for name in self.learned]
        self.learner = adam(network, self.params.pruner_lr, self.setting.device)

    def optimizers(self):
        return super().optimizers() | {"pruner": self.learner}

    def mask(self, z: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, 1, 1] of 0 and 1, with a gradient to the pruning network and none to the feature."""
        with torch.autocast(z.device.type, enabled=False):
            places = z.detach().float().flatten(2)
            seen = torch.cat([places.mean(2), places.std(2, correction=0)], 1)
            scores = linear(relu(linear(seen, self.hidden, self.hidden_bias)), self.out, self.out_bias)
            ordered = scores.detach().sort(dim=1, stable=True)
            rank = ordered.indices.argsort(dim=1)
            kept = (rank >= self.pruned).float()
            threshold = ordered.values[:, self.pruned, None]
            soft = torch.sigmoid((scores - threshold) / TEMPERATURE)
            return (kept + (soft - soft.detach()))[..., None, None]  # exactly 0 or 1

    def transform(self, z: Tensor, generator, phase) -> Tensor:
        z = super().transform(z, generator, phase)
        return z * self.mask(z)

    @torch.no_grad()
    def shown(self, z_clean: Tensor) -> Tensor:
        return z_clean * self.mask(z_clean)

    def loss(self, batch: Batch) -> Tensor:
        z = batch.z_clean.detach()
        mse = mse_loss(self.judged(z * self.mask(z)).float(), batch.x01)
        self.seen[2] += mse.detach()
        return -self.params.weight * mse

    def end_epoch(self, epoch, model, optimizer) -> dict[str, float]:
        return dict(zip(("adversary_mse", "encoder_mse"), self.means(), strict=True))
