"""The passes: what each drops, what it must leave alone, and that reasons are not lost on the way."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import passes
from chainrule.graph import Graph
from chainrule.passes.algebra import simplify_algebra
from chainrule.passes.common import share_common_subexpressions
from chainrule.passes.constants import LARGEST, fold_constants
from chainrule.passes.inlining import inline_calls
from chainrule.passes.ordering import use_values_while_warm
from chainrule.trace import trace_program
from chainrule.types import Type
from chainrule.verify import verify

FLOAT32 = np.dtype(np.float32)
VECTOR = Type((3,), FLOAT32)
# Every kind of float: signed zeros, subnormal, huge, infinite, not a number.
SPECIAL = np.array([0.0, -0.0, 1.5, -2.0, 1e-45, -3e38, np.inf, -np.inf, np.nan], np.float32)
SPECIALS = Type(SPECIAL.shape, FLOAT32)


def graph_of(function: Callable[..., Any], *types: Type) -> Graph:
    return trace_program(function, types or (VECTOR,)).graph


def names(graph: Graph) -> list[str]:
    """The operations of a graph, in the order in which they run."""
    return [node.name for node in graph.nodes if node.primitive is not None]


def bits(values: Any) -> list[bytes]:
    return [np.where(np.isnan(each), np.float32(np.nan), each).tobytes() for each in map(np.asarray, values)]


# -- algebra ---------------------------------------------------------------------------------------------
DROPPED: list[tuple[Callable[..., Any], list[str]]] = [
    (lambda x: cr.exp(x) * 1.0, ["exp"]),
    (lambda x: 1.0 * cr.exp(x), ["exp"]),
    (lambda x: cr.exp(x) * cr.ones(9), ["exp"]),
    (lambda x: cr.exp(x) / 1.0, ["exp"]),
    (lambda x: cr.exp(x) - 0.0, ["exp"]),
    (lambda x: cr.exp(x) + -0.0, ["exp"]),
    (lambda x: cr.negative(-cr.exp(x)), ["exp"]),
    (lambda x: cr.exp(x) + (-cr.sin(x)), ["exp", "sin", "subtract"]),
    (lambda x: (-cr.exp(x)) + cr.sin(x), ["exp", "sin", "subtract"]),
    (lambda x: cr.exp(x) - (-cr.sin(x)), ["exp", "sin", "add"]),
]
KEPT: list[Callable[..., Any]] = [
    lambda x: cr.exp(x) + 0.0,  # turns -0.0 into 0.0
    lambda x: cr.exp(x) - -0.0,  # likewise
    lambda x: cr.exp(x) * 0.0,  # NaN stays NaN
    lambda x: 1.0 / cr.exp(x),
    lambda x: cr.exp(x) * cr.ones((2, 9)),  # has another shape
    lambda x: x * 1.0,  # x is not ours: it may be laid out in any way
    lambda x: cr.broadcast_to(x, (2, 9)) * 1.0,  # one is a dense array, the other repeats by strides
    lambda x: cr.sin(x) / cr.sin(x),
]


@pytest.mark.parametrize(("function", "left"), DROPPED)
def test_algebra_drops_what_changes_no_bit(function: Any, left: list[str]) -> None:
    before = fold_constants(graph_of(function, SPECIALS))
    after = verify(simplify_algebra(before))
    assert names(after) == left
    with np.errstate(all="ignore"):
        assert bits(after.evaluate(np, SPECIAL)) == bits(before.evaluate(np, SPECIAL))


@pytest.mark.parametrize("function", KEPT)
def test_algebra_keeps_what_would_change_a_bit(function: Any) -> None:
    before = fold_constants(graph_of(function, SPECIALS))
    after = verify(simplify_algebra(before))
    assert names(after)[-1] == names(before)[-1]
    with np.errstate(all="ignore"):
        assert bits(after.evaluate(np, SPECIAL)) == bits(before.evaluate(np, SPECIAL))


def test_integers_have_no_negative_zero() -> None:
    count = Type((3,), np.dtype(np.int64))
    graph = graph_of(lambda n: (n * 2) + 0, count)
    assert names(simplify_algebra(graph)) == ["multiply"]


def test_elementwise_operations_broadcast_by_themselves() -> None:
    def function(x: Any) -> Any:
        row = cr.sum(x, axis=0)
        return cr.broadcast_to(row, (4, 3)) * cr.exp(x), cr.broadcast_to(row, (4, 3)) - cr.sum(x)

    after = simplify_algebra(graph_of(function, Type((4, 3), FLOAT32)))
    # The second keeps its broadcast: nothing else would give it its shape.
    assert names(after) == ["sum", "exp", "multiply", "broadcast_to", "sum", "subtract"]


# -- constants -------------------------------------------------------------------------------------------
def test_what_depends_on_constants_alone_is_computed_once() -> None:
    """A trace computes with constants right away; inside of a call they become known when it is inlined."""
    twice = cr.checkpoint(lambda x, c: x * cr.log(cr.exp(c)))
    graph = inline_calls(graph_of(lambda x: twice(x, cr.stop_gradient(cr.full((3,), 2.0)))))
    after = verify(fold_constants(graph))
    assert names(graph) == ["exp", "log", "multiply"]
    assert names(after) == ["multiply"]
    (constant,) = [node for node in after.nodes if node.value is not None]
    assert not constant.value.flags.writeable
    np.testing.assert_allclose(constant.value, [2, 2, 2], rtol=1e-6)


def test_large_results_are_not_kept_unless_they_repeat_one_number() -> None:
    extent = LARGEST

    def function(x: Any) -> Any:
        spread = cr.checkpoint(lambda x, c: (cr.broadcast_to(c, (extent,)) + x[0], cr.exp(c) + x[0]))
        large = cr.checkpoint(lambda x, c: cr.sin(c) + x[0])
        number, many = (cr.stop_gradient(cr.asarray(np.full(size, 2.0, np.float32))) for size in (1, extent))
        return spread(x, number), large(x, many)

    after = fold_constants(inline_calls(graph_of(function)))
    assert [name for name in names(after) if name not in ("slice", "reshape", "add")] == ["sin"]
    (repeated,) = [node for node in after.nodes if node.value is not None and node.value.strides == (0,)]
    assert repeated.shape == (extent,)


# -- common subexpressions -------------------------------------------------------------------------------
def test_what_is_computed_twice_is_computed_once_for_both_reasons() -> None:
    def function(x: Any) -> Any:
        with cr.scope("left"):
            left = cr.exp(x * 2.0)
        with cr.scope("right"):
            right = cr.exp(x * 2.0)
        return left + right

    after = verify(share_common_subexpressions(graph_of(function)))
    assert names(after) == ["multiply", "exp", "add"]
    exp = next(node for node in after.nodes if node.name == "exp")
    assert [origin.layer for origin in exp.origins] == ["left", "right"]


def test_attributes_and_operands_must_agree() -> None:
    def function(x: Any) -> Any:
        return cr.sum(x, axis=0), cr.sum(x, axis=1), cr.sum(x, axis=0, keepdims=True), cr.sum(x, axis=0)

    after = share_common_subexpressions(graph_of(function, Type((3, 3), FLOAT32)))
    assert names(after) == ["sum", "sum", "sum"]
    assert after.outputs[0] is after.outputs[3]


def test_constants_are_one_if_their_bits_are() -> None:
    def function(x: Any) -> Any:
        return x * 2.0 + 2.0, x * 0.0 + x * -0.0, x + np.float32(2.0)

    after = share_common_subexpressions(graph_of(function))
    values = [node.value.item() for node in after.nodes if node.value is not None]
    assert sorted(map(str, values)) == ["-0.0", "0.0", "2.0"]


def test_the_backward_pass_shares_what_the_forward_pass_computed() -> None:
    graph = graph_of(cr.value_and_grad(lambda x: cr.sum(cr.tanh(x) * cr.tanh(x))))
    assert names(share_common_subexpressions(graph)).count("tanh") == 1


# -- calls -----------------------------------------------------------------------------------------------
def test_calls_become_their_bodies_and_recomputation_stays() -> None:
    f = cr.checkpoint(lambda x: cr.sin(cr.sin(x)))
    graph = graph_of(cr.value_and_grad(lambda x: cr.sum(f(f(x)))))
    after = verify(passes.simplify(graph))
    assert not {"call", "item"} & set(names(after))
    # Two calls of two sines; their derivatives compute sin(x) anew, not sin(sin(x)), which they do not need.
    assert names(after).count("sin") == 4 + 2
    x = np.array([0.1, 0.5, 2.0], np.float32)
    assert bits(after.evaluate(np, x)) == bits(graph.evaluate(np, x))


def test_calls_inside_of_calls_are_inlined_too() -> None:
    inner = cr.checkpoint(cr.exp)
    outer = cr.checkpoint(lambda x: inner(x) + inner(-x))
    after = verify(inline_calls(graph_of(lambda x: outer(x) * 2.0)))
    assert names(after) == ["exp", "negative", "exp", "add", "multiply"]


# -- order -----------------------------------------------------------------------------------------------
def test_a_value_is_used_while_it_is_warm() -> None:
    def function(x: Any) -> Any:
        a, b = cr.sin(x), cr.cos(x)
        return a + x, b * a, cr.exp(b)

    # sin and cos are used twice and wait; nothing else can come earlier.
    assert names(use_values_while_warm(graph_of(function))) == ["sin", "cos", "add", "multiply", "exp"]

    def chains(x: Any) -> Any:
        changes = [cr.sin(x), cr.cos(x), cr.tan(x)]
        return [x - each for each in changes]

    after = verify(use_values_while_warm(graph_of(chains)))
    assert names(after) == ["sin", "subtract", "cos", "subtract", "tan", "subtract"]


def test_what_waits_for_another_operand_or_changes_its_type_stays_where_it_is() -> None:
    def function(x: Any) -> Any:
        a, b = cr.sin(x), cr.exp(x)
        return a * b, cr.sum(cr.cos(x)), cr.tan(x) > 0, cr.sinh(x)

    graph = graph_of(function)
    assert names(use_values_while_warm(graph)) == names(graph)


# -- all together ----------------------------------------------------------------------------------------
def test_dead_code_is_not_in_the_graph() -> None:
    def function(x: Any) -> Any:
        cr.exp(x)
        return x * 2.0

    assert names(passes.simplify(graph_of(function))) == ["multiply"]


def test_every_pass_is_described_and_reported() -> None:
    report = passes.report(graph_of(lambda x: cr.exp(x) * 1.0)).splitlines()
    assert len(report) == 1 + len(passes.PASSES)
    for each, line in zip(passes.PASSES, report[1:], strict=True):
        assert each.__doc__
        assert each.__name__.replace("_", " ") in line


def test_origins_speak_of_the_new_nodes() -> None:
    after = passes.simplify(graph_of(cr.value_and_grad(lambda x: cr.sum(cr.exp(x) * 1.0))))
    nodes = set(after.nodes)
    pullbacks = [o for node in after.nodes for o in node.origins if o.of is not None and node.primitive]
    assert pullbacks
    assert all(origin.of in nodes for origin in pullbacks)


def test_a_network_in_training_keeps_its_bits() -> None:
    model = cr.nn.Sequential(
        cr.nn.Linear(5, 8), cr.nn.BatchNorm1d(8), cr.nn.GELU(), cr.nn.Dropout(0.5), cr.nn.Linear(8, 3)
    )
    trainer = cr.Trainer(model, cr.nn.CrossEntropyLoss(), cr.optim.AdamW(lr=0.1), clip_norm=1.0)
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(16, 5)).astype(np.float32), generator.integers(0, 3, 16)
    program = trainer.program((x, y))
    values = program.arrays([x, y])
    before, after = program.graph, passes.simplify(program.graph)
    assert len(after) < len(before)
    with np.errstate(all="ignore"):
        for one, other in zip(before.evaluate(np, *values), verify(after).evaluate(np, *values), strict=True):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
