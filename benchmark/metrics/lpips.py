"""LPIPS, the distance of two images in the features of a network trained on ImageNet (Zhang et al., CVPR 2018)."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.data import _torchvision
from benchmark.data.files import digest
from benchmark.errors import UserError

FILE = "alexnet-owt-7be5be79.pth"  # torchvision's AlexNet of 2014, the network of LPIPS' version 0.1
URL = f"https://download.pytorch.org/models/{FILE}"


def weights_at_hand(given: Path | None) -> Path:
    """The file of AlexNet's weights: the one given, or the one in torch's cache. Nothing is downloaded.

    UserError if it is missing.
    """
    path = given or Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if not path.is_file():
        raise UserError(f"LPIPS needs AlexNet's weights, and there is no {path}; download {URL}, or pass --weights")
    return path


class Lpips:
    """Callable: two batches of images in [0, 1], [N, 3, H, W] with H, W >= 32 -> LPIPS [N], fp32, 0 for equal images.

    By the package `lpips` (version 0.1 of its linear weights, AlexNet), always in fp32. Lower means more alike, so a
    defence wants it high. `sha256` identifies the weights. UserError without the package, without torchvision, or for a
    file that does not hold AlexNet's weights.
    """

    def __init__(self, weights: Path, device: torch.device):
        self.network: Any = _network().to(device).eval().requires_grad_(False)
        _fill(self.network.net, weights)
        self.sha256 = digest(weights, "sha256")

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            return self.network(a.float(), b.float(), normalize=True).flatten()


def _network() -> nn.Module:
    """With random weights in its trunk."""
    if _torchvision.load("torchvision.models") is None:
        raise UserError("LPIPS needs torchvision, which does not load here; install the one made for this torch")
    try:
        import lpips
    except ImportError as error:
        raise UserError(f"LPIPS needs the package lpips ({error}); install it: pip install lpips") from None
    with warnings.catch_warnings():  # it calls torchvision by a deprecated name
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)


def _fill(trunk: nn.Module, weights: Path) -> None:
    """Load the convolutions of a torchvision AlexNet: `slice2.3.weight` of the trunk is its `features.3.weight`."""
    names = {name: f"features.{name.split('.', 1)[1]}" for name in trunk.state_dict()}
    try:
        state = dict(torch.load(weights, map_location="cpu", weights_only=True))
        trunk.load_state_dict({own: state[theirs] for own, theirs in names.items()})
    except Exception as error:  # a file of another kind can cause any error in the reader or the network
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights} does not hold torchvision's AlexNet ({reason}); download {URL}") from None
