"""Nests: what they compute and which elements feed an element, on cases that can be read off by hand."""

import numpy as np
import pytest

from chainrule import laws
from chainrule.nest import Index, Nest, Read, along, nest_of
from chainrule.primitive import Primitive
from chainrule.primitives import REGISTRY
from chainrule.types import type_of


def nest(name, *arrays, **attributes):
    found = nest_of(REGISTRY[name], *map(type_of, arrays), **attributes)
    assert found is not None
    return found


def test_every_primitive_is_a_nest_or_says_what_feeds_an_element():
    silent = []
    for record in laws.records():
        if isinstance(record, Primitive) and record.name not in {"call", "scan"}:
            sample = record.samples[0]
            types = [type_of(np.asarray(each)) for each in sample.arrays()]
            if nest_of(record, *types, **sample.attributes) is None and record.feeds is None:
                silent.append(record.name)
    assert silent == []


def test_a_matrix_product_opens_into_its_products():
    loop = nest("matmul", np.zeros((2, 3)), np.zeros((3, 4)))
    assert loop.extents == (2, 4, 3)
    assert loop.combiner == "sum"
    assert list(loop.points((1, 2))) == [((0, (1, k)), (1, (k, 2))) for k in range(3)]


def test_broadcasting_reads_one_element_for_many():
    loop = nest("add", np.zeros((2, 1)), np.zeros(3))
    assert loop.feeds((1, 2)) == {(0, (1, 0)), (1, (2,))}


@pytest.mark.parametrize(
    ("name", "shape", "attributes", "place", "source"),
    [
        ("reshape", (2, 3), {"shape": (3, 2)}, (2, 0), (1, 1)),
        ("permute_dims", (2, 3, 4), {"axes": (2, 0, 1)}, (3, 1, 2), (1, 2, 3)),
        ("broadcast_to", (3,), {"shape": (2, 3)}, (1, 2), (2,)),
        ("slice", (6,), {"start": (1,), "stop": (6,), "step": (2,)}, (2,), (5,)),
        ("flip", (2, 3), {"axis": (1,)}, (0, 0), (0, 2)),
        ("place", (2,), {"shape": (6,), "start": (1,), "stop": (5,), "step": (3,)}, (4,), (1,)),
    ],
)
def test_what_moves_elements_says_where_each_came_from(name, shape, attributes, place, source):
    assert nest(name, np.zeros(shape), **attributes).feeds(place) == {(0, source)}


def test_places_between_those_that_are_filled_come_from_nowhere():
    loop = nest("place", np.zeros(2), shape=(6,), start=(1,), stop=(5,), step=(3,))
    assert [loop.feeds((k,)) for k in range(6)] == [set(), {(0, (0,))}, set(), set(), {(0, (1,))}, set()]


def test_joined_arrays_come_from_their_own_operand():
    loop = nest("concat", np.zeros((2, 1)), np.zeros((2, 2)), axis=1)
    assert [loop.feeds((0, k)) for k in range(3)] == [{(0, (0, 0))}, {(1, (0, 0))}, {(1, (0, 1))}]


def test_running_sums_are_fed_by_what_came_before():
    x = np.zeros(3)
    assert nest("cumulative_sum", x, axis=0, reverse=False).feeds((1,)) == {(0, (0,)), (0, (1,))}
    assert nest("cumulative_sum", x, axis=0, reverse=True).feeds((1,)) == {(0, (1,)), (0, (2,))}


def test_a_reduction_over_no_points_is_what_the_combiner_starts_from():
    assert nest("sum", np.zeros((0, 2)), axis=(0,), keepdims=False).evaluate(np.zeros((0, 2))).tolist() == [
        0,
        0,
    ]
    assert nest("all", np.zeros((0,)), axis=(0,), keepdims=True).evaluate(np.zeros((0,))).tolist() == [True]


def test_a_diagonal_is_read_by_one_loop_axis():
    assert nest("einsum", np.zeros((3, 3)), subscripts="ii->").feeds(()) == {(0, (k, k)) for k in range(3)}


def test_iota_is_its_own_position():
    loop = nest("iota", shape=(2, 3), axis=1, dtype=np.dtype("int64"))
    assert loop.evaluate().tolist() == [[0, 1, 2], [0, 1, 2]]
    assert loop.feeds((1, 2)) == set()


def test_a_nest_of_ones_own_runs_like_the_others():
    """A convolution: one index made of two loop axes."""
    kernel = Read(0, (2,), (along(1),))
    window = Read(1, (4,), (Index(((0, 1), (1, 1))),))
    loop = Nest((3, 2), (0,), (kernel, window), lambda xp, k, x: xp.multiply(k, x), "sum")
    k, x = np.array([1.0, 10.0]), np.array([1.0, 2.0, 3.0, 4.0])
    assert loop.evaluate(k, x).tolist() == np.correlate(x, k).tolist()
    assert loop.feeds((1,)) == {(0, (0,)), (0, (1,)), (1, (1,)), (1, (2,))}


@pytest.mark.parametrize(
    ("name", "arrays", "attributes", "place", "told"),
    [
        ("gather", (np.zeros((5, 2)), np.array([3, -1])), {"axis": 0}, (1, 1), [[(4, 1)], [(1,)]]),
        (
            "scatter", (np.zeros(3), np.array([0, 1, -2])), {"shape": (2,), "axis": 0}, (0,),
            [[(0,), (2,)], [(0,), (1,), (2,)]],
        ),
        ("argmax", (np.zeros((2, 3)),), {"axis": 1}, (1,), [[(1, 0), (1, 1), (1, 2)]]),
        ("argsort", (np.zeros((2, 2)),), {"axis": 0}, (1, 1), [[(0, 1), (1, 1)]]),
    ],
)  # fmt: skip
def test_what_is_no_nest_says_what_feeds_an_element(name, arrays, attributes, place, told):
    assert REGISTRY[name].feeds(place, *arrays, **attributes) == told
