"""Convolution, in one primitive whose derivatives are convolutions again.

What closes the family is that windows may take strides, that elements may be spread with zeros between them,
and that padding may be negative: the derivative by the input spreads what the strides skipped, the derivative
by the kernel strides over what was spread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chainrule.errors import ShapeError
from chainrule.nest import Index, Nest, Read, along, multiplied
from chainrule.primitive import Draw, Primitive, Sample
from chainrule.types import Shape, Type, promote_dtypes


# -- one axis of space -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Axis:
    """How windows lie along one axis of space.

    `count` elements of x, `input_dilation` apart, have `low` zeros before and `high` behind them (below 0
    that many are cut off). Windows begin every `stride`; each reads `size` elements, `kernel_dilation` apart.
    """

    count: int
    size: int
    stride: int
    low: int
    high: int
    input_dilation: int
    kernel_dilation: int

    @property
    def windows(self) -> int:
        """How many windows there are."""
        return max(0, (self.filled + self.low + self.high - self.span) // self.stride + 1)

    @property
    def filled(self) -> int:
        """The length that the elements of x take up."""
        return _length(self.count, self.input_dilation)

    @property
    def span(self) -> int:
        """The length of a window."""
        return _length(self.size, self.kernel_dilation)

    def fitted(self, windows: int) -> Axis:
        """The same axis with as much room behind as makes that many windows."""
        return replace(self, high=(windows - 1) * self.stride + self.span - self.filled - self.low)

    def index(self, window: int, element: int) -> Index:
        """Where the loop axes that count windows and their elements read x."""
        terms = ((window, self.stride), (element, self.kernel_dilation))
        return Index(terms, -self.low, divisor=self.input_dilation, exact=True)


def _length(count: int, dilation: int) -> int:
    return (count - 1) * dilation + 1 if count else 0


def _axes(
    space: Shape,
    kernel: Shape,
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    input_dilation: tuple[int, ...],
    kernel_dilation: tuple[int, ...],
) -> list[Axis]:
    each = zip(space, kernel, strides, padding, input_dilation, kernel_dilation, strict=True)
    return [
        Axis(count, size, stride, low, high, of_input, of_kernel)
        for count, size, stride, (low, high), of_input, of_kernel in each
    ]


def _attributes(axes: Iterable[Axis]) -> dict[str, Any]:
    """The attributes from which `_axes` makes these axes."""
    return {
        "strides": tuple(axis.stride for axis in axes),
        "padding": tuple((axis.low, axis.high) for axis in axes),
        "input_dilation": tuple(axis.input_dilation for axis in axes),
        "kernel_dilation": tuple(axis.kernel_dilation for axis in axes),
    }


# -- the record ------------------------------------------------------------------------------------------
# x (batch, groups..., in, space...) and w (groups..., out, in, kernel...) make y (batch, groups..., out,
# windows...): all three have as many axes, and those of space begin at the same one, `first`.
def _opened(x: Any, w: Any, attributes: dict[str, Any]) -> tuple[int, list[Axis]]:
    """`first`, and what there is to know about every axis of space."""
    first = len(x.shape) - len(attributes["strides"])
    return first, _axes(x.shape[first:], w.shape[first:], **attributes)


def _convolve_type(x: Type, w: Type, **attributes: Any) -> Type:
    first = x.ndim - len(attributes["strides"])
    if first < 2 or x.ndim != w.ndim or x.shape[1:first] != (*w.shape[: first - 2], w.shape[first - 1]):
        raise ShapeError(
            f"x (batch, groups..., in, space...) of shape {x.shape} and w (groups..., out, in, kernel...) of "
            f"shape {w.shape} do not fit, given {len(attributes['strides'])} axes of space"
        )
    windows = (axis.windows for axis in _opened(x, w, attributes)[1])
    return Type((x.shape[0], *w.shape[: first - 1], *windows), promote_dtypes([x.dtype, w.dtype]))


def _convolve(
    xp: Any, x: Any, w: Any, strides: Any, padding: Any, input_dilation: Any, kernel_dilation: Any
) -> Any:
    """One matrix product: a row for each window with what it reads, a column for each output channel."""
    first = x.ndim - len(strides)
    axes = _axes(x.shape[first:], w.shape[first:], strides, padding, input_dilation, kernel_dilation)
    groups, (outputs, channels), kernel = w.shape[: first - 2], w.shape[first - 2 : first], w.shape[first:]
    batch, space, windows = x.shape[0], tuple(range(first, x.ndim)), tuple(axis.windows for axis in axes)
    # Channels behind space: then a window is copied in runs of channels, not element by element.
    elements = xp.transpose(x, (*range(1, first - 1), 0, *space, first - 1))
    elements = xp.reshape(elements, (*groups, batch, math.prod(x.shape[first:]), channels))
    places, padded = _places(axes)
    if padded:
        nowhere = np.zeros((*groups, batch, 1, channels), x.dtype)
        elements = xp.concatenate((elements, nowhere), axis=-2)
    read = xp.take(elements, places, axis=-2)
    rows = xp.reshape(read, (*groups, batch * math.prod(windows), math.prod(kernel) * channels))
    columns = xp.transpose(w, (*range(first - 2), *space, first - 1, first - 2))
    columns = xp.reshape(columns, (*groups, math.prod(kernel) * channels, outputs))
    y = xp.reshape(xp.matmul(rows, columns), (*groups, batch, *windows, outputs))
    return xp.transpose(y, (first - 2, *range(first - 2), x.ndim - 1, *range(first - 1, x.ndim - 1)))


def _places(axes: list[Axis]) -> tuple[Any, bool]:
    """Where in space, row by row, each window reads each of its elements: one behind the last for nowhere.

    And whether any does read nowhere.
    """
    space = tuple(axis.count for axis in axes)
    grid = np.indices((*(axis.windows for axis in axes), *(axis.size for axis in axes)))
    read = Read(0, space, tuple(axis.index(k, len(axes) + k) for k, axis in enumerate(axes)))
    positions, inside = read.places(grid)
    flat = np.zeros(grid.shape[1:], np.int64)
    for position, count in zip(positions, space, strict=True):
        flat = flat * count + position
    return np.where(inside, flat, math.prod(space)).reshape(-1), not np.all(inside)


def _one_window_after_the_other(x: Any, w: Any, **attributes: Any) -> Any:
    """Zeros are laid between and around the elements; then every window is cut out and multiplied."""
    first, axes = _opened(x, w, attributes)
    for k, axis in enumerate(axes, first):
        elements, (before, behind) = np.moveaxis(x, k, 0), np.maximum((axis.low, axis.high), 0)
        laid = np.zeros((before + axis.filled + behind, *elements.shape[1:]), x.dtype)
        laid[before : before + axis.filled : axis.input_dilation] = elements
        x = np.moveaxis(laid[before - axis.low : len(laid) - behind + axis.high], 0, k)
    y = np.zeros((x.shape[0], *w.shape[: first - 1], *(axis.windows for axis in axes)), x.dtype)
    for at in np.ndindex(y.shape[first:]):
        cut = [
            slice(o * axis.stride, o * axis.stride + axis.size * axis.kernel_dilation, axis.kernel_dilation)
            for o, axis in zip(at, axes, strict=True)
        ]
        products = np.expand_dims(x[(..., *cut)], first - 1) * w
        y[(..., *at)] = products.sum(axis=tuple(range(first, products.ndim)))
    return y


def _to_x(ops: Any, g: Any, y: Any, x: Any, w: Any, **attributes: Any) -> Any:
    """Strides and input dilation change places, and the kernel is turned around."""
    first, axes = _opened(x, w, attributes)
    space = tuple(range(first, x.ndim))
    exchanged = ops.permute_dims(w, (*range(first - 2), first - 1, first - 2, *space))
    back = [
        replace(
            axis,
            count=axis.windows,
            stride=axis.input_dilation,
            input_dilation=axis.stride,
            low=axis.span - 1 - axis.low,
        ).fitted(axis.count)
        for axis in axes
    ]
    return ops.convolve(g, ops.flip(exchanged, axis=space), **_attributes(back))


def _to_w(ops: Any, g: Any, y: Any, x: Any, w: Any, **attributes: Any) -> Any:
    """Strides and kernel dilation change places; g is the kernel, and the batch is what is summed over."""
    first, axes = _opened(x, w, attributes)
    space = tuple(range(first, x.ndim))
    inputs_first, batch_last = (first - 1, *range(1, first - 1), 0, *space), (*range(1, first), 0, *space)
    back = [
        replace(axis, size=axis.windows, stride=axis.kernel_dilation, kernel_dilation=axis.stride).fitted(
            axis.size
        )
        for axis in axes
    ]
    found = ops.convolve(
        ops.permute_dims(x, inputs_first), ops.permute_dims(g, batch_last), **_attributes(back)
    )
    return ops.permute_dims(found, batch_last)


def _convolve_nest(x: Type, w: Type, **attributes: Any) -> Nest:
    """Loop axes: those of the result, then what is summed over: the channels of x, the axes of the kernel."""
    first, axes = _opened(x, w, attributes)
    channel, kernel = along(x.ndim), range(x.ndim + 1, x.ndim + 1 + len(axes))
    groups = tuple(map(along, range(1, first - 1)))
    windows = tuple(axis.index(first + k, kernel[k]) for k, axis in enumerate(axes))
    reads = (
        Read(0, x.shape, (along(0), *groups, channel, *windows)),
        Read(1, w.shape, (*groups, along(first - 1), channel, *map(along, kernel))),
    )
    extents = (*_convolve_type(x, w, **attributes).shape, *w.shape[first - 1 :])
    return Nest(extents, tuple(range(x.ndim)), reads, multiplied, "sum")


def _sample(x: Shape, w: Shape, *axes: tuple[int, tuple[int, int], int, int]) -> Sample:
    """Per axis of space: stride, padding, dilation of the input, dilation of the kernel."""
    written = [Axis(0, 0, stride, *padding, *dilation) for stride, padding, *dilation in axes]
    return Sample((Draw(x), Draw(w)), _attributes(written))


CONVOLVE: Primitive = Primitive(
    "convolve",
    "Windows of x (batch, in, space...) times the kernels of w (out, in, kernel...), summed; axes between "
    "batch and in are groups, and come first in w.",
    _convolve_type,
    _convolve,
    (_to_x, _to_w),
    (
        _sample((2, 2, 5), (3, 2, 3), (1, (0, 0), 1, 1)),
        _sample((1, 2, 5, 4), (2, 2, 2, 3), (2, (1, 0), 1, 1), (1, (0, 2), 1, 1)),
        _sample((2, 1, 3, 4), (1, 1, 2, 2), (1, (0, 1), 3, 1), (3, (2, 1), 1, 2)),
        _sample((2, 1, 7), (2, 1, 2), (3, (-1, -1), 2, 3)),
        _sample((2, 3, 2, 4), (3, 1, 2, 2), (1, (1, 1), 1, 1)),
        _sample((0, 2, 3), (2, 2, 2), (1, (0, 0), 1, 1)),
        _sample((1, 1, 2), (2, 1, 3), (1, (0, 0), 1, 1)),
        _sample((2, 0, 3), (1, 0, 2), (1, (1, 0), 1, 1)),
    ),
    lambda ops, x, w, **attributes: ops.apply(CONVOLVE, ops.promote("convolve", [x, w]), **attributes),
    oracle=_one_window_after_the_other,
    nest=_convolve_nest,
    ulps=16.0,
)


RECORDS = (CONVOLVE,)
