"""Charts as SVG that takes its colours from the page around it, so that one picture serves light and dark.

Altair describes a chart and vl-convert draws it, both offline. The colours handed to them are names in
disguise: each stands for one CSS variable of the page, which takes its place in the finished SVG.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from chainrule.errors import DataError
from chainrule.show.figures import printable
from chainrule.show.html import Html

INK, MUTED, RULE, ACCENT, SECOND = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
GOOD, SHRINK, GROW = "#101112", "#131415", "#161718"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    GOOD: "var(--good)",
    SHRINK: "var(--shrink)",
    GROW: "var(--grow)",
}
WIDTH = 640
_MOST_POINTS = 400  # per curve; more cannot be told apart at this width
_CONFIG = {
    "background": "transparent",
    "aria": False,  # the page gives every chart one title and description instead of hundreds of labels
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "grid": True,
        "gridColor": RULE,
        "labelColor": MUTED,
        "labelFontSize": 12,
        "tickColor": RULE,
        "ticks": False,
        "labelPadding": 6,
        "titleColor": MUTED,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
    },
    "legend": {
        "labelColor": INK,
        "labelFontSize": 13,
        "title": None,
        "orient": "top",
        "symbolStrokeWidth": 3,
    },
}


def training_curves(history: Sequence[Mapping[str, Any]], best_epoch: int | None) -> Html:
    """The loss of every epoch, in training and in validation, and the gradient norm below it."""
    import altair as alt

    rows = thinned(history, _MOST_POINTS)
    ends = [rows[0]["epoch"], max(2, rows[-1]["epoch"])]
    axis = alt.Axis(format="d", tickMinStep=1, tickCount=10, grid=False)
    across = alt.X("epoch:Q", title=None, scale=alt.Scale(domain=ends, nice=False), axis=axis)
    panels = [_losses(rows, best_epoch, across).properties(width=WIDTH, height=220)]
    norms = [{"epoch": each["epoch"], "norm": each["gradient_norm"]} for each in rows]
    norms = [each for each in norms if positive(each["norm"])]
    if norms:
        upward = vertical("norm", "gradient norm", [each["norm"] for each in norms])
        line = alt.Chart(alt.InlineData(norms)).mark_line(
            strokeWidth=1.5, color=ACCENT, interpolate="monotone"
        )
        panels.append(line.encode(x=across.title("epoch"), y=upward).properties(width=WIDTH, height=90))
    return drawn(
        "training",
        alt.vconcat(*panels, spacing=14),
        "Loss and gradient norm by epoch",
        _told(history, best_epoch),
    )


def _losses(rows: Sequence[Mapping[str, Any]], best_epoch: int | None, across: Any) -> Any:
    import altair as alt

    named = {"loss": "training", "validation_loss": "validation"}
    points = [
        {"epoch": row["epoch"], "part": part, "loss": row[field]}
        for row in rows
        for field, part in named.items()
        if positive(row.get(field))
    ]
    parts = list(dict.fromkeys(each["part"] for each in points))
    scale = alt.Scale(domain=parts, range=[SECOND, ACCENT][: len(parts)])
    upward = vertical("loss", "loss", [each["loss"] for each in points])
    curves = alt.Chart(alt.InlineData(points)).mark_line(strokeWidth=2, interpolate="monotone")
    losses = curves.encode(x=across, y=upward, color=alt.Color("part:N", scale=scale, sort=parts))
    if not best_epoch:
        return losses
    best = alt.Chart(alt.InlineData([{"epoch": best_epoch}]))
    rule = best.mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x=across)
    said = best.mark_text(align="right", baseline="top", dx=-6, color=MUTED, fontSize=12, y=2)
    return losses + rule + said.encode(x=across, text=alt.value(f"lowest: epoch {best_epoch}"))


def _told(history: Sequence[Mapping[str, Any]], best_epoch: int | None) -> str:
    """The curves in words, for those who cannot see them."""
    first, last = history[0], history[-1]
    told = (
        f"Line charts over {len(history)} epochs. The loss in training goes from {first['loss']:.4g} to "
        f"{last['loss']:.4g}"
    )
    told += f", in validation at {last['validation_loss']:.4g}" if "validation_loss" in last else ""
    return told + (f"; the lowest validation loss is at epoch {best_epoch}." if best_epoch else ".")


def agreement_grid(agreement: Mapping[str, Any], target: str) -> Html:
    """How many rows have which predicted value beside which actual one; on the diagonal they agree."""
    import altair as alt

    edges = agreement["edges"]
    cells = [
        {"x": edges[j], "x2": edges[j + 1], "y": edges[i], "y2": edges[i + 1], "rows": rows}
        for i, j, rows in agreement["cells"]
    ]
    ends = [edges[0], edges[-1]]
    kind = "log" if agreement["scale"] == "log" else "linear"
    scale = alt.Scale(type=kind, domain=ends, nice=False, zero=False)
    axis = alt.Axis(format="~s" if abs(ends[1]) >= 1000 else "", tickCount=6, gridOpacity=0.6)
    heat = (
        alt.Chart(alt.InlineData(cells))
        .mark_rect(color=ACCENT)
        .encode(
            x=alt.X("x:Q", scale=scale, axis=axis, title=f"actual {target}"),
            x2="x2:Q",
            y=alt.Y("y:Q", scale=scale, axis=axis, title=f"predicted {target}"),
            y2="y2:Q",
            opacity=alt.Opacity("rows:Q", scale=alt.Scale(type="sqrt", range=[0.12, 1]), legend=None),
        )
    )
    corners = [{"x": end, "y": end} for end in ends]
    line = alt.Chart(alt.InlineData(corners)).mark_line(color=INK, strokeWidth=1, strokeDash=[4, 4])
    picture = (heat + line.encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))).properties(width=480, height=480)
    near = sum(rows for i, j, rows in agreement["cells"] if abs(i - j) <= 1)
    total = sum(rows for _, _, rows in agreement["cells"])
    return drawn(
        "agreement",
        picture,
        f"Predicted against actual {target}",
        f"A heat map of {total} rows; {100 * near / total:.0f}% of them lie on the diagonal, where "
        "prediction and truth agree, or one cell beside it.",
    )


def calibration(agreement: Mapping[str, Any]) -> Html:
    """How often a class occurs among rows of similar predicted probability."""
    import altair as alt

    points = alt.Chart(alt.InlineData(agreement["bins"]))
    unit = alt.Scale(domain=[0, 1])
    percent = alt.Axis(format="%", tickCount=5)
    across = alt.X("predicted:Q", scale=unit, axis=percent, title="predicted probability")
    up = alt.Y("observed:Q", scale=unit, axis=percent, title=f"share of rows that are {agreement['class']}")
    curve = points.mark_line(color=ACCENT, strokeWidth=2).encode(x=across, y=up)
    dots = points.mark_point(color=ACCENT, filled=True, size=60, opacity=1).encode(x=across, y=up)
    ends = [{"predicted": 0, "observed": 0}, {"predicted": 1, "observed": 1}]
    diagonal = alt.Chart(alt.InlineData(ends)).mark_line(color=INK, strokeWidth=1, strokeDash=[4, 4])
    picture = (diagonal.encode(x=across, y=up) + curve + dots).properties(width=400, height=400)
    worst = max(abs(each["predicted"] - each["observed"]) for each in agreement["bins"])
    return drawn(
        "calibration",
        picture,
        f"Calibration of the probability of {agreement['class']}",
        f"Rows in {len(agreement['bins'])} groups by predicted probability. The predicted and the observed "
        f"share differ by at most {100 * worst:.0f} percentage points; on the diagonal they agree.",
    )


def thinned(rows: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """At most `most` of the rows, evenly spaced, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(k * (len(rows) - 1) / (most - 1))] for k in range(most)]


def vertical(field: str, title: str, numbers: Sequence[float]) -> Any:
    """A vertical axis; logarithmic, with few lines, for positive numbers that span a factor of 3."""
    import altair as alt

    low, high = min(numbers), max(numbers)
    if high < 3 * low or low <= 0:
        scale = alt.Scale(zero=False, nice=True)
        return alt.Y(f"{field}:Q", scale=scale, axis=alt.Axis(tickCount=4, format="~g"), title=title)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    every = max(1, len(decades) // 5)
    steps = (1, 2, 5) if high < 50 * low else (1, 3) if high < 1000 * low else (1,)
    ticks = [step * 10.0**decade for decade in decades[::every] for step in steps]
    scale = alt.Scale(type="log", domain=[low * 0.93, high * 1.07], nice=False)
    axis = alt.Axis(values=[tick for tick in ticks if low * 0.9 <= tick <= high * 1.1], format="~g")
    return alt.Y(f"{field}:Q", scale=scale, axis=axis, title=title)


def positive(number: Any) -> bool:
    """Whether a number has a place on a logarithmic scale."""
    return isinstance(number, int | float) and 0 < number < float("inf")


def drawn(name: str, picture: Any, title: str, description: str) -> Html:
    """The chart as inline SVG with a name and description for those who cannot see it."""
    import vl_convert

    specification = {**picture.to_dict(), "config": _CONFIG}
    try:
        svg = vl_convert.vegalite_to_svg(specification)
    except ValueError as error:
        raise DataError(f"the chart '{title}' cannot be drawn: {error}") from None
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(f'"{colour}"', f'"{variable}"')
    # Seven digits of a coordinate are a hundred times finer than a pixel needs, and half of the file. Texts,
    # which stand between tags, keep theirs.
    svg = re.sub(r"\d+\.\d{3,}(?=[^<>]*>)", lambda found: f"{float(found[0]):.2f}", svg)
    head = f'<svg class="chart" role="img" aria-labelledby="{name}-chart-title {name}-chart-description" '
    told = (
        f'<title id="{name}-chart-title">{escape(printable(title))}</title>'
        f'<desc id="{name}-chart-description">{escape(printable(description))}</desc>'
    )
    opening, _, rest = svg.partition(">")
    rest = re.sub(r' (?:role|aria-[a-z]+)="[^"<>]*"(?=[^<>]*>)', "", rest)  # the whole is one image
    size = dict(re.findall(r'(width|height)="([\d.]+)"', opening))
    box = f'viewBox="0 0 {size["width"]} {size["height"]}" width="{size["width"]}" xmlns="http://www.w3.org/2000/svg"'
    return Html(f"{head}{box}>{told}{rest}")
