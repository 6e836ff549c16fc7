"""The GAN attack as released: the decoder as a generator with MSE and a WGAN-GP critic on whole images.

Sources: supplement S3 (generator = the decoder, 150 epochs, Adam, 0.005, an MSE term); released code (critic learning
rate 0.005, generator 0.0005, betas 0.5 and 0.999, generator loss -critic(G(z)) + 1500 MSE on every 10th critic step,
penalty 10, batch 128, cosine over 300 epochs). In a critic's step the generator is in evaluation mode; in its own step,
which follows on the same images with fresh noise, it is in training mode. Quirks: q4 and q15, it starts as the `infer`
decoder; q13, the penalty above 32 px; q14, one fit for both columns. It is not GMI's latent search (Zhang et al., CVPR
2020), although the paper cites that.
"""

import copy
import functools
import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmark.attacks.base import ATTACKS, Attack
from benchmark.config import Count, Fraction, NotNegative, Positive, Strict
from benchmark.errors import UserError
from benchmark.metrics.reconstruction import psnr_of_mse
from benchmark.metrics.ssim import ssim_per_image
from benchmark.models import macs
from benchmark.models.critic import Critic
from benchmark.models.decoder import Decoder
from benchmark.training.casts import cast_once
from benchmark.training.device import tf32_convolutions
from benchmark.training.graph import adam, set_lr
from benchmark.training.loop import seeded

LOGGED_EVERY = 10  # epochs


@ATTACKS.register("gan")
class GANAttack(Attack):
    """Generator: -critic(G(z)) + mse_weight * MSE; critic: critic(G(z)) - critic(x) + penalty * (|grad| - 1)^2."""

    title = "GAN-based"

    class Params(Strict):
        epochs: Count = Field(description="passes over the attacker's images")
        batch_size: Count = Field(description="images in a step")
        critic_lr: Positive = Field(description="Adam's learning rate of the critic")
        generator_lr: Positive = Field(description="Adam's learning rate of the generator")
        beta1: Annotated[Fraction, Field(lt=1)] = Field(description="Adam's first decay rate")
        cosine_epochs: Count = Field(description="epochs in which the cosine schedule would reach 0")
        mse_weight: NotNegative = Field(description="factor on the generator's MSE")
        penalty: NotNegative = Field(description="factor on the gradient penalty")
        generator_every: Count = Field(description="critic steps for one generator step")
        blocks: Count = Field(description="residual blocks of the generator")
        penalty_tf32: bool = Field(description="whether the penalty's convs are in TF32, in bf16 jobs on CUDA alone")

    version = 2
    printed = True
    keeps_state = True
    quirks = ("q12", "q13", "q14")
    warm_start = ("decoder", "infer")
    single_fit = True

    @classmethod
    def flop(cls, params, scale):
        """Most steps run the generator only forward; the critic, with its penalty, six times forward and backward."""
        size = scale.image_size
        critic = macs.forward(_critic, (3, size, size))
        steps = (2 + 4 / params.generator_every) * cls.macs(params, scale) + 12 * critic
        return steps * scale.fitted * params.epochs + 2.0 * cls.macs(params, scale) * scale.scored

    def build(self) -> None:
        target, params = self.target, self.params
        generator = functools.partial(Decoder, target.feature_shape, target.image_size, blocks=params.blocks)
        self.generator = self.initialised(generator)
        self.critic = Critic(target.image_size).to(target.device)
        betas = (params.beta1, 0.999)
        self.optimizers = {
            network: adam(network.parameters(), lr, target.device, betas=betas)
            for network, lr in ((self.generator, params.generator_lr), (self.critic, params.critic_lr))
        }
        self.mixing = seeded(target.device, "gan-mixing", target.seed)
        self.places = self.critic.places(target.image_size) if target.quirks.q13_penalty_on_sum else 1
        # quirk q14: number, MSE, PSNR and SSIM, summed over the batches of the last epoch and of the last logged epoch
        # (every 10th from the first); and the generator after the latter
        self.logged_epoch = (self.epochs - 1) // LOGGED_EVERY * LOGGED_EVERY
        self.seen = torch.zeros(2, 4, dtype=torch.float64, device=target.device)
        self.logged = copy.deepcopy(self.generator).requires_grad_(False) if target.quirks.q14_gan_single_fit else None

    def start(self, state: dict) -> None:
        """With quirk q14 `infer` uses the generator that was logged last, not the final one."""
        infer = self.target.split == "infer"
        self.generator.load_state_dict(state["logged" if infer and "logged" in state else "generator"])
        if "seen" in state:
            self.seen.copy_(state["seen"])

    def warm_up(self, state: dict) -> None:
        try:
            self.generator.load_state_dict(state.get("best", state["decoder"]))
        except RuntimeError:
            raise UserError(
                "the GAN's generator cannot start from the decoder (quirk q4): give attacks.gan.blocks and "
                "attacks.decoder.blocks one value"
            ) from None

    def fitted(self) -> dict:
        found: dict = {"generator": self.generator.state_dict()}
        if self.logged is not None:
            found["seen"] = self.seen
            if self.target.split == "train":
                found["logged"] = self.logged.state_dict()
        return found

    def found(self, values):
        """Quirk q14: `train` comes from the last epoch's own batches; PSNR and SSIM of `infer` average in the logged
        epoch's batches. The printed columns are most likely these, but this is not known (docs/METHODS.md)."""
        if self.logged is None:
            return {}
        (last, logged), names = (row[1:] / row[0].clamp_min(1) for row in self.seen), ("mse", "psnr_db", "ssim")
        if self.target.split == "train":
            return dict(zip(names, last.tolist(), strict=True)) | {"mse_of_test_images": values["mse"]}
        trained, tested = len(self.target.images), len(self.target.received)
        own = dict(zip(names, logged.tolist(), strict=True))
        return {
            name: (own[name] * trained + values[name] * tested) / (trained + tested) for name in ("psnr_db", "ssim")
        }

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        factor = (1 + math.cos(math.pi * min(epoch / self.params.cosine_epochs, 1))) / 2
        lrs = (self.params.generator_lr, self.params.critic_lr)
        for optimizer, lr in zip(self.optimizers.values(), lrs, strict=True):
            set_lr(optimizer, lr * factor)

    def variant(self, step: int) -> tuple[bool, tuple[int, ...]]:
        """Whether the generator also takes a step; the rows of `seen` that count the batch."""
        epoch = step // self.steps
        counted = (epoch == self.epochs - 1, epoch == self.logged_epoch) if self.logged is not None else ()
        return (step + 1) % self.params.generator_every == 0, tuple(row for row, yes in enumerate(counted) if yes)

    def _step(self, variant: tuple[bool, tuple[int, ...]]) -> None:
        updates_generator, counted = variant
        features, x01 = self.pairs(self.order.batch())
        x01 = x01.contiguous(memory_format=torch.channels_last)
        fake = self.reconstruct(self.target.send(features, self.noise))
        mse = mse_loss(fake, x01)
        self.losses += mse
        if counted:
            batch = torch.stack([torch.ones_like(mse), mse, psnr_of_mse(mse), ssim_per_image(fake, x01).mean()])
            for row in counted:
                self.seen[row] += batch
        self._critic_step(fake, x01)
        if updates_generator:
            self._generator_step(self.target.send(features, self.noise), x01)

    def _generator_step(self, z: Tensor, real: Tensor) -> Tensor:
        """In training mode, with the current critic; its loss (0-dim, detached)."""
        self.optimizers[self.generator].zero_grad(set_to_none=True)
        self.critic.requires_grad_(False)
        with torch.autocast(**self.target.autocast):
            fake = cast_once(self.generator, z)
            score = cast_once(self.critic, fake)
        loss = self.params.mse_weight * mse_loss(fake.float(), real) - score.float().mean()
        loss.backward()
        self.critic.requires_grad_(True)
        self.optimizers[self.generator].step()
        return loss.detach()

    def _critic_step(self, fake: Tensor, real: Tensor) -> Tensor:
        """On rebuilt and original images [B, 3, H, W]; its loss (0-dim, detached)."""
        self.optimizers[self.critic].zero_grad(set_to_none=True)
        mix = torch.rand(len(real), 1, 1, 1, generator=self.mixing, device=real.device)
        between = (real + mix * (fake - real)).requires_grad_()
        with torch.autocast(**self.target.autocast):
            # one by one, as released: in one pass, the last bias's gradient, which is 0, would be rounding noise, which
            # Adam turns into full steps
            fakes, reals = (cast_once(self.critic, images).float() for images in (fake, real))
        with tf32_convolutions(self.params.penalty_tf32 and self.target.autocast["enabled"]):
            inner = self.places * self.critic(between)  # in fp32: the penalty is a gradient of a gradient
            (gradient,) = torch.autograd.grad(inner.sum(), between, create_graph=True)
            norm = gradient.float().flatten(1).square().sum(1).clamp_min(1e-12).sqrt()
            loss = fakes.mean() - reals.mean() + self.params.penalty * (norm - 1).square().mean()
            loss.backward(inputs=list(self.critic.parameters()))  # no gradient for `between`
        self.optimizers[self.critic].step()
        return loss.detach()

    def end_epoch(self, epoch: int) -> dict[str, float]:
        if self.logged is not None and epoch == self.logged_epoch:
            self.logged.load_state_dict(self.generator.state_dict())
        return super().end_epoch(epoch)

    @torch.no_grad()
    def reconstruct(self, z: Tensor) -> Tensor:
        self.generator.eval()
        with torch.autocast(**self.target.autocast):
            reconstruction = cast_once(self.generator, z)
        self.generator.train()
        return reconstruction.float()

    def parts(self) -> dict[str, object]:
        names = {self.generator: "generator", self.critic: "critic"}
        parts = super().parts() | {name: network for network, name in names.items()}
        parts |= {f"{names[network]}_optimizer": item for network, item in self.optimizers.items()}
        parts |= {"mixing": self.mixing, "seen": self.seen}
        return parts if self.logged is None else parts | {"logged": self.logged}


def _critic(shape: tuple[int, int, int]) -> Critic:
    return Critic(shape[1])
