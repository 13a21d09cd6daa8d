"""Exponentials, logarithms, hyperbolic functions … of lanes, in float32 and float64.

Every function is free of branches and of calls to a C library: reduce the argument, evaluate a polynomial or
a rational function, put the result together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chainrule.backends.native.lanes import (
    FLOAT32,
    Lanes,
    at_least,
    at_most,
    fma,
    polynomial,
    select,
)

LOG2E = 1.4426950408889634
INFINITY, NAN = float("inf"), float("nan")


class _Format(NamedTuple):
    """What the algorithms need to know about a floating format."""

    mantissa: int
    """Bits of the stored mantissa."""
    bias: int
    exponential: Sequence[float]
    """(exp(r) - 1 - r) / r² on ±log(2) / 2; to log(2) in the last binade."""
    ln2: tuple[float, float]
    """log(2) as a short number, whose products with small integers are exact, and the rest."""
    smallest: float
    """The smallest normal number."""


_FORMATS = {
    "float32": _Format(
        23,
        127,
        (
            0.5000014305114746, 0.1666659414768219, 0.04163329675793648, 0.008358941413462162,
            0.0015653005102649331,
        ),
        (0.693359375, -2.12194440e-4),
        1.1754943508222875e-38,
    ),
    "float64": _Format(
        52,
        1023,
        (
            0.5000000000000016, 0.16666666666665847, 0.04166666666655993, 0.00833333333380704,
            0.0013888888909264201, 0.00019841268862763793, 2.4801576758271078e-05, 2.755816045111947e-06,
            2.7552829708521103e-07, 2.4815566638017657e-08, 2.471324003299679e-09,
        ),
        (0.693147180369123816490, 1.90821492927058770002e-10),
        2.2250738585072014e-308,
    ),
}  # fmt: skip


def _format(x: Lanes) -> _Format:
    return _FORMATS[x.dtype.name]


# -- exponentials --------------------------------------------------------------------------------------------
def _exponential_parts(x: Lanes) -> tuple[Lanes, Lanes]:
    """(p, s) with exp(x) = s + s p: s is a power of two, p = exp(r) - 1 for a remainder |r| <= log(2) / 2.

    n = round(x / log 2) is found by adding a number so large that its last bit counts ones; these bits,
    shifted to where the exponent lies, are s = 2ⁿ, and s = 0 for the lowest n. The last binade would need 2¹²⁸, which
    there is not, so n stops before and r grows to log(2) there: beyond, p is what overflows.
    """
    facts = _format(x)
    magic = 1.5 * 2.0**facts.mantissa + facts.bias
    x = at_least(x, -facts.bias / LOG2E - 0.05)
    shifted = at_most(fma(x, LOG2E, magic), magic + facts.bias)
    n = shifted - magic
    high, low = facts.ln2
    r = fma(n, -low, fma(n, -high, x))
    p = fma(r * r, polynomial(r, facts.exponential), r)
    return p, (shifted.bits() << facts.mantissa).reinterpret(x.dtype)


def exp(x: Lanes) -> Lanes:
    """eˣ; results below the smallest normal number are 0."""
    p, s = _exponential_parts(x)
    return fma(s, p, s)


def expm1(x: Lanes) -> Lanes:
    """eˣ - 1."""
    p, s = _exponential_parts(x)
    return fma(s, p, s - 1)


# -- logarithms ----------------------------------------------------------------------------------------------
_LOGARITHM = (
    0.3333333432674408, -0.24999816715717316, 0.19999763369560242, -0.16679716110229492, 0.14299316704273224,
    -0.12194088101387024, 0.1081370860338211, -0.12851709127426147, 0.11776120215654373,
)  # fmt: skip
"""(log(1 + f) - f + f²/2) / f³ on ±1/3."""
_LOGARITHM64 = (
    0.666666666666666, 0.4000000000005662, 0.2857142855584625, 0.22222224294427628, 0.1818166598839402,
    0.15391108719626337, 0.13173645114211224, 0.13842787331909542,
)  # fmt: skip
"""(log((1 + s) / (1 - s)) - 2s) / s³ as a polynomial in s², on ±1/5."""


def _split(x: Lanes) -> tuple[Lanes, Lanes]:
    """(f, k) with x = 2ᵏ (1 + f), -1/3 <= f <= 1/3, for normal x > 0; k as an integer."""
    facts = _format(x)
    two_thirds = 0x3F2AAAAB if x.dtype == FLOAT32 else 0x3FE5555555555555
    bits = x.bits()
    k = (bits - two_thirds) >> facts.mantissa
    return (bits - (k << facts.mantissa)).reinterpret(x.dtype) - 1, k


def _log_of_sum(f: Lanes, added: Lanes) -> Lanes:
    """log(1 + f) + added, for |f| <= 1/3 and a small correction."""
    half = f * f * 0.5
    if f.dtype == FLOAT32:
        return f + (fma(f * f, f * polynomial(f, _LOGARITHM), added) - half)
    s = f / (f + 2)
    z = s * s
    return f - (half - fma(s, fma(z, polynomial(z, _LOGARITHM64), half), added))


def log(x: Lanes) -> Lanes:
    """Natural logarithm."""
    f, k = _split(x)
    n = k.astype(x.dtype)
    high, low = _format(x).ln2
    result = fma(n, high, _log_of_sum(f, n * low))
    return _at_the_edges(x, result)


def _at_the_edges(x: Lanes, result: Lanes) -> Lanes:
    """What every logarithm is outside of its domain: -∞ at 0, NaN below, ∞ and NaN themselves."""
    result = select(x < _format(x).smallest, -INFINITY, result)
    result = select(x < 0, NAN, result)
    return select(x < INFINITY, result, x)


# -- hyperbolic functions ------------------------------------------------------------------------------------
_TANH = (
    9.02,
    (1.0, 0.13379757217624383, 0.0034940797642952614, 2.058416951667455e-05, 1.3319923995782274e-08),
    (1.0, 0.4671307254130897, 0.025871248871923328, 0.0003283164344219733, 7.762389525328064e-07),
)


def tanh(x: Lanes) -> Lanes:
    """Hyperbolic tangent."""
    if x.dtype == FLOAT32:
        limit, above, below = _TANH
        x = at_most(at_least(x, -limit), limit)
        z = x * x
        return x * polynomial(z, above) / polynomial(z, below)
    e = expm1(at_most(x.intrinsic("fabs") * 2, 40))
    return (e / (e + 2)).intrinsic("copysign", x)
