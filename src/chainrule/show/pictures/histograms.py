"""How large the values of a layer are, step by step: a column per step and a row per power of two.

The stronger the colour, the more of the values are of that size. Zeros have a row of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.show.figures import counted, percent, printable
from chainrule.show.html import Html, joined
from chainrule.show.pictures import canvas, heat
from chainrule.show.pictures.canvas import NARROWEST, Table, superscript, words, wrapped
from chainrule.show.pictures.heat import Frame, Paint
from chainrule.train.telemetry import Histogram, Telemetry

Array = np.ndarray[Any, Any]
_LEVELS = 10  # of colour
_MOST_COLUMNS, _TEXT_ROWS, _TABLE_ROWS = 120, 16, 12
_WIDTH, _LEFT, _RIGHT, _TOP = 720.0, 76.0, 16.0, 50.0
_WIDEST_COLUMN = 48.0
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, eq=False)
class Histograms:
    """The sizes of the elements of an array over the steps.

    name       of the array
    steps      (n,): counted from 0
    exponents  (bins,): log2 of the lower edge of every bin, rising
    shares     (bins, n): share of the elements whose magnitude is in the bin
    zeros      (n,): share that is exactly zero
    smaller    whether the first bin also has everything that is smaller
    """

    name: str
    steps: Array
    exponents: Array
    shares: Array
    zeros: Array
    smaller: bool = False


def of_telemetry(telemetry: Telemetry) -> dict[str, Histograms]:
    """All histograms of a training, by name: "activation of 1", "gradient of 0.weight", ..."""
    return {name: of_histogram(name, counted) for name, counted in telemetry.histograms.items()}


def of_histogram(name: str, given: Histogram) -> Histograms:
    """The histograms of one array, without rows that nobody read and bins at the ends that are always empty.

    >>> counts = np.array([[0, 6, 2, 0], [0, 0, 4, 0]])
    >>> given = Histogram(np.array([0, 10]), np.arange(-2, 2), counts, np.array([0, 4]))
    >>> found = of_histogram("activation of 1", given)
    >>> found.exponents.tolist(), found.shares.tolist(), found.zeros.tolist()
    ([-1, 0], [[0.75, 0.0], [0.25, 0.5]], [0.0, 0.5])
    """
    read = np.isfinite(given.zeros)
    counts, zeros = np.asarray(given.counts, np.float64)[read].T, np.asarray(given.zeros, np.float64)[read]
    taken = np.flatnonzero(counts.sum(axis=1))
    used = slice(taken[0], taken[-1] + 1) if taken.size else slice(0, 0)
    whole = np.maximum(counts.sum(axis=0) + zeros, 1)
    exponents, smaller = given.exponents[used], used.start == 0 and bool(taken.size)
    return Histograms(name, given.steps[read], exponents, counts[used] / whole, zeros / whole, smaller)


# -- in words ------------------------------------------------------------------------------------------------
def title(histograms: Histograms) -> str:
    """What the picture shows."""
    return f"Sizes of the {histograms.name} by step" if histograms.name else "Sizes by step"


def described(histograms: Histograms) -> str:
    """The picture in a few sentences, for those who cannot see it."""
    told = f"A heat map of magnitudes over {counted(len(histograms.steps), 'step')}."
    for column in dict.fromkeys((0, len(histograms.steps) - 1)) if len(histograms.steps) else ():
        low, middle, high = (_quantile(histograms, column, share) for share in _QUANTILES)
        told += f" At step {histograms.steps[column]:,} {percent(float(histograms.zeros[column]))} are zero"
        sizes = f"the median is about {middle}, and 90% are from {low} to {high}"
        told += f"; of the others {sizes}." if middle else "."
    return told


def _quantile(histograms: Histograms, column: int, share: float) -> str:
    """The bin in which a quantile of the elements that are not zero lies; "" if all are."""
    sums = np.cumsum(histograms.shares[:, column])
    if not sums.size or not sums[-1]:
        return ""
    return _named(histograms, int(np.searchsorted(sums, share * sums[-1])))


def _named(histograms: Histograms, k: int) -> str:
    """A bin, by its lower edge if it has one."""
    exponent = int(histograms.exponents[k])
    return f"<2{superscript(exponent + 1)}" if histograms.smaller and k == 0 else f"2{superscript(exponent)}"


# -- SVG -----------------------------------------------------------------------------------------------------
def svg(histograms: Histograms) -> Html:
    """The picture: at most 120 columns; steps beside each other share one where there are more."""
    steps, shares, zeros = _fewer(histograms, _MOST_COLUMNS)
    height = 7.0 * max(1, len(shares))
    width = min(_WIDTH - _LEFT - _RIGHT, _WIDEST_COLUMN * max(1, len(steps)))
    frame = Frame(_LEFT, _TOP, width, height)
    below = frame._replace(y=frame.y + height + 7, height=14.0)
    contents = [words(0, 14, title(histograms), canvas.INK, 14)]
    if steps and len(shares):
        most = float(shares.max())
        contents += [_key(most), heat.image(_levels(shares[::-1], most), _paints(), frame)]
        contents += [_exponents(histograms, frame)]
    if steps:
        contents += [heat.image(_levels(zeros[None], 1.0), _paints(canvas.INK), below)]
        contents += [words(_LEFT - 8, below.y + 11, "zeros", anchor="end"), heat.steps_below(steps, below)]
    return canvas.picture(
        title(histograms), described(histograms), _WIDTH, below.y + below.height + 26, *contents
    )


def _fewer(histograms: Histograms, columns: int) -> tuple[tuple[int, ...], Array, Array]:
    """Steps, shares and zeros in at most so many columns, the means of neighbours."""
    across = heat.groups(len(histograms.steps), columns)
    shares = [histograms.shares[:, each].mean(axis=1) for each in across]
    zeros = [histograms.zeros[each].mean() for each in across]
    stacked = np.array(shares).reshape(len(across), len(histograms.exponents)).T
    return tuple(int(histograms.steps[each.start]) for each in across), stacked, np.array(zeros)


def _levels(shares: Array, most: float) -> Array:
    """What is there at all has a colour; roots, as for the area of a mark."""
    return np.ceil(np.sqrt(np.nan_to_num(shares) / most) * _LEVELS - 1e-9).astype(int)


def _paints(colour: str = canvas.ACCENT) -> dict[int, Paint]:
    return {k: Paint(colour, 0.08 + 0.92 * k / _LEVELS) for k in range(1, _LEVELS + 1)}


def _exponents(histograms: Histograms, frame: Frame) -> Html:
    """Powers of two beside the lower edges of their bins, a few of them."""
    pitch = frame.height / len(histograms.exponents)
    fourths = [k for k, exponent in enumerate(histograms.exponents.tolist()) if exponent % 4 == 0]
    return joined(
        words(frame.x - 8, frame.y + frame.height - k * pitch + 4, _named(histograms, k), anchor="end")
        for k in fourths or [0]
    )


def _key(most: float) -> Html:
    """The scale of colours."""
    paints, x, y = _paints(), _LEFT, 26.0
    swatches = [heat.swatch(x + 24 + 11 * k, y, paints[k + 1], 11) for k in range(_LEVELS)]
    ends = (
        words(x, y + 10, "0%", canvas.INK),
        words(x + 32 + 11 * _LEVELS, y + 10, f"{percent(most)} of the values", canvas.INK),
    )
    return joined([*ends, *swatches])


# -- text ----------------------------------------------------------------------------------------------------
_SHADES = " ░▒▓█"


def text(histograms: Histograms, width: int = 100) -> str:
    """The picture for a terminal, a character per cell, without colours.

    width  of the longest line, 60 at least
    """
    steps, shares, zeros = _fewer(histograms, max(NARROWEST, width) - 8)
    if not steps:
        return f"{printable(title(histograms))}: no step was looked at"
    down = heat.groups(len(shares), _TEXT_ROWS)
    summed = [shares[each].sum(axis=0) for each in down]
    most = max([1e-9, *(float(row.max()) for row in summed)])
    lines = [
        f"{_named(histograms, each.start):>6}  {_shaded(row, most)}"
        for each, row in zip(reversed(down), reversed(summed), strict=True)
    ]
    first, last = f"{steps[0]:,}", f"{steps[-1]:,}" if len(steps) > 1 else ""
    gap = " " * max(1, len(steps) - len(first) - len(last))
    lines += [f"{'zeros':>6}  {_shaded(zeros, 1.0)}".rstrip(), f"{'step':>6}  {first}{gap}{last}".rstrip()]
    key = f"░▒▓█ up to {percent(most)} of the values in a cell, of zeros up to all"
    return "\n".join([wrapped(title(histograms), width), *lines, key])


def _shaded(shares: Array, most: float) -> str:
    levels = np.ceil(np.sqrt(shares / most) * (len(_SHADES) - 1) - 1e-9).astype(int)
    return "".join(_SHADES[level] for level in levels.tolist()).rstrip()


# -- table ---------------------------------------------------------------------------------------------------
def table(histograms: Histograms) -> Table:
    """Twelve steps at most, the first and the last among them: the median, what 90% are within, zeros."""
    count = len(histograms.steps)
    columns = (
        sorted({round(k * (count - 1) / (_TABLE_ROWS - 1)) for k in range(_TABLE_ROWS)}) if count else []
    )
    rows: list[tuple[str, ...]] = []
    for column in columns:
        figures = (_quantile(histograms, column, share) or "–" for share in _QUANTILES)
        zeros = percent(float(histograms.zeros[column]))
        rows.append((f"{histograms.steps[column]:,}", *figures, zeros))
    return (">step", ">5% are below", ">median", ">95% are below", ">zeros"), rows
