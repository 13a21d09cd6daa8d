"""Which row of the batch an element belongs to, as far as rows can be told apart.

The batch has its rows along the first axis. An operation whose loop runs along this axis of an operand, and
along an axis of its result in step with it, keeps rows apart; a sum over it does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chainrule.graph import Node, reachable
from chainrule.nest import Nest, along, nest_of
from chainrule.types import Type


class Rows:
    """The rows of a batch, in all that was computed from it.

    names  what they are called; where nobody knows, they are counted from 0
    """

    def __init__(self, outputs: Sequence[Node], names: Sequence[str] = ()) -> None:
        order = reachable(outputs)
        given = [node for node in order if node.primitive is None and node.cell is None and node.ndim]
        lengths = Counter(node.shape[0] for node in given)
        count = len(names) or max(lengths.items(), key=_often, default=(0, 0))[0]
        self.names = list(names) or [f"row {k:,} of the batch" for k in range(count)]
        self._axes: dict[Node, int] = {node: 0 for node in given if node.shape[0] == count}
        for node in order:
            axis = _axis(node, self._axes)
            if axis is not None:
                self._axes[node] = axis

    def of(self, node: Node, place: Sequence[int]) -> str:
        """The name of the row that an element belongs to; "" where it is made of several or of none."""
        axis = self._axes.get(node)
        return "" if axis is None or not len(place) else self.names[place[axis]]


def _often(entry: tuple[int, int]) -> tuple[int, int]:
    length, times = entry
    return times, length


def _axis(node: Node, axes: dict[Node, int]) -> int | None:
    """The axis of a node along which rows lie, if they lie along one axis of its operands."""
    if node.primitive is None or not isinstance(node.type, Type):
        return None
    moving = [(k, axes[each]) for k, each in enumerate(node.operands) if each in axes]
    if node.name == "reshape" and moving == [(0, 0)]:  # row by row, as long as there are as many
        return 0 if node.shape[:1] == node.operands[0].shape[:1] else None
    types = [each.type for each in node.operands]
    nest = nest_of(node.primitive, *types, **node.attributes) if moving else None
    if nest is None:
        return None
    found = {_kept(nest, operand, axis) for operand, axis in moving}
    return found.pop() if len(found) == 1 else None


def _kept(nest: Nest, operand: int, axis: int) -> int | None:
    """The axis of the output that goes along with an axis of an operand; None where there is none."""
    loops = {read.index[axis] for read in nest.reads if read.operand == operand}
    for k, loop in enumerate(nest.output):
        if loop is not None and loops == {along(loop)}:
            return k
    return None
