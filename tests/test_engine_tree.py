"""Containers, creation functions, random numbers: the small tools around arrays."""

from typing import Any, NamedTuple

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import DTypeError, ShapeError
from chainrule.tree import flatten, flatten_as, tree_map, unflatten
from chainrule.types import Type, broadcast_shapes, normalise_axes, normalise_axis, promote_dtypes, type_of


class Pair(NamedTuple):
    a: Any
    b: Any


TREE = {"x": [1, (2, None)], "y": Pair(3, {"z": 4}), "empty": []}


# -- trees -------------------------------------------------------------------------------------------------
def test_flatten_and_unflatten() -> None:
    leaves, structure = flatten(TREE)
    assert leaves == [1, 2, 3, 4]
    assert structure.leaves == 4
    again = unflatten(structure, leaves)
    assert again == TREE
    assert isinstance(again["y"], Pair)
    assert hash(structure) == hash(flatten(TREE)[1])
    assert unflatten(structure, "abcd")["y"].b == {"z": "d"}


def test_flatten_as_takes_dicts_in_any_order_and_says_where_two_trees_part() -> None:
    structure = flatten({"a": 1, "b": [2, None]})[1]
    assert flatten_as(structure, {"b": [20, None], "a": 10}, "it") == [10, 20]
    for value, message in (
        ({"a": 1}, "it needs a dict of 'a', 'b', not a dict of 'a'"),
        ({"a": [1], "b": [2, None]}, r"it has a list at \['a'\] where one array belongs"),
        ({"a": 1, "b": [2]}, r"it needs a list of 2 at \['b'\], not a list of 1"),
        ({"a": 1, "b": [2, 3]}, r"it has a int at \['b'\]\[1\] where there is None"),
        ({"a": 1, "b": 2}, r"it needs a list of 2 at \['b'\], not one int"),
        (None, "it needs a dict of 'a', 'b', not None"),
    ):
        with pytest.raises(ShapeError, match=message):
            flatten_as(structure, value, "it")


def test_tree_map() -> None:
    assert tree_map(lambda a, b: a + b, {"a": 1, "b": (2,)}, {"b": (20,), "a": 10}) == {"a": 11, "b": (22,)}
    with pytest.raises(ShapeError, match="another tree"):
        tree_map(lambda a, b: a, {"a": 1}, {"b": 1})


# -- types -------------------------------------------------------------------------------------------------
def test_types() -> None:
    type_ = type_of(np.zeros((2, 0), np.float32))
    assert (type_.ndim, type_.size, type_.floating, str(type_)) == (2, 0, True, "float32[2,0]")
    assert not Type((), np.dtype(bool)).floating
    assert broadcast_shapes((3,)) == (3,)
    assert broadcast_shapes((2, 1), (3,), ()) == (2, 3)
    with pytest.raises(ShapeError, match="do not broadcast"):
        broadcast_shapes((2,), (3,))
    assert normalise_axes((-1, 0), 3) == (0, 2)
    assert normalise_axes(None, 2) == (0, 1)
    assert normalise_axes(np.int64(1), 2) == (1,)
    assert normalise_axis(-1, 2) == 1
    with pytest.raises(ShapeError, match="twice"):
        normalise_axes((0, -2), 2)
    with pytest.raises(ShapeError, match="out of range"):
        normalise_axis(2, 2)
    f32, i64 = np.dtype(np.float32), np.dtype(np.int64)
    assert promote_dtypes([f32, f32], [2, 2.5]) == f32
    assert promote_dtypes([i64], [True]) == i64
    assert promote_dtypes([i64], [2.5]) == np.float64


# -- creation ----------------------------------------------------------------------------------------------
def test_creation() -> None:
    assert cr.zeros((2, 3)).dtype == np.float32
    assert cr.ones(2, dtype=np.int64).tolist() == [1, 1]
    assert cr.full((2,), 7).dtype == np.int64
    assert cr.full((2,), 0.5).dtype == np.float32
    assert cr.full((), True).item() is True
    assert cr.full(3, 1.5, dtype=np.float64).dtype == np.float64
    filled = cr.grad(lambda v: cr.sum(cr.full((2, 3), v) ** 2))(np.float64(0.5))
    assert filled.item() == 6.0
    assert cr.arange(1, 4).tolist() == [1, 2, 3]
    assert cr.arange(0.0, 1.0, 0.25).dtype == np.float32
    assert cr.arange(3, dtype=cr.float64).dtype == np.float64
    assert cr.linspace(0, 1, 3).tolist() == [0.0, 0.5, 1.0]
    assert cr.eye(2, 3, k=1).tolist() == [[0, 1, 0], [0, 0, 1]]
    x = cr.asarray(np.ones((2, 1)))
    for like, value in ((cr.zeros_like, 0), (cr.ones_like, 1)):
        assert like(x).tolist() == [[value], [value]]
        assert like(x).dtype == np.float64
        assert like(x, dtype=np.int64).dtype == np.int64
    assert cr.full_like(x, 3).tolist() == [[3.0], [3.0]]


# -- random ------------------------------------------------------------------------------------------------
def test_keys_fold_and_split() -> None:
    key = cr.random.key(2**40 + 5)
    assert key.tolist() == [2**8, 5]
    assert cr.random.fold_in(key, 3).tolist() != cr.random.fold_in(key, 4).tolist()
    first, second, third = cr.random.split(key, 3)
    assert len({str(each.tolist()) for each in (first, second, third)}) == 3


def test_threefry_is_the_published_one() -> None:
    """Known answers of Threefry-2x32-20 (Salmon et al., Random123 kat_vectors)."""
    from chainrule.primitives.random import threefry

    answers = [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ]
    for key, word, expected in answers:
        with np.errstate(over="ignore"):
            found = threefry(np, *(np.array([each], np.uint32) for each in (*key, *word)))
        assert tuple(int(each[0]) for each in found) == expected


def test_distributions() -> None:
    """Bounds of five standard errors; the draws are fixed by the key, so this cannot fail by chance later."""
    key, n = cr.random.key(0), 20_000
    for dtype in (np.float32, np.float64):
        uniform = cr.random.uniform(key, (n,), dtype=dtype).numpy()
        assert uniform.dtype == dtype
        assert 0 <= uniform.min() < 0.001
        assert 0.999 < uniform.max() < 1
        assert abs(uniform.mean() - 0.5) < 5 * np.sqrt(1 / 12 / n)
        normal = cr.random.normal(key, (n,), dtype=dtype).numpy()
        assert abs(normal.mean()) < 5 / np.sqrt(n)
        assert abs(normal.std() - 1) < 5 / np.sqrt(2 * n)
    scaled = cr.random.uniform(key, (n,), low=-2.0, high=4.0).numpy()
    assert -2 <= scaled.min() < -1.9
    assert 3.9 < scaled.max() <= 4
    flips = cr.random.bernoulli(key, 0.3, (n,)).numpy()
    assert abs(flips.mean() - 0.3) < 5 * np.sqrt(0.21 / n)
    assert cr.random.bernoulli(key, 1.0, (3,)).tolist() == [True, True, True]
    assert not cr.random.bernoulli(key, 0.0, (n,)).numpy().any()
    assert sorted(cr.random.permutation(key, 100).tolist()) == list(range(100))
    with pytest.raises(DTypeError, match="float32 or float64"):
        cr.random.uniform(key, dtype=np.int64)


def test_the_face_knows_its_names() -> None:
    assert cr.pi == np.pi
    assert "exp" in dir(cr)
    assert cr.exp is cr.exp
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cr.nonsense
    with pytest.raises(AttributeError):
        _ = cr.__nonsense__
