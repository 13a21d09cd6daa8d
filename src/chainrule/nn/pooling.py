"""Pools: the largest, or the mean, of every window of a series or an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from chainrule.errors import RecipeError, ShapeError
from chainrule.graph import Node
from chainrule.nn.convolution import Numbers, per_axis, spatial
from chainrule.nn.module import Module
from chainrule.ops import ops
from chainrule.origin import at_user_line
from chainrule.tensor import Tensor
from chainrule.types import Type


@dataclass(frozen=True)
class Windows:
    """Where windows lie along one axis: `count` of them, the first beginning `padding` before the axis."""

    extent: int
    size: int
    stride: int
    padding: int
    dilation: int
    count: int

    @property
    def tile(self) -> bool:
        """Every window begins where the one before ends, and all lie inside."""
        side_by_side = self.stride == self.size and self.dilation == 1
        return side_by_side and self.padding == 0 and self.count * self.size <= self.extent

    @property
    def starts(self) -> Any:
        """Where each window begins."""
        return np.arange(self.count) * self.stride - self.padding

    @property
    def places(self) -> Any:
        """What each window reads: (count, size) positions, of which some may lie outside of the axis."""
        return self.starts[:, None] + np.arange(self.size) * self.dilation

    def lengths(self, include_padding: bool) -> Any:
        """How many elements of each window count: with the padding, or only those on the axis."""
        ends = np.minimum(self.starts + self.size, self.extent + self.padding)
        if include_padding:
            return ends - self.starts
        return np.minimum(ends, self.extent) - np.maximum(self.starts, 0)


def _windows(
    name: str,
    x: Node,
    axes: int,
    kernel_size: Numbers,
    stride: Numbers | None,
    padding: Numbers,
    dilation: Numbers,
    ceil_mode: bool,
) -> list[Windows]:
    """The windows along each axis of space: the last ones of x."""
    each = zip(
        x.shape[-axes:],
        per_axis(f"{name}: kernel_size", kernel_size, axes),
        per_axis(f"{name}: stride", kernel_size if stride is None else stride, axes),
        per_axis(f"{name}: padding", padding, axes, least=0),
        per_axis(f"{name}: dilation", dilation, axes),
        strict=True,
    )
    return [_along(name, x, ceil_mode, *numbers) for numbers in each]


def _along(
    name: str, x: Node, ceil_mode: bool, extent: int, size: int, stride: int, padding: int, dilation: int
) -> Windows:
    span = (size - 1) * dilation + 1
    if 2 * padding > size:
        raise RecipeError(
            f"{name}: padding = {padding} is more than half of kernel_size = {size}{at_user_line()}"
        )
    room = extent + 2 * padding - span
    if room < 0 or not extent:
        raise ShapeError(
            f"{name}: a window that spans {span} does not fit into a length of {extent} with padding "
            f"{padding}; the input has shape {x.shape}{at_user_line()}"
        )
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if (count - 1) * stride >= extent + padding:  # the last window would read nothing but padding
        count -= 1
    return Windows(extent, size, stride, padding, dilation, count)


def _tiles(x: Node, windows: list[Windows]) -> tuple[Node, tuple[int, ...]]:
    """x with an axis of windows and one of their elements for each of space; the axes of elements."""
    lead = x.ndim - len(windows)
    used = tuple(each.count * each.size for each in windows)
    cut = ops.getitem(x, (..., *(slice(0, extent) for extent in used)))
    split = [extent for each in windows for extent in (each.count, each.size)]
    return ops.reshape(cut, (*x.shape[:lead], *split)), tuple(range(lead + 1, lead + len(split), 2))


# -- the largest -------------------------------------------------------------------------------------------
def max_pool1d(
    input: Any,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`max_pool2d` along one axis: (rows, channels, length) → (rows, channels, windows)."""
    return _largest(1, input, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    input: Any,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest of every window: (rows, channels, height, width) → (rows, channels, …); rows may lack.

    Windows begin every `stride` (None: side by side); their elements are `dilation` apart. `padding` lays
    minus infinity around; ceil_mode keeps a last window that is not full. Numbers may be pairs, for height
    and width. Elements that tie for the largest share the derivative, where PyTorch gives it to the first:
    the sum is the same. Raises ShapeError where no window fits.

    >>> import chainrule as cr
    >>> cr.nn.functional.max_pool2d(cr.asarray([[[1.0, 2.0, 5.0], [4.0, 3.0, 6.0]]]), 2).tolist()
    [[[4.0]]]
    """
    return _largest(2, input, kernel_size, stride, padding, dilation, ceil_mode)


def _largest(
    axes: int,
    input: Any,
    kernel_size: Numbers,
    stride: Numbers | None,
    padding: Numbers,
    dilation: Numbers,
    ceil_mode: bool,
) -> Tensor:
    name = f"max_pool{axes}d"
    x = spatial(name, input, axes)
    windows = _windows(name, x, axes, kernel_size, stride, padding, dilation, ceil_mode)
    if all(each.tile for each in windows):
        tiles, axis = _tiles(x, windows)
        return Tensor(ops.max(tiles, axis=axis))
    elements = _gathered(x, windows)
    return Tensor(ops.max(elements, axis=tuple(range(-len(windows), 0))))


def _gathered(x: Node, windows: list[Windows]) -> Node:
    """What the windows read: axes of windows, then axes of elements; minus infinity outside of x."""
    axes = len(windows)
    places, inside = [], np.True_
    for k, each in enumerate(windows):
        shape = [1] * (2 * axes)
        shape[k], shape[axes + k] = each.count, each.size
        at = each.places.reshape(shape)
        inside = inside & (at >= 0) & (at < each.extent)
        places.append(np.clip(at, 0, each.extent - 1))
    read = ops.gather(x, *places, axis=x.ndim - axes)
    return read if np.all(inside) else ops.where(inside, read, -math.inf)


# -- the mean ----------------------------------------------------------------------------------------------
def avg_pool1d(
    input: Any,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """`avg_pool2d` along one axis: (rows, channels, length) → (rows, channels, windows)."""
    return _mean(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Any,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of every window: (rows, channels, height, width) → (rows, channels, …); rows may lack.

    Windows begin every `stride` (None: side by side). `padding` lays zeros around, which count as elements
    unless count_include_pad is False; ceil_mode keeps a last window that is not full. Numbers may be pairs,
    for height and width. Raises ShapeError where no window fits.

    >>> import chainrule as cr
    >>> cr.nn.functional.avg_pool2d(cr.asarray([[[1.0, 2.0, 5.0], [4.0, 3.0, 6.0]]]), 2).tolist()
    [[[2.5]]]
    """
    return _mean(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def _mean(
    axes: int,
    input: Any,
    kernel_size: Numbers,
    stride: Numbers | None,
    padding: Numbers,
    ceil_mode: bool,
    count_include_pad: bool,
) -> Tensor:
    name = f"avg_pool{axes}d"
    x = spatial(name, input, axes)
    windows = _windows(name, x, axes, kernel_size, stride, padding, 1, ceil_mode)
    if all(each.tile for each in windows):
        tiles, axis = _tiles(x, windows)
        return Tensor(ops.mean(tiles, axis=axis))
    counted = reduce(np.multiply.outer, [each.lengths(count_include_pad) for each in windows])
    return Tensor(ops.divide(_summed(x, windows), ops.constant(counted, x.dtype)))


def _summed(x: Node, windows: list[Windows]) -> Node:
    """The sum of every window: a convolution of each channel by itself with a kernel of ones."""
    lead = x.shape[: x.ndim - len(windows)]
    ones = ops.full(Type((1, 1, *(each.size for each in windows)), x.dtype), 1)
    sums = ops.convolve(
        ops.reshape(x, (math.prod(lead), 1, *(each.extent for each in windows))),
        ones,
        strides=tuple(each.stride for each in windows),
        padding=tuple((each.padding, int(each.places[-1, -1]) + 1 - each.extent) for each in windows),
        input_dilation=(1,) * len(windows),
        kernel_dilation=(1,) * len(windows),
    )
    return ops.reshape(sums, (*lead, *(each.count for each in windows)))


def adaptive_avg_pool2d(input: Any, output_size: Numbers) -> Tensor:
    """The mean of equal parts of each image, output_size of them down and across; 1 is the global mean.

    Raises ShapeError unless height and width are multiples of output_size: parts of different sizes, which
    PyTorch makes of all others, are not supported.

    >>> import chainrule as cr
    >>> cr.nn.functional.adaptive_avg_pool2d(cr.asarray([[[1.0, 2.0], [3.0, 6.0]]]), 1).tolist()
    [[[3.0]]]
    """
    x = spatial("adaptive_avg_pool2d", input, 2)
    wanted = per_axis("adaptive_avg_pool2d: output_size", output_size, 2)
    if any(extent % count for extent, count in zip(x.shape[-2:], wanted, strict=True)):
        raise ShapeError(
            f"adaptive_avg_pool2d: height and width must be multiples of output_size = {wanted}, but the "
            f"input has shape {x.shape}{at_user_line()}; pad it, or use avg_pool2d"
        )
    return avg_pool2d(x, tuple(extent // count for extent, count in zip(x.shape[-2:], wanted, strict=True)))


# -- layers ------------------------------------------------------------------------------------------------
class Pool(Module):
    """What the pools share; `axes` are those of space."""

    axes: int

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        ceil_mode: bool = False,
    ) -> None:
        name = type(self).__name__
        self.kernel_size = per_axis(f"{name}: kernel_size", kernel_size, self.axes)
        self.stride = per_axis(f"{name}: stride", kernel_size if stride is None else stride, self.axes)
        self.padding = per_axis(f"{name}: padding", padding, self.axes, least=0)
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool(Pool):
    """What MaxPool1d and MaxPool2d share."""

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        dilation: Numbers = 1,
        *,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = per_axis(f"{type(self).__name__}: dilation", dilation, self.axes)

    def forward(self, input: Any) -> Tensor:
        return _largest(
            self.axes, input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dilation={self.dilation}, ceil_mode={self.ceil_mode}"


class MaxPool1d(MaxPool):
    """The largest of every window of a series: (rows, channels, length) → (rows, channels, windows)."""

    axes = 1


class MaxPool2d(MaxPool):
    """The largest of every window of an image; `max_pool2d` says what the options mean.

    >>> import chainrule as cr
    >>> cr.nn.MaxPool2d(2)(cr.ones((5, 8, 26, 26))).shape
    (5, 8, 13, 13)
    """

    axes = 2


class AvgPool(Pool):
    """What AvgPool1d and AvgPool2d share."""

    def __init__(
        self,
        kernel_size: Numbers,
        stride: Numbers | None = None,
        padding: Numbers = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = count_include_pad

    def forward(self, input: Any) -> Tensor:
        return _mean(
            self.axes, input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad,
        )  # fmt: skip


class AvgPool1d(AvgPool):
    """The mean of every window of a series: (rows, channels, length) → (rows, channels, windows)."""

    axes = 1


class AvgPool2d(AvgPool):
    """The mean of every window of an image; `avg_pool2d` says what the options mean.

    >>> import chainrule as cr
    >>> cr.nn.AvgPool2d(3, stride=2, padding=1)(cr.ones((5, 8, 26, 26))).shape
    (5, 8, 13, 13)
    """

    axes = 2


class AdaptiveAvgPool2d(Module):
    """The mean of equal parts of each image, output_size of them down and across; 1 is the global mean.

    >>> import chainrule as cr
    >>> cr.nn.AdaptiveAvgPool2d(1)(cr.ones((5, 8, 26, 26))).shape
    (5, 8, 1, 1)
    """

    def __init__(self, output_size: Numbers) -> None:
        self.output_size = per_axis("AdaptiveAvgPool2d: output_size", output_size, 2)

    def forward(self, input: Any) -> Tensor:
        return adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
