"""Comparing, rounding, choosing and converting elements; operands broadcast as in NumPy.

A derivative that does not exist at a point is PyTorch's convention: |x|'(0) = 0, and, as in JAX too, a tie in
`maximum` or `minimum` splits the cotangent in halves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.primitive import Draw, Primitive, Sample
from chainrule.primitives._define import elementwise, same_type
from chainrule.types import Type, broadcast_shapes, promote_dtypes

HALVES = (Sample((np.array([-2.5, -1.5, -0.5, -0.0, 0.5, 1.5, 2.5, 3.0]),), convention=(np.zeros(8),)),)
ODD = (Sample((np.array([-np.inf, np.nan, np.inf, -0.0, 0.0, 1.0]),)),)
TIES = (np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 1.0]))


def _half_at_ties(ops: Any, g: Any, wins: Any, ties: Any) -> Any:
    return ops.where(wins, g, ops.where(ties, ops.multiply(g, 0.5), 0))


# -- signs, rounding, order ------------------------------------------------------------------------------
ORDER = (
    elementwise(
        "abs", "Absolute value; its derivative at 0 is 0.", lambda xp, x: xp.abs(x),
        lambda ops, g, y, x: ops.multiply(g, ops.sign(x)),
        analytic=False, extra=(Sample((np.array([-2.0, 0.0, 3.0]),), convention=([-1.0, 0.0, 1.0],)),),
    ),
    elementwise("sign", "-1, 0 or 1.", lambda xp, x: xp.sign(x), kind="signed", analytic=False, extra=HALVES),
    elementwise("floor", "Rounded down.", lambda xp, x: xp.floor(x), analytic=False, extra=HALVES),
    elementwise("ceil", "Rounded up.", lambda xp, x: xp.ceil(x), analytic=False, extra=HALVES),
    elementwise("trunc", "Rounded towards 0.", lambda xp, x: xp.trunc(x), analytic=False, extra=HALVES),
    elementwise(
        "round", "Rounded to the nearest integer, halves to even.", lambda xp, x: xp.round(x),
        kind="counted", analytic=False, extra=HALVES,
    ),
    elementwise(
        "copysign", "The magnitude of a with the sign of b.", lambda xp, a, b: xp.copysign(a, b),
        lambda ops, g, y, a, b: ops.where(ops.equal(ops.signbit(a), ops.signbit(b)), g, ops.negative(g)),
        None,
        arity=2, kind="float", analytic=False,
    ),
    elementwise(
        "maximum", "The larger of two; a tie splits the derivative.", lambda xp, a, b: xp.maximum(a, b),
        lambda ops, g, y, a, b: _half_at_ties(ops, g, ops.greater(a, b), ops.equal(a, b)),
        lambda ops, g, y, a, b: _half_at_ties(ops, g, ops.greater(b, a), ops.equal(a, b)),
        arity=2, analytic=False, extra=(Sample(TIES, convention=([0.0, 0.5, 1.0], [1.0, 0.5, 0.0])),),
    ),
    elementwise(
        "minimum", "The smaller of two; a tie splits the derivative.", lambda xp, a, b: xp.minimum(a, b),
        lambda ops, g, y, a, b: _half_at_ties(ops, g, ops.less(a, b), ops.equal(a, b)),
        lambda ops, g, y, a, b: _half_at_ties(ops, g, ops.less(b, a), ops.equal(a, b)),
        arity=2, analytic=False, extra=(Sample(TIES, convention=([1.0, 0.5, 0.0], [0.0, 0.5, 1.0])),),
    ),
    elementwise(
        "nextafter", "The next floating number after a in the direction of b.",
        lambda xp, a, b: xp.nextafter(a, b),
        lambda ops, g, y, a, b: g,
        None,
        arity=2, kind="float", analytic=False,
    ),
)  # fmt: skip


def _relation(name: str, doc: str) -> Primitive:
    return elementwise(
        name, doc, lambda xp, a, b: getattr(xp, name)(a, b),
        arity=2, result="bool", analytic=False, extra=(Sample(TIES),),
    )  # fmt: skip


def _logical(name: str, doc: str, arity: int = 2) -> Primitive:
    return elementwise(
        name,
        doc,
        lambda xp, *x: getattr(xp, name)(*x),
        arity=arity,
        kind="bool",
        result="bool",
        analytic=False,
    )


def _bitwise(name: str, doc: str, numpy_name: str, arity: int = 2, kind: str = "integer") -> Primitive:
    return elementwise(
        name, doc, lambda xp, *x: getattr(xp, numpy_name)(*x),
        arity=arity, kind=kind, domain=(0, 9), analytic=False, oracle=f"numpy.{numpy_name}",
    )  # fmt: skip


RELATIONS = (
    _relation("equal", "a == b."),
    _relation("not_equal", "a != b."),
    _relation("less", "a < b."),
    _relation("less_equal", "a <= b."),
    _relation("greater", "a > b."),
    _relation("greater_equal", "a >= b."),
    _logical("logical_and", "a and b."),
    _logical("logical_or", "a or b."),
    _logical("logical_xor", "Exactly one of a and b."),
    _logical("logical_not", "not a.", arity=1),
    _bitwise("bitwise_and", "Bits set in both.", "bitwise_and"),
    _bitwise("bitwise_or", "Bits set in either.", "bitwise_or"),
    _bitwise("bitwise_xor", "Bits set in exactly one.", "bitwise_xor"),
    _bitwise("bitwise_left_shift", "a shifted left by b bits.", "left_shift", kind="shift"),
    _bitwise("bitwise_right_shift", "a shifted right by b bits.", "right_shift", kind="shift"),
    _bitwise("bitwise_invert", "Every bit flipped.", "invert", arity=1),
    elementwise(
        "isfinite", "Neither infinite nor NaN.", lambda xp, x: xp.isfinite(x),
        result="bool", analytic=False, extra=ODD,
    ),
    elementwise(
        "isinf", "Infinite.", lambda xp, x: xp.isinf(x),
        result="bool", analytic=False, extra=ODD,
    ),
    elementwise(
        "isnan", "Not a number.", lambda xp, x: xp.isnan(x),
        result="bool", analytic=False, extra=ODD,
    ),
    elementwise(
        "signbit", "True where the sign is negative, -0.0 included.", lambda xp, x: xp.signbit(x),
        kind="float", result="bool", analytic=False, extra=ODD,
    ),
)  # fmt: skip


# -- choosing --------------------------------------------------------------------------------------------
def _where_type(condition: Type, a: Type, b: Type) -> Type:
    return Type(broadcast_shapes(condition.shape, a.shape, b.shape), promote_dtypes([a.dtype, b.dtype]))


def _where_surface(ops: Any, condition: Any, a: Any, b: Any) -> Any:
    return ops.apply(WHERE, [*ops.promote("where", [condition], "bool"), *ops.promote("where", [a, b])])


WHERE = Primitive(
    "where",
    "a where the condition is true, b elsewhere.",
    _where_type,
    lambda xp, condition, a, b: xp.where(condition, a, b),
    (
        None,
        lambda ops, g, y, condition, a, b: ops.where(condition, g, 0),
        lambda ops, g, y, condition, a, b: ops.where(condition, 0, g),
    ),
    samples=tuple(
        Sample((Draw(c, dtype="bool"), Draw(a), Draw(b)))
        for c, a, b in (((2, 3), (2, 3), (2, 3)), ((3,), (2, 1), (1, 3)), ((), (2,), ()), ((0,), (0,), ()))
    ),
    surface=_where_surface,
    elementwise=True,
    oracle="numpy.where",
    analytic=True,
)


def _clip_surface(ops: Any, x: Any, min: Any = None, max: Any = None) -> Any:
    if min is None and max is None:
        return ops.node(x)
    low, high = _extremes(ops.node(x).dtype)
    return ops.apply(
        CLIP, ops.promote("clip", [x, low if min is None else min, high if max is None else max])
    )


def _extremes(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """The lowest and the highest value of a dtype, as weak Python scalars."""
    if dtype.kind == "b":
        return False, True
    return (-np.inf, np.inf) if dtype.kind == "f" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


CLIP = Primitive(
    "clip",
    "x held between two bounds; at a bound the derivative passes, as in PyTorch.",
    same_type("clip"),
    lambda xp, x, low, high: xp.minimum(xp.maximum(x, low), high),
    (
        lambda ops, g, y, x, low, high: ops.where(
            ops.logical_and(ops.greater_equal(x, low), ops.less_equal(x, high)), g, 0
        ),
        lambda ops, g, y, x, low, high: ops.where(
            ops.logical_and(ops.less(x, low), ops.less_equal(low, high)), g, 0
        ),
        lambda ops, g, y, x, low, high: ops.where(
            ops.logical_or(ops.greater(x, high), ops.greater(low, high)), g, 0
        ),
    ),
    samples=(
        Sample((Draw((3, 4)), Draw((), -1.0, -0.5), Draw((), 0.5, 1.0))),
        Sample((Draw((4,)), Draw((3, 1), -1.0, -0.5), Draw((4,), 0.5, 1.0))),
        Sample((Draw((0,)), Draw((), -1.0, -0.5), Draw((), 0.5, 1.0))),
        Sample(
            (
                np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 0.0, 1.0, 0.0]),
                np.array([-1.0, -1.0, -1.0, -1.0, -1.0, 2.0, 2.0, 1.0]),
                np.ones(8),
            ),
            value=[
                -1.0,
                -1.0,
                0.0,
                1.0,
                1.0,
                1.0,
                1.0,
                1.0,
            ],  # where the bounds are crossed, the upper one holds
            convention=([0, 1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1, 1, 0]),
        ),
    ),
    surface=_clip_surface,
    elementwise=True,
    analytic=False,
    oracle="numpy.clip",
)


# -- dtype and derivative barriers -----------------------------------------------------------------------
def _astype_surface(ops: Any, x: Any, dtype: Any) -> Any:
    node, wanted = ops.node(x), np.dtype(dtype)
    return node if node.dtype == wanted else ops.apply(ASTYPE, [node], dtype=wanted)


ASTYPE = Primitive(
    "astype",
    "x converted to another dtype.",
    lambda x, dtype: Type(x.shape, dtype),
    lambda xp, x, dtype: x.astype(dtype),
    (lambda ops, g, y, x, dtype: ops.astype(g, x.dtype) if g.dtype.kind == "f" else None,),
    samples=(
        Sample(
            (Draw((2, 3), dtype="float32"),), {"dtype": np.dtype("float64")}, convention=(np.ones((2, 3)),)
        ),
        Sample((np.array([1.5, 0.1]),), {"dtype": np.dtype("float32")}, convention=([1, 1],)),
        Sample((Draw((3,), 0, 5, "int64"),), {"dtype": np.dtype("float64")}),
        Sample((np.array([-1.5, 0.0, 2.5]),), {"dtype": np.dtype("bool")}, value=[True, False, True]),
        Sample((np.array([-1.5, 0.0, 2.5]),), {"dtype": np.dtype("int32")}, value=[-1, 0, 2]),
    ),
    surface=_astype_surface,
    elementwise=True,
    analytic=False,
    oracle="numpy.astype",
    spelling=lambda function, x, dtype: function(x, dtype),
)

IDENTITY = Primitive(
    "identity",
    "x itself, as a new node.",
    lambda x: x,
    lambda xp, x: x,
    (lambda ops, g, y, x: g,),
    samples=(Sample((Draw((2, 3)),)), Sample((Draw(()),))),
    elementwise=True,
    oracle="numpy.copy",
)


def _stop_surface(ops: Any, x: Any) -> Any:
    node = ops.node(x)
    return ops.apply(STOP, [node]) if node.value is None else ops.constant(node.value, node.dtype)


STOP = Primitive(
    "stop_gradient",
    "x itself, through which no derivative flows.",
    lambda x: x,
    lambda xp, x: x,
    None,
    samples=(Sample((Draw((2, 3)),)),),
    surface=_stop_surface,
    elementwise=True,
    analytic=False,
    oracle="numpy.copy",
    barrier=True,
)

RECORDS = (
    *ORDER, *RELATIONS,
    WHERE, CLIP, ASTYPE, IDENTITY, STOP,
)  # fmt: skip
