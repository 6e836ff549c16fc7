"""SSIM, PSNR and MSE against the numbers of the released code."""

import math

import pytest
import torch

from benchmark.metrics import mse_per_image, psnr_per_image, ssim_per_image, summarise
from tests.support.formula import oracle, relative

ORACLE = oracle("metrics")
PAIRS = [name.removesuffix("_ssim") for name in ORACLE if name.endswith("_ssim")]


def pair(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(ORACLE[f"{name}_{side}"]).float() / 255 for side in ("a", "b"))


def test_all_pairs_of_the_file():
    assert len(PAIRS) == 9


@pytest.mark.parametrize("name", PAIRS)
def test_ssim(name):
    values = ssim_per_image(*pair(name))
    torch.testing.assert_close(values, torch.from_numpy(ORACLE[f"{name}_ssim_per_image"]).float(), rtol=0, atol=3e-5)
    assert values.double().mean().item() == pytest.approx(float(ORACLE[f"{name}_ssim"]), abs=3e-5)
    in_float64 = float(ORACLE[f"{name}_ssim_64"])
    assert values.double().mean().item() == pytest.approx(in_float64, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in PAIRS if f"{name}_ssim_grad_a" in ORACLE])
def test_gradient_of_ssim(name):
    a, b = pair(name)
    a.requires_grad_()
    ssim_per_image(a, b).mean().backward()
    assert relative(a.grad, ORACLE[f"{name}_ssim_grad_a"]) < 1e-4


@pytest.mark.parametrize("name", PAIRS)
def test_mse_and_psnr(name):
    """Equal images have an infinite PSNR in the release and 100 dB here, where one must not make a mean infinite."""
    a, b = pair(name)
    mse = mse_per_image(a, b)
    assert mse.double().mean().item() == pytest.approx(float(ORACLE[f"{name}_mse"]), rel=1e-5)
    of_batch = summarise(mse, ssim_per_image(a, b), batch=len(a))["psnr_db"]
    for ours, theirs in (
        (psnr_per_image(a, b), torch.from_numpy(ORACLE[f"{name}_psnr_per_image"])),
        (torch.tensor([of_batch]), torch.from_numpy(ORACLE[f"{name}_psnr"]).view(1)),
    ):
        theirs = theirs.double().where(theirs < math.inf, torch.tensor(100.0, dtype=torch.float64))
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-4)
