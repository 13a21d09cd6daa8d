"""What the backward pass keeps: the cheapest choice there is, less memory, and the same numbers."""

from itertools import product
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import passes
from chainrule.graph import Graph
from chainrule.nn import functional
from chainrule.passes.cotangents import is_backward
from chainrule.schedule import groups
from chainrule.schedule.details import users_of
from chainrule.schedule.interpret import interpret
from chainrule.schedule.keeping import Keeping, _Network, keeping
from chainrule.schedule.kernels import Special, expressions
from chainrule.schedule.lower import schedule
from chainrule.schedule.memory import plan
from chainrule.trace import trace_program
from chainrule.types import Type

FLOAT64 = np.dtype(np.float64)


def gradients(function: Any, *shapes: tuple[int, ...]) -> Graph:
    """The graph of a sum of squares and its gradients, ready to be lowered."""

    def value_and_gradients(*arguments: Any) -> Any:
        return cr.value_and_grad(lambda given: cr.sum(cr.square(function(*given))))(list(arguments))

    types = [Type(shape, FLOAT64) for shape in shapes]
    return passes.simplify_for_kernels(trace_program(value_and_gradients, types).graph)


def mlp(activation: Any) -> Any:
    return lambda x, w, v: activation(x @ w) @ v


def block(x: Any, w: Any, up: Any, down: Any, scale: Any, shift: Any) -> Any:
    """Attention with one head, then a linear layer with GELU, both normalised first."""
    normal = functional.layer_norm(x, 8, scale, shift)
    x = x + functional.scaled_dot_product_attention(normal @ w, normal, normal, is_causal=True)
    normal = functional.layer_norm(x, 8, scale, shift)
    return x + functional.gelu(functional.linear(normal, up), "tanh") @ down


def pooled(x: Any, w: Any) -> Any:
    return functional.max_pool2d(functional.relu(functional.conv2d(x, w)), 2)


SHAPES = {
    "gelu": (mlp(lambda x: functional.gelu(x, "tanh")), (512, 8), (8, 256), (256, 4)),
    "silu": (mlp(functional.silu), (512, 8), (8, 256), (256, 4)),
    "tanh": (mlp(cr.tanh), (512, 8), (8, 256), (256, 4)),
    "norm": (mlp(lambda x: functional.layer_norm(x, 256)), (512, 8), (8, 256), (256, 4)),
    "pool": (pooled, (2, 3, 12, 13), (4, 3, 3, 3)),
    "block": (block, (3, 5, 8), (8, 8), (32, 8), (32, 8), (8,), (8,)),
    "large block": (block, (24, 32, 8), (8, 8), (32, 8), (32, 8), (8,), (8,)),
}
RECOMPUTED = {
    "gelu": [],  # its derivative is kept in the place of its argument
    "silu": [],
    "tanh": [],  # the product with the next weight reads it: it is in memory
    "norm": ["subtract"],  # rows have one mean and one scale, which are kept
}


@pytest.mark.parametrize("name", RECOMPUTED)
def test_what_is_cheap_is_computed_again(name: str) -> None:
    graph = gradients(*SHAPES[name])
    found = keeping(graph, users_of(graph)).recomputed
    large = [node.name for node in found if node.size > 512 and node.dtype.kind == "f"]
    assert sorted(large) == RECOMPUTED[name]


def test_what_stays_in_the_cache_is_kept_if_it_is_an_exponential() -> None:
    graph = gradients(SHAPES["silu"][0], (4, 8), (8, 16), (16, 4))
    assert "sigmoid" not in {node.name for node in keeping(graph, users_of(graph)).recomputed}


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_derivatives_are_left_behind_by_the_forward_pass(name: str) -> None:
    """As much is kept as before, the argument; the exponential is not computed twice."""
    graph = gradients(*SHAPES[name])
    kernels = [kernel for kernel in schedule(graph).innermost if not isinstance(kernel, Special)]
    found = [each.op for kernel in kernels for each in expressions(s.value for s in kernel.statements)]
    assert found.count("sigmoid") == 1


def test_what_is_recomputed_on_purpose_stays_in_the_backward_pass() -> None:
    function, *shapes = SHAPES["gelu"]
    graph = gradients(cr.checkpoint(function), *shapes)
    found = keeping(graph, users_of(graph))
    again = {node for node in graph.nodes if any(origin.role == "recompute" for origin in node.origins)}
    assert again
    assert again <= found.backward


def test_without_a_backward_pass_nothing_is_computed_again() -> None:
    function, *shapes = SHAPES["gelu"]
    types = [Type(shape, FLOAT64) for shape in shapes]
    graph = passes.simplify_for_kernels(trace_program(function, types).graph)
    assert keeping(graph, users_of(graph)) == Keeping(frozenset(), frozenset())


@pytest.mark.parametrize("name", SHAPES)
def test_numbers_are_the_same_and_memory_is_less(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = gradients(*SHAPES[name])
    generator = np.random.default_rng(0)
    values = [generator.normal(size=node.shape) / 2 for node in graph.inputs]
    chosen = schedule(graph)
    backward = frozenset(node for node in graph.nodes if is_backward(node))
    monkeypatch.setattr(groups, "keeping", lambda *_: Keeping(backward, frozenset()))
    everything = schedule(graph)
    for got, wanted in zip(interpret(chosen, values), graph.evaluate(np, *values), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10 * np.abs(wanted).max())
    assert plan(chosen).arena.size <= plan(everything).arena.size
    if name in ("gelu", "large block"):
        assert plan(chosen).arena.size < 0.75 * plan(everything).arena.size


# -- the cut -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(40))
def test_no_other_choice_is_cheaper(seed: int) -> None:
    """Against every subset of what could be computed again, on small random networks."""
    generator = np.random.default_rng(seed)
    count = 7
    keep, work = generator.integers(1, 12, count), generator.integers(1, 8, count)
    fixed = {k for k in range(count) if k < 2 or generator.random() < 0.15}  # a product, say
    uses = {
        k: [] if k in fixed else list(generator.choice(k, size=min(k, 2), replace=False))
        for k in range(count)
    }
    needed = {count - 1, *map(int, generator.integers(0, count, 3))}

    network = _Network()
    for k in range(count):
        network.value(k, int(keep[k]))
        network.source(k, 1 << 40 if k in fixed else int(work[k]))
        for operand in uses[k]:
            network.uses(int(operand), k)
    for k in needed:
        network.needed(k)

    def cost(again: set[int]) -> float:
        if again & fixed:
            return float("inf")
        read = needed | {int(each) for k in again for each in uses[k]}
        return sum(work[k] for k in again) + sum(keep[k] for k in read - again)

    choices = product((False, True), repeat=count)
    best = min(cost({k for k, taken in enumerate(choice) if taken}) for choice in choices)
    assert cost(set(network.behind_the_cut())) == best


# -- checkpoints ---------------------------------------------------------------------------------------------
def test_checkpoints_keep_their_promise() -> None:
    """Of 25 layers, those that begin a segment of five are kept, and for a time those of one segment."""

    def layers(x: Any, *weights: Any) -> Any:
        for weight in weights:
            x = cr.tanh(x @ weight)
        return x

    def segments(x: Any, *weights: Any) -> Any:
        for first in range(0, 25, 5):
            x = cr.checkpoint(layers)(x, *weights[first : first + 5])
        return x

    shapes = [(512, 16), *[(16, 16)] * 25]
    activation = 512 * 16 * 8
    kept, recomputed = (plan(schedule(gradients(f, *shapes))).arena.size for f in (layers, segments))
    assert kept > 25 * activation
    assert recomputed < 15 * activation
