"""The grammar of graphs, as a table that runs.

Every traced program is checked against it (`trace_program` does), and `verify(graph)` checks any graph: after
a pass, in a test, in a debugger. A rule looks at one node and says what is wrong, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, Signature, signature
from typing import Any, NamedTuple

import numpy as np

from chainrule.errors import GraphError
from chainrule.graph import ABSTRACT, ITEM, Graph, Node, format_type
from chainrule.primitive import Primitive
from chainrule.types import Type

_SCALARS = (bool, int, float, str, np.dtype, type(None))


@dataclass(frozen=True)
class Place:
    """Where a node stands: the graph, and its inputs as a set."""

    graph: Graph
    inputs: frozenset[Node]


class Rule(NamedTuple):
    """One sentence of the grammar. `broken(node, place)` says how a node breaks it, "" if it does not."""

    name: str
    sentence: str
    broken: Callable[[Node, Place], str]


# -- leaves ------------------------------------------------------------------------------------------------
def _leaf(node: Node, place: Place) -> str:
    if node in place.inputs:
        return "an input was computed or has a value" if node.primitive or node.value is not None else ""
    if node.primitive is None and node.value is None:
        return "it has no value and is not among the inputs"
    return ""


def _constant(node: Node, place: Place) -> str:
    value = node.value
    if node.primitive is not None or value is None:
        return ""
    if not isinstance(value, np.ndarray) or Type(value.shape, value.dtype) != node.type:
        return f"its value is {type(value).__name__} {getattr(value, 'shape', '')}"
    return "its value can be written to" if value.flags.writeable else ""


def _leaf_is_bare(node: Node, place: Place) -> str:
    bare = node.primitive is not None or not (node.operands or node.attributes)
    return "" if bare else f"it has {len(node.operands)} operands and attributes {sorted(node.attributes)}"


# -- operands ----------------------------------------------------------------------------------------------
def _order(node: Node, place: Place) -> str:
    late = [each.name for each in node.operands if each.serial >= node.serial]
    return f"{late[0]} is younger" if late else ""


@cache
def _misfit(primitive: Primitive, operands: int, attributes: tuple[str, ...]) -> str:
    """How so many operands and these attributes are not what the record's meaning takes after the namespace.

    Operands are taken by position, attributes by name.
    """
    written = list(signature(primitive.meaning).parameters.values())[1:]
    taken = Signature([each for each in written if each.kind is not Parameter.VAR_KEYWORD])
    try:
        taken.bind(*[None] * operands, **dict.fromkeys(attributes))
    except TypeError as error:
        return str(error)
    return ""


def _count(node: Node, place: Place) -> str:
    if node.primitive is None:
        return ""
    return _misfit(node.primitive, len(node.operands), tuple(node.attributes))


def _several(node: Node, place: Place) -> str:
    if node.name == ITEM:
        return "" if not isinstance(node.operands[0].type, Type) else "its operand has one output"
    several = [each.name for each in node.operands if not isinstance(each.type, Type)]
    return f"it uses {several[0]} as a whole" if several else ""


# -- types -------------------------------------------------------------------------------------------------
def _dtypes(node: Node, place: Place) -> str:
    strange = [each for each in node.types if each.dtype.kind not in "fiub" or each.dtype == np.float16]
    return f"it is {strange[0]}" if strange else ""


def _type(node: Node, place: Place) -> str:
    if node.primitive is None:
        return ""
    try:
        inferred = node.primitive.infer(*[each.type for each in node.operands], **node.attributes)
    except Exception as error:  # whatever a type rule trips over is a fault of the graph
        return f"its operands do not fit: {error}"
    return "" if inferred == node.type else f"its operands give {format_type(inferred)}"


# -- attributes ----------------------------------------------------------------------------------------------
def _attributes(node: Node, place: Place) -> str:
    strange = [name for name, value in node.attributes.items() if not _canonical(value)]
    return f"{strange[0]} is {type(node.attributes[strange[0]]).__name__}" if strange else ""


def _canonical(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_canonical, value))
    plain = isinstance(value, _SCALARS) and not isinstance(value, np.generic)
    return plain or isinstance(value, Graph) or callable(value)


# -- reasons and traces --------------------------------------------------------------------------------------
def _origins(node: Node, place: Place) -> str:
    return (
        "it has none" if node.primitive is not None and node.status == ABSTRACT and not node.origins else ""
    )


def _traces(node: Node, place: Place) -> str:
    return "" if node.trace is None else "it still belongs to one"


RULES = (
    Rule("leaf", "every leaf is an input, without a value, or a constant, with one", _leaf),
    Rule("bare leaf", "a leaf has neither operands nor attributes", _leaf_is_bare),
    Rule("constant", "a constant's value is a read-only array of the recorded type", _constant),
    Rule("order", "operands are older than what is computed from them, so there is no circle", _order),
    Rule("count", "operands and attributes are those the primitive's meaning takes", _count),
    Rule("several outputs", "a node with several outputs is used through `item` alone", _several),
    Rule("dtype", "dtypes are float32, float64, integers and bool", _dtypes),
    Rule("type", "the recorded type is the one the type rule gives", _type),
    Rule(
        "attributes",
        "attributes are numbers, strings, dtypes, graphs, functions or tuples of them",
        _attributes,
    ),
    Rule("origin", "a traced node knows why it exists", _origins),
    Rule("trace", "a finished graph belongs to no function that is being traced", _traces),
)


def verify(graph: Graph) -> Graph:
    """`graph`, if it keeps the grammar; raises `GraphError` naming the node, the rule and the user's line.

    >>> import chainrule as cr
    >>> from chainrule.graph import Graph
    >>> y = cr.asarray([1.0, 2.0]) * 3.0
    >>> len(verify(Graph((), (y.node,))))
    3
    """
    for complaint in complaints(graph):
        raise GraphError(complaint)
    return graph


def complaints(graph: Graph) -> Iterator[str]:
    """Every way in which `graph`, or a graph inside it, breaks the grammar."""
    if len(set(graph.inputs)) != len(graph.inputs):
        yield "rule 'inputs' (every input is given once) is broken: an input occurs twice"
    for output in graph.outputs:
        if not isinstance(output.type, Type):
            yield f"rule 'outputs' (an output has one type) is broken by {output.name}: it has several"
    place = Place(graph, frozenset(graph.inputs))
    for node in graph.nodes:
        for rule in RULES:
            how = rule.broken(node, place)
            if how:
                yield f"rule '{rule.name}' ({rule.sentence}) is broken by {_shown(node, graph)}: {how}"
        for value in node.attributes.values():
            if isinstance(value, Graph):
                yield from (
                    f"in the graph inside {_shown(node, graph)}: {each}" for each in complaints(value)
                )


def _shown(node: Node, graph: Graph) -> str:
    where = next((f", made at {origin.where()}" for origin in node.origins if origin.file), "")
    return f"%{graph.nodes.index(node)} = {node.name} : {format_type(node.type)}{where}"
