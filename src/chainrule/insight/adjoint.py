"""The backward pass kept: every cotangent, and what came back over every edge.

The cotangent of a value is the derivative of the loss by it. Where a value is used several times, it is the
sum of what comes back over the uses; these parts are kept apart, since shares and openings are made of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from chainrule.errors import GradientError
from chainrule.graph import ITEM, Array, Node, reachable
from chainrule.ops import no_grad, ops
from chainrule.origin import at_user_line
from chainrule.reverse import ReverseWalk
from chainrule.tensor import Parameter

Cotangent = tuple[Array, ...]
"""One array; one for each output of a node that has several."""


class Edge(NamedTuple):
    """One use of a value: operand number `operand` of the node `user`."""

    user: Node
    operand: int

    @property
    def value(self) -> Node:
        """What is used."""
        return self.user.operands[self.operand]


class Adjoint:
    """A scalar loss, and the derivatives that led back from it to some leaves.

    cotangents  node → the derivative of the loss by it
    parts       edge → what came back over it
    """

    def __init__(self, loss: Node, leaves: Sequence[Node]) -> None:
        self.loss = loss
        self.cotangents: dict[Node, Cotangent] = {}
        self.parts: dict[Edge, Cotangent] = {}
        with no_grad():
            found = _Keeping(self)([loss], [ops.full(loss.type, 1)], list(leaves))
        for leaf, cotangent in zip(leaves, found, strict=True):
            if cotangent is not None:
                self.cotangents[leaf] = (cotangent.value,)

    @cached_property
    def uses(self) -> dict[Node, list[Edge]]:
        """Node → the edges over which its cotangent came back."""
        uses: dict[Node, list[Edge]] = {}
        for edge in self.parts:
            uses.setdefault(edge.value, []).append(edge)
        return uses

    @property
    def backward_order(self) -> list[Node]:
        """Nodes that have a cotangent, users before what they use."""
        return sorted(self.cotangents, key=lambda node: -node.serial)


def parameters_of(loss: Node) -> dict[str, Node]:
    """The parameters on which a loss depends, by path; one without, or with another's, gets a number."""
    found: dict[str, Node] = {}
    for node in reachable([loss]):
        if isinstance(node.cell, Parameter) and node.floating:
            name = node.cell.name
            found[f"{name or 'parameter'} {len(found)}" if not name or name in found else name] = node
    if not found:
        raise GradientError(
            f"this loss depends on no parameter{at_user_line()}: wrap what is learned in cr.nn.Parameter(...)"
        )
    return found


def flat(cotangent: Cotangent) -> Any:
    """All numbers of a cotangent in one row, in float64."""
    return np.concatenate([np.asarray(each, np.float64).ravel() for each in cotangent])


def decades(cotangent: Cotangent) -> float:
    """log10 of the Euclidean norm, without overflow; -inf for zeros, nan for what is not finite."""
    sizes = np.abs(flat(cotangent))
    largest = float(sizes.max(initial=0.0))
    if largest == 0.0:
        return -math.inf
    if not math.isfinite(largest):
        return math.nan
    sizes /= largest
    return math.log10(largest) + 0.5 * math.log10(float(np.vdot(sizes, sizes)))


class _Keeping(ReverseWalk):
    """The backward walk, which notes what passes."""

    def __init__(self, kept: Adjoint) -> None:
        super().__init__()
        self._kept = kept

    def _spread(self, node: Node, total: Any, parts: Any, needed: set[Node]) -> None:
        several = total if isinstance(total, tuple) else (total,)
        cotangent = tuple(each.value for each in several if each is not None)
        self._kept.cotangents[node] = cotangent
        if node.name == ITEM:
            self._kept.parts[Edge(node, 0)] = cotangent
        super()._spread(node, total, parts, needed)

    def contributions(self, node: Node, total: Any, needed: set[Node]) -> Iterator[tuple[int, Node]]:
        for index, part in super().contributions(node, total, needed):
            self._kept.parts[Edge(node, index)] = (part.value,)
            yield index, part
