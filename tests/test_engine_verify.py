"""The grammar of graphs: graphs that keep it, and one that breaks each rule."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.control import CALL, ITEM_OF, items
from chainrule.errors import GraphError
from chainrule.graph import ABSTRACT, Graph, Node, constant
from chainrule.ops import ops
from chainrule.origin import Origin
from chainrule.primitives import REGISTRY
from chainrule.trace import Trace, trace_body, trace_program
from chainrule.types import Type
from chainrule.verify import RULES, complaints, verify

VECTOR = Type((3,), np.dtype(np.float32))
SCALAR = Type((), np.dtype(np.float32))
WHY = (Origin("forward", "layer", "/home/user/train.py", 12),)


def leaf(type_: Any = VECTOR) -> Node:
    return Node(None, (), {}, type_, status=ABSTRACT)


def node(name: str, operands: tuple[Node, ...], type_: Any = VECTOR, **attributes: Any) -> Node:
    primitive: Any = REGISTRY[name]
    return Node(primitive, operands, attributes, type_, origins=WHY, status=ABSTRACT)


def graphs() -> dict[str, Graph]:
    def everything(x: Any) -> Any:
        def step(c: Any, e: Any) -> Any:
            return cr.sin(c * e), cr.checkpoint(lambda c: c + 1.0)(c)

        last, ys = cr.scan(step, x[0], x)
        return cr.sum(ys) * last

    types = [Type((4,), np.dtype(np.float64))]
    y = cr.asarray([1.0, 2.0]) * 3.0
    return {
        "empty": Graph((), ()),
        "eager history": Graph((), (y.node,)),
        "program": trace_program(everything, types).graph,
        "gradient": trace_program(cr.value_and_grad(everything), types).graph,
        "second derivative": trace_program(
            cr.grad(lambda x: cr.sum(cr.grad(everything)(x) ** 2)), types
        ).graph,
        "body": trace_body(everything, types).graph,
    }


@pytest.mark.parametrize("name", list(graphs()))
def test_graphs_that_keep_the_grammar(name: str) -> None:
    graph = graphs()[name]
    assert verify(graph) is graph


def free() -> Graph:
    return Graph((), (node("sin", (leaf(),)),))


def computed_input() -> Graph:
    x = leaf()
    y = node("sin", (x,))
    return Graph((y,), (y,))


def leaf_with_operands() -> Graph:
    odd = Node(None, (leaf(),), {}, VECTOR, status=ABSTRACT)
    return Graph((odd,), (odd,))


def constant_of_another_type() -> Graph:
    value = constant(np.zeros(3))
    value.type = VECTOR
    return Graph((), (value,))


def writable_constant() -> Graph:
    value = constant(np.zeros(3, np.float32))
    value.value = np.zeros(3, np.float32)
    return Graph((), (value,))


def circle() -> Graph:
    x = leaf()
    y = node("sin", (x,))
    z = node("sin", (y,))
    y.operands = (z,)
    return Graph((x,), (z,))


def too_many_operands() -> Graph:
    x, y = leaf(), leaf()
    return Graph((x, y), (node("sin", (x, y)),))


def attribute_nobody_knows() -> Graph:
    x = leaf()
    return Graph((x,), (node("sin", (x,), mode="fast"),))


def missing_attribute() -> Graph:
    x = leaf()
    return Graph((x,), (node("sum", (x,), SCALAR, axis=(0,)),))


def used_as_a_whole() -> Graph:
    x = leaf()
    body = trace_body(lambda x: (x, x), [VECTOR]).graph
    call = Node(CALL, (x,), {"graph": body}, (VECTOR, VECTOR), origins=WHY, status=ABSTRACT)
    return Graph((x,), (node("sin", (call,)),))


def item_of_one() -> Graph:
    x = leaf()
    return Graph((x,), (Node(ITEM_OF, (x,), {"index": 0}, VECTOR, origins=WHY, status=ABSTRACT),))


def item_beyond() -> Graph:
    x = leaf()
    body = trace_body(lambda x: (x, x), [VECTOR]).graph
    call = Node(CALL, (x,), {"graph": body}, (VECTOR, VECTOR), origins=WHY, status=ABSTRACT)
    return Graph((x,), (Node(ITEM_OF, (call,), {"index": 2}, VECTOR, origins=WHY, status=ABSTRACT),))


def strange_dtype() -> Graph:
    x = leaf(Type((3,), np.dtype(complex)))
    return Graph((x,), (x,))


def wrong_type() -> Graph:
    x = leaf()
    return Graph((x,), (node("sum", (x,), VECTOR, axis=(0,), keepdims=False),))


def operands_that_do_not_fit() -> Graph:
    x, y = leaf(), leaf(Type((2,), np.dtype(np.float32)))
    return Graph((x, y), (node("add", (x, y)),))


def sub_graph_that_does_not_fit() -> Graph:
    x = leaf(SCALAR)
    body = trace_body(lambda x: (x,), [VECTOR]).graph
    call = Node(CALL, (x,), {"graph": body}, (VECTOR,), origins=WHY, status=ABSTRACT)
    return Graph((x,), tuple(items(call)))


def list_as_attribute() -> Graph:
    x = leaf()
    return Graph((x,), (node("sum", (x,), SCALAR, axis=[0], keepdims=False),))


def numpy_number_as_attribute() -> Graph:
    x = leaf()
    return Graph((x,), (node("sum", (x,), SCALAR, axis=(np.int64(0),), keepdims=False),))


def no_reason() -> Graph:
    x = leaf()
    y = node("sin", (x,))
    y.origins = ()
    return Graph((x,), (y,))


def still_traced() -> Graph:
    x = Trace().input(VECTOR)
    return Graph((x,), (x,))


def twice_the_same_input() -> Graph:
    x = leaf()
    return Graph((x, x), (x,))


def output_with_several() -> Graph:
    x = leaf()
    body = trace_body(lambda x: (x, x), [VECTOR]).graph
    return Graph((x,), (Node(CALL, (x,), {"graph": body}, (VECTOR, VECTOR), origins=WHY, status=ABSTRACT),))


def broken_inside() -> Graph:
    x = leaf()
    body = wrong_type()
    return Graph(
        (x,), tuple(items(Node(CALL, (x,), {"graph": body}, (VECTOR,), origins=WHY, status=ABSTRACT)))
    )


BROKEN: list[tuple[Callable[[], Graph], str, str]] = [
    (free, "leaf", "not among the inputs"),
    (computed_input, "leaf", "computed or has a value"),
    (leaf_with_operands, "bare leaf", "1 operands"),
    (constant_of_another_type, "constant", "ndarray"),
    (writable_constant, "constant", "can be written to"),
    (circle, "order", "sin is younger"),
    (too_many_operands, "count", "too many positional"),
    (attribute_nobody_knows, "count", "mode"),
    (missing_attribute, "count", "keepdims"),
    (used_as_a_whole, "several outputs", "uses call as a whole"),
    (item_of_one, "several outputs", "one output"),
    (item_beyond, "type", "do not fit"),
    (strange_dtype, "dtype", "complex128"),
    (wrong_type, "type", r"its operands give float32\[\]"),
    (operands_that_do_not_fit, "type", "do not broadcast"),
    (sub_graph_that_does_not_fit, "type", "the sub-graph takes"),
    (list_as_attribute, "attributes", "axis is list"),
    (numpy_number_as_attribute, "attributes", "axis is tuple"),
    (no_reason, "origin", "none"),
    (still_traced, "trace", "still belongs"),
    (twice_the_same_input, "inputs", "twice"),
    (output_with_several, "outputs", "has several"),
    (broken_inside, "type", r"in the graph inside %1 = call"),
]


@pytest.mark.parametrize(("build", "rule", "how"), BROKEN, ids=lambda each: getattr(each, "__name__", None))
def test_graphs_that_break_a_rule(build: Callable[[], Graph], rule: str, how: str) -> None:
    graph = build()
    found = [each for each in complaints(graph) if f"rule '{rule}'" in each]
    assert found
    with pytest.raises(GraphError):
        verify(graph)
    assert any(re.search(how, each) for each in found), found


def test_every_rule_is_broken_by_some_graph() -> None:
    assert {rule.name for rule in RULES} <= {rule for _, rule, _ in BROKEN}


def test_a_complaint_names_the_node_the_rule_and_the_users_line() -> None:
    with pytest.raises(
        GraphError, match=r"rule 'type' \(the recorded type.*%1 = sum : float32\[3\], made at train.py:12"
    ):
        verify(wrong_type())


def test_what_tracing_makes_is_verified() -> None:
    def wrong(x: Any) -> Any:
        y = ops.sin(x)
        y.attributes["nonsense"] = []
        return y

    with pytest.raises(GraphError, match="nonsense"):
        trace_program(wrong, [VECTOR])
