"""InfoScissors: the encoder is charged an upper bound on what its feature tells of the image.

Sources: Duan, Sun, Jia, Chen & Gorlatova, "Reimagining Mutual Information for Enhanced Defense against Data Leakage in
Collaborative Inference", NeurIPS 2024; the bound is CLUB of Cheng et al., ICML 2020. Simplified: the paper's second
bound, on what is told of the prediction, is not included, because here the server makes the prediction; the
decoder is ResSFL's, the density about its output is Gaussian of one fixed variance, which `weight` takes in, and the
bound counts where it is positive, as mutual information is.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss, relu

from benchmark.config import Count, Number
from benchmark.defenses import DEFENSES, Batch, Defense
from benchmark.models.decoder import Decoder, xavier_
from benchmark.training.casts import cast_once
from benchmark.training.graph import adam


@DEFENSES.register("infoscissors")
class InfoScissors(Defense):
    """CE + weight relu(MSE(G(z_clean), x') - MSE(G(z_clean), x)), x' another image of the batch, pixels in [0, 1].

    I(x; z) <= E log q(x | z) - E log q(x' | z) where q(x | z) = N(G(z), v I) is close enough to p(x | z), which is the
    difference of squared distances over 2 v. Before each step of the encoder G takes its own towards a lower MSE, on
    the feature of the encoder in evaluation mode; the encoder is judged by G in evaluation mode. G sees
    clean features.
    """

    title = "InfoScissors"

    class Params(Defense.Params):
        weight: Annotated[Number, Field(ge=0)] = Field(description="factor on the difference of mean squared errors")
        adversary_lr: Annotated[Number, Field(gt=0)] = Field(description="learning rate of G's Adam")
        adversary_steps: Count = Field(description="steps of G before each of the encoder's")
        adversary_blocks: Count = Field(description="residual blocks of G")

    seen: Tensor
    adversary: Decoder  # G, made by `build`: the attacker never needs it
    optimizer: torch.optim.Adam

    def __init__(self, params: Params, setting):
        super().__init__(params, setting)
        # of this epoch: steps, MSE of G before each step of its own, the bound that the encoder was charged
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

    def build(self) -> None:
        setting = self.setting
        adversary = Decoder(setting.feature_shape, setting.image_size, blocks=self.params.adversary_blocks)
        xavier_(adversary)
        self.adversary = adversary.to(setting.device, memory_format=torch.channels_last)
        self.optimizer = adam(self.adversary.parameters(), self.params.adversary_lr, setting.device)

    def optimizers(self):
        return {"adversary": self.optimizer}

    def before_step(self, x01, x, encode) -> None:
        z_clean = encode(x)
        for _ in range(self.params.adversary_steps):
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(**self.setting.autocast):
                rebuilt = cast_once(self.adversary, z_clean)
            mse = mse_loss(rebuilt.float(), x01)
            mse.backward()
            self.optimizer.step()
            self.seen[1] += mse.detach() / self.params.adversary_steps
        self.seen[0] += 1

    def loss(self, batch: Batch) -> Tensor:
        self.adversary.eval().requires_grad_(False)
        rebuilt = cast_once(self.adversary, batch.z_clean).float()
        self.adversary.train().requires_grad_(True)
        others = batch.x01.roll(1, 0)  # the batch is in random order
        bound = relu(mse_loss(rebuilt, others) - mse_loss(rebuilt, batch.x01))
        self.seen[2] += bound.detach()
        return self.params.weight * bound

    def end_epoch(self, epoch, model, optimizer) -> dict[str, float]:
        steps, adversary, bound = self.seen.tolist()
        self.seen.zero_()
        return {"adversary_mse": adversary / steps, "bound": bound / steps}
