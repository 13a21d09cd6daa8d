"""A local derivative as it is written on paper: the rule in the record, with the numbers of one element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chainrule.graph import CONSTANT, TRACKED, Array, Node, constant, rebuilt
from chainrule.insight.adjoint import Edge
from chainrule.insight.formula import formula, is_number, number, pulled
from chainrule.insight.labels import Element
from chainrule.insight.spread import Moved, loop_of, points_that_read
from chainrule.insight.stages import is_product
from chainrule.nest import multiplied
from chainrule.ops import ops
from chainrule.reverse import walk
from chainrule.trace import Trace
from chainrule.types import Type

_LEGIBLE = 100  # characters of a formula; a longer one helps nobody


def computed(node: Node, at: Sequence[int]) -> str:
    """How an element of a node was computed: "tanh(0.83) = 0.6805"; "" where it was by more than numbers."""
    if node.primitive is None or not node.primitive.elementwise:
        return ""
    alone = _alone(node, at)
    names = {each: _numeral(number(each.value)) for each in alone.operands}
    return f"{formula(alone, names)} = {number(alone.value)}"


def written(edge: Edge, at: Sequence[int], derivative: float) -> str:
    """The derivative of an element of a node by that of an operand: "tanh'(2) = 1 - tanh(2)**2 = 0.07065".

    The element of the node is given by its index. "" where the rule says nothing that the number does not.
    """
    node, primitive = edge.user, edge.user.primitive
    if primitive is None or not primitive.elementwise or primitive.meaning is multiplied:
        return ""
    alone = _alone(node, at)
    text, result = _rule(alone, edge.operand), number(derivative)
    if text == result or len(text) > _LEGIBLE:
        return ""
    head = [f"{primitive.name}'({number(alone.operands[0].value)})"] if len(alone.operands) == 1 else []
    return " = ".join([*head, text, result])


def together(start: Element, nodes: Sequence[Node], derivative: float) -> str:
    """The derivative of the last of some elementwise operations by an element from which all of them lead.

    The nodes stand operands first. "" where the formula would be too long to read.
    """
    if not all(node.primitive and node.primitive.elementwise for node in nodes):
        return ""
    if any(node.shape != start.node.shape for node in nodes):
        return ""
    trace = Trace()
    moving, cotangent = (trace.input(Type((), each.dtype)) for each in (start.node, nodes[-1]))
    with trace.running():
        (found,) = walk([_again(start, nodes, moving)], [cotangent], [moving])
    if found is None:
        return ""
    one = constant(np.ones((), nodes[-1].dtype))
    text = formula(_without(found, cotangent, one), {moving: number(start.value)})
    result = number(derivative)
    return f"{text} = {result}" if text != result and len(text) <= _LEGIBLE else ""


def applied(start: Element, nodes: Sequence[Node]) -> str:
    """How the last of some elementwise operations is computed from an element: "2 * sigmoid(2) = 1.762".

    The nodes stand operands first. "" where the formula would be too long to read.
    """
    trace = Trace()
    moving = trace.input(Type((), start.node.dtype))
    with trace.running():
        text = formula(_again(start, nodes, moving), {moving: number(start.value)})
    return f"{text} = {number(nodes[-1].value[start.place])}" if len(text) <= _LEGIBLE else ""


def _again(start: Element, nodes: Sequence[Node], moving: Node) -> Node:
    """The last of some elementwise operations, of the numbers at one place, and of what stands for one."""
    known = {start.node: moving}
    for node in nodes:
        assert node.primitive is not None
        numbers = zip(node.operands, _operands(node, start.place), strict=True)
        operands = [known.get(each) or constant(np.array(value)) for each, value in numbers]
        known[node] = ops.apply(node.primitive, operands, **node.attributes)
    return known[nodes[-1]]


def beside(edge: Edge, before: Element, after: Element) -> list[Element]:
    """What an element of an operand is multiplied with in one of a node; nothing if that is no product.

    Nothing too if it is multiplied several times: then the derivative is a sum.
    """
    nest = loop_of(edge.user)
    if nest is None or not is_product(edge.user):
        return []
    read = next(each for each in nest.reads if each.operand == edge.operand)
    points = points_that_read(nest, read, Moved.element(*before).places)
    here = [] if points is None else points.of_output(nest, edge.user.shape, after.place)
    if len(here) != 1:
        return []
    (point,) = here
    found = [each.element(point) for each in nest.reads if each is not read]
    return [Element(edge.user.operands[operand], place) for operand, place in filter(None, found)]


def _alone(node: Node, at: Sequence[int]) -> Node:
    """An elementwise operation on the numbers of one element."""
    assert node.primitive is not None
    values = _operands(node, at)
    # A number of the program stays one: rules compute with it, so that 2 - 1 is written as 1.
    statuses = [CONSTANT if is_number(each) else TRACKED for each in node.operands]
    leaves = tuple(
        Node(None, (), {}, Type((), each.dtype), each, (), status)
        for each, status in zip(values, statuses, strict=True)
    )
    value = node.primitive.meaning(np, *values, **node.attributes)
    return Node(node.primitive, leaves, node.attributes, Type((), node.dtype), value)


def _operands(node: Node, at: Sequence[int]) -> list[Array]:
    """What an elementwise operation reads for one element."""
    loop = loop_of(node)
    assert loop is not None
    arrays, place = tuple(each.value for each in node.operands), list(map(np.asarray, at))
    return [np.asarray(read.values(arrays, place)) for read in loop.reads]


def _rule(alone: Node, operand: int) -> str:
    """The rule for one operand with numbers in it."""
    rule = pulled(alone, operand)
    numbers = [_numeral(number(each.value)) for each in alone.operands]
    names = dict(zip(rule.operands, numbers, strict=True))
    names[rule.node] = _numeral(formula(rule.node, names))
    return formula(_without(rule.part, rule.cotangent, constant(np.ones((), alone.dtype))), names)


def _numeral(text: str) -> str:
    """A name that other signs can stand beside."""
    return f"({text})" if " " in text and not text.endswith(")") else text


def _without(node: Node, cotangent: Node, one: Node) -> Node:
    """A rule without the cotangent that it is linear in, and without choices that are made already."""
    if node is cotangent:
        return one
    operands = [_without(each, cotangent, one) for each in node.operands]
    if node.name == "where" and operands[0].value is not None:
        return operands[1 if operands[0].value else 2]
    neutral = {"multiply": 1, "add": 0}.get(node.name)
    for k, each in enumerate(operands):
        if neutral is not None and each.value is not None and each.value == neutral:
            return operands[1 - k]
    same = all(a is b for a, b in zip(operands, node.operands, strict=True))
    return node if same else rebuilt(node, operands)
