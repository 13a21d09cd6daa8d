"""NumPy's functions on Tensors: which become operations, which run on values, which raise."""

from typing import Any

import numpy as np
import pytest
import scipy.special
from oracles import CLOSE, difference

import chainrule as cr
from chainrule.errors import ChainruleError, DTypeError, GradientError, TraceError
from chainrule.nn import Parameter
from chainrule.tensor import Tensor

X = np.array([[0.32, 1.21, 0.83], [0.55, 0.94, 0.13]])  # away from the kinks below

# Functions that have a counterpart here, with what they are called with after the array.
COUNTERPARTS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (np.sin, (), {}), (np.exp, (), {}), (np.log, (), {}), (np.arctan, (), {}), (np.absolute, (), {}),
    (np.negative, (), {}), (np.add, (X,), {}), (np.multiply, (2.0,), {}), (np.power, (3.0,), {}),
    (np.true_divide, (X + 1,), {}), (np.maximum, (0.5,), {}), (np.matmul, (X.T,), {}),
    (scipy.special.erf, (), {}), (scipy.special.expit, (), {}),
    (np.sum, (), {}), (np.sum, (), {"axis": 1, "keepdims": True}), (np.mean, (), {"axis": 0}),
    (np.var, (), {"axis": 0, "ddof": 1}), (np.std, (), {}), (np.prod, (), {"axis": 1}),
    (np.max, (), {"axis": 1}),
    (np.amin, (), {}), (np.cumsum, (), {"axis": 1}), (np.reshape, ((3, 2),), {}), (np.transpose, (), {}),
    (np.swapaxes, (0, 1), {}), (np.transpose, ((1, 0),), {}), (np.ravel, (), {}), (np.expand_dims, (1,), {}),
    (np.squeeze, (), {}), (np.flip, (), {"axis": 0}), (np.roll, (1,), {"axis": 1}), (np.tile, ((2, 1),), {}),
    (np.clip, (0.2, 0.9), {}), (np.take, ([0, 2],), {"axis": 1}), (np.sort, (), {"axis": 1}),
    (np.tril, (), {}),
    (np.broadcast_to, ((4, 2, 3),), {}), (np.moveaxis, (0, 1), {}), (np.dot, (X.T,), {}),
    (np.dot, (2.0,), {}),
    (np.tensordot, (X,), {"axes": 2}), (np.around, (), {}),
]  # fmt: skip


@pytest.mark.parametrize(("function", "rest", "options"), COUNTERPARTS)
def test_counterparts_have_numpys_value_and_the_right_derivative(
    function: Any, rest: Any, options: Any
) -> None:
    found = function(cr.asarray(X), *rest, **options)
    assert isinstance(found, Tensor)
    expected = function(X, *rest, **options)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-14)
    assert found.dtype == expected.dtype

    def total(x: Any) -> Any:
        return cr.sum(function(x, *rest, **options) ** 2)

    slope = difference(lambda x: np.sum(function(x, *rest, **options) ** 2), X)
    np.testing.assert_allclose(cr.grad(total)(cr.asarray(X)).numpy(), slope, **CLOSE)
    np.testing.assert_allclose(cr.compile(cr.grad(total))(X).numpy(), slope, **CLOSE)


def test_functions_of_several_arrays_and_no_derivative() -> None:
    x = cr.asarray(X)
    found = {
        "concatenate": np.concatenate([x, X], axis=1), "stack": np.stack((X, x)),
        "where": np.where(x > 0.5, x, 0.0),
        "einsum": np.einsum("ij,ij->i", x, X), "argmax": np.argmax(x, axis=1), "zeros_like": np.zeros_like(x),
        "ones_like": np.ones_like(x), "any": np.any(x > 1), "outer": np.outer(x[0], X[1]),
    }  # fmt: skip
    expected = {
        "concatenate": np.concatenate([X, X], axis=1), "stack": np.stack((X, X)),
        "where": np.where(X > 0.5, X, 0.0),
        "einsum": np.einsum("ij,ij->i", X, X), "argmax": np.argmax(X, axis=1), "zeros_like": np.zeros_like(X),
        "ones_like": np.ones_like(X), "any": np.any(X > 1), "outer": np.outer(X[0], X[1]),
    }  # fmt: skip
    for name, value in found.items():
        assert isinstance(value, Tensor), name
        np.testing.assert_array_equal(value.numpy(), expected[name])
    assert (np.shape(x), np.ndim(x), np.size(x)) == ((2, 3), 2, 6)


def test_numpy_style_code_can_be_differentiated_and_compiled() -> None:
    def loss(x: Any) -> Any:
        return np.sum(np.tanh(np.dot(x, X.T)) ** 2) + np.mean(np.where(x > 0.5, np.log(x), x))

    slope = difference(loss, X)
    np.testing.assert_allclose(cr.grad(loss)(X).numpy(), slope, **CLOSE)
    np.testing.assert_allclose(cr.compile(cr.grad(loss))(X).numpy(), slope, **CLOSE)


def test_arrays_on_the_left() -> None:
    x = cr.asarray(X)
    for found in (X + x, np.add(X, x), np.float64(2.0) * x, X @ x.T, x < X):
        assert isinstance(found, Tensor)
    with pytest.raises(DTypeError, match="float32 meets float64"):
        X + cr.asarray([1.0, 2.0, 3.0])


def test_functions_without_counterpart_run_on_the_values() -> None:
    x, w = cr.asarray(X), Parameter(X)
    assert np.linalg.norm(x) == np.linalg.norm(X)
    assert np.linalg.norm(w) == np.linalg.norm(X)
    assert np.allclose(x, X)
    assert np.array_equal(w, X)
    np.testing.assert_allclose(x, X)
    assert np.add.reduce(x).tolist() == np.add.reduce(X).tolist()
    assert np.round(x, 1).tolist() == np.round(X, 1).tolist()
    assert np.sum(x, dtype=np.float32).dtype == np.float32
    assert np.cbrt(x).tolist() == np.cbrt(X).tolist()


def test_a_derivative_that_would_be_lost_raises() -> None:
    for lossy in (
        np.linalg.norm, lambda x: np.cbrt(x)[0, 0], lambda x: np.sum(x, dtype=np.float64),
        lambda x: np.histogram(x)[1][0],
    ):  # fmt: skip
        with pytest.raises(GradientError, match=r"np\..* has no counterpart.*pass x.numpy\(\)"):
            cr.grad(lossy)(X)
    assert cr.grad(lambda x: cr.sum(x) if np.allclose(x, X) else 0.0)(X).tolist() == np.ones((2, 3)).tolist()


def test_values_that_are_not_there_yet_raise() -> None:
    with pytest.raises(TraceError, match=r"np\.linalg\.norm.*no value"):
        cr.compile(np.linalg.norm)(X)
    with pytest.raises(TraceError, match="a NumPy array of a Tensor"):
        cr.compile(np.asarray)(X)
    assert cr.compile(lambda x: cr.sum(x) * np.ndim(x) * np.shape(x)[0])(X).item() == pytest.approx(
        X.sum() * 4
    )


def test_out_and_large_dots_are_refused() -> None:
    with pytest.raises(GradientError, match="out="):
        np.sin(cr.asarray(X), out=np.zeros_like(X))
    with pytest.raises(ChainruleError, match=r"np.dot.*cr\.matmul"):
        np.dot(cr.asarray(X), np.ones((2, 3, 3)))


def test_in_place_on_an_array_is_refused() -> None:
    a = np.zeros((2, 3))
    with pytest.raises(GradientError, match="out="):
        a += cr.asarray(X)
