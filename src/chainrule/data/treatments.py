"""What is done to one column: small records of fitted numbers that turn a column into features.

scikit-learn fits (`fitting.py`); these records keep what it found, apply it with a few NumPy operations, and
write themselves as plain JSON. A record read back from JSON gives the same bits: Python writes floats so that
they read back exactly, and the operations are the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from chainrule.data.table import Column, Kind
from chainrule.errors import DataError

Floats = npt.NDArray[np.float64]

#: The codes of an embedded column: a missing value, a level unseen or rare in training, and the first known
#: level.
MISSING_CODE, RARE_CODE, FIRST_LEVEL_CODE = 0, 1, 2

DAYS_PER_YEAR, DAYS_PER_WEEK = 365.2425, 7.0
_CYCLES = {"year": DAYS_PER_YEAR, "week": DAYS_PER_WEEK, "day": 1.0}


@dataclass(frozen=True)
class Scaling:
    """`(x - centre) / scale`, then, if there is a `limit`, a smooth bound on how far a value can stand out.

    The bound is z / sqrt(1 + (z / limit)^2): nearly z where z is small, never beyond the limit (Holzmüller,
    Grinsztajn and Steinwart, "Better by default", 2024). Without it, one value a hundred deviations away
    rules every weight it meets, in training and at prediction.
    """

    centre: float
    scale: float
    limit: float | None = None

    def apply(self, values: Floats) -> Floats:
        """Scaled values, of the same shape."""
        scaled = (values - self.centre) / self.scale
        return scaled if self.limit is None else scaled / np.sqrt(1.0 + (scaled / self.limit) ** 2)


@dataclass(frozen=True)
class Treatment:
    """What one column becomes. Each subclass is one way of treating a column.

    `kind` is the kind the column must have, `missing` the share of training rows without a value, `reason`
    one clause that tells the user why the column is treated as it is.
    """

    column: str
    kind: Kind
    missing: float
    reason: str

    written_as: ClassVar[str]

    @property
    def action(self) -> str:
        """What is done, in a few words."""
        raise NotImplementedError

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each numeric feature."""
        return ()

    def features(self, column: Column) -> Floats:
        """The numeric features, of shape (rows, len(names))."""
        return np.zeros((len(column.values), 0))

    def to_document(self) -> dict[str, Any]:
        """Plain lists, texts and numbers, from which `treatment_from_document` makes an equal record."""
        return {"treatment": self.written_as, **asdict(self)}


@dataclass(frozen=True)
class LeftOut(Treatment):
    """The network does not see this column."""

    written_as: ClassVar[str] = "left out"

    @property
    def action(self) -> str:
        """See `Treatment`."""
        return "left out"


@dataclass(frozen=True)
class Number(Treatment):
    """Missing values filled, values scaled; where training rows lacked values, a feature that says so.

    `order`, where given, makes a number of a category whose levels have one: its place, counted from 0.
    """

    fill: float
    indicator: bool
    scaling: Scaling
    order: tuple[str, ...] | None = None

    written_as: ClassVar[str] = "number"

    @property
    def action(self) -> str:
        """See `Treatment`."""
        done = ["numbered in the given order"] if self.order else []
        done += [f"{'missing filled with the median, ' if self.indicator else ''}standardised"]
        done += ["outliers bounded"] if self.scaling.limit is not None else []
        return ", ".join(done)

    @property
    def names(self) -> tuple[str, ...]:
        """See `Treatment`."""
        return (self.column, f"{self.column} is missing") if self.indicator else (self.column,)

    def features(self, column: Column) -> Floats:
        """See `Treatment`."""
        values, missing = self.numbers(column)
        scaled = self.scaling.apply(np.where(missing, self.fill, values))
        return _with_indicator(scaled[:, None], missing, self.indicator)

    def numbers(self, column: Column) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The column's numbers and which are missing; a level outside the order is missing."""
        if self.order is None:
            return column.values, column.missing
        places = level_codes(column, self.order, unknown=-1)
        return places.astype(np.float64), places < 0


@dataclass(frozen=True)
class Boolean(Treatment):
    """0 or 1; missing values become the more frequent of the two, with a feature that says so."""

    fill: bool
    indicator: bool

    written_as: ClassVar[str] = "boolean"

    @property
    def action(self) -> str:
        """See `Treatment`."""
        return "0 or 1" + (", missing filled with the more frequent" if self.indicator else "")

    @property
    def names(self) -> tuple[str, ...]:
        """See `Treatment`."""
        return (self.column, f"{self.column} is missing") if self.indicator else (self.column,)

    def features(self, column: Column) -> Floats:
        """See `Treatment`."""
        filled = np.where(column.missing, self.fill, column.values).astype(np.float64)
        return _with_indicator(filled[:, None], column.missing, self.indicator)


@dataclass(frozen=True)
class OneHot(Treatment):
    """One feature per level, 1 in its rows and 0 elsewhere; a level unseen in training is a row of zeros."""

    levels: tuple[str, ...]
    indicator: bool  # whether missing values have a feature of their own

    written_as: ClassVar[str] = "one-hot"

    @property
    def action(self) -> str:
        """See `Treatment`."""
        return f"one-hot, {len(self.levels)} levels" + (" and one for missing" if self.indicator else "")

    @property
    def names(self) -> tuple[str, ...]:
        """See `Treatment`."""
        named = [f"{self.column}={level}" for level in self.levels]
        return tuple(named + [f"{self.column} is missing"] * self.indicator)

    def features(self, column: Column) -> Floats:
        """See `Treatment`."""
        codes = level_codes(column, self.levels, unknown=-1)
        hot = (codes[:, None] == np.arange(len(self.levels))).astype(np.float64)
        return _with_indicator(hot, column.missing, self.indicator)


@dataclass(frozen=True)
class Embedded(Treatment):
    """An integer code per row, for an embedding: 0 missing, 1 rare or unseen, then one for each level."""

    levels: tuple[str, ...]
    trained: tuple[
        int, ...
    ]  # which of codes 0 and 1 occur in training; the other's embedding is never learned

    written_as: ClassVar[str] = "embedded"

    @property
    def action(self) -> str:
        """See `Treatment`."""
        return f"embedded, {len(self.levels):,} levels in {self.width} dimensions"

    @property
    def cardinality(self) -> int:
        """The number of codes, so that they run from 0 to cardinality - 1."""
        return len(self.levels) + FIRST_LEVEL_CODE

    @property
    def width(self) -> int:
        """A size for the embedding: 1.6 n^0.56, at most 50 (the rule of fastai's tabular learner)."""
        return int(np.clip(round(1.6 * self.cardinality**0.56), 2, 50))

    def codes(self, column: Column) -> npt.NDArray[np.int64]:
        """The code of each row, of shape (rows,)."""
        known = level_codes(column, self.levels, unknown=RARE_CODE - FIRST_LEVEL_CODE) + FIRST_LEVEL_CODE
        return np.where(column.missing, MISSING_CODE, known)


@dataclass(frozen=True)
class Time(Treatment):
    """Days since 1970, scaled, and the place in the year, the week and the day as a point on a circle.

    Only the `cycles` that training rows move along are kept. A missing time is the median day at the centre
    of each circle, with a feature that says so.
    """

    fill: float
    indicator: bool
    scaling: Scaling
    cycles: tuple[str, ...]

    written_as: ClassVar[str] = "time"

    @property
    def action(self) -> str:
        """See `Treatment`."""
        return "days, standardised" + "".join(f", place in the {cycle}" for cycle in self.cycles)

    @property
    def names(self) -> tuple[str, ...]:
        """See `Treatment`."""
        circles = [f"{self.column} {cycle} {wave}" for cycle in self.cycles for wave in ("sine", "cosine")]
        indicator = [f"{self.column} is missing"] * self.indicator
        return (f"{self.column} days", *circles, *indicator)

    def features(self, column: Column) -> Floats:
        """See `Treatment`."""
        days = days_since_1970(column)
        parts = [self.scaling.apply(np.where(column.missing, self.fill, days))]
        for cycle in self.cycles:
            angle = 2.0 * np.pi * np.where(column.missing, 0.0, days) / _CYCLES[cycle]
            parts += [np.where(column.missing, 0.0, wave(angle)) for wave in (np.sin, np.cos)]
        return _with_indicator(np.stack(parts, axis=1), column.missing, self.indicator)


def days_since_1970(column: Column) -> Floats:
    """A time column as days, fractions included; 0 where missing."""
    microseconds = np.where(column.missing, np.datetime64(0, "us"), column.values).astype(np.int64)
    return microseconds / 86_400e6


def level_codes(column: Column, levels: tuple[str, ...], unknown: int) -> npt.NDArray[np.int64]:
    """Each row's place in `levels`, or `unknown` for other texts and missing values."""
    place = {level: code for code, level in enumerate(levels)}
    # The column's own levels are looked up once each; the last entry is what its code -1, missing, points to.
    table = np.array([place.get(level, unknown) for level in column.levels or ()] + [unknown], dtype=np.int64)
    places: npt.NDArray[np.int64] = table[column.values]
    return places


def _with_indicator(features: Floats, missing: npt.NDArray[np.bool_], indicator: bool) -> Floats:
    return np.hstack([features, missing[:, None].astype(np.float64)]) if indicator else features


_TREATMENTS: dict[str, Callable[..., Treatment]] = {
    treatment.written_as: treatment for treatment in (LeftOut, Number, Boolean, OneHot, Embedded, Time)
}


def treatment_from_document(document: Mapping[str, Any]) -> Treatment:
    """The record `to_document` wrote; `DataError` if the document is not one.

    >>> left_out = LeftOut("id", "identifier", 0.0, "all values are different")
    >>> treatment_from_document(left_out.to_document()) == left_out
    True
    """
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in document.items()
    }
    try:
        if "scaling" in fields:
            fields["scaling"] = Scaling(**fields["scaling"])
        return _TREATMENTS[fields.pop("treatment")](**fields)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"The fitted preprocessing is damaged: the entry for column '{document.get('column', '?')}' "
            f"cannot be read ({type(error).__name__}: {error}). Restore the file, or train again."
        ) from None
