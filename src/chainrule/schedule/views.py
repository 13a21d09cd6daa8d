"""Where arrays lie: layouts of buffers, and views of them.

What a permutation, a slice or a reshape does to strides is asked of NumPy, on a probe without memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from chainrule.graph import Node
from chainrule.schedule.kernels import Strides, View
from chainrule.types import Shape

ALIASES = frozenset(("identity", "stop_gradient", "positive"))
"""Elementwise primitives whose value is their operand's."""
VIEWS = frozenset(("permute_dims", "reshape", "broadcast_to", "slice", "flip")) | ALIASES
"""Primitives that move elements without changing them, such that strides can express it."""
ROW = 16
"""Rows of our own arrays are padded to a multiple of this many elements: a vector of the widest target."""
_VECTOR = 64  # bytes: the widest store on any target
_SPARSE = 8
_WAY = 1024

Axes = tuple[tuple[int, ...], ...]
"""For every axis of an array the axes of a kernel along which it runs, the outermost first: none where it has
length 1 or does not move, several where a reshape merged what the kernel walks along one by one."""


def is_view(node: Node) -> bool:
    """True for a node that shows its operand's elements."""
    return node.primitive is not None and node.primitive.name in VIEWS


def base_of(node: Node) -> Node:
    """The node whose memory a view shows; any other node itself."""
    while node.primitive is not None and node.primitive.name in VIEWS:  # asked so often that a call costs
        node = node.operands[0]
    return node


def itself_of(node: Node) -> Node | None:
    """The node whose value an output is as it stands; None for a view that shows it in another way."""
    while node.primitive is not None and node.name in ALIASES:
        node = node.operands[0]
    return None if node.primitive is None or is_view(node) else node


# -- layouts -------------------------------------------------------------------------------------------------
def dense_strides(shape: Shape) -> Strides:
    """Row-major strides without gaps, in elements."""
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))


def padded_strides(shape: Shape, itemsize: int) -> Strides:
    """Row-major strides with rows padded to whole vectors, and away from powers of two.

    Rows that a power of two keeps apart compete for the same few places of the cache.
    """
    long = [axis for axis, extent in enumerate(shape) if extent > 1]
    if len(long) < 2 or shape[long[-1]] < _SPARSE:
        return dense_strides(shape)
    row = -(-shape[long[-1]] // ROW) * ROW
    if row * itemsize % _WAY == 0:
        row += ROW
    strides, step = [0] * len(shape), 1
    for axis in reversed(range(len(shape))):
        strides[axis] = step
        step = row if axis == long[-1] else step * (1 if axis > long[-1] else shape[axis])
    return tuple(strides)


def span(shape: Shape, strides: Strides) -> int:
    """Elements from the first to behind the last, whole vectors."""
    if 0 in shape:
        return ROW
    last = sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
    return -(-(last + 1) // ROW) * ROW


def has_room(view: View) -> bool:
    """Whether whole vectors may be stored beyond the ends of a view's rows: nothing else lies there.

    Rows that follow each other without a gap have no room: the last vector of one would spoil the next, which
    may have been stored already (by another thread), or be about to be read (in place).
    """
    buffer = view.buffer
    if not buffer.slack or math.prod(view.shape) != math.prod(buffer.shape):
        return False
    long = [(stride, extent) for stride, extent in zip(view.strides, view.shape, strict=True) if extent > 1]
    rows = [extent for stride, extent in long if stride == 1]
    vector = _VECTOR // buffer.dtype.itemsize
    return not rows or all(stride in (0, 1) or stride >= -(-rows[0] // vector) * vector for stride, _ in long)


# -- views ---------------------------------------------------------------------------------------------------
def seen_through(node: Node, operand: View) -> View | None:
    """The view that `node`, a view of its operand, has of the operand's memory; None where strides cannot."""
    assert node.primitive is not None
    if node.primitive.name in ALIASES or operand.shape == node.shape == ():
        return operand  # a part of an array without axes is a copy for NumPy
    origin = np.empty(1, np.int8)
    probe = np.lib.stride_tricks.as_strided(origin, operand.shape, operand.strides)
    if node.primitive.name == "reshape":
        try:
            seen = np.reshape(probe, node.shape, copy=False)
        except ValueError:
            return None
    else:
        seen = node.primitive.meaning(np, probe, **node.attributes)
    offset = seen.__array_interface__["data"][0] - probe.__array_interface__["data"][0] if seen.size else 0
    return View(operand.buffer, operand.offset + offset, seen.shape, seen.strides)


# -- axes of a kernel ----------------------------------------------------------------------------------------
def axes_through(node: Node, axes: Axes, extents: Sequence[int]) -> Axes | None:
    """The axes along which a view runs, given those of its operand; None where it is no matter of axes.

    `extents` are those of the kernel's axes.
    """
    assert node.primitive is not None
    operand = node.operands[0]
    match node.primitive.name:
        case "permute_dims":
            return tuple(axes[axis] for axis in node.attributes["axes"])
        case "broadcast_to":
            return ((),) * (node.ndim - operand.ndim) + axes
        case "reshape":
            return _regrouped(operand.shape, axes, node.shape, extents)
        case "slice" | "flip":
            return axes if node.shape == operand.shape and _moves_nothing(node) else None
    return axes


def axes_behind(node: Node, axes: Axes, extents: Sequence[int]) -> Axes | None:
    """The axes along which the operand of a view runs, given those of the view."""
    assert node.primitive is not None
    operand = node.operands[0]
    match node.primitive.name:
        case "permute_dims":
            order = node.attributes["axes"]
            return tuple(axes[order.index(axis)] for axis in range(operand.ndim))
        case "broadcast_to":
            return aligned(axes, operand.shape)
        case "reshape":
            return _regrouped(node.shape, axes, operand.shape, extents)
        case "slice" | "flip":
            return axes if node.shape == operand.shape and _moves_nothing(node) else None
    return axes


def axes_of_shape(shape: Shape) -> Axes:
    """The axes of an array in a kernel of its own, which has one for every axis longer than 1."""
    count = iter(range(len(shape)))
    return tuple(() if extent == 1 else (next(count),) for extent in shape)


def aligned(axes: Axes, shape: Shape) -> Axes:
    """The axes of an operand of `shape` that broadcasts against an array with `axes`."""
    last = axes[len(axes) - len(shape) :]
    if 1 not in shape:
        return last
    return tuple(() if extent == 1 else along for extent, along in zip(shape, last, strict=True))


def _regrouped(shape: Shape, axes: Axes, to: Shape, extents: Sequence[int]) -> Axes | None:
    """Axes after a reshape to the shape `to`; None where an axis of the kernel would have to be split.

    Elements of both shapes are counted in the same order, so a new axis runs along those kernel axes, in
    their order, whose extents make up its own.
    """
    if 0 in shape:
        return axes if shape == to else None
    factors: list[tuple[int, int | None]] = []  # (extent, axis of the kernel; None: does not move)
    for extent, along in zip(shape, axes, strict=True):
        if along:
            factors += [(extents[axis], axis) for axis in along]
        elif extent > 1:
            factors.append((extent, None))
    left, regrouped = factors[::-1], []
    for wanted in to:
        found: list[int | None] = []
        made = 1
        while made < wanted:
            extent, axis = left.pop()
            needed, rest = divmod(wanted, made)
            if rest:
                return None
            if axis is None and extent > needed and extent % needed == 0:  # what does not move can be split
                left.append((extent // needed, None))
                extent = needed
            made *= extent
            found.append(axis)
        moving = tuple(axis for axis in found if axis is not None)
        if made != wanted or (moving and len(moving) < len(found)):
            return None
        regrouped.append(moving)
    return tuple(regrouped)


def _moves_nothing(node: Node) -> bool:
    assert node.primitive is not None
    if node.primitive.name == "flip":
        return all(node.shape[axis] == 1 for axis in node.attributes["axis"])
    return True  # a slice of the same shape is everything


def strides_along(axes: Axes, view: View, extents: Sequence[int]) -> Strides:
    """The strides of a view for a kernel with axes of these extents."""
    strides = [0] * len(extents)
    for along, extent, stride in zip(axes, view.shape, view.strides, strict=True):
        step = stride if extent > 1 else 0
        for axis in reversed(along):
            strides[axis] += step
            step *= extents[axis]
    return tuple(strides)
