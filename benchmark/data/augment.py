"""Batched augmentation: padded crop, flip and rotation of a whole batch as ONE gather.

Every image has its own draws. The three steps (in the order crop, flip, rotate) are composed into one map
that tells, for each output pixel, which source pixel it shows, so that an image is resampled once and stays
uint8 until the end.

Convention: the rotation is the one of torchvision's transforms on PIL images (nearest neighbour, black fill,
positive angles counter-clockwise, about the point (W/2, H/2), pixel centres at half-integers), computed as
PIL computes it: in 16.16 fixed-point integers. So the result equals torchvision's for each image exactly, on
every device, with no tolerance for pixels whose source lies on the border between two. (torchvision's own
tensor version rounds such pixels by floating point and differs from its PIL version there.)
"""

import torch
from torch import Tensor

from benchmark.data.tensors import to_unit

MAX_DEGREES = 15.0
PADDING = 4
_ONE = 1 << 16  # 1.0 in 16.16 fixed point


def augment(images: Tensor, generator: torch.Generator, crop: bool) -> Tensor:
    """Randomly augmented copies: [B, 3, H, W] uint8 or float in [0, 1] -> float32 [B, 3, H, W] in [0, 1].

    Per image and independently: with `crop`, a random H x W window of the image padded by 4 black pixels; a
    horizontal flip with probability 1/2; a rotation uniform in [-15, 15] degrees (as the released training).
    `generator` must be one of the images' device; nothing here waits for the device.
    """
    return apply(images, *draw(len(images), generator, crop), crop)


def draw(count: int, generator: torch.Generator, crop: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The draws for `count` images: angle in degrees float32, flip bool, top and left int64 in 0..8, each
    [count].

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
    return to_unit(picked).view(images.shape)


def _source_pixels(height: int, width: int, angle: Tensor, flip: Tensor, top: Tensor, left: Tensor):
    """For each output pixel: the source pixel's flat index, int64 [B, H, W] (0 if outside), and whether it is
    inside.

    All coordinates are 16.16 fixed point in int32. The window's offset and the flip are folded into the few
    numbers per image, so that the work per pixel is two additions, two shifts and the comparisons.
    """
    (xx, xy, x0), (yx, yy, y0) = _rotation(height, width, angle)
    # A flip maps column floor(v) to width - 1 - floor(v), which in fixed point is floor(width - 1ulp - v).
    sign = 1 - 2 * flip.int()
    xx, xy = xx * sign, xy * sign
    x0 = torch.where(flip, width * _ONE - 1 - x0, x0)
    shift_x, shift_y = (left - PADDING).int(), (top - PADDING).int()
    column = _affine(height, width, xx, xy, x0 + shift_x * _ONE)
    row = _affine(height, width, yx, yy, y0 + shift_y * _ONE)
    inside = _within(column, shift_x, width) & _within(row, shift_y, height)
    return (row.mul_(width).add_(column).mul_(inside)).long(), inside


def _rotation(height: int, width: int, angle: Tensor):
    """Two rows of the map output -> input position, as PIL's fixed-point numbers: int32 [B] each.

    The third number of a row is the position of the first output pixel's centre.
    """
    radians = -torch.deg2rad(angle.double() % 360)
    cos, sin = torch.cos(radians), torch.sin(radians)
    centre_x, centre_y = width / 2, height / 2
    x0 = centre_x - cos * centre_x - sin * centre_y
    y0 = centre_y + sin * centre_x - cos * centre_y
    return (
        (_fixed(cos), _fixed(sin), _fixed(x0 + cos * 0.5 + sin * 0.5)),
        (_fixed(-sin), _fixed(cos), _fixed(y0 - sin * 0.5 + cos * 0.5)),
    )


def _fixed(value: Tensor) -> Tensor:
    return torch.floor(value * _ONE + 0.5).int()


def _affine(height: int, width: int, per_column: Tensor, per_row: Tensor, start: Tensor) -> Tensor:
    """Whole-pixel positions floor(per_column * x + per_row * y + start): int32 [B, H, W]."""
    x = torch.arange(width, dtype=torch.int32, device=start.device)
    y = torch.arange(height, dtype=torch.int32, device=start.device)
    along_x = per_column[:, None] * x + start[:, None]
    along_y = per_row[:, None] * y
    return (along_x[:, None, :] + along_y[:, :, None]).bitwise_right_shift_(16)


def _within(position: Tensor, shift: Tensor, size: int) -> Tensor:
    """Inside both the window (which the rotation sees) and the image: bool [B, H, W]."""
    low = shift.clamp(min=0)[:, None, None]
    high = (shift + size).clamp(max=size)[:, None, None]
    return (position >= low) & (position < high)
