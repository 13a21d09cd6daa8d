"""Indexing as users write it: integers, slices, None, ..., arrays of integers, masks."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.errors import BoundsError, DTypeError, ShapeError
from chainrule.primitive import Composite, Draw, Sample
from chainrule.primitives._define import integer_indices


def _getitem(ops: Any, x: Any, index: Any) -> Any:
    """NumPy indexing: integers, slices, None, ..., integer arrays on neighbouring axes, boolean masks."""
    node = ops.node(x)
    entries = _expanded(ops, index if isinstance(index, tuple) else (index,), node)
    cut, new_axes = _basic(ops, node, entries)
    arrays = [
        (axis, each) for axis, each in enumerate(e for e in entries if e is not None) if _is_array(each)
    ]
    if arrays:
        return _gathered(ops, cut, arrays, entries)
    dropped = {axis for axis, each in enumerate(e for e in entries if e is not None) if _is_integer(each)}
    shape = [extent for axis, extent in enumerate(cut.shape) if axis not in dropped]
    for at in new_axes:
        shape.insert(at, 1)
    return ops.reshape(cut, tuple(shape))


def _is_integer(entry: Any) -> bool:
    return isinstance(entry, int) and not isinstance(entry, bool)


def _is_array(entry: Any) -> bool:
    return not _is_integer(entry) and not isinstance(entry, slice) and entry is not None


def _expanded(ops: Any, index: tuple[Any, ...], node: Any) -> list[Any]:
    """`index` with ... written out, masks as positions, and every axis of `node` mentioned."""
    entries: list[Any] = []
    for entry in index:
        if entry is None or entry is Ellipsis or isinstance(entry, slice):
            entries.append(entry)
        elif isinstance(entry, int | np.integer) and not isinstance(entry, bool):
            entries.append(operator.index(entry))
        else:
            entries.extend(_index_arrays(ops, entry))
    if sum(each is Ellipsis for each in entries) > 1:
        raise ShapeError("an index can contain only one '...'")
    named = sum(each is not None and each is not Ellipsis for each in entries)
    if named > node.ndim:
        raise BoundsError(f"{named} indices for an array of {node.ndim} dimensions, shape {node.shape}")
    rest = [slice(None)] * (node.ndim - named)
    at = next((k for k, each in enumerate(entries) if each is Ellipsis), None)
    return entries + rest if at is None else entries[:at] + rest + entries[at + 1 :]


def _index_arrays(ops: Any, entry: Any) -> list[Any]:
    node = integer_indices(ops, entry)
    if node.dtype.kind == "b":
        if node.value is None:
            raise ShapeError(
                "a boolean mask gives a shape that is not known while tracing: use cr.where(mask, x, 0)"
            )
        return [ops.node(each) for each in np.nonzero(node.value)]
    if node.dtype.kind not in "iu":
        raise DTypeError(
            "an index must be an integer, a slice, None, '...', or an array of integers or booleans, "
            f"not {node.dtype}"
        )
    return [node]


def _basic(ops: Any, node: Any, entries: Sequence[Any]) -> tuple[Any, list[int]]:
    """Slices and integers applied (integers as slices of length 1), and where new axes of length 1 go."""
    start, stop, step, reverse, new_axes = [], [], [], [], []
    axis = kept = 0
    for entry in entries:
        if entry is None:
            new_axes.append(kept)
            kept += 1
            continue
        a, b, s = _range_of(entry, node.shape[axis], axis)
        if s < 0:
            count = len(range(a, b, s))
            a, b, s = (a + (count - 1) * s, a + 1, -s) if count else (0, 0, 1)
            reverse.append(axis)
        start.append(a)
        stop.append(max(a, b))
        step.append(s)
        kept += not _is_integer(entry)
        axis += 1
    if start != [0] * node.ndim or stop != list(node.shape) or any(s != 1 for s in step):
        node = ops.slice(node, start=tuple(start), stop=tuple(stop), step=tuple(step))
    return (ops.flip(node, axis=tuple(reverse)) if reverse else node), new_axes


def _range_of(entry: Any, extent: int, axis: int) -> tuple[int, int, int]:
    if isinstance(entry, slice):
        return entry.indices(extent)
    if _is_integer(entry):
        if not -extent <= entry < extent:
            raise BoundsError(f"index {entry} is out of range for axis {axis} of length {extent}")
        return entry % extent, entry % extent + 1, 1
    return 0, extent, 1


def _gathered(ops: Any, node: Any, arrays: Sequence[tuple[int, Any]], entries: Sequence[Any]) -> Any:
    axes = [axis for axis, _ in arrays]
    integers = [axis for axis, each in enumerate(e for e in entries if e is not None) if _is_integer(each)]
    if any(each is None for each in entries) or axes != list(range(axes[0], axes[0] + len(axes))):
        raise ShapeError(
            "index arrays must stand on neighbouring axes, without None; use cr.take or reshape first"
        )
    taken = ops.gather(node, *(each for _, each in arrays), axis=axes[0])
    width = taken.ndim - (node.ndim - len(axes))
    dropped = tuple(axis if axis < axes[0] else axis - len(axes) + width for axis in integers)
    return ops.squeeze(taken, axis=dropped) if dropped else taken


_MASK = np.array([[True, False, True, False], [False] * 4, [True] * 4])
_INDICES: tuple[Any, ...] = (
    1, -1, (..., -1), (1, 2), (1, 2, 0), None, (slice(None), None, 1), slice(1, None), slice(None, None, -1),
    (slice(2, 0, -1), slice(None, None, 3)), (slice(1, 1), ...), (slice(None), slice(3, None, -2), 0), (),
    np.array([2, 0, 2]), np.array([[0], [-1]]), [2, 0], (slice(1), np.array([3, 0, 0])),
    (np.array([0, 2]), np.array([[1], [3]])), (np.array([0, 2]), slice(None), 1), _MASK,
    np.array([True, False, True]), (..., np.array([False, True])), np.zeros(0, np.int64),
    (1, np.array([0, 0]), 0),
)  # fmt: skip
RECORDS = (
    Composite(
        "getitem", "x[index].", _getitem,
        tuple(Sample((Draw((3, 4, 2)),), {"index": each}) for each in _INDICES),
        oracle=lambda x, index: x[index],
    ),
)  # fmt: skip
