"""Transforms: against finite differences, complex steps and values derived by hand."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from oracles import CLOSE, complex_step, difference

import chainrule as cr
from chainrule.errors import DTypeError, GradientError, ShapeError
from chainrule.graph import PLAIN
from chainrule.tensor import Buffer, Parameter

X = np.array([0.3, -1.2, 0.8])
W = np.array([[0.5, -0.2, 0.1], [0.3, 0.7, -0.6]])


def wavy(x: Any) -> Any:
    return cr.sum(cr.sin(x) * x + cr.exp(-x * x))


def wavy_numpy(x: Any) -> Any:
    return np.sum(np.sin(x) * x + np.exp(-x * x))


class Pair(NamedTuple):
    left: Any
    right: Any


class Affine:
    """The little a transform needs to know of a Module: its parameters by path."""

    def __init__(self) -> None:
        self.weight = Parameter(W)
        self.tied = self.weight
        self.bias = Parameter(np.array([0.1, -0.4]))
        self.count = Buffer(np.int64(0))

    def named_parameters(self, remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
        yield "weight", self.weight
        if not remove_duplicate:
            yield "tied", self.tied
        yield "bias", self.bias

    def __call__(self, x: Any) -> Any:
        self.count.assign(self.count + 1)
        return cr.tanh(self.weight @ x + self.bias)


# -- grad and value_and_grad -------------------------------------------------------------------------------
def test_grad_is_the_complex_step() -> None:
    np.testing.assert_allclose(cr.grad(wavy)(cr.asarray(X)).numpy(), complex_step(wavy_numpy, X), rtol=1e-13)


def test_value_and_grad_returns_the_value_too() -> None:
    value, gradient = cr.value_and_grad(wavy)(cr.asarray(X))
    assert value.item() == pytest.approx(wavy_numpy(X), rel=1e-15)
    np.testing.assert_array_equal(gradient.numpy(), cr.grad(wavy)(cr.asarray(X)).numpy())


@pytest.mark.parametrize("argument", [3.0, np.float64(3.0), np.array(3.0), [3.0]])
def test_arguments_may_be_numbers_arrays_and_lists(argument: Any) -> None:
    gradient = cr.grad(lambda x: (x[0] if isinstance(x, list) else x) ** 2)(argument)
    assert (gradient[0] if isinstance(argument, list) else gradient).item() == 6.0


def test_containers_give_containers() -> None:
    tree = {"w": cr.asarray(W), "rest": [cr.asarray(X), (cr.asarray(2.0).astype(np.float64), None)]}

    def loss(tree: Any) -> Any:
        scale = tree["rest"][1][0]
        return cr.sum(cr.tanh(tree["w"] @ tree["rest"][0])) * scale

    gradient = cr.grad(loss)(tree)
    assert list(gradient) == ["w", "rest"]
    assert gradient["rest"][1][1] is None
    np.testing.assert_allclose(
        gradient["w"].numpy(), complex_step(lambda w: 2 * np.sum(np.tanh(w @ X)), W), rtol=1e-13
    )
    np.testing.assert_allclose(
        gradient["rest"][0].numpy(), complex_step(lambda x: 2 * np.sum(np.tanh(W @ x)), X), rtol=1e-13
    )
    assert gradient["rest"][1][0].item() == pytest.approx(np.sum(np.tanh(W @ X)))


def test_named_tuples_stay_named() -> None:
    gradient = cr.grad(lambda p: cr.sum(p.left * p.right))(Pair(cr.asarray(X), cr.asarray(2 * X)))
    assert isinstance(gradient, Pair)
    np.testing.assert_array_equal(gradient.left.numpy(), 2 * X)


@pytest.mark.parametrize("argnums", [0, 1, -1, (0, 1), (1, 0), (-1,), [0]])
def test_argnums(argnums: Any) -> None:
    a, b = cr.asarray(X), cr.asarray(X + 1)
    by_argument = [X + 1, X]
    found = cr.grad(lambda a, b: cr.sum(a * b), argnums)(a, b)
    if isinstance(argnums, int):
        np.testing.assert_array_equal(found.numpy(), by_argument[argnums])
    else:
        assert isinstance(found, tuple)
        for k, each in zip(argnums, found, strict=True):
            np.testing.assert_array_equal(each.numpy(), by_argument[k])


def test_one_array_in_two_places_has_two_partial_derivatives() -> None:
    x = cr.asarray(X)
    a, b = cr.grad(lambda a, b: cr.sum(a * a * b), (0, 1))(x, x)
    np.testing.assert_allclose(a.numpy(), 2 * X * X)
    np.testing.assert_allclose(b.numpy(), X * X)


def test_keyword_arguments_and_closures_pass_through() -> None:
    y = cr.asarray(X + 1)
    found = cr.grad(lambda x, *, scale: scale * cr.sum(x * y))(cr.asarray(X), scale=3.0)
    np.testing.assert_allclose(found.numpy(), 3 * (X + 1))


def test_an_argument_nothing_depends_on_has_zeros() -> None:
    unused, constant = cr.grad(lambda a, b: cr.asarray(1.0), (0, 1))(cr.asarray(X), cr.asarray(W))
    np.testing.assert_array_equal(unused.numpy(), np.zeros(3))
    assert constant.shape == (2, 3)
    assert cr.grad(lambda x: 7.0)(cr.asarray(X)).tolist() == [0, 0, 0]


def test_functions_may_branch_on_values() -> None:
    bent = cr.grad(lambda x: x * x if x > 0 else -3.0 * x)
    assert bent(2.0).item() == 4.0
    assert bent(-2.0).item() == -3.0


@pytest.mark.parametrize("transform", [cr.grad, cr.value_and_grad])
def test_aux_comes_back_as_plain_values(transform: Any) -> None:
    def loss(x: Any) -> Any:
        hidden = cr.exp(x)
        return cr.sum(hidden), {"hidden": hidden, "note": "text", "nothing": None}

    first, second = transform(loss, has_aux=True)(cr.asarray(X))
    gradient, aux = (first, second) if transform is cr.grad else (second, first[1])
    np.testing.assert_allclose(gradient.numpy(), np.exp(X))
    assert aux["note"] == "text"
    assert aux["nothing"] is None
    assert aux["hidden"].node.status == PLAIN
    assert not aux["hidden"].node.operands


def test_aux_needs_a_pair() -> None:
    with pytest.raises(GradientError, match="pair"):
        cr.grad(wavy, has_aux=True)(cr.asarray(X))
    with pytest.raises(GradientError, match="has_aux=True"):
        cr.grad(lambda x: (wavy(x), 1))(cr.asarray(X))


@pytest.mark.parametrize(
    ("function", "argument", "error"),
    [
        (lambda x: x, X, "returns a scalar"),
        (lambda x: {"loss": cr.sum(x)}, X, "one scalar, not a dict"),
        (lambda x: None, X, "one scalar, not a NoneType"),
        (lambda x: cr.sum(x > 0), X, "floating result"),
    ],
)
def test_what_grad_cannot_differentiate(function: Any, argument: Any, error: str) -> None:
    with pytest.raises(GradientError, match=error):
        cr.grad(function)(argument)


def test_integer_arguments_and_wrong_argnums() -> None:
    with pytest.raises(DTypeError, match="int64"):
        cr.grad(cr.sum)(cr.asarray([1, 2]))
    with pytest.raises(ShapeError, match="only 1"):
        cr.grad(wavy, argnums=1)(cr.asarray(X))


# -- Modules -----------------------------------------------------------------------------------------------
def test_the_gradient_of_a_module_is_by_path_and_names_tied_parameters_twice() -> None:
    model, x = Affine(), cr.asarray(X)
    gradient = cr.grad(lambda m: cr.sum(m(x)))(model)
    assert list(gradient) == ["weight", "tied", "bias"]
    expected = complex_step(lambda w: np.sum(np.tanh(w @ X + np.array([0.1, -0.4]))), W)
    np.testing.assert_allclose(gradient["weight"].numpy(), expected, rtol=1e-13)
    assert gradient["tied"] is gradient["weight"]
    assert model.count.item() == 1  # buffers can be assigned while a derivative is taken
    assert model.weight.grad is None


def test_a_module_in_a_container_and_read_through_a_closure() -> None:
    model, x = Affine(), cr.asarray(X)
    gradient = cr.grad(lambda tree: cr.sum(model(x) * tree["scale"]))(
        {"model": model, "scale": np.float64(2.0)}
    )
    assert set(gradient["model"]) == {"weight", "tied", "bias"}
    expected = 2 * complex_step(lambda w: np.sum(np.tanh(w @ X + np.array([0.1, -0.4]))), W)
    np.testing.assert_allclose(gradient["model"]["weight"].numpy(), expected, rtol=1e-13)


def test_a_parameter_as_an_argument_is_the_parameter_wherever_it_is_read() -> None:
    w = Parameter(X)
    np.testing.assert_allclose(cr.grad(lambda p: cr.sum(p * p))(w).numpy(), 2 * X)
    np.testing.assert_allclose(cr.grad(lambda p: cr.sum(w * w))({"w": w})["w"].numpy(), 2 * X)


def test_a_parameter_that_is_being_differentiated_cannot_be_assigned() -> None:
    w = Parameter(X)

    def careless(p: Any) -> Any:
        w.assign(w + 1)
        return cr.sum(p)

    with pytest.raises(GradientError, match="being differentiated"):
        cr.grad(careless)(w)


def test_second_derivatives_through_a_module() -> None:
    model, x = Affine(), cr.asarray(X)

    def slope(bias: Any) -> Any:
        model.bias.assign(bias)
        return cr.grad(lambda m: cr.sum(m(x) ** 2))(model)["bias"].numpy()

    def penalty(m: Any) -> Any:
        return cr.sum(cr.grad(lambda m: cr.sum(m(x) ** 2))(m)["bias"])

    start = model.bias.numpy()
    found = cr.grad(penalty)(model)["bias"].numpy()
    np.testing.assert_allclose(found, difference(slope, start).sum(axis=0), **CLOSE)


# -- derivatives of derivatives ----------------------------------------------------------------------------
def test_third_derivative() -> None:
    third = cr.grad(cr.grad(cr.grad(lambda x: cr.sin(x) * x)))(np.float64(0.7))
    assert third.item() == pytest.approx(-3 * np.sin(0.7) - 0.7 * np.cos(0.7), rel=1e-14)


def test_no_perturbation_confusion() -> None:
    """Siskind and Pearlmutter (2005): d/dx [x * d/dy (x + y)] is 1; a confused engine says 2."""
    assert cr.grad(lambda x: x * cr.grad(lambda y: x + y)(1.0))(1.0).item() == 1.0
    assert cr.jvp(lambda x: x * cr.jvp(lambda y: x + y, (1.0,), (1.0,))[1], (1.0,), (1.0,))[1].item() == 1.0
    assert cr.grad(lambda x: x * cr.jvp(lambda y: x * y, (2.0,), (1.0,))[1])(3.0).item() == 6.0
    assert cr.jvp(lambda x: x * cr.grad(lambda y: x * y)(2.0), (3.0,), (1.0,))[1].item() == 6.0


def test_inner_gradient_depends_on_the_outer_argument_twice() -> None:
    """d/dx of sum(d/dy sum(y**3 x) at y = x) with the inner x closed over: 3 x**2 x, by hand 9 x**2."""
    found = cr.grad(lambda x: cr.sum(cr.grad(lambda y: cr.sum(y**3 * x))(x)))(cr.asarray(X))
    np.testing.assert_allclose(found.numpy(), 9 * X**2, rtol=1e-13)


def test_all_orders_of_two_transforms_agree() -> None:
    def f(x: Any) -> Any:
        return cr.sum(cr.sin(x) * cr.roll(x, 1, axis=0) ** 2)

    x, v = cr.asarray(X), cr.asarray(np.array([0.2, -0.5, 1.0]))
    expected = difference(lambda p: cr.grad(f)(cr.asarray(p)).numpy(), X) @ v.numpy()
    forward_over_reverse = cr.jvp(cr.grad(f), (x,), (v,))[1]
    reverse_over_forward = cr.grad(lambda x: cr.jvp(f, (x,), (v,))[1])(x)
    reverse_over_reverse = cr.grad(lambda x: cr.sum(cr.grad(f)(x) * v))(x)
    through_vjp = cr.vjp(cr.grad(f), x)[1](v)[0]
    for found in (forward_over_reverse, reverse_over_forward, reverse_over_reverse, through_vjp):
        np.testing.assert_allclose(found.numpy(), expected, **CLOSE)


def test_hessian_of_containers_is_a_container_of_containers() -> None:
    def f(tree: Any) -> Any:
        return cr.sum(tree["a"] ** 2 * tree["b"][0]) + cr.sum(tree["b"][0] ** 3)

    a, b = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    found = cr.hessian(f)({"a": cr.asarray(a), "b": [cr.asarray(b)]})
    np.testing.assert_allclose(found["a"]["a"].numpy(), np.diag(2 * b))
    np.testing.assert_allclose(found["a"]["b"][0].numpy(), np.diag(2 * a))
    np.testing.assert_allclose(found["b"][0]["a"].numpy(), np.diag(2 * a))
    np.testing.assert_allclose(found["b"][0]["b"][0].numpy(), np.diag(6 * b))


# -- vjp and jvp -------------------------------------------------------------------------------------------
def test_vjp_and_jvp_are_transposes() -> None:
    def f(a: Any, b: Any) -> Any:
        return {"product": a @ b, "sum": cr.sum(cr.exp(b))}

    a, b = cr.asarray(W), cr.asarray(X)
    value, pullback = cr.vjp(f, a, b)
    np.testing.assert_allclose(value["product"].numpy(), W @ X)
    seed = {"sum": np.float64(0.3), "product": np.array([1.0, -2.0])}  # entries in another order
    back = pullback(seed)
    tangents = (np.ones_like(W), np.array([0.5, 0.1, -1.0]))
    same, moved = cr.jvp(f, (a, b), tangents)
    np.testing.assert_array_equal(same["product"].numpy(), value["product"].numpy())
    forward = float(np.sum(moved["product"].numpy() * seed["product"]) + moved["sum"].item() * seed["sum"])
    backward = sum(float(np.sum(g.numpy() * t)) for g, t in zip(back, tangents, strict=True))
    assert forward == pytest.approx(backward, rel=1e-13)


def test_the_pullback_can_be_called_again_and_differentiated() -> None:
    value, pullback = cr.vjp(cr.sin, cr.asarray(X))
    first, second = (pullback(np.ones(3))[0].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(value.numpy(), np.sin(X))
    by_cotangent = cr.grad(lambda g: cr.sum(pullback(g)[0] * X))(cr.asarray(np.ones(3)))
    np.testing.assert_allclose(by_cotangent.numpy(), np.cos(X) * X)


def test_vjp_with_aux() -> None:
    value, pullback, aux = cr.vjp(lambda x: (cr.sum(x * x), x + 1), cr.asarray(X), has_aux=True)
    np.testing.assert_allclose(pullback(np.float64(2.0))[0].numpy(), 4 * X)
    assert value.item() == pytest.approx(np.sum(X * X))
    assert aux.node.status == PLAIN


def test_outputs_without_derivative() -> None:
    def f(x: Any) -> Any:
        return cr.argmax(x), cr.sum(x), cr.asarray(5.0)

    value, pullback = cr.vjp(f, cr.asarray(X))
    assert value[0].item() == 2
    assert pullback((np.int64(0), np.float64(2.0), np.float32(1.0)))[0].tolist() == [2.0, 2.0, 2.0]
    _, tangents = cr.jvp(f, (cr.asarray(X),), (np.ones(3),))
    assert [each.item() for each in tangents] == [0, 3.0, 0.0]


def test_outputs_of_a_sub_graph_that_nobody_asks_about() -> None:
    both = cr.checkpoint(lambda x: (cr.sin(x), cr.cos(x)))
    _, pullback = cr.vjp(lambda x: {"a": both(x)[0], "n": both(x)[1] > 0}, cr.asarray(X))
    found = pullback({"a": np.ones(3), "n": np.zeros(3, bool)})[0]
    np.testing.assert_allclose(found.numpy(), np.cos(X))


def test_an_output_that_is_returned_twice_or_is_the_input() -> None:
    x = cr.asarray(X)
    _, pullback = cr.vjp(lambda x: (x, x), x)
    np.testing.assert_array_equal(pullback((X, X))[0].numpy(), 2 * X)
    _, (a, b) = cr.jvp(lambda x: (x, x), (x,), (X,))
    np.testing.assert_array_equal(a.numpy(), X)
    np.testing.assert_array_equal(b.numpy(), X)


def test_jvp_of_a_module_takes_a_dict_of_paths() -> None:
    model, x = Affine(), cr.asarray(X)
    zeros = {"weight": np.zeros((2, 3)), "tied": np.zeros((2, 3)), "bias": np.array([1.0, 0.0])}
    _, tangent = cr.jvp(lambda m: m(x), (model,), (zeros,))
    expected = difference(lambda b: np.tanh(W @ X + b), np.array([0.1, -0.4]))[:, 0]
    np.testing.assert_allclose(tangent.numpy(), expected, **CLOSE)


def test_cotangents_and_tangents_are_checked() -> None:
    x = cr.asarray(X)
    _, pullback = cr.vjp(lambda x: {"y": x}, x)
    with pytest.raises(ShapeError, match="a dict of 'y', not one ndarray"):
        pullback(X)
    with pytest.raises(ShapeError, match=r"float64\[2\].*float64\[3\]"):
        pullback({"y": np.ones(2)})
    with pytest.raises(ShapeError, match="float32"):
        cr.jvp(cr.sin, (x,), (np.ones(3, np.float32),))
    with pytest.raises(ShapeError, match="1 primals but 2 tangents"):
        cr.jvp(cr.sin, (x,), (x, x))
    with pytest.raises(ShapeError, match=r"tangent 0.*a list of 1"):
        cr.jvp(lambda t: t[0], ([x],), (x,))


# -- jacobian ----------------------------------------------------------------------------------------------
def test_jacobian_has_output_shape_then_input_shape() -> None:
    found = cr.jacobian(lambda w: cr.tanh(w @ X))(cr.asarray(W))
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found.numpy(), difference(lambda w: np.tanh(w @ X), W), **CLOSE)


def test_jacobian_of_containers_and_several_arguments() -> None:
    found = cr.jacobian(lambda a, b: {"p": a * b, "s": cr.sum(a)}, argnums=(0, 1))(
        cr.asarray(X), cr.asarray(X + 1)
    )
    np.testing.assert_allclose(found["p"][0].numpy(), np.diag(X + 1))
    np.testing.assert_allclose(found["p"][1].numpy(), np.diag(X))
    np.testing.assert_array_equal(found["s"][0].numpy(), np.ones(3))
    np.testing.assert_array_equal(found["s"][1].numpy(), np.zeros(3))


def test_jacobian_of_nothing_has_the_right_shape() -> None:
    assert cr.jacobian(lambda x: x[:0])(cr.asarray(X)).shape == (0, 3)
    assert cr.jacobian(lambda x: cr.sum(x) * cr.ones(2).astype(np.float64))(cr.asarray(X[:0])).shape == (2, 0)
    with pytest.raises(GradientError, match="int64"):
        cr.jacobian(cr.argmax)(cr.asarray(X))


# -- what surrounds a transform ----------------------------------------------------------------------------
def test_no_grad_around_a_transform_changes_nothing_and_inside_it_stops_the_derivative() -> None:
    with cr.no_grad():
        np.testing.assert_allclose(
            cr.grad(wavy)(cr.asarray(X)).numpy(), complex_step(wavy_numpy, X), rtol=1e-13
        )

    def partly(x: Any) -> Any:
        with cr.no_grad():
            scale = cr.sum(x)
        return scale * cr.sum(x)

    expected = np.full(3, X.sum())
    np.testing.assert_allclose(cr.grad(partly)(cr.asarray(X)).numpy(), expected)
    np.testing.assert_allclose(cr.compile(cr.grad(partly))(cr.asarray(X)).numpy(), expected)


@pytest.mark.parametrize("around", [lambda f: f, cr.compile])
def test_a_gradient_taken_inside_no_grad_is_a_constant(around: Any) -> None:
    def f(x: Any) -> Any:
        with cr.no_grad():
            slope = cr.grad(lambda y: cr.sum(y**3))(x)
        return cr.sum(slope * x)

    np.testing.assert_allclose(around(cr.grad(f))(cr.asarray(X)).numpy(), 3 * X**2, rtol=1e-13)


def test_results_keep_history_only_where_it_can_be_used() -> None:
    w = Parameter(X)
    top = cr.grad(lambda x: cr.sum(x * x))(cr.asarray(X))
    assert (top.node.status, top.node.operands) == (PLAIN, ())
    penalty = cr.sum(cr.grad(lambda x: cr.sum(w * x * x))(cr.asarray(X)) ** 2)
    penalty.backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), 2 * (2 * w.numpy() * X) * 2 * X)
    with cr.no_grad():
        inside = cr.grad(lambda x: cr.sum(w * x * x))(cr.asarray(X))
    assert inside.node.operands == ()


def test_stop_gradient_of_containers() -> None:
    def f(tree: Any) -> Any:
        return cr.sum(tree["a"] * cr.stop_gradient(tree)["a"])

    np.testing.assert_array_equal(cr.grad(f)({"a": cr.asarray(X)})["a"].numpy(), X)
