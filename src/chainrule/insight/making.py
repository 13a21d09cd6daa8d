"""Opening an element of an activation: the value as the sum of what made it, back to inputs and weights.

A layer's sum, z = Σ a · w + b, opens into its products; what is added before another layer or a function
follows is one sum. A function of one value is named with its numbers, and all of it comes from that value. A
function of several values that is no sum of them (a product of two activations, a quotient) is shared by
those it is made of, as a small relative change of each would change it: so the parts always add up.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import NamedTuple

import numpy as np

from chainrule.graph import Array, Node, reachable
from chainrule.insight.explanation import Explanation, Part, Remainder, Step, joined, largest, share_of
from chainrule.insight.factor import applied, computed
from chainrule.insight.formula import is_number
from chainrule.insight.labels import Element, Labels, pointed_to, source
from chainrule.insight.spread import derivative_at, loop_of
from chainrule.insight.stages import is_product
from chainrule.nest import Nest, Place

_FEW_OPERATIONS = 16  # of an activation
_FEW = 8  # terms of a sum that may be sums themselves, written out together
_ROUNDING = 64  # units in the last place by which parts that add up may miss


class Terms(NamedTuple):
    """Parts of a sum that are made alike.

    values   the parts
    factors  per factor: its node, and for every part the index of its element
    """

    values: Array
    factors: list[tuple[Node, tuple[Array, ...]]]

    def elements(self, k: int) -> list[Element]:
        """The factors of one part."""
        return [Element(node, tuple(int(at[k]) for at in index)) for node, index in self.factors]


class Making:
    """How the values behind an output were made."""

    def __init__(self, output: Node, labels: Labels) -> None:
        self.labels = labels
        self._uses = Counter(each for node in reachable([output]) for each in node.operands)

    def opened(self, at: Element, label: str, most: int) -> Explanation:
        """An element as the sum of its parts."""
        made = source(at)
        if made.node.primitive is None:
            given = [_single(made.value, made)] if made != at else []
            return self._explanation(made, label, (), given, most)
        terms = _terms(made)
        several = terms is None or any(len(each.factors) > 1 for each in terms)
        function = self._function_of(made) if several else None
        if function is not None:
            start, nodes = function
            step = Step(f"through {self.labels.where(made.node)}", made.value, applied(start, nodes))
            return self._explanation(made, label, (step,), [_single(made.value, start)], most)
        if terms is not None:
            return self._explanation(made, label, (), self._written_out(made.node, terms), most)
        step = Step(self.labels.operation(made.node), made.value, computed(*made))
        return self._explanation(made, label, (step,), _shared(made), most)

    def _function_of(self, at: Element) -> tuple[Element, list[Node]] | None:
        """The one value from which a layer computed an element, number by number, and the nodes that did.

        So an activation of several operations, such as GELU, is a function of one value like any other.
        """
        layer, inside, given = self.labels.within(at.node), {at.node}, set[Node]()
        pending = [at.node] if at.node.layer else []
        while pending and len(inside) <= _FEW_OPERATIONS:
            node = pending.pop()
            if node.primitive is None or not node.primitive.elementwise or node.shape != at.node.shape:
                return None
            for each in node.operands:
                if self.labels.within(each) != layer or each.primitive is None:
                    given |= set() if is_number(each) else {each}
                elif each not in inside:
                    inside.add(each)
                    pending.append(each)
        if pending or len(inside) == 1 or len(given) != 1:
            return None
        (start,) = given
        known = start.shape == at.node.shape and start.primitive is not None
        return (Element(start, at.place), sorted(inside, key=lambda each: each.serial)) if known else None

    def _written_out(self, node: Node, terms: list[Terms]) -> list[Terms]:
        """A few terms that are sums in the same layer, which nobody else uses, by their own terms."""
        if sum(len(each.values) for each in terms) > _FEW:
            return terms
        return [inner for term in terms for inner in self._inner(node, term)]

    def _inner(self, node: Node, term: Terms) -> list[Terms]:
        if len(term.factors) != 1 or len(term.values) != 1:
            return [term]
        at = source(term.elements(0)[0])
        same = self.labels.within(at.node) == self.labels.within(node) or not at.node.layer
        inner = _terms(at) if same and at.node.primitive is not None and self._uses[at.node] == 1 else None
        if inner is None or not at.value:
            return [term]
        scale = float(term.values[0]) / at.value
        return self._written_out(at.node, [Terms(scale * each.values, each.factors) for each in inner])

    def _explanation(
        self, at: Element, label: str, steps: tuple[Step, ...], terms: list[Terms], most: int
    ) -> Explanation:
        parts = joined([each.values for each in terms])
        ends = np.cumsum([len(each.values) for each in terms])
        listed, remainder, magnitude = largest(parts, most)
        children = []
        for k in map(int, listed):
            term = int(np.searchsorted(ends, k, side="right"))
            factors = terms[term].elements(k - int(ends[term]) + len(terms[term].values))
            children.append(self._part(factors, float(parts[k]), at.value))
        if not terms:
            magnitude = abs(at.value)
        return Explanation(
            label, at.value, steps, tuple(children), remainder, magnitude, row=self.labels.row(at)
        )

    def _part(self, factors: list[Element], value: float, whole: float) -> Part:
        """A product: what opens of it is what was computed; inputs and weights are known."""
        label = " × ".join(map(self.labels.element, factors))
        opening = [each for each in factors if each.computed]
        first = (opening or factors)[0]
        derivative = value / first.value if first.value else 0.0
        alone = len(opening) <= 1
        open_ = partial(self._alone, first) if alone else partial(self._product, opening, label, value)
        return Part(label, value, derivative, "", share_of(value, whole), self.labels.row(first), open_)

    def _alone(self, at: Element, most: int) -> Explanation:
        return self.opened(at, self.labels.element(at), most)

    def _product(self, factors: list[Element], label: str, value: float, most: int) -> Explanation:
        """A product of several values that were computed, shared equally by them."""
        share = value / len(factors)
        parts = [self._part([each], share, value) for each in factors]
        return Explanation(
            label, value, (), tuple(parts[:most]), Remainder(share * len(parts[most:]), len(parts[most:])),
            abs(value), row=self.labels.row(factors[0]),
        )  # fmt: skip


# -- one operation -------------------------------------------------------------------------------------------
def _terms(at: Element) -> list[Terms] | None:
    """The terms of which an element is the sum; None where it is no sum."""
    node, nest = at.node, loop_of(at.node)
    assert node.primitive is not None
    if nest is None:
        return _added(at)
    loop = _points(nest, at.place)
    if node.primitive.elementwise and not is_product(node):
        return _linear(at, nest, loop)
    if nest.combiner not in (None, "sum", "max", "min"):
        return None
    factors, inside = list[tuple[Node, tuple[Array, ...]]](), np.ones(len(loop[0]), bool)
    for read in nest.reads:
        places, there = read.places(loop)
        inside &= there
        factors.append((node.operands[read.operand or 0], tuple(places)))
    factors = [
        (each, tuple(np.broadcast_to(k, inside.shape)[inside] for k in places)) for each, places in factors
    ]
    values = np.prod([np.broadcast_to(each.value[places], inside.sum()) for each, places in factors], axis=0)
    if nest.combiner in ("max", "min"):
        won = np.flatnonzero(values == at.value)
        factors = [(each, tuple(k[won] for k in places)) for each, places in factors]
        values = values[won] / max(1, len(won))
    return [Terms(np.asarray(values, np.float64), [pair for pair in factors if not is_number(pair[0])])]


def _added(at: Element) -> list[Terms] | None:
    """What a scatter added up, by its indices."""
    fed = [Element(at.node.operands[operand], place) for operand, place in pointed_to(at)]
    return [_single(each.value, each) for each in fed] if at.node.name == "scatter" else None


def _points(nest: Nest, place: Place) -> list[Array]:
    """All points of a loop that belong to an element of the output."""
    fixed = {axis: at for axis, at in zip(nest.output, place, strict=True) if axis is not None}
    extents = tuple(nest.extents[axis] for axis in nest.combined)
    free = np.indices(extents).reshape(len(extents), math.prod(extents))
    grid = {axis: free[k] for k, axis in enumerate(nest.combined)}
    grid |= {axis: np.full(free.shape[1], at) for axis, at in fixed.items()}
    return [grid[axis] for axis in range(len(nest.extents))] or [np.zeros(1, np.int64)]


def _linear(at: Element, nest: Nest, loop: list[Array]) -> list[Terms] | None:
    """The operands of an elementwise operation times their derivatives, where these add up to the element."""
    parts = _first_order(at, nest, loop)
    sizes = sum(abs(part) for part, _ in parts)
    slack = _ROUNDING * np.finfo(at.node.dtype).eps * sizes
    if len(nest.reads) == 1 or not abs(sum(part for part, _ in parts) - at.value) <= slack:
        return None
    return [_single(part, each) for part, each in parts if part]


def _first_order(at: Element, nest: Nest, loop: list[Array]) -> list[tuple[float, Element]]:
    """Each operand of an elementwise operation: it times the derivative by it."""
    found = []
    for read in nest.reads:
        assert read.operand is not None
        operand = at.node.operands[read.operand]
        if operand.floating and not is_number(operand):
            places, _ = read.places(loop)
            each = Element(operand, tuple(int(np.ravel(place)[0]) for place in places))
            derivative = float(derivative_at(at.node, nest, loop, read.operand)[0])
            found.append((derivative * each.value if derivative else 0.0, each))
    return found


def _shared(at: Element) -> list[Terms]:
    """What is no sum, shared by what it was made of: as a small relative change of each would change it."""
    node, nest = at.node, loop_of(at.node)
    assert node.primitive is not None
    if nest is None:
        return []
    loop = _points(nest, at.place)
    if node.primitive.elementwise:
        parts = _first_order(at, nest, loop)
        sizes = np.array([abs(part) for part, _ in parts])
        weights = sizes / sizes.sum() if sizes.sum() > 0 else np.full(len(parts), 1 / max(1, len(parts)))
        return [_single(at.value * w, each) for w, (_, each) in zip(weights, parts, strict=True)]
    (read,) = nest.reads
    places, _ = read.places(loop)
    values = np.full(len(loop[0]), at.value / len(loop[0]))
    return [Terms(values, [(node.operands[read.operand or 0], tuple(places))])]


def _single(value: float, at: Element) -> Terms:
    return Terms(np.array([value]), [(at.node, tuple(np.array([k]) for k in at.place))])
