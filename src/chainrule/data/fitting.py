"""Fitting: what scikit-learn learns from the training rows of a column, kept as a `Treatment`.

Every rule that chooses a treatment is in this file, with its threshold as a named constant.
"""

from collections.abc import Sequence

import numpy as np

from chainrule.data.table import LEARNABLE, Column
from chainrule.data.treatments import (
    MISSING_CODE,
    RARE_CODE,
    Boolean,
    Embedded,
    Floats,
    LeftOut,
    Number,
    OneHot,
    Scaling,
    Time,
    Treatment,
    days_since_1970,
)
from chainrule.errors import DataError

ONE_HOT_UP_TO = 32  # levels; a category with more is embedded
RARE_BELOW = (
    5  # rows: levels an embedding sees less often share one code, since little can be learned of each
)
EMBEDDED_AT_MOST = 4096  # levels: bounds the memory of an embedding; the most frequent are kept
HEAVY_TAIL = 8.0  # deviations: of a million normal values, the farthest is expected near 5
BOUND = 3.0  # deviations at which a heavy-tailed column is smoothly bounded


def fit_treatment(column: Column, order: Sequence[str] | None = None) -> Treatment:
    """The treatment for a column, learned from these rows alone; `order` lists an ordered column's levels."""
    unusable = _reason_to_leave_out(column)
    if unusable:
        return LeftOut(column.name, column.kind, column.missing_share, unusable)
    if order is not None:
        return _fit_ordered(column, tuple(order))
    if column.kind == "category":
        return _fit_category(column)
    if column.kind == "boolean":
        return _fit_boolean(column)
    return _fit_time(column) if column.kind == "time" else _fit_number(column)


def _reason_to_leave_out(column: Column) -> str:
    if column.kind not in LEARNABLE:
        return column.note or f"columns of kind {column.kind} are not used"
    present = column.values[~column.missing]
    if not present.size:
        return "no training row has a value"
    if not column.missing.any() and bool((present == present[0]).all()):
        return "the same value in every training row"
    return ""


def _fit_number(column: Column) -> Number:
    scaling, reason = fit_scaling(column.values[~column.missing])
    fill = _median(column.values[~column.missing])
    indicator = bool(column.missing.any())
    reasons = "; ".join(part for part in (column.note, reason) if part)
    return Number(column.name, "number", column.missing_share, reasons, fill, indicator, scaling)


def _fit_ordered(column: Column, order: tuple[str, ...]) -> Number:
    """A category with an order, as numbers 0, 1, 2, …"""
    if column.kind != "category":
        raise DataError(
            f"Column '{column.name}' is a {column.kind}, so an order of its levels has no use. Leave it "
            f"out of `ordinals`, or read the column as a category: kinds={{'{column.name}': 'category'}}."
        )
    unnamed = sorted(set(column.levels or ()) - set(order))
    if unnamed or len(set(order)) != len(order):
        fault = f"lacks {', '.join(unnamed[:5])}" if unnamed else "names a level twice"
        raise DataError(
            f"The order given for column '{column.name}' {fault}. Name every level once, lowest first."
        )
    whole = Number(column.name, "category", column.missing_share, "", 0.0, False, Scaling(0.0, 1.0), order)
    places, missing = whole.numbers(column)
    scaling, _ = fit_scaling(places[~missing])
    indicator = bool(missing.any())
    reason = f"{len(order)} levels in the given order"
    fill = _median(places[~missing])
    return Number(column.name, "category", column.missing_share, reason, fill, indicator, scaling, order)


def fit_scaling(values: Floats) -> tuple[Scaling, str]:
    """How to scale present training values, and why, if not simply by mean and standard deviation.

    A column is heavy-tailed when its farthest value lies more than `HEAVY_TAIL` deviations from the median, a
    deviation being what the middle nine tenths of a normal column would have. It is scaled by that
    deviation, which a few wild values cannot move, and bounded. Where the middle nine tenths are one value
    (an area of pools), the standard deviation takes its place.
    """
    from sklearn.preprocessing import RobustScaler, StandardScaler

    middle = RobustScaler(quantile_range=(5.0, 95.0), unit_variance=True).fit(values[:, None])
    usual = StandardScaler().fit(values[:, None])
    spread = np.subtract(*np.quantile(values, [0.95, 0.05])) > 0
    centre, scale = (middle.center_, middle.scale_) if spread else (usual.mean_, usual.scale_)
    farthest = float(np.abs(values - centre[0]).max() / scale[0])
    if farthest <= HEAVY_TAIL:
        return Scaling(float(usual.mean_[0]), float(usual.scale_[0])), ""
    return Scaling(
        float(centre[0]), float(scale[0]), BOUND
    ), f"heavy tails: a value {farthest:.0f} deviations out"


def _median(values: Floats) -> float:
    from sklearn.impute import SimpleImputer

    return float(SimpleImputer(strategy="median").fit(values[:, None]).statistics_[0])


def _fit_boolean(column: Column) -> Boolean:
    from sklearn.impute import SimpleImputer

    present = column.values[~column.missing].astype(np.float64)
    fill = bool(SimpleImputer(strategy="most_frequent").fit(present[:, None]).statistics_[0])
    return Boolean(
        column.name, "boolean", column.missing_share, column.note, fill, bool(column.missing.any())
    )


def _fit_time(column: Column) -> Time:
    days = days_since_1970(column)[~column.missing]
    scaling, reason = fit_scaling(days)
    # A cycle is kept when training rows stand at more than one place on it.
    months = column.values[~column.missing].astype("datetime64[M]").astype(np.int64) % 12
    places = {"year": months, "week": np.floor(days) % 7, "day": days % 1.0}
    cycles = tuple(cycle for cycle, place in places.items() if np.unique(place).size > 1)
    indicator = bool(column.missing.any())
    return Time(column.name, "time", column.missing_share, reason, _median(days), indicator, scaling, cycles)


def _fit_category(column: Column) -> OneHot | Embedded | LeftOut:
    """One-hot, or embedded where more than `ONE_HOT_UP_TO` levels occur in training."""
    from sklearn.preprocessing import OneHotEncoder

    codes = column.values[~column.missing][:, None]
    if np.unique(codes).size > ONE_HOT_UP_TO:
        return _fit_embedded(column)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(codes)
    levels = _level_names(column, encoder.categories_[0].tolist())
    indicator = bool(column.missing.any())
    return OneHot(column.name, "category", column.missing_share, column.note, levels, indicator)


def _fit_embedded(column: Column) -> Embedded | LeftOut:
    """Codes for an embedding; levels seen in fewer than `RARE_BELOW` rows share one."""
    from sklearn.preprocessing import OrdinalEncoder

    codes = column.values[~column.missing][:, None]
    distinct, counts = np.unique(codes, return_counts=True)
    if counts.max() < RARE_BELOW:
        reason = f"none of its {distinct.size:,} levels occurs in {RARE_BELOW} training rows"
        return LeftOut(column.name, "category", column.missing_share, reason)
    limits = {"min_frequency": RARE_BELOW, "max_categories": EMBEDDED_AT_MOST}
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, **limits).fit(codes)
    rare = encoder.infrequent_categories_[0]
    rare_codes = set() if rare is None else set(rare.tolist())
    levels = _level_names(column, [code for code in distinct.tolist() if code not in rare_codes])
    reason = f"{distinct.size:,} levels"
    if rare_codes:
        share = counts[np.isin(distinct, list(rare_codes))].sum() / counts.sum()
        reason += f", of which {len(rare_codes):,} too rare ones ({share:.1%} of the rows) share a code"
    trained = (MISSING_CODE,) * bool(column.missing.any()) + (RARE_CODE,) * bool(rare_codes)
    return Embedded(column.name, "category", column.missing_share, reason, levels, trained)


def _level_names(column: Column, codes: Sequence[int]) -> tuple[str, ...]:
    levels = column.levels or ()
    return tuple(levels[code] for code in codes)
