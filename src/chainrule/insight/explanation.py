"""A number as the sum of what made it: plain data, of which every part opens further."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from chainrule.graph import Array
from chainrule.insight.paths import Count
from chainrule.origin import at_user_line
from chainrule.representation import html_of


class Step(NamedTuple):
    """One factor on the way to the children.

    label    the operation and its layer
    factor   the local derivative; of an activation, what the operation made
    formula  how that comes about, with the numbers in it; "" where the label says it all
    """

    label: str
    factor: float
    formula: str = ""


@dataclass(frozen=True)
class Remainder:
    """The children that are not listed: their sum, and how many they are."""

    value: float
    count: int


@dataclass(frozen=True, repr=False)
class Explanation:
    """A number and what made it: an element of a gradient, of an activation, or a part of one.

    label       what it is: a parameter's element, or the element of a layer through which a part of it goes
    value       the number
    steps       the local derivatives between it and its children, in order
    children    the largest parts, largest first
    remainder   all other parts together
    magnitude   the sum of the absolute values of all parts: much more than the value where they cancel
    product     the local derivatives from the number that was opened first to this one, multiplied
    paths       how many paths lead from here to the loss; None for an activation
    row         what the row of the batch is called that it belongs to, "" where nobody knows
    """

    label: str
    value: float
    steps: tuple[Step, ...]
    children: tuple[Part, ...]
    remainder: Remainder
    magnitude: float
    product: float = 1.0
    paths: Count | None = None
    row: str = ""

    @property
    def cancellation(self) -> float:
        """|value| ÷ the sum of the parts' absolute values: 1 where all have one sign, 0 where they cancel."""
        return abs(self.value) / self.magnitude if self.magnitude else math.nan

    @property
    def count(self) -> int:
        """How many parts there are, those that are not listed too."""
        return len(self.children) + self.remainder.count

    def head(self) -> str:
        """The number in a sentence."""
        told = [f"{named(self.label, self.row)} = {self.value + 0.0:.6g}"]
        if self.count > 1:
            left = f"; it is {self.cancellation:.0%} of the sum of their sizes"
            told.append(f"the sum of {self.count:,} parts{left if math.isfinite(self.cancellation) else ''}")
        if self.paths is not None:
            told.append(f"{self.paths} to the loss")
        return ", ".join(told)

    def __str__(self) -> str:
        rows = [f"    × {step.factor + 0.0:<12.6g} {step.formula or step.label}" for step in self.steps]
        rows += [f"{each.value + 0.0:+14.6g} {shown(each.share)}  {each}" for each in self.children]
        if self.remainder.count:
            share = shown(share_of(self.remainder.value, self.value))
            rows.append(f"{self.remainder.value + 0.0:+14.6g} {share}  remaining {self.remainder.count:,}")
        return "\n".join([self.head(), *rows])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks: a tree of which the first layers open by click."""
        return html_of("explanation", self)


@dataclass(frozen=True, repr=False)
class Part:
    """A child: the part of a number that goes through one element of a layer.

    label       the layer and the element, whose first index is the row of the batch
    value       the part
    derivative  of that element by what is opened: the last factor before it
    formula     how the derivative comes about: "2.weight[14, 3] = 0.1202"; "" where there is nothing to say
    share       of the number: all shares add up to 1, and one that works against the others is negative
    row         what that row of the batch is called, "" where nobody knows
    """

    label: str
    value: float
    derivative: float
    formula: str = ""
    share: float = math.nan
    row: str = ""
    _open: Callable[[int], Explanation] | None = field(default=None, repr=False, compare=False)

    def open(self, most: int = 5) -> Explanation:
        """The parts of this part, one layer further, the largest `most` of them listed.

        Of an activation, a part is a product: what opens is the value in it that was computed.
        """
        assert self._open is not None
        return self._open(checked(most))

    def __str__(self) -> str:
        return f"{named(self.label, self.row)}  (× {self.formula or f'{self.derivative + 0.0:.4g}'})"

    __repr__ = __str__


def checked(most: Any) -> int:
    """How many parts are to be listed: a whole number from 0 on."""
    if not isinstance(most, int | np.integer) or most < 0:
        raise ValueError(f"most={most!r}{at_user_line()}: parts to list are a whole number, from 0 on")
    return int(most)


def named(label: str, row: str) -> str:
    """A label with the name of the row behind it."""
    return f"{label} of {row}" if row else label


def shown(share: float) -> str:
    """A share in per cent, four characters or more."""
    return "    " if math.isnan(share) else f"{share:4.0%}"


def share_of(part: float, whole: float) -> float:
    """Which share a part is; undefined of nothing."""
    return part / whole if whole and math.isfinite(whole) else math.nan


def largest(parts: Array, most: int) -> tuple[Array, Remainder, float]:
    """Where the largest parts are, the largest first; what the others come to; the sum of all sizes.

    What is not a number counts as large: it makes the whole what it is.
    """
    sizes = np.where(np.isnan(parts), np.inf, np.abs(parts))
    order = np.argsort(-sizes, kind="stable")
    listed, rest = order[:most], parts[order[most:]]
    return listed, Remainder(float(rest.sum()), len(rest)), float(np.abs(parts).sum())


def joined(pieces: Sequence[Array]) -> Array:
    """Arrays one behind the other, in float64."""
    return np.concatenate([np.zeros(0), *(np.asarray(each, np.float64) for each in pieces)])
