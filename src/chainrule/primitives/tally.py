"""What telemetry asks of an array, in one record, so that it is computed in one walk over memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.errors import DTypeError
from chainrule.primitive import Draw, Primitive, Sample
from chainrule.types import Type

FIELDS = ("squares", "sum", "largest", "zeros", "nonfinite", "outside")
"""What the numbers of a tally are: see the record."""


def _type(x: Type, low: float, high: float) -> Type:
    if x.dtype.kind != "f":
        raise DTypeError(f"tally takes floating numbers, not {x.dtype}")
    return Type((len(FIELDS),), x.dtype)


def _meaning(xp: Any, x: Any, low: float, high: float) -> Any:
    size = xp.abs(x)
    counts = [x == 0, xp.logical_not(xp.isfinite(x)), xp.logical_or(x < low, x > high)]
    numbers = [xp.sum(size * size), xp.sum(x), xp.max(size, initial=0), *(xp.sum(each) for each in counts)]
    return xp.stack([xp.asarray(each).astype(x.dtype) for each in numbers])


def _surface(ops: Any, x: Any, low: float = -np.inf, high: float = np.inf) -> Any:
    return ops.apply(TALLY, ops.promote("tally", [x], "float"), low=float(low), high=float(high))


def _one_by_one(x: Any, low: float, high: float) -> Any:
    """The same from NumPy's own norms and counts."""
    flat = np.asarray(x, np.float64).ravel()
    return [
        np.linalg.norm(flat) ** 2, np.sum(flat), np.linalg.norm(flat, np.inf) if flat.size else 0,
        flat.size - np.count_nonzero(flat), np.isnan(flat).sum() + np.isinf(flat).sum(),
        np.count_nonzero(flat < low) + np.count_nonzero(flat > high),
    ]  # fmt: skip


_FREE = {"low": -np.inf, "high": np.inf}
_ODD = np.array([0.0, -0.0, 3.0, -4.0, 0.5])

TALLY = Primitive(
    "tally",
    "Sum of squares, sum, largest size; how many are 0, not finite, outside of bounds; no derivative.",
    _type,
    _meaning,
    samples=(
        Sample((Draw((6,)),), _FREE),
        Sample((Draw((2, 3, 5)),), {"low": -0.5, "high": 1.0}),
        Sample((_ODD,), {"low": -3.5, "high": 2.0}, value=[25.25, -0.5, 4.0, 2.0, 0.0, 2.0]),
        Sample((np.array([1.0, np.inf, np.nan, -np.inf]),), _FREE),
        Sample((Draw(()),), _FREE),
        Sample((Draw((0, 3)),), {"low": -1.0, "high": 1.0}),
    ),
    surface=_surface,
    analytic=False,
    barrier=True,
    oracle=_one_by_one,
    ulps=16.0,
    feeds=lambda place, x, low, high: [list(np.ndindex(x.shape))],
)

RECORDS = (TALLY,)
