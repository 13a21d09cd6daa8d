"""The strip: layers down, steps across, and the colour of a cell tells what the layer makes of the gradient.

A cell is a factor in decades, as in the ledger: below zero the layer shrinks the error on its way back, above
it makes it grow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.errors import DataError
from chainrule.insight.departures import signed
from chainrule.insight.ledger import ACTIVATION, BLOCK, WEIGHT, Ledger
from chainrule.show.figures import counted, printable
from chainrule.show.html import Html, joined
from chainrule.show.pictures import canvas, heat, waterfall
from chainrule.show.pictures.canvas import NARROWEST, Table, shortened, words, wrapped
from chainrule.show.pictures.heat import Frame, Paint
from chainrule.train.telemetry import Telemetry

Array = np.ndarray[Any, Any]
_LEVELS = 8  # of colour to either side of zero
_ZERO, _UNDEFINED = 100, 101
_LIMITS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_MOST_ROWS, _MOST_COLUMNS = 100, 120
_WIDTH, _LEFT, _RIGHT, _TOP = 720.0, 190.0, 16.0, 50.0
_WIDEST_COLUMN = 48.0


@dataclass(frozen=True, eq=False)
class Strip:
    """Factors by layer and step.

    rows     names, from the loss back to the first layer
    steps    counted from 0
    decades  (rows, steps): log10 of the factors; -inf for zeros, nan for what is undefined
    zero     what a zero is called
    """

    rows: tuple[str, ...]
    steps: tuple[int, ...]
    decades: Array
    zero: str = "exactly zero"


def of_ledgers(ledgers: Mapping[int, Ledger], name: str | None = None) -> Strip:
    """The strip of several steps' ledgers, given by step: gains on the way back to a parameter.

    name  of the parameter; else the first weight, which is behind all layers
    """
    if not ledgers:
        raise DataError("a strip needs the ledger of one step at least; give {step: ledger}")
    gains = [_gains(ledgers[step], name) for step in sorted(ledgers)]
    rows = _in_order(gains)
    # A factor that changes nothing is not written in a ledger.
    decades = [[gain.get(row, 0.0) for gain in gains] for row in rows]
    return Strip(tuple(rows), tuple(sorted(ledgers)), np.array(decades).reshape(len(rows), len(gains)))


def of_telemetry(telemetry: Telemetry) -> Strip:
    """The strip of a training, from the norms of the errors at its layers.

    A row is a layer, and a cell the norm of the error at the layer that ran before it over the norm of its
    own: what its weights, and the activation before them, make of the error. Behind the first layer nothing
    is known, so it has no row. Where ways branch, layers that ran one after the other are compared.

    Telemetry tells 0 of a norm whose square is none of its dtype's numbers, in float32 under 1e-19.
    """
    layers = telemetry.layers
    norms = np.array([layer.error_norm for layer in layers.values()]).reshape(
        len(layers), len(telemetry.steps)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(norms)
        gains = (logs[:-1] - logs[1:])[::-1]
    gains[np.isposinf(gains) | ~np.isfinite(norms[1:][::-1])] = (
        math.nan
    )  # as in the ledger, behind a zero too
    return Strip(
        tuple(reversed(layers))[:-1], tuple(telemetry.steps.tolist()), gains, "zero or too small to tell"
    )


def _gains(ledger: Ledger, name: str | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for step in waterfall.of_ledger(ledger, name).steps:
        if step.kind in (WEIGHT, ACTIVATION, BLOCK):
            found[step.label] = found.get(step.label, 0.0) + step.decades
    return found


def _in_order(gains: Sequence[Mapping[str, float]]) -> list[str]:
    """All names; one that only later steps have stands behind the name it follows there."""
    rows: list[str] = []
    for gain in gains:
        place = 0
        for name in gain:
            if name not in rows:
                rows.insert(place, name)
            place = rows.index(name) + 1
    return rows


# -- in words ------------------------------------------------------------------------------------------------
def title(strip: Strip) -> str:
    """What the picture shows."""
    return "What every layer makes of the gradient, step by step"


def described(strip: Strip) -> str:
    """The picture in a few sentences, for those who cannot see it."""
    told = f"A heat map of {counted(len(strip.rows), 'row')} by {counted(len(strip.steps), 'step')}."
    if not strip.decades.size:
        return f"{told} There are no layers to compare."
    finite = np.where(np.isfinite(strip.decades), strip.decades, 0.0)
    for extreme, verb in ((finite.min(), "shrinks"), (finite.max(), "grows")):
        row, column = np.argwhere(finite == extreme)[0]
        where = f"{strip.rows[row]} at step {strip.steps[column]:,}"
        if (extreme > 0) == (verb == "grows") and extreme:
            told += f" It {verb} most in {where}: {signed(extreme)} decades."
    zeros, unclear = int(np.isneginf(strip.decades).sum()), int(np.isnan(strip.decades).sum())
    told += f" {counted(zeros, 'cell')} {strip.zero}." if zeros else ""
    return told + (f" {counted(unclear, 'cell')} undefined." if unclear else "")


# -- cells ---------------------------------------------------------------------------------------------------
def _limit(decades: Array) -> float:
    """The decades of the strongest colour: all but the wildest fiftieth of cells are within."""
    sizes = np.abs(decades[np.isfinite(decades)])
    needed = float(np.quantile(sizes, 0.98)) if sizes.size else 0.0
    return next((limit for limit in _LIMITS if needed <= limit), _LIMITS[-1])


def _levels(decades: Array, limit: float, steps: int) -> Array:
    """Every cell as one of `steps` levels to either side of zero."""
    with np.errstate(invalid="ignore"):
        levels = np.clip(np.round(decades / limit * steps), -steps, steps)
    levels = np.where(np.isneginf(decades), _ZERO, np.where(np.isnan(decades), _UNDEFINED, levels))
    return levels.astype(int)


def _fewer(strip: Strip, rows: int, columns: int) -> Strip:
    """At most so many rows, the sums of neighbours' decades, and columns, their means.

    Rows come together in even numbers, as weights and activations mostly take turns.
    """
    if not strip.decades.size:
        return strip
    down, across = heat.groups(len(strip.rows), rows, even=True), heat.groups(len(strip.steps), columns)
    with np.errstate(invalid="ignore"):
        summed = np.stack([_sum(strip.decades[each]) for each in down])
        meant = np.stack([_sum(summed[:, each].T) / (each.stop - each.start) for each in across], axis=1)
    names = (_name(strip.rows[each]) for each in down)
    return Strip(tuple(names), tuple(strip.steps[each.start] for each in across), meant, strip.zero)


def _sum(decades: Array) -> Array:
    """Over the first axis; with a zero among the factors the product is zero, whatever is undefined."""
    return np.where(np.isneginf(decades).any(axis=0), -math.inf, decades.sum(axis=0))


def _name(names: Sequence[str]) -> str:
    first, last = names[0], names[-1]
    return first if len(names) == 1 else f"{first.split(' ')[0]} to {last.split(' ')[0]}"


# -- SVG -----------------------------------------------------------------------------------------------------
def svg(strip: Strip) -> Html:
    """The picture: an image of at most 100 by 120 cells; neighbours share one where there are more."""
    shown = _fewer(strip, _MOST_ROWS, _MOST_COLUMNS)
    limit = _limit(shown.decades)
    height = max(1, len(shown.rows)) * min(18.0, max(4.8, 540.0 / max(1, len(shown.rows))))
    width = min(_WIDTH - _LEFT - _RIGHT, _WIDEST_COLUMN * len(shown.steps))
    frame = Frame(_LEFT, _TOP, width, height)
    contents = [words(0, 14, title(strip), canvas.INK, 14), _key(shown, limit)]
    if shown.decades.size:
        paints = _paints(width / len(shown.steps))
        contents.append(heat.image(_levels(shown.decades, limit, _LEVELS), paints, frame))
        contents.append(heat.names_beside(shown.rows, frame, 30))
        contents.append(heat.steps_below(shown.steps, frame))
    return canvas.picture(title(strip), described(strip), _WIDTH, _TOP + height + 38, *contents)


def _paints(pitch: float) -> dict[int, Paint]:
    """Of every level, in columns so wide."""
    paints = {
        _ZERO: Paint(canvas.INK),
        _UNDEFINED: Paint(canvas.MUTED, 0.6, f"{2 / pitch:.2f} {4 / pitch:.2f}"),
    }
    for k in range(1, _LEVELS + 1):
        strength = 0.1 + 0.9 * k / _LEVELS
        paints[-k], paints[k] = Paint(canvas.SHRINK, strength), Paint(canvas.GROW, strength)
    return paints


def _key(strip: Strip, limit: float) -> Html:
    """The scale of colours, with the decades at its ends."""
    size, x, y = 11.0, 0.0, 26.0
    paints, most = _paints(size), f"{limit:g} {'decade' if limit == 1 else 'decades'}"
    parts = [words(x, y + 10, f"shrinks by {most}", canvas.INK)]
    x += canvas.width_of(f"shrinks by {most}") + 8
    for level in range(-_LEVELS, _LEVELS + 1):
        parts.append(heat.swatch(x, y, paints.get(level, Paint(canvas.MUTED, 0.0)), size))
        x += size
    parts.append(words(x + 8, y + 10, f"grows by {limit:g}", canvas.INK))
    x += canvas.width_of(f"grows by {limit:g}") + 30
    for level, name, is_one in ((_ZERO, strip.zero, np.isneginf), (_UNDEFINED, "undefined", np.isnan)):
        if is_one(strip.decades).any():
            parts += [heat.swatch(x, y, paints[level], size), words(x + 17, y + 10, name, canvas.INK)]
            x += 30 + canvas.width_of(name)
    return joined(parts)


# -- text ----------------------------------------------------------------------------------------------------
_GLYPHS = {**dict(zip(range(-4, 5), "█▓▒░·+xX#", strict=True)), _ZERO: "0", _UNDEFINED: "?"}
_TEXT_LEVELS, _TEXT_ROWS = 4, 40


def text(strip: Strip, width: int = 100) -> str:
    """The picture for a terminal, a character per cell, without colours.

    width  of the longest line, 60 at least
    """
    if not strip.decades.size:
        return described(strip)
    room = min(32, max(len(name) for name in _fewer(strip, _TEXT_ROWS, 1).rows))
    shown = _fewer(strip, _TEXT_ROWS, max(NARROWEST, width) - room - 2)
    limit = _limit(shown.decades)
    levels = _levels(shown.decades, limit, _TEXT_LEVELS)
    lines = [
        f"{shortened(printable(name), room):{room}}  {''.join(_GLYPHS[level] for level in row)}"
        for name, row in zip(shown.rows, levels.tolist(), strict=True)
    ]
    first, last = f"{shown.steps[0]:,}", f"{shown.steps[-1]:,}" if len(shown.steps) > 1 else ""
    gap = " " * max(1, len(shown.steps) - len(first) - len(last))
    lines.append(f"{'step':>{room}}  {first}{gap}{last}".rstrip())
    return "\n".join([title(strip), *lines, wrapped(_text_key(shown, levels, limit), width)])


def _text_key(strip: Strip, levels: Array, limit: float) -> str:
    """What the characters stand for, those that occur."""
    named = {_ZERO: strip.zero, _UNDEFINED: "undefined"}
    used = sorted(set(levels.ravel().tolist()))
    shades = [f"{_GLYPHS[k]} {named.get(k) or signed(limit * k / _TEXT_LEVELS)}" for k in used]
    return f"decades: {', '.join(shades)}"


# -- table ---------------------------------------------------------------------------------------------------
def table(strip: Strip) -> Table:
    """Every row at its first and last step, and its smallest and largest factor, in decades."""
    rows: list[tuple[str, ...]] = []
    for name, decades in zip(strip.rows, strip.decades.tolist(), strict=True):
        known = [each for each in decades if not math.isnan(each)] or [math.nan]
        figures = (decades[0], decades[-1], min(known), max(known))
        rows.append((name, *(signed(each) for each in figures)))
    return ("layer", ">first", ">last", ">smallest", ">largest"), rows
