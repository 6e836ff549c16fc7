"""Shredder: learned noise tensors, as large as accuracy allows; one of them is drawn for each feature sent.

Source: Mireshghallah, Taram, Ramrakhyani, Jalali, Tullsen & Esmaeilzadeh, "Shredder: Learning Noise Distributions to
Protect Inference Privacy", ASPLOS 2020: additive noise tensors, started from a Laplace distribution, minimise
cross-entropy minus a multiple of their size, until the inverse signal-to-noise ratio reaches the target. Simplified:
there the trained network stays fixed, the tensors are learned one after the other, and further ones are drawn from
distributions fitted to them; here network and tensors are trained together, and one of the tensors itself is drawn.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.config import Count, NotNegative, Positive
from benchmark.defenses import DEFENSES, SHARPEST, Batch, Defense
from benchmark.training.graph import adam


@DEFENSES.register("shredder")
class Shredder(Defense):
    """z = z_clean + n_m + noise, m uniform over M tensors for each image.

    Minimises CE - weight mean |n| while Var(n) / E z_clean^2 is below the target, and CE from there on. The attacker
    has the device, so it knows the tensors, not which of them was drawn.
    """

    title = "Shredder"
    learned = ("tensors",)

    class Params(Defense.Params):
        tensors: Count = Field(description="M: noise tensors")
        start_scale: Positive = Field(description="scale of the Laplace law they start from")
        weight: NotNegative = Field(description="factor on the mean absolute value of their elements")
        target: NotNegative = Field(
            description="Var(n) / E z_clean^2, the inverse signal-to-noise ratio, that they are enlarged to"
        )
        noise_lr: Positive = Field(description="learning rate of their Adam")

    def __init__(self, params: Params, setting):
        super().__init__(params, setting)
        self.tensors = nn.Parameter(torch.zeros(params.tensors, *setting.feature_shape))

    def build(self) -> None:
        with torch.no_grad():  # the difference of two exponential draws is Laplacian
            first, second = (torch.empty_like(self.tensors).exponential_() for _ in range(2))
            self.tensors.copy_(self.params.start_scale * (first - second))
        self.learner = adam([self.tensors], self.params.noise_lr, self.setting.device)

    def optimizers(self):
        return {"noise": self.learner}

    def transform(self, z: Tensor, generator, phase) -> Tensor:
        drawn = torch.randint(len(self.tensors), (len(z),), generator=generator, device=z.device)
        which = torch.arange(len(self.tensors), device=z.device) == drawn[:, None]
        with torch.autocast(z.device.type, enabled=False):  # a product: its gradient is always summed in the same order
            noise = (which.float() @ self.tensors.flatten(1)).view(z.shape)
        return super().transform(z + noise, generator, phase)

    def ratio(self, z_clean: Tensor) -> Tensor:
        """Var(n) / E z_clean^2, 0-dim, without gradient."""
        return self.tensors.detach().var(correction=0) / z_clean.detach().float().square().mean().clamp_min(1e-12)

    def loss(self, batch: Batch) -> Tensor:
        grow = (self.ratio(batch.z_clean) < self.params.target).float()
        return -self.params.weight * grow * self.tensors.abs().mean()

    def misfit(self, z_clean: Tensor, z: Tensor) -> Tensor:
        """-log of the mean of M Gaussian densities, up to a constant."""
        residual = (z - z_clean).flatten(1)[:, None] - self.tensors.flatten(1)
        squares = (residual / max(self.params.noise_std, SHARPEST)).square().sum(2)
        return -torch.logsumexp(-squares / 2, 1)

    def end_epoch(self, epoch, model, optimizer) -> dict[str, float]:
        """learned_std: standard deviation of the tensors' elements after the epoch."""
        return {"learned_std": self.tensors.detach().std(correction=0).item()}
