"""How the layers fared over the steps: what was noted of every parameter and every layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.show.figures import clipped, count, counted, value
from chainrule.show.html import Html, details, element, heads, number, table
from chainrule.show.inside import Inside
from chainrule.train.telemetry import ParameterFacts, Telemetry

_MOST = 400  # parameters in the table


def layers(inside: Inside) -> list[Html]:
    """Norms of gradients and updates, and what of it was not finite."""
    telemetry = inside.telemetry
    if not telemetry or not len(telemetry.spans):
        return []
    steps = int(telemetry.spans.sum())
    said = f"What was noted at each of {counted(steps, 'step')}. {_unsound(telemetry)}"
    return [element("p", said), details("Every parameter", _parameters(telemetry))]


def _unsound(telemetry: Telemetry) -> str:
    """Whether any gradient was not finite, and which first."""
    for row, step in enumerate(telemetry.steps.tolist()):
        for name, told in telemetry.maxima.items():
            if told.gradient_nonfinite[row] > 0:
                return f"The gradient of {name} is not finite, first around step {step:,}."
    return "All gradients were finite."


def _parameters(telemetry: Telemetry) -> Html:
    head = heads(
        "parameter", ">gradient norm, first", ">last", ">largest", ">last update ÷ weights", ">not finite"
    )
    largest = telemetry.maxima
    body = [_parameter(name, told, largest[name]) for name, told in list(telemetry.items())[:_MOST]]
    return table("Parameters over the steps", head, body, wide=True)


def _parameter(name: str, told: ParameterFacts, largest: ParameterFacts) -> Html:
    relative = told.update_norm[-1] / told.weight_norm[-1] if told.weight_norm[-1] else float("nan")
    figures = (told.gradient_norm[0], told.gradient_norm[-1], _largest(largest.gradient_norm), relative)
    return element(
        "tr",
        element("th", element("code", clipped(name)), scope="row", class_="what"),
        *(number(value(float(each))) for each in figures),
        number(count(int(np.nansum(largest.gradient_nonfinite)))),
    )


def _largest(numbers: Any) -> float:
    known = numbers[~np.isnan(numbers)]
    return float(known.max()) if known.size else float("nan")
