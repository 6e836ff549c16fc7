"""InfoScissors: the encoder is charged an upper bound on what its feature tells of the image.

Sources: Duan, Sun, Jia, Chen & Gorlatova, "Reimagining Mutual Information for Enhanced Defense against Data Leakage in
Collaborative Inference", NeurIPS 2024; the bound is CLUB of Cheng et al., ICML 2020. Simplified: the paper's second
bound, on what is told of the prediction, is not included, because here the server makes the prediction; the
decoder is ResSFL's, the density about its output is Gaussian of one fixed variance, which `weight` takes in, and the
bound counts where it is positive, as mutual information is.
"""

from torch import Tensor
from torch.nn.functional import mse_loss, relu

from benchmark.defenses import DEFENSES, Batch
from benchmark.defenses.adversary import AdversaryDefense


@DEFENSES.register("infoscissors")
class InfoScissors(AdversaryDefense):
    """CE + weight relu(MSE(G(z_clean), x') - MSE(G(z_clean), x)), x' another image of the batch, pixels in [0, 1].

    I(x; z) <= E log q(x | z) - E log q(x' | z) where q(x | z) = N(G(z), v I) is close enough to p(x | z), which is the
    difference of squared distances over 2 v. Before each step of the encoder G takes its own towards a lower MSE, on
    the feature of the encoder in evaluation mode; the encoder is judged by G in evaluation mode. G sees
    clean features.
    """

    title = "InfoScissors"

    def score(self, rebuilt, x01):
        return mse_loss(rebuilt, x01)

    def charge(self, rebuilt, x01):
        others = x01.roll(1, 0)  # the batch is in random order
        return relu(mse_loss(rebuilt, others) - mse_loss(rebuilt, x01))

    def loss(self, batch: Batch) -> Tensor:
        return self.params.weight * self.charged(batch)

    def end_epoch(self, epoch, model, optimizer) -> dict[str, float]:
        adversary, bound = self.means()
        return {"adversary_mse": adversary, "bound": bound}
