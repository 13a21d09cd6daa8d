"""Images of cells: rows by columns, each cell one of few levels of colour.

Equal neighbours in a row are one stroke, and all strokes of a level are one path: some six bytes for each. So
an image of 20,000 cells stays small, and unlike a bitmap it takes its colours from the page around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from chainrule.show.html import Html, element, joined
from chainrule.show.pictures import canvas
from chainrule.show.pictures.canvas import at, words

Array = np.ndarray[Any, Any]
_LINE = 14.0  # from label to label


class Paint(NamedTuple):
    """How a level is painted; `dash` in columns, for what is told apart by more than its colour."""

    colour: str
    opacity: float = 1.0
    dash: str | None = None


class Frame(NamedTuple):
    """Where an image stands in its picture."""

    x: float
    y: float
    width: float
    height: float


def image(levels: Array, paints: Mapping[int, Paint], frame: Frame) -> Html:
    """The cells of `levels` (rows, columns), stretched over the frame; levels without paint stay empty."""
    rows, columns = levels.shape
    x, y, width, height = frame
    paths = (_path(levels, level, paint) for level, paint in sorted(paints.items()))
    edge = element("rect", width=columns, height=rows, fill=canvas.MUTED, fill_opacity="0.07")
    return element(
        "svg",
        edge,
        *(path for path in paths if path),
        x=at(x),
        y=at(y),
        width=at(width),
        height=at(height),
        viewBox=f"0 0 {columns} {rows}",
        preserveAspectRatio="none",
        shape_rendering="crispEdges",
    )


def _path(levels: Array, level: int, paint: Paint) -> Html:
    """All cells of one level, as strokes as wide as a row."""
    drawn = []
    for row, cells in enumerate(levels == level):
        edges = np.flatnonzero(np.diff(cells, prepend=False, append=False)).tolist()
        for k, (start, end) in enumerate(pairwise(edges)):
            if k % 2 == 0:
                drawn.append(
                    f"m{start - edges[k - 1]} 0h{end - start}" if k else f"M{start} {row}.5h{end - start}"
                )
    if not drawn:
        return Html("")
    opacity = f"{paint.opacity:.2f}" if paint.opacity < 1 else None
    return element(
        "path", d="".join(drawn), stroke=paint.colour, stroke_opacity=opacity, stroke_dasharray=paint.dash
    )


def swatch(x: float, y: float, paint: Paint, size: float = 12) -> Html:
    """A square of a legend."""
    return image(np.zeros((1, 1), int), {0: paint}, Frame(x, y, size, size))


def names_beside(names: Sequence[str], frame: Frame, most: int) -> Html:
    """Names of rows, right-aligned at the image; where rows are low, some of them."""
    pitch = frame.height / len(names)
    every = max(1, round(np.ceil(_LINE / pitch)))
    shown = range(0, len(names), every)
    return joined(
        words(frame.x - 8, frame.y + (k + 0.5) * pitch + 4, canvas.shortened(names[k], most), anchor="end")
        for k in shown
    )


def steps_below(steps: Sequence[int], frame: Frame) -> Html:
    """Steps under the columns that begin with them, as many as there is room for."""
    pitch = frame.width / len(steps)
    every = max(1, round(np.ceil(70 / pitch)))
    y = frame.y + frame.height + 16
    marks = [
        words(frame.x + (k + 0.5) * pitch, y, f"{steps[k]:,}", anchor="middle")
        for k in range(0, len(steps), every)
    ]
    return joined([*marks, words(frame.x - 8, y, "step", anchor="end")])


# -- fewer cells ---------------------------------------------------------------------------------------------
def groups(count: int, most: int, even: bool = False) -> list[slice]:
    """At most so many stretches of equal length, the last perhaps shorter, over `count` things.

    >>> groups(5, 3)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, -(-count // most))
    size += even and size > 1 and size % 2
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
