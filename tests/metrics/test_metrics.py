"""Metrics against scikit-image, closed forms and a naive loop."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmark.errors import UserError
from benchmark.metrics import (
    correct_count,
    mse_per_image,
    psnr_per_image,
    ssim_per_image,
    summarise,
)
from benchmark.metrics.reconstruction import QUANTILES


def pictures(count=3, height=32, width=32, noise=0.1, seed=0):
    """A smooth batch and a noisy copy of it, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 5, 5, generator=generator)
    a = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    b = (a + noise * torch.randn(a.shape, generator=generator)).clamp(0, 1)
    return a, b


def skimage_map(a, b):
    """scikit-image's SSIM and its map, for one image [3, H, W], in float64."""
    return structural_similarity(
        a.double().numpy(), b.double().numpy(), channel_axis=0, data_range=1.0, gaussian_weights=True,
        sigma=1.5, use_sample_covariance=False, full=True,
    )  # fmt: skip


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (64, 64), (32, 40), (11, 13)])
def test_valid_ssim_is_scikit_images(size):
    a, b = pictures(3, *size)
    expected = [skimage_map(x, y)[0] for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(ssim_per_image(a, b, "valid"), torch.tensor(expected).float(), atol=2e-5, rtol=0)


def test_zero_padded_ssim_is_scikit_images_on_a_black_frame():
    # windows reach 5 px out of the image, so on a picture with a wide black frame scikit-image's map, cut to
    # the picture, is the zero-padded one
    a, b = pictures(3)
    frame = 12
    expected = []
    for x, y in zip(a, b, strict=True):
        padded = [torch.nn.functional.pad(image, (frame,) * 4) for image in (x, y)]
        full = skimage_map(*padded)[1]
        expected.append(full[:, frame:-frame, frame:-frame].mean())
    torch.testing.assert_close(ssim_per_image(a, b), torch.tensor(np.array(expected)).float(), atol=2e-5, rtol=0)


def test_ssim_known_values():
    a, b = pictures()
    torch.testing.assert_close(ssim_per_image(a, a), torch.ones(3))
    torch.testing.assert_close(ssim_per_image(a, b), ssim_per_image(b, a))
    # constants c and d: no variance inside, so SSIM there is the luminance term alone
    c, d = torch.full((1, 3, 21, 21), 0.3), torch.full((1, 3, 21, 21), 0.7)
    luminance = (2 * 0.3 * 0.7 + 1e-4) / (0.3**2 + 0.7**2 + 1e-4)
    assert ssim_per_image(c, d, "valid").item() == pytest.approx(luminance, abs=2e-4)


def test_ssim_gradient_is_the_numerical_one():
    a, b = pictures(2, 16, 16)
    a = a.requires_grad_()
    ssim_per_image(a, b).sum().backward()
    direction = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    step = 1e-3
    with torch.no_grad():
        ahead, behind = (ssim_per_image(a + sign * step * direction, b).double().sum() for sign in (1, -1))
    assert (a.grad * direction).sum().item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-2)


def test_ssim_is_fp32_in_autocast_and_accepts_any_memory_format():
    a, b = pictures()
    plain = ssim_per_image(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssim_per_image(a, b)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, plain, atol=0, rtol=0)
    channels_last = [image.contiguous(memory_format=torch.channels_last) for image in (a, b)]
    torch.testing.assert_close(ssim_per_image(*channels_last), plain)
    assert ssim_per_image(a.bfloat16(), b).dtype == torch.float32


def test_ssim_first_used_in_inference_mode_can_be_differentiated_later():
    a, b = pictures(1, 37, 37)
    with torch.inference_mode():
        ssim_per_image(a, b)
    a = a.clone().requires_grad_()
    ssim_per_image(a, b).sum().backward()
    assert a.grad.abs().sum() > 0


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (0, 2, 31, 31), (0, 1, 16, 16)])
def test_nan_in_one_image_stays_in_that_image(place):
    a, b = pictures()
    a[place] = math.nan
    for values in (ssim_per_image(a, b), mse_per_image(a, b), psnr_per_image(a, b)):
        assert values.isnan().tolist() == [True, False, False]


def test_mse_and_psnr():
    a, b = pictures()
    expected = [peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=1.0) for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(psnr_per_image(a, b), torch.tensor(expected).float())
    zeros = torch.zeros(2, 3, 4, 4)
    torch.testing.assert_close(mse_per_image(zeros, zeros + 0.1), torch.full((2,), 0.01))
    torch.testing.assert_close(psnr_per_image(zeros, zeros + 0.1), torch.full((2,), 20.0))
    assert psnr_per_image(zeros, zeros).tolist() == [100.0, 100.0]


def test_summary_against_a_loop():
    generator = torch.Generator().manual_seed(3)
    mse, ssim = torch.rand(300, generator=generator) * 0.1, torch.rand(300, generator=generator)
    got = summarise(mse, ssim, batch=128)
    numbers = mse.double().tolist()
    batches = [numbers[:128], numbers[128:256], numbers[256:]]
    psnr = sum(len(part) * 10 * math.log10(1 / (sum(part) / len(part))) for part in batches) / 300
    mean = sum(numbers) / 300
    assert got == pytest.approx(
        {
            "mse": mean,
            "ssim": ssim.double().mean().item(),
            "psnr_db": psnr,
            "psnr_db_per_image": sum(10 * math.log10(1 / value) for value in numbers) / 300,
            "psnr_db_of_mean_mse": 10 * math.log10(1 / mean),
            "mse_worst_1_percent": sum(sorted(numbers)[:3]) / 3,
            "ssim_worst_1_percent": sum(sorted(ssim.double().tolist())[-3:]) / 3,
        }
        | {f"mse_q{percent:02d}": np.quantile(mse.double(), percent / 100) for percent in QUANTILES}
        | {f"ssim_q{percent:02d}": np.quantile(ssim.double(), percent / 100) for percent in QUANTILES}
    )
    # by Jensen's inequality the paper's PSNR lies between the other two
    assert got["psnr_db_of_mean_mse"] <= got["psnr_db"] <= got["psnr_db_per_image"]


def test_summary_of_equal_errors_and_of_perfect_images():
    same = summarise(torch.full((200,), 0.01), torch.full((200,), 0.5))
    assert [same[key] for key in ("psnr_db", "psnr_db_per_image", "psnr_db_of_mean_mse")] == pytest.approx([20] * 3)
    perfect = summarise(torch.zeros(3), torch.ones(3))
    assert perfect["psnr_db"] == perfect["psnr_db_per_image"] == 100
    assert perfect["mse_worst_1_percent"] == 0 and perfect["ssim_worst_1_percent"] == 1


def test_nan_is_never_dropped_from_a_summary():
    mse, ssim = torch.full((300,), 0.01), torch.full((300,), 0.5)
    mse[250] = math.nan
    got = summarise(mse, ssim)
    assert {key for key, value in got.items() if math.isnan(value)} == {key for key in got if "ssim" not in key}
    ssim[0] = math.nan
    assert all(math.isnan(value) for value in summarise(mse, ssim).values())


def test_accuracy():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [math.nan, 1.0]])
    labels = torch.tensor([0, 1, 1, 0])
    assert correct_count(logits, labels).item() == 2 and correct_count(logits, labels).dtype == torch.int64
    assert correct_count(logits[:0], labels[:0]).item() == 0


def test_bad_input():
    a, b = pictures()
    with pytest.raises(ValueError, match="one shape"):
        ssim_per_image(a, b[:2])
    with pytest.raises(ValueError, match="one shape"):
        mse_per_image(a, b[:, :, :-1])
    with pytest.raises(ValueError, match="11 px"):
        ssim_per_image(a[..., :10], b[..., :10], "valid")
    with pytest.raises(UserError, match="at least one image"):
        summarise(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="one MSE and one SSIM"):
        summarise(torch.zeros(3), torch.zeros(2))
