"""Kernels in loops over slices of a batch: the same numbers, less memory, and only where it may be done."""

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import passes
from chainrule.backends.native.engine import Executable
from chainrule.graph import Graph
from chainrule.nn import functional
from chainrule.schedule import slices
from chainrule.schedule.interpret import interpret
from chainrule.schedule.kernels import Repeat, Schedule
from chainrule.schedule.lower import schedule
from chainrule.schedule.memory import plan
from chainrule.schedule.slices import in_slices
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


@pytest.mark.parametrize("limit", [3_000, 6_000, 12_000])
@pytest.mark.parametrize("function", [attention, gradient])
def test_numbers_are_the_same(function: Any, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE", limit)
    monkeypatch.setattr(slices, "CACHE", 3_000)
    graph = graph_of(function, (6, 7, 30))
    whole = schedule(graph)
    sliced = in_slices(whole)
    assert loops(sliced)
    assert len(sliced.innermost) == len(whole.innermost)
    values = [RANDOM.normal(size=node.shape).astype(FLOAT32) for node in graph.inputs]
    for got, wanted in zip(interpret(sliced, values), interpret(whole, values), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_scores_have_memory_for_one_slice() -> None:
    whole = schedule(graph_of(attention, (16, 64, 192)))
    sliced = in_slices(whole)
    (loop,) = loops(sliced)
    assert len(loop.kernels) == 3, "scores, softmax, product with the values"
    scores = 2 * 16 * 2 * 64 * 64 * 4
    assert plan(whole).arena.size - plan(sliced).arena.size > scores / 2


STAY_WHOLE: dict[str, tuple[Any, ...]] = {
    "what fits into the cache": (gradient, (2, 16, 48)),
    "a weight would be read anew": (lambda x, w: cr.tanh(x @ w) @ w, (64, 128, 64), (64, 64)),
    "summed over the batch": (lambda x, y: cr.sum(cr.exp(x @ y), axis=0), (32, 64, 64), (32, 64, 64)),
    "a product alone": (cr.matmul, (32, 96, 96), (32, 96, 96)),
    "one example exceeds the cache": (lambda x, y: cr.exp(x @ y) @ y, (2, 512, 512), (2, 512, 512)),
}


@pytest.mark.parametrize("why", STAY_WHOLE)
def test_what_would_not_gain_stays_whole(why: str) -> None:
    function, *shapes = STAY_WHOLE[why]
    assert not loops(in_slices(schedule(graph_of(function, *shapes))))


@pytest.mark.parametrize("threads", [1, 2])
def test_native_code_agrees(threads: int) -> None:
    joined = RANDOM.normal(size=(16, 64, 192)).astype(FLOAT32)
    graph = trace_program(gradient, [Type(joined.shape, FLOAT32)]).graph
    native = Executable(graph, threads=threads)
    assert bool(loops(native.program.schedule)) == (threads == 1)
    for got, wanted in zip(native([joined]), graph.evaluate(np, joined), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-6 * np.abs(wanted).max())
    for got, alone in zip(native([joined]), Executable(graph, threads=1)([joined]), strict=True):
        np.testing.assert_array_equal(got, alone)
