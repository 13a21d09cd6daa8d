"""Where the polynomials of the vector math library come from: near-minimax fits in 60 digits.

    python -m tools.minimax          rewrites src/chainrule/backends/native/coefficients.py (needs mpmath)

Each fit is a weighted least-squares fit on Chebyshev nodes, which is minimax but for a few percent. The
coefficients are rounded one after the other, lowest first, and those still free are fitted anew to what
rounding left, so that only the last coefficient's rounding error stays. (The aim is that of Sollya's
fpminimax, Brisebarre and Chevillard 2007, without its lattice.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mpmath
import numpy as np

TARGET = Path(__file__).parents[1] / "src/chainrule/backends/native/coefficients.py"
NODES, CHECKED = 100, 500
TWO_OVER_PI_BITS = 1216  # 1024 for the largest exponent, 192 for the digits of one argument
Real = Any  # mpmath's numbers have no types
Function = Callable[[Real], Real]


class Fit(NamedTuple):
    """One polynomial Σ cₖ tᵏ ≈ wanted(t) on [low, high]; weight × error is the relative error."""

    name: str
    says: str
    wanted: Function
    weight: Function
    low: Real
    high: Real
    degrees: dict[str, int]


def fits() -> list[Fit]:
    """Everything the library approximates by a polynomial."""
    mp = mpmath
    sqrt = mp.sqrt
    half_log2, eighth = mp.log(2) / 2, mp.tan(mp.pi / 8)
    little = mp.mpf("1e-20")

    def last_binade(r: Real) -> Real:  # float32's exp may spend its last half binade's accuracy elsewhere
        return r**2 / mp.exp(r) * (1 if r < half_log2 else 0.5)

    def odd(function: Function, name: str, says: str, high: Real, degrees: dict[str, int]) -> Fit:
        """(function(x) - x) / x³ as a polynomial in x²."""
        return Fit(
            name,
            says,
            lambda z: (function(sqrt(z)) - sqrt(z)) / sqrt(z) ** 3,
            lambda z: sqrt(z) ** 3 / function(sqrt(z)),
            little,
            (high * mp.mpf("1.0001")) ** 2,
            degrees,
        )

    return [
        Fit(
            "EXPONENTIAL", "(exp(r) - 1 - r) / r² on ±log(2)/2, and up to log(2) for the last binade",
            lambda r: (mp.exp(r) - 1 - r) / r**2, last_binade,
            -half_log2 * 1.001, 2 * half_log2, {"float32": 4, "float64": 10},
        ),
        Fit(
            "EXPONENTIAL_LESS_1", "The same, so accurate that exp(r) - 1 = r + r² (…) is, near 0 too",
            lambda r: (mp.exp(r) - 1 - r) / r**2, lambda r: last_binade(r) * mp.exp(r) / abs(mp.expm1(r)),
            -half_log2 * 1.001, 2 * half_log2, {"float32": 5, "float64": 10},
        ),
        Fit(
            "LOGARITHM", "(log(1 + f) - f + f²/2) / f³ on ±1/3",
            lambda f: (mp.log1p(f) - f + f**2 / 2) / f**3, lambda f: f**3 / mp.log1p(f),
            -mp.mpf("0.33334"), mp.mpf("0.33334"), {"float32": 8},
        ),
        Fit(
            "LOGARITHM_RATIO", "(log((1 + s) / (1 - s)) - 2s - 2s³/3) / s⁵ in s², on ±1/5",
            lambda z: (2 * mp.atanh(sqrt(z)) - 2 * sqrt(z) - 2 * sqrt(z) ** 3 / 3) / sqrt(z) ** 5,
            lambda z: sqrt(z) ** 5 / mp.atanh(sqrt(z)),
            little, mp.mpf("0.0401"), {"float64": 7},
        ),
        Fit(
            "ERROR", "-log(1 - erf(x)) / x - 1, to where erf is 1",
            lambda x: -mp.log(mp.erfc(x)) / x - 1, lambda x: x * mp.erfc(x) / mp.erf(x),
            little, mp.mpf("5.93"), {"float64": 23},
        ),
        Fit(
            "ERROR", "-log(1 - erf(x)) / x - 1, to where erf is 1",
            lambda x: -mp.log(mp.erfc(x)) / x - 1, lambda x: x * mp.erfc(x) / mp.erf(x),
            little, mp.mpf("3.93"), {"float32": 8},
        ),
        odd(mp.sin, "SINE", "(sin(x) - x) / x³ in x², on ±π/4", mp.pi / 4, {"float32": 2, "float64": 5}),
        Fit(
            "COSINE", "(cos(x) - 1 + x²/2) / x⁴ in x², on ±π/4",
            lambda z: (mp.cos(sqrt(z)) - 1 + z / 2) / z**2, lambda z: z**2 / mp.cos(sqrt(z)),
            little, (mp.pi / 4 * mp.mpf("1.0001")) ** 2, {"float32": 2, "float64": 5},
        ),
        odd(mp.asin, "ARCSINE", "(asin(x) - x) / x³ in x², on ±1/2", mp.mpf("0.5"), {"float64": 11}),
        odd(mp.atan, "ARCTANGENT", "(atan(x) - x) / x³ in x², on ±tan(π/8)", eighth, {"float64": 10}),
    ]  # fmt: skip


def nodes(fit: Fit, count: int) -> list[Real]:
    """Chebyshev's nodes on the fit's interval."""
    middle, radius = (fit.low + fit.high) / 2, (fit.high - fit.low) / 2
    return [middle - radius * mpmath.cos(mpmath.pi * (k + 0.5) / count) for k in range(count)]


def coefficients(fit: Fit, dtype: str) -> tuple[list[float], float]:
    """The rounded coefficients, lowest first, and the largest weighted error that they leave."""
    rounded: list[Real] = []
    points, checked = nodes(fit, NODES), nodes(fit, CHECKED)

    def left(t: Real) -> Real:
        return fit.wanted(t) - mpmath.polyval(rounded[::-1], t) if rounded else fit.wanted(t)

    for lowest in range(fit.degrees[dtype] + 1):
        powers = range(lowest, fit.degrees[dtype] + 1)
        matrix = mpmath.matrix([[fit.weight(t) * t**power for power in powers] for t in points])
        wanted = mpmath.matrix([fit.weight(t) * left(t) for t in points])
        rounded.append(mpmath.mpf(float(np.dtype(dtype).type(float(mpmath.lu_solve(matrix, wanted)[0])))))
    worst = max(abs(left(t) * fit.weight(t)) for t in checked)
    return [float(each) for each in rounded], float(worst)


def pieces(number: Real, *bits: int) -> list[float]:
    """A number as a sum of floats with that many bits each: products with small integers are exact."""
    found: list[float] = []
    for each in bits:
        rest = number - sum(map(mpmath.mpf, found))
        unit = mpmath.mpf(2) ** (int(mpmath.floor(mpmath.log(abs(rest), 2))) + 1 - each)
        found.append(float(mpmath.nint(rest / unit) * unit))
    return found


def constants() -> list[str]:
    """Irrational numbers in pieces."""
    log2, log10 = mpmath.log(2), mpmath.log(10)
    wanted = {
        "LOG_2": (log2, "log(2)"),
        "LOG10_2": (log2 / log10, "log10(2)"),
        "LOG2_E": (1 / log2, "1 / log(2)"),
        "LOG10_E": (1 / log10, "1 / log(10)"),
    }
    bits = {"float32": (14, 24), "float64": (38, 53)}
    parts = []
    for name, (number, says) in wanted.items():
        rows = "".join(f'    "{dtype}": {tuple(pieces(number, *each))},\n' for dtype, each in bits.items())
        parts.append(f'{name} = {{\n{rows}}}\n"""{says}, as a short number and the rest."""')
    half_pi = "".join(f"    {each!r},\n" for each in pieces(mpmath.pi / 2, 33, 33, 33, 53))
    parts.append(f'HALF_PI = (\n{half_pi})\n"""π/2 in pieces: short ones, and the rest."""')
    with mpmath.workdps(500):
        digits = f"{int(mpmath.floor(2 / mpmath.pi * mpmath.mpf(2) ** TWO_OVER_PI_BITS)):x}"
    lines = [digits[k : k + 96] for k in range(0, len(digits), 96)]
    written = "\n".join(f'    "{each}"' for each in lines)
    parts.append(
        f"TWO_OVER_PI_BITS = {TWO_OVER_PI_BITS}\n"
        f'TWO_OVER_PI = int(\n{written},\n    16,\n)\n"""2/π × 2 ** TWO_OVER_PI_BITS, rounded down."""'
    )
    return parts


def text() -> str:
    """The module of coefficients."""
    parts = [
        '"""Coefficients of the vector math library, lowest power first, by `python -m tools.minimax`."""'
    ]
    tables: dict[str, list[str]] = {}
    comments: dict[str, str] = {}
    for fit in fits():
        for dtype in fit.degrees:
            found, worst = coefficients(fit, dtype)
            numbers = "".join(f"        {each!r},\n" for each in found)
            error = f"    # relative error {worst:.1e}\n"
            tables.setdefault(fit.name, []).append(f'{error}    "{dtype}": (\n{numbers}    ),\n')
            comments[fit.name] = fit.says
    for name, entries in tables.items():
        parts.append(f'{name} = {{\n{"".join(entries)}}}\n"""{comments[name]}."""')
    parts += constants()
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    mpmath.mp.dps = 60
    TARGET.write_text(text(), encoding="utf-8")
