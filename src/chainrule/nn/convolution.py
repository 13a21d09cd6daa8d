"""Convolutions: kernels that slide over series and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.errors import DTypeError, RecipeError, ShapeError
from chainrule.graph import Node
from chainrule.nn import init
from chainrule.nn.module import Module
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line
from chainrule.tensor import Parameter, Tensor

Numbers = int | Sequence[int]
"""One number for all axes of space, or one for each."""


# -- what convolutions and pools share ---------------------------------------------------------------------
def per_axis(option: str, given: Any, axes: int, least: int = 1) -> tuple[int, ...]:
    """An option as one whole number per axis of space, each at least `least`."""
    listed = (given,) * axes if isinstance(given, int | np.integer) else given
    if not isinstance(listed, list | tuple) or len(listed) != axes:
        raise RecipeError(f"{option} = {given!r} must be a whole number or {axes} of them, one for each axis")
    if not all(isinstance(each, int | np.integer) and each >= least for each in listed):
        raise RecipeError(f"{option} = {given!r} must be made of whole numbers, {least} or larger")
    return tuple(map(int, listed))


def spatial(name: str, input: Any, axes: int) -> Node:
    """The input of a function called `name`, checked: floating-point, channels and `axes` axes of space."""
    x = as_node(input)
    space = ", ".join(("height", "width") if axes == 2 else ("length",))
    if not x.floating:
        raise DTypeError(
            f"{name} takes floating-point inputs, but was given {x.type}{at_user_line()}; "
            "convert them with .astype('float32')"
        )
    if x.ndim not in (axes + 1, axes + 2):
        raise ShapeError(
            f"{name} takes shape (rows, channels, {space}) or, for one row, (channels, {space}), but was "
            f"given {x.shape}{at_user_line()}"
        )
    return x


# -- functions ---------------------------------------------------------------------------------------------
def conv1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """`conv2d` along one axis: input (rows, in, length), weight (out, in / groups, kernel).

    >>> import chainrule as cr
    >>> steps = cr.asarray([[[1.0, 2.0, 4.0, 8.0]]])
    >>> cr.nn.functional.conv1d(steps, cr.asarray([[[-1.0, 1.0]]])).tolist()
    [[[1.0, 2.0, 4.0]]]
    """
    return _convolved(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """Every window of the input times each kernel, summed, plus the kernel's bias; kernels are not turned.

    input     (rows, in, height, width), or (in, height, width) for one row
    weight    (out, in / groups, kernel height, kernel width); bias (out,)
    stride    from window to window
    padding   zeros on every side; "same" for as many as keep height and width, "valid" for none
    dilation  from element to element of a window
    groups    the channels in as many parts, of which each makes its part of the output channels

    Numbers may be pairs, for height and width. The result is (rows, out, windows down, windows across).
    Raises ShapeError where no window fits.

    >>> import chainrule as cr
    >>> images, kernels = cr.ones((2, 3, 8, 8)), cr.ones((4, 3, 3, 3))
    >>> cr.nn.functional.conv2d(images, kernels).shape
    (2, 4, 6, 6)
    >>> cr.nn.functional.conv2d(images, kernels, padding=1, stride=2).shape
    (2, 4, 4, 4)
    """
    return _convolved(2, input, weight, bias, stride, padding, dilation, groups)


def _convolved(
    axes: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Numbers,
    padding: Numbers | str,
    dilation: Numbers,
    groups: int,
) -> Tensor:
    name = f"conv{axes}d"
    x, w = spatial(name, input, axes), as_node(weight)
    _check_channels(name, x, w, groups, axes)
    strides = per_axis(f"{name}: stride", stride, axes)
    dilations = per_axis(f"{name}: dilation", dilation, axes)
    spans = tuple((size - 1) * by + 1 for size, by in zip(w.shape[2:], dilations, strict=True))
    widths = _widths(name, padding, strides, spans)
    _check_room(name, x.shape[-axes:], spans, widths)
    rows = x.shape[0] if x.ndim == axes + 2 else 1
    # Groups are an axis of the primitive, which there is only if they are several.
    parts = (groups,) if groups > 1 else ()
    y = ops.convolve(
        ops.reshape(x, (rows, *parts, w.shape[1], *x.shape[-axes:])),
        ops.reshape(w, (*parts, w.shape[0] // groups, *w.shape[1:])),
        strides=strides,
        padding=widths,
        input_dilation=(1,) * axes,
        kernel_dilation=dilations,
    )
    y = ops.reshape(y, (*x.shape[: -axes - 1], w.shape[0], *y.shape[-axes:]))
    if bias is not None:
        y = ops.add(y, ops.reshape(bias, (w.shape[0],) + (1,) * axes))
    return Tensor(y)


def _check_channels(name: str, x: Node, w: Node, groups: int, axes: int) -> None:
    if w.ndim != axes + 2:
        raise ShapeError(
            f"{name}: a weight has {axes + 2} axes (out, in / groups, kernel), but this one has shape "
            f"{w.shape}{at_user_line()}"
        )
    if groups < 1 or w.shape[0] % groups:
        raise RecipeError(f"{name}: groups = {groups!r} must divide the {w.shape[0]} output channels")
    channels = x.shape[-axes - 1]
    if channels != w.shape[1] * groups:
        of_groups = f" in {groups} groups" if groups > 1 else ""
        raise ShapeError(
            f"{name} takes {w.shape[1] * groups} channels{of_groups}, but was given {channels}, in shape "
            f"{x.shape}{at_user_line()}; its weight has shape {w.shape}"
        )


def _widths(
    name: str, padding: Numbers | str, strides: tuple[int, ...], spans: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """Zeros before and after, per axis."""
    if padding == "same":
        if any(each != 1 for each in strides):
            raise RecipeError(f"{name}: padding = 'same' needs stride 1, not {strides}; give numbers instead")
        # Of an odd number of zeros, the odd one comes after: as PyTorch has it.
        return tuple(((span - 1) // 2, span // 2) for span in spans)
    if isinstance(padding, str) and padding != "valid":
        raise RecipeError(f"{name}: padding = {padding!r} is not known; choose numbers, 'same' or 'valid'")
    given = 0 if isinstance(padding, str) else padding
    return tuple((each, each) for each in per_axis(f"{name}: padding", given, len(spans), least=0))


def _check_room(
    name: str, space: tuple[int, ...], spans: tuple[int, ...], widths: tuple[tuple[int, int], ...]
) -> None:
    room = tuple(extent + low + high for extent, (low, high) in zip(space, widths, strict=True))
    if any(span > extent for span, extent in zip(spans, room, strict=True)):
        raise ShapeError(
            f"{name}: a kernel that spans {spans} does not fit into {room}, padding included"
            f"{at_user_line()}; use a smaller kernel, less dilation or more padding"
        )


# -- layers ------------------------------------------------------------------------------------------------
class Convolution(Module):
    """What Conv1d and Conv2d share; `axes` are those of space."""

    axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: Any = np.float32,
    ) -> None:
        name = type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise RecipeError(
                f"{name}: groups = {groups!r} must divide in_channels = {in_channels} and "
                f"out_channels = {out_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = per_axis(f"{name}: kernel_size", kernel_size, self.axes)
        self.stride = per_axis(f"{name}: stride", stride, self.axes)
        self.dilation = per_axis(f"{name}: dilation", dilation, self.axes)
        self.groups = groups
        _widths(name, padding, self.stride, self.kernel_size)  # refuses what is no padding
        self.padding = padding if isinstance(padding, str) else per_axis("padding", padding, self.axes, 0)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(np.zeros(shape, dtype))
        self.bias = Parameter(np.zeros(out_channels, dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        bound = 1 / math.sqrt(max(init.fans(self.weight)[0], 1))
        init.uniform_(self.weight, -bound, bound)  # what kaiming_uniform_ with a = sqrt(5) comes to
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Any) -> Tensor:
        return _convolved(
            self.axes, input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        ones = (1,) * self.axes
        said = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        for name, plain in (("padding", (0,) * self.axes), ("dilation", ones), ("groups", 1)):
            if getattr(self, name) != plain:
                said += f", {name}={getattr(self, name)!r}"
        return said if self.bias is not None else f"{said}, bias=False"


class Conv1d(Convolution):
    """Kernels that slide along a series: (rows, in_channels, length) → (rows, out_channels, windows).

    Options, weights and initial values are as for Conv2d, with one axis of space.

    >>> import chainrule as cr
    >>> cr.nn.Conv1d(2, 4, kernel_size=3, padding="same")(cr.ones((5, 2, 10))).shape
    (5, 4, 10)
    """

    axes = 1


class Conv2d(Convolution):
    """Kernels that slide over images: (rows, in_channels, height, width) → (rows, out_channels, …).

    weight (out_channels, in_channels / groups, kernel height, kernel width) and bias (out_channels,) start
    uniform in ±1/sqrt(elements of a window), as in PyTorch. `conv2d` says what the options mean.

    >>> import chainrule as cr
    >>> layer = cr.nn.Conv2d(1, 8, kernel_size=3)
    >>> layer
    Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1))
    >>> layer(cr.ones((5, 1, 28, 28))).shape
    (5, 8, 26, 26)
    """

    axes = 2
