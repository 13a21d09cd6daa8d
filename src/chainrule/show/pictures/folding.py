"""Folding: what repeats in a row of boxes is shown once, with how often it comes.

Boxes are alike when they are the same kind of layer, put out the same shape, and read boxes as far back. So
twelve equal blocks of a transformer are one block, twelve times; a shortcut over half the network keeps the
boxes that it joins apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from chainrule.show.pictures.flow import INPUT, TARGETS, Box, Dataflow

_LONGEST_PERIOD = 64
_FEWEST_ROWS_SAVED = 2


class Row(NamedTuple):
    """A box, or boxes that are alike, from different repeats of a block.

    boxes  their numbers
    block  which block of the picture it belongs to, and how many rows that has; None for a single box
    """

    boxes: tuple[int, ...]
    block: tuple[int, int] | None = None


class Way(NamedTuple):
    """Arrows that are alike, between two rows; `shares` of what comes back to the row where they begin."""

    source: int
    target: int
    shares: tuple[float, ...]


def rows(flow: Dataflow, most: int) -> list[Row]:
    """The rows of a picture: one for every box, or folded where there would be more than `most`."""
    signs = signatures(flow)
    if len(signs) <= most:
        return [Row((k,)) for k in range(len(signs))]
    found: list[Row] = []
    at = 0
    while at < len(signs):
        period, times = _repeats(signs, at)
        first = len(found)
        block = (first, period) if times > 1 else None
        found += [Row(tuple(at + k + period * n for n in range(times)), block) for k in range(period)]
        at += period * times
    return found


def signatures(flow: Dataflow) -> list[Any]:
    """What makes boxes alike, for each: name without numbers, kind, shape, and how far back it reads."""
    back: list[list[int]] = [[] for _ in flow.boxes]
    for arrow in flow.arrows:
        back[arrow.target].append(1 if _given(flow.boxes[arrow.source]) else arrow.target - arrow.source)
    return [
        (re.sub(r"\d+", "#", box.name), box.kind, box.shape, box.gradient is None, tuple(far))
        for box, far in zip(flow.boxes, back, strict=True)
    ]


def _given(box: Box) -> bool:
    return box.name.split(" ")[0] in (INPUT, TARGETS)


def _repeats(signs: Sequence[Any], at: int) -> tuple[int, int]:
    """The period and the number of repeats, from `at` on, that save most rows; 1 and 1 where none do."""
    best, saved = (1, 1), _FEWEST_ROWS_SAVED - 1
    for period in range(1, min(_LONGEST_PERIOD, (len(signs) - at) // 2) + 1):
        end = at + period
        while end < len(signs) and signs[end] == signs[end - period]:
            end += 1
        times = (end - at) // period
        if (times - 1) * period > saved:
            best, saved = (period, times), (times - 1) * period
    return best


def arrows(flow: Dataflow, folded: Sequence[Row]) -> list[Way]:
    """Arrows between rows, with the shares of all repeats.

    Inside a block, those of its first repeat stand for all. Where only one arrow leads on from a box, all
    comes back over it, and no share is told.
    """
    place = {box: k for k, row in enumerate(folded) for box in row.boxes}
    several = {source for source, ways in Counter(arrow.source for arrow in flow.arrows).items() if ways > 1}
    alike: dict[tuple[int, int], list[float]] = {}  # by row and how far back it reads
    for arrow in flow.arrows:
        told = alike.setdefault((place[arrow.target], arrow.target - arrow.source), [])
        if arrow.share is not None and arrow.source in several:
            told.append(arrow.share)
    first = (arrow for arrow in flow.arrows if arrow.target == folded[place[arrow.target]].boxes[0])
    return [
        Way(place[source], place[target], tuple(alike[place[target], target - source]))
        for source, target, _ in first
    ]


def label(names: Sequence[str]) -> str:
    """One name for several that differ in their numbers.

    >>> label(["layers.0.norm", "layers.1.norm", "layers.11.norm"]), label(["loss"])
    ('layers.0…11.norm', 'loss')
    """
    first, last = names[0], names[-1]
    digits = re.findall(r"\d+", last)
    if first == last or len(digits) != len(re.findall(r"\d+", first)):
        return first
    ends = iter(digits)
    return re.sub(r"\d+", lambda found: _span(found[0], next(ends)), first)


def _span(first: str, last: str) -> str:
    return first if first == last else f"{first}…{last}"
