"""Shorthand with which the primitive files write their records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule.errors import DTypeError
from chainrule.primitive import Draw, Primitive, Sample
from chainrule.types import Type, broadcast_shapes

SHAPES: tuple[tuple[int, ...], ...] = ((), (3,), (2, 3), (0,), (2, 0, 3))
PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((2, 3), (2, 3)),
    ((), ()),
    ((2, 3), ()),
    ((3,), (2, 3)),
    ((2, 1), (1, 3)),
    ((0, 3), (3,)),
    ((4, 1, 2), (3, 1)),
)


def same_type(name: str) -> Callable[..., Type]:
    """Type rule of an elementwise primitive: broadcast shape, the dtype the operands share."""

    def infer(*types: Type, **_: Any) -> Type:
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


def elementwise(
    name: str,
    doc: str,
    meaning: Callable[..., Any],
    *pullback: Callable[..., Any] | None,
    arity: int = 1,
    domain: tuple[float, float] | tuple[tuple[float, float], ...] = (-2.0, 2.0),
    kind: str = "number",
    result: str = "same",
    analytic: bool = True,
    ulps: float = 4.0,
    oracle: str | None = None,
    extra: tuple[Sample, ...] = (),
) -> Primitive:
    """A primitive that maps elements to elements.

    `kind` is what it takes: "float" (integers are converted to float64 first, as NumPy does), "number",
    "integer", "bool" or "any"; `result` is "same" or "bool".
    """
    domains = domain if isinstance(domain[0], tuple) else (domain,) * arity
    dtype = {"integer": "int64", "bool": "bool"}.get(kind, "float64")
    shapes = [(s,) for s in SHAPES] if arity == 1 else PAIRS if arity == 2 else [(p, q, p) for p, q in PAIRS]
    samples = tuple(
        Sample(tuple(Draw(s, low, high, dtype) for s, (low, high) in zip(each, domains, strict=True)))  # type: ignore[misc]
        for each in shapes
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
