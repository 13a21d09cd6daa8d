"""Training curves of several runs: the mean by epoch, and around it how far seeds lie apart."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chainrule.errors import DataError
from chainrule.run import RunFolder
from chainrule.show import charts
from chainrule.show.figures import counted, printable, sparkline, value
from chainrule.show.html import Html
from chainrule.show.pictures.canvas import NARROWEST, Table, shortened, wrapped
from chainrule.train.result import Run

Given = Run | RunFolder | str | Path
_COLOURS = (charts.ACCENT, charts.SECOND, charts.GOOD, charts.GROW, charts.SHRINK, charts.INK)
_PARTS = {"training": charts.SECOND, "validation": charts.ACCENT}  # as in the report
_MOST_POINTS, _TABLE_ROWS = 200, 30
_BANDS = {"range": "lowest to highest", "interval": "95% interval of the mean"}


@dataclass(frozen=True)
class Curve:
    """One line by epoch; nan where a run's loss was not finite.

    low, high  ends of the band around it; the mean itself for a single run
    """

    label: str
    runs: int
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """Lines over the epochs that all runs reached, counted from 1.

    measure  what they show: "loss", "validation loss"
    band     what is around them: "lowest to highest", "95% interval of the mean"
    """

    measure: str
    band: str
    curves: tuple[Curve, ...]


def of_runs(
    runs: Given | Sequence[Given] | Mapping[str, Sequence[Given]],
    band: Literal["range", "interval"] = "range",
) -> Curves:
    """The losses of runs: one, or several that differ in their seeds, or groups of such by name.

    One group is shown in training and in validation; several groups by their validation loss, or by their
    training loss if a run has no other. A run is what `fit` gives back, or its folder.

    band  "range" from the lowest to the highest, "interval" the mean's 95% interval by Student's t
    """
    if band not in _BANDS:
        raise DataError(f"band is {band!r}; it must be one of {', '.join(map(repr, _BANDS))}")
    groups = runs if isinstance(runs, Mapping) else {"": [runs] if isinstance(runs, Given) else runs}
    told = {str(name): [_history(run) for run in group] for name, group in groups.items()}
    _check(told)
    held_out = all(_has_validation(history) for group in told.values() for history in group)
    if len(told) == 1:
        only = next(iter(told.values()))
        fields = {"training": "loss"} | ({"validation": "validation_loss"} if held_out else {})
        curves = [_curve(name, only, field, band) for name, field in fields.items()]
        return Curves("loss", _BANDS[band], tuple(curves))
    field = "validation_loss" if held_out else "loss"
    measure = "validation loss" if held_out else "training loss"
    curves = [_curve(name, group, field, band) for name, group in told.items()]
    return Curves(measure, _BANDS[band], tuple(curves))


def _history(run: Given) -> list[dict[str, Any]]:
    if isinstance(run, Run):
        return run.history
    return (run if isinstance(run, RunFolder) else RunFolder(run)).history()


def _has_validation(history: Sequence[Mapping[str, Any]]) -> bool:
    return bool(history) and "validation_loss" in history[0]


def _check(groups: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> None:
    if not groups or not all(groups.values()):
        raise DataError("there is no run to draw; give a run, a list of runs, or {name: list of runs}")
    if len(groups) > len(_COLOURS):
        raise DataError(
            f"{len(groups)} groups of runs are too many to tell apart; give {len(_COLOURS)} at most"
        )
    for name, group in groups.items():
        if not all(group):
            of = f" of {name!r}" if name else ""
            raise DataError(f"a run{of} has no epoch yet; leave it out, or train it first")


def _curve(label: str, group: Sequence[Sequence[Mapping[str, Any]]], field: str, band: str) -> Curve:
    """The mean over a group's runs at each epoch that all of them reached, and the ends of its band."""
    epochs = min(len(history) for history in group)
    mean, low, high = [], [], []
    for epoch in range(epochs):
        losses = [_number(history[epoch].get(field)) for history in group]
        mean.append(math.fsum(losses) / len(losses))
        half = _half_width(losses, mean[-1]) if band == "interval" else 0.0
        low.append(mean[-1] - half if band == "interval" else min(losses))
        high.append(mean[-1] + half if band == "interval" else max(losses))
    return Curve(label, len(group), tuple(mean), tuple(low), tuple(high))


def _number(given: Any) -> float:
    return float(given) if isinstance(given, int | float) and math.isfinite(given) else math.nan


def _half_width(losses: Sequence[float], mean: float) -> float:
    """Of the 95% interval of a mean, by Student's t."""
    if len(losses) < 2:
        return 0.0
    from scipy.special import stdtrit  # Student's quantiles; scipy.stats takes a second to load

    variance = math.fsum((loss - mean) ** 2 for loss in losses) / (len(losses) - 1)
    return float(stdtrit(len(losses) - 1, 0.975)) * math.sqrt(variance / len(losses))


# -- in words ------------------------------------------------------------------------------------------------
def title(curves: Curves) -> str:
    """What the picture shows."""
    return f"{curves.measure.capitalize()} by epoch"


def described(curves: Curves) -> str:
    """The picture in a few sentences, for those who cannot see it."""
    return f"Line chart. {' '.join(f'{_told(curve, curves.band)}.' for curve in curves.curves)}"


def _told(curve: Curve, band: str) -> str:
    first, last = value(curve.mean[0]), value(curve.mean[-1])
    told = f"{curve.label}: from {first} to {last} in {counted(len(curve.mean), 'epoch')}"
    if curve.runs == 1:
        return told
    ends = f"{value(curve.low[-1])} to {value(curve.high[-1])}"
    return f"{told}, the mean of {curve.runs} runs; {band} at the end {ends}"


# -- SVG -----------------------------------------------------------------------------------------------------
def svg(curves: Curves) -> Html:
    """The picture: a line for each curve and its band; the axis is logarithmic where losses span decades."""
    import altair as alt

    points = _points(curves)
    named = [printable(curve.label) for curve in curves.curves]
    colours = _PARTS if named == list(_PARTS) else dict(zip(named, _COLOURS, strict=False))
    scale = alt.Scale(domain=named, range=[colours[name] for name in named])
    opaque = alt.Legend(symbolType="square", symbolOpacity=1)  # else it would be as pale as the bands
    colour = alt.Color("curve:N", scale=scale, sort=named, legend=opaque)
    last = max([2, *(len(curve.mean) for curve in curves.curves)])
    axis = alt.Axis(format="d", tickMinStep=1, tickCount=10, grid=False)
    across = alt.X("epoch:Q", title="epoch", scale=alt.Scale(domain=[1, last], nice=False), axis=axis)
    ends = [point[end] for point in points for end in ("low", "high")] or [1.0]
    low, mean = (charts.vertical(field, curves.measure, ends) for field in ("low", "mean"))
    several = alt.Chart(alt.InlineData([point for point in points if point["runs"] > 1]))
    band = several.mark_area(opacity=0.2).encode(x=across, y=low, y2="high:Q", color=colour)
    line = alt.Chart(alt.InlineData(points)).mark_line(strokeWidth=2)
    picture = band + line.encode(x=across, y=mean, color=colour)
    told = described(curves)
    name = f"curves-{zlib.crc32(told.encode()):08x}"
    return charts.drawn(name, picture.properties(width=charts.WIDTH, height=220), title(curves), told)


def _points(curves: Curves) -> list[dict[str, Any]]:
    """What is drawn, evenly thinned; what is not finite has no place, and is missing."""
    points: list[dict[str, Any]] = []
    for curve in curves.curves:
        named = {"curve": printable(curve.label), "runs": curve.runs}
        rows = [
            {**named, "epoch": k, "mean": mean, "low": low, "high": high}
            for k, (mean, low, high) in enumerate(zip(curve.mean, curve.low, curve.high, strict=True), 1)
        ]
        points += [dict(row) for row in charts.thinned(rows, _MOST_POINTS) if math.isfinite(row["mean"])]
    if all(point["mean"] > 0 for point in points):
        # An interval may reach below zero, where a logarithmic axis has no place.
        least = min((point["mean"] for point in points), default=1.0) / 10
        points = [{**point, "low": max(point["low"], least)} for point in points]
    return points


# -- text ----------------------------------------------------------------------------------------------------
def text(curves: Curves, width: int = 100) -> str:
    """The courses for a terminal, each on a logarithmic scale of its own, with where they begin and end.

    width  of the longest line, 60 at least
    """
    width = max(NARROWEST, width)
    room = min(max(len(curve.label) for curve in curves.curves), width // 4)
    lines = [title(curves)]
    for curve in curves.curves:
        ends = f"{value(curve.mean[0])} to {value(curve.mean[-1])}"
        if curve.runs > 1:
            ends += f" ({value(curve.low[-1])} to {value(curve.high[-1])})"
        course = sparkline(curve.mean, width - room - len(ends) - 4)
        lines.append(f"{shortened(printable(curve.label), room):{room}}  {course}  {ends}")
    if any(curve.runs > 1 for curve in curves.curves):
        lines.append(wrapped(f"means of several runs; in brackets at the end, {curves.band}", width))
    return "\n".join(lines)


# -- table ---------------------------------------------------------------------------------------------------
def table(curves: Curves) -> Table:
    """Every curve at thirty epochs at most, the first and the last among them, with the ends of its band."""
    last = max(len(curve.mean) for curve in curves.curves)
    epochs = charts.thinned([{"epoch": k} for k in range(1, last + 1)], _TABLE_ROWS)
    rows = [
        (str(row["epoch"]), *(_cell(curve, row["epoch"] - 1) for curve in curves.curves)) for row in epochs
    ]
    return (">epoch", *(f">{curve.label}" for curve in curves.curves)), list(rows)


def _cell(curve: Curve, k: int) -> str:
    if k >= len(curve.mean):
        return ""
    band = f" ({value(curve.low[k])} to {value(curve.high[k])})" if curve.runs > 1 else ""
    return value(curve.mean[k]) + band
