"""Every how many steps a training tells of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chainrule.graph import Graph, Node
from chainrule.schedule.groups import LARGE_UPDATE, UPDATED, contraction_of
from chainrule.types import Type

NORMS, FACTS, PICTURES = 0, 1, 2
"""Details of a step: see `schedule`. Norms of gradients come from every step, pictures with the facts."""
SHARE = 1 / 40
"""Of a step's time, what facts may cost where nobody said how often they are wanted."""

# What a step costs is counted, not measured, so that the same training always tells the same. The unit is
# what a step computes: a multiply-add, or another operation on one number. Fitted to A to H of
# benchmarks/specs.py.
_NUMBER = 4.5  # a number that is told of: a load, a product, a sum, a maximum, a minimum
_ARRAY = 250  # numbers; an array besides: its call, and the sums over lanes
_LARGE = 2  # numbers of a large weight, its gradient and update: stored for this, beyond the second cache


@dataclass(frozen=True)
class Rates:
    """Every how many steps a step tells of itself: those whose number, from 0 on, is a multiple.

    facts     None: as often as costs about a 40th of a step's time, as its operations are counted: every
              step where a step has much work for each number in it (large batches), else one of 2, 4, 8 …
    pictures  a multiple of it; a histogram compares every number with 48 edges
    """

    facts: int | None = None
    pictures: int = 1024

    def __post_init__(self) -> None:
        facts = 1 if self.facts is None else self.facts
        if facts < 1 or self.pictures < 1 or self.pictures % facts:
            raise ValueError(
                f"Rates(facts={self.facts}, pictures={self.pictures}): each is a number of steps, and "
                "pictures a multiple of facts, since they come with them"
            )

    def details(self, first: int, count: int) -> np.ndarray[Any, Any]:
        """How much detail each of `count` steps from `first` on is asked for."""
        assert self.facts is not None
        asked = np.zeros(count, np.int64)
        asked[-first % self.facts :: self.facts] = FACTS
        asked[-first % self.pictures :: self.pictures] = PICTURES
        return asked

    def fitted(self, graph: Graph, details: Sequence[int]) -> Rates:
        """With a number of steps for facts.

        details  for the first outputs of the step's graph with how much detail they are told; the others, and
                 those of none, are the step itself
        """
        if self.facts is not None:
            return self
        told = [node for node, each in zip(graph.outputs, details, strict=False) if each == FACTS]
        asked = [*details, *[0] * (len(graph.outputs) - len(details))]
        step = Graph(
            graph.inputs,
            tuple(node for node, each in zip(graph.outputs, asked, strict=True) if not each),
        )
        share = _NUMBER * sum(map(_told, told)) / max(1, work(step))
        return replace(self, facts=self._within(share / SHARE))

    def _within(self, least: float) -> int:
        """The smallest power of two from `least` on, of those that pictures are a multiple of."""
        most = self.pictures & -self.pictures
        return min(most, 1 << max(0, math.ceil(math.log2(max(least, 1)))))


def _told(node: Node) -> int:
    """What a fact costs, in numbers."""
    (array,) = node.operands
    of_parameter = any(origin.role == "update" for origin in node.origins)
    large = of_parameter and array.size * UPDATED * array.dtype.itemsize >= LARGE_UPDATE
    return _ARRAY + array.size * (_LARGE if large else 1)


def work(graph: Graph) -> int:
    """The points of all loops of a graph: multiply-adds of products, elements of everything else."""
    return sum(map(_points, graph.nodes))


def _points(node: Node) -> int:
    if node.primitive is None:
        return 0
    inside = node.attributes.get("graph")
    if isinstance(inside, Graph):
        return int(node.attributes.get("length", 1)) * work(inside)
    nest = contraction_of(node)
    if nest is not None:
        return math.prod(nest.extents)
    return node.size if isinstance(node.type, Type) else 0
