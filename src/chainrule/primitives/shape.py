"""Primitives that move elements without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrule.errors import ShapeError
from chainrule.nest import Index, Nest, Read, along, broadcast_index, moved
from chainrule.primitive import Draw, Primitive, Sample
from chainrule.primitives._define import as_list, in_numpy
from chainrule.types import Shape, Type, broadcast_shapes, normalise_axes, normalise_axis


# -- reshape, permute, broadcast -------------------------------------------------------------------------
def _reshape_surface(ops: Any, x: Any, shape: Any) -> Any:
    node = ops.node(x)
    wanted = _complete((shape,) if isinstance(shape, int) else tuple(int(each) for each in shape), node.type)
    return node if node.shape == wanted else ops.apply(RESHAPE, [node], shape=wanted)


def _complete(shape: Shape, type_: Type) -> Shape:
    """`shape` with its one -1 replaced by what is left."""
    if shape.count(-1) > 1:
        raise ShapeError(f"reshape to {shape}: only one extent can be -1")
    if -1 in shape:
        known = int(np.prod([each for each in shape if each != -1], dtype=np.int64))
        if known == 0 or type_.size % known:
            raise ShapeError(
                f"reshape of {type_.shape} ({type_.size} elements) to {shape} leaves no whole number for -1"
            )
        shape = tuple(type_.size // known if each == -1 else each for each in shape)
    return shape


def _reshape_type(x: Type, shape: Shape) -> Type:
    result = Type(shape, x.dtype)
    if result.size != x.size:
        raise ShapeError(f"shape {x.shape} has {x.size} elements, shape {shape} has {result.size}")
    return result


def _strides(shape: Shape) -> list[int]:
    """How many elements lie between neighbours, per axis, in row-major order."""
    return [math.prod(shape[k + 1 :]) for k in range(len(shape))]


def _reshape_nest(x: Type, shape: Shape) -> Nest:
    """Row-major order counts the elements of both shapes alike."""
    count = tuple(enumerate(_strides(shape)))
    return moved(
        shape,
        x,
        tuple(
            Index(count, divisor=max(1, stride), modulus=max(1, extent))
            for stride, extent in zip(_strides(x.shape), x.shape, strict=True)
        ),
    )


RESHAPE = Primitive(
    "reshape",
    "The same elements in row-major order under another shape; one extent may be -1.",
    _reshape_type,
    lambda xp, x, shape: xp.reshape(x, shape),
    (lambda ops, g, y, x, shape: ops.reshape(g, x.shape),),
    (
        Sample((Draw((2, 3)),), {"shape": (3, 2)}),
        Sample((Draw((2, 3)),), {"shape": (6,)}),
        Sample((Draw(()),), {"shape": (1, 1)}),
        Sample((Draw((0, 3)),), {"shape": (3, 0)}),
    ),
    _reshape_surface,
    oracle="numpy.reshape",
    nest=_reshape_nest,
)


def _permute_surface(ops: Any, x: Any, axes: Sequence[int]) -> Any:
    node = ops.node(x)
    order = tuple(normalise_axis(int(axis), node.ndim) for axis in axes)
    return node if order == tuple(range(node.ndim)) else ops.apply(PERMUTE, [node], axes=order)


def _permute_type(x: Type, axes: tuple[int, ...]) -> Type:
    if sorted(axes) != list(range(x.ndim)):
        raise ShapeError(f"axes {axes} are not a permutation of the {x.ndim} axes of shape {x.shape}")
    return Type(tuple(x.shape[axis] for axis in axes), x.dtype)


PERMUTE = Primitive(
    "permute_dims",
    "The axes in another order.",
    _permute_type,
    lambda xp, x, axes: xp.transpose(x, axes),
    (lambda ops, g, y, x, axes: ops.permute_dims(g, tuple(int(each) for each in np.argsort(axes))),),
    (
        Sample((Draw((2, 3)),), {"axes": (1, 0)}),
        Sample((Draw((2, 3, 4)),), {"axes": (2, 0, 1)}),
        Sample((Draw(()),), {"axes": ()}),
        Sample((Draw((0, 2)),), {"axes": (1, 0)}),
    ),
    _permute_surface,
    oracle="numpy.transpose",
    nest=lambda x, axes: moved(
        tuple(x.shape[axis] for axis in axes), x, tuple(along(axes.index(axis)) for axis in range(x.ndim))
    ),
)


def _broadcast_surface(ops: Any, x: Any, shape: Any) -> Any:
    node, wanted = ops.node(x), (shape,) if isinstance(shape, int) else tuple(shape)
    return node if node.shape == wanted else ops.apply(BROADCAST, [node], shape=wanted)


def _broadcast_type(x: Type, shape: Shape) -> Type:
    if broadcast_shapes(x.shape, shape) != shape:
        raise ShapeError(f"shape {x.shape} does not broadcast to {shape}")
    return Type(shape, x.dtype)


BROADCAST = Primitive(
    "broadcast_to",
    "x repeated to a larger shape, without a copy.",
    _broadcast_type,
    lambda xp, x, shape: xp.broadcast_to(x, shape),
    (lambda ops, g, y, x, shape: g,),  # the walk sums over the repeated axes
    (
        Sample((Draw((3,)),), {"shape": (2, 3)}),
        Sample((Draw((2, 1)),), {"shape": (4, 2, 3)}),
        Sample((Draw(()),), {"shape": (3,)}),
        Sample((Draw((1,)),), {"shape": (0,)}),
    ),
    _broadcast_surface,
    oracle="numpy.broadcast_to",
    nest=lambda x, shape: moved(shape, x, broadcast_index(x.shape, shape)),
)


# -- cutting and joining ---------------------------------------------------------------------------------
def _slices(start: tuple[int, ...], stop: tuple[int, ...], step: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(a, b, s) for a, b, s in zip(start, stop, step, strict=True))


def _slice_type(x: Type, start: tuple[int, ...], stop: tuple[int, ...], step: tuple[int, ...]) -> Type:
    return Type(tuple(len(range(a, b, s)) for a, b, s in zip(start, stop, step, strict=True)), x.dtype)


def _slice_oracle(x: Any, start: tuple[int, ...], stop: tuple[int, ...], step: tuple[int, ...]) -> Any:
    """One axis after the other, by explicit positions."""
    for axis, positions in enumerate(map(range, start, stop, step)):
        x = np.take(x, np.array(positions, dtype=np.int64), axis=axis)
    return x


SLICE = Primitive(
    "slice",
    "Every step-th element from start up to stop, per axis; steps are positive.",
    _slice_type,
    lambda xp, x, start, stop, step: x[_slices(start, stop, step)],
    (lambda ops, g, y, x, start, stop, step: ops.place(g, x.shape, start, stop, step),),
    (
        Sample((Draw((5,)),), {"start": (1,), "stop": (4,), "step": (1,)}),
        Sample((Draw((4, 6)),), {"start": (0, 1), "stop": (4, 6), "step": (2, 2)}),
        Sample((Draw((3,)),), {"start": (1,), "stop": (1,), "step": (1,)}),
        Sample((Draw(()),), {"start": (), "stop": (), "step": ()}),
    ),
    oracle=_slice_oracle,
    nest=lambda x, start, stop, step: moved(
        _slice_type(x, start, stop, step).shape,
        x,
        tuple(Index(((k, by),), first) for k, (first, by) in enumerate(zip(start, step, strict=True))),
    ),
)


def _place(
    xp: Any, x: Any, shape: Shape, start: tuple[int, ...], stop: tuple[int, ...], step: tuple[int, ...]
) -> Any:
    where = _slices(start, stop, step)
    if in_numpy(xp):
        full = np.zeros(shape, x.dtype)
        full[where] = x
        return full
    return xp.zeros(shape, x.dtype).at[where].set(x)


def _place_oracle(
    x: Any, shape: Shape, start: tuple[int, ...], stop: tuple[int, ...], step: tuple[int, ...]
) -> Any:
    """A product with a matrix of zeros and ones per axis."""
    for axis, positions in enumerate(map(range, start, stop, step)):
        chosen = np.eye(shape[axis])[:, np.array(positions, dtype=np.int64)]
        x = np.moveaxis(np.tensordot(chosen, x, axes=(1, axis)), 0, axis)
    return x


PLACE: Primitive = Primitive(
    "place",
    "Zeros of a shape, with x at a slice of it: the transpose of slice.",
    lambda x, shape, start, stop, step: Type(shape, x.dtype),
    _place,
    (lambda ops, g, y, x, shape, start, stop, step: ops.slice(g, start=start, stop=stop, step=step),),
    (
        Sample((Draw((3,)),), {"shape": (5,), "start": (1,), "stop": (4,), "step": (1,)}),
        Sample((Draw((2, 3)),), {"shape": (4, 6), "start": (0, 1), "stop": (4, 6), "step": (2, 2)}),
        Sample((Draw((0,)),), {"shape": (2,), "start": (1,), "stop": (1,), "step": (1,)}),
    ),
    lambda ops, x, shape, start, stop, step: ops.apply(
        PLACE, [ops.node(x)], shape=shape, start=start, stop=stop, step=step
    ),
    oracle=_place_oracle,
    nest=lambda x, shape, start, stop, step: moved(
        shape,
        x,
        tuple(
            Index(((k, 1),), -first, divisor=by, exact=True)
            for k, (first, by) in enumerate(zip(start, step, strict=True))
        ),
    ),
)


def _concat_surface(ops: Any, arrays: Sequence[Any], axis: int | None = 0) -> Any:
    if not len(arrays):
        raise ShapeError("concat needs at least one array")
    nodes = ops.promote("concat", list(arrays))
    if axis is None:
        nodes, axis = [ops.reshape(node, (-1,)) for node in nodes], 0
    return ops.apply(CONCAT, nodes, axis=normalise_axis(axis, nodes[0].ndim))


def _concat_type(*types: Type, axis: int) -> Type:
    first = types[0]
    for each in types[1:]:
        if each.ndim != first.ndim or any(
            a != b for k, (a, b) in enumerate(zip(first.shape, each.shape, strict=True)) if k != axis
        ):
            raise ShapeError(f"shapes {first.shape} and {each.shape} differ outside of axis {axis}")
    extent = sum(each.shape[axis] for each in types)
    return Type((*first.shape[:axis], extent, *first.shape[axis + 1 :]), first.dtype)


def _concat_pullback(ops: Any, g: Any, y: Any, *operands: Any, axis: int) -> list[Any]:
    parts, at = [], 0
    for operand in operands:
        end = at + operand.shape[axis]
        parts.append(ops.getitem(g, (slice(None),) * axis + (slice(at, end),)))
        at = end
    return parts


def _concat_nest(*types: Type, axis: int) -> Nest:
    """Every operand is read as if it lay alone in the result, among zeros; so a sum joins them."""
    shape, reads, at = _concat_type(*types, axis=axis).shape, [], 0
    for k, each in enumerate(types):
        index = tuple(Index(((j, 1),), -at if j == axis else 0) for j in range(each.ndim))
        reads.append(Read(k, each.shape, index))
        at += each.shape[axis]
    return Nest(shape, tuple(range(len(shape))), tuple(reads), _joined)


def _joined(xp: Any, *parts: Any) -> Any:
    total = parts[0]
    for each in parts[1:]:
        total = xp.add(total, each)
    return total


CONCAT = Primitive(
    "concat",
    "Arrays joined along an axis.",
    _concat_type,
    lambda xp, *arrays, axis: xp.concatenate(arrays, axis=axis),
    _concat_pullback,
    (
        Sample((Draw((2, 3)), Draw((1, 3))), {"axis": 0}),
        Sample((Draw((2, 3)), Draw((2, 0)), Draw((2, 2))), {"axis": 1}),
        Sample((Draw((3,)),), {"axis": 0}),
    ),
    _concat_surface,
    oracle="numpy.concat",
    spelling=as_list,
    nest=_concat_nest,
)


def _flip_surface(ops: Any, x: Any, axis: Any = None) -> Any:
    node = ops.node(x)
    return ops.apply(FLIP, [node], axis=normalise_axes(axis, node.ndim))


FLIP = Primitive(
    "flip",
    "The elements in reverse order along axes.",
    lambda x, axis: x,
    lambda xp, x, axis: xp.flip(x, axis=axis),
    (lambda ops, g, y, x, axis: ops.flip(g, axis=axis),),
    (
        Sample((Draw((4,)),), {"axis": (0,)}),
        Sample((Draw((2, 3)),), {"axis": (0, 1)}),
        Sample((Draw((2, 0)),), {"axis": (0,)}),
    ),
    _flip_surface,
    oracle="numpy.flip",
    nest=lambda x, axis: moved(
        x.shape,
        x,
        tuple(Index(((k, -1),), n - 1) if k in axis else along(k) for k, n in enumerate(x.shape)),
    ),
)


RECORDS = (RESHAPE, PERMUTE, BROADCAST, SLICE, PLACE, CONCAT, FLIP)
