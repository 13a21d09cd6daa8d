"""How the layers fared over the steps: what was noted of every layer and every parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from chainrule.show.figures import clipped, count, counted, listed, percent, value
from chainrule.show.html import Html, details, element, figure, heads, number, table
from chainrule.show.inside import Inside
from chainrule.show.pictures import histograms, strip
from chainrule.show.sections.gradients import picture_table
from chainrule.train.telemetry import LayerFacts, ParameterFacts, Telemetry

_MOST = 400  # rows of a table
_SATURATED, _SILENT = 0.5, 0.9  # shares of a layer that are worth a sentence


def layers(inside: Inside) -> list[Html]:
    """Norms, zeros, saturation and what was not finite, layer by layer; how sizes moved over the steps."""
    telemetry = inside.telemetry
    if not telemetry or not len(telemetry.spans):
        return []
    found = telemetry.layers
    said = f"Noted at {_samples(telemetry)}. {' '.join(_findings(telemetry, found))}"
    return [
        element("p", said),
        *_strip(telemetry),
        details("Every layer", _layers(found, telemetry)) if found else Html(""),
        details("Every parameter", _parameters(telemetry)),
        *_histograms(telemetry),
    ]


def _samples(telemetry: Telemetry) -> str:
    told = counted(int(telemetry.spans.sum()), "step")
    return f"{told}, one of every {count(telemetry.every)}" if telemetry.every > 1 else f"each of {told}"


# -- in words ------------------------------------------------------------------------------------------------
def _findings(telemetry: Telemetry, found: Mapping[str, LayerFacts]) -> Iterator[str]:
    """What is out of order, at the last step; or that nothing is."""
    nothing = True
    for told in (_unsound(telemetry), *_shares(found), _dead(telemetry)):
        nothing = nothing and not told
        yield told
    if nothing:
        yield "All gradients were finite, and no layer was saturated or silent."


def _unsound(telemetry: Telemetry) -> str:
    """Which gradient was not finite first: what was counted, and norms, which come from every step."""
    counts = {name: told.gradient_nonfinite > 0 for name, told in telemetry.maxima.items()}
    found = [
        *_firsts("gradient", counts, telemetry.steps),
        *_firsts("norm of the gradient", _wrong_norms(telemetry), telemetry.gradient_norms.steps),
    ]
    if not found:
        return ""
    step, what, name = min(found)
    return f"The {what} of {name} was not finite, first around step {step:,}."


def _firsts(what: str, wrong: Mapping[str, Any], steps: Any) -> Iterator[tuple[int, str, str]]:
    """(step, what, name) of the first wrong row of each that has one."""
    for name, rows in wrong.items():
        if rows.any():
            yield int(steps[np.argmax(rows)]), what, name


def _wrong_norms(telemetry: Telemetry) -> dict[str, Any]:
    """Where norms are not finite. Where none is a number, nobody has read them."""
    largest = telemetry.gradient_norms.largest
    read = ~np.isnan(np.array([*largest.values()])).all(axis=0) if largest else np.empty(0, bool)
    return {name: ~np.isfinite(norms) & read for name, norms in largest.items()}


def _shares(found: Mapping[str, LayerFacts]) -> Iterator[str]:
    """Layers most of whose numbers were zero, or at the ends of their range, at the last step."""
    kinds = (
        ("activation_saturated", _SATURATED, "of the outputs are saturated"),
        ("activation_zero", _SILENT, "of the outputs are zero"),
        ("error_zero", _SILENT, "of the error is zero"),
    )
    for field, least, told in kinds:
        many = [name for name, facts in found.items() if _last(getattr(facts, field)) >= least]
        if many:
            where = "layer" if len(many) == 1 else "layers"
            yield f"In {where} {listed(many)}, {percent(least)} or more {told} at the end."


def _dead(telemetry: Telemetry) -> str:
    """Units that no error has ever reached."""
    dead = {
        name: int((told.shares.max(axis=0, initial=0.0) == 0).sum())
        for name, told in telemetry.liveness.items()
        if len(told.shares)
    }
    some = [f"{units} of {name}" for name, units in dead.items() if units]
    return f"Units that no error ever reached: {listed(some)}." if some else ""


# -- pictures ------------------------------------------------------------------------------------------------
def _strip(telemetry: Telemetry) -> list[Html]:
    """What every layer makes of the error, step by step."""
    if len(telemetry.layers) < 2:
        return []
    shown = strip.of_telemetry(telemetry)
    named = strip.title(shown)
    return [
        figure(strip.svg(shown), named, strip.described(shown)),
        details("The picture as numbers", picture_table(f"{named}, as numbers", strip.table(shown))),
    ]


def _histograms(telemetry: Telemetry) -> Iterator[Html]:
    """How sizes moved: activations and gradients of the first, a middle and the last layer."""
    found = histograms.of_telemetry(telemetry)
    for kind in ("activation", "gradient"):
        names = [name for name in found if name.startswith(kind) and not name.endswith(".bias")]
        chosen = list(dict.fromkeys(names[k] for k in (0, len(names) // 2, -1))) if names else []
        drawn = [part for name in chosen for part in _histogram(found[name])]
        if drawn:
            yield details(f"Sizes of {kind}s over the steps: first, middle and last layer", *drawn)


def _histogram(shown: histograms.Histograms) -> Iterator[Html]:
    named = histograms.title(shown)
    yield figure(histograms.svg(shown), named, histograms.described(shown))
    yield details("The picture as numbers", picture_table(f"{named}, as numbers", histograms.table(shown)))


# -- tables --------------------------------------------------------------------------------------------------
def _layers(found: Mapping[str, LayerFacts], telemetry: Telemetry) -> Html:
    head = heads(
        "layer", ">output norm, first", ">last", ">zero", ">saturated",
        ">error norm, first", ">last", ">zero", ">not finite", ">dead units",
    )  # fmt: skip
    live = telemetry.liveness
    body = [_layer(name, facts, live.get(name)) for name, facts in list(found.items())[:_MOST]]
    return table("Layers over the steps; shares at the last", head, body, wide=True)


def _layer(name: str, facts: LayerFacts, live: Any) -> Html:
    dead = int((live.shares[-1] == 0).sum()) if live is not None and len(live.shares) else None
    return _row(
        name,
        *_ends(facts.activation_norm),
        _percent(_last(facts.activation_zero)),
        _percent(_last(facts.activation_saturated)),
        *_ends(facts.error_norm),
        _percent(_last(facts.error_zero)),
        count(round(_sum(facts.activation_nonfinite) + _sum(facts.error_nonfinite))),
        "" if dead is None else f"{dead} of {live.shares.shape[1]}",
    )


def _parameters(telemetry: Telemetry) -> Html:
    head = heads(
        "parameter", ">gradient norm, first", ">last", ">weight norm, last", ">update ÷ weights, last",
        ">not finite",
    )  # fmt: skip
    body = [_parameter(name, told) for name, told in list(telemetry.items())[:_MOST]]
    return table("Parameters over the steps", head, body, wide=True)


def _parameter(name: str, told: ParameterFacts) -> Html:
    weight, update = _last(told.weight_norm), _last(told.update_norm)
    return _row(
        name,
        *_ends(told.gradient_norm),
        value(weight),
        value(update / weight if weight else math.nan),
        count(round(_sum(told.gradient_nonfinite))),
    )


def _row(name: str, *cells: str) -> Html:
    head = element("th", element("code", clipped(name)), scope="row", class_="what")
    return element("tr", head, *map(number, cells))


# -- numbers -------------------------------------------------------------------------------------------------
def _known(numbers: Any) -> Any:
    return numbers[~np.isnan(numbers)]


def _last(numbers: Any) -> float:
    known = _known(numbers)
    return float(known[-1]) if known.size else math.nan


def _ends(numbers: Any) -> Sequence[str]:
    known = _known(numbers)
    return (value(float(known[0])), value(float(known[-1]))) if known.size else ("–", "–")


def _sum(numbers: Any) -> float:
    return float(_known(numbers).sum())


def _percent(share: float) -> str:
    return "" if math.isnan(share) else percent(share)
