"""Batched augmentation: padded crop, flip and rotation of a whole batch as ONE gather.

Every image has its own draws. The three steps (in the order crop, flip, rotate) are combined into one map from each
output pixel to its source pixel, so that an image is resampled once and stays uint8 until the end.

Convention: the rotation is the one of torchvision's transforms on PIL images (nearest neighbour, black fill, positive
angles counter-clockwise, about the point (W/2, H/2), pixel centres at half-integers), computed as PIL computes it: in
16.16 fixed-point integers. So the result equals torchvision's for each image exactly, on every device, even for pixels
whose source lies on the border between two. (torchvision's own tensor version rounds such pixels by floating point,
and differs there.)
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

MAX_DEGREES = 15.0
PADDING = 4
_ONE = 1 << 16  # 1.0 in 16.16 fixed point


def augment(images: Tensor, generator: torch.Generator, crop: bool) -> Tensor:
    """Randomly augmented copies: [B, 3, H, W] uint8 or float in [0, 1] -> the same, fp32 in [0, 1], channels_last.

    Per image and independently: with `crop`, a random H x W window of the image padded by 4 black pixels; a horizontal
    flip with probability 1/2; a rotation uniform in [-15, 15] degrees (as the released training). `generator` must be
    on the images' device; nothing here waits for the device.
    """
    return apply(images, *draw(len(images), generator, crop), crop)


def draw(count: int, generator: torch.Generator, crop: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The draws for `count` images: angle in degrees float32, flip bool, top and left int64 in 0..8, each [count].

    Without `crop`, top and left are both the padding (the window in the middle), which changes nothing.
    """
    device = generator.device
    angle = (torch.rand(count, generator=generator, device=device) * 2 - 1) * MAX_DEGREES
    flip = torch.rand(count, generator=generator, device=device) < 0.5
    if crop:
        top, left = torch.randint(0, 2 * PADDING + 1, (2, count), generator=generator, device=device)
    else:
        top = left = torch.full((count,), PADDING, device=device)
    return angle, flip, top, left


def apply(images: Tensor, angle: Tensor, flip: Tensor, top: Tensor, left: Tensor, crop: bool) -> Tensor:
    """Crop, then flip, then rotate each image by its own values; shapes as for `augment` and `draw`.

    `top` and `left` are the window's corner in the padded image, in pixels; without `crop` they are ignored.
    """
    batch, channels, height, width = images.shape
    if not crop:
        top = left = torch.full_like(angle, PADDING, dtype=torch.int64)
    index, inside = _source_pixels(height, width, angle, flip, top, left)
    shape = (batch, channels, height * width)
    picked = images.reshape(shape).gather(2, index.view(batch, 1, -1).expand(shape))
    picked.mul_(inside.view(batch, 1, -1))  # black where the rotation or the window leaves the image
    picked = picked.view(images.shape)
    if picked.is_floating_point():
        return picked.contiguous(memory_format=torch.channels_last)
    return picked.to(torch.float32, memory_format=torch.channels_last).div_(255)


def _source_pixels(height: int, width: int, angle: Tensor, flip: Tensor, top: Tensor, left: Tensor):
    """For each output pixel: the source pixel's flat index, int64 [B, H, W] (0 if outside), and whether it is inside.

    All coordinates are 16.16 fixed point in int32, columns and rows in one tensor [2, ...], to need few kernels. The
    window's offset and the flip are folded into a few numbers per image, so that the work per pixel is two additions,
    two shifts and the comparisons.
    """
    grid = _grid(height, width, angle.device)
    radians = torch.deg2rad(angle.double() % 360)
    rotation = torch.addcmul(grid.constant, grid.by_cos, torch.cos(radians)).addcmul_(grid.by_sin, torch.sin(radians))
    rotation = rotation.floor_().int()  # [2, 3, B]
    # A flip maps column floor(v) to width - 1 - floor(v), which in fixed point is floor(width - 1ulp - v).
    torch.where(flip, grid.flipped - rotation[0], rotation[0], out=rotation[0])
    per_column, per_row, start = rotation.unsqueeze(3).unbind(1)  # [2, B, 1] each
    shift = torch.stack([left, top]).sub_(PADDING).int().unsqueeze(2)
    along_x = torch.addcmul(torch.add(start, shift, alpha=_ONE), per_column, grid.x)
    position = (along_x.unsqueeze(2) + (per_row * grid.y).unsqueeze(3)).bitwise_right_shift_(16)  # [2, B, H, W]
    # inside both the window (which the rotation sees) and the image
    low, high = shift.clamp(min=0), torch.minimum(shift + grid.size, grid.size)
    within = (position >= low.unsqueeze(3)).logical_and_(position < high.unsqueeze(3))
    inside = within[0].logical_and_(within[1])
    column, row = position
    return column.add_(row, alpha=width).mul_(inside).long(), inside


@dataclass(frozen=True)
class _Grid:
    """The part of the map that all images of a size share.

    constant + by_cos * cos + by_sin * sin, rounded down, gives two rows of the map from output to input position in
    PIL's fixed point: the step per column, the step per row, and the first pixel's centre; float64 [2, 3, 1].
    flipped [3, 1], size [2, 1, 1], x [W] and y [H]: int32.
    """

    constant: Tensor
    by_cos: Tensor
    by_sin: Tensor
    flipped: Tensor
    size: Tensor
    x: Tensor
    y: Tensor


@lru_cache(maxsize=32)
def _grid(height: int, width: int, device: torch.device) -> _Grid:
    """Kept, because a copy from the host is not allowed while a CUDA graph is captured (a warm-up step fills it)."""
    x, y = width / 2 - 0.5, height / 2 - 0.5  # from the centre to the first pixel's

    def rows(*values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device).mul_(_ONE).unsqueeze(2)

    with torch.inference_mode(False):
        return _Grid(
            constant=rows([0, 0, width / 2], [0, 0, height / 2]) + 0.5,
            by_cos=rows([1, 0, -x], [0, 1, -y]),
            by_sin=rows([0, -1, y], [1, 0, -x]),
            flipped=torch.tensor([[0], [0], [width * _ONE - 1]], dtype=torch.int32, device=device),
            size=torch.tensor([[[width]], [[height]]], dtype=torch.int32, device=device),
            x=torch.arange(width, dtype=torch.int32, device=device),
            y=torch.arange(height, dtype=torch.int32, device=device),
        )
