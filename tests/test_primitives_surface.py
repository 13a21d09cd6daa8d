"""What users meet: forms of arguments, errors that help, and the fast paths behind them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrule as cr
from chainrule.errors import BoundsError, ChainruleError, DTypeError, ShapeError
from chainrule.ops import ops
from chainrule.primitives import REGISTRY
from chainrule.primitives.random import threefry

X = np.arange(24.0).reshape(2, 3, 4)


# -- forms of arguments --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["sum", "prod", "mean", "var", "std", "max", "min", "any", "all"])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (-1, 0), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions_take_every_form_of_axis(name, axis, keepdims):
    got = getattr(cr, name)(cr.asarray(X), axis=axis, keepdims=keepdims)
    np.testing.assert_allclose(got.numpy(), getattr(np, name)(X, axis=axis, keepdims=keepdims), rtol=1e-14)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_positions_take_every_form_of_axis(name, axis, keepdims):
    x = np.array([[3.0, 1.0, 3.0], [2.0, 5.0, 1.0]])
    got = getattr(cr, name)(cr.asarray(x), axis=axis, keepdims=keepdims)
    np.testing.assert_array_equal(got.numpy(), getattr(np, name)(x, axis=axis, keepdims=keepdims))


def test_shapes_may_be_numbers_lists_and_hold_one_minus_one():
    x = cr.asarray(X)
    assert cr.reshape(x, -1).shape == (24,)
    assert cr.reshape(x, [4, -1]).shape == (4, 6)
    assert cr.broadcast_to(cr.asarray(1.0), 3).shape == (3,)
    assert cr.concat([x, x], axis=None).shape == (48,)
    assert cr.expand_dims(x, axis=-1).shape == (2, 3, 4, 1)
    assert cr.squeeze(cr.zeros((1, 3, 1))).shape == (3,)
    assert cr.tensordot(x, x, axes=([1, 2], [1, 2])).shape == (2, 2)


def test_running_sums_may_start_with_zero_from_either_end():
    x = cr.asarray([1, 2, 3])
    assert cr.cumulative_sum(x, include_initial=True).tolist() == [0, 1, 3, 6]
    assert cr.cumulative_sum(x, include_initial=True, reverse=True).tolist() == [6, 5, 3, 0]


def test_clip_with_one_bound_or_none():
    x = cr.asarray([-2, 0, 2])
    assert cr.clip(x).tolist() == [-2, 0, 2]
    assert cr.clip(x, min=-1).tolist() == [-1, 0, 2]
    assert cr.clip(x, max=1).tolist() == [-2, 0, 1]


def test_variance_with_a_correction_as_large_as_the_sample_is_nan_or_infinite_as_in_numpy():
    with np.errstate(all="ignore"):
        assert np.isnan(cr.var(cr.asarray([1.0]), correction=1).item())
        assert np.isinf(cr.var(cr.asarray([1.0, 2.0]), correction=2).item())


# -- errors --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: cr.sum(x, axis=3), ShapeError, "axis 3 is out of range"),
        (lambda x: cr.sum(x, axis=(0, -3)), ShapeError, "names one axis twice"),
        (lambda x: cr.max(cr.zeros((0, 2)), axis=0), ShapeError, "axis of length 0"),
        (lambda x: cr.argmax(cr.zeros((0,))), ShapeError, "axis of length 0"),
        (lambda x: cr.reshape(x, (5, -1)), ShapeError, "no whole number for -1"),
        (lambda x: cr.reshape(x, (-1, -1)), ShapeError, "only one extent"),
        (lambda x: cr.reshape(x, (5,)), ShapeError, "24 elements"),
        (lambda x: cr.permute_dims(x, (0, 0, 1)), ShapeError, "not a permutation"),
        (lambda x: cr.broadcast_to(x, (2, 3)), ShapeError, "broadcast"),
        (lambda x: cr.concat([x, cr.zeros((2, 2, 2), np.float64)]), ShapeError, "differ outside of axis 0"),
        (lambda x: cr.concat([]), ShapeError, "at least one"),
        (lambda x: cr.stack([]), ShapeError, "at least one"),
        (lambda x: cr.stack([x, x[0]]), ShapeError, "equal shapes"),
        (lambda x: cr.squeeze(x, axis=0), ShapeError, "has length 2, not 1"),
        (lambda x: cr.pad(x, -1), ShapeError, "must not be negative"),
        (lambda x: cr.matrix_transpose(x[0, 0]), ShapeError, "two dimensions"),
        (lambda x: cr.matmul(x, x), ShapeError, "do not fit"),
        (lambda x: cr.matmul(x, 2.0), ShapeError, r"use \* instead"),
        (lambda x: cr.outer(x, x), ShapeError, "two vectors"),
        (lambda x: cr.tensordot(x, x, axes=1), ShapeError, "do not match"),
        (lambda x: cr.einsum("ij,jk", x), ShapeError, "2 terms but 1 operand"),
        (lambda x: cr.einsum("...,...", x), ShapeError, "2 terms but 1 operand"),
        (lambda x: cr.einsum("ij->i", x), ShapeError, "has 2 labels, its operand 3"),
        (lambda x: cr.einsum("iij->j", x), ShapeError, "stands for axes of lengths 2 and 3"),
        (lambda x: cr.einsum("ijk->iil", x), ShapeError, "every output label"),
        (lambda x: cr.take(x, cr.asarray([0])), ShapeError, "needs an axis"),
        (lambda x: cr.take(x, cr.asarray([0.5]), axis=0), DTypeError, "indices must be integers"),
        (lambda x: cr.take_along_axis(x, cr.asarray([0]), axis=0), ShapeError, "need 3 dimensions"),
        (cr.cumulative_sum, ShapeError, "needs an axis"),
        (lambda x: x[0, 0, 0, 0], BoundsError, "4 indices for an array of 3"),
        (lambda x: x[5], BoundsError, "index 5 is out of range for axis 0 of length 2"),
        (lambda x: x[..., ...], ShapeError, "only one"),
        (lambda x: x[np.array([0]), :, np.array([0])], ShapeError, "neighbouring axes"),
        (lambda x: x[0.5], DTypeError, "an index must be"),
        (lambda x: cr.random.bits(cr.asarray([1, 2]), (3,)), ChainruleError, "random key"),
        (lambda x: cr.where(x > 0, x, cr.zeros(4)), DTypeError, "float32 meets float64"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, error, says):
    with pytest.raises(error, match=says):
        call(cr.asarray(X))


def test_applying_a_record_to_operands_of_two_dtypes_is_refused():
    with pytest.raises(DTypeError, match="one dtype"):
        ops.apply(REGISTRY["add"], [ops.node(np.ones(2)), ops.node(np.ones(2, np.float32))])


def test_a_mask_in_a_traced_function_says_what_to_do():
    with pytest.raises(ShapeError, match=r"use cr\.where"):
        cr.compile(lambda x: cr.sum(x[x > 0]))(cr.asarray([1.0, -1.0]))


@pytest.mark.parametrize("index", [3, -4, [0, 3], [[-4]]])
def test_an_index_beyond_the_end_is_an_error_in_both_directions(index):
    with pytest.raises(IndexError):
        cr.take(cr.zeros((3, 2)), cr.asarray(index), axis=0)
    where = np.asarray(index)
    with pytest.raises(IndexError):
        ops.scatter(np.ones((*where.shape, 2), np.float32), where, shape=(3, 2), axis=0)


# -- scatter -------------------------------------------------------------------------------------------------
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 8),
    count=st.integers(0, 40),
    width=st.integers(0, 3),
    batch=st.integers(0, 3),
    dtype=st.sampled_from(["float32", "float64", "int32"]),
)
def test_scatter_adds_what_numpy_adds_one_by_one(seed, rows, count, width, batch, dtype):
    generator = np.random.default_rng(seed)
    indices = generator.integers(-rows, rows, count)
    added = generator.integers(-9, 9, (batch, count, width)).astype(dtype)
    wanted = np.zeros((batch, rows, width), dtype)
    np.add.at(wanted, (slice(None), indices), added)
    got = ops.scatter(added, indices, shape=wanted.shape, axis=1).value
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)


def test_scatter_sums_in_the_order_of_the_rows():
    """Floating sums depend on their order; this one is fixed, so that two runs agree bit for bit."""
    generator = np.random.default_rng(0)
    indices, added = generator.integers(0, 5, 1000), generator.normal(size=(1000, 3)).astype(np.float32)
    wanted = np.zeros((5, 3), np.float32)
    for place, row in zip(indices, added, strict=True):
        wanted[place] += row
    np.testing.assert_array_equal(ops.scatter(added, indices, shape=(5, 3), axis=0).value, wanted)


# -- random bits ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # threefry2x32, 20 rounds, in kat_vectors of the Random123 distribution
        ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_known_answers_of_random123(counter, key, words):
    with np.errstate(over="ignore"):
        got = threefry(np, *(np.array([each], np.uint32) for each in (*key, *counter)))
    assert [int(each[0]) for each in got] == list(words)


def test_counters_of_one_shape_are_never_used_twice():
    bits = cr.random.bits(cr.random.key(1), (100_001,)).numpy()
    assert len(np.unique(bits)) > 99_990  # about one pair in a hundred thousand draws of 2^32 coincides


def test_uniform_and_normal_numbers_have_their_moments():
    uniform = cr.random.uniform(cr.random.key(2), (100_000,)).numpy()
    normal = cr.random.normal(cr.random.key(3), (100_000,), dtype=np.float64).numpy()
    assert 0 <= uniform.min() < uniform.max() < 1
    for values, mean, variance in ((uniform, 1 / 2, 1 / 12), (normal, 0, 1)):
        error = 5 * np.sqrt(variance / values.size)  # five standard errors
        assert abs(values.mean() - mean) < error
        assert abs(values.var() - variance) < 5 * np.sqrt(2 * variance**2 / values.size)


def test_bits_in_pieces_do_not_depend_on_each_other():
    key = cr.random.key(4)
    assert cr.random.bits(key, (2, 3)).numpy().ravel().tolist() == cr.random.bits(key, (6,)).tolist()
    assert cr.random.fold_in(key, 1).tolist() != cr.random.fold_in(key, 2).tolist()
