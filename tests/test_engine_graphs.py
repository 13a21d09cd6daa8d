"""Graphs: how they print (golden/graphs.txt), are evaluated, and know why each node exists."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import BoundsError, GraphError
from chainrule.graph import Graph, Node, constant, reachable, substitute
from chainrule.nn import Parameter
from chainrule.ops import ops
from chainrule.origin import Origin, because, current_origin, layer_path, user_line
from chainrule.tensor import Buffer
from chainrule.trace import trace_body, trace_program
from chainrule.types import Type

VECTOR = Type((3,), np.dtype(np.float32))
MATRIX = Type((4, 3), np.dtype(np.float32))


def network(x: Any) -> Any:
    with cr.scope("encoder"):
        hidden = cr.tanh(x * 2.0)
    return cr.sum(hidden * hidden)


def step() -> Any:
    weight, count = Parameter(np.ones(3, np.float32)), Buffer(np.int64(0))
    weight.name, count.name = "weight", "count"

    def run(x: Any) -> Any:
        value, gradient = cr.value_and_grad(lambda w: cr.mean((x @ w) ** 2))(weight)
        with because(Origin("update", "weight")):
            weight.assign(weight - 0.1 * gradient)
        count.assign(count + 1)
        return value

    return run


def loop(x: Any) -> Any:
    return cr.scan(lambda c, e: (c * e, cr.checkpoint(cr.sin)(c)), x[0], x)


PROGRAMS: dict[str, tuple[Callable[[Any], Any], Type]] = {
    "a gradient": (cr.grad(network), VECTOR),
    "a second derivative": (cr.grad(lambda x: cr.sum(cr.grad(network)(x))), VECTOR),
    "a training step": (step(), MATRIX),
    "a loop": (loop, VECTOR),
    "a repeated number": (cr.grad(lambda x: cr.sum(cr.sin(x))), Type((6,), np.dtype(np.float32))),
    "constants": (
        lambda x: (
            x + np.array([1, 2, 3], np.float32) + cr.zeros_like(x) + np.arange(7, dtype=np.float32)[:, None]
        ),
        VECTOR,
    ),
}


def test_printed_graphs_are_the_golden_ones(golden: Callable[[str, str], None]) -> None:
    printed = [
        f"# {name}\n{trace_program(f, [type_], ['x']).graph}\n" for name, (f, type_) in PROGRAMS.items()
    ]
    golden("graphs.txt", re.sub(r"\.py:\d+", ".py:LINE", "\n".join(printed)))


def test_the_history_of_an_eager_value_is_a_graph() -> None:
    x = cr.asarray([1.0, 2.0, 3.0])
    y = network(x)
    text = str(Graph((x.node,), (y.node,)))
    assert "tanh" in text
    assert "forward in encoder test_engine_graphs.py" in text
    found = Graph((x.node,), (y.node,)).evaluate(np, np.zeros(3, np.float32))
    assert found[0] == 0.0


def test_evaluate_drops_values_as_soon_as_nobody_needs_them() -> None:
    alive: list[int] = []

    class Counting:
        """An array namespace that notes how many of its results are alive."""

        count = 0

        def sin(self, x: Any) -> Any:
            result = Watched(np.sin(x))
            alive.append(Counting.count)
            return result

    class Watched(np.ndarray):
        def __new__(cls, value: Any) -> Any:
            Counting.count += 1
            return np.asarray(value).view(cls)

        def __del__(self) -> None:
            Counting.count -= 1

    def chain(x: Any) -> Any:
        for _ in range(20):
            x = cr.sin(x)
        return x

    trace_program(chain, [VECTOR]).graph.evaluate(Counting(), np.ones(3, np.float32))
    assert max(alive) <= 2 + 2  # a value, the one made from it, and their bases as views


def test_evaluate_checks_the_number_of_values_and_names_the_node() -> None:
    graph = trace_program(lambda x: cr.take(x, cr.asarray([5])), [VECTOR]).graph
    with pytest.raises(GraphError, match="1 inputs but was given 2"):
        graph.evaluate(np, 1, 2)
    with pytest.raises(BoundsError, match=r"gather float32\[1\], forward test_engine_graphs.py:\d+: index 5"):
        graph.evaluate(np, np.ones(3, np.float32))


def test_substitute_shares_what_it_does_not_touch() -> None:
    graph = trace_program(
        lambda x: (cr.sin(x) + cr.exp(cr.asarray(np.ones(3, np.float32))), cr.cos(x)), [VECTOR]
    ).graph
    (x,) = graph.inputs
    other = constant(np.zeros(3, np.float32))
    moved = substitute(graph, {x: other})
    assert moved.inputs == (other,)
    np.testing.assert_allclose(moved.evaluate(np, np.zeros(3))[1], np.ones(3))
    assert substitute(graph, {}).outputs == graph.outputs


def test_reasons_survive_substitution_and_speak_of_the_new_nodes() -> None:
    program = trace_program(cr.value_and_grad(network), [VECTOR])
    inside = set(program.graph.nodes)
    targets = {o.of for node in program.graph.nodes for o in node.origins if o.of is not None}
    assert targets
    assert targets <= inside


def test_reachable_stops_where_told() -> None:
    x = cr.asarray(1.0)
    y = cr.sin(x)
    z = cr.cos(y)
    assert reachable([z.node], stop=[y.node]) == [y.node, z.node]
    assert reachable([z.node]) == [x.node, y.node, z.node]


def test_constants_do_not_freeze_the_arrays_they_are_made_from() -> None:
    source = np.zeros(3)
    node = ops.constant(source, np.float64)
    source[0] = 1.0
    assert node.value.tolist() == [0.0, 0.0, 0.0]
    assert ops.constant(node.value, np.float64).value is node.value


def test_node_facts() -> None:
    x = cr.asarray([[1.0, 2.0]])
    assert (x.node.shape, x.node.ndim, x.node.size, x.node.name) == ((1, 2), 2, 2, "constant")
    assert repr(cr.sin(x).node) == "<sin float32[1,2]>"
    assert repr(Node(None, (), {}, VECTOR)) == "<input float32[3]>"
    both = next(n for n in reachable([cr.checkpoint(lambda x: (x, x > 0))(x)[0].node]) if n.name == "call")
    assert len(both.types) == 2
    assert both.floating
    assert "(float32[1,2], bool[1,2])" in repr(both)


# -- origins -----------------------------------------------------------------------------------------------
def test_origins_name_the_line_and_the_layer() -> None:
    with cr.scope("layers"), cr.scope("0"):
        assert layer_path() == "layers.0"
        y = cr.exp(cr.asarray(1.0))
    (origin,) = y.node.origins
    assert (origin.role, origin.layer, y.layer) == ("forward", "layers.0", "layers.0")
    assert origin.file == __file__
    assert origin.where().startswith("test_engine_graphs.py:")
    assert layer_path() == ""
    with cr.no_grad(), cr.scope("a"):
        assert cr.exp(cr.asarray(1.0)).layer == "a"


def test_one_scope_may_be_entered_again_and_survives_errors() -> None:
    block = cr.scope("block")
    with block, block:
        assert layer_path() == "block.block"
    with pytest.raises(ZeroDivisionError), block:
        raise ZeroDivisionError
    assert layer_path() == ""


def test_reasons_as_text() -> None:
    node = Node(None, (), {}, VECTOR)
    assert (
        str(Origin("pullback", "0", "/a/b.py", 3, node, 1))
        == "pullback of input through operand 1 in 0 b.py:3"
    )
    assert str(Origin("fan-out", of=node)) == "fan-out of input"
    assert Origin().where() == ""
    with because(Origin("update", "w")):
        assert current_origin() == Origin("update", "w")
    file, line = user_line()
    assert file == __file__
    assert line > 0


def test_every_node_of_a_second_derivative_has_a_reason() -> None:
    graph = trace_program(cr.grad(lambda x: cr.sum(cr.grad(network)(x) ** 2)), [VECTOR]).graph
    computed = [node for node in graph.nodes if node.primitive is not None]
    assert all(node.origins for node in computed)
    assert {o.role for node in computed for o in node.origins} == {"forward", "pullback", "fan-out"}
    assert any(o.layer == "encoder" and o.role == "pullback" for node in computed for o in node.origins)


def test_recomputation_says_so() -> None:
    graph = trace_program(cr.grad(cr.checkpoint(network)), [VECTOR]).graph
    calls = [node for node in graph.nodes if node.name == "call"]
    again = {o.role for node in calls[-1].attributes["graph"].nodes for o in node.origins}
    assert "recompute" in again


def test_bodies_capture_what_they_take_from_outside_in_order() -> None:
    a, b = cr.asarray([1.0]), cr.asarray([2.0])
    body = trace_body(lambda x: x * b + a * b + cr.stop_gradient(a), [VECTOR])
    assert [node.value.tolist() for node in body.captured] == [[2.0], [2.0]]
    assert len(body.graph.inputs) == 3
