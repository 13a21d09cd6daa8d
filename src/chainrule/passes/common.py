"""Common subexpressions: what is computed twice is computed once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from chainrule.graph import Graph, Node
from chainrule.passes.rewriting import rewrite, united

SMALL = 64
"""Elements up to which constants are compared; larger ones are equal only if they are one array."""


def share_common_subexpressions(graph: Graph) -> Graph:
    """Merge nodes with the same operation, operands and attributes, and equal constants; reasons are united.

    Exact. What is recomputed on purpose, by the body of a `call` or once that was inlined, is not merged with
    what was computed before.
    """
    seen: dict[Hashable, Node] = {}

    def merged(node: Node) -> Node:
        try:
            first = seen.setdefault(_key(node), node)
        except TypeError:  # an attribute that cannot be hashed
            return node
        return first if first is node else united(first, node)

    return rewrite(graph, merged)


def _key(node: Node) -> Hashable:
    if node.primitive is not None:
        attributes = tuple((name, _typed(node.attributes[name])) for name in sorted(node.attributes))
        return node.primitive, node.operands, attributes, node.type, _is_recomputed(node)
    if node.size > SMALL:
        return id(node.value), node.type
    return node.type, node.value.strides, np.ascontiguousarray(node.value).tobytes()


def _is_recomputed(node: Node) -> bool:
    return bool(node.origins) and node.origins[0].role == "recompute"


def _typed(value: Any) -> Any:
    """A value that compares equal only to one of its own type: 1, 1.0 and True are different attributes."""
    return tuple(map(_typed, value)) if isinstance(value, tuple) else (type(value), value)
