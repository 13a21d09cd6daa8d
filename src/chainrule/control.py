"""Sub-graphs as nodes: `call` (checkpoint, custom derivatives) and `scan` (loops).

Both have several outputs; `item` takes one of them. Their pullbacks are again `call` and `scan` nodes over a
derived sub-graph, so derivatives of every order need nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from chainrule.errors import GradientError, ShapeError
from chainrule.graph import Graph, Node
from chainrule.ops import _at_user_line, as_node, ops
from chainrule.origin import Origin, because
from chainrule.primitive import Primitive
from chainrule.reverse import ITEM, walk
from chainrule.tensor import Tensor
from chainrule.trace import Trace, close, leaf_types, trace_body
from chainrule.tree import LEAF, flatten, unflatten
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


# -- call ------------------------------------------------------------------------------------------------
def _call_type(*types: Type, graph: Graph, **_: Any) -> tuple[Type, ...]:
    _check_inputs("call", types, graph)
    return tuple(each.type for each in graph.outputs)


def _check_inputs(name: str, types: Sequence[Type], graph: Graph) -> None:
    wanted = [each.type for each in graph.inputs]
    if list(types) != wanted:
        raise ShapeError(
            f"{name}: the sub-graph takes {', '.join(map(str, wanted))}, not {', '.join(map(str, types))}"
        )


def _call_pullback(
    vocabulary: Any, g: tuple[Node, ...], y: Node, *operands: Node, graph: Graph, backward: Any = None
) -> list[Node | None]:
    if backward is not None:
        return list(backward(g, y, operands))
    derived = pullback_graph(graph)
    given = [cotangent for cotangent, output in zip(g, graph.outputs, strict=True) if output.floating]
    found = iter(items(ops.apply(CALL, [*operands, *given], graph=derived)))
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
    if graph not in _pullback_graphs:
        trace = Trace()
        inputs = [trace.input(node.type) for node in graph.inputs]
        outputs = inline(graph, inputs)
        floating = [node for node in outputs if node.floating]
        cotangents = [trace.input(node.type) for node in floating]
        wanted = [node for node in inputs if node.floating]
        found = walk(floating, cotangents, wanted)
        filled = tuple(ops.zeros(n.type) if c is None else c for n, c in zip(wanted, found, strict=True))
        trace.open = False
        _pullback_graphs[graph] = close((*inputs, *cotangents), filled, trace, LEAF).graph
    return _pullback_graphs[graph]


def inline(graph: Graph, values: Sequence[Node]) -> list[Node]:
    """Apply the operations of `graph` to other nodes, each because of the same reasons as before."""
    known = dict(zip(graph.inputs, values, strict=True))
    for node in graph.nodes:
        if node not in known:
            if node.primitive is None:
                known[node] = node
                continue
            first = node.origins[0] if node.origins else Origin()
            with because(first._replace(role="recompute") if first.role == "forward" else first):
                known[node] = ops.apply(
                    node.primitive, [known[each] for each in node.operands], **node.attributes
                )
    return [known[node] for node in graph.outputs]


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its intermediate values recomputed in the backward pass instead of kept.

    Trades one more forward evaluation for the memory of everything inside.

    >>> import chainrule as cr
    >>> cr.grad(cr.checkpoint(lambda x: cr.sin(cr.sin(x))))(cr.asarray(1.0)).item() > 0.35
    True
    """

    @wraps(function)
    def checkpointed(*arguments: Any, **options: Any) -> Any:
        leaves, structure = flatten(arguments)
        body = trace_body(
            lambda *tensors: function(*unflatten(structure, tensors), **options), leaf_types(leaves)
        )
        node = ops.apply(CALL, [*map(as_node, leaves), *body.captured], graph=body.graph)
        return unflatten(body.structure, [Tensor(each) for each in items(node)])

    return checkpointed


class custom_vjp:  # noqa: N801 - a decorator, named as in JAX
    """A function with a derivative of your own.

    ``forward(*args)`` returns the result and whatever the derivative needs; ``backward(residuals, g)``
    returns one cotangent per argument (None where no derivative flows).

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
        self.__doc__ = function.__doc__

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        self.forward, self.backward = forward, backward

    def __call__(self, *arguments: Any) -> Any:
        if self.forward is None or self.backward is None:
            raise GradientError("custom_vjp: call defvjp(forward, backward) before using the function")
        leaves, structure = flatten(arguments)
        shapes: list[Any] = []

        def outputs_and_residuals(*tensors: Tensor) -> Any:
            value, residuals = self.forward(*unflatten(structure, tensors))  # type: ignore[misc]
            value_leaves, value_structure = flatten(value)
            residual_leaves, residual_structure = flatten(residuals)
            shapes.extend([len(value_leaves), value_structure, residual_structure])
            return (*value_leaves, *residual_leaves)

        body = trace_body(outputs_and_residuals, leaf_types(leaves))
        if body.captured and any(node.floating for node in body.captured):
            raise GradientError(
                f"custom_vjp: the function uses a value from outside{_at_user_line()}; pass it as an argument, "
                "because the rule you gave has no derivative for it"
            )
        count, value_structure, residual_structure = shapes
        rule = self.backward

        def backward(g: tuple[Node, ...], y: Node, operands: tuple[Node, ...]) -> list[Node | None]:
            cotangent = unflatten(value_structure, [Tensor(each) for each in g[:count]])
            residuals = unflatten(residual_structure, [Tensor(each) for each in items(y)[count:]])
            given = rule(residuals, cotangent)
            if len(given) != len(arguments):
                raise GradientError(
                    f"custom_vjp: backward returned {len(given)} cotangents for {len(arguments)} arguments"
                )
            found: list[Node | None] = []
            for argument, each in zip(arguments, given, strict=True):
                width = len(flatten(argument)[0])
                found.extend([None] * width if each is None else [as_node(leaf) for leaf in flatten(each)[0]])
            return found + [None] * len(body.captured)

        node = ops.apply(CALL, [*map(as_node, leaves), *body.captured], graph=body.graph, backward=backward)
        return unflatten(value_structure, [Tensor(each) for each in items(node)[:count]])


# -- scan ------------------------------------------------------------------------------------------------
# operands:  carries, sequences (leading axis: time), captured values
# sub-graph: carries, one element of each sequence, captured → new carries, one element of each result
# outputs:   last carries, results (leading axis: time), carries before each step (leading axis: time)
def _scan_type(
    *types: Type, graph: Graph, carries: int, sequences: int, length: int, reverse: bool
) -> tuple[Type, ...]:
    step = [Type(each.shape[1:], each.dtype) for each in types[carries : carries + sequences]]
    _check_inputs("scan", [*types[:carries], *step, *types[carries + sequences :]], graph)
    after = [each.type for each in graph.outputs]
    if after[:carries] != list(types[:carries]):
        raise ShapeError(
            f"scan: the carry must keep its type from step to step; it enters as {', '.join(map(str, types[:carries]))} "
            f"and leaves as {', '.join(map(str, after[:carries]))}"
        )
    over_time = [Type((length, *each.shape), each.dtype) for each in (*after[carries:], *types[:carries])]
    return (*types[:carries], *over_time)


def _scan(
    xp: Any, *values: Any, graph: Graph, carries: int, sequences: int, length: int, reverse: bool
) -> tuple[Any, ...]:
    carry = list(values[:carries])
    series, captured = values[carries : carries + sequences], values[carries + sequences :]
    results = len(graph.outputs) - carries
    rows: list[list[Any]] = [[None] * length for _ in range(results + carries)]
    for t in reversed(range(length)) if reverse else range(length):
        for column, value in zip(rows[results:], carry, strict=True):
            column[t] = value
        outputs = graph.evaluate(xp, *carry, *(each[t] for each in series), *captured)
        carry = list(outputs[:carries])
        for column, value in zip(rows[:results], outputs[carries:], strict=True):
            column[t] = value
    types = [each.type for each in (*graph.outputs[carries:], *graph.inputs[:carries])]
    stacked = [
        xp.stack(column) if length else xp.zeros((0, *type_.shape), type_.dtype)
        for column, type_ in zip(rows, types, strict=True)
    ]
    return (*carry, *stacked)


def _scan_pullback(
    vocabulary: Any, g: tuple[Node, ...], y: Node, *operands: Node,
    graph: Graph, carries: int, sequences: int, length: int, reverse: bool,
) -> list[Node | None]:  # fmt: skip
    """The same loop in the other direction: it carries the cotangents of the carries and of captured values."""
    results = len(graph.outputs) - carries
    step = pullback_graph(graph)
    states, series, captured = (
        operands[:carries],
        operands[carries : carries + sequences],
        operands[carries + sequences :],
    )
    history = items(y)[carries + results :]
    moving = [k for k, each in enumerate(states) if each.floating]
    shared = [each for each in captured if each.floating]
    emitted = [k for k in range(results) if graph.outputs[carries + k].floating]
    carried = [g[k] for k in moving] + [ops.zeros(each.type) for each in shared]
    along = [
        *history,
        *series,
        *(g[carries + k] for k in emitted),
        *(g[carries + results + k] for k in moving),
    ]

    def body(*tensors: Tensor) -> Any:
        nodes = [tensor.node for tensor in tensors]
        errors, sums = nodes[: len(moving)], nodes[len(moving) : len(carried)]
        at = len(carried)
        values, at = nodes[at : at + carries + sequences], at + carries + sequences
        outputs, at = nodes[at : at + len(emitted)], at + len(emitted)
        kept, constants = nodes[at : at + len(moving)], nodes[at + len(moving) :]
        found = items(ops.apply(CALL, [*values, *constants, *errors, *outputs], graph=step))
        count = len(found) - len(shared)
        earlier = [ops.add(a, b) for a, b in zip(found[: len(moving)], kept, strict=True)]
        totals = [ops.add(a, b) for a, b in zip(sums, found[count:], strict=True)]
        return [Tensor(each) for each in (*earlier, *totals, *found[len(moving) : count])]

    types = [each.type for each in carried] + [Type(each.shape[1:], each.dtype) for each in along]
    types += [each.type for each in captured]
    traced = trace_body(body, types)
    node = ops.apply(
        SCAN, [*carried, *along, *captured, *traced.captured],
        graph=traced.graph, carries=len(carried), sequences=len(along), length=length, reverse=not reverse,
    )  # fmt: skip
    found = items(node)
    by_state = iter(found[: len(moving)])
    by_shared = iter(found[len(moving) : len(carried)])
    by_series = iter(found[len(carried) :])
    return (
        [next(by_state) if each.floating else None for each in states]
        + [next(by_series) if each.floating else None for each in series]
        + [next(by_shared) if each.floating else None for each in captured]
    )


SCAN = Primitive(
    "scan",
    "A loop over the leading axis that carries state from step to step.",
    _scan_type,
    _scan,
    _scan_pullback,
)


def scan(
    function: Callable[..., Any],
    init: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Loop over the leading axis of `xs`: ``function(carry, x) -> (carry, y)``.

    Returns the last carry and the stacked y. `init`, `xs` and y may be nested containers. One node in the
    graph, however long the loop is.

    >>> import chainrule as cr
    >>> total, running = cr.scan(lambda c, x: (c + x, c + x), cr.asarray(0.0), cr.asarray([1.0, 2.0, 3.0]))
    >>> total.item(), running.tolist()
    (6.0, [1.0, 3.0, 6.0])
    """
    carry_leaves, carry_structure = flatten(init)
    x_leaves, x_structure = flatten(xs)
    carry_nodes, x_nodes = [as_node(each) for each in carry_leaves], [as_node(each) for each in x_leaves]
    lengths = {each.shape[0] if each.shape else None for each in x_nodes} | (
        {length} if length is not None else set()
    )
    if len(lengths) != 1 or None in lengths:
        raise ShapeError(
            f"scan: all sequences need one common leading length, not {lengths or 'none'}{_at_user_line()}"
        )
    (count,) = lengths
    result_structure: list[Any] = []

    def body(*tensors: Tensor) -> Any:
        carry = unflatten(carry_structure, tensors[: len(carry_nodes)])
        new_carry, y = function(carry, unflatten(x_structure, tensors[len(carry_nodes) :]))
        new_leaves, new_structure = flatten(new_carry)
        if new_structure != carry_structure:
            raise ShapeError(f"scan: the carry changed its structure from step to step{_at_user_line()}")
        y_leaves, y_structure = flatten(y)
        result_structure.append(y_structure)
        return [*new_leaves, *y_leaves]

    types = [each.type for each in carry_nodes] + [Type(each.shape[1:], each.dtype) for each in x_nodes]
    traced = trace_body(body, types)
    node = ops.apply(
        SCAN, [*carry_nodes, *x_nodes, *traced.captured],
        graph=traced.graph, carries=len(carry_nodes), sequences=len(x_nodes), length=count, reverse=reverse,
    )  # fmt: skip
    outputs = [Tensor(each) for each in items(node)]
    results = len(traced.graph.outputs) - len(carry_nodes)
    last = unflatten(carry_structure, outputs[: len(carry_nodes)])
    return last, unflatten(result_structure[0], outputs[len(carry_nodes) : len(carry_nodes) + results])
