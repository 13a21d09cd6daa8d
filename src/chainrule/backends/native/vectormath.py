"""Exponentials, logarithms, powers, hyperbolic and error functions of lanes, in float32 and float64.

Without branches and without calls of a C library: reduce the argument, evaluate a polynomial, put the
result together. How far each may be off stands in one table, `BOUNDS`. Denormal numbers count as 0, as
operands and as results: so the processor is set while compiled code runs. The polynomials are in
coefficients.py, made by tools/minimax.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from chainrule.backends.native import coefficients as table
from chainrule.backends.native.lanes import (
    FLOAT32,
    FLOAT64,
    Lanes,
    at_least,
    at_most,
    copysign,
    fma,
    in_float64,
    magnitude,
    outlined,
    outlined_in_float64,
    polynomial,
    select,
    sqrt,
)

BOUNDS: Mapping[str, tuple[float, float]] = {
    "sqrt": (0.5, 0.5),
    "reciprocal": (0.5, 0.5),
    "rsqrt": (1.5, 1.5),
    "exp": (2.0, 1.5),
    "expm1": (2.0, 2.5),
    "sigmoid": (2.0, 2.0),
    "tanh": (2.0, 2.5),
    "erf": (2.0, 2.5),
    "log": (1.0, 1.0),
    "log1p": (2.0, 2.0),
    "log2": (3.0, 2.5),
    "log10": (2.5, 2.5),
    "logaddexp": (2.5, 2.5),
    "softplus": (2.0, 2.0),
    "pow": (1.0, 2.5),
    "hypot": (1.0, 2.5),
    "sinh": (1.0, 3.0),
    "cosh": (1.0, 2.0),
    "asinh": (1.0, 3.0),
    "acosh": (1.0, 3.0),
    "atanh": (1.0, 2.5),
    "sin": (2.0, 1.5),
    "cos": (2.0, 1.5),
    "tan": (1.0, 3.0),
    "asin": (1.0, 3.0),
    "acos": (1.0, 2.0),
    "atan": (1.0, 2.5),
    "atan2": (1.0, 2.5),
}
"""Largest error in units in the last place of the exact result, in float32 and in float64, for all operands.

`logaddexp` adds numbers that may cancel: in units of the largest of its operands and result. Where the
processor has no fused multiply-add, a product on the way may fall below the smallest normal number and be 0:
then results may be off by that much more.
"""

INFINITY, NAN = float("inf"), float("nan")
LOG2_E = 1.4426950408889634


class _Format(NamedTuple):
    """Facts of a floating format: bits of the stored mantissa, exponent of 1, the smallest normal number."""

    mantissa: int
    bias: int
    smallest: float


_FORMATS = {
    "float32": _Format(23, 127, 2.0**-126),
    "float64": _Format(52, 1023, 2.0**-1022),
}


# -- exponentials --------------------------------------------------------------------------------------------
def _exponential(
    x: Lanes, *, less_1: bool = False, vanishes: bool = True, overflows: bool = True, halved: int = 0,
    rest: Lanes | None = None,
) -> tuple[Lanes, Lanes]:  # fmt: skip
    """(p, s) with exp(x) = s + s p: s is a power of two, p = exp(r) - 1 for a remainder |r| <= log(2) / 2.

    n = round(x / log 2) is found by adding a number so large that its last bit counts ones; these bits,
    shifted to where the exponent lies, are s = 2ⁿ, and s = 0 for the lowest n. The last binade would need
    2¹²⁸, which there is not, so n stops before and r grows to log(2) there: beyond, p is what overflows.

    less_1     exp(x) - 1 is wanted, so p must have all its digits near 0 too
    vanishes   x may be so low that exp(x) is 0
    overflows  x may be so high that exp(x) needs the last binade or is infinite
    halved     exp(x) / 2**halved instead, for x >= 0
    rest       added to x, and much smaller
    """
    dtype = x.dtype.name
    facts = _FORMATS[dtype]
    high, low = table.LOG_2[dtype]
    magic = 1.5 * 2.0**facts.mantissa + facts.bias - halved
    if vanishes:
        x = at_least(x, -(facts.bias + 0.1) * high)
    shifted = fma(x, LOG2_E, magic)
    if overflows:
        shifted = at_most(shifted, magic + facts.bias + halved)
    n = shifted - magic
    r = fma(n, -low, fma(n, -high, x))
    if rest is not None:
        r = r + rest
    series = (table.EXPONENTIAL_LESS_1 if less_1 else table.EXPONENTIAL)[dtype]
    p = fma(r * r, polynomial(r, series), r)
    return p, (shifted.bits() << facts.mantissa).reinterpret(x.dtype)


@outlined_in_float64
def exp(x: Lanes) -> Lanes:
    """eˣ; results below the smallest normal number are 0."""
    p, s = _exponential(x)
    return fma(s, p, s)


@outlined_in_float64
def expm1(x: Lanes) -> Lanes:
    """eˣ - 1."""
    p, s = _exponential(x, less_1=True)
    return copysign(fma(s, p, s - 1), x)


@outlined_in_float64
def sigmoid(x: Lanes) -> Lanes:
    """1 / (1 + e⁻ˣ), where e⁻ˣ + 1 = s + s (p + 1/s): so the one is not lost beside a large s."""
    bias, mantissa = _FORMATS[x.dtype.name].bias, _FORMATS[x.dtype.name].mantissa
    p, s = _exponential(-at_most(x, (bias - 2) / LOG2_E), less_1=True, vanishes=False)
    reciprocal = (((2 * bias) << mantissa) - s.bits()).reinterpret(x.dtype)
    return 1 / fma(s, p + reciprocal, s)


@outlined_in_float64
def tanh(x: Lanes) -> Lanes:
    """Hyperbolic tangent: with e = exp(-2|x|) - 1 it is -e / (e + 2), where nothing cancels."""
    a = at_most(magnitude(x), 9.1 if x.dtype == FLOAT32 else 19.1)
    p, s = _exponential(a * -2, less_1=True, vanishes=False, overflows=False)
    return copysign(fma(s, p, s - 1) / fma(s, p, s + 1), x)


@outlined_in_float64
def erf(x: Lanes) -> Lanes:
    """The error function as 1 - exp(-g(|x|)), where g is so smooth that one polynomial is enough."""
    a = at_most(magnitude(x), 3.93 if x.dtype == FLOAT32 else 5.93)
    g = fma(a, polynomial(a, table.ERROR[x.dtype.name]), a)
    p, s = _exponential(-g, less_1=True, vanishes=False, overflows=False)
    return copysign(fma(s, p, s - 1), x)


# -- logarithms ----------------------------------------------------------------------------------------------
def _split(x: Lanes) -> tuple[Lanes, Lanes]:
    """(f, k) with x = 2ᵏ (1 + f), -1/3 <= f <= 1/3, for normal x > 0; k as an integer."""
    facts = _FORMATS[x.dtype.name]
    two_thirds = 0x3F2AAAAB if x.dtype == FLOAT32 else 0x3FE5555555555555
    bits = x.bits()
    k = (bits - two_thirds) >> facts.mantissa
    return (bits - (k << facts.mantissa)).reinterpret(x.dtype) - 1, k


def _log_of_sum(f: Lanes, added: Lanes | float = 0.0) -> Lanes:
    """log(1 + f) + added, for |f| <= 1/3 and a small correction."""
    half = f * f * 0.5
    if f.dtype == FLOAT32:
        tail = polynomial(f, table.LOGARITHM["float32"])
        return f + (fma(f * f, f * tail, added) - half)
    s = f / (f + 2)  # Tang's and FreeBSD's form: the series of atanh converges twice as fast
    z = s * s
    tail = fma(z, polynomial(z, (2 / 3, *table.LOGARITHM_RATIO["float64"])), half)
    return f - (half - fma(s, tail, added))


def _outside(x: Lanes, y: Lanes, result: Lanes) -> Lanes:
    """What a logarithm of y is at the edges: -∞ at 0, NaN below, and x itself where it is ∞ or NaN."""
    result = select(y < _FORMATS[x.dtype.name].smallest, -INFINITY, result)
    result = select(y < 0, NAN, result)
    return select(x < INFINITY, result, x)


@outlined_in_float64
def log(x: Lanes) -> Lanes:
    """Natural logarithm."""
    f, k = _split(x)
    n = k.astype(x.dtype)
    high, low = table.LOG_2[x.dtype.name]
    return _outside(x, x, fma(n, high, _log_of_sum(f, n * low)))


@outlined_in_float64
def log1p(x: Lanes) -> Lanes:
    """log(1 + x). The digits that 1 + x loses are kept by computing f of `_split` from x itself."""
    facts = _FORMATS[x.dtype.name]
    y = x + 1
    rounded, k = _split(y)
    scale = (((-k) + facts.bias) << facts.mantissa).reinterpret(x.dtype)
    f = select(x < 2.0 ** (facts.mantissa + 2), fma(x, scale, scale - 1), rounded)
    n = k.astype(x.dtype)
    high, low = table.LOG_2[x.dtype.name]
    return copysign(_outside(x, y, fma(n, high, _log_of_sum(f, n * low))), x)


@outlined
def log2(x: Lanes) -> Lanes:
    """Logarithm to base 2."""
    f, k = _split(x)
    high, low = table.LOG2_E[x.dtype.name]
    natural = _log_of_sum(f)
    return _outside(x, x, fma(natural, high, k.astype(x.dtype)) + natural * low)


@outlined
def log10(x: Lanes) -> Lanes:
    """Logarithm to base 10."""
    f, k = _split(x)
    n = k.astype(x.dtype)
    high, low = table.LOG10_E[x.dtype.name]
    unit, unit_rest = table.LOG10_2[x.dtype.name]
    natural = _log_of_sum(f)
    return _outside(x, x, fma(n, unit, fma(natural, high, fma(natural, low, n * unit_rest))))


@outlined_in_float64
def logaddexp(a: Lanes, b: Lanes) -> Lanes:
    """log(eᵃ + eᵇ). Equal operands may be infinite, and their difference is 0 all the same."""
    larger = select(a > b, a, b)
    apart = select(a.equals(b), 0.0, magnitude(a - b))
    return larger + log1p(exp(-apart))


# -- powers --------------------------------------------------------------------------------------------------
def _two_sum(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """a + b and what rounding lost (Knuth)."""
    total = a + b
    second = total - a
    return total, (a - (total - second)) + (b - second)


def _two_product(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """a × b and what rounding lost, in float64 (Dekker); on every processor the same."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(x: Lanes) -> tuple[Lanes, Lanes]:
    """x as a sum of two numbers of half the digits."""
    high = (x.bits() & ~((1 << 27) - 1)).reinterpret(x.dtype)
    return high, x - high


def _precise_log(x: Lanes) -> tuple[Lanes, Lanes]:
    """log(x) as a sum of two float64, to about 66 bits, for normal x > 0."""
    f, k = _split(x)
    n = k.astype(x.dtype)
    divisor = f + 2
    s = f / divisor
    product, lost = _two_product(s, divisor)
    s_low = ((f - product) - lost - s * (f - (divisor - 2))) / divisor
    z, z_low = _two_product(s, s)
    z_low = fma(s + s, s_low, z_low)
    c, c_low = _two_sum(z.constant(2 / 3), z * polynomial(z, table.LOGARITHM_RATIO["float64"]))
    c_low = c_low + 3.700743415417188e-17  # 2/3 - float64(2/3)
    cube, cube_low = _two_product(s, z)
    cube_low = fma(s, z_low, fma(s_low, z, cube_low))
    tail, tail_low = _two_product(cube, c)
    tail_low = fma(cube, c_low, fma(cube_low, c, tail_low))
    high, low = table.LOG_2["float64"]
    total, first = _two_sum(n * high, s + s)
    total, second = _two_sum(total, tail)
    return total, first + second + (fma(n, low, s_low + s_low) + tail_low)


def _power_of_magnitude(a: Lanes, y: Lanes) -> Lanes:
    """aʸ for normal finite a > 0."""
    y = at_most(at_least(y, -(2.0**70)), 2.0**70)  # so that nothing overflows on the way to 0, 1 or ∞
    high, low = _precise_log(a)
    product, lost = _two_product(high, y)
    p, s = _exponential(product, rest=fma(low, y, lost))
    return fma(s, p, s)


@outlined
def pow(x: Lanes, y: Lanes) -> Lanes:
    """x to the power of y, with the special values of IEEE 754."""
    a, dtype = magnitude(x), x.dtype
    if dtype == FLOAT32:
        bounded = at_most(at_least(y, -(2.0**40)), 2.0**40).astype(FLOAT64)
        result = exp(bounded * log(a.astype(FLOAT64))).astype(FLOAT32)
    else:
        result = _power_of_magnitude(a, y)
    grows = ~((a > 1) ^ (y > 0))
    zero, infinite = a < _FORMATS[dtype.name].smallest, a.equals(INFINITY)
    result = select(zero | infinite, select(grows, x.constant(INFINITY), 0.0), result)
    whole = y.intrinsic("trunc").equals(y)
    odd = whole & (y * 0.5).intrinsic("trunc").differs(y * 0.5)
    result = select((x < 0) & ~whole & ~zero & ~infinite, NAN, result)
    result = select(odd, copysign(result, x), result)
    result = select(x.is_nan(), x, select(y.is_nan(), y, result))
    return select(y.equals(0) | x.equals(1), 1.0, result)


@in_float64
@outlined
def hypot(a: Lanes, b: Lanes) -> Lanes:
    """sqrt(a² + b²), without overflow; ∞ if either is, even beside NaN."""
    a, b = magnitude(a), magnitude(b)
    larger, smaller = select(a > b, a, b), select(a > b, b, a)
    ratio = select(smaller < _FORMATS["float64"].smallest, smaller, smaller / larger)
    result = larger * sqrt(fma(ratio, ratio, 1.0))
    return select(a.equals(INFINITY) | b.equals(INFINITY), INFINITY, result)


# -- hyperbolic functions ------------------------------------------------------------------------------------
@in_float64
@outlined
def sinh(x: Lanes) -> Lanes:
    """Hyperbolic sine: with e = (exp|x| - 1) / 2 it is e + e / (2e + 1)."""
    p, h = _exponential(magnitude(x), less_1=True, vanishes=False, halved=1)
    e = fma(h, p, h - 0.5)
    bounded = at_most(e, 1e300)
    return copysign(e + bounded / fma(bounded, 2.0, 1.0), x)


@in_float64
@outlined
def cosh(x: Lanes) -> Lanes:
    """Hyperbolic cosine."""
    p, h = _exponential(magnitude(x), vanishes=False, halved=1)
    half = fma(h, p, h)
    return half + 0.25 / half


@in_float64
@outlined
def asinh(x: Lanes) -> Lanes:
    """Inverse hyperbolic sine."""
    a = magnitude(x)
    large = a > 2.0**54
    square = a * a
    n = log1p(select(large, a, a + square / (sqrt(square + 1) + 1)))
    return copysign(select(large, n + table.LOG_2["float64"][1] + table.LOG_2["float64"][0], n), x)


@in_float64
@outlined
def acosh(x: Lanes) -> Lanes:
    """Inverse hyperbolic cosine; NaN below 1."""
    large = x > 2.0**54
    t = x - 1
    n = log1p(select(large, x, t + sqrt(fma(t, t, t + t))))
    n = select(large, n + table.LOG_2["float64"][1] + table.LOG_2["float64"][0], n)
    return select(x < 1, NAN, n)


@in_float64
@outlined
def atanh(x: Lanes) -> Lanes:
    """Inverse hyperbolic tangent; ±∞ at ±1, NaN beyond."""
    a = magnitude(x)
    return copysign(log1p((a + a) / (1 - a)) * 0.5, x)
