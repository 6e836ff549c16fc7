"""BatchNorm, ReLU and 2x2 pooling over bf16 maps on a CPU, compiled by numba: two passes over memory each way.

Values in bf16 are held as uint16, the upper half of a float32. A map is [rows, channels] (channels_last), with more
dimensions if it is pooled. Each sum is over a block of rows, so sums do not depend on the threads.

The inner loops each write one array and read at most six: LLVM vectorises a loop only if a few comparisons can show
that what is written is not read.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from benchmark.compiled import compiled

_ZERO = np.float32(0)
_FIRST, _SECOND, _THIRD, _FOURTH, _NONE = (np.uint8(place) for place in range(5))
_BITS = ir.IntType(32)


@intrinsic
def _wide(context, low):
    """bf16 -> float32."""

    def build(context, builder, signature, given):
        bits = builder.shl(builder.zext(given[0], _BITS), ir.Constant(_BITS, 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.uint16), build


@intrinsic
def _narrow(context, value):
    """float32 -> bf16, to the nearest, ties to even."""

    def build(context, builder, signature, given):
        bits, half = builder.bitcast(given[0], _BITS), ir.Constant(_BITS, 16)
        odd = builder.and_(builder.lshr(bits, half), ir.Constant(_BITS, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(_BITS, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, half), ir.IntType(16))

    return types.uint16(types.float32), build


@compiled
def totals(x, block, sums, first, last):
    """sums [blocks, 2, C]: of x, and 0, for the blocks first..last-1."""
    for part in range(first, last):
        total = sums[part, 0]
        for row in range(part * block, min((part + 1) * block, len(x))):
            for c in range(x.shape[1]):
                total[c] += _wide(x[row, c])


@compiled
def moments(x, middle, block, sums, first, last):
    """sums [blocks, 2, C]: of x - middle and of its square, for the blocks first..last-1; middle [C]."""
    width = x.shape[1]
    for part in range(first, last):
        total, square = sums[part, 0], sums[part, 1]
        for row in range(part * block, min((part + 1) * block, len(x))):
            for c in range(width):
                value = _wide(x[row, c]) - middle[c]
                total[c] += value
                square[c] += value * value


@compiled
def scaled(x, slope, offset, floor, y, first, last):
    """y = max(slope x + offset, floor), of the rows first..last-1. NaN stays NaN."""
    for row in range(first, last):
        for c in range(x.shape[1]):
            value = _wide(x[row, c]) * slope[c] + offset[c]
            y[row, c] = _narrow(floor if value <= floor else value)


@compiled
def slopes(gradient, x, slope, offset, middle, floor, block, sums, first, last):
    """sums [blocks, 2, C]: of the gradient of slope x + offset, and of it times x - middle."""
    passed = np.empty(len(slope), np.float32)
    for part in range(first, last):
        total, product = sums[part, 0], sums[part, 1]
        for row in range(part * block, min((part + 1) * block, len(x))):
            for c in range(len(slope)):
                value, given = _wide(x[row, c]) * slope[c] + offset[c], _wide(gradient[row, c])
                passed[c] = _ZERO if value <= floor else given
            for c in range(len(slope)):
                total[c] += passed[c]
            for c in range(len(slope)):
                product[c] += passed[c] * (_wide(x[row, c]) - middle[c])


@compiled
def unscaled(gradient, x, slope, offset, floor, factor, constant, found, first, last):
    """The gradient of x: slope * (that of slope x + offset) + factor x + constant."""
    for row in range(first, last):
        for c in range(x.shape[1]):
            value, passed = _wide(x[row, c]), _wide(gradient[row, c])
            passed = _ZERO if value * slope[c] + offset[c] <= floor else passed
            found[row, c] = _narrow(slope[c] * passed + factor[c] * value + constant[c])


# If maps are pooled, x and found are [rows, 2, columns, 2, C], a row and column for each 2x2; gradient, y and chosen
# are [rows, columns, C]. chosen: which of the four was taken, 0 to 3, or _NONE if it was the floor.


@compiled
def pooled(x, slope, offset, floor, y, first, last):
    """The largest of each 2x2 of max(slope x + offset, floor), of the rows first..last-1."""
    for row in range(first, last):
        for column in range(y.shape[1]):
            a, b, c, d = x[row, 0, column, 0], x[row, 0, column, 1], x[row, 1, column, 0], x[row, 1, column, 1]
            largest = y[row, column]
            for i in range(len(slope)):
                best = _wide(a[i]) * slope[i] + offset[i]
                value = _wide(b[i]) * slope[i] + offset[i]
                best = best if value <= best else value
                value = _wide(c[i]) * slope[i] + offset[i]
                best = best if value <= best else value
                value = _wide(d[i]) * slope[i] + offset[i]
                best = best if value <= best else value
                largest[i] = _narrow(floor if best <= floor else best)


@compiled
def choices(x, slope, offset, floor, chosen, first, last):
    """Which of each 2x2 is the largest; among equals the first."""
    for row in range(first, last):
        for column in range(chosen.shape[1]):
            a, b, c, d = x[row, 0, column, 0], x[row, 0, column, 1], x[row, 1, column, 0], x[row, 1, column, 1]
            found = chosen[row, column]
            for i in range(len(slope)):
                v0, v1 = _wide(a[i]) * slope[i] + offset[i], _wide(b[i]) * slope[i] + offset[i]
                v2, v3 = _wide(c[i]) * slope[i] + offset[i], _wide(d[i]) * slope[i] + offset[i]
                upper, lower = v1 if v1 > v0 else v0, v3 if v3 > v2 else v2
                of_upper, of_lower = _SECOND if v1 > v0 else _FIRST, _FOURTH if v3 > v2 else _THIRD
                best, of = lower if lower > upper else upper, of_lower if lower > upper else of_upper
                found[i] = _NONE if best <= floor else of


@compiled
def slopes_pooled(gradient, x, chosen, middle, block, sums, first, last):
    """As `slopes`."""
    for part in range(first, last):
        total, product = sums[part, 0], sums[part, 1]
        for row in range(part * block, min((part + 1) * block, len(x))):
            for column in range(gradient.shape[1]):
                a, b, c, d = x[row, 0, column, 0], x[row, 0, column, 1], x[row, 1, column, 0], x[row, 1, column, 1]
                given, of = gradient[row, column], chosen[row, column]
                for i in range(len(middle)):
                    passed = _wide(given[i])
                    total[i] += _ZERO if of[i] == _NONE else passed
                for i in range(len(middle)):
                    taken, second, third, fourth = _wide(a[i]), _wide(b[i]), _wide(c[i]), _wide(d[i])
                    taken = second if of[i] == _SECOND else taken
                    taken = third if of[i] == _THIRD else taken
                    taken = fourth if of[i] == _FOURTH else taken
                    passed = _wide(given[i])
                    passed = _ZERO if of[i] == _NONE else passed
                    product[i] += passed * (taken - middle[i])


@compiled
def unscaled_pooled(gradient, x, chosen, slope, factor, constant, found, first, last):
    """As `unscaled`."""
    for row in range(first, last):
        for down in range(2):
            for column in range(gradient.shape[1]):
                given, of = gradient[row, column], chosen[row, column]
                for right in range(2):
                    here, to = x[row, down, column, right], found[row, down, column, right]
                    place = np.uint8(2 * down + right)
                    for i in range(len(slope)):
                        passed = slope[i] * _wide(given[i])
                        passed = passed if of[i] == place else _ZERO
                        to[i] = _narrow(passed + factor[i] * _wide(here[i]) + constant[i])
