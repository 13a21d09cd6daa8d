"""Choosing one element per row by comparing instead of by address.

``gather(scores, rows, classes)`` with one class per row is a sum over columns of which all but one are
masked, and its transpose, a scatter, is a mask: elementwise work that becomes part of the softmax beside it,
instead of a kernel of its own that reads, or fills, the matrix once more.
"""

from __future__ import annotations

import numpy as np

from chainrule.graph import Graph, Node
from chainrule.ops import ops
from chainrule.origin import because
from chainrule.passes.rewriting import rewrite
from chainrule.primitives.index import CHECKED_INDICES, GATHER, IOTA, SCATTER
from chainrule.types import Type

Checked = dict[tuple[Node, int], Node]
"""Indices, and the length of their axis, → the node that checks them."""
COLUMNS = 256
"""Columns up to which a matrix is gone through: the work grows with them, that of an address does not."""


def select_instead_of_gather(graph: Graph) -> Graph:
    """Write gathers of one element per row of a narrow floating matrix, and their transposes, as masks.

    The same numbers, up to the sign of a zero: a chosen -0.0 comes out as 0.0, which sums begin with, and a
    -0.0 is spread as it is. NaN and infinity beside the chosen element do not come through, because the mask
    lies in front of the sum. The indices go through `checked_indices`, once for a gather and its transpose:
    negative ones count from the end, and one out of range raises as before, on every backend. That check is
    a pass over the indices alone.

    For backends that fuse; one operation after the other, a mask is slower than an address.

    >>> import chainrule as cr
    >>> from chainrule.ops import ops
    >>> from chainrule.trace import trace_program
    >>> def chosen(scores, classes):
    ...     return cr.Tensor(ops.gather(scores.node, ops.iota((3,)), classes.node, axis=0))
    >>> types = Type((3, 5), np.dtype("float32")), Type((3,), np.dtype("int64"))
    >>> [node.name for node in select_instead_of_gather(trace_program(chosen, types).graph).nodes]
    ['input', 'input', 'checked_indices', 'reshape', 'constant', 'equal', 'constant', 'where', 'sum']
    """
    checked: Checked = {}

    def selected(node: Node) -> Node:
        if node.primitive is GATHER:
            return _gathered(node, checked)
        if node.primitive is SCATTER:
            return _scattered(node, checked)
        return node

    return rewrite(graph, selected)


def _gathered(node: Node, checked: Checked) -> Node:
    scores, *indices = node.operands
    if not _one_per_row(scores.type, indices, node.attributes["axis"]):
        return node
    with because(node.origins[0]):
        mask = _mask(indices[1], scores.shape[1], checked)
        return _for(node, ops.sum(ops.where(mask, scores, 0), axis=1))


def _scattered(node: Node, checked: Checked) -> Node:
    updates, *indices = node.operands
    full = Type(node.attributes["shape"], updates.dtype)
    if not _one_per_row(full, indices, node.attributes["axis"]):
        return node
    with because(node.origins[0]):
        mask = _mask(indices[1], full.shape[1], checked)
        return _for(node, ops.where(mask, ops.expand_dims(updates, axis=1), 0))


def _one_per_row(matrix: Type, indices: list[Node], axis: int) -> bool:
    """True where `indices` are the number of every row, in order, and one column each."""
    if matrix.ndim != 2 or not matrix.floating or axis != 0 or len(indices) != 2:
        return False
    rows, columns = matrix.shape
    narrow = 0 < columns <= COLUMNS and rows > 0
    return narrow and indices[1].shape == (rows,) and _counts(indices[0], rows)


def _counts(node: Node, extent: int) -> bool:
    """True for 0, 1, 2, … below `extent`, computed or as a constant."""
    if node.shape != (extent,):
        return False
    value = node.value
    return node.primitive is IOTA or (value is not None and bool((value == np.arange(extent)).all()))


def _mask(columns: Node, extent: int, checked: Checked) -> Node:
    """True at the column of each row: checked once, compared anew, which is cheaper than to keep a matrix."""
    key = (columns, extent)
    if key not in checked:
        checked[key] = ops.apply(CHECKED_INDICES, [columns], extent=extent, axis=1)
    positions = checked[key]
    return ops.equal(ops.expand_dims(positions, axis=1), ops.iota((extent,), dtype=positions.dtype))


def _for(node: Node, made: Node) -> Node:
    """`made` in the place of `node`, for the same reasons."""
    made.origins = node.origins
    return made
