"""The stages of a network, read from the graph of a loss: where weights meet data, and what answers.

A stage is a sum of products of what comes in with something made of parameters; then a bias may be added, and
a *response* follows: everything that depends on this sum alone, up to where other values join. An activation
is one, with pooling, normalisation or a softmax behind it; a whole attention, if one product makes queries,
keys and values. Stages are found by what nodes compute, so any module, and none, will do.
"""

from __future__ import annotations

import math
from collections.abc import Container, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from chainrule.graph import Array, Graph, Node, format_attribute, reachable
from chainrule.insight.adjoint import Adjoint, decades
from chainrule.insight.gates import gates_of, place_of
from chainrule.nest import multiplies, nest_of
from chainrule.ops import ops
from chainrule.tensor import Parameter, asarray
from chainrule.types import Type

_ADDING = ("add", "subtract")
_SEED = 20


@dataclass(frozen=True, eq=False)
class Stage:
    """One place where weights meet data.

    layer     path of the layer, or the operation and the user's line
    weight    the weights as they enter the product
    incoming  what they are multiplied with
    product   the sums of products
    bias      what is added to them, if anything is
    total     the sums with the bias
    response  the nodes that depend on the total alone, operands first; the last one is what they come to
    fan_in    products that make one sum
    """

    layer: str
    weight: Node
    incoming: Node
    product: Node
    bias: Node | None
    total: Node
    response: tuple[Node, ...]
    fan_in: float

    @property
    def answer(self) -> Node:
        """What the response makes of the total."""
        return self.response[-1] if self.response else self.total

    @property
    def responder(self) -> str:
        """Path of the layer that responds: that of the stage, where the response has none of its own."""
        return next((node.layer for node in self.response if node.layer not in ("", self.layer)), self.layer)

    @cached_property
    def form(self) -> tuple[Hashable, ...]:
        """What the response computes: equal for stages whose responses make the same of equal sums."""
        place: dict[Node, int] = {self.total: 0}
        found: list[Hashable] = [self.total.shape, self.total.dtype]
        for node in self.response:
            attributes = tuple((name, _comparable(each)) for name, each in node.attributes.items())
            operands = tuple(place.get(each, _constant(each)) for each in node.operands)
            found.append((node.name, operands, attributes))
            place[node] = len(place)
        return tuple(found)

    def gains(self, spread: float, error: Array | None = None) -> tuple[float, float]:
        """By how many decades the response changes norms, forward and backward, if normal numbers come in.

        spread  root mean square of these numbers
        error   what comes back, in the shape of the answer; normal numbers if not given
        """
        generator = np.random.default_rng(_SEED)
        drawn = generator.normal(0.0, spread, self.total.shape)
        start = asarray(drawn.astype(self.total.dtype)).node
        known = {self.total: start}
        for node in self.response:
            assert node.primitive is not None
            operands = [known.get(each, each) for each in node.operands]
            known[node] = ops.apply(node.primitive, operands, **node.attributes)
        end = known[self.answer]
        back = generator.normal(size=end.shape) if error is None else error / np.abs(error).max()
        probed = ops.sum(ops.multiply(end, ops.constant(back, end.dtype)))
        found = Adjoint(probed, [start]).cotangents[start]
        return (
            decades((np.asarray(end.value),)) - decades((np.asarray(start.value),)),
            decades(found) - decades((back,)),
        )


class Chain:
    """What is behind a loss, and how one part follows on the other.

    adjoint        the backward pass
    of_parameters  the nodes that are computed from parameters and numbers alone
    stages         in the order in which they were computed
    """

    def __init__(self, adjoint: Adjoint) -> None:
        self.adjoint = adjoint
        self.of_parameters = made_of_parameters(adjoint)
        self._gates = gates_of(adjoint)
        self._gains: dict[Hashable, tuple[float, float]] = {}
        self._series: dict[Stage, list[Stage]] = {}
        met = [(node, *pair) for node in self.nodes for pair in self._met(node)]
        onward = set(reachable(incoming for _, _, incoming in met))  # all that some stage takes in
        self.stages = [self._stage(*each, ends=each[0] not in onward) for each in met]

    @cached_property
    def nodes(self) -> list[Node]:
        """Everything that makes the loss, operands before users."""
        return reachable([self.adjoint.loss])

    @cached_property
    def of_data(self) -> set[Node]:
        """Floating-point arrays on which no parameter has any influence: inputs, targets, masks."""
        return {node for node in self.nodes if node not in self.adjoint.cotangents and _is_array(node)}

    @cached_property
    def behind(self) -> list[Node]:
        """What is computed from the last stages: the outputs and their loss."""
        onward = set(reachable(stage.incoming for stage in self.stages))
        found = {stage.product for stage in self.stages if stage.product not in onward}
        for node in self.nodes:
            if any(each in found for each in node.operands):
                found.add(node)
        return sorted(found, key=lambda node: node.serial)

    def in_series(self, stage: Stage) -> list[Stage]:
        """A stage and those through which all that it makes has to pass: the gains of these multiply."""
        if stage not in self._series:
            node, passed = stage.product, {stage.product}
            while (gate := self._gates.get(node)) is not None:
                passed.add(gate)
                node = gate
            self._series[stage] = [each for each in self.stages if each.product in passed]
        return self._series[stage]

    def gains(self, stage: Stage, spread: float) -> tuple[float, float]:
        """The gains of a stage for normal numbers; in a deep network most stages respond alike."""
        key = (stage.form, spread)
        if key not in self._gains:
            self._gains[key] = stage.gains(spread)
        return self._gains[key]

    def error(self, node: Node) -> Array | None:
        """The derivative of the loss by a node with one output."""
        found = self.adjoint.cotangents.get(node)
        return found[0] if found else None

    # -- reading one stage -----------------------------------------------------------------------------------
    def _met(self, node: Node) -> list[tuple[Node, Node]]:
        """The weight and the data of a product of the two, or nothing."""
        if node in self.of_parameters or node not in self.adjoint.cotangents or not is_product(node):
            return []
        weights = [each for each in node.operands if each in self.of_parameters and _is_array(each)]
        others = [each for each in node.operands if each not in self.of_parameters and _is_array(each)]
        return [(weights[0], others[0])] if len(weights) == len(others) == 1 else []

    def _stage(self, product: Node, weight: Node, incoming: Node, ends: bool) -> Stage:
        bias, total = self._shifted(product)
        response = () if ends else tuple(self._response(total))
        return Stage(place_of(product), weight, incoming, product, bias, total, response, _summed(product))

    def _shifted(self, product: Node) -> tuple[Node | None, Node]:
        """The bias, and the sum with it."""
        gate = self._gates.get(product)
        if gate is not None and gate.name in _ADDING and product in gate.operands:
            for each in gate.operands:
                if each in self.of_parameters:
                    return each, gate
        return None, product

    def _response(self, total: Node) -> list[Node]:
        found: list[Node] = []
        known, end = {total}, total
        while (gate := self._gates.get(end)) is not None:
            between = self._between(end, gate)
            known.update(between)
            if not all(_depends_only_on(node, known) for node in between):
                break
            found, end = found + between, gate
        return found

    def _between(self, node: Node, gate: Node) -> list[Node]:
        """The nodes on the ways from a node to its gate, the gate included, operands first."""
        found, pending = set[Node](), [node]
        while pending:
            for edge in self.adjoint.uses.get(pending.pop(), ()):
                if edge.user not in found:
                    found.add(edge.user)
                    if edge.user is not gate:
                        pending.append(edge.user)
        return sorted(found, key=lambda each: each.serial)


def made_of_parameters(adjoint: Adjoint) -> set[Node]:
    """Parameters, and what is computed from them and numbers alone, such as a transposed weight."""
    found: set[Node] = set()
    for node in reachable([adjoint.loss]):
        if node.primitive is None:
            if isinstance(node.cell, Parameter):
                found.add(node)
        elif any(each in found for each in node.operands) and all(
            each in found or (each.primitive is None and each.size == 1) for each in node.operands
        ):
            found.add(node)
    return found


def is_product(node: Node) -> bool:
    """Whether a node is a product of its operands, or a sum of products."""
    types = [each.type for each in node.operands]
    return node.primitive is not None and multiplies(node.primitive, types, node.attributes)


def _is_array(node: Node) -> bool:
    return isinstance(node.type, Type) and node.floating and node.ndim > 0 and node.size > 0


def _depends_only_on(node: Node, known: Container[Node]) -> bool:
    """Whether a node is computed from known ones, and from constants that no product makes of data."""
    return isinstance(node.type, Type) and all(
        each in known or (each.primitive is None and each.cell is None) for each in node.operands
    )


def _comparable(attribute: Any) -> Hashable:
    """An attribute as text; a graph is like itself alone."""
    return attribute if isinstance(attribute, Graph) else format_attribute(attribute)


def _constant(node: Node) -> Hashable:
    """A number as it is; whatever else a response takes in is like itself alone."""
    is_number = node.primitive is None and node.cell is None and node.size == 1 and node.value is not None
    return (node.shape, np.asarray(node.value).item()) if is_number else node


def _summed(product: Node) -> float:
    """How many products make one element."""
    assert product.primitive is not None
    nest = nest_of(product.primitive, *(each.type for each in product.operands), **product.attributes)
    return math.prod(nest.extents) / max(1, product.size) if nest else 1.0


# -- units ---------------------------------------------------------------------------------------------------
def axis_of_units(leaf: Node, entrance: Node) -> int | None:
    """Along which axis of the node where a parameter meets the data the places of its first axis lie.

    None where they do not lie along one: the parameter was reshaped before, say.
    """
    assert entrance.primitive is not None
    for number, operand in enumerate(entrance.operands):
        position = _first_axis(operand, leaf)
        if position is None:
            continue
        if entrance.primitive.elementwise:
            axis = entrance.ndim - operand.ndim + position
            return axis if entrance.shape[axis] == operand.shape[position] else None
        types = [each.type for each in entrance.operands]
        nest = nest_of(entrance.primitive, *types, **entrance.attributes)
        reads = [] if nest is None else [read for read in nest.reads if read.operand == number]
        moving = [read.index[position].terms for read in reads]
        if nest is not None and len(moving) == 1 and len(moving[0]) == 1 and moving[0][0][0] in nest.output:
            return nest.output.index(moving[0][0][0])
    return None


def _first_axis(node: Node, leaf: Node) -> int | None:
    """Where the first axis of `leaf` is in a node that is it, or shows it with its axes in another order."""
    if node is leaf:
        return 0
    if node.primitive is None or node.name not in ("permute_dims", "identity", "reshape"):
        return None
    operand = node.operands[0]
    inner = _first_axis(operand, leaf)
    if inner is None or node.name == "identity":
        return inner
    if node.name == "permute_dims":
        return int(node.attributes["axes"].index(inner))
    before, after = ([k for k, n in enumerate(each.shape) if n != 1] for each in (operand, node))
    same = inner in before and [operand.shape[k] for k in before] == [node.shape[k] for k in after]
    return after[before.index(inner)] if same else None
