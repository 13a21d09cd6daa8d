"""Steps as tables for a notebook: an operation per row, forward and then back."""

from __future__ import annotations

from collections.abc import Sequence

from chainrule.insight.steps import Step, Steps
from chainrule.show.html import Html, element, heads, joined, number

_WIDTH = 80  # characters of a formula on one line
_STYLE = Html(
    "<style>.chainrule-steps table{border-collapse:collapse}"
    ".chainrule-steps caption{text-align:left;font-weight:bold;padding:.5em 0}"
    ".chainrule-steps th,.chainrule-steps td{text-align:left;vertical-align:top;padding:.15em .8em .15em 0}"
    ".chainrule-steps td.number,.chainrule-steps small{opacity:.7}"
    ".chainrule-steps code{color:inherit;background:none;white-space:pre-wrap}</style>"
)


def html(steps: Steps) -> Html:
    """Two tables that take the colours of the page they are on."""
    phases = (
        ("Forward: each operation makes a value", steps.forward),
        (
            "Backward: the derivative of the loss L by each value",
            steps.backward,
        ),
    )
    return element("div", _STYLE, *(_table(title, rows) for title, rows in phases), class_="chainrule-steps")


def _table(title: str, steps: Sequence[Step]) -> Html:
    head = element("thead", heads(">step", "operation", "formula", "where"))
    return element("table", element("caption", title), head, element("tbody", *map(_row, steps)))


def _row(step: Step) -> Html:
    first, *others = step.formula.split(" = ")
    lines = [f"{first} = {others[0]}", *(f"  = {each}" for each in others[1:])]
    formula = joined(map(_code, lines if len(step.formula) > _WIDTH else [step.formula]), "<br>")
    where = element("small", step.where)
    cells = (element("td", step.operation), element("td", formula), element("td", where))
    return element("tr", number(str(step.number)), *cells)


def _code(text: str) -> Html:
    return element("code", text)
