"""`scan`: a loop as one node, however many steps it takes.

operands:   carries, sequences (leading axis: time), captured values
sub-graph:  carries, one element of each sequence, captured → new carries, one element of each result
outputs:    last carries, results (leading axis: time) and, with `history`, the carries before each step
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrule.control import CALL, check_inputs, items, pullback_graph, takes_part
from chainrule.errors import ShapeError
from chainrule.graph import Graph, Node
from chainrule.ops import as_node, ops
from chainrule.origin import at_user_line
from chainrule.primitive import Primitive
from chainrule.tensor import Tensor
from chainrule.trace import LoopTrace, trace_body
from chainrule.tree import Structure, flatten, flatten_as, unflatten
from chainrule.types import Type


def _scan_type(
    *types: Type, graph: Graph, carries: int, sequences: int, length: int, reverse: bool, history: bool
) -> tuple[Type, ...]:
    state, series, captured = _split(types, carries, sequences)
    check_inputs("scan", [*state, *map(_element, series), *captured], graph)
    after = [each.type for each in graph.outputs]
    if after[:carries] != state:
        raise ShapeError(
            "scan: the carry must keep its type from step to step; it enters as "
            f"{', '.join(map(str, state))} and leaves as {', '.join(map(str, after[:carries]))}"
        )
    rows = [*after[carries:], *(state if history else ())]
    return (*state, *(Type((length, *each.shape), each.dtype) for each in rows))


def _scan(
    xp: Any, *values: Any,
    graph: Graph, carries: int, sequences: int, length: int, reverse: bool, history: bool,
) -> tuple[Any, ...]:  # fmt: skip
    carry, series, captured = _split(values, carries, sequences)
    types = [each.type for each in graph.outputs[carries:]]
    types += [each.type for each in graph.inputs[:carries]] if history else []
    rows: list[list[Any]] = [[None] * length for _ in types]
    for t in reversed(range(length)) if reverse else range(length):
        outputs = graph.evaluate(xp, *carry, *(each[t] for each in series), *captured)
        for row, value in zip(rows, (*outputs[carries:], *carry), strict=False):
            row[t] = value
        carry = list(outputs[:carries])
    stacked = [
        xp.stack(row) if length else xp.zeros((0, *type_.shape), type_.dtype)
        for row, type_ in zip(rows, types, strict=True)
    ]
    return (*carry, *stacked)


def _scan_pullback(
    vocabulary: Any, g: Sequence[Node | None], y: Node, *operands: Node,
    graph: Graph, carries: int, sequences: int, length: int, reverse: bool, history: bool,
) -> list[Node | None]:  # fmt: skip
    """The same loop in the other direction: it carries the cotangents of the carries and of captured values.

    Of the cotangents of what the loop stacks up, only those that are there run along.
    """
    state, series, captured = _split(operands, carries, sequences)
    results = len(graph.outputs) - carries
    of_state, of_results, of_history = _split(g, carries, results)
    moving = [k for k, each in enumerate(state) if each.floating]
    shared = [each for each in captured if each.floating]
    errors = [_or_zeros(of_state[k], state[k]) for k in moving]
    sums = [ops.zeros(each.type) for each in shared]
    emitted, kept = _given(of_results), _given(of_history)
    before = items(y)[carries + results :]
    along = [*before, *series, *emitted.values(), *kept.values()]
    step = pullback_graph(graph)

    def body(*tensors: Tensor) -> Any:
        nodes = [tensor.node for tensor in tensors]
        error, total, point, out, extra, constants = _split(
            nodes, len(errors), len(sums), carries + sequences, len(emitted), len(kept)
        )
        cotangents = dict(zip([*moving, *(carries + k for k in emitted)], [*error, *out], strict=True))
        seeds = [_or_zeros(cotangents.get(k), each) for k, each in enumerate(graph.outputs) if each.floating]
        found = items(vocabulary.apply(CALL, [*point, *constants, *seeds], graph=step))
        earlier, of_series, of_shared = _split(found, len(errors), len(found) - len(errors) - len(sums))
        for k, each in zip(kept, extra, strict=True):
            earlier[moving.index(k)] = vocabulary.add(earlier[moving.index(k)], each)
        totals = [vocabulary.add(a, b) for a, b in zip(total, of_shared, strict=True)]
        return [Tensor(each) for each in (*earlier, *totals, *of_series)]

    types = [each.type for each in (*errors, *sums)] + [_element(each.type) for each in along]
    traced = trace_body(body, types + [each.type for each in captured], LoopTrace("scan"))
    node = vocabulary.apply(
        SCAN, [*errors, *sums, *along, *captured, *traced.captured],
        graph=traced.graph, carries=len(errors) + len(sums), sequences=len(along),
        length=length, reverse=not reverse, history=takes_part([*errors, *along, *captured]),
    )  # fmt: skip
    by_state, by_shared, by_series = map(iter, _split(items(node), len(errors), len(sums)))
    return (
        [next(by_state) if each.floating else None for each in state]
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


def _split(values: Sequence[Any], *counts: int) -> list[list[Any]]:
    """`values` in groups of the given sizes, and the rest as a last group."""
    groups, at = [], 0
    for count in counts:
        groups.append(list(values[at : at + count]))
        at += count
    return [*groups, list(values[at:])]


def _element(type_: Type) -> Type:
    return Type(type_.shape[1:], type_.dtype)


def _or_zeros(cotangent: Node | None, like: Node) -> Node:
    return ops.zeros(like.type) if cotangent is None else cotangent


def _given(cotangents: Sequence[Node | None]) -> dict[int, Node]:
    """Those that are there, by position."""
    return {k: each for k, each in enumerate(cotangents) if each is not None and each.floating}


def scan(
    function: Callable[..., Any],
    init: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Loop over the leading axis of `xs`: ``function(carry, x) -> (carry, y)``.

    Returns the last carry and the stacked y. `init`, `xs` and y may be nested containers; the carry keeps
    its structure, shapes and dtypes. `length` says how long the loop is where there is no `xs`; `reverse`
    runs from the last element to the first. One node in the graph, however long the loop is.

    >>> import chainrule as cr
    >>> total, running = cr.scan(lambda c, x: (c + x, c + x), cr.asarray(0.0), cr.asarray([1.0, 2.0, 3.0]))
    >>> total.item(), running.tolist()
    (6.0, [1.0, 3.0, 6.0])
    """
    carry_leaves, carry_structure = flatten(init)
    x_leaves, x_structure = flatten(xs)
    carry, series = [as_node(each) for each in carry_leaves], [as_node(each) for each in x_leaves]
    steps = _common_length(series, length)
    structures: list[Structure] = []

    def body(*tensors: Tensor) -> Any:
        state, element = _split(tensors, len(carry))
        result = function(unflatten(carry_structure, state), unflatten(x_structure, element))
        if not isinstance(result, tuple) or len(result) != 2:
            raise ShapeError(f"scan: the function has to return a tuple (carry, y){at_user_line()}")
        leaves, structure = flatten(result[1])
        structures.append(structure)
        return [*flatten_as(carry_structure, result[0], "scan: the carry that the function returns"), *leaves]

    types = [each.type for each in carry] + [_element(each.type) for each in series]
    traced = trace_body(body, types, LoopTrace("scan"))
    operands = [*carry, *series, *traced.captured]
    node = ops.apply(
        SCAN, operands, graph=traced.graph, carries=len(carry), sequences=len(series),
        length=steps, reverse=bool(reverse), history=takes_part(operands),
    )  # fmt: skip
    last, results, _ = _split([Tensor(each) for each in items(node)], len(carry), structures[0].leaves)
    return unflatten(carry_structure, last), unflatten(structures[0], results)


def _common_length(series: Sequence[Node], length: int | None) -> int:
    lengths = {each.shape[0] if each.shape else None for each in series}
    lengths |= set() if length is None else {length}
    (common,) = lengths if len(lengths) == 1 else (None,)
    if common is None:
        raise ShapeError(
            f"scan: all sequences need one common leading length{at_user_line()}, not "
            f"{', '.join(map(str, sorted(lengths, key=str))) or 'none at all; give xs or length='}"
        )
    return common
