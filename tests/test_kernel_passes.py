"""The passes that only kernels need: the same values up to rounding, said with less work."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import passes
from chainrule.graph import Graph
from chainrule.nn import functional
from chainrule.passes.cotangents import gather_cotangents
from chainrule.passes.factors import share_factors
from chainrule.passes.flattening import merge_leading_axes
from chainrule.passes.parts import join_parts, place_once
from chainrule.passes.products import multiply_small_powers
from chainrule.trace import trace_program
from chainrule.types import Type
from chainrule.verify import verify

FLOAT64 = np.dtype(np.float64)
RANDOM = np.random.default_rng(0)


def graph_of(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Graph:
    """The graph of a function of arrays, simplified as it is before these passes run."""
    return passes.simplify(trace_program(function, [Type(shape, FLOAT64) for shape in shapes]).graph)


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.primitive is not None and node.name != "identity"]


def assert_same(one: Graph, other: Graph, rtol: float = 1e-13) -> None:
    """Two graphs agree on random operands; other is well formed."""
    values = [RANDOM.normal(size=node.shape) for node in one.inputs]
    for a, b in zip(one.evaluate(np, *values), verify(other).evaluate(np, *values), strict=True):
        np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol * np.abs(a).max(initial=1.0))


def pullback(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, g: cr.vjp(function, x)[1](g)[0]


# -- factors -------------------------------------------------------------------------------------------------
def test_the_pullback_of_a_softmax_needs_its_result_alone() -> None:
    before = graph_of(pullback(cr.softmax), (4, 5), (4, 5))
    after = share_factors(before)
    assert names(after)[-4:] == ["multiply", "sum", "subtract", "multiply"]
    y = next(node for node in after.nodes if node.name == "divide")
    assert all(y in node.operands or node.name == "subtract" for node in after.nodes[-4::2])
    assert_same(before, after)


SUMS: list[tuple[Callable[..., Any], list[str]]] = [
    (lambda x, f: cr.sum(x * f, axis=1), ["sum", "reshape", "multiply"]),
    (lambda x, f: cr.sum(f * x, axis=1, keepdims=True), ["sum", "multiply"]),
    (lambda x, f: cr.sum(-(x / f), axis=1, keepdims=True), ["sum", "divide", "negative"]),
    (lambda x, f: cr.sum(x * 2.0), ["sum", "multiply"]),
    (lambda x, f: cr.sum((x * f) * 2.0, axis=-1, keepdims=True), ["sum", "multiply", "multiply"]),
    (lambda x, f: x / f - (x * x) / f, ["multiply", "subtract", "divide"]),
    (lambda x, f: f * (x * 2.0), ["multiply", "multiply"]),
    (lambda x, f: cr.exp(f) * (x / f), ["divide", "exp", "multiply"]),
]
KEPT: list[Callable[..., Any]] = [
    lambda x, f: cr.sum(x * f, axis=0),  # the factor differs from term to term
    lambda x, f: cr.sum(f / x, axis=1),
    lambda x, f: ((y := x * f), cr.sum(y, axis=1)),  # the product is computed anyway
    lambda x, f: (x / f, x / f + cr.exp(x) / f),
]


@pytest.mark.parametrize(("function", "left"), SUMS)
def test_what_terms_have_in_common_is_taken_out(function: Any, left: list[str]) -> None:
    before = graph_of(function, (4, 5), (4, 1))
    after = share_factors(before)
    assert sorted(names(after)) == sorted(left)
    assert_same(before, after)


@pytest.mark.parametrize("function", KEPT)
def test_what_differs_or_is_needed_stays(function: Any) -> None:
    before = graph_of(function, (4, 5), (4, 1))
    assert names(share_factors(before)) == names(before)


# -- cotangents ----------------------------------------------------------------------------------------------
def through(function: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient of x where `function` lies between two products, so that its cotangent is one too."""
    return cr.grad(lambda x, w, f: cr.sum(cr.square(function(x @ w, f) @ w)))


GATHERED: list[tuple[Callable[..., Any], int]] = [
    (lambda z, f: z * cr.sigmoid(z), 1),
    (lambda z, f: functional.gelu(z, "tanh"), 1),
    (lambda z, f: functional.gelu(z), 1),
    (lambda z, f: -(z * cr.sin(z)) / f, 1),
    (lambda z, f: z * cr.sin(z) - cr.exp(z) * z, 1),
    (lambda z, f: cr.tanh(z), 0),  # there is no sum
    (lambda z, f: z + cr.sin(z), 0),  # a term that is the cotangent itself
    (lambda z, f: cr.softmax(z), 0),
]


@pytest.mark.parametrize(("function", "count"), GATHERED)
def test_what_a_cotangent_is_multiplied_by_is_one_value(function: Any, count: int) -> None:
    before = graph_of(through(function), (6, 5), (5, 5), (6, 1))
    after = gather_cotangents(before)
    assert (after is not before) == bool(count)
    assert len(names(after)) <= len(names(before))
    assert_same(before, after, 1e-12)


def test_terms_that_are_needed_stay() -> None:
    x, w = cr.ones((6, 5)), cr.ones((5, 5))
    graph = passes.simplify(
        trace_program(through(lambda z, f: z * cr.sin(z)), [x.node.type, w.node.type, x.node.type]).graph
    )
    total = next(node for node in graph.nodes if node.name == "add")
    shown = Graph(graph.inputs, (*graph.outputs, total.operands[0]))
    assert gather_cotangents(shown) is shown


# -- factors of rows -----------------------------------------------------------------------------------------
def test_what_belongs_to_rows_is_combined_first() -> None:
    before = graph_of(lambda x, f, g: (f * (2.0 * x), g * (x / f), x * (x / f)), (4, 5), (4, 1), (1, 5))
    after = share_factors(before)
    assert [node.size for node in after.nodes if node.name in ("multiply", "divide")] == [4, 20, 20, 20, 20]
    assert_same(before, after)


@pytest.mark.parametrize("normalised", [(5,), (4, 5)])
def test_no_sum_of_a_normalisations_pullback_waits_for_another(normalised: tuple[int, ...]) -> None:
    before = graph_of(pullback(lambda x: cr.nn.functional.layer_norm(x, normalised)), (3, 4, 5), (3, 4, 5))
    after = share_factors(before)
    assert_same(before, after, 1e-12)
    assert (_depth_of_sums(before), _depth_of_sums(after)) == (3, 2)


def test_batch_normalisation_too() -> None:
    def normalise(x: Any) -> Any:
        return cr.nn.functional.batch_norm(x, None, None, training=True)

    before = graph_of(pullback(normalise), (6, 3, 4), (6, 3, 4))
    after = share_factors(before)
    assert_same(before, after, 1e-12)
    assert (_depth_of_sums(before), _depth_of_sums(after)) == (3, 2)


def _depth_of_sums(graph: Graph) -> int:
    """How many sums have to be known one after the other."""
    depth: dict[Any, int] = {}
    for node in graph.nodes:
        depth[node] = max((depth[each] for each in node.operands), default=0) + (node.name == "sum")
    return max(depth.values())


def test_sums_of_something_else_than_centred_values_stay() -> None:
    def function(x: Any, f: Any) -> Any:
        other_axis = f * (x - cr.mean(x, axis=0, keepdims=True))
        other_count = f * (x - cr.sum(x, axis=1, keepdims=True) / 4.0)
        return cr.sum(x * x + other_axis, axis=1), cr.sum(x * x + other_count, axis=1)

    before = graph_of(function, (4, 5), (4, 1))
    after = share_factors(before)
    assert names(after).count("sum") == 4
    assert_same(before, after)


# -- axes ----------------------------------------------------------------------------------------------------
def test_work_between_linear_layers_is_done_on_rows() -> None:
    def function(x: Any, w: Any, b: Any) -> Any:
        hidden = cr.nn.functional.linear(x, w)
        scores = cr.nn.functional.linear(cr.tanh(hidden + x) * b, w)
        return scores, cr.sum(scores, axis=(0, 1)), cr.max(scores, axis=2, keepdims=True)

    before = graph_of(function, (2, 3, 4), (4, 4), (4,))
    after = merge_leading_axes(before)
    assert_same(before, after)
    for node in after.nodes:
        if node.name in ("matmul", "tanh", "add", "multiply", "sum", "max"):
            assert node.ndim <= 2, node


def test_what_broadcasts_along_one_of_the_axes_keeps_both() -> None:
    def function(x: Any, w: Any, positions: Any) -> Any:
        return cr.nn.functional.linear(x + positions, w), cr.sum(x, axis=0), cr.flip(x, axis=0)

    before = graph_of(function, (2, 3, 4), (5, 4), (3, 4))
    after = merge_leading_axes(before)
    assert names(after) == names(before)
    assert_same(before, after)


def test_views_of_views_are_one_view() -> None:
    def function(x: Any) -> Any:
        turned = cr.permute_dims(cr.permute_dims(x, (2, 0, 1)), (1, 2, 0))
        again = cr.permute_dims(cr.permute_dims(x, (2, 0, 1)), (2, 1, 0))
        return cr.exp(turned), cr.exp(again), cr.exp(x.reshape(24).reshape(2, 3, 4))

    before = graph_of(function, (2, 3, 4))
    after = merge_leading_axes(before)
    assert names(after).count("permute_dims") == 1
    assert "reshape" not in names(after)
    assert_same(before, after)


def test_merged_nodes_keep_their_reasons() -> None:
    def function(x: Any, w: Any) -> Any:
        with cr.scope("layer"):
            return cr.tanh(cr.nn.functional.linear(x, w))

    after = merge_leading_axes(graph_of(function, (2, 3, 4), (5, 4)))
    (tanh,) = [node for node in after.nodes if node.name == "tanh"]
    assert tanh.layer == "layer"


# -- parts ---------------------------------------------------------------------------------------------------
JOINED: list[tuple[Callable[..., Any], list[str]]] = [
    (lambda x: x[1] * x[0] * x[2], ["concat"]),
    (lambda x: x[:2].sum(axis=0) * x[2:].sum(axis=0), ["concat"]),
    (lambda x: x[0] * cr.exp(x[1]), ["concat", "place"]),  # nobody looked at the last row
    (lambda x: x[:, 1:3] * x[:, 3:], ["concat", "place"]),
    (lambda x: x[0] * x[2], ["place", "place"]),  # not side by side
    (lambda x: x[:2] * x[1:], ["place", "place"]),  # they overlap
    (lambda x: x[:, ::2][:, :2] * x[:, 1::2], ["place", "place"]),  # between each other
]


@pytest.mark.parametrize(("function", "left"), JOINED)
def test_the_pullbacks_of_parts_are_one_array(function: Any, left: list[str]) -> None:
    before = graph_of(cr.grad(lambda x: cr.sum(cr.square(function(x)))), (3, 5))
    after = place_once(join_parts(before))
    assert sorted(name for name in names(after) if name in ("place", "concat")) == left
    assert_same(before, after)


def test_what_is_added_to_parts_or_looks_at_their_sum_keeps_them() -> None:
    def function(x: Any, y: Any) -> Any:
        one, other = (cr.vjp(lambda x, k=k: x[k], x)[1](y)[0] for k in (0, 1))
        both = one + other
        return both + x, both + one

    before = graph_of(function, (2, 3), (3,))
    after = join_parts(before)
    assert names(after).count("concat") == 1
    assert_same(before, after)


def test_zeros_are_filled_in_once_and_late() -> None:
    def cropped(x: Any) -> Any:
        return cr.nn.functional.relu(x)[1:5, :4][1:, ::2]

    before = graph_of(pullback(lambda x: (y := cropped(x)) * y), (6, 5), (3, 2))
    after = place_once(before)
    assert names(after).count("place") == 1
    assert names(after)[-1] == "place"
    (where,) = [node for node in after.nodes if node.name == "where"]
    assert where.shape == (3, 2)
    assert_same(before, after)


def test_sums_do_not_see_zeros_on_the_axes_they_sum_over() -> None:
    def function(x: Any, y: Any) -> Any:
        placed = cr.vjp(lambda x: x[1:], x)[1](y)[0]
        return cr.sum(placed, axis=0), cr.sum(placed, axis=1)

    before = graph_of(function, (3, 4), (2, 4))
    after = place_once(before)
    assert [node.operands[0].name for node in after.nodes if node.name == "sum"] == ["input", "place"]
    assert_same(before, after)


def test_fewer_zeros_around_the_same_values_are_a_part() -> None:
    def function(x: Any, y: Any) -> Any:
        def placed(first: int, count: int) -> Any:
            return cr.vjp(lambda x: x[first : first + 2], cr.zeros(count, dtype=y.dtype))[1](y)[0]

        return placed(1, 4), placed(2, 7), placed(0, 3), placed(3, 5)

    before = graph_of(function, (3,), (2,))
    after = place_once(before)
    # The last has three zeros in front of the values, the widest only two.
    assert names(after).count("place") == 2
    assert names(after).count("slice") == 2
    assert_same(before, after)


# -- powers --------------------------------------------------------------------------------------------------
SPECIAL_VALUES = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, -1.5, 5e-324, 1e200, -1e200])


@pytest.mark.parametrize("exponent", [-1.0, 1.0, 2.0, 3.0, 0.0, 0.5, -2.0, 4.0])
def test_small_powers_are_products(exponent: float) -> None:
    before = trace_program(lambda x: x**exponent, [Type(SPECIAL_VALUES.shape, FLOAT64)]).graph
    after = verify(multiply_small_powers(before))
    assert ("pow" in names(after)) == (exponent not in (-1.0, 1.0, 2.0, 3.0))
    with np.errstate(all="ignore"):
        (found,), (expected,) = (each.evaluate(np, SPECIAL_VALUES) for each in (after, before))
    np.testing.assert_allclose(found, expected, rtol=2 * np.finfo(np.float64).eps)
    assert np.array_equal(np.signbit(found), np.signbit(expected))


def test_powers_keep_their_type() -> None:
    integers = np.array([-2, 0, 3])
    for program in (lambda x: x**2, lambda x: cr.pow(x, cr.asarray([[2]]))):
        before = trace_program(program, [Type((3,), np.dtype(np.int64))]).graph
        after = verify(multiply_small_powers(before))
        (found,), (expected,) = (each.evaluate(np, integers) for each in (after, before))
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()
