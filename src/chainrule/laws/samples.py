"""Samples of the primitives that hold a graph, which can only be written down by tracing one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chainrule.control import CALL, inline
from chainrule.graph import Graph, Node
from chainrule.loops import SCAN
from chainrule.ops import ops
from chainrule.primitive import Draw, Primitive, Sample
from chainrule.tensor import Tensor
from chainrule.trace import trace_body
from chainrule.types import Type


def _graph(function: Callable[..., Sequence[Node]], *operands: Draw) -> Graph:
    """A sub-graph of a function of nodes, for operands like these."""
    types = [Type(each.shape, np.dtype(each.dtype)) for each in operands]
    return trace_body(lambda *tensors: [Tensor(e) for e in function(*(t.node for t in tensors))], types).graph


def _call(function: Callable[..., Sequence[Node]], *operands: Draw) -> Sample:
    return Sample(operands, {"graph": _graph(function, *operands)})


def _scan(
    function: Callable[..., Sequence[Node]], carries: tuple[Draw, ...], sequences: tuple[Draw, ...],
    captured: tuple[Draw, ...] = (), reverse: bool = False, history: bool = True,
) -> Sample:  # fmt: skip
    step = [replace(each, shape=each.shape[1:]) for each in sequences]
    attributes: dict[str, Any] = {
        "graph": _graph(function, *carries, *step, *captured),
        "carries": len(carries),
        "sequences": len(sequences),
        "length": sequences[0].shape[0],
        "reverse": reverse,
        "history": history,
    }
    return Sample((*carries, *sequences, *captured), attributes)


def _recurrent(state: Node, x: Node, weight: Node) -> list[Node]:
    after = ops.tanh(ops.add(ops.multiply(weight, state), x))
    return [after, ops.multiply(after, x)]


def _counted(count: Node, state: Node, x: Node) -> list[Node]:
    after = ops.sin(ops.multiply(state, ops.add(x, ops.astype(count, np.float64))))
    return [ops.add(count, 1), after, after, ops.multiply(count, count)]


def _summed(total: Node, number: Node) -> list[Node]:
    return [ops.add(total, number), ops.multiply(total, number)]


_COUNT, _VECTOR = Draw((), 0, 3, "int64"), Draw((3,))


def _inlined(*values: Any, graph: Graph) -> tuple[Any, ...]:
    """The operations of a sub-graph, computed one by one outside of it."""
    return tuple(node.value for node in inline(graph, [ops.node(each) for each in values]))


def _looped(
    *values: Any, graph: Graph, carries: int, sequences: int, length: int, reverse: bool, history: bool
) -> Any:
    """The loop, written out step by step."""
    state, series, rest = (
        values[:carries],
        values[carries : carries + sequences],
        values[carries + sequences :],
    )
    rows: list[tuple[Any, ...]] = []
    for t in sorted(range(length), reverse=reverse):
        after = _inlined(*state, *(each[t] for each in series), *rest, graph=graph)
        rows.append((*after[carries:], *(state if history else ())))
        state = after[:carries]
    like = [*graph.outputs[carries:], *(graph.inputs[:carries] if history else ())]
    columns = zip(*rows[:: -1 if reverse else 1], strict=True) if rows else [()] * len(like)
    stacked = [np.array(c, n.dtype).reshape(length, *n.shape) for c, n in zip(columns, like, strict=True)]
    return (*state, *stacked)


CONTROL: tuple[Primitive, ...] = (
    replace(
        CALL,
        oracle=_inlined,
        samples=(
            _call(lambda x, w: [ops.tanh(ops.multiply(x, w)), ops.sum(x)], Draw((2, 3)), _VECTOR),
            _call(
                lambda x, n: [ops.multiply(x, n), ops.add(n, 1)], _VECTOR, replace(_VECTOR, dtype="float64")
            ),
            _call(lambda n, x: [ops.multiply(x, ops.astype(n, np.float64)), ops.add(n, 1)], _COUNT, _VECTOR),
        ),
    ),
    replace(
        SCAN,
        oracle=_looped,
        samples=(
            _scan(_recurrent, (Draw((2, 3)),), (Draw((4, 3)),), (Draw((2, 3)),)),
            _scan(_recurrent, (Draw((2, 3)),), (Draw((4, 3)),), (Draw((2, 3)),), reverse=True),
            _scan(_recurrent, (Draw((2, 3)),), (Draw((0, 3)),), (Draw((2, 3)),)),
            _scan(_counted, (_COUNT, Draw(())), (Draw((3,)),)),
            _scan(_summed, (_COUNT,), (Draw((3,), 0, 9, "int64"),), history=False),
        ),
    ),
)
"""`call` and `scan` on several outputs, integers among the carries, captured values, and no steps at all."""
