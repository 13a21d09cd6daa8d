"""The data flow of a network: layers in order, branches beside them, values forward, derivatives backward.

A row is a box of `flow`, or boxes that repeat, folded. Beside it stand how large its output is, how large the
error that comes back to it is, and what part of the whole gradient is that of its own parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from chainrule.show.figures import percent, printable
from chainrule.show.html import Html, element, joined
from chainrule.show.pictures import canvas
from chainrule.show.pictures.canvas import Table, at, boxes, shortened, words
from chainrule.show.pictures.flow import Arrow, Box, Dataflow, of_loss
from chainrule.show.pictures.folding import Row, Way, arrows, label, rows
from chainrule.tensor import Tensor

__all__ = ["Arrow", "Box", "Dataflow", "of_loss", "readable", "svg", "table", "text"]

_MOST = 28  # boxes that are shown without folding
_MOST_ROWS = 60  # after folding; a network of more is shown block by block
_WIDTH = 760.0
_BOX, _HEIGHT, _PITCH, _TOP = (104.0, 290.0), 30.0, 44.0, 72.0
_LANE = 13.0  # between ways that pass beside one another
_COLUMNS = (430.0, 552.0, 676.0)  # where activation, error and share begin
_BAR = 84.0
_WIDEST = 34  # characters of a name in the terminal


def readable(loss: Tensor, kinds: Mapping[str, str] | None = None) -> Dataflow:
    """The data flow behind a loss; block by block, where there are too many layers that differ."""
    flow = of_loss(loss, kinds)
    depth = max(box.name.count(".") for box in flow.boxes)
    while depth and len(rows(flow, _MOST)) > _MOST_ROWS:
        flow = of_loss(loss, kinds, depth)
        depth -= 1
    return flow


class _Picture(NamedTuple):
    """A flow as rows and ways between them."""

    flow: Dataflow
    rows: list[Row]
    ways: list[Way]

    def of(self, row: Row) -> list[Box]:
        """The boxes of a row."""
        return [self.flow.boxes[k] for k in row.boxes]

    def name(self, row: Row) -> str:
        """The layer, or the layers."""
        return label([box.name for box in self.of(row)])

    def kind(self, row: Row) -> str:
        """What the layer is, or does, and the shape that it puts out."""
        box = self.flow.boxes[row.boxes[0]]
        return " · ".join(filter(None, [box.kind, "×".join(map(str, box.shape))]))

    def times(self, row: Row) -> str:
        """How often it repeats."""
        return f"× {len(row.boxes):,}" if len(row.boxes) > 1 else ""


def _picture(flow: Dataflow) -> _Picture:
    folded = rows(flow, _MOST)
    return _Picture(flow, folded, arrows(flow, folded))


# -- in words ------------------------------------------------------------------------------------------------
def title(flow: Dataflow) -> str:
    """What the picture shows."""
    return f"The flow through {len(_layers(flow)):,} layers: values forward, derivatives back"


def described(flow: Dataflow) -> str:
    """The picture in a few sentences, for those who cannot see it."""
    told = ["From the input at the top to the loss at the bottom."]
    errors = [(box.name, box.error) for box in _layers(flow) if box.error is not None]
    if errors:
        (last, near), (first, far) = errors[-1], errors[0]
        told.append(f"The error's norm is {_size(near)} at layer {last} and {_size(far)} at layer {first}.")
    shares = [box for box in flow.boxes if box.share is not None and box.share >= 0]
    if shares:
        most = max(shares, key=lambda box: box.share or 0.0)
        told.append(f"Layer {most.name} has {percent(most.share or 0.0)} of the squared gradient.")
    return " ".join(told)


def _layers(flow: Dataflow) -> list[Box]:
    return [box for box in flow.boxes[:-1] if box.error is not None]


# -- SVG -----------------------------------------------------------------------------------------------------
class _Measure(NamedTuple):
    """A column of numbers: its head, the number of a box, and the smallest and largest on its scale."""

    head: str
    of: Callable[[Box], float | None]
    low: float
    high: float

    def length(self, number: float) -> float:
        """Of a bar, from 0 to 1, on a logarithmic scale."""
        if not 0 < number < math.inf:
            return 0.0
        return max(0.02, (math.log10(number) - self.low) / (self.high - self.low))


def _measures(flow: Dataflow) -> list[_Measure]:
    told: list[tuple[str, Callable[[Box], float | None]]] = [
        ("activation, RMS", lambda box: box.activation),
        ("error, norm", lambda box: box.error),
    ]
    return [_Measure(head, of, *_ends([of(box) for box in flow.boxes])) for head, of in told]


def _ends(numbers: Sequence[float | None]) -> tuple[float, float]:
    """Decades that hold all numbers, at least two of them."""
    found = [math.log10(each) for each in numbers if each is not None and 0 < each < math.inf]
    low, high = math.floor(min(found, default=0.0)), math.ceil(max(found, default=0.0))
    return low - 0.5, max(high, low + 1.5)


def svg(flow: Dataflow) -> Html:
    """The picture: boxes from top to bottom; shortcuts pass on the left, with the share that comes back."""
    shown = _picture(flow)
    tops = [_TOP + _PITCH * k for k in range(len(shown.rows))]
    measures = _measures(flow)
    drawn = [_drawn_row(shown, row, top, measures) for row, top in zip(shown.rows, tops, strict=True)]
    return canvas.picture(
        title(flow),
        described(flow),
        _WIDTH,
        tops[-1] + _PITCH,
        words(0, 14, title(flow), canvas.INK, 14),
        canvas.legend(0, 36, [(canvas.ACCENT, "forward"), (canvas.SECOND, "back from the loss, log scale")]),
        *(words(x, _TOP - 10, measure.head) for x, measure in zip(_COLUMNS, measures, strict=False)),
        words(_COLUMNS[2], _TOP - 10, "of gradient²"),
        _ways(shown, tops),
        *drawn,
        *_blocks(shown, tops),
    )


def _drawn_row(shown: _Picture, row: Row, top: float, measures: Sequence[_Measure]) -> Html:
    left, width = _BOX
    found = shown.of(row)
    box = element(
        "rect", x=at(left), y=at(top), width=at(width), height=at(_HEIGHT), rx=6,
        fill="var(--card, none)", stroke=canvas.RULE,
    )  # fmt: skip
    told = f"{shown.name(row)} {shown.times(row)}: {shown.kind(row)}"
    columns = zip(_COLUMNS, measures, (canvas.ACCENT, canvas.SECOND), strict=False)
    return element(
        "g",
        element("title", printable(told)),
        box,
        words(left + 9, top + 13, shortened(shown.name(row), 36), canvas.INK, 12),
        words(left + 9, top + 25, _cut(shown.kind(row), 46), canvas.MUTED, 10.5),
        *(_bars(found, measure, x, top, colour) for x, measure, colour in columns),
        _share(found, top),
    )


def _bars(found: Sequence[Box], measure: _Measure, x: float, top: float, colour: str) -> Html:
    """A number and its bar; for boxes that repeat, one thin bar each, and the first and the last number."""
    numbers = [number for number in map(measure.of, found) if number is not None]
    if not numbers:
        return Html("")
    pitch = _BAR / len(numbers)
    if len(numbers) == 1:
        drawn = boxes([(x, top + 19, _BAR * measure.length(numbers[0]), 5)], colour)
    else:
        heights = [15.0 * measure.length(number) for number in numbers]
        drawn = boxes(
            [(x + k * pitch, top + 30 - each, 0.85 * pitch, each) for k, each in enumerate(heights)], colour
        )
    ends = [_size(number) for number in dict.fromkeys([numbers[0], numbers[-1]])]
    return joined([words(x, top + 12, " … ".join(ends), canvas.INK, 11), drawn])


def _share(found: Sequence[Box], top: float) -> Html:
    shares = [box.share for box in found if box.share is not None]
    if not shares:
        return Html("")
    whole = math.fsum(shares)
    width = (_WIDTH - _COLUMNS[2]) * min(1.0, whole) if math.isfinite(whole) else 0.0
    return joined(
        [
            words(_COLUMNS[2], top + 12, _percent(whole), canvas.INK, 11),
            boxes([(_COLUMNS[2], top + 19, max(width, 1.0), 5)], canvas.SECOND),
        ]
    )


def _ways(shown: _Picture, tops: Sequence[float]) -> Html:
    """Arrows: straight down to the next row, and past others on the left, the longest outermost."""
    left, drawn = _BOX[0], list[Html]()
    lanes = _lanes(shown.ways)
    for way in shown.ways:
        top, bottom = tops[way.source] + _HEIGHT, tops[way.target]
        share = _shares(way)
        if way.target == way.source + 1:
            x = left + 24
            drawn.append(_arrow(f"M{at(x)} {at(top)}V{at(bottom - 1)}", x, bottom, down=True))
            drawn.append(words(x + 8, bottom - 4, share, canvas.SECOND, 11))
            continue
        x, start, end = left - 14 - _LANE * lanes[way], top - _HEIGHT / 2 + 6, bottom + _HEIGHT / 2 - 6
        path = (
            f"M{at(left)} {at(start)}H{at(x + 6)}Q{at(x)} {at(start)} {at(x)} {at(start + 6)}V{at(end - 6)}"
        )
        drawn.append(_arrow(f"{path}Q{at(x)} {at(end)} {at(x + 6)} {at(end)}H{at(left - 1)}", left, end))
        drawn.append(words(x - 4, (start + end) / 2 + 4, share, canvas.SECOND, 11, "end"))
    return joined(drawn)


def _arrow(path: str, x: float, y: float, down: bool = False) -> Html:
    head = f"M{at(x)} {at(y)}l-3.5 -6h7z" if down else f"M{at(x)} {at(y)}l-6 -3.5v7z"
    body = element("path", d=path, stroke=canvas.MUTED, fill="none")
    return joined([body, element("path", d=head, fill=canvas.MUTED)])


def _lanes(ways: Sequence[Way]) -> dict[Way, int]:
    """Which lane every shortcut takes: the innermost that is free along its whole length."""
    lanes: dict[Way, int] = {}
    for way in sorted(ways, key=lambda each: each.target - each.source):
        if way.target > way.source + 1:
            taken = {
                lane
                for other, lane in lanes.items()
                if other.source < way.target and way.source < other.target
            }
            lanes[way] = next(k for k in range(len(ways)) if k not in taken)
    return lanes


def _blocks(shown: _Picture, tops: Sequence[float]) -> Iterator[Html]:
    """A bracket right of the rows that repeat."""
    x = _BOX[0] + _BOX[1] + 5
    for row in dict.fromkeys(row.block for row in shown.rows if row.block):
        first, period = row
        top, bottom = tops[first], tops[first + period - 1] + _HEIGHT
        yield element("path", d=f"M{at(x)} {at(top)}h5V{at(bottom)}h-5", stroke=canvas.MUTED, fill="none")
        told = shown.times(shown.rows[first])
        yield words(x + 5, top - 4, told, canvas.INK, 11, "end")


# -- text ----------------------------------------------------------------------------------------------------
def text(flow: Dataflow, width: int = 100) -> str:
    """The picture for a terminal, a line per row.

    >>> import chainrule as cr
    >>> model = cr.nn.Sequential(cr.nn.Linear(3, 1))
    >>> loss = cr.nn.MSELoss()(model(cr.ones((5, 3))), cr.zeros((5, 1)))
    >>> print(text(of_loss(loss)).splitlines()[0].split())
    ['layer', 'activation', 'error', 'gradient²', 'reads']
    """
    header, body = table(flow)
    rows_ = [[header[0], "activation", "error", "gradient²", "reads"]]
    rows_ += [[shortened(row[0], _WIDEST), *row[3:7]] for row in body]
    wide = [max(len(row[k]) for row in rows_) for k in range(4)]
    lines = []
    for name, activation, error, share, reads in rows_:
        numbers = f"{activation:>{wide[1]}}  {error:>{wide[2]}}  {share:>{wide[3]}}"
        lines.append(_cut(f"{name:{wide[0]}}  {numbers}  {reads}".rstrip(), width))
    return "\n".join(map(printable, lines))


# -- the table -----------------------------------------------------------------------------------------------
def table(flow: Dataflow) -> Table:
    """The picture as a table: where layers repeat, the first and the last number."""
    shown = _picture(flow)
    reads: dict[int, list[str]] = {}
    for way in shown.ways:
        share = _shares(way)
        name = shown.name(shown.rows[way.source])
        reads.setdefault(way.target, []).append(f"{name} ({share} back)" if share else name)
    head = ("layer", "kind", "shape", ">activation, RMS", ">error, norm", ">of gradient²", "reads")
    body: list[tuple[str, ...]] = []
    for k, row in enumerate(shown.rows):
        found = shown.of(row)
        shares = [box.share for box in found if box.share is not None]
        body.append(
            (
                f"{shown.name(row)} {shown.times(row)}".strip(),
                found[0].kind,
                "×".join(map(str, found[0].shape)),
                _from_to([box.activation for box in found]),
                _from_to([box.error for box in found]),
                _percent(math.fsum(shares)) if shares else "",
                ", ".join(reads.get(k, ())),
            )
        )
    return head, body


# -- numbers -------------------------------------------------------------------------------------------------
def _from_to(numbers: Sequence[float | None]) -> str:
    ends = dict.fromkeys(_size(each) for each in (numbers[0], numbers[-1]) if each is not None)
    return " … ".join(ends)


def _size(number: float) -> str:
    """Two digits.

    >>> _size(0.0123), _size(1.3e-7), _size(0.0), _size(math.nan)
    ('0.012', '1.3e-07', '0', 'not finite')
    """
    return f"{number:.2g}" if math.isfinite(number) else "not finite"


def _percent(share: float) -> str:
    if not math.isfinite(share):
        return "not finite"
    return "<0.1%" if 0 < share < 0.0005 else percent(share)


def _shares(way: Way) -> str:
    """The share that comes back over an arrow, from the least to the most where it stands for several."""
    if not way.shares or not all(map(math.isfinite, way.shares)):
        return ""
    ends = dict.fromkeys(percent(each).replace("-", "−") for each in (min(way.shares), max(way.shares)))
    return " to ".join(ends)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
