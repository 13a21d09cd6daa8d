"""The report of a run: one HTML file that says what came of it, how, and how to get it again.

It opens without a network and without JavaScript, in light and dark, and holds no row of the table: figures,
aggregates, the fitted treatments. Every text that came from the data is escaped on its way in, and the page
forbids itself to run or to load anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chainrule import atomic
from chainrule.show import blame, outcome
from chainrule.show.facts import Facts
from chainrule.show.figures import count, full_label, metric
from chainrule.show.html import Html, element
from chainrule.show.inside import UNSEEN, Inside
from chainrule.show.sections import gradients, health, making, results

_STYLE = Path(__file__).with_name("report.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write(
    facts: Facts, path: str | Path, inside: Inside = UNSEEN, reference: Mapping[str, Any] | None = None
) -> Path:
    """Write the report to `path`, replacing what was there; the path is returned.

    inside     what went on in the network, to be opened
    reference  committed figures of several models on several splits, to stand beside those of the run
    """
    file = Path(path)
    atomic.write_text(file, page(facts, inside, reference))
    return file


def page(facts: Facts, inside: Inside = UNSEEN, reference: Mapping[str, Any] | None = None) -> Html:
    """The whole report as HTML."""
    sections = [section for section in _sections(facts, inside, reference) if section is not None]
    style = Html(_STYLE.read_text(encoding="utf-8"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{facts.heading}: a chainrule report"),
        element("style", style),
    )
    body = element(
        "body",
        _header(facts, inside, sections),
        element("main", *(html for _, _, html in sections)),
        _footer(facts),
    )
    return Html(f"<!doctype html>\n{element('html', head, body, lang='en')}\n")


_Section = tuple[str, str, Html]


def _sections(facts: Facts, inside: Inside, reference: Mapping[str, Any] | None) -> list[_Section | None]:
    return [
        _section("result", "Beside simpler models", *results.comparison(facts)),
        _section("splits", "On several splits", *results.several_splits(reference)),
        _section("agreement", "Prediction and truth", *results.agreement(facts)),
        _section("training", "Training", *making.training(facts)),
        _section("ledger", "Where the gradient goes", *gradients.ledgers(inside)),
        _section("flow", "Values and derivatives, layer by layer", *gradients.flows(inside)),
        _section("opened", "Gradients, opened", *gradients.opened(inside)),
        _section("health", "Layers over the steps", *health.layers(inside)),
        _section("network", "The network", *making.network(facts)),
        _section("columns", "Columns", *making.columns_of(facts)),
        _section("recipe", "Recipe", *making.recipe(facts)),
    ]


def _section(name: str, title: str, *contents: Html) -> _Section | None:
    if not contents:
        return None
    heading = element("h2", title, id=f"{name}-title")
    return name, title, element("section", heading, *contents, id=name, aria_labelledby=f"{name}-title")


# -- top and bottom ------------------------------------------------------------------------------------------
def _header(facts: Facts, inside: Inside, sections: Sequence[_Section]) -> Html:
    links = (element("li", element("a", title, href=f"#{name}")) for name, title, _ in sections)
    where = facts.path.name if facts.path is not None else "a run that was not saved"
    return element(
        "header",
        element("p", f"chainrule · {where}", class_="eyebrow"),
        element("h1", facts.heading),
        *(element("p", told, class_="verdict") for told in _verdict(facts, inside)),
        _key_figures(facts),
        element("nav", element("ul", *links), aria_label="Sections"),
    )


def _verdict(facts: Facts, inside: Inside) -> list[str]:
    """What came of it and whether it learned; then what stands in the way."""
    learned, *blamed = blame.verdict(facts, inside) or [""]
    return [f"{outcome.verdict(facts)} {learned}".strip(), *blamed]


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
