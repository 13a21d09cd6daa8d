"""What came of a run: beside simpler models, on several splits, and prediction beside truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chainrule.show import charts, outcome
from chainrule.show.facts import Facts
from chainrule.show.figures import clipped, count, counted, full_label, label, metric, percent, value
from chainrule.show.html import Html, details, element, figure, heads, number, table


def comparison(facts: Facts) -> list[Html]:
    """The network beside simpler models on the same rows."""
    if not facts.comparison:
        return []
    headline = facts.comparison["metric"]
    names = outcome.shown_metrics(facts)
    found = outcome.entries(facts)
    worst = max(entry.metrics[headline] for entry in found)
    head = heads("model", *(f">{label(name)}" for name in names), "drawn", f"the network's {label(headline)}")
    body = [
        element(
            "tr",
            element("th", entry.name, *_model(entry.model), scope="row", class_="what"),
            *(number(metric(name, entry.metrics.get(name), facts.unit)) for name in names),
            element("td", _bar(entry.metrics[headline] / worst if worst else 0), class_="bars"),
            element("td", against, element("span", interval, class_="model")),
            class_="ours" if entry.ours else None,
        )
        for entry in found
        for against, interval in [outcome.against(entry)]
    ]
    note = (
        f"All are measured on the same {counted(facts.comparison['rows'], 'row')}. The simpler models have "
        "scikit-learn's default settings and get what the network gets: the same prepared columns, the same "
        f"transformed target, {counted(facts.comparison['fitted_to'], 'row')} to learn from (the network's "
        f"training and validation rows). In the last column, the network's {label(headline)} against the "
        "model's, with a 95% interval over rows."
    )
    for name in facts.comparison["left_out"]:
        note += f" {name.capitalize()} was left out: it would take much longer than a minute."
    caption = f"{full_label(headline)}: lower is better"
    return [table(caption, head, body, wide=True), element("p", note, class_="note")]


def _bar(share: float) -> Html:
    return element("span", class_="bar", style=f"width:{100 * min(max(share, 0.0), 1.0):.1f}%")


def _model(name: str) -> list[Html]:
    return [element("span", name, class_="model")] if name else []


def several_splits(reference: Mapping[str, Any] | None) -> list[Html]:
    """Committed figures of several models on several splits."""
    if reference is None:
        return []
    unit, body = reference["unit"], []
    for entry in reference["models"]:
        less = entry.get("network_minus_it")
        body.append(
            element(
                "tr",
                element("th", entry["name"], scope="row", class_="what"),
                number(value(entry["mean"], unit)),
                number(f"{value(entry['low'], unit)} to {value(entry['high'], unit)}"),
                number(value(less["mean"], unit) if less else ""),
                number(f"{value(less['low'], unit)} to {value(less['high'], unit)}" if less else ""),
                class_=None if less else "ours",
            )
        )
    head = heads("model", ">mean RMSE", ">95% interval", ">network less it", ">95% interval")
    note = element("p", outcome.reference_note(reference), class_="note")
    return [table("Test error of every model", head, body, wide=True), note]


def agreement(facts: Facts) -> list[Html]:
    """Prediction beside truth: a picture for numbers and for two classes, a table for more."""
    found = facts.comparison.get("agreement")
    if found is None:
        return []
    if found["kind"] == "grid":
        said = (
            "The stronger a cell's colour, the more rows. On the dashed line, prediction and truth are equal."
        )
        return [
            figure(charts.agreement_grid(found, facts.title), "Predicted and actual", said),
            details("The picture as numbers", _grid_table(found, facts)),
        ]
    if found["kind"] == "calibration":
        said = (
            "Each point is a tenth of the rows. On the dashed line, probabilities come true as often as told."
        )
        return [
            figure(charts.calibration(found), "Calibration", said),
            details("The picture as numbers", _calibration_table(found)),
        ]
    return [_confusion_table(found)]


def _grid_table(agreement: Mapping[str, Any], facts: Facts) -> Html:
    """The grid by predicted value: how many rows, and where most of their actual values lie."""
    edges = agreement["edges"]
    body = []
    for i in range(len(edges) - 1):
        inside = sorted((j, rows) for row, j, rows in agreement["cells"] if row == i)
        if not inside:
            continue
        rows = sum(each for _, each in inside)
        low, high = _middle_half(inside, rows)
        predicted = f"{value(edges[i], facts.unit)} to {value(edges[i + 1], facts.unit)}"
        actual = f"{value(edges[low], facts.unit)} to {value(edges[high + 1], facts.unit)}"
        body.append(
            element("tr", element("th", predicted, scope="row"), number(count(rows)), element("td", actual))
        )
    return table("Rows by predicted value", heads("predicted", ">rows", "the middle half is in truth"), body)


def _middle_half(inside: Sequence[tuple[int, int]], rows: int) -> tuple[int, int]:
    """The cells in which the first and the third quarter of the rows end."""
    seen, ends = 0, []
    for j, each in inside:
        seen += each
        ends.append((seen, j))
    low = next(j for seen, j in ends if seen >= rows / 4)
    high = next(j for seen, j in ends if seen >= 3 * rows / 4)
    return low, high


def _calibration_table(agreement: Mapping[str, Any]) -> Html:
    body = [
        element(
            "tr",
            number(percent(each["predicted"])),
            number(percent(each["observed"])),
            number(count(each["rows"])),
        )
        for each in agreement["bins"]
    ]
    head = heads(">predicted probability", f">share that is {agreement['class']}", ">rows")
    return table("Groups of rows by predicted probability", head, body)


def _confusion_table(agreement: Mapping[str, Any]) -> Html:
    """Actual class by predicted class, each cell shaded by its share of the actual class."""
    classes, body = agreement["classes"], []
    for name, rows in zip(classes, agreement["counts"], strict=True):
        whole = max(sum(rows), 1)
        cells = (
            element(
                "td",
                count(each) if each else "",
                class_="number",
                style=f"background:color-mix(in srgb, var(--accent) {55 * each / whole:.0f}%, transparent)",
            )
            for each in rows
        )
        body.append(element("tr", element("th", clipped(name), scope="row", class_="what"), *cells))
    head = heads("actual \\ predicted", *(f">{clipped(name)}" for name in classes))
    return table("Rows by actual class (down) and predicted class (across)", head, body)
