"""InfoScissors: the encoder's loss includes an upper bound on the information of its feature about the image.

Sources: Duan, Sun, Jia, Chen & Gorlatova, "Reimagining Mutual Information for Enhanced Defense against Data Leakage in
Collaborative Inference", NeurIPS 2024; the bound is CLUB of Cheng et al., ICML 2020. Simplified: the paper's second
bound, on information about the prediction, is not included, because here the server makes the prediction; the decoder
is ResSFL's; the density about its output is Gaussian with one fixed variance, absorbed in `weight`; and the bound only
counts when positive, as mutual information is.
"""

from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss, relu

from benchmark.config import NotNegative
from benchmark.defenses import DEFENSES, Batch
from benchmark.defenses.adversary import Adversarial


@DEFENSES.register("infoscissors")
class InfoScissors(Adversarial):
    """CE + weight relu(MSE(G(z_clean), x') - MSE(G(z_clean), x)), x' another image of the batch, pixels in [0, 1].

    I(x; z) <= E log q(x | z) - E log q(x' | z) where q(x | z) = N(G(z), v I) is close enough to p(x | z), which is the
    difference of squared distances over 2 v. G lowers the MSE, and sees clean features.
    """

    title = "InfoScissors"

    class Params(Adversarial.Params):
        weight: NotNegative = Field(description="factor on the difference of mean squared errors")

    def loss(self, batch: Batch) -> Tensor:
        rebuilt = self.judged(batch.z_clean).float()
        others = batch.x01.roll(1, 0)  # the batch is in random order
        bound = relu(mse_loss(rebuilt, others) - mse_loss(rebuilt, batch.x01))
        self.seen[2] += bound.detach()
        return self.params.weight * bound

    def end_epoch(self, epoch, model, optimizer) -> dict[str, float]:
        return dict(zip(("adversary_mse", "bound"), self.means(), strict=True))
