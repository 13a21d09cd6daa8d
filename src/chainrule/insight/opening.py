"""Opening an element of a gradient: the chain rule from an element of a value to the loss, layer by layer.

An element of a gradient is dL/dx = Σ dz/dx · dL/dz over the elements z that x moves. What x moves is followed
forward, one operation after the other while that is one element, and from there to the frontier: the next
layers' outputs (see `frontier`). Their elements are the children, and each is opened in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from chainrule.graph import ITEM, Array, Node
from chainrule.insight.adjoint import Adjoint, Edge
from chainrule.insight.explanation import Explanation, Part, Step, joined, largest, share_of
from chainrule.insight.factor import beside, together, written
from chainrule.insight.formula import number
from chainrule.insight.frontier import Frontier
from chainrule.insight.labels import Element, Labels
from chainrule.insight.paths import Paths
from chainrule.insight.spread import Moved, spread
from chainrule.nest import Place

_CANCELS = 16  # times more in the paths than in the elements they reach: then these are opened by operation


class Book:
    """What all numbers of one loss have in common."""

    def __init__(self, loss: Node, leaves: Sequence[Node], labels: Labels) -> None:
        self.adjoint = Adjoint(loss, leaves)
        self.frontier = Frontier(self.adjoint, labels.times)
        self.labels = labels

    @cached_property
    def paths(self) -> Paths:
        """How many paths lead from every element to the loss."""
        return Paths(self.adjoint)

    def error(self, node: Node) -> Array:
        """The derivative of the loss by a value, which has one output."""
        (cotangent,) = self.adjoint.cotangents[node]
        return cotangent


@dataclass(frozen=True)
class Number:
    """A factor times the derivative of the loss by one element of a node.

    factor  the local derivatives from the number that was opened first to this element, multiplied
    """

    book: Book
    node: Node
    place: Place
    factor: float = 1.0

    @property
    def value(self) -> float:
        """The number."""
        return self.factor * float(self.book.error(self.node)[self.place])

    def opened(self, label: str, most: int) -> Explanation:
        """The number as the sum of its parts."""
        at, steps = self, list[Step]()
        parts: dict[Node, Moved] = {}
        while at.node is not self.book.adjoint.loss and at.factor:
            onward = at._alone() or at._block()
            if not isinstance(onward, tuple):
                parts = onward
                break
            at, step = onward
            steps += [step] if step else []
        return at._divided(self, label, tuple(steps), parts, most)

    # -- while it is one element ---------------------------------------------------------------------------
    def _alone(self) -> tuple[Number, Step | None] | None:
        """Through the one operation that reads the element, if it moves one element; with the factor."""
        uses = self.book.adjoint.uses.get(self.node, ())
        if len(uses) != 1 or uses[0].user.name == ITEM:
            return None
        moved = spread(uses[0], Moved.element(self.node, self.place))
        if len(moved) != 1 or len(moved[0].places) != 1:
            return None
        return self._through(uses[0].user, moved[0], uses[0])

    def _block(self) -> tuple[Number, Step | None] | dict[Node, Moved]:
        """To the frontier: one element of it, with the factor, or how several move.

        Where nearly all cancels on the way, only to the next operations: there it is seen. Farther on, the
        parts would no longer be the number, which is what rounding left of larger ones.
        """
        start = Moved.element(self.node, self.place)
        moved = self.book.frontier.reached(self.node, start)
        if self._cancelled(moved):
            moved = self.book.frontier.reached(self.node, start, closely=True)
        moved = {node: each.really for node, each in moved.items() if each.by.any()}
        if len(moved) == 1:
            ((node, each),) = moved.items()
            if len(each.places) == 1:
                return self._through(node, each)
        return moved

    def _cancelled(self, moved: dict[Node, Moved]) -> bool:
        """Whether of what the paths bring, each by itself, little is left."""
        whole = left = 0.0
        for node, each in moved.items():
            errors = np.abs(self.book.error(node).reshape(-1)[each.places]).astype(np.float64)
            whole += float(each.sizes @ errors)
            left += float(np.abs(each.by) @ errors)
        return whole > _CANCELS * left

    def _through(self, node: Node, moved: Moved, edge: Edge | None = None) -> tuple[Number, Step | None]:
        """The number one element further, and the factor; None for one that is passed on as it is."""
        place, derivative, labels = _place(node, moved.places[0]), float(moved.by[0]), self.book.labels
        if edge is None:
            between = sorted(self.book.frontier.between(self.node, node), key=lambda each: each.serial)
            formula = together(Element(self.node, self.place), [*between, node], derivative)
            step: Step | None = Step(f"through {labels.where(node)}", derivative, formula)
        else:
            after = Element(node, place)
            formula = written(edge, place, derivative) or self._product(edge, after, derivative)
            told = formula or derivative != 1
            step = Step(labels.operation(node), derivative, formula) if told else None
        return Number(self.book, node, place, self.factor * derivative), step

    def _product(self, edge: Edge, after: Element, derivative: float) -> str:
        """What the element is multiplied with: "2.weight[14, 3] = 0.1202"; "" if that is not all there is."""
        factors = beside(edge, Element(self.node, self.place), after)
        value = math.prod(each.value for each in factors)
        if not factors or not math.isclose(value, derivative, rel_tol=1e-6):
            return ""
        labels = [self.book.labels.element(each) for each in factors]
        named = [label for label, each in zip(labels, factors, strict=True) if label != f"{each.value:.4g}"]
        return f"{' * '.join(labels)} = {number(derivative)}" if named else ""

    # -- where it divides ----------------------------------------------------------------------------------
    def _divided(
        self, opened: Number, label: str, steps: tuple[Step, ...], moved: dict[Node, Moved], most: int
    ) -> Explanation:
        """What is opened, as the sum over what this element moves."""
        errors = [self.book.error(node).reshape(-1)[each.places] for node, each in moved.items()]
        by = joined([each.by for each in moved.values()])
        parts = self.factor * by * joined(errors)
        nodes = [node for node, each in moved.items() for _ in each.places]
        places = np.concatenate([np.zeros(0, np.int64), *(each.places for each in moved.values())])
        listed, remainder, magnitude = largest(parts, most)
        value, paths = opened.value, self.book.paths.count(opened.node, opened.place)
        children = tuple(
            self._part(nodes[k], int(places[k]), float(by[k]), float(parts[k]), value) for k in listed
        )
        row = self.book.labels.row(Element(opened.node, opened.place))
        return Explanation(
            label, value, steps, children, remainder, magnitude if moved else abs(value),
            opened.factor, paths, row,
        )  # fmt: skip

    def _part(self, node: Node, flat: int, derivative: float, part: float, whole: float) -> Part:
        labels, at = self.book.labels, Element(node, _place(node, flat))
        number = Number(self.book, *at, self.factor * derivative)
        label = labels.element(at)
        return Part(
            label, part, derivative, self._passed(at, derivative), share_of(part, whole), labels.row(at),
            partial(number.opened, label),
        )  # fmt: skip

    def _passed(self, after: Element, derivative: float) -> str:
        """What the element is multiplied with on its way, where that is one product."""
        uses = self.book.adjoint.uses[self.node]
        if len(uses) != 1 or uses[0].user.size != after.node.size:
            return ""
        user = uses[0].user
        flat = int(Moved.element(*after).places[0])
        return self._product(uses[0], Element(user, _place(user, flat)), derivative)


def _place(node: Node, flat: int) -> Place:
    return tuple(map(int, np.unravel_index(flat, node.shape))) if node.shape else ()
