"""MSE and PSNR of reconstructions, and the summary numbers for tables and analyses."""

import math

import torch
from torch import Tensor

from benchmark.errors import UserError

QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # percent of the images
SMALLEST_MSE = 1e-10  # PSNR is capped at 100 dB, so that one perfect image does not make a mean infinite


def mse_per_image(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of images in [0, 1], two of [N, ...] -> fp32 [N]. ValueError if shapes differ."""
    if a.shape != b.shape:
        raise ValueError(f"MSE compares images of one shape, not {a.shape} and {b.shape}")
    return (a.float() - b.float()).square().flatten(1).mean(1)


def psnr_per_image(a: Tensor, b: Tensor) -> Tensor:
    """10 log10(1 / MSE) in dB, two of [N, ...] -> fp32 [N]; at most 100 dB, the value of equal images."""
    return psnr_of_mse(mse_per_image(a, b))


def summarise(per_image_mse: Tensor, per_image_ssim: Tensor, batch: int = 128) -> dict[str, float]:
    """Numbers for a set of reconstructed images, from MSE [N] and SSIM [N] in the order of scoring.

    mse, ssim: means over the images. PSNR in dB, each PSNR capped at 100:
    psnr_db: of the MSE of each of the consecutive batches, averaged with the batches' sizes as weights (the
    paper's tables); psnr_db_per_image: mean of each image's own; psnr_db_of_mean_mse: of the mean MSE.
    mse_worst_1_percent, ssim_worst_1_percent: means over the 1 % of images (one at least) that are
    reconstructed best by that metric, the worst case for privacy. mse_q01 to mse_q99, ssim_q01 to ssim_q99: the value
    below which so many percent of the images (QUANTILES) are, interpolated linearly. A NaN among the inputs makes
    every number that depends on it NaN. Raises UserError for no images at all, ValueError for tensors of different
    lengths.
    """
    if per_image_mse.shape != per_image_ssim.shape or per_image_mse.dim() != 1:
        raise ValueError(f"one MSE and one SSIM an image, not {per_image_mse.shape} and {per_image_ssim.shape}")
    if len(per_image_mse) == 0:
        raise UserError("no reconstructed images to score; give the test set at least one image")
    mse, ssim = per_image_mse.detach().cpu().double(), per_image_ssim.detach().cpu().double()
    parts = mse.split(batch)
    summary = {
        "mse": mse.mean(),
        "ssim": ssim.mean(),
        "psnr_db": sum(psnr_of_mse(part.mean()) * len(part) for part in parts) / len(mse),
        "psnr_db_per_image": psnr_of_mse(mse).mean(),
        "psnr_db_of_mean_mse": psnr_of_mse(mse.mean()),
        "mse_worst_1_percent": lowest_percent(mse),
        "ssim_worst_1_percent": -lowest_percent(-ssim),
    }
    at = torch.tensor(QUANTILES, dtype=torch.float64) / 100
    for name, values in (("mse", mse), ("ssim", ssim)):
        summary |= dict(zip(quantile_names(name), torch.quantile(values, at), strict=True))
    return {name: float(value) for name, value in summary.items()}


def combine(of_mse: dict[str, float], of_ssim: dict[str, float]) -> dict[str, float]:
    """The numbers of `summarise` from two sets of them: SSIM's from the second, MSE's and PSNR's from the first."""
    names = summarise(torch.zeros(1), torch.zeros(1))
    sources = {name: of_ssim if name.startswith("ssim") else of_mse for name in names}
    return {name: found[name] for name, found in sources.items() if name in found}


def quantile_names(metric: str) -> list[str]:
    """The keys of QUANTILES of a metric: `mse_q01`, ..."""
    return [f"{metric}_q{percent:02d}" for percent in QUANTILES]


def psnr_of_mse(mse: Tensor) -> Tensor:
    """PSNR in dB of each MSE of images in [0, 1], at most 100."""
    return -10 * mse.clamp_min(SMALLEST_MSE).log10()


def lowest_percent(values: Tensor) -> Tensor:
    """Mean of the lowest 1 % (one at least) of the values [N], 0-dim; NaN if any value is NaN."""
    if values.isnan().any():  # sorting would put it last and drop it
        return torch.tensor(math.nan)
    return values.sort().values[: max(len(values) // 100, 1)].mean()
