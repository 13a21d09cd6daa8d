"""The gradient waterfall: from the loss back to a weight, the norm left after every layer, in decades.

Every step of the ledger is a bar from where the norm was to where it is afterwards: to the left it shrank, to
the right it grew. What the weights did and what the activations did have colours of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chainrule.errors import DataError
from chainrule.insight.departures import signed
from chainrule.insight.ledger import (
    ACTIVATION,
    ALIGNMENT,
    BLOCK,
    INPUT,
    USES,
    WEIGHT,
    Entry,
    Ledger,
    Share,
    Term,
    telling,
)
from chainrule.show.figures import counted, percent, printable
from chainrule.show.html import Html, element, joined
from chainrule.show.pictures import canvas
from chainrule.show.pictures.canvas import Decades, Table, at, boxes, shortened, size_of, words

_COLOURS = {WEIGHT: canvas.ACCENT, ACTIVATION: canvas.SECOND, BLOCK: canvas.GOOD}
_BLOCKS = {WEIGHT: "█", ACTIVATION: "▒", BLOCK: "▓"}
_REST, _REST_BLOCK = canvas.MUTED, "░"  # of what belongs to the loss, or to the weight itself
_WIDTH, _RIGHT, _TOP = 720.0, 76.0, 68.0
_NAME = 33  # characters of a row's name
_MOST_ROWS = 44  # with more steps, neighbours are folded
_TELLING = 0.25  # decades from what is usual for its kind; a step further off stands alone


class Step(NamedTuple):
    """One factor on the way back.

    decades  log10 of the factor; -inf for a zero, nan where it is undefined
    after    log10 of the norm after it
    shares   of the branches, where it stands for several
    """

    label: str
    layer: str
    kind: str
    decades: float
    after: float
    shares: tuple[Share, ...] = ()


class Gradient(NamedTuple):
    """The gradient of another parameter, and after how many steps its way leaves that of the waterfall."""

    name: str
    steps: int
    log10_norm: float


@dataclass(frozen=True)
class Waterfall:
    """The way from the loss to the gradient of a parameter.

    name       the parameter
    log10_norm of its gradient
    steps      from the loss on
    gradients  of the other weights, by where they leave this way
    """

    name: str
    log10_norm: float
    steps: tuple[Step, ...]
    gradients: tuple[Gradient, ...]


def of_ledger(ledger: Ledger, name: str | None = None) -> Waterfall:
    """The waterfall of a parameter; unless one is named, of the first weight that the error can reach.

    >>> import numpy as np, chainrule as cr
    >>> weight = cr.nn.Parameter(np.array([[3.0, 4.0]]))
    >>> found = of_ledger(cr.ledger(cr.sum(weight * np.array([[10.0, 10.0]]))))
    >>> [(step.kind, round(step.after, 3)) for step in found.steps]
    [('error at the loss', 0.151), ('input norm', 1.301), ('alignment', 1.151)]
    """
    if not ledger.entries:
        raise DataError("this ledger has no entries: the loss depends on no parameter")
    weights = [entry for entry in ledger.entries if len(entry.shape) > 1]
    entry = ledger[name] if name is not None else _first(weights or list(ledger.entries))
    others = [each for each in weights if each is not entry]
    left = sorted((_leaves(entry, each) for each in others), key=lambda each: each.steps)
    return Waterfall(entry.name, entry.log10_norm, tuple(_steps(entry)), tuple(left))


def _first(entries: Sequence[Entry]) -> Entry:
    """The first that any error reaches, if there is one."""
    return next((each for each in entries if each.terms and each.terms[0].decades != -math.inf), entries[0])


def _steps(entry: Entry) -> Iterator[Step]:
    so_far: list[float] = []
    for term in entry.terms:
        so_far.append(term.decades)
        # Behind a zero nothing is left, whatever is undefined there.
        after = -math.inf if -math.inf in so_far else math.fsum(so_far)
        yield Step(term.label.strip(), term.layer, term.kind, term.decades, after, term.shares)


def _leaves(entry: Entry, other: Entry) -> Gradient:
    both = list(zip(entry.terms, other.terms, strict=False))
    common = next((k for k, (own, its) in enumerate(both) if _differ(own, its)), len(both))
    return Gradient(other.name, common, other.log10_norm)


def _differ(own: Term, its: Term) -> bool:
    return own.label != its.label or own.kind in (INPUT, ALIGNMENT, USES)


# -- in words ------------------------------------------------------------------------------------------------
def title(waterfall: Waterfall) -> str:
    """What the picture shows."""
    return f"From the loss back to the gradient of {waterfall.name}"


def described(waterfall: Waterfall) -> str:
    """The picture in a few sentences, for those who cannot see it."""
    told = [f"{counted(len(waterfall.steps), 'step')} back from the loss."]
    zero = next((step for step in waterfall.steps if step.decades == -math.inf), None)
    unclear = next((step for step in waterfall.steps if math.isnan(step.decades)), None)
    if zero is not None:
        told.append(f"The gradient is exactly zero because of this one: {zero.label}.")
    elif unclear is not None:
        told.append(f"From {unclear.label} on nothing can be told: numbers are not finite.")
    else:
        told += _changes(waterfall)
    return " ".join(told)


def _changes(waterfall: Waterfall) -> Iterator[str]:
    sums = [(kind, _total(waterfall.steps, kind)) for kind in _COLOURS]
    made = [f"{kind}s make {signed(total)} decades" for kind, total in sums if total]
    if made:
        yield f"{', '.join(made).capitalize()}."
    between = [step for step in waterfall.steps if step.kind in _COLOURS]
    if between:
        most = max(between, key=lambda step: abs(step.decades))
        yield f"The largest of these steps is {most.label}, {signed(most.decades)}."
    yield f"The norm of the gradient is {size_of(waterfall.log10_norm)}."


def _total(steps: Sequence[Step], kind: str) -> float:
    return math.fsum(step.decades for step in steps if step.kind == kind)


def _noted(step: Step) -> str:
    parts = ", ".join(f"{percent(each.share)} {each.way}" for each in telling(step.shares))
    return f"{step.label}{f' ({parts})' if parts else ''}"


# -- rows ----------------------------------------------------------------------------------------------------
class _Part(NamedTuple):
    """A bar: what one kind of steps made of the norm."""

    kind: str
    before: float
    after: float


class _Row(NamedTuple):
    """One step, or neighbours folded into one; `start` and `end` count steps."""

    label: str
    decades: float
    parts: Sequence[_Part]
    start: int
    end: int


def _rows(steps: Sequence[Step]) -> list[_Row]:
    """A row per step; where there are many, telling ones stand alone and what is between them is folded."""
    many = len(steps) > _MOST_ROWS
    alone = {k for k, step in enumerate(steps) if step.kind not in _COLOURS}
    alone |= set(_telling(steps)[: _MOST_ROWS // 4])
    most = 2 * -(-len(steps) // _MOST_ROWS) if many else 1
    rows, start = [], 0
    for k in range(1, len(steps) + 1):
        ends = k == len(steps) or k - start == most or k in alone or k - 1 in alone
        if ends or math.isnan(steps[k].decades) != math.isnan(steps[k - 1].decades):
            rows.append(_row(steps, start, k))
            start = k
    return rows


def _row(steps: Sequence[Step], start: int, end: int) -> _Row:
    """Some neighbours as one row: what their weights did, then their activations, then blocks."""
    inside, norm, parts = steps[start:end], steps[start - 1].after if start else 0.0, []
    for kind in dict.fromkeys((*_COLOURS, inside[0].kind)):
        made = [step.decades for step in inside if step.kind == kind]
        if made:
            after = -math.inf if -math.inf in (norm, *made) else norm + math.fsum(made)
            parts.append(_Part(kind, norm, after))
            norm = after
    decades = [step.decades for step in inside]
    whole = -math.inf if -math.inf in decades else math.fsum(decades)
    first, last = (step.layer or step.label for step in (inside[0], inside[-1]))
    label = f"{first if first == last else f'{first} to {last}'}: {len(inside)} steps"
    return _Row(inside[0].label if len(inside) == 1 else label, whole, parts, start, end)


def _telling(steps: Sequence[Step]) -> list[int]:
    """The steps far from what is usual for their kind, furthest first."""
    kinds: dict[str, list[float]] = {}
    for step in steps:
        if math.isfinite(step.decades):
            kinds.setdefault(step.kind, []).append(step.decades)
    usual = {kind: sorted(found)[len(found) // 2] for kind, found in kinds.items()}
    odd = {k: abs(step.decades - usual.get(step.kind, 0.0)) for k, step in enumerate(steps)}
    return sorted((k for k in odd if odd[k] > _TELLING), key=lambda k: -odd[k])


def _norms(waterfall: Waterfall) -> list[float]:
    steps, others = (
        (step.after for step in waterfall.steps),
        (each.log10_norm for each in waterfall.gradients),
    )
    return [0.0, waterfall.log10_norm, *steps, *others]


# -- SVG -----------------------------------------------------------------------------------------------------
def svg(waterfall: Waterfall) -> Html:
    """The picture: a row per step; where there are many, unremarkable neighbours share one."""
    rows = _rows(waterfall.steps)
    foot = f"gradient of {shortened(waterfall.name, 22)}"
    names = [foot, *(shortened(row.label, _NAME) for row in rows)]
    scale = Decades(_norms(waterfall), max(map(canvas.width_of, names)) + 8, _WIDTH - _RIGHT, 30)
    pitch = 19.0 if len(rows) == len(waterfall.steps) else 27.0
    tops = [_TOP + 6 + pitch * k for k in range(len(rows) + 1)]
    return canvas.picture(
        title(waterfall),
        described(waterfall),
        _WIDTH,
        tops[-1] + 30,
        words(0, 14, title(waterfall), canvas.INK, 14),
        _legend(waterfall),
        _axis(scale, tops[-1]),
        words(_WIDTH, _TOP - 7, "decades", anchor="end"),
        *_bars(rows, scale, tops),
        _diamonds(waterfall, rows, scale, tops),
        *(_labels(waterfall.steps, row, y + pitch / 2 + 4) for row, y in zip(rows, tops, strict=False)),
        words(0, tops[-1] + 19, foot, canvas.INK),
        words(_WIDTH, tops[-1] + 19, size_of(waterfall.log10_norm), canvas.INK, anchor="end"),
    )


def _legend(waterfall: Waterfall) -> Html:
    kinds = {step.kind for step in waterfall.steps}
    entries = [(colour, kind) for kind, colour in _COLOURS.items() if kind in kinds]
    entries += [(_REST, "loss, input and alignment")]
    x = sum(35 + canvas.width_of(text) for _, text in entries)
    mark = _diamond([(x + 5, 32)]), words(x + 15, 36, "gradients of weights", canvas.INK)
    return joined([canvas.legend(0, 36, entries), *mark])


def _axis(scale: Decades, bottom: float) -> Html:
    """Lines at whole decades, with the norm above each."""
    marks = scale.marks(most=10)
    lines = "".join(f"M{at(x)} {at(_TOP)}V{at(bottom)}" for x, _ in marks)
    grid = element("path", d=lines, stroke=canvas.RULE, fill="none")
    return joined([grid, *(words(x, _TOP - 7, text, anchor="middle") for x, text in marks)])


def _bars(rows: Sequence[_Row], scale: Decades, tops: Sequence[float]) -> Iterator[Html]:
    """Bars from where the norm was to where it is, joined by lines; dashes where nothing can be told."""
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    joints, unclear = "", ""
    for row, top, bottom in zip(rows, tops, tops[1:], strict=False):
        height = (bottom - top) / len(row.parts)
        for k, part in enumerate(row.parts):
            y = top + k * height
            if math.isnan(part.after) or math.isnan(row.decades):
                unclear += f"M{at(scale.start)} {at(y + height / 2)}H{at(scale.end)}"
                continue
            before, after = scale(part.before), scale(part.after)
            gap = max(2.0, height / 2 - 7.5)  # above the bar and below
            box = min(before, after), y + gap, max(abs(after - before), 1.0), height - 2 * gap
            found.setdefault(_COLOURS.get(part.kind, _REST), []).append(box)
            joints += f"M{at(before)} {at(y)}v{at(gap)}M{at(after)} {at(y + height - gap)}v{at(gap)}"
    yield element("path", d=joints, stroke=canvas.MUTED, fill="none")
    yield element("path", d=unclear, stroke=canvas.MUTED, stroke_dasharray="1 5", fill="none")
    yield from (boxes(rectangles, colour) for colour, rectangles in found.items())


def _diamonds(waterfall: Waterfall, rows: Sequence[_Row], scale: Decades, tops: Sequence[float]) -> Html:
    """The gradients, between the rows where their ways leave; in folded rows there is no place for any."""
    places = dict(zip((0, *(row.end for row in rows)), tops, strict=True))
    own = Gradient(waterfall.name, len(waterfall.steps), waterfall.log10_norm)
    shown = [each for each in (*waterfall.gradients, own) if each.steps in places]
    return _diamond(
        [(scale(each.log10_norm), places[each.steps]) for each in shown if not math.isnan(each.log10_norm)]
    )


def _diamond(places: Sequence[tuple[float, float]]) -> Html:
    drawn = "".join(f"M{at(x)} {at(y - 4)}l4 4l-4 4l-4 -4z" for x, y in places)
    return element("path", d=drawn, fill=canvas.INK) if drawn else Html("")


def _labels(steps: Sequence[Step], row: _Row, y: float) -> Html:
    """The name left and the decades right of a row, and all of it for who points at them."""
    left = size_of(steps[row.end - 1].after)
    name = _noted(steps[row.start]) if row.end - row.start == 1 else row.label
    return element(
        "g",
        element("title", printable(f"{name}: {signed(row.decades)} decades, leaving {left}")),
        words(0, y, shortened(row.label, _NAME)),
        words(
            _WIDTH,
            y,
            signed(row.decades),
            canvas.INK if row.decades == -math.inf else canvas.MUTED,
            anchor="end",
        ),
    )


# -- text ----------------------------------------------------------------------------------------------------
def text(waterfall: Waterfall, width: int = 100) -> str:
    """The picture for a terminal, without colours.

    width  of the longest line, 60 at least
    """
    rows, last = _rows(waterfall.steps), f"gradient of {waterfall.name}"
    room = min(
        max(len(label) for label in (last, *(row.label for row in rows))), max(canvas.NARROWEST, width) // 3
    )
    scale = Decades(_norms(waterfall), 0, max(canvas.NARROWEST, width) - room - 14, 3)
    marks = _marks(waterfall) if len(rows) == len(waterfall.steps) else {}
    lines = [_line("", "decades", room, _axis_of_text(scale))]
    for row in rows:
        drawn = _cells(row.parts, marks.get(row.end, ()), scale)
        lines.append(_line(row.label, signed(row.decades), room, drawn))
    lines.append(_line(last, size_of(waterfall.log10_norm), room, _cells((), [waterfall.log10_norm], scale)))
    kinds = {step.kind for step in waterfall.steps}
    blocks = [f"{block} {kind}" for kind, block in _BLOCKS.items() if kind in kinds]
    key = ", ".join([*blocks, f"{_REST_BLOCK} loss, input and alignment", "◆ gradients of weights"])
    return "\n".join([canvas.wrapped(title(waterfall), width), *lines, canvas.wrapped(key, width)])


def _line(label: str, figure: str, room: int, drawn: str) -> str:
    return f"{shortened(printable(label), room):{room}}  {figure:>9}  {drawn}".rstrip()


def _axis_of_text(scale: Decades) -> str:
    cells = [" "] * (round(scale.end) + 1)
    for place, name in scale.marks(most=max(2, len(cells) // 8)):
        first = min(round(place), len(cells) - len(name))
        cells[first : first + len(name)] = name
    return "".join(cells)


def _cells(parts: Sequence[_Part], marks: Sequence[float], scale: Decades) -> str:
    """Bars in whole cells, one at least, and diamonds over them."""
    cells = [" "] * (round(scale.end) + 1)
    for kind, before, after in parts:
        if not math.isnan(after):
            low, high = sorted((round(scale(before)), round(scale(after))))
            for k in range(low, max(high, low + 1)):
                cells[k] = _BLOCKS.get(kind, _REST_BLOCK)
    for norm in marks:
        if not math.isnan(norm):
            cells[round(scale(norm))] = "◆"
    return "".join(cells)


def _marks(waterfall: Waterfall) -> dict[int, list[float]]:
    """Beside the last step that they share with this way: the other gradients."""
    found: dict[int, list[float]] = {}
    for each in waterfall.gradients:
        found.setdefault(each.steps, []).append(each.log10_norm)
    return found


# -- table ---------------------------------------------------------------------------------------------------
def table(waterfall: Waterfall) -> Table:
    """Every step with its decades and what it leaves, then the gradients."""
    rows: list[tuple[str, ...]] = [
        (_noted(step), signed(step.decades, 3), size_of(step.after)) for step in waterfall.steps
    ]
    own = Gradient(waterfall.name, 0, waterfall.log10_norm)
    rows += [
        (f"gradient of {each.name}", "", size_of(each.log10_norm)) for each in (own, *waterfall.gradients)
    ]
    return ("step", ">decades", ">norm after it"), rows
