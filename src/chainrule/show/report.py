"""The report of a run: one HTML file that says what came of it, how, and how to get it again.

It opens without a network and without JavaScript, in light and dark, and holds no row of the table: figures,
aggregates, the fitted treatments. Every text that came from the data is escaped on its way in, and the page
forbids itself to run or to load anything.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chainrule import atomic
from chainrule.show import charts, columns, outcome
from chainrule.show.facts import Facts
from chainrule.show.figures import count, counted, full_label, label, metric, percent, value
from chainrule.show.html import Html, details, element, heads, joined, number, table
from chainrule.show.network import total

_STYLE = Path(__file__).with_name("report.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_MOST_EPOCHS = 60  # rows of the table under the curves
_MOST_COLUMNS = 400  # of the table, so that a report stays small however wide the data
_LONGEST = 120  # characters of a name or reason that are shown


def write(facts: Facts, path: str | Path, reference: Mapping[str, Any] | None = None) -> Path:
    """Write the report to `path`, replacing what was there; the path is returned.

    `reference` holds committed figures of several models on several splits, to stand beside those of the run.
    """
    file = Path(path)
    atomic.write_text(file, page(facts, reference))
    return file


def page(facts: Facts, reference: Mapping[str, Any] | None = None) -> Html:
    """The whole report as HTML."""
    sections = [section for section in _sections(facts, reference) if section is not None]
    style = Html(_STYLE.read_text(encoding="utf-8"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{facts.title}: a chainrule report"),
        element("style", style),
    )
    body = element(
        "body", _header(facts, sections), element("main", *(html for _, _, html in sections)), _footer(facts)
    )
    return Html(f"<!doctype html>\n{element('html', head, body, lang='en')}\n")


_Section = tuple[str, str, Html]


def _sections(facts: Facts, reference: Mapping[str, Any] | None) -> list[_Section | None]:
    return [
        _section("result", "Beside simpler models", *_comparison(facts)),
        _section("splits", "On several splits", *_several_splits(reference)),
        _section("agreement", "Prediction and truth", *_agreement(facts)),
        _section("training", "Training", *_training(facts)),
        _section("network", "The network", *_network(facts)),
        _section("columns", "Columns", *_columns(facts)),
        _section("recipe", "Recipe", *_recipe(facts)),
    ]


def _section(name: str, title: str, *contents: Html) -> _Section | None:
    if not contents:
        return None
    heading = element("h2", title, id=f"{name}-title")
    return name, title, element("section", heading, *contents, id=name, aria_labelledby=f"{name}-title")


# -- top and bottom ------------------------------------------------------------------------------------------
def _header(facts: Facts, sections: Sequence[_Section]) -> Html:
    links = (element("li", element("a", title, href=f"#{name}")) for name, title, _ in sections)
    where = facts.path.name if facts.path is not None else "a run that was not saved"
    return element(
        "header",
        element("p", f"chainrule · {where}", class_="eyebrow"),
        element("h1", f"Predicting {facts.title}"),
        element("p", outcome.verdict(facts), class_="verdict"),
        _key_figures(facts),
        element("nav", element("ul", *links), aria_label="Sections"),
    )


def _key_figures(facts: Facts) -> Html:
    shown = [
        (full_label(name), metric(name, facts.metrics[name], facts.unit))
        for name in outcome.shown_metrics(facts)
    ]
    if rows := facts.result.get("rows", {}).get(facts.part):
        shown.append((f"Rows in the {facts.part}", count(rows)))
    if not shown:
        return Html("")
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", figure)) for name, figure in shown),
        class_="figures",
    )


def _footer(facts: Facts) -> Html:
    seed = facts.recipe.training.seed
    return element(
        "footer",
        element(
            "p", f"Written by chainrule. Same recipe, data, version and machine: same bits (seed {seed})."
        ),
    )


# -- the result ----------------------------------------------------------------------------------------------
def _comparison(facts: Facts) -> list[Html]:
    if not facts.comparison:
        return []
    headline = facts.comparison["metric"]
    names = outcome.shown_metrics(facts)
    found = outcome.entries(facts)
    worst = max(entry.metrics[headline] for entry in found)
    head = heads("model", *(f">{label(name)}" for name in names), "", f"the network's {label(headline)}")
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


def _several_splits(reference: Mapping[str, Any] | None) -> list[Html]:
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


def _agreement(facts: Facts) -> list[Html]:
    agreement = facts.comparison.get("agreement")
    if agreement is None:
        return []
    if agreement["kind"] == "grid":
        said = (
            "The stronger a cell's colour, the more rows. On the dashed line, prediction and truth are equal."
        )
        return [
            element("figure", charts.agreement_grid(agreement, facts.title), element("figcaption", said)),
            details("The picture as numbers", _grid_table(agreement, facts)),
        ]
    if agreement["kind"] == "calibration":
        said = (
            "Each point is a tenth of the rows. On the dashed line, probabilities come true as often as told."
        )
        return [
            element("figure", charts.calibration(agreement), element("figcaption", said)),
            details("The picture as numbers", _calibration_table(agreement)),
        ]
    return [_confusion_table(agreement)]


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
        body.append(element("tr", element("th", _short(name), scope="row", class_="what"), *cells))
    head = heads("actual \\ predicted", *(f">{_short(name)}" for name in classes))
    return table("Rows by actual class (down) and predicted class (across)", head, body)


# -- how it came about ---------------------------------------------------------------------------------------
def _training(facts: Facts) -> list[Html]:
    if not facts.history:
        return []
    best = facts.result.get("best_epoch") or None
    ended = {
        "all epochs": "after all epochs",
        "early stopping": "early, as the validation loss fell no more",
        "stopped by a callback": "as a callback asked",
    }
    said = f"{counted(len(facts.history), 'epoch')}"
    if facts.finished:
        said += f", ended {ended.get(facts.result.get('reason', ''), facts.result.get('reason', ''))}"
        said += (
            f"; the weights of epoch {best} were kept" if best and facts.recipe.training.restore_best else ""
        )
    shown = [*(name for name in ("loss", "validation_loss", "gradient_norm") if name in facts.history[0])]
    body = [
        element(
            "tr", element("th", row["epoch"], scope="row"), *(number(value(row.get(name))) for name in shown)
        )
        for row in charts.thinned(facts.history, _MOST_EPOCHS)
    ]
    head = heads("epoch", *(f">{name.replace('_', ' ')}" for name in shown))
    drawable = any(charts.positive(row["loss"]) for row in facts.history)
    curves = [element("figure", charts.training_curves(facts.history, best))] if drawable else []
    return [
        element("p", f"{said}."),
        *curves,
        details("The curves as numbers", table("By epoch", head, body)),
    ]


def _network(facts: Facts) -> list[Html]:
    if not facts.layers:
        return []
    body = [
        element(
            "tr",
            element("th", element("code", layer.path), scope="row", class_="what"),
            element("td", layer.kind),
            element("td", layer.output_text()),
            number(count(layer.parameters) if layer.parameters else ""),
            element("td", layer.weights_text(), class_="quiet"),
        )
        for layer in facts.layers
    ]
    sum_ = number(count(total(facts.layers)))
    body.append(
        element("tr", element("th", "total", scope="row", colspan=3), sum_, element("td"), class_="total")
    )
    head = heads("layer", "kind", "output", ">parameters", "weights")
    return [table("From the inputs to the output", head, body)]


def _columns(facts: Facts) -> list[Html]:
    if facts.preprocessor is None:
        return []
    grouped = [
        element(
            "tr",
            number(count(group.columns)),
            element("th", group.what, scope="row"),
            element("td", group.how),
        )
        for group in columns.groups(facts.preprocessor, facts.recipe.data.drop)
    ]
    made = counted(columns.inputs(facts.preprocessor), "input")
    note = columns.target_note(facts.transform)
    said = f"The columns become {made} of the network; all of it was fitted to the training rows alone."
    said += f" The target is {note}." if note else ""
    every = columns.rows(facts.preprocessor)
    body = [
        element(
            "tr",
            *(
                element("td", _short(each), class_="what" if k in (0, 4) else None)
                for k, each in enumerate(row)
            ),
        )
        for row in every[:_MOST_COLUMNS]
    ]
    more = [element("p", f"{count(len(every) - _MOST_COLUMNS)} more are in preprocessing.json.")] * (
        len(every) > _MOST_COLUMNS
    )
    full = table("Columns and treatments", heads("column", "kind", "missing", "treatment", "because"), body)
    return [
        element("p", said),
        table("What was done to them", heads(">columns", "kind", "treatment"), grouped),
        details("Every column", full, *more),
    ]


def _recipe(facts: Facts) -> list[Html]:
    shown: list[Html] = []
    if facts.preprocessor is not None and facts.path is not None:
        from_python = f'cr.fit("{facts.path / "recipe.toml"}", data)  # in Python: the data came from there'
        from_shell = f"chainrule train --recipe {shlex.quote(str(facts.path / 'recipe.toml'))}"
        use = facts.command("predict", "NEW.csv", "-o", "predictions.csv")
        again = f"{from_shell if facts.recipe.data.source else from_python}\n{use}"
        shown += [
            element("p", "To get the same result again, and to use it:"),
            element("pre", element("code", again)),
        ]
    if facts.recipe.data.hash:
        said = joined(
            ["The data are recognised by their hash, ", element("code", facts.recipe.data.hash), "."]
        )
        shown.append(element("p", said, class_="note"))
    shown.append(
        details("recipe.toml", element("pre", element("code", facts.recipe.to_toml().strip())), open_=True)
    )
    return shown


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
