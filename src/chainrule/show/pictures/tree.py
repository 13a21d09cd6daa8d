"""The factor tree: one number, opened into its largest parts, and these into theirs, towards the loss.

In a page it is a list of nested `<details>`, which open with a click or a key and need no JavaScript. A part
shows its sign, its value, and how large it is among all the parts of the same number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from chainrule.insight.explanation import Explanation, Part, named
from chainrule.show.figures import counted, percent, printable
from chainrule.show.html import Html, element, joined
from chainrule.show.pictures.canvas import Table, shortened

_BLOCKS = 12  # of a full bar in the terminal
_GIVEN = re.compile(r"\binput(?: \d+)?\[")  # an element of the data, in a formula


@dataclass(frozen=True)
class Branch:
    """A number and the parts that were opened.

    value      the number
    share      its size as a part of the sizes of all parts of the same number; 1 for the root
    factor     the last one before it, in words: "2.weight[14, 3] = 0.1202"; "" for the root
    steps      what lies between it and its parts, in words: factors, "× …", or how it was computed
    parts      the largest, largest first; none where it was not opened further, or is at the loss
    rest       the sum of all others, and how many they are
    agreement  |value| ÷ the sum of the sizes of its parts: small where they cancel; None if not opened
    paths      how many lead from it to the loss, in words; "" where nobody counted
    """

    label: str
    value: float
    share: float = 1.0
    factor: str = ""
    steps: tuple[str, ...] = ()
    parts: tuple[Branch, ...] = ()
    rest: tuple[float, int] = (0.0, 0)
    agreement: float | None = None
    paths: str = ""


def of_explanation(
    explanation: Explanation, opened: Sequence[int] = (3, 2, 1), most: int = 4, data: bool = True
) -> Branch:
    """The tree of an opened number.

    opened  how many of the largest parts are opened further, level by level
    most    how many parts of each number are listed
    data    whether values of the inputs are told where they are factors

    >>> import numpy as np, chainrule as cr
    >>> weight = cr.nn.Parameter(np.array([2.0, 1.0]))
    >>> weight.name = "weight"
    >>> inputs = np.array([[1.0, 0.0], [3.0, 1.0], [10.0, 2.0]])
    >>> found = of_explanation(cr.explain(cr.sum(cr.square(inputs @ weight)), "weight", (0,)))
    >>> found.value, [(part.value, round(part.share, 2)) for part in found.parts]
    (486.0, [(440.0, 0.91), (42.0, 0.09), (4.0, 0.01)])
    """
    return _Opener(most, data).branch(explanation, 1.0, "", tuple(opened))


class _Opener(NamedTuple):
    most: int
    data: bool

    def branch(self, found: Explanation, share: float, factor: str, opened: tuple[int, ...]) -> Branch:
        """What was opened, and of its largest parts as many as the next level says."""
        listed, unlisted = found.children[: self.most], found.children[self.most :]
        further = next(iter(opened), 0)
        parts = [self._part(part, found, opened if k < further else ()) for k, part in enumerate(listed)]
        rest = math.fsum([found.remainder.value, *(part.value for part in unlisted)])
        return Branch(
            named(found.label, found.row),
            found.value,
            share,
            factor,
            self._steps(found),
            tuple(parts),
            (rest, found.remainder.count + len(unlisted)),
            found.cancellation if found.count > 1 else None,
            "" if found.paths is None else str(found.paths),
        )

    def _part(self, part: Part, whole: Explanation, opened: tuple[int, ...]) -> Branch:
        share = abs(part.value) / whole.magnitude if whole.magnitude else 0.0
        factor = self._told(part.formula or _number(part.derivative, plus=False))
        if not opened:
            return Branch(named(part.label, part.row), part.value, share, factor)
        found = part.open(self.most)
        branch = self.branch(found, share, factor, opened[1:])
        if found.value == part.value:
            return branch
        # Of an activation, a product is a part, and what opens is the factor in it that was computed.
        computed = self._told(f"{found.label} = {_number(found.value, plus=False)}")
        label = named(part.label, part.row)
        return replace(branch, label=label, value=part.value, steps=(computed, *branch.steps))

    def _steps(self, found: Explanation) -> tuple[str, ...]:
        """The local derivatives on the way of a gradient; of an activation, how it was computed."""
        told = (step.formula or f"{_number(step.factor, plus=False)} {step.label}" for step in found.steps)
        sign = "" if found.paths is None else "× "
        return tuple(f"{sign}{self._told(step)}" for step in told)

    def _told(self, factor: str) -> str:
        """A factor in words; what was given is only named, where it shall not be told."""
        return factor if self.data or not _GIVEN.search(factor) else "an input"


# -- HTML ----------------------------------------------------------------------------------------------------
def html(tree: Branch) -> Html:
    """The tree as nested lists; the root is open, its parts open on demand. Needs the style of the report."""
    return element("div", _opening(tree, is_root=True), class_="tree")


def _opening(branch: Branch, is_root: bool = False) -> Html:
    if not branch.parts and not branch.steps:
        return element("div", _line(branch, is_root), class_="leaf")
    items = [element("li", _opening(part)) for part in branch.parts]
    if branch.rest[1]:
        items.append(element("li", element("div", *_rest(branch), class_="leaf rest")))
    return element(
        "details",
        element("summary", _line(branch, is_root)),
        *_told(branch),
        element("ul", *items) if items else Html(""),
        open="open" if is_root else None,
    )


def _line(branch: Branch, is_root: bool) -> Html:
    """The value with its sign, the bar, and what it is."""
    factor = f"× {printable(branch.factor)}" if branch.factor else ""
    size = Html("") if is_root else _bar(branch.share, branch.value)
    return joined(
        [
            element("span", _number(branch.value), class_="value"),
            size,
            element("span", printable(branch.label), class_="label"),
            " ",
            element("span", factor, class_="quiet") if factor else "",
        ]
    )


def _rest(branch: Branch) -> Iterator[Html]:
    value, count = branch.rest
    yield element("span", _number(value), class_="value")
    yield element("span", class_="bar none")
    yield element("span", f"the remaining {count:,}, together", class_="label quiet")


def _bar(share: float, value: float) -> Html:
    """How large a part is; its share is also written, and its sign is in front of its value."""
    width = f"width:{100 * min(share, 1.0) if math.isfinite(share) else 0:.1f}%"
    fill = element("span", class_="fill minus" if value < 0 else "fill", style=width)
    return joined(
        [
            element("span", fill, class_="bar", aria_hidden="true"),
            element("span", f"{percent(share) if math.isfinite(share) else '–'} ", class_="share"),
        ]
    )


def _told(branch: Branch) -> Iterator[Html]:
    """The factors on the way to the parts, and how far these agree."""
    if branch.steps:
        steps = "; ".join(map(printable, branch.steps))
        yield element("p", f"On the way: {steps}.", class_="note")
    if branch.agreement is not None and math.isfinite(branch.agreement):
        count = len(branch.parts) + branch.rest[1]
        told = f"The sum of {counted(count, 'part')}, {percent(branch.agreement)} of the sum of their sizes"
        told += f"; {branch.paths} to the loss." if branch.paths else "."
        yield element("p", told, class_="note")


# -- text and table ------------------------------------------------------------------------------------------
def text(tree: Branch, width: int = 100) -> str:
    """The tree for a terminal, a line for each number."""
    lines = [f"{tree.label} = {_number(tree.value, plus=False)}", *_lines(tree, "")]
    return "\n".join(printable(line if len(line) <= width else f"{line[: width - 1]}…") for line in lines)


def _lines(branch: Branch, indent: str) -> Iterator[str]:
    for step in branch.steps:
        yield f"{indent}{step}"
    last = len(branch.parts) + (branch.rest[1] > 0) - 1
    for k, part in enumerate(branch.parts):
        corner, below = ("└ ", "  ") if k == last else ("├ ", "│ ")
        filled = round(_BLOCKS * part.share) if math.isfinite(part.share) else 0
        bar = f"{'█' * filled:{_BLOCKS}}"
        yield f"{indent}{corner}{_number(part.value):>11} {bar} {part.label}"
        yield from _lines(part, indent + below)
    if branch.rest[1]:
        value, count = branch.rest
        yield f"{indent}└ {_number(value):>11} {'':{_BLOCKS}} the remaining {count:,}, together"


def table(tree: Branch) -> Table:
    """The tree as rows; a path of numbers, as of sections in a book, says what is a part of what."""
    head = ("part", "what", ">value", ">of the sizes of all parts", "last factor")
    return head, list(_rows(tree, ""))


def _rows(branch: Branch, path: str) -> Iterator[tuple[str, ...]]:
    yield (
        path or "0",
        printable(shortened(branch.label, 80)),
        _number(branch.value),
        percent(branch.share),
        branch.factor,
    )
    for k, part in enumerate(branch.parts, 1):
        yield from _rows(part, f"{path}.{k}" if path else str(k))
    if branch.rest[1]:
        end = f"{path}.rest" if path else "rest"
        yield end, f"the remaining {branch.rest[1]:,}, together", _number(branch.rest[0]), "", ""


def _number(value: float, plus: bool = True) -> str:
    """Four digits, with a sign that can be seen.

    >>> _number(0.00012345), _number(-2.0), _number(-0.0), _number(3.0, plus=False), _number(math.nan)
    ('+0.0001234', '−2', '0', '3', 'not a number')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "+∞" if value > 0 else "−∞"
    return f"{value + 0.0:{'+' if plus and value else ''}.4g}".replace("-", "−")
