"""How good a reconstruction and a classification are, in the paper's convention and per image."""

from benchmark.metrics.accuracy import correct_count
from benchmark.metrics.reconstruction import lowest_percent, mse_per_image, psnr_per_image, summarise
from benchmark.metrics.ssim import ssim_per_image

__all__ = [
    "correct_count",
    "lowest_percent",
    "mse_per_image",
    "psnr_per_image",
    "ssim_per_image",
    "summarise",
]
