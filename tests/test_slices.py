"""Kernels in loops over slices of a batch: the same numbers, less memory, and only where it may be done."""

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import passes
from chainrule.graph import Graph
from chainrule.nn import functional
from chainrule.schedule import lower, slices
from chainrule.schedule.interpret import interpret
from chainrule.schedule.kernels import Repeat, Schedule
from chainrule.schedule.lower import schedule
from chainrule.schedule.memory import plan
from chainrule.trace import trace_program
from chainrule.types import Type

FLOAT32 = np.dtype(np.float32)
RANDOM = np.random.default_rng(0)


def graph_of(function: Any, *shapes: tuple[int, ...]) -> Graph:
    return passes.simplify_for_kernels(trace_program(function, [Type(s, FLOAT32) for s in shapes]).graph)


def attention(joined: Any) -> Any:
    """Self-attention of examples whose queries, keys and values lie side by side."""
    examples, length, width = joined.shape
    query, key, value = cr.permute_dims(joined.reshape(examples, length, 3, 2, width // 6), (2, 0, 3, 1, 4))
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def gradient(joined: Any) -> Any:
    return cr.value_and_grad(lambda x: cr.sum(cr.square(attention(x))))(joined)


def loops(made: Schedule) -> list[Repeat]:
    return [each for each in made.kernels if isinstance(each, Repeat)]


def without_slices(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Schedule:
    with monkeypatch.context() as patched:
        patched.setattr(lower, "in_slices", lambda made: made)
        return schedule(graph)


@pytest.mark.parametrize("limit", [3_000, 6_000, 12_000])
@pytest.mark.parametrize("function", [attention, gradient])
def test_numbers_are_the_same(function: Any, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE", limit)
    monkeypatch.setattr(slices, "CACHE", limit)
    graph = graph_of(function, (6, 7, 30))
    whole, sliced = without_slices(graph, monkeypatch), schedule(graph)
    assert not loops(whole)
    assert len(sliced.innermost) == len(whole.innermost)
    values = [RANDOM.normal(size=node.shape).astype(FLOAT32) for node in graph.inputs]
    for got, wanted in zip(interpret(sliced, values), interpret(whole, values), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_scores_have_memory_for_one_slice() -> None:
    graph = graph_of(attention, (16, 64, 192))
    (loop,) = loops(schedule(graph))
    assert len(loop.kernels) == 3, "scores, softmax, product with the values"
    assert plan(schedule(graph)).arena.size < 0.6e6, "scores of all examples are 512 kB, twice"


def test_what_fits_into_the_cache_stays_whole() -> None:
    assert not loops(schedule(graph_of(gradient, (2, 16, 48))))


def test_products_with_a_weight_stay_whole() -> None:
    """Every slice would read the weight anew."""
    large = (64, 128, 64)
    assert not loops(schedule(graph_of(lambda x, w, v: cr.tanh(x @ w) @ v, large, (64, 64), (64, 64))))


def test_what_is_combined_over_the_batch_stays_whole() -> None:
    made = schedule(graph_of(lambda x, y: cr.sum(cr.exp(x @ y), axis=0), (16, 64, 64), (16, 64, 64)))
    assert not loops(made)


def test_native_code_agrees() -> None:
    joined = RANDOM.normal(size=(16, 64, 192)).astype(FLOAT32)
    native, reference = (cr.compile(gradient, backend=name)(joined) for name in ("native", "numpy"))
    for got, wanted in zip(native, reference, strict=True):
        scale = float(np.abs(np.asarray(wanted)).max())
        np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=2e-4, atol=2e-6 * scale)
