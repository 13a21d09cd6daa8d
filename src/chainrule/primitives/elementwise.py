"""Smooth functions that map elements to elements; operands broadcast as in NumPy."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np

from chainrule.nest import multiplied
from chainrule.primitive import Draw, Sample
from chainrule.primitives._define import elementwise, in_numpy

NEAR_ONE = (-0.9, 0.9)
POSITIVE = (0.2, 3.0)
NONZERO = (0.5, 2.0)
FAR = np.array([-1000.0, 0.0, 1000.0])
"""Where a formula that overflows on the way would give infinity or NaN."""


def _special(xp: Any) -> Any:
    """SciPy's special functions, for NumPy or for JAX."""
    return import_module("scipy.special" if in_numpy(xp) else "jax.scipy.special")


def _sigmoid(xp: Any, x: Any) -> Any:
    with np.errstate(over="ignore"):  # exp(-x) = inf is right: the result is then 0
        return 1 / (1 + xp.exp(-x))


def _one_less(ops: Any, p: Any) -> Any:
    """p - 1, and 1 where p is 0: the factor p makes that derivative 0, even where x**-1 is infinite."""
    return ops.where(ops.equal(p, 0), 1, ops.subtract(p, 1))


def _direction(ops: Any, leg: Any, radius: Any) -> Any:
    """leg / radius, and 0 where both are 0."""
    return ops.divide(leg, ops.where(ops.equal(radius, 0), 1, radius))


def _squared_radius(ops: Any, a: Any, b: Any) -> Any:
    return ops.add(ops.square(a), ops.square(b))


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
        arity=2, kind="signed",
    ),
    elementwise(
        "multiply", "Product of two arrays, element by element.", multiplied,
        lambda ops, g, y, a, b: ops.multiply(g, b),
        lambda ops, g, y, a, b: ops.multiply(g, a),
        arity=2,
    ),
    elementwise(
        "divide", "Quotient of two arrays.", lambda xp, a, b: xp.divide(a, b),
        lambda ops, g, y, a, b: ops.divide(g, b),
        lambda ops, g, y, a, b: ops.negative(ops.divide(ops.multiply(g, y), b)),
        arity=2, kind="float", domains=((-2.0, 2.0), NONZERO),
    ),
    elementwise(
        "negative", "The array with its sign flipped.", lambda xp, x: xp.negative(x),
        lambda ops, g, y, x: ops.negative(g),
        kind="signed",
    ),
    elementwise(
        "positive", "The array itself.", lambda xp, x: xp.positive(x),
        lambda ops, g, y, x: g,
        kind="signed",
    ),
    elementwise(
        "reciprocal", "1 / x; in floating point for integers too, unlike NumPy's.", lambda xp, x: 1 / x,
        lambda ops, g, y, x: ops.negative(ops.multiply(g, ops.square(y))),
        kind="float", domain=NONZERO, oracle=lambda x: np.power(x, -1.0),
    ),
    elementwise(
        "square", "x * x.", lambda xp, x: xp.square(x),
        lambda ops, g, y, x: ops.multiply(g, ops.multiply(x, 2)),
        kind="counted",
    ),
    elementwise(
        "pow", "x to the power of p; the derivative through p is 0 where x <= 0.",
        lambda xp, x, p: xp.power(x, p),
        lambda ops, g, y, x, p: ops.multiply(g, ops.multiply(p, ops.pow(x, _one_less(ops, p)))),
        lambda ops, g, y, x, p: ops.multiply(g, ops.multiply(y, ops.log(ops.where(ops.greater(x, 0), x, 1)))),
        arity=2, kind="counted", domains=(POSITIVE, (-2.0, 3.0)), ulps=32, oracle="numpy.power",
        extra=(
            Sample(
                (np.array([-1.5, 0.0, 0.0, 0.0, 2.0]), np.array([2.0, 2.0, 1.0, 0.0, 0.0])),
                convention=([-3.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, math.log(2)]),
            ),
        ),
    ),
    elementwise(
        "floor_divide", "The quotient, rounded down.", lambda xp, a, b: xp.floor_divide(a, b),
        arity=2, kind="counted", domains=((-4.0, 4.0), (0.5, 1.5)), analytic=False,
    ),
    elementwise(
        "remainder", "a - b * floor(a / b): the sign of b, as Python's %.",
        lambda xp, a, b: xp.remainder(a, b),
        lambda ops, g, y, a, b: g,
        lambda ops, g, y, a, b: ops.negative(ops.multiply(g, ops.floor_divide(a, b))),
        arity=2, kind="counted", domains=((-4.0, 4.0), (0.5, 1.5)), analytic=False, ulps=32,
        extra=(Sample((Draw((4,), -4.0, 4.0), Draw((4,), -1.5, -0.5))),),
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
        kind="float", extra=(Sample((np.array([1e-12]),), value=[1.0000000000005e-12]),),
    ),
    elementwise(
        "log", "Natural logarithm.", lambda xp, x: xp.log(x),
        lambda ops, g, y, x: ops.divide(g, x),
        kind="float", domain=POSITIVE,
    ),
    elementwise(
        "log1p", "log(1 + x), accurate near 0.", lambda xp, x: xp.log1p(x),
        lambda ops, g, y, x: ops.divide(g, ops.add(x, 1)),
        kind="float", domain=(-0.8, 3.0), extra=(Sample((np.array([1e-12]),), value=[9.999999999995e-13]),),
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
        extra=(
            Sample(
                (FAR, np.array([1000.0, 0.0, 1000.0])),
                value=[1000.0, math.log(2), 1000.0 + math.log(2)],
                convention=([0.0, 0.5, 0.5], [1.0, 0.5, 0.5]),
            ),
        ),
    ),
    elementwise(
        "sqrt", "Square root.", lambda xp, x: xp.sqrt(x),
        lambda ops, g, y, x: ops.divide(g, ops.multiply(y, 2)),
        kind="float", domain=POSITIVE,
    ),
    elementwise(
        "rsqrt", "1 / sqrt(x).", lambda xp, x: 1 / xp.sqrt(x),
        lambda ops, g, y, x: ops.multiply(g, ops.divide(y, ops.multiply(x, -2))),
        kind="float", domain=POSITIVE, oracle=lambda x: np.power(x, -0.5),
    ),
    elementwise(
        "hypot", "sqrt(a**2 + b**2) without overflow; the derivative at (0, 0) is taken as 0.",
        lambda xp, a, b: xp.hypot(a, b),
        lambda ops, g, y, a, b: ops.multiply(g, _direction(ops, a, y)),
        lambda ops, g, y, a, b: ops.multiply(g, _direction(ops, b, y)),
        arity=2, kind="float", analytic=False,
        extra=(
            Sample(
                (np.array([0.0, 3.0, 0.0, 5.0]), np.array([0.0, 4.0, 5.0, 0.0])),
                value=[0.0, 5.0, 5.0, 5.0],
                convention=([0.0, 0.6, 0.0, 1.0], [0.0, 0.8, 1.0, 0.0]),
            ),
        ),
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
        lambda ops, g, y, a, b: ops.multiply(g, ops.divide(b, _squared_radius(ops, a, b))),
        lambda ops, g, y, a, b: ops.negative(ops.multiply(g, ops.divide(a, _squared_radius(ops, a, b)))),
        arity=2, kind="float", domains=((-2.0, 2.0), NONZERO), analytic=False,
        extra=(Sample((Draw((4,), 0.5, 2.0), Draw((4,), -2.0, -0.5))),),
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
        kind="float", extra=(Sample((FAR,), value=[-1.0, 0.0, 1.0], convention=([0.0, 1.0, 0.0],)),),
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
        "relu", "max(x, 0); its derivative at 0 is 0, as in PyTorch and JAX.",
        lambda xp, x: xp.maximum(x, xp.zeros_like(x)),
        lambda ops, g, y, x: ops.where(ops.greater(x, 0), g, 0),
        analytic=False, oracle=lambda x: np.where(x > 0, x, 0),
        extra=(Sample((np.array([-1.0, 0.0, 2.0]),), convention=([0.0, 0.0, 1.0],)),),
    ),
    elementwise(
        "sigmoid", "1 / (1 + exp(-x)).", _sigmoid,
        lambda ops, g, y, x: ops.multiply(g, ops.multiply(y, ops.subtract(1, y))),
        kind="float", oracle="scipy.special.expit",
        extra=(Sample((FAR,), value=[0.0, 0.5, 1.0], convention=([0.0, 0.25, 0.0],)),),
    ),
    elementwise(
        "softplus", "log(1 + exp(x)) without overflow.", lambda xp, x: xp.logaddexp(x, xp.zeros_like(x)),
        lambda ops, g, y, x: ops.multiply(g, ops.sigmoid(x)),
        kind="float", analytic=False, ulps=16,
        oracle=lambda x: np.where(x > 30, x, np.log(1 + np.exp(np.minimum(x, 30)))),
        extra=(Sample((FAR,), value=[0.0, math.log(2), 1000.0], convention=([0.0, 0.5, 1.0],)),),
    ),
    elementwise(
        "erf", "The error function.", lambda xp, x: _special(xp).erf(x),
        lambda ops, g, y, x: ops.multiply(
            g, ops.multiply(ops.exp(ops.negative(ops.square(x))), 2 / math.sqrt(math.pi))
        ),
        kind="float", oracle="scipy.special.erf",
        extra=(Sample((np.array([-0.5, 1.0]),), value=[-0.5204998778130465, 0.8427007929497149]),),
    ),
)  # fmt: skip

RECORDS = (*ARITHMETIC, *EXPONENTIAL, *TRIGONOMETRIC, *NETWORK)
