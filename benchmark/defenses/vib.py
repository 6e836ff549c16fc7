"""VIB: the variational information bottleneck. The noise's strength is learned, with a penalty on information.

Source: Alemi, Fischer, Dillon & Murphy, "Deep Variational Information Bottleneck", ICLR 2017: minimise
CE + beta KL(p(z | x) || r(z)), the expectation over z taken by a reparameterised draw, r the standard normal.
Simplified: there the encoder computes mean and variance from the image; here the feature is the mean, and each of its
elements has one learned variance for all images. The feature is in (0, 1), so its mean cannot be 0, as in r.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.config import NotNegative, Positive
from benchmark.defenses import DEFENSES, SHARPEST, Batch, Defense, add_gaussian
from benchmark.training.graph import adam

LEAST = 1e-3  # smallest initial standard deviation: its logarithm is learned


@DEFENSES.register("vib")
class VIB(Defense):
    """z = z_clean + s N(0, I), s learned for each element; CE + beta KL(N(z_clean, s^2) || N(0, I)).

    KL = 1/2 sum over elements of (z_clean^2 + s^2 - 1 - log s^2), in nats an image, averaged over the batch: an upper
    bound on the mutual information of image and z. A separate Adam updates log s, starting from log(noise_std).
    """

    title = "VIB"
    learned = ("log_std",)

    class Params(Defense.Params):
        noise_std: NotNegative = Field(
            description="standard deviation that the noise starts from (at least 0.001), and that CEM assumes"
        )
        beta: NotNegative = Field(description="factor on the KL divergence in nats an image")
        noise_lr: Positive = Field(description="Adam's learning rate for log s")

    def __init__(self, params: Params, setting):
        super().__init__(params, setting)
        self.log_std = nn.Parameter(torch.full(setting.feature_shape, math.log(max(params.noise_std, LEAST))))

    def build(self) -> None:
        self.learner = adam([self.log_std], self.params.noise_lr, self.setting.device)

    def optimizers(self):
        return {"noise": self.learner}

    def transform(self, z: Tensor, generator, phase) -> Tensor:
        return add_gaussian(z, self.log_std.exp(), generator)

    def loss(self, batch: Batch) -> Tensor:
        mean = batch.z_clean.float()
        elements = mean.square() + (2 * self.log_std).exp() - 1 - 2 * self.log_std
        return self.params.beta * elements.flatten(1).sum(1).mean() / 2

    def misfit(self, z_clean: Tensor, z: Tensor) -> Tensor:
        """Gaussian, each element with its own standard deviation."""
        return ((z - z_clean) / self.log_std.exp().clamp_min(SHARPEST)).square().flatten(1).sum(1) / 2

    def end_epoch(self, epoch, model, optimizer) -> dict[str, float]:
        """noise_std: root mean square of s over the elements, after the epoch."""
        return {"noise_std": (2 * self.log_std.detach()).exp().mean().sqrt().item()}
