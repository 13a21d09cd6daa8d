"""Functions that move elements, put together from the primitives in shape.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.errors import ShapeError
from chainrule.primitive import Composite, Draw, Sample
from chainrule.primitives._define import as_list
from chainrule.types import normalise_axes, normalise_axis


def _expand_dims(ops: Any, x: Any, axis: Any = 0) -> Any:
    node = ops.node(x)
    axes = normalise_axes(axis, node.ndim + (1 if isinstance(axis, int) else len(axis)))
    extents = iter(node.shape)
    return ops.reshape(node, tuple(1 if k in axes else next(extents) for k in range(node.ndim + len(axes))))


def _squeeze(ops: Any, x: Any, axis: Any = None) -> Any:
    node = ops.node(x)
    axes = (
        tuple(k for k, e in enumerate(node.shape) if e == 1)
        if axis is None
        else normalise_axes(axis, node.ndim)
    )
    for k in axes:
        if node.shape[k] != 1:
            raise ShapeError(f"squeeze: axis {k} of shape {node.shape} has length {node.shape[k]}, not 1")
    return ops.reshape(node, tuple(extent for k, extent in enumerate(node.shape) if k not in axes))


def _stack(ops: Any, arrays: Sequence[Any], axis: int = 0) -> Any:
    if not len(arrays):
        raise ShapeError("stack needs at least one array")
    nodes = ops.promote("stack", list(arrays))
    for each in nodes[1:]:
        if each.shape != nodes[0].shape:
            raise ShapeError(f"stack needs equal shapes, not {nodes[0].shape} and {each.shape}")
    return ops.concat([ops.expand_dims(each, axis=axis) for each in nodes], axis=axis)


def _pad(ops: Any, x: Any, pad_width: Any, constant_value: float = 0.0) -> Any:
    node = ops.node(x)
    widths = np.broadcast_to(np.asarray(pad_width, dtype=np.int64), (node.ndim, 2)).tolist()
    if any(low < 0 or high < 0 for low, high in widths):
        raise ShapeError(f"pad widths must not be negative: {widths}")
    shape = tuple(extent + low + high for extent, (low, high) in zip(node.shape, widths, strict=True))
    start = tuple(low for low, _ in widths)
    stop = tuple(low + extent for extent, (low, _) in zip(node.shape, widths, strict=True))
    step = (1,) * node.ndim
    placed = ops.place(node, shape, start, stop, step)
    if constant_value == 0:
        return placed
    inside = np.zeros(shape, dtype=bool)
    inside[tuple(map(slice, start, stop))] = True
    return ops.where(inside, placed, ops.constant(constant_value, node.dtype))


def _matrix_transpose(ops: Any, x: Any) -> Any:
    node = ops.node(x)
    if node.ndim < 2:
        raise ShapeError(f"a matrix transpose needs two dimensions, not shape {node.shape}")
    return ops.permute_dims(node, (*range(node.ndim - 2), node.ndim - 1, node.ndim - 2))


def _moveaxis(ops: Any, x: Any, source: int, destination: int) -> Any:
    node = ops.node(x)
    order = [k for k in range(node.ndim) if k != normalise_axis(source, node.ndim)]
    order.insert(normalise_axis(destination, node.ndim), normalise_axis(source, node.ndim))
    return ops.permute_dims(node, order)


def _roll(ops: Any, x: Any, shift: int, axis: int) -> Any:
    node = ops.node(x)
    k = normalise_axis(axis, node.ndim)
    cut = -shift % node.shape[k] if node.shape[k] else 0
    before, after = (slice(None),) * k + (slice(0, cut),), (slice(None),) * k + (slice(cut, None),)
    return ops.concat([ops.getitem(node, after), ops.getitem(node, before)], axis=k)


def _tile(ops: Any, x: Any, repetitions: Sequence[int]) -> Any:
    node = ops.node(x)
    counts = (1,) * (node.ndim - len(repetitions)) + tuple(repetitions)
    shape = (1,) * (len(counts) - node.ndim) + node.shape
    spread = tuple(each for pair in zip(counts, shape, strict=True) for each in pair)
    apart = ops.reshape(node, tuple(each for extent in shape for each in (1, extent)))
    return ops.reshape(
        ops.broadcast_to(apart, spread), tuple(c * e for c, e in zip(counts, shape, strict=True))
    )


def _repeat(ops: Any, x: Any, repeats: int, axis: int | None = None) -> Any:
    node = ops.reshape(x, (-1,)) if axis is None else ops.node(x)
    k = normalise_axis(axis or 0, node.ndim)
    apart = ops.expand_dims(node, axis=k + 1)
    spread = ops.broadcast_to(apart, (*node.shape[: k + 1], repeats, *node.shape[k + 1 :]))
    return ops.reshape(spread, (*node.shape[:k], node.shape[k] * repeats, *node.shape[k + 1 :]))


RECORDS = (
    Composite(
        "expand_dims", "New axes of length 1.", _expand_dims,
        (Sample((Draw((2, 3)),), {"axis": 1}), Sample((Draw((2,)),), {"axis": (0, -1)})),
        oracle="numpy.expand_dims",
    ),
    Composite(
        "squeeze", "Without the axes of length 1.", _squeeze,
        (Sample((Draw((1, 3, 1)),), {}), Sample((Draw((1, 3)),), {"axis": 0})), oracle="numpy.squeeze",
    ),
    Composite(
        "stack", "Arrays of one shape joined along a new axis.", _stack,
        (
            Sample((Draw((2, 3)), Draw((2, 3))), {"axis": 0}),
            Sample((Draw((2, 3)), Draw((2, 3)), Draw((2, 3))), {"axis": -1}),
            Sample((Draw(()), Draw(())), {"axis": 0}),
            Sample((Draw((2, 0)),), {"axis": 1}),
        ),
        oracle="numpy.stack", spelling=as_list,
    ),
    Composite(
        "pad", "x with a constant border; pad_width as in NumPy.", _pad,
        (
            Sample((Draw((2, 3)),), {"pad_width": ((1, 0), (0, 2))}),
            Sample((Draw((2,)),), {"pad_width": 1, "constant_value": 3.0}),
            Sample((Draw((2, 3)),), {"pad_width": (2, 1)}),
            Sample((Draw((0, 2)),), {"pad_width": ((1, 0), (0, 1)), "constant_value": -1.0}),
        ),
        oracle=lambda x, pad_width, constant_value=0: np.pad(x, pad_width, constant_values=constant_value),
    ),
    Composite(
        "matrix_transpose", "The last two axes exchanged.", _matrix_transpose,
        (Sample((Draw((2, 3)),)), Sample((Draw((2, 3, 4)),))), oracle="numpy.matrix_transpose",
    ),
    Composite(
        "moveaxis", "One axis moved to another place.", _moveaxis,
        (Sample((Draw((2, 3, 4)),), {"source": 0, "destination": -1}),), oracle="numpy.moveaxis",
    ),
    Composite(
        "roll", "Elements shifted along an axis, those that fall off re-enter.", _roll,
        (Sample((Draw((5,)),), {"shift": 2, "axis": 0}), Sample((Draw((2, 3)),), {"shift": -1, "axis": 1})),
        oracle="numpy.roll",
    ),
    Composite(
        "tile", "x repeated as a whole along each axis.", _tile,
        (
            Sample((Draw((2, 3)),), {"repetitions": (2, 3)}),
            Sample((Draw((3,)),), {"repetitions": (2, 1, 2)}),
            Sample((Draw((2, 3)),), {"repetitions": (2,)}),
            Sample((Draw(()),), {"repetitions": (2,)}),
            Sample((Draw((2,)),), {"repetitions": (0,)}),
        ),
        oracle=lambda x, repetitions: np.tile(x, reps=repetitions),
    ),
    Composite(
        "repeat", "Every element repeated in place, along an axis.", _repeat,
        (
            Sample((Draw((2, 3)),), {"repeats": 2, "axis": 1}),
            Sample((Draw((2, 3)),), {"repeats": 3, "axis": 0}),
            Sample((Draw((2, 2)),), {"repeats": 2}),
            Sample((Draw((2, 0)),), {"repeats": 2, "axis": 1}),
        ),
        oracle="numpy.repeat",
    ),
)  # fmt: skip
