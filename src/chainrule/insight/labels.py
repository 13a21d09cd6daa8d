"""What numbers are called: an element by its leaf, its layer or its operation, a row by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chainrule.graph import Node, reachable
from chainrule.insight.gates import place_of
from chainrule.insight.rows import Rows
from chainrule.insight.spread import loop_of, moves
from chainrule.insight.unrolled import Times
from chainrule.nest import Place


class Element(NamedTuple):
    """One element of a value."""

    node: Node
    place: Place

    @property
    def value(self) -> float:
        """The number."""
        return float(self.node.value[self.place])

    @property
    def computed(self) -> bool:
        """Whether it was computed; what was given, or is learned, is not."""
        return source(self).node.primitive is not None


@dataclass(frozen=True)
class Labels:
    """The names of everything behind a value.

    leaves  parameters and inputs, by name
    times   node → the steps of the loops around it
    ends    values that leave their layer → which of several that do
    rows    the rows of the batch, where they have names
    """

    leaves: Mapping[Node, str]
    times: Mapping[Node, Times]
    ends: Mapping[Node, int]
    rows: Rows | None = None

    def within(self, node: Node) -> tuple[str, Times]:
        """The layer of a node, and the steps of the loops around it."""
        return node.layer, self.times.get(node, ())

    def where(self, node: Node) -> str:
        """The layer of a node, or else the operation and the user's line.

        With "@t" inside of a loop; "#2" is the second of several values that leave a layer.
        """
        which = self.ends.get(node)
        at = "@".join([place_of(node), *map(str, self.times.get(node, ()))])
        return f"{at}#{which}" if which else at

    def operation(self, node: Node) -> str:
        """An operation, and where it is."""
        return f"{node.name} in {self.where(node)}" if node.layer else self.where(node)

    def element(self, at: Element) -> str:
        """What an element is called; one of a constant that has no name is the number that it is."""
        node, place = at if at.node in self.ends else source(at)
        index = list(place) if place else ""
        if node.primitive is not None and (node not in self.ends or not node.layer):
            operation, _, where = self.operation(node).partition(" ")
            return f"{operation}{index} {where}".strip()
        name = self.leaves.get(node, "") if node.primitive is None else self.where(node)
        return f"{name}{index}" if name else f"{at.value:.4g}"

    def row(self, at: Element) -> str:
        """What the row of the batch is called that an element belongs to, "" where nobody knows."""
        return self.rows.of(*at) if self.rows else ""


def ends_of(output: Node, times: Mapping[Node, Times]) -> dict[Node, int]:
    """The values that leave their layer: 0 where it is one, else its number among them, from 1."""
    leaving = dict.fromkeys([output] if output.layer else [])
    for user in reachable([output]):
        here = user.layer, times.get(user)
        leaving.update(
            (each, None) for each in user.operands if each.layer and (each.layer, times.get(each)) != here
        )
    of_layer: dict[tuple[str, Times | None], list[Node]] = {}
    for node in sorted(leaving, key=lambda each: each.serial):
        of_layer.setdefault((node.layer, times.get(node)), []).append(node)
    return {
        node: k if len(nodes) > 1 else 0 for nodes in of_layer.values() for k, node in enumerate(nodes, 1)
    }


def source(at: Element) -> Element:
    """The element itself, wherever it was laid out anew since it was made."""
    while at.node.primitive is not None:
        found = pointed_to(at) if loop_of(at.node) is None else _laid_out(at) if moves(at.node) else []
        if len(found) != 1:
            break
        ((operand, place),) = found
        at = Element(at.node.operands[operand], place)
    return at


def _laid_out(at: Element) -> list[tuple[int, Place]]:
    """(operand, place) of what an element was before."""
    nest = loop_of(at.node)
    assert nest is not None
    (point,) = nest.points(at.place)
    return [each for each in point if each is not None]


def pointed_to(at: Element) -> list[tuple[int, Place]]:
    """(operand, place) of what indices, of a gather or a scatter, say that an element is made of."""
    node = at.node
    if node.primitive is None or node.primitive.feeds is None or not isinstance(node.value, np.ndarray):
        return []
    feeding = node.primitive.feeds(at.place, *(each.value for each in node.operands), **node.attributes)
    pairs = enumerate(zip(node.operands, feeding, strict=True))
    return [(k, place) for k, (each, places) in pairs if each.floating for place in places]
