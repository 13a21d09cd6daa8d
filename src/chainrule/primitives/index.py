"""Gather, scatter, and indexing as users write it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.errors import DTypeError, ShapeError
from chainrule.primitive import Composite, Draw, Primitive, Sample
from chainrule.types import Shape, Type, broadcast_shapes, normalise_axis


# -- gather and its transpose ----------------------------------------------------------------------------
def _where(indices: Sequence[Any], axis: int) -> tuple[Any, ...]:
    return (slice(None),) * axis + tuple(indices)


def _check_indices(indices: Sequence[Type], extents: Sequence[int]) -> Shape:
    for each in indices:
        if each.dtype.kind not in "iu":
            raise DTypeError(f"indices must be integers, not {each.dtype}")
    if len(indices) > len(extents):
        raise ShapeError(f"{len(indices)} index arrays for {len(extents)} axes")
    return broadcast_shapes(*(each.shape for each in indices))


def _gather_type(x: Type, *indices: Type, axis: int) -> Type:
    shape = _check_indices(indices, x.shape[axis:])
    return Type((*x.shape[:axis], *shape, *x.shape[axis + len(indices) :]), x.dtype)


def _gather(xp: Any, x: Any, *indices: Any, axis: int) -> Any:
    if xp is np and len(indices) == 1:
        return np.take(x, indices[0], axis=axis)  # several times faster than x[indices]
    return x[_where(indices, axis)]


GATHER = Primitive(
    "gather",
    "Elements at integer positions along consecutive axes that start at axis.",
    _gather_type,
    _gather,
    (lambda ops, g, y, x, *indices, axis: ops.scatter(g, *indices, shape=x.shape, axis=axis),),
    (
        Sample((Draw((5, 2)), np.array([0, 3, 3, 1])), {"axis": 0}),
        Sample((Draw((2, 5)), np.array([[0, -1], [3, 3]])), {"axis": 1}),
        Sample((Draw((3, 4, 2)), np.array([0, 2, 2]), np.array([[1], [3]])), {"axis": 0}),
        Sample((Draw((3, 2)), np.zeros((0,), np.int64)), {"axis": 0}),
        Sample((Draw((4,)), np.array(2)), {"axis": 0}),
    ),
)


def _scatter_type(x: Type, *indices: Type, shape: Shape, axis: int) -> Type:
    extent = _check_indices(indices, shape[axis:])
    wanted = (*shape[:axis], *extent, *shape[axis + len(indices) :])
    if x.shape != wanted:
        raise ShapeError(f"updates have shape {x.shape}, the indices want {wanted}")
    return Type(shape, x.dtype)


def _scatter(xp: Any, x: Any, *indices: Any, shape: Shape, axis: int) -> Any:
    where = _where(indices, axis)
    if xp is not np:
        return xp.zeros(shape, x.dtype).at[where].add(x)
    full = np.zeros(shape, x.dtype)
    np.add.at(full, where, x)
    return full


SCATTER = Primitive(
    "scatter",
    "Zeros of a shape, with x added at integer positions: the transpose of gather.",
    _scatter_type,
    _scatter,
    (lambda ops, g, y, x, *indices, shape, axis: ops.gather(g, *indices, axis=axis),),
    (
        Sample((Draw((4, 2)), np.array([0, 3, 3, 1])), {"shape": (5, 2), "axis": 0}),
        Sample((Draw((2, 2, 2)), np.array([[0, -1], [3, 3]])), {"shape": (2, 5), "axis": 1}),
        Sample((Draw((2, 3, 2)), np.array([0, 2, 2]), np.array([[1], [3]])), {"shape": (3, 4, 2), "axis": 0}),
        Sample((Draw((0, 2)), np.zeros((0,), np.int64)), {"shape": (3, 2), "axis": 0}),
    ),
    ulps=16.0,
)


# -- counting --------------------------------------------------------------------------------------------
IOTA = Primitive(
    "iota",
    "0, 1, 2, ... along one axis of a shape.",
    lambda shape, axis, dtype: Type(shape, dtype),
    lambda xp, shape, axis, dtype: xp.broadcast_to(
        xp.reshape(xp.arange(shape[axis], dtype=dtype), (shape[axis],) + (1,) * (len(shape) - axis - 1)),
        shape,
    ),
    None,
    (
        Sample((), {"shape": (4,), "axis": 0, "dtype": np.dtype("int64")}),
        Sample((), {"shape": (2, 3), "axis": 1, "dtype": np.dtype("float32")}),
        Sample((), {"shape": (0,), "axis": 0, "dtype": np.dtype("int64")}),
    ),
    lambda ops, shape, axis=0, dtype=np.int64: ops.apply(
        IOTA, [], shape=tuple(shape), axis=axis, dtype=np.dtype(dtype)
    ),
    analytic=False,
)


# -- combinations ----------------------------------------------------------------------------------------
def _arange_node(ops: Any, extent: int, shape: Sequence[int]) -> Any:
    """0 … extent - 1 laid along the one axis of `shape` that is not 1."""
    return ops.reshape(ops.iota((extent,)), tuple(shape))


def _integer_node(ops: Any, indices: Any) -> Any:
    node = ops.node(indices)
    if node.dtype.kind == "f" and node.size == 0:
        return ops.astype(node, np.int64)  # an empty list has no dtype of its own
    return node


def _take(ops: Any, x: Any, indices: Any, axis: int | None = None) -> Any:
    node = ops.node(x)
    if axis is None:
        if node.ndim != 1:
            raise ShapeError(f"take needs an axis for an array of {node.ndim} dimensions")
        axis = 0
    return ops.gather(node, _integer_node(ops, indices), axis=normalise_axis(axis, node.ndim))


def _take_along_axis(ops: Any, x: Any, indices: Any, axis: int = -1) -> Any:
    node, chosen = ops.node(x), _integer_node(ops, indices)
    k = normalise_axis(axis, node.ndim)
    if chosen.ndim != node.ndim:
        raise ShapeError(
            f"take_along_axis: indices of shape {chosen.shape} need the {node.ndim} dimensions of {node.shape}"
        )
    places = []
    for other in range(node.ndim):
        along = [1] * node.ndim
        along[other] = node.shape[other]
        places.append(chosen if other == k else ops.arange_node(node.shape[other], along))
    return ops.gather(node, *places, axis=0)


def _scatter_add(ops: Any, x: Any, indices: Any, updates: Any, axis: int = 0) -> Any:
    node, added = ops.promote("scatter_add", [x, updates])
    k = normalise_axis(axis, node.ndim)
    return ops.add(node, ops.scatter(added, _integer_node(ops, indices), shape=node.shape, axis=k))


def _one_hot(ops: Any, indices: Any, classes: int, dtype: Any = np.float32) -> Any:
    node = ops.node(indices)
    return ops.astype(ops.equal(ops.expand_dims(node, axis=-1), ops.iota((classes,))), np.dtype(dtype))


def _triangle(ops: Any, x: Any, k: int, lower: bool) -> Any:
    node = ops.node(x)
    rows, columns = np.arange(node.shape[-2])[:, None], np.arange(node.shape[-1])[None, :]
    return ops.where(columns - rows <= k if lower else columns - rows >= k, node, 0)


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
        raise ShapeError(f"{named} indices for an array of {node.ndim} dimensions, shape {node.shape}")
    rest = [slice(None)] * (node.ndim - named)
    at = next((k for k, each in enumerate(entries) if each is Ellipsis), None)
    return entries + rest if at is None else entries[:at] + rest + entries[at + 1 :]


def _index_arrays(ops: Any, entry: Any) -> list[Any]:
    node = _integer_node(ops, entry)
    if node.dtype.kind == "b":
        if node.value is None:
            raise ShapeError(
                "a boolean mask gives a shape that is not known while tracing: use cr.where(mask, x, 0) instead"
            )
        return [ops.node(each) for each in np.nonzero(node.value)]
    if node.dtype.kind not in "iu":
        raise DTypeError(
            f"an index must be an integer, a slice, None, '...', or an array of integers or booleans, not {node.dtype}"
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
            raise ShapeError(f"index {entry} is out of range for axis {axis} of length {extent}")
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


_POSITIONS = np.array([[2, 0], [1, 1]])
RECORDS: tuple[Primitive | Composite, ...] = (
    GATHER, SCATTER, IOTA,
    Composite("arange_node", "Positions along one axis, for comparing axes.", _arange_node),
    Composite(
        "take", "Elements at integer positions along an axis.", _take,
        (Sample((Draw((3, 4)), _POSITIONS), {"axis": 1}),), oracle="numpy.take",
    ),
    Composite(
        "take_along_axis", "One element per position along an axis.", _take_along_axis,
        (Sample((Draw((2, 3)), _POSITIONS), {"axis": 1}),), oracle="numpy.take_along_axis",
    ),
    Composite(
        "scatter_add", "x with updates added at integer positions along an axis.", _scatter_add,
        (Sample((Draw((3, 2)), np.array([0, 2, 2]), Draw((3, 2)))),),
    ),
    Composite("one_hot", "1 at the position of each index, 0 elsewhere.", _one_hot),
    Composite("tril", "The lower triangle of the last two axes.", lambda ops, x, k=0: _triangle(ops, x, k, True),
              (Sample((Draw((3, 4)),), {"k": 0}),), oracle="numpy.tril"),
    Composite("triu", "The upper triangle of the last two axes.", lambda ops, x, k=0: _triangle(ops, x, k, False),
              (Sample((Draw((3, 4)),), {"k": 1}),), oracle="numpy.triu"),
    Composite("getitem", "x[index].", _getitem),
)  # fmt: skip
