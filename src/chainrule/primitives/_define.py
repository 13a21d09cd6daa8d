"""Shorthand with which the primitive files write their records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.errors import DTypeError
from chainrule.primitive import Draw, Primitive, Rule, Sample
from chainrule.types import Shape, Type, broadcast_shapes

SHAPES: tuple[tuple[int, ...], ...] = ((), (3,), (2, 3), (0,), (2, 0, 3))
PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((2, 3), (2, 3)),
    ((), ()),
    ((2, 3), ()),
    ((3,), (2, 3)),
    ((2, 1), (1, 3)),
    ((0, 3), (3,)),
    ((4, 1, 2), (3, 1)),
    ((3, 3), (3,)),
)


def same_type(name: str) -> Callable[..., Type]:
    """Type rule of an elementwise primitive: broadcast shape, the dtype the operands share."""

    def infer(*types: Type, **_: Any) -> Type:
        if types.count(types[0]) == len(types):
            return types[0]  # nearly always
        first = types[0].dtype
        if any(each.dtype != first for each in types):
            raise DTypeError(
                f"{name} takes operands of one dtype, not {' and '.join(str(t.dtype) for t in types)}"
            )
        return Type(broadcast_shapes(*(each.shape for each in types)), first)

    return infer


def bool_type(*types: Type, **_: Any) -> Type:
    """Type rule of relations and logic: broadcast shape, bool."""
    return Type(broadcast_shapes(*(each.shape for each in types)), np.dtype(bool))


def in_numpy(xp: Any) -> bool:
    """True when a meaning runs on NumPy itself, where some shortcuts pay."""
    return getattr(xp, "__name__", "") == "numpy"


def place_along(ops: Any, extent: int, axis: int, ndim: int) -> Any:
    """0 … extent - 1 laid along one axis of `ndim`, the others of length 1: for comparing positions."""
    return ops.reshape(ops.iota((extent,)), (1,) * axis + (extent,) + (1,) * (ndim - axis - 1))


def integer_indices(ops: Any, indices: Any) -> Any:
    """Index arrays as a node; an empty list, which has no dtype of its own, as integers."""
    node = ops.node(indices)
    return ops.astype(node, np.int64) if node.dtype.kind == "f" and node.size == 0 else node


def reduced_shape(shape: Shape, axis: tuple[int, ...], keepdims: bool) -> Shape:
    """The shape that is left when the axes in `axis` are reduced."""
    if keepdims:
        return tuple(1 if k in axis else extent for k, extent in enumerate(shape))
    return tuple(extent for k, extent in enumerate(shape) if k not in axis)


def sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which NumPy adds (and multiplies) elements up: small integers grow to 64 bits."""
    total: np.dtype[Any] = np.add.reduce(np.zeros(1, dtype)).dtype
    return total


def as_list(function: Any, *arrays: Any, **attributes: Any) -> Any:
    """Spelling of functions that take their arrays as one list."""
    return function(list(arrays), **attributes)


def elementwise(
    name: str,
    doc: str,
    meaning: Callable[..., Any],
    *pullback: Callable[..., Any] | None,
    arity: int = 1,
    domain: tuple[float, float] = (-2.0, 2.0),
    domains: tuple[tuple[float, float], ...] = (),
    kind: str = "number",
    result: str = "same",
    analytic: bool = True,
    ulps: float = 4.0,
    oracle: str | Rule | None = None,
    extra: tuple[Sample, ...] = (),
) -> Primitive:
    """A primitive that maps elements to elements.

    Samples are drawn from `domain`, or from one of `domains` per operand; `extra` are more of them. `kind` is
    what the primitive takes (see `Ops.promote`); `result` is "same" or "bool".
    """
    dtype = {"integer": "int64", "shift": "int64", "bool": "bool"}.get(kind, "float64")
    shapes = {1: [(s,) for s in SHAPES], 2: PAIRS}[arity]
    samples = tuple(
        Sample(tuple(Draw(shape, low, high, dtype) for shape, (low, high) in zip(each, ranges, strict=True)))
        for each in shapes
        for ranges in [domains or (domain,) * arity]
    )

    def surface(ops: Any, *operands: Any) -> Any:
        return ops.apply(record, ops.promote(record.name, operands, kind))

    record = Primitive(
        name,
        doc,
        same_type(name) if result == "same" else bool_type,
        meaning,
        pullback or None,
        samples + extra,
        surface,
        elementwise=True,
        analytic=analytic,
        ulps=ulps,
        oracle=oracle if oracle is not None else f"numpy.{name}" if hasattr(np, name) else None,
    )
    return record
