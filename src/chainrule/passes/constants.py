"""Constant folding: what depends on constants alone is computed once, when the program is made."""

from __future__ import annotations

import numpy as np

from chainrule.graph import Graph, Node, constant
from chainrule.passes.rewriting import rewrite
from chainrule.primitives import REGISTRY
from chainrule.types import Type

LARGEST = 1 << 20
"""Bytes a folded constant may take: a big array is cheaper to make again than to keep."""


def fold_constants(graph: Graph) -> Graph:
    """Compute nodes whose operands are all constants, unless the result is large.

    Exact: the value is the meaning's own. A broadcast constant stays one number, repeated by its strides.
    """
    return rewrite(graph, _folded)


def _folded(node: Node) -> Node:
    if node.primitive is None or any(operand.value is None for operand in node.operands):
        return node
    if not isinstance(node.type, Type) or not _worth_keeping(node):
        return node
    with np.errstate(all="ignore"):
        value = node.primitive.meaning(np, *(operand.value for operand in node.operands), **node.attributes)
    folded = constant(np.asarray(value), node.label)
    folded.origins = node.origins
    return folded


def _worth_keeping(node: Node) -> bool:
    spread_out = node.primitive is REGISTRY["broadcast_to"]  # no memory of its own
    return spread_out or node.type.size * node.type.dtype.itemsize <= LARGEST
