"""Reductions: many elements become one, along one or more axes.

In the records `axis` is a sorted tuple of front-counted axes; the surface accepts what NumPy does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.errors import ShapeError
from chainrule.nest import Index, Nest, Read, along, itself, reduced
from chainrule.primitive import Draw, Primitive, Rule, Sample
from chainrule.primitives._define import reduced_shape, sum_dtype
from chainrule.types import Type, normalise_axes, normalise_axis


def _spread(ops: Any, value: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """A reduced value back in a shape that broadcasts against `x`."""
    return value if keepdims else ops.reshape(value, reduced_shape(x.shape, axis, True))


_SAMPLES = (
    Sample((Draw((2, 3)),), {"axis": (0,), "keepdims": False}),
    Sample((Draw((2, 3)),), {"axis": (0, 1), "keepdims": False}),
    Sample((Draw((2, 3, 4)),), {"axis": (0, 2), "keepdims": True}),
    Sample((Draw((4,)),), {"axis": (0,), "keepdims": True}),
    Sample((Draw((2, 3)),), {"axis": (), "keepdims": False}),
    Sample((Draw(()),), {"axis": (), "keepdims": False}),
)
_EMPTY = (
    Sample((Draw((0, 3)),), {"axis": (0,), "keepdims": False}),
    Sample((Draw((2, 0)),), {"axis": (0,), "keepdims": True}),
)


def _reduction(
    name: str,
    doc: str,
    meaning: Callable[..., Any],
    pullback: Rule | None,
    *,
    dtype: Callable[[np.dtype[Any]], np.dtype[Any]] = lambda dtype: dtype,
    kind: str = "number",
    empty: bool = True,
    analytic: bool = True,
    oracle: str | Rule | None = None,
    extra: tuple[Sample, ...] = (),
    ulps: float = 16.0,
) -> Primitive:
    def infer(x: Type, axis: tuple[int, ...], keepdims: bool) -> Type:
        if not empty and any(x.shape[k] == 0 for k in axis):
            raise ShapeError(f"{name} over an axis of length 0 has no value; the shape is {x.shape}")
        return Type(reduced_shape(x.shape, axis, keepdims), dtype(x.dtype))

    def surface(ops: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        (node,) = ops.promote(name, [x], kind)
        return ops.apply(record, [node], axis=normalise_axes(axis, node.ndim), keepdims=bool(keepdims))

    record = Primitive(
        name, doc, infer, meaning, None if pullback is None else (pullback,),
        _SAMPLES + (_EMPTY if empty else ()) + extra, surface,
        analytic=analytic, oracle=oracle or f"numpy.{name}", ulps=ulps,
        nest=lambda x, axis, keepdims: reduced(x, axis, keepdims, name),
    )  # fmt: skip
    return record


def _where_equal(ops: Any, g: Any, y: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """Every element that ties for the extreme takes an equal share, so that the derivative is symmetric."""
    chosen = ops.astype(ops.equal(x, _spread(ops, y, x, axis, keepdims)), x.dtype)
    count = ops.sum(chosen, axis=axis, keepdims=True)
    return ops.multiply(_spread(ops, g, x, axis, keepdims), ops.divide(chosen, count))


def _logsumexp(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    largest = xp.max(xp.real(x), axis=axis, keepdims=True, initial=-np.inf)
    largest = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    total = xp.log(xp.sum(xp.exp(x - largest), axis=axis, keepdims=True)) + largest
    return xp.reshape(total, reduced_shape(x.shape, axis, keepdims))


SUM = _reduction(
    "sum",
    "Sum along axes.",
    lambda xp, x, axis, keepdims: xp.sum(x, axis=axis, keepdims=keepdims),
    lambda ops, g, y, x, axis, keepdims: ops.broadcast_to(_spread(ops, g, x, axis, keepdims), x.shape),
    dtype=sum_dtype,
)
MAX = _reduction(
    "max",
    "The largest along axes; ties share the derivative equally.",
    lambda xp, x, axis, keepdims: xp.max(x, axis=axis, keepdims=keepdims),
    _where_equal,
    empty=False,
    analytic=False,
    extra=tuple(
        Sample(
            (np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]),),
            {"axis": (1,), "keepdims": keepdims},
            convention=([[0.0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]],),
        )
        for keepdims in (False, True)
    ),
)
MIN = _reduction(
    "min",
    "The smallest along axes; ties share the derivative equally.",
    lambda xp, x, axis, keepdims: xp.min(x, axis=axis, keepdims=keepdims),
    _where_equal,
    empty=False,
    analytic=False,
    extra=tuple(
        Sample(
            (np.array([[3.0, 1.0, 1.0], [2.0, 2.0, 2.0]]),),
            {"axis": (1,), "keepdims": keepdims},
            convention=([[0.0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]],),
        )
        for keepdims in (False, True)
    ),
)
LOGSUMEXP = _reduction(
    "logsumexp",
    "log(sum(exp(x))) along axes without overflow.",
    _logsumexp,
    lambda ops, g, y, x, axis, keepdims: ops.multiply(
        _spread(ops, g, x, axis, keepdims), ops.exp(ops.subtract(x, _spread(ops, y, x, axis, keepdims)))
    ),
    kind="float",
    oracle=lambda x, axis, keepdims: np.logaddexp.reduce(x, axis=axis, keepdims=keepdims),
    extra=(
        Sample(
            (np.array([1000.0, 900.0, 1000.0]),),
            {"axis": (0,), "keepdims": False},
            value=1000.0 + math.log(2),
            convention=([0.5, 0.0, 0.5],),
        ),
        Sample(
            (np.array([[-np.inf, 2.0], [-np.inf, -np.inf]]),),
            {"axis": (1,), "keepdims": False},
            value=[2.0, -np.inf],
            convention=([[0.0, 1.0], [np.nan, np.nan]],),
        ),
    ),
)
_TRUTHS = (
    Sample((np.array([[True, False], [True, True], [False, False]]),), {"axis": (1,), "keepdims": False}),
)

ANY = _reduction(
    "any",
    "True where at least one element is true.",
    lambda xp, x, axis, keepdims: xp.any(x, axis=axis, keepdims=keepdims),
    None,
    dtype=lambda dtype: np.dtype(bool),
    analytic=False,
    extra=_TRUTHS,
)
ALL = _reduction(
    "all",
    "True where every element is true.",
    lambda xp, x, axis, keepdims: xp.all(x, axis=axis, keepdims=keepdims),
    None,
    dtype=lambda dtype: np.dtype(bool),
    analytic=False,
    extra=_TRUTHS,
)


# -- positions of extremes -------------------------------------------------------------------------------
def _position(name: str, doc: str) -> Primitive:
    def infer(x: Type, axis: int) -> Type:
        if x.shape[axis] == 0:
            raise ShapeError(f"{name} over an axis of length 0 has no value; the shape is {x.shape}")
        return Type(reduced_shape(x.shape, (axis,), False), np.dtype(np.int64))

    def surface(ops: Any, x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
        node = ops.node(x)
        if axis is None:
            flat = ops.apply(record, [ops.reshape(node, (-1,))], axis=0)
            return ops.reshape(flat, (1,) * node.ndim) if keepdims else flat
        k = normalise_axis(axis, node.ndim)
        found = ops.apply(record, [node], axis=k)
        return ops.expand_dims(found, axis=k) if keepdims else found

    record = Primitive(
        name,
        doc,
        infer,
        lambda xp, x, axis: getattr(xp, name)(x, axis=axis).astype(np.int64),
        None,
        tuple(
            Sample((operand,), {"axis": axis})
            for operand, axis in (
                (Draw((4,)), 0),
                (Draw((2, 3)), 1),
                (Draw((2, 3, 4)), 1),
                (Draw((2, 0)), 0),
                (np.array([2.0, 1.0, 2.0, 1.0]), 0),  # the first among equals
            )
        ),
        surface,
        analytic=False,
        oracle=f"numpy.{name}",
        feeds=lambda place, x, axis: [
            [(*place[:axis], position, *place[axis:]) for position in range(x.shape[axis])]
        ],
    )
    return record


ARGMAX = _position("argmax", "Index of the largest along an axis, the first among equals.")
ARGMIN = _position("argmin", "Index of the smallest along an axis, the first among equals.")


def _argsort_surface(ops: Any, x: Any, axis: int = -1) -> Any:
    node = ops.node(x)
    return ops.apply(ARGSORT, [node], axis=normalise_axis(axis, node.ndim))


ARGSORT = Primitive(
    "argsort",
    "Indices that sort along an axis, ascending and stable.",
    lambda x, axis: Type(x.shape, np.dtype(np.int64)),
    lambda xp, x, axis: xp.argsort(x, axis=axis, stable=True).astype(np.int64),
    None,
    (
        Sample((Draw((5,)),), {"axis": 0}),
        Sample((Draw((2, 4)),), {"axis": 1}),
        Sample((Draw((0,)),), {"axis": 0}),
        Sample((np.tile([2.0, 1.0], 20),), {"axis": 0}, value=[*range(1, 40, 2), *range(0, 40, 2)]),
    ),
    _argsort_surface,
    analytic=False,
    oracle=lambda x, axis: np.lexsort((x,), axis=axis),
    feeds=lambda place, x, axis: [
        [(*place[:axis], position, *place[axis + 1 :]) for position in range(x.shape[axis])]
    ],
)


# -- running sums ----------------------------------------------------------------------------------------
def _cumulative_surface(
    ops: Any, x: Any, axis: int | None = None, include_initial: bool = False, reverse: bool = False
) -> Any:
    node = ops.node(x)
    if axis is None:
        if node.ndim != 1:
            raise ShapeError(f"cumulative_sum needs an axis for an array of {node.ndim} dimensions")
        axis = 0
    k = normalise_axis(axis, node.ndim)
    total = ops.apply(CUMULATIVE_SUM, [node], axis=k, reverse=bool(reverse))
    if not include_initial:
        return total
    zero = ops.zeros(Type((*node.shape[:k], 1, *node.shape[k + 1 :]), total.dtype))
    return ops.concat([total, zero] if reverse else [zero, total], axis=k)


def _cumulative(xp: Any, x: Any, axis: int, reverse: bool) -> Any:
    if reverse:
        return xp.flip(xp.cumsum(xp.flip(x, axis=axis), axis=axis), axis=axis)
    return xp.cumsum(x, axis=axis)


def _triangular_sum(x: Any, axis: int, reverse: bool) -> Any:
    """The running sum as a product with a triangular matrix."""
    ones = np.tri(x.shape[axis]).T if reverse else np.tri(x.shape[axis])
    return np.moveaxis(np.tensordot(ones, x, axes=(1, axis)), 0, axis)


def _cumulative_nest(x: Type, axis: int, reverse: bool) -> Nest:
    """One more loop axis counts back (ahead) from every position; beyond the end there are zeros."""
    towards = ((axis, 1), (x.ndim, 1 if reverse else -1))
    read = Read(0, x.shape, tuple(Index(towards) if k == axis else along(k) for k in range(x.ndim)))
    return Nest((*x.shape, x.shape[axis]), tuple(range(x.ndim)), (read,), itself, "sum")


CUMULATIVE_SUM = Primitive(
    "cumulative_sum",
    "Running sum along an axis (from the end when reverse).",
    lambda x, axis, reverse: Type(x.shape, sum_dtype(x.dtype)),
    _cumulative,
    (lambda ops, g, y, x, axis, reverse: ops.cumulative_sum(g, axis=axis, reverse=not reverse),),
    (
        Sample((Draw((4,)),), {"axis": 0, "reverse": False}),
        Sample((Draw((2, 3)),), {"axis": 1, "reverse": True}),
        Sample((Draw((2, 3, 2)),), {"axis": 1, "reverse": False}),
        Sample((Draw((0,)),), {"axis": 0, "reverse": False}),
    ),
    _cumulative_surface,
    oracle=_triangular_sum,
    nest=_cumulative_nest,
    ulps=16.0,
)


RECORDS = (SUM, MAX, MIN, LOGSUMEXP, ANY, ALL, ARGMAX, ARGMIN, ARGSORT, CUMULATIVE_SUM)
