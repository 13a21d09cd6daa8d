"""Numbers and names as people read them: thousands grouped, four significant digits, money with its sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from chainrule.recipe import Recipe
from chainrule.train.metrics import LABELS

LABEL = 10  # columns that the name of a section takes on a screen
_UNITS = {"example:ames": "$"}
_OWN_UNIT = ("rmse", "mae")  # metrics in the unit of the target
_SHARES = ("r2", "accuracy", "auroc", "average_precision")  # between 0 and 1, as good as always
_FULL_NAMES = {"rmse": "Root mean squared error", "mae": "Mean absolute error"}


def unit_of(recipe: Recipe) -> str:
    """The sign of the target's unit, where it is known: "$" for the house prices of the package."""
    return _UNITS.get(recipe.data.source, "")


def count(number: int) -> str:
    """A whole number with its thousands grouped.

    >>> count(43649)
    '43,649'
    """
    return f"{number:,}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things.

    >>> counted(1, "row"), counted(2930, "row"), counted(2, "category", "categories")
    ('1 row', '2,930 rows', '2 categories')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def value(number: float | None, unit: str = "") -> str:
    """Four significant digits, more where the number is large; no cents where there are hundreds of dollars.

    >>> value(0.0123456), value(20312.4), value(-620.1, "$"), value(1.5e-7), value(None)
    ('0.01235', '20,312', '−$620', '1.5e-07', '–')
    """
    if number is None or math.isnan(number):
        return "–"
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    size = abs(number)
    if number == 0 or 1e-4 <= size < 1e15:
        digits = 0 if size >= (100 if unit else 1000) else 3 - math.floor(math.log10(size)) if size else 0
        text = f"{size:,.{digits}f}"
    else:
        text = f"{size:.4g}"
    return ("−" if number < 0 else "") + unit + text


def metric(name: str, number: float | None, unit: str = "") -> str:
    """A metric's value; those in the unit of the target get its sign.

    >>> metric("rmse", 20312.4, "$"), metric("r2", 0.93712, "$")
    ('$20,312', '0.937')
    """
    if name in _SHARES and number is not None and math.isfinite(number):
        return f"{number:.3f}".replace("-", "−")
    return value(number, unit if name in _OWN_UNIT else "")


def label(name: str) -> str:
    """The usual short name of a metric: "RMSE", "log loss"."""
    return LABELS.get(name, name)


def full_label(name: str) -> str:
    """The name of a metric in full, capitalised: "Root mean squared error"."""
    known = _FULL_NAMES.get(name, label(name))
    return known[:1].upper() + known[1:]


def percent(share: float) -> str:
    """A share as a percentage, whole unless small.

    >>> percent(0.132), percent(0.0042)
    ('13%', '0.4%')
    """
    return f"{100 * share:.0f}%" if share == 0 or abs(share) >= 0.0195 else f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """Seconds in the largest units that matter.

    >>> duration(0.4), duration(18.2), duration(125), duration(7260)
    ('0.4 s', '18 s', '2 min 05 s', '2 h 01 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def printable(text: object) -> str:
    r"""Text for one line of a terminal: control characters, which could move its cursor, become marks.

    >>> printable("a\x1b[2Jb")
    'a�[2Jb'
    """
    return "".join(each if each.isprintable() else "�" for each in str(text))


def clipped(text: str, most: int = 120) -> str:
    """A name or a reason, cut off where it is longer than anybody reads.

    >>> clipped("a long name", 6)
    'a lon…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def listed(names: Sequence[str], limit: int = 6) -> str:
    """Names in a row, cut short after `limit`.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(numbers: Sequence[float], width: int) -> str:
    """The course of positive numbers in at most `width` blocks, on a logarithmic scale.

    Each block is the mean of an equal stretch of them.

    >>> sparkline([8.0, 4.0, 2.0, 1.0], 4)
    '█▆▃▁'
    """
    finite = [math.log(each) for each in numbers if 0 < each < math.inf]
    if not finite or width < 1:
        return ""
    columns = min(width, len(finite))
    edges = [round(k * len(finite) / columns) for k in range(columns + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high - low < 1e-12:
        return _BARS[0] * columns
    return "".join(_BARS[round((mean - low) / (high - low) * (len(_BARS) - 1))] for mean in means)
