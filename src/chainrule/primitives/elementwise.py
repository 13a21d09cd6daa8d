"""Functions that map elements to elements; operands broadcast as in NumPy.

A derivative that does not exist at a point is the convention PyTorch and JAX share: relu'(0) = 0,
|x|'(0) = 0, and a tie in `maximum` or `minimum` splits the cotangent in halves.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np

from chainrule.primitive import Draw, Primitive, Sample
from chainrule.primitives._define import elementwise
from chainrule.types import Type, broadcast_shapes, promote_dtypes

NEAR_ONE = (-0.9, 0.9)
POSITIVE = (0.2, 3.0)
NONZERO = (0.5, 2.0)


def _special(xp: Any) -> Any:
    """SciPy's special functions, for NumPy or for JAX."""
    return import_module("scipy.special" if xp is np else "jax.scipy.special")


def _sigmoid(xp: Any, x: Any) -> Any:
    with np.errstate(over="ignore"):  # exp(-x) = inf is right: the result is then 0
        return 1 / (1 + xp.exp(-x))


# -- arithmetic ------------------------------------------------------------------------------------------
ARITHMETIC = (
    elementwise(
        "add", "Sum of two arrays.", lambda xp, a, b: xp.add(a, b),
        lambda ops, g, y, a, b: g,
        lambda ops, g, y, a, b: g,
        arity=2,
    ),
    elementwise(
        "subtract", "Difference of two arrays.", lambda xp, a, b: xp.subtract(a, b),
        lambda ops, g, y, a, b: g,
        lambda ops, g, y, a, b: ops.negative(g),
        arity=2,
    ),
    elementwise(
        "multiply", "Product of two arrays, element by element.", lambda xp, a, b: xp.multiply(a, b),
        lambda ops, g, y, a, b: ops.multiply(g, b),
        lambda ops, g, y, a, b: ops.multiply(g, a),
        arity=2,
    ),
    elementwise(
        "divide", "Quotient of two arrays.", lambda xp, a, b: xp.divide(a, b),
        lambda ops, g, y, a, b: ops.divide(g, b),
        lambda ops, g, y, a, b: ops.negative(ops.divide(ops.multiply(g, y), b)),
        arity=2, kind="float", domain=((-2.0, 2.0), NONZERO),
    ),
    elementwise(
        "negative", "The array with its sign flipped.", lambda xp, x: xp.negative(x),
        lambda ops, g, y, x: ops.negative(g),
    ),
    elementwise(
        "reciprocal", "1 / x.", lambda xp, x: 1 / x,
        lambda ops, g, y, x: ops.negative(ops.multiply(g, ops.square(y))),
        kind="float", domain=NONZERO,
    ),
    elementwise(
        "square", "x * x.", lambda xp, x: xp.square(x),
        lambda ops, g, y, x: ops.multiply(g, ops.multiply(x, 2)),
    ),
    elementwise(
        "pow", "x to the power of p; the derivative through p is 0 where x <= 0.", lambda xp, x, p: xp.power(x, p),
        lambda ops, g, y, x, p: ops.multiply(g, ops.multiply(p, ops.pow(x, ops.where(ops.equal(p, 0), 1, ops.subtract(p, 1))))),
        lambda ops, g, y, x, p: ops.multiply(g, ops.multiply(y, ops.log(ops.where(ops.greater(x, 0), x, 1)))),
        arity=2, domain=(POSITIVE, (-2.0, 3.0)), ulps=32, oracle="numpy.power",
        extra=(Sample((np.array([-1.5, 0.0, 0.0, 2.0]), np.array([2.0, 2.0, 1.0, 0.0]))),),
    ),
    elementwise(
        "floor_divide", "The quotient, rounded down.", lambda xp, a, b: xp.floor_divide(a, b),
        arity=2, domain=((-4.0, 4.0), (0.5, 1.5)), analytic=False,
    ),
    elementwise(
        "remainder", "a - b * floor(a / b): the sign of b, as Python's %.", lambda xp, a, b: xp.remainder(a, b),
        lambda ops, g, y, a, b: g,
        lambda ops, g, y, a, b: ops.negative(ops.multiply(g, ops.floor_divide(a, b))),
        arity=2, domain=((-4.0, 4.0), (0.5, 1.5)), analytic=False, ulps=32,
    ),
)  # fmt: skip

# -- exponentials and logarithms -------------------------------------------------------------------------
EXPONENTIAL = (
    elementwise(
        "exp", "e to the power of x.", lambda xp, x: xp.exp(x),
        lambda ops, g, y, x: ops.multiply(g, y),
        kind="float",
    ),
    elementwise(
        "expm1", "exp(x) - 1, accurate near 0.", lambda xp, x: xp.expm1(x),
        lambda ops, g, y, x: ops.multiply(g, ops.exp(x)),
        kind="float",
    ),
    elementwise(
        "log", "Natural logarithm.", lambda xp, x: xp.log(x),
        lambda ops, g, y, x: ops.divide(g, x),
        kind="float", domain=POSITIVE,
    ),
    elementwise(
        "log1p", "log(1 + x), accurate near 0.", lambda xp, x: xp.log1p(x),
        lambda ops, g, y, x: ops.divide(g, ops.add(x, 1)),
        kind="float", domain=(-0.8, 3.0),
    ),
    elementwise(
        "log2", "Logarithm to base 2.", lambda xp, x: xp.log2(x),
        lambda ops, g, y, x: ops.divide(g, ops.multiply(x, math.log(2))),
        kind="float", domain=POSITIVE,
    ),
    elementwise(
        "log10", "Logarithm to base 10.", lambda xp, x: xp.log10(x),
        lambda ops, g, y, x: ops.divide(g, ops.multiply(x, math.log(10))),
        kind="float", domain=POSITIVE,
    ),
    elementwise(
        "logaddexp", "log(exp(a) + exp(b)) without overflow.", lambda xp, a, b: xp.logaddexp(a, b),
        lambda ops, g, y, a, b: ops.multiply(g, ops.sigmoid(ops.subtract(a, b))),
        lambda ops, g, y, a, b: ops.multiply(g, ops.sigmoid(ops.subtract(b, a))),
        arity=2, kind="float", analytic=False, ulps=16,
    ),
    elementwise(
        "sqrt", "Square root.", lambda xp, x: xp.sqrt(x),
        lambda ops, g, y, x: ops.divide(g, ops.multiply(y, 2)),
        kind="float", domain=POSITIVE,
    ),
    elementwise(
        "rsqrt", "1 / sqrt(x).", lambda xp, x: 1 / xp.sqrt(x),
        lambda ops, g, y, x: ops.multiply(g, ops.divide(y, ops.multiply(x, -2))),
        kind="float", domain=POSITIVE,
    ),
    elementwise(
        "hypot", "sqrt(a**2 + b**2) without overflow; the derivative at (0, 0) is taken as 0.",
        lambda xp, a, b: xp.hypot(a, b),
        lambda ops, g, y, a, b: ops.multiply(g, ops.divide(a, ops.where(ops.equal(y, 0), 1, y))),
        lambda ops, g, y, a, b: ops.multiply(g, ops.divide(b, ops.where(ops.equal(y, 0), 1, y))),
        arity=2, kind="float", analytic=False,
    ),
)  # fmt: skip

# -- trigonometry ----------------------------------------------------------------------------------------
TRIGONOMETRIC = (
    elementwise(
        "sin", "Sine, x in radians.", lambda xp, x: xp.sin(x),
        lambda ops, g, y, x: ops.multiply(g, ops.cos(x)),
        kind="float",
    ),
    elementwise(
        "cos", "Cosine, x in radians.", lambda xp, x: xp.cos(x),
        lambda ops, g, y, x: ops.negative(ops.multiply(g, ops.sin(x))),
        kind="float",
    ),
    elementwise(
        "tan", "Tangent, x in radians.", lambda xp, x: xp.tan(x),
        lambda ops, g, y, x: ops.multiply(g, ops.add(ops.square(y), 1)),
        kind="float", domain=(-1.2, 1.2),
    ),
    elementwise(
        "asin", "Inverse sine, in radians.", lambda xp, x: xp.arcsin(x),
        lambda ops, g, y, x: ops.multiply(g, ops.rsqrt(ops.subtract(1, ops.square(x)))),
        kind="float", domain=NEAR_ONE,
    ),
    elementwise(
        "acos", "Inverse cosine, in radians.", lambda xp, x: xp.arccos(x),
        lambda ops, g, y, x: ops.negative(ops.multiply(g, ops.rsqrt(ops.subtract(1, ops.square(x))))),
        kind="float", domain=NEAR_ONE,
    ),
    elementwise(
        "atan", "Inverse tangent, in radians.", lambda xp, x: xp.arctan(x),
        lambda ops, g, y, x: ops.divide(g, ops.add(ops.square(x), 1)),
        kind="float",
    ),
    elementwise(
        "atan2", "Angle of the point (b, a), in radians.", lambda xp, a, b: xp.arctan2(a, b),
        lambda ops, g, y, a, b: ops.multiply(g, ops.divide(b, ops.add(ops.square(a), ops.square(b)))),
        lambda ops, g, y, a, b: ops.negative(ops.multiply(g, ops.divide(a, ops.add(ops.square(a), ops.square(b))))),
        arity=2, kind="float", domain=((-2.0, 2.0), NONZERO), analytic=False,
    ),
    elementwise(
        "sinh", "Hyperbolic sine.", lambda xp, x: xp.sinh(x),
        lambda ops, g, y, x: ops.multiply(g, ops.cosh(x)),
        kind="float",
    ),
    elementwise(
        "cosh", "Hyperbolic cosine.", lambda xp, x: xp.cosh(x),
        lambda ops, g, y, x: ops.multiply(g, ops.sinh(x)),
        kind="float",
    ),
    elementwise(
        "tanh", "Hyperbolic tangent.", lambda xp, x: xp.tanh(x),
        lambda ops, g, y, x: ops.multiply(g, ops.subtract(1, ops.square(y))),
        kind="float",
    ),
    elementwise(
        "asinh", "Inverse hyperbolic sine.", lambda xp, x: xp.arcsinh(x),
        lambda ops, g, y, x: ops.multiply(g, ops.rsqrt(ops.add(ops.square(x), 1))),
        kind="float",
    ),
    elementwise(
        "acosh", "Inverse hyperbolic cosine.", lambda xp, x: xp.arccosh(x),
        lambda ops, g, y, x: ops.multiply(g, ops.rsqrt(ops.subtract(ops.square(x), 1))),
        kind="float", domain=(1.2, 3.0),
    ),
    elementwise(
        "atanh", "Inverse hyperbolic tangent.", lambda xp, x: xp.arctanh(x),
        lambda ops, g, y, x: ops.divide(g, ops.subtract(1, ops.square(x))),
        kind="float", domain=NEAR_ONE,
    ),
)  # fmt: skip

# -- functions networks are made of ----------------------------------------------------------------------
NETWORK = (
    elementwise(
        "relu", "max(x, 0); its derivative at 0 is 0.", lambda xp, x: xp.maximum(x, xp.zeros_like(x)),
        lambda ops, g, y, x: ops.where(ops.greater(x, 0), g, 0),
        analytic=False,
    ),
    elementwise(
        "sigmoid", "1 / (1 + exp(-x)).", _sigmoid,
        lambda ops, g, y, x: ops.multiply(g, ops.multiply(y, ops.subtract(1, y))),
        kind="float", oracle="scipy.special.expit",
    ),
    elementwise(
        "softplus", "log(1 + exp(x)) without overflow.", lambda xp, x: xp.logaddexp(x, xp.zeros_like(x)),
        lambda ops, g, y, x: ops.multiply(g, ops.sigmoid(x)),
        kind="float", analytic=False, ulps=16,
    ),
    elementwise(
        "erf", "The error function.", lambda xp, x: _special(xp).erf(x),
        lambda ops, g, y, x: ops.multiply(g, ops.multiply(ops.exp(ops.negative(ops.square(x))), 2 / math.sqrt(math.pi))),
        kind="float",
    ),
)  # fmt: skip

# -- signs, rounding, order ------------------------------------------------------------------------------
ORDER = (
    elementwise(
        "abs", "Absolute value; its derivative at 0 is 0.", lambda xp, x: xp.abs(x),
        lambda ops, g, y, x: ops.multiply(g, ops.sign(x)),
        analytic=False,
    ),
    elementwise("sign", "-1, 0 or 1.", lambda xp, x: xp.sign(x), analytic=False),
    elementwise("floor", "Rounded down.", lambda xp, x: xp.floor(x), analytic=False),
    elementwise("ceil", "Rounded up.", lambda xp, x: xp.ceil(x), analytic=False),
    elementwise("trunc", "Rounded towards 0.", lambda xp, x: xp.trunc(x), analytic=False),
    elementwise("round", "Rounded to the nearest integer, halves to even.", lambda xp, x: xp.round(x), analytic=False),
    elementwise(
        "copysign", "The magnitude of a with the sign of b.", lambda xp, a, b: xp.copysign(a, b),
        lambda ops, g, y, a, b: ops.where(ops.equal(ops.signbit(a), ops.signbit(b)), g, ops.negative(g)),
        None,
        arity=2, kind="float", analytic=False,
    ),
    elementwise(
        "maximum", "The larger of two; a tie splits the derivative.", lambda xp, a, b: xp.maximum(a, b),
        lambda ops, g, y, a, b: ops.where(ops.greater(a, b), g, ops.where(ops.equal(a, b), ops.multiply(g, 0.5), 0)),
        lambda ops, g, y, a, b: ops.where(ops.greater(b, a), g, ops.where(ops.equal(a, b), ops.multiply(g, 0.5), 0)),
        arity=2, analytic=False,
    ),
    elementwise(
        "minimum", "The smaller of two; a tie splits the derivative.", lambda xp, a, b: xp.minimum(a, b),
        lambda ops, g, y, a, b: ops.where(ops.less(a, b), g, ops.where(ops.equal(a, b), ops.multiply(g, 0.5), 0)),
        lambda ops, g, y, a, b: ops.where(ops.less(b, a), g, ops.where(ops.equal(a, b), ops.multiply(g, 0.5), 0)),
        arity=2, analytic=False,
    ),
)  # fmt: skip


def _relation(name: str, doc: str) -> Primitive:
    return elementwise(
        name, doc, lambda xp, a, b: getattr(xp, name)(a, b), arity=2, result="bool", analytic=False
    )


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


def _bitwise(name: str, doc: str, numpy_name: str, arity: int = 2, high: float = 9) -> Primitive:
    return elementwise(
        name, doc, lambda xp, *x: getattr(xp, numpy_name)(*x),
        arity=arity, kind="integer", domain=(0, high), analytic=False, oracle=f"numpy.{numpy_name}",
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
    _bitwise("bitwise_left_shift", "a shifted left by b bits.", "left_shift"),
    _bitwise("bitwise_right_shift", "a shifted right by b bits.", "right_shift"),
    _bitwise("bitwise_invert", "Every bit flipped.", "invert", arity=1),
    elementwise("isfinite", "Neither infinite nor NaN.", lambda xp, x: xp.isfinite(x), result="bool", analytic=False),
    elementwise("isinf", "Infinite.", lambda xp, x: xp.isinf(x), result="bool", analytic=False),
    elementwise("isnan", "Not a number.", lambda xp, x: xp.isnan(x), result="bool", analytic=False),
    elementwise(
        "signbit", "True where the sign is negative, -0.0 included.", lambda xp, x: xp.signbit(x),
        kind="float", result="bool", analytic=False,
    ),
)  # fmt: skip


# -- choosing --------------------------------------------------------------------------------------------
def _where_type(condition: Type, a: Type, b: Type) -> Type:
    return Type(broadcast_shapes(condition.shape, a.shape, b.shape), promote_dtypes([a.dtype, b.dtype]))


def _where_surface(ops: Any, condition: Any, a: Any, b: Any) -> Any:
    return ops.apply(
        WHERE, [*ops.promote("where", [condition], "bool"), *ops.promote("where", [a, b], "any")]
    )


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
    dtype = ops.node(x).dtype
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return ops.apply(
        CLIP, ops.promote("clip", [x, low if min is None else min, high if max is None else max], "any")
    )


def _clip_type(x: Type, low: Type, high: Type) -> Type:
    return Type(broadcast_shapes(x.shape, low.shape, high.shape), x.dtype)


CLIP = Primitive(
    "clip",
    "x held between two bounds; at a bound the derivative passes, as in PyTorch.",
    _clip_type,
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
        Sample((Draw((2, 3), dtype="float32"),), {"dtype": np.dtype("float64")}),
        Sample((Draw((2, 3)),), {"dtype": np.dtype("float32")}),
        Sample((Draw((3,), 0, 5, "int64"),), {"dtype": np.dtype("float64")}),
        Sample((Draw((3,)),), {"dtype": np.dtype("bool")}),
    ),
    surface=_astype_surface,
    elementwise=True,
    analytic=False,
)

IDENTITY = Primitive(
    "identity",
    "x itself, as a new node.",
    lambda x: x,
    lambda xp, x: x,
    (lambda ops, g, y, x: g,),
    samples=(Sample((Draw((2, 3)),)),),
    elementwise=True,
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
)

RECORDS = (
    *ARITHMETIC, *EXPONENTIAL, *TRIGONOMETRIC, *NETWORK, *ORDER, *RELATIONS,
    WHERE, CLIP, ASTYPE, IDENTITY, STOP,
)  # fmt: skip
