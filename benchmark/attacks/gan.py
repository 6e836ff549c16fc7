"""The GAN attack as released: the decoder as a generator with MSE and a WGAN-GP critic on whole images.

Sources: supplement S3 (generator = the decoder, 150 epochs, Adam, 0.005, an MSE term); released code (critic learning
rate 0.005, generator 0.0005, betas 0.5 and 0.999, generator loss -critic(G(z)) + 1500 MSE on every 10th critic step,
penalty 10, batch 128, cosine over 300 epochs; quirk q4: the generator starts as the `infer` decoder). It is not
GMI's latent search (Zhang et al., CVPR 2020), which the paper cites for it.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmark.attacks.base import ATTACKS, Attack
from benchmark.errors import UserError
from benchmark.matrix.schema import Count, Fraction, Number, Strict
from benchmark.models.critic import Critic
from benchmark.models.decoder import Decoder
from benchmark.training.graph import adam, set_lr
from benchmark.training.loop import seeded


@ATTACKS.register("gan")
class GANAttack(Attack):
    """Generator: -critic(G(z)) + mse_weight * MSE; critic: critic(G(z)) - critic(x) + penalty * (|grad| - 1)^2."""

    class Params(Strict):
        epochs: Count = Field(description="passes over the attacker's images")
        batch_size: Count = Field(description="images in a step")
        critic_lr: Annotated[Number, Field(gt=0)] = Field(description="Adam's learning rate of the critic")
        generator_lr: Annotated[Number, Field(gt=0)] = Field(description="Adam's learning rate of the generator")
        beta1: Annotated[Fraction, Field(lt=1)] = Field(description="Adam's first decay rate")
        cosine_epochs: Count = Field(description="epochs in which the cosine schedule would reach 0")
        mse_weight: Annotated[Number, Field(ge=0)] = Field(description="factor on the generator's MSE")
        penalty: Annotated[Number, Field(ge=0)] = Field(description="factor on the gradient penalty")
        generator_every: Count = Field(description="critic steps for one generator step")
        blocks: Count = Field(description="residual blocks of the generator")

    printed = True
    keeps_state = True
    warm_start = ("decoder", "infer")

    def build(self) -> None:
        target, params = self.target, self.params
        # not the training's own stream: a defence's adversary must not begin as the attacker does
        torch.manual_seed(seeded(torch.device("cpu"), "attack-weights", target.seed).initial_seed())
        generator = Decoder(tuple(target.features.shape[1:]), target.image_size, blocks=params.blocks)
        self.generator = generator.to(target.device, memory_format=torch.channels_last)
        self.critic = Critic(target.image_size).to(target.device)
        betas = (params.beta1, 0.999)
        self.optimizers = {
            network: adam(network.parameters(), lr, target.device, betas=betas)
            for network, lr in ((self.generator, params.generator_lr), (self.critic, params.critic_lr))
        }
        self.mixing = seeded(target.device, "gan-mixing", target.seed)

    def start(self, state: dict) -> None:
        try:
            self.generator.load_state_dict(state)
        except RuntimeError:
            raise UserError(
                "the GAN's generator cannot start from the decoder (quirk q4): give attacks.gan.blocks and "
                "attacks.decoder.blocks one value"
            ) from None

    def fitted(self) -> dict:
        return self.generator.state_dict()

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        factor = (1 + math.cos(math.pi * min(epoch / self.params.cosine_epochs, 1))) / 2
        lrs = (self.params.generator_lr, self.params.critic_lr)
        for optimizer, lr in zip(self.optimizers.values(), lrs, strict=True):
            set_lr(optimizer, lr * factor)

    def variant(self, step: int) -> bool:
        """Whether the generator takes a step, too."""
        return (step + 1) % self.params.generator_every == 0

    def fit_batch(self, z: Tensor, x01: Tensor, updates_generator: bool) -> Tensor:
        """The loss reported is the MSE of the generator's images, which the critic's steps compute as well."""
        with torch.autocast(**self.target.autocast), torch.set_grad_enabled(updates_generator):
            fake = self.generator(z)
        fake = fake.float()
        self._critic_step(fake.detach(), x01)
        loss = mse_loss(fake, x01)
        if updates_generator:
            self.optimizers[self.generator].zero_grad(set_to_none=True)
            with torch.autocast(**self.target.autocast):
                score = self.critic(fake)
            (self.params.mse_weight * loss - score.float().mean()).backward()
            self.optimizers[self.generator].step()
        return loss.detach()

    def _critic_step(self, fake: Tensor, real: Tensor) -> None:
        self.optimizers[self.critic].zero_grad(set_to_none=True)
        mix = torch.rand(len(real), 1, 1, 1, generator=self.mixing, device=real.device)
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        with torch.autocast(**self.target.autocast):
            scores = self.critic(torch.cat([fake, real])).float().flatten()
        inner = self.critic(between)  # in fp32: the penalty is a gradient of a gradient
        (gradient,) = torch.autograd.grad(inner.sum(), between, create_graph=True)
        norm = gradient.float().flatten(1).square().sum(1).clamp_min(1e-12).sqrt()
        fakes, reals = scores.chunk(2)
        loss = fakes.mean() - reals.mean() + self.params.penalty * (norm - 1).square().mean()
        loss.backward()
        self.optimizers[self.critic].step()

    @torch.no_grad()
    def reconstruct(self, z: Tensor) -> Tensor:
        self.generator.eval()
        with torch.autocast(**self.target.autocast):
            reconstruction = self.generator(z)
        self.generator.train()
        return reconstruction.float()

    def parts(self) -> dict[str, object]:
        names = {self.generator: "generator", self.critic: "critic"}
        parts = super().parts() | {name: network for network, name in names.items()}
        parts |= {f"{names[network]}_optimizer": item for network, item in self.optimizers.items()}
        return parts | {"mixing": self.mixing}
