"""What became of the columns: in groups for a glance, one by one for a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainrule.data.preprocess import Preprocessor
from chainrule.data.target import TargetTransform
from chainrule.data.treatments import Boolean, Embedded, LeftOut, Number, OneHot, Time, Treatment
from chainrule.show.figures import count, counted, listed, percent

_BENDS = {
    "log": "its logarithm",
    "log1p": "the logarithm of 1 + its value",
    "yeo-johnson": "its Yeo-Johnson power",
}


@dataclass(frozen=True)
class Group:
    """Columns treated alike: how many, what they are, what is done to them."""

    columns: int
    what: str
    how: str


def inputs(preprocessor: Preprocessor) -> int:
    """How many numbers of a row reach the first hidden layer."""
    return len(preprocessor.names) + sum(each.width for each in preprocessor.embedded)


def groups(preprocessor: Preprocessor, dropped: Sequence[str] = ()) -> list[Group]:
    """The columns in groups, those left out last; `dropped` ones were left out as asked."""
    treated = preprocessor.treatments
    numbers = [each for each in treated if isinstance(each, Number) and each.order is None]
    ordered = [each for each in treated if isinstance(each, Number) and each.order is not None]
    booleans = [each for each in treated if isinstance(each, Boolean)]
    one_hot = [each for each in treated if isinstance(each, OneHot)]
    embedded = [each for each in treated if isinstance(each, Embedded)]
    times = [each for each in treated if isinstance(each, Time)]
    found = [
        _group(numbers, "number", "numbers", _how_numbers(numbers)),
        _group(ordered, "ordered category", "ordered categories", "numbered in order, standardised"),
        _group(booleans, "yes or no", "yes or no", "0 or 1" + _gaps(booleans)),
        _group(one_hot, "category", "categories", _how_one_hot(one_hot)),
        _group(embedded, "category", "categories", _how_embedded(embedded)),
        _group(times, "time", "times", "days, and the place in the year, week or day" + _gaps(times)),
    ]
    left_out = [f"{each.column} ({each.reason})" for each in treated if isinstance(each, LeftOut)]
    left_out += [f"{name} (as asked)" for name in dropped]
    if left_out:
        found.append(Group(len(left_out), "left out", listed(left_out, 4)))
    return [group for group in found if group.columns]


def rows(preprocessor: Preprocessor) -> list[tuple[str, str, str, str, str]]:
    """Every column: name, kind, share missing in training, what is done, why."""
    return [
        (each.column, each.kind, percent(each.missing) if each.missing else "", each.action, each.reason)
        for each in preprocessor.treatments
    ]


def target_note(transform: TargetTransform | None) -> str:
    """How a regression target is learned, where it is not learned as it is."""
    if transform is None or transform.bend not in _BENDS:
        return ""
    return f"learned as {_BENDS[transform.bend]} ({transform.reason})"


def _group(columns: Sequence[Treatment], one: str, more: str, how: str) -> Group:
    return Group(len(columns), one if len(columns) == 1 else more, how)


def _how_numbers(columns: Sequence[Number]) -> str:
    bounded = sum(each.scaling.limit is not None for each in columns)
    return "standardised" + (f", {count(bounded)} with outliers bounded" if bounded else "") + _gaps(columns)


def _how_one_hot(columns: Sequence[OneHot]) -> str:
    levels = sum(len(each.levels) for each in columns)
    return f"one-hot, {counted(levels, 'level')}" + _gaps(columns)


def _how_embedded(columns: Sequence[Embedded]) -> str:
    each = listed([f"{column.column} {count(len(column.levels))} in {column.width}" for column in columns], 3)
    return f"embedded (levels in dimensions: {each})"


def _gaps(columns: Sequence[Number | Boolean | OneHot | Time]) -> str:
    gaps = sum(each.indicator for each in columns)
    return f", {count(gaps)} with gaps filled and marked" if gaps else ""
