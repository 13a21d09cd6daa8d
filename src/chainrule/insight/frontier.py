"""Frontiers: where one layer ends, so that a number opens layer by layer and not operation by operation.

From an element, the chain rule is followed up to the nodes of a frontier: outputs of layers, and outside of
all layers every operation. Each path to the loss passes a first one of them, so what the paths bring there,
times the derivative of the loss there, adds up to the whole.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from chainrule.graph import ITEM, Node
from chainrule.insight.adjoint import Adjoint
from chainrule.insight.gates import gates_of
from chainrule.insight.spread import Moved, moves, spread
from chainrule.insight.stages import made_of_parameters
from chainrule.insight.unrolled import Times
from chainrule.types import Type

_SMALL = 50  # nodes of a function that is passed as one, outside of all layers


class Frontier:
    """Where the layers behind a loss end.

    times  node → the steps of the loops around it
    """

    def __init__(self, adjoint: Adjoint, times: Mapping[Node, Times]) -> None:
        self.adjoint, self.times = adjoint, times
        self._passed = self._inside_of_functions()

    def where(self, node: Node) -> tuple[str, Times]:
        """The layer of a node, and the step of the loop."""
        return node.layer, self.times.get(node, ())

    def __contains__(self, node: Node) -> bool:
        if node is self.adjoint.loss:
            return True
        if not isinstance(node.type, Type) or node in self._passed:
            return False
        if not node.layer:
            return not moves(node)
        here = self.where(node)
        return any(self.where(edge.user) != here for edge in self.adjoint.uses.get(node, ()))

    def _inside_of_functions(self) -> set[Node]:
        """What lies, outside of all layers, between a value and where its ways meet, without a parameter.

        That is a softmax, a variance: a function of the value, which is passed as one.
        """
        passed, of_parameters = set[Node](), made_of_parameters(self.adjoint)
        for node, gate in gates_of(self.adjoint).items():
            if len(self.adjoint.uses[node]) > 1 and node not in of_parameters:
                inside = self.between(node, gate)
                nodes = [*inside, gate]
                operands = {each for user in nodes for each in user.operands if each is not node}
                if not any(each.layer for each in nodes) and operands.isdisjoint(of_parameters):
                    passed.update(inside)
        return passed

    def between(self, node: Node, gate: Node) -> list[Node]:
        """The nodes between a node and one that all its ways pass; none where they are many."""
        found, pending = dict[Node, None](), [node]
        while pending and len(found) <= _SMALL:
            for edge in self.adjoint.uses.get(pending.pop(), ()):
                if edge.user is not gate and edge.user not in found:
                    found[edge.user] = None
                    pending.append(edge.user)
        return list(found) if len(found) <= _SMALL else []

    def reached(self, node: Node, moved: Moved, closely: bool = False) -> dict[Node, Moved]:
        """How the nodes of the frontier move that paths from a node reach first, when it moves like that.

        closely  every operation is a frontier
        """
        moving: dict[Node, tuple[Moved, ...]] = {node: (moved,)}
        pending, found = [(node.serial, node)], dict[Node, Moved]()
        while pending:
            _, at = heapq.heappop(pending)
            here = moving.pop(at)
            near = closely and isinstance(at.type, Type) and not moves(at)
            if at is not node and (near or at in self):
                (found[at],) = here
                continue
            for edge in self.adjoint.uses.get(at, ()):
                user = edge.user
                there = (here[user.attributes["index"]],) if user.name == ITEM else spread(edge, here[0])
                if user in moving:
                    there = tuple(a.plus(b) for a, b in zip(moving[user], there, strict=True))
                else:
                    heapq.heappush(pending, (user.serial, user))
                moving[user] = there
        return found
