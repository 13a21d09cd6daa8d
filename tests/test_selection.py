"""Masks in the place of gathers and scatters of one element per row: the same numbers, the same errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import passes
from chainrule.backends.numpy import compile_graph
from chainrule.errors import BoundsError
from chainrule.graph import Graph
from chainrule.ops import ops
from chainrule.passes.selection import COLUMNS, select_instead_of_gather
from chainrule.schedule.interpret import interpret
from chainrule.schedule.lower import schedule
from chainrule.tensor import Tensor
from chainrule.trace import trace_program
from chainrule.types import type_of
from chainrule.verify import verify

Array = np.ndarray[Any, Any]
ODD = np.array([0.0, -0.0, 1.5, -2.0, 1e-45, np.inf, -np.inf, np.nan])
CLASSES = np.array([0, 4, -1, -5, 2, 2, 3])


def chosen(scores: Tensor, classes: Tensor) -> Tensor:
    return Tensor(ops.gather(scores.node, ops.iota((scores.shape[0],)), classes.node, axis=0))


def spread(updates: Tensor, classes: Tensor) -> Tensor:
    rows = ops.iota(updates.shape)
    return Tensor(ops.scatter(updates.node, rows, classes.node, shape=(updates.shape[0], 5), axis=0))


def loss_and_gradient(scores: Tensor, classes: Tensor) -> Any:
    return cr.value_and_grad(cr.nn.functional.cross_entropy)(scores, classes)


def both(function: Callable[..., Any], *arrays: Array) -> tuple[Graph, Graph]:
    """The simplified graph of a function, and what the pass makes of it."""
    graph = passes.simplify(trace_program(function, [type_of(each) for each in arrays]).graph)
    return graph, verify(select_instead_of_gather(graph))


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


# -- values ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index_dtype", ["int8", "int32", "int64"])
def test_a_gather_gives_the_same_numbers(dtype: str, index_dtype: str) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        scores = generator.choice(ODD, (7, 5)).astype(dtype)
        before, after = both(chosen, scores, CLASSES.astype(index_dtype))
        assert "gather" not in names(after)
        (wanted,), (found,) = (each.evaluate(np, scores, CLASSES) for each in (before, after))
        np.testing.assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_scatter_gives_the_same_numbers(dtype: str) -> None:
    updates = ODD[[0, 1, 2, 3, 4, 5, 7]].astype(dtype)
    before, after = both(spread, updates, CLASSES)
    assert "scatter" not in names(after)
    (wanted,), (found,) = (each.evaluate(np, updates, CLASSES) for each in (before, after))
    np.testing.assert_array_equal(found, wanted, strict=True)


def test_cross_entropy_and_its_gradient_stay_the_same() -> None:
    scores = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
    targets = np.array([0, 4, -100, 3, 1, 2, 2])  # one row is ignored
    before, after = both(loss_and_gradient, scores, targets)
    assert {"gather", "scatter"} <= set(names(before))
    assert not {"gather", "scatter"} & set(names(after))
    assert names(after).count("checked_indices") == 1
    for found, wanted in zip(
        after.evaluate(np, scores, targets), before.evaluate(np, scores, targets), strict=True
    ):
        np.testing.assert_array_equal(found, wanted, strict=True)


def test_what_is_scheduled_has_no_gather_and_no_scatter() -> None:
    scores = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
    before, after = both(loss_and_gradient, scores, CLASSES % 5)
    made = schedule(passes.simplify_for_kernels(after))
    assert [each.record for each in made.kernels if hasattr(each, "record")] == ["checked_indices"]
    for found, wanted in zip(
        interpret(made, [scores, CLASSES % 5]), before.evaluate(np, scores, CLASSES % 5), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


# -- errors and reasons ------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [5, -6])
def test_an_index_out_of_range_raises_and_names_the_line(bad: int) -> None:
    scores, classes = np.zeros((7, 5), np.float32), CLASSES.copy()
    for function, operand in ((chosen, scores), (spread, scores[:, 0])):
        _, after = both(function, operand, classes)
        run = compile_graph(after)
        run([operand, classes])
        with pytest.raises(BoundsError, match=rf"index {bad} is out of bounds for axis 1 with size 5"):
            run([operand, np.where(classes == 3, bad, classes)])
        with pytest.raises(BoundsError, match=r"forward test_selection\.py:\d+"):
            after.evaluate(np, operand, np.where(classes == 3, bad, classes))


def test_the_reasons_are_those_of_the_gather() -> None:
    before, after = both(chosen, np.zeros((7, 5), np.float32), CLASSES)
    assert after.outputs[0].origins == before.outputs[0].origins
    assert all(node.origins for node in after.nodes if node.primitive is not None)


# -- what is left alone ------------------------------------------------------------------------------------
def gathered(*indices: Any, axis: int = 0) -> Callable[..., Tensor]:
    return lambda x: Tensor(ops.gather(x.node, *(ops.node(each) for each in indices), axis=axis))


ROWS = np.arange(3)
KEPT = {
    "rows in another order": ((3, 5), gathered(ROWS[::-1].copy(), ROWS)),
    "some of the rows": ((4, 5), gathered(ROWS, ROWS)),
    "several of a row": ((3, 5), gathered(ROWS[:, None], np.array([[0, 1]] * 3))),
    "whole rows": ((3, 5), gathered(ROWS)),
    "columns": ((3, 5), gathered(ROWS, axis=1)),
    "three axes": ((3, 5, 2), gathered(ROWS, ROWS)),
    "a wide matrix": ((3, COLUMNS + 1), gathered(ROWS, ROWS)),
    "a vector": ((5,), gathered(ROWS)),
    "no rows": ((0, 5), gathered(ROWS[:0], ROWS[:0])),
}


@pytest.mark.parametrize("case", KEPT)
def test_other_gathers_are_left_alone(case: str) -> None:
    shape, function = KEPT[case]
    before, after = both(function, np.zeros(shape, np.float32))
    assert names(after) == names(before)


def test_integers_are_left_alone() -> None:
    before, after = both(gathered(ROWS, ROWS), np.zeros((3, 5), np.int64))
    assert names(after) == names(before)
