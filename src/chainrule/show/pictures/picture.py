"""Pictures to hold in the hand: printed they are text, in a notebook an image, `save` makes files of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from chainrule import atomic
from chainrule.insight.ledger import Ledger
from chainrule.insight.moment import Given, moment_of
from chainrule.show.html import Html
from chainrule.show.pictures import curves as curves_form
from chainrule.show.pictures import dataflow as dataflow_form
from chainrule.show.pictures import histograms as histograms_form
from chainrule.show.pictures import strip as strip_form
from chainrule.show.pictures import waterfall as waterfall_form
from chainrule.show.pictures.canvas import Table
from chainrule.train.telemetry import Telemetry

_PLAIN_WIDTH, _WIDEST = 100, 120
# For pages that are not ours: the ink is that of the text around, and the colours do on light and on dark.
_COLOURS = {
    "ink": "currentColor",
    "muted": "color-mix(in srgb, currentColor 70%, transparent)",
    "rule": "color-mix(in srgb, currentColor 18%, transparent)",
    "accent": "#3384d6",
    "second": "#d9702a",
    "good": "#2b9d6a",
    "shrink": "#1495a6",
    "grow": "#d4487c",
}


class Form(Protocol):
    """What draws one kind of picture: a module of `chainrule.show.pictures`."""

    def svg(self, data: Any, /) -> Html: ...
    def text(self, data: Any, /, width: int = ...) -> str: ...
    def table(self, data: Any, /) -> Table: ...


@dataclass(frozen=True)
class Picture:
    """A picture: `print` it, end a notebook's cell with it, or `save` it.

    data  what it shows, as plain data
    form  the functions that draw it
    """

    data: Any
    form: Form

    @property
    def svg(self) -> Html:
        """The image by itself; its ink is the colour of the text around."""
        colours = "".join(f"--{name}:{colour};" for name, colour in _COLOURS.items())
        return Html(self.form.svg(self.data).replace("<svg ", f'<svg style="{colours}" ', 1))

    @property
    def table(self) -> Table:
        """The numbers: names of columns, and rows."""
        header, rows = self.form.table(self.data)
        return tuple(name.removeprefix(">") for name in header), rows

    def text(self, width: int = _PLAIN_WIDTH) -> str:
        """For a terminal, without colours; lines of at most `width` characters, 60 at least."""
        return self.form.text(self.data, width)

    def save(self, path: str | Path) -> Path:
        """Write the image as an SVG file, replacing what was there; the file's path is returned."""
        file = Path(path)
        atomic.write_text(file, self.svg)
        return file

    def __str__(self) -> str:
        terminal = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else _PLAIN_WIDTH
        return self.text(min(terminal, _WIDEST))

    def _repr_html_(self) -> str:
        return self.svg


def waterfall(ledger: Ledger, name: str | None = None) -> Picture:
    """The gradient waterfall: what is left of the norm after every step from the loss back to a weight.

    name  of the parameter; else the first weight, which is behind all layers

    >>> import numpy as np, chainrule as cr
    >>> with cr.random.stream(cr.random.key(0)):
    ...     model = cr.nn.Sequential(cr.nn.Linear(2, 4), cr.nn.Sigmoid(), cr.nn.Linear(4, 1)).double()
    >>> loss = cr.mean(cr.square(model(np.eye(2))))
    >>> print(cr.show.waterfall(cr.ledger(loss)).text(80))
    From the loss back to the gradient of 0.weight
                            decades  10⁻³        10⁻²       10⁻¹       1          10
    error at the loss         −0.88                          ░░◆░░░░░░░
    2 weight gain             −0.60                   ███████
    1 activation gain         −0.61            ▒▒▒▒▒▒▒
    0 input norm              +0.15            ░░
    0 alignment               −0.15            ░░
    gradient of 0.weight    8.1e-03            ◆
    █ weight gain, ▒ activation gain, ░ loss, input and alignment, ◆ gradients of weights
    """
    return Picture(waterfall_form.of_ledger(ledger, name), waterfall_form)


def dataflow(given: Given, step: int | None = None) -> Picture:
    """The network of a loss, or of a step of a run: values forward, derivatives backward, layer by layer.

    What repeats is folded; where a value is used several times, a share says what came back over each way.

    >>> import chainrule as cr
    >>> model = cr.nn.Sequential(cr.nn.Linear(3, 4), cr.nn.Tanh(), cr.nn.Linear(4, 1))
    >>> loss = cr.nn.MSELoss()(model(cr.ones((5, 3))), cr.zeros((5, 1)))
    >>> [row[0] for row in cr.show.dataflow(loss).table[1]]
    ['input', '0', '1', '2', 'targets', 'loss']
    """
    return Picture(dataflow_form.readable(moment_of(given, step).loss), dataflow_form)


def strip(given: Telemetry | Mapping[int, Ledger]) -> Picture:
    """Layers down, steps across: what every layer makes of the gradient, by step.

    given  telemetry of a training, or ledgers by step: ``{0: cr.ledger(run, step=0), ...}``
    """
    if isinstance(given, Telemetry):
        return Picture(strip_form.of_telemetry(given), strip_form)
    return Picture(strip_form.of_ledgers(given), strip_form)


def histograms(telemetry: Telemetry) -> dict[str, Picture]:
    """How large activations and gradients are, step by step: an image for each, by name."""
    found = histograms_form.of_telemetry(telemetry)
    return {name: Picture(each, histograms_form) for name, each in found.items()}


def curves(
    runs: curves_form.Given | Sequence[curves_form.Given] | Mapping[str, Sequence[curves_form.Given]],
    band: Literal["range", "interval"] = "range",
) -> Picture:
    """The losses of a run, of several that differ in their seeds, or of groups of such by name.

    band  around the mean of several: "range" from the lowest to the highest, or "interval", the mean's 95%
    """
    return Picture(curves_form.of_runs(runs, band), curves_form)
