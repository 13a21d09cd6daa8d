"""Sub-graphs as nodes: `call`, on which checkpoint and custom derivatives rest.

A `call` has several outputs; `item` takes one of them. Its pullback is again a `call` over a derived
sub-graph, so derivatives of every order need nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper, wraps
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from chainrule.errors import GradientError, ShapeError
from chainrule.graph import ABSTRACT, ITEM, KEEPS_HISTORY, Graph, Node
from chainrule.ops import Weak, as_node, is_recording, ops
from chainrule.origin import Origin, at_user_line, because
from chainrule.primitive import Primitive
from chainrule.reverse import walk
from chainrule.tensor import Tensor
from chainrule.trace import Body, Trace, close, trace_body
from chainrule.tree import Structure, flatten, flatten_as, unflatten
from chainrule.types import Type

# -- one output of several -------------------------------------------------------------------------------
ITEM_OF = Primitive(
    ITEM,
    "One output of a node that has several; the walk carries its cotangent to that output.",
    lambda *types, index: types[0][index],
    lambda xp, values, index: values[index],
)


def items(node: Node) -> list[Node]:
    """Every output of a node with several."""
    return [ops.apply(ITEM_OF, [node], index=index) for index in range(len(node.type))]


# -- arguments ---------------------------------------------------------------------------------------------
class Arguments:
    """The arguments of a call taken apart: arrays, which become operands, and all else, which stays."""

    def __init__(self, arguments: Sequence[Any], options: dict[str, Any] | None = None) -> None:
        self.leaves, self.structure = flatten((tuple(arguments), options or {}))
        self.moving = [isinstance(leaf, Tensor | Node | np.ndarray | np.generic) for leaf in self.leaves]
        self.nodes = [as_node(leaf) for leaf, moves in zip(self.leaves, self.moving, strict=True) if moves]

    @property
    def types(self) -> list[Type]:
        return [node.type for node in self.nodes]

    def call(self, function: Callable[..., Any], tensors: Sequence[Any]) -> Any:
        """`function` of the arguments, with `tensors` in the place of the arrays."""
        given = iter(tensors)
        leaves = [
            next(given) if moves else leaf for leaf, moves in zip(self.leaves, self.moving, strict=True)
        ]
        arguments, options = unflatten(self.structure, leaves)
        return function(*arguments, **options)


def takes_part(nodes: Sequence[Node]) -> bool:
    """True when what is computed from `nodes` may be differentiated."""
    wanted = is_recording() and any(node.status in KEEPS_HISTORY for node in nodes)
    return wanted or any(node.status == ABSTRACT for node in nodes)


# -- call ------------------------------------------------------------------------------------------------
def _call_type(*types: Type, graph: Graph, backward: Any = None) -> tuple[Type, ...]:
    check_inputs("call", types, graph)
    return tuple(each.type for each in graph.outputs)


def check_inputs(name: str, types: Sequence[Type], graph: Graph) -> None:
    """Raise where operands of `types` do not fit the inputs of a sub-graph."""
    wanted = [each.type for each in graph.inputs]
    if list(types) != wanted:
        raise ShapeError(
            f"{name}: the sub-graph takes {', '.join(map(str, wanted))}, not {', '.join(map(str, types))}"
        )


def _call_pullback(
    vocabulary: Any, g: Sequence[Node | None], y: Node, *operands: Node, graph: Graph, backward: Any = None
) -> list[Node | None]:
    if backward is not None:
        by_rule: list[Node | None] = backward(g, y, operands)
        return by_rule
    given = [
        ops.zeros(output.type) if cotangent is None else cotangent
        for cotangent, output in zip(g, graph.outputs, strict=True)
        if output.floating
    ]
    found = iter(items(vocabulary.apply(CALL, [*operands, *given], graph=pullback_graph(graph))))
    return [next(found) if operand.floating else None for operand in operands]


CALL = Primitive(
    "call",
    "A sub-graph as one node: its inside is recomputed in the backward pass, not kept.",
    _call_type,
    lambda xp, *values, graph, backward=None: graph.evaluate(xp, *values),
    _call_pullback,
)

_pullback_graphs: WeakKeyDictionary[Graph, Graph] = WeakKeyDictionary()


def pullback_graph(graph: Graph) -> Graph:
    """(inputs, cotangents of floating outputs) → cotangents of floating inputs, recomputing the inside."""
    known = _pullback_graphs.get(graph)
    if known is None:
        known = _pullback_graphs[graph] = _derived(graph)
    return known


def _derived(graph: Graph) -> Graph:
    trace = Trace()
    inputs = [trace.input(node.type, node.label) for node in graph.inputs]
    with trace.running():
        outputs = [node for node in inline(graph, inputs) if node.floating]
        cotangents = [trace.input(node.type) for node in outputs]
        wanted = [node for node in inputs if node.floating]
        found = walk(outputs, cotangents, wanted)
        filled = [ops.zeros(n.type) if c is None else c for n, c in zip(wanted, found, strict=True)]
    return close([*inputs, *cotangents], filled, trace)[0]


def inline(graph: Graph, values: Sequence[Node]) -> list[Node]:
    """Apply the operations of `graph` to other nodes, each because of the same reasons as before."""
    known = dict(zip(graph.inputs, values, strict=True))
    for node in graph.nodes:
        if node in known:
            continue
        if node.primitive is None:
            known[node] = node
            continue
        first = node.origins[0] if node.origins else Origin()
        with because(first._replace(role="recompute") if first.role == "forward" else first):
            known[node] = ops.apply(
                node.primitive, [known[each] for each in node.operands], **node.attributes
            )
    return [known[node] for node in graph.outputs]


def called(body: Body, operands: Sequence[Node], **attributes: Any) -> list[Node]:
    """The outputs of a `call` of `body`; cells that the body assigned are assigned."""
    found = items(ops.apply(CALL, [*operands, *body.captured], graph=body.graph, **attributes))
    for cell, value in zip(body.written, found[len(found) - len(body.written) :], strict=True):
        cell.assign(value)
    return found


# -- checkpoint --------------------------------------------------------------------------------------------
def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its intermediate values recomputed in the backward pass instead of kept.

    Trades one more forward evaluation for the memory of everything inside (Griewank and Walther, 2000).
    Arrays in the arguments may be nested; anything else is passed on as it is.

    >>> import chainrule as cr
    >>> cr.grad(cr.checkpoint(lambda x: cr.exp(cr.sin(x))))(cr.asarray(0.0)).item()
    1.0
    """

    @wraps(function)
    def checkpointed(*arguments: Any, **options: Any) -> Any:
        given = Arguments(arguments, options)

        def of_tensors(*tensors: Tensor) -> Any:
            return given.call(function, tensors)

        body = trace_body(of_tensors, given.types)
        found = called(body, given.nodes)[: body.structure.leaves]
        return unflatten(body.structure, [Tensor(each) for each in found])

    return checkpointed


# -- derivatives of one's own --------------------------------------------------------------------------------
class custom_vjp:  # noqa: N801 - a decorator, named as in JAX
    """A function with a derivative of your own.

    ``forward(*args)`` returns the result and whatever the derivative needs; ``backward(residuals, g)``
    returns one cotangent per argument (None where no derivative flows). Derivatives of higher order
    differentiate `backward`, and the residuals as `forward` computes them; the result itself has your
    derivative in every order.

    >>> import chainrule as cr
    >>> @cr.custom_vjp
    ... def clipped(x):
    ...     return x
    >>> clipped.defvjp(lambda x: (x, None), lambda residuals, g: (cr.clip(g, -1.0, 1.0),))
    >>> cr.grad(lambda x: 5.0 * clipped(x))(cr.asarray(2.0)).item()
    1.0
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.forward: Callable[..., Any] | None = None
        self.backward: Callable[..., Any] | None = None
        update_wrapper(self, function, updated=())  # name and doc, not the attributes of a wrapped object

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """Set the forward and backward functions."""
        self.forward, self.backward = forward, backward

    def __call__(self, *arguments: Any) -> Any:
        if self.forward is None or self.backward is None:
            raise GradientError(
                f"custom_vjp: call defvjp(forward, backward) before using the function{at_user_line()}"
            )
        given = Arguments(arguments)
        if not takes_part(given.nodes):
            return self.function(*arguments)
        body, value, residuals = self._traced(given)
        rule = _Rule(self.backward, arguments, given, value, residuals, body)
        found = called(body, given.nodes, backward=rule)
        return unflatten(value, [Tensor(each) for each in found[: value.leaves]])

    def _traced(self, given: Arguments) -> tuple[Body, Structure, Structure]:
        """The graph of `forward`, and the structures of the value and of the residuals."""

        def value_and_residuals(*tensors: Tensor) -> Any:
            assert self.forward is not None
            result = given.call(self.forward, tensors)
            if not isinstance(result, tuple) or len(result) != 2:
                raise GradientError(
                    f"custom_vjp: forward has to return (value, residuals){at_user_line()}, two things in a "
                    "tuple"
                )
            return result

        body = trace_body(value_and_residuals, given.types)
        if any(node.floating for node in body.captured):
            raise GradientError(
                f"custom_vjp: the function uses a value from outside{at_user_line()}; pass it as an "
                "argument, because the rule you gave has no derivative for it, or wrap it with "
                "cr.stop_gradient"
            )
        value, residuals = body.structure.children
        return body, value, residuals


class _Rule:
    """The pullback of one use of a `custom_vjp` function."""

    def __init__(
        self,
        backward: Callable[..., Any],
        arguments: Sequence[Any],
        given: Arguments,
        value: Structure,
        residuals: Structure,
        body: Body,
    ) -> None:
        self.backward, self.body = backward, body
        self.value, self.residuals = value, residuals
        self.structures = [flatten(each)[1] for each in arguments]
        self.moving = given.moving

    def __call__(self, g: Sequence[Node | None], y: Node, operands: Sequence[Node]) -> list[Node | None]:
        width = self.value.leaves
        found = self._by_rule(g[:width], y, operands)
        if all(each is None for each in g[width:]):
            return found
        # A derivative of higher order: it reaches the arguments through the residuals as well.
        through = [None] * width + list(g[width:])
        flowed = _call_pullback(ops, through, y, *operands, graph=self.body.graph)
        return [
            b if a is None else a if b is None else ops.add(a, b) for a, b in zip(found, flowed, strict=True)
        ]

    def _by_rule(self, g: Sequence[Node | None], y: Node, operands: Sequence[Node]) -> list[Node | None]:
        outputs = items(y)
        width, kept = self.value.leaves, self.residuals.leaves
        seeds = [ops.zeros(out.type) if each is None else each for each, out in zip(g, outputs, strict=False)]
        cotangent = unflatten(self.value, [Tensor(each) for each in seeds])
        residuals = unflatten(self.residuals, [Tensor(each) for each in outputs[width : width + kept]])
        given = self.backward(residuals, cotangent)
        if not isinstance(given, tuple | list) or len(given) != len(self.structures):
            count = len(given) if isinstance(given, tuple | list) else 1
            raise GradientError(
                f"custom_vjp: backward returned {count} cotangents for {len(self.structures)} arguments; "
                "return a tuple with one per argument, None where no derivative flows"
            )
        leaves = [leaf for k, each in enumerate(given) for leaf in self._leaves(k, each)]
        arrays = [leaf for leaf, moves in zip(leaves, self.moving, strict=True) if moves]
        checked = [_cotangent(leaf, operand) for leaf, operand in zip(arrays, operands, strict=False)]
        return checked + [None] * (len(operands) - len(checked))

    def _leaves(self, argument: int, cotangent: Any) -> list[Any]:
        structure = self.structures[argument]
        if cotangent is None:
            return [None] * structure.leaves
        return flatten_as(structure, cotangent, f"custom_vjp: the cotangent of argument {argument}")


def _cotangent(leaf: Any, operand: Node) -> Node | None:
    if leaf is None or not operand.floating:
        return None
    node = ops.full(operand.type, leaf) if isinstance(leaf, Weak) else as_node(leaf)
    if node.type != operand.type:
        raise GradientError(
            f"custom_vjp: backward returned a cotangent of type {node.type} for an argument of type "
            f"{operand.type}; they must agree (where an argument was broadcast, sum over the axes it was "
            "repeated along)"
        )
    return node
