"""Reductions: many elements become one, along one or more axes.

In the records `axis` is a sorted tuple of front-counted axes; the surface accepts what NumPy does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.errors import ShapeError
from chainrule.primitive import Composite, Draw, Primitive, Rule, Sample
from chainrule.types import Shape, Type, normalise_axes, normalise_axis


def _reduced(shape: Shape, axis: tuple[int, ...], keepdims: bool) -> Shape:
    if keepdims:
        return tuple(1 if k in axis else extent for k, extent in enumerate(shape))
    return tuple(extent for k, extent in enumerate(shape) if k not in axis)


def _spread(ops: Any, value: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """A reduced value back in a shape that broadcasts against `x`."""
    return value if keepdims else ops.reshape(value, _reduced(x.shape, axis, True))


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
    kind: str = "any",
    empty: bool = True,
    analytic: bool = True,
    oracle: str | None = None,
    ulps: float = 16.0,
) -> Primitive:
    def infer(x: Type, axis: tuple[int, ...], keepdims: bool) -> Type:
        if not empty and any(x.shape[k] == 0 for k in axis):
            raise ShapeError(f"{name} over an axis of length 0 has no value; the shape is {x.shape}")
        return Type(_reduced(x.shape, axis, keepdims), dtype(x.dtype))

    def surface(ops: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        (node,) = ops.promote(name, [x], kind)
        return ops.apply(record, [node], axis=normalise_axes(axis, node.ndim), keepdims=bool(keepdims))

    record = Primitive(
        name, doc, infer, meaning, None if pullback is None else (pullback,),
        _SAMPLES + (_EMPTY if empty else ()), surface,
        analytic=analytic, oracle=oracle or f"numpy.{name}", ulps=ulps,
    )  # fmt: skip
    return record


def _sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.add.reduce(np.zeros(1, dtype)).dtype  # type: ignore[no-any-return]


def _where_equal(ops: Any, g: Any, y: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """Every element that ties for the extreme takes an equal share, so that the derivative is symmetric."""
    chosen = ops.astype(ops.equal(x, _spread(ops, y, x, axis, keepdims)), x.dtype)
    count = ops.sum(chosen, axis=axis, keepdims=True)
    return ops.multiply(_spread(ops, g, x, axis, keepdims), ops.divide(chosen, count))


def _logsumexp(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if any(x.shape[k] == 0 for k in axis):
        return xp.log(xp.sum(xp.exp(x), axis=axis, keepdims=keepdims))
    largest = xp.max(xp.real(x), axis=axis, keepdims=True)
    largest = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    total = xp.log(xp.sum(xp.exp(x - largest), axis=axis, keepdims=True)) + largest
    return xp.reshape(total, _reduced(x.shape, axis, keepdims))


SUM = _reduction(
    "sum",
    "Sum along axes.",
    lambda xp, x, axis, keepdims: xp.sum(x, axis=axis, keepdims=keepdims),
    lambda ops, g, y, x, axis, keepdims: ops.broadcast_to(_spread(ops, g, x, axis, keepdims), x.shape),
    dtype=_sum_dtype,
)
MAX = _reduction(
    "max",
    "The largest along axes; ties share the derivative equally.",
    lambda xp, x, axis, keepdims: xp.max(x, axis=axis, keepdims=keepdims),
    lambda ops, g, y, x, axis, keepdims: _where_equal(ops, g, y, x, axis, keepdims),
    empty=False,
    analytic=False,
)
MIN = _reduction(
    "min",
    "The smallest along axes; ties share the derivative equally.",
    lambda xp, x, axis, keepdims: xp.min(x, axis=axis, keepdims=keepdims),
    lambda ops, g, y, x, axis, keepdims: _where_equal(ops, g, y, x, axis, keepdims),
    empty=False,
    analytic=False,
)
LOGSUMEXP = _reduction(
    "logsumexp",
    "log(sum(exp(x))) along axes without overflow.",
    _logsumexp,
    lambda ops, g, y, x, axis, keepdims: ops.multiply(
        _spread(ops, g, x, axis, keepdims), ops.exp(ops.subtract(x, _spread(ops, y, x, axis, keepdims)))
    ),
    kind="float",
    oracle="scipy.special.logsumexp",
)
ANY = _reduction(
    "any",
    "True where at least one element is true.",
    lambda xp, x, axis, keepdims: xp.any(x, axis=axis, keepdims=keepdims),
    None,
    dtype=lambda dtype: np.dtype(bool),
    analytic=False,
)
ALL = _reduction(
    "all",
    "True where every element is true.",
    lambda xp, x, axis, keepdims: xp.all(x, axis=axis, keepdims=keepdims),
    None,
    dtype=lambda dtype: np.dtype(bool),
    analytic=False,
)


# -- positions of extremes -------------------------------------------------------------------------------
def _position(name: str, doc: str) -> Primitive:
    def infer(x: Type, axis: int) -> Type:
        if x.shape[axis] == 0:
            raise ShapeError(f"{name} over an axis of length 0 has no value; the shape is {x.shape}")
        return Type(_reduced(x.shape, (axis,), False), np.dtype(np.int64))

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
            Sample((Draw(shape),), {"axis": axis}) for shape, axis in (((4,), 0), ((2, 3), 1), ((2, 3, 4), 1))
        ),
        surface,
        analytic=False,
        oracle=f"numpy.{name}",
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
    ),
    _argsort_surface,
    analytic=False,
    oracle="numpy.argsort",
)


# -- running sums ----------------------------------------------------------------------------------------
def _cumulative_surface(ops: Any, x: Any, axis: int | None = None, include_initial: bool = False) -> Any:
    node = ops.node(x)
    if axis is None:
        if node.ndim != 1:
            raise ShapeError(f"cumulative_sum needs an axis for an array of {node.ndim} dimensions")
        axis = 0
    k = normalise_axis(axis, node.ndim)
    total = ops.apply(CUMULATIVE_SUM, [node], axis=k, reverse=False)
    if not include_initial:
        return total
    first = ops.zeros(Type((*node.shape[:k], 1, *node.shape[k + 1 :]), total.dtype))
    return ops.concat([first, total], axis=k)


def _cumulative(xp: Any, x: Any, axis: int, reverse: bool) -> Any:
    if reverse:
        return xp.flip(xp.cumsum(xp.flip(x, axis=axis), axis=axis), axis=axis)
    return xp.cumsum(x, axis=axis)


CUMULATIVE_SUM = Primitive(
    "cumulative_sum",
    "Running sum along an axis (from the end when reverse).",
    lambda x, axis, reverse: Type(x.shape, _sum_dtype(x.dtype)),
    _cumulative,
    (lambda ops, g, y, x, axis, reverse: ops.apply(CUMULATIVE_SUM, [g], axis=axis, reverse=not reverse),),
    (
        Sample((Draw((4,)),), {"axis": 0, "reverse": False}),
        Sample((Draw((2, 3)),), {"axis": 1, "reverse": True}),
        Sample((Draw((2, 3, 2)),), {"axis": 1, "reverse": False}),
        Sample((Draw((0,)),), {"axis": 0, "reverse": False}),
    ),
    _cumulative_surface,
    ulps=16.0,
)


# -- combinations ----------------------------------------------------------------------------------------
def _prod(ops: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Multiplied pairwise as a tree: right at zeros, in derivatives of every order."""
    node = ops.node(x)
    if node.dtype.kind == "b":
        node = ops.astype(node, np.int64)
    axes = normalise_axes(axis, node.ndim)
    kept = tuple(k for k in range(node.ndim) if k not in axes)
    count = int(np.prod([node.shape[k] for k in axes], dtype=np.int64))
    y = ops.reshape(ops.permute_dims(node, kept + axes), tuple(node.shape[k] for k in kept) + (count,))
    if count == 0:
        y = ops.full(Type((*y.shape[:-1], 1), y.dtype), 1)
    while y.shape[-1] > 1:
        half = y.shape[-1] // 2
        pairs = ops.multiply(
            ops.getitem(y, (..., slice(0, half))), ops.getitem(y, (..., slice(half, 2 * half)))
        )
        rest = ops.getitem(y, (..., slice(2 * half, None)))
        y = ops.concat([pairs, rest], axis=-1) if rest.shape[-1] else pairs
    return ops.reshape(y, _reduced(node.shape, axes, keepdims))


def _mean(ops: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    (node,) = ops.promote("mean", [x], "float")
    axes = normalise_axes(axis, node.ndim)
    count = int(np.prod([node.shape[k] for k in axes], dtype=np.int64))
    return ops.divide(ops.sum(node, axis=axes, keepdims=keepdims), count)


def _var(ops: Any, x: Any, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    (node,) = ops.promote("var", [x], "float")
    axes = normalise_axes(axis, node.ndim)
    count = int(np.prod([node.shape[k] for k in axes], dtype=np.int64))
    centred = ops.subtract(node, _mean(ops, node, axes, True))
    return ops.divide(ops.sum(ops.square(centred), axis=axes, keepdims=keepdims), max(count - correction, 0))


def _std(ops: Any, x: Any, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    return ops.sqrt(_var(ops, x, axis, correction, keepdims))


def _softmax(ops: Any, x: Any, axis: int = -1) -> Any:
    return ops.exp(_log_softmax(ops, x, axis))


def _log_softmax(ops: Any, x: Any, axis: int = -1) -> Any:
    return ops.subtract(x, ops.logsumexp(x, axis=axis, keepdims=True))


def _sort(ops: Any, x: Any, axis: int = -1) -> Any:
    return ops.take_along_axis(x, ops.argsort(x, axis=axis), axis=axis)


_CALLS = (
    Sample((Draw((2, 3)),), {"axis": 0}),
    Sample((Draw((2, 3, 2)),), {"axis": (0, 2), "keepdims": True}),
    Sample((Draw((3,)),), {}),
)
_ALONG = (Sample((Draw((4,)),), {}), Sample((Draw((2, 3)),), {"axis": 0}))
_WITH_ZEROS = (Sample((np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 1.5]]),), {"axis": 1}),)

RECORDS: tuple[Primitive | Composite, ...] = (
    SUM, MAX, MIN, LOGSUMEXP, ANY, ALL, ARGMAX, ARGMIN, ARGSORT, CUMULATIVE_SUM,
    Composite("prod", "Product along axes.", _prod, _CALLS + _WITH_ZEROS, oracle="numpy.prod"),
    Composite("mean", "Arithmetic mean along axes.", _mean, _CALLS, oracle="numpy.mean"),
    Composite("var", "Variance along axes; divides by n - correction.", _var, _CALLS, oracle="numpy.var"),
    Composite("std", "Standard deviation along axes; divides by n - correction.", _std, _CALLS, oracle="numpy.std"),
    Composite("softmax", "exp(x) normalised to sum 1 along an axis.", _softmax, _ALONG),
    Composite("log_softmax", "Logarithm of softmax along an axis.", _log_softmax, _ALONG),
    Composite("sort", "Sorted ascending along an axis.", _sort, _ALONG, analytic=False, oracle="numpy.sort"),
)  # fmt: skip
