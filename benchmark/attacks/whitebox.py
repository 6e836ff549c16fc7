"""White-box inversion: gradient descent on each image, through the encoder. Nothing is fitted first.

`whitebox` minimises -log p(z | F_e(x)) + tv_weight * TV(x) over x in [0, 1]: the regularised maximum likelihood of He
et al. (ACSAC 2019; their released code: Adam on the pixels, ||F_e(x) - z||^2 + lambda * TV, lambda 10 for a CIFAR-10
network cut after 4 convs). The likelihood is that of the defence's noise; with a visible mask, only over the elements
kept. E ||F_e(x) + noise - z||^2 over fresh noise is the same plus a constant, so the expectation needs no draws.
"""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.attacks.base import ATTACKS, SCORE_BATCH, Attack, Target, mean_image, to_bytes, unit
from benchmark.config import Count, NotNegative, Positive, Strict
from benchmark.training.device import where
from benchmark.training.graph import Captured, Order, cosine, scalar
from benchmark.training.loop import seeded

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's own
SMOOTH = 1e-3  # the corner of |.| in TV is rounded within about this difference of pixels


class Descent(Attack):
    """Base: Adam on the unknowns of each image. One epoch of its history is one step on every image it is scored on.

    A subclass says what the unknowns are at first (`first_guess`), which image they stand for (`image`), and what is
    added to the negative log-likelihood of that image (`prior`).
    """

    keeps_state = True
    keeps_pictures = True
    tries = 1  # descents for each image

    class Params(Strict):
        iterations: Count = Field(description="Adam steps on each image")
        batch_size: Count = Field(description="images in a step")
        lr: Positive = Field(description="Adam's learning rate, on a cosine to 0")

    @classmethod
    def flop(cls, params: Any, scale):
        """Each step runs through the encoder and back to the pixels."""
        return 4.0 * scale.encoder * scale.scored * params.iterations

    def __init__(self, params: Any, target: Target):
        self.params, self.target, self.where = params, target, where(target.autocast)
        self.images = len(target.received)  # scored on
        problems = self.images * self.tries
        self.batch_size = min(params.batch_size, problems)
        self.epochs, self.steps = params.iterations, -(-problems // self.batch_size)
        rows = self.steps * self.batch_size  # the last batch is filled up with images from the front, which are dropped
        self.which = torch.arange(rows, device=target.device) % self.images
        self.order = Order(rows, self.batch_size, target.device)
        self.unknowns = self.first_guess(rows)
        self.first, self.second = torch.zeros_like(self.unknowns), torch.zeros_like(self.unknowns)
        self.objectives = torch.zeros(rows, device=target.device)
        self.rate = scalar(0.0, target.device)
        self.order.begin(torch.arange(rows, device=target.device))
        self.captured = Captured(target.device, [])

    def first_guess(self, count: int) -> Tensor:
        """The unknowns of so many images, [count, ...], fp32."""
        raise NotImplementedError

    def image(self, unknowns: Tensor) -> Tensor:
        """Unknowns [B, ...] -> images [B, 3, H, W], about in [0, 1]."""
        raise NotImplementedError

    def prior(self, unknowns: Tensor, x01: Tensor) -> Tensor:
        """What is added to the negative log-likelihood, [B]."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """The learning rate with Adam's bias correction: all images are at the same step."""
        first, second = (1 - beta ** (epoch + 1) for beta in BETAS)
        self.rate.fill_(cosine(self.params.lr, 0.0, epoch, self.epochs) * math.sqrt(second) / first)

    def _step(self, variant: object) -> None:
        rows = self.order.batch()
        unknowns = self.unknowns[rows].requires_grad_()
        x01 = self.image(unknowns)
        z_clean = self.target.encode(x01.contiguous(memory_format=torch.channels_last))
        objective = self.target.misfit(z_clean, self.target.received[self.which[rows]])
        objective = objective + self.prior(unknowns, x01)
        (gradient,) = torch.autograd.grad(objective.sum(), unknowns)
        first = torch.lerp(gradient, self.first[rows], BETAS[0])
        second = torch.lerp(gradient.square(), self.second[rows], BETAS[1])
        self.first[rows], self.second[rows] = first, second
        self.unknowns[rows] = unknowns.detach() - self.rate * first / (second.sqrt() + EPSILON)
        self.objectives[rows] = objective.detach()

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """The mean objective of the images, each before its step."""
        return {"loss": self.objectives[: self.images * self.tries].double().mean().item()}

    def reconstructions(self):
        best = self.objectives[: self.images * self.tries].view(self.tries, self.images).argmin(0)
        chosen = best * self.images + torch.arange(self.images, device=best.device)
        for rows in chosen.split(SCORE_BATCH):
            yield self.image(self.unknowns[rows]).clamp(0, 1)

    def fitted(self) -> dict:
        return {"images": to_bytes(torch.cat(list(self.reconstructions())))}

    def parts(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("unknowns", "first", "second", "objectives")}


@ATTACKS.register("whitebox")
class WhiteBoxAttack(Descent):
    """The prior is the total variation; x = sigmoid(unknowns)."""

    title = "white-box"

    class Params(Descent.Params):
        tv_weight: NotNegative = Field(description="factor on the total variation of an image")
        start: Literal["mean", "decoder"] = Field(
            description="begin at the mean of the attacker's images, or at what the row's decoder rebuilt"
        )
        restarts: Annotated[int, Field(ge=0)] = Field(
            description="further starts, from noise; for each image the result with the lowest objective is taken"
        )

    @classmethod
    def starts_from(cls, params: "WhiteBoxAttack.Params", split):
        return ("decoder", split) if params.start == "decoder" else None

    @classmethod
    def flop(cls, params: Any, scale):
        return super().flop(params, scale) * (1 + params.restarts)

    def __init__(self, params, target: Target):
        self.tries = 1 + params.restarts
        super().__init__(params, target)

    def first_guess(self, count: int) -> Tensor:
        target = self.target
        mean = mean_image(target.images, torch.float32)
        pixels = torch.logit(mean.expand(count, -1, -1, -1), 0.02).contiguous()
        starts = seeded(target.device, "whitebox-starts", target.seed)
        pixels[self.images :] += torch.randn(pixels[self.images :].shape, generator=starts, device=target.device)
        return pixels

    def image(self, unknowns: Tensor) -> Tensor:
        return unknowns.sigmoid()

    def prior(self, unknowns: Tensor, x01: Tensor) -> Tensor:
        return self.params.tv_weight * total_variation(x01)

    def start(self, state: dict) -> None:
        """Begin at `images` [M, 3, H, W], uint8 or in [0, 1], for those that are scored."""
        images = state["images"].to(self.target.device)
        x01 = images if images.is_floating_point() else unit(images)
        # a finished result's bytes are restored exactly; a start from floats stays where the sigmoid has a gradient
        self.unknowns[: len(x01)] = torch.logit(x01, 0.02 if images.is_floating_point() else 1e-4)


def total_variation(x01: Tensor) -> Tensor:
    """Isotropic total variation: the sum over pixels and channels of the gradient's length, [B, C, H, W] -> [B]."""
    down = x01[:, :, 1:, :-1] - x01[:, :, :-1, :-1]
    right = x01[:, :, :-1, 1:] - x01[:, :, :-1, :-1]
    return (down.square() + right.square() + SMOOTH**2).sqrt().sum((1, 2, 3))
