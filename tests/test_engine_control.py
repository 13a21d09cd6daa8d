"""checkpoint and custom_vjp: values, derivatives of several orders, what is kept, what is refused."""

from typing import Any

import numpy as np
import pytest
from oracles import CLOSE, complex_step, difference

import chainrule as cr
from chainrule.errors import ChainruleError, GradientError, ShapeError
from chainrule.graph import reachable
from chainrule.nn import Parameter
from chainrule.tensor import Buffer

X = np.array([0.3, -1.2, 0.8])


def deep(x: Any) -> Any:
    for _ in range(6):
        x = cr.tanh(x) * 1.5 + cr.sin(x)
    return cr.sum(x)


# -- checkpoint --------------------------------------------------------------------------------------------
def test_checkpoint_changes_no_value_and_no_derivative() -> None:
    kept, x = cr.checkpoint(deep), cr.asarray(X)
    assert kept(x).item() == deep(x).item()
    np.testing.assert_allclose(cr.grad(kept)(x).numpy(), cr.grad(deep)(x).numpy(), rtol=1e-14)
    np.testing.assert_allclose(
        cr.hessian(kept)(x).numpy(), cr.hessian(deep)(x).numpy(), rtol=1e-12, atol=1e-12
    )
    nested = cr.checkpoint(lambda x: kept(x) * cr.sum(x))
    np.testing.assert_allclose(
        cr.grad(nested)(x).numpy(), cr.grad(lambda x: deep(x) * cr.sum(x))(x).numpy(), rtol=1e-13
    )


def test_checkpoint_keeps_none_of_the_inside() -> None:
    x = cr.asarray(np.ones(1000))
    inside = sum(node.value.nbytes for node in reachable([deep(x).node]) if node.primitive is not None)
    kept = [node for node in reachable([cr.checkpoint(deep)(x).node]) if node.primitive is not None]
    assert inside > 20 * 8000
    assert [node.name for node in kept] == ["call", "item"]
    assert all(node.size == 1 for node in kept if node.name == "item")


def test_checkpoint_takes_containers_keywords_and_whatever_is_no_array() -> None:
    @cr.checkpoint
    def f(tree: Any, mode: str, *, power: int) -> Any:
        """Doc."""
        assert mode == "cube"
        return {"y": tree["a"] ** power, "n": None}

    assert f.__doc__ == "Doc."
    found = cr.grad(lambda a: cr.sum(f({"a": a}, "cube", power=3)["y"]))(cr.asarray(X))
    np.testing.assert_allclose(found.numpy(), 3 * X**2)


def test_checkpoint_reaches_parameters_and_values_of_the_surrounding_function() -> None:
    w = Parameter(X)
    y = cr.asarray(X + 1)
    loss = cr.sum(cr.checkpoint(lambda x: cr.sin(w * x) * y)(cr.asarray(X)))
    loss.backward()
    assert w.grad is not None
    assert y.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), np.cos(X * X) * X * (X + 1))
    np.testing.assert_allclose(y.grad.numpy(), np.sin(X * X))
    closed = cr.grad(lambda s: cr.sum(cr.checkpoint(lambda x: x * s)(cr.asarray(X))))(np.float64(2.0))
    assert closed.item() == pytest.approx(X.sum())


@pytest.mark.parametrize("compiled", [False, True])
def test_a_buffer_assigned_inside_checkpoint_is_assigned(compiled: bool) -> None:
    mean = Buffer(np.float64(0.0))

    def step(x: Any) -> Any:
        mean.assign(mean * 0.9 + cr.mean(x) * 0.1)
        return cr.sum(x * mean)

    run = cr.grad(cr.checkpoint(step))
    found = (cr.compile(run) if compiled else run)(cr.asarray(X))
    new = 0.1 * X.mean()
    assert mean.item() == pytest.approx(new, rel=1e-14)
    np.testing.assert_allclose(
        found.numpy(), np.full(3, new), rtol=1e-13
    )  # no derivative flows through state


def test_checkpoint_inside_compile() -> None:
    x = cr.asarray(X)
    run = cr.compile(cr.value_and_grad(cr.checkpoint(deep)))
    value, gradient = run(x)
    assert value.item() == pytest.approx(deep(x).item(), rel=1e-14)
    np.testing.assert_allclose(gradient.numpy(), cr.grad(deep)(x).numpy(), rtol=1e-13)


# -- custom_vjp --------------------------------------------------------------------------------------------
def make_log1pexp() -> Any:
    @cr.custom_vjp
    def log1pexp(x: Any) -> Any:
        return cr.log(1.0 + cr.exp(x))

    def forward(x: Any) -> Any:
        return log1pexp.function(x), x

    def backward(x: Any, g: Any) -> Any:
        return (g * (1.0 - 1.0 / (1.0 + cr.exp(x))),)

    log1pexp.defvjp(forward, backward)
    return log1pexp


def test_custom_derivative_of_several_orders() -> None:
    f = make_log1pexp()

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    x = np.float64(0.4)
    s = sigmoid(x)
    assert cr.grad(f)(x).item() == pytest.approx(s, rel=1e-14)
    assert cr.grad(cr.grad(f))(x).item() == pytest.approx(s * (1 - s), rel=1e-13)
    assert cr.grad(cr.grad(cr.grad(f)))(x).item() == pytest.approx(s * (1 - s) * (1 - 2 * s), rel=1e-12)
    assert cr.jvp(f, (x,), (np.float64(2.0),))[1].item() == pytest.approx(2 * s, rel=1e-14)
    assert cr.jvp(cr.grad(f), (x,), (np.float64(1.0),))[1].item() == pytest.approx(s * (1 - s), rel=1e-13)
    assert cr.compile(cr.grad(cr.grad(f)))(cr.asarray(x)).item() == pytest.approx(s * (1 - s), rel=1e-13)


def test_residuals_that_are_computed_pass_derivatives_on() -> None:
    """The residual exp(x) is not an argument: a second derivative flows through how it was computed."""

    @cr.custom_vjp
    def f(x: Any) -> Any:
        return cr.exp(2.0 * x)

    def forward(x: Any) -> Any:
        e = cr.exp(x)
        return e * e, {"e": e, "unused": (cr.sin(x), None)}

    f.defvjp(forward, lambda r, g: (2.0 * g * r["e"] * r["e"],))
    x = np.float64(0.3)
    assert cr.grad(f)(x).item() == pytest.approx(2 * np.exp(0.6), rel=1e-14)
    assert cr.grad(cr.grad(f))(x).item() == pytest.approx(4 * np.exp(0.6), rel=1e-13)


def test_a_derivative_that_is_not_the_true_one_is_used_in_every_order() -> None:
    """A straight-through estimator: round(x) with the derivative of x; d2/dx2 round(x)**2 is then 2."""

    @cr.custom_vjp
    def rounded(x: Any) -> Any:
        return cr.round(x)

    rounded.defvjp(lambda x: (cr.round(x), None), lambda residuals, g: (g,))
    assert cr.grad(lambda x: rounded(x) ** 2)(np.float64(1.3)).item() == 2.0
    assert cr.grad(cr.grad(lambda x: rounded(x) ** 2))(np.float64(1.3)).item() == 2.0


def test_containers_none_and_arguments_that_are_no_arrays() -> None:
    @cr.custom_vjp
    def f(tree: Any, index: Any, name: str) -> Any:
        return {"y": tree["a"] * tree["b"][0], "z": cr.take(tree["a"], index)}

    def forward(tree: Any, index: Any, name: str) -> Any:
        assert name == "both"
        return f.function(tree, index, name), (tree, index)

    def backward(residuals: Any, g: Any) -> Any:
        tree, index = residuals
        picked = cr.scatter_add(cr.zeros_like(tree["a"]), index, g["z"])
        return {"b": [g["y"] * tree["a"]], "a": g["y"] * tree["b"][0] + picked}, None, None

    f.defvjp(forward, backward)
    index = np.array([0, 2])

    def loss(tree: Any) -> Any:
        found = f(tree, index, "both")
        return cr.sum(found["y"] ** 2) + cr.sum(found["z"])

    tree = {"a": cr.asarray(X), "b": [cr.asarray(X + 1)]}
    gradient = cr.grad(loss)(tree)
    np.testing.assert_allclose(gradient["a"].numpy(), 2 * X * (X + 1) ** 2 + np.array([1, 0, 1]))
    np.testing.assert_allclose(gradient["b"][0].numpy(), 2 * X**2 * (X + 1))
    only_z = cr.grad(lambda t: cr.sum(f(t, index, "both")["z"]))(tree)  # no cotangent comes back for y
    np.testing.assert_array_equal(only_z["a"].numpy(), [1, 0, 1])


def test_a_cotangent_may_be_a_number() -> None:
    @cr.custom_vjp
    def f(x: Any) -> Any:
        return cr.sum(x)

    f.defvjp(lambda x: (cr.sum(x), None), lambda residuals, g: (7.0,))
    assert cr.grad(f)(cr.asarray(X)).tolist() == [7.0, 7.0, 7.0]


def test_the_function_itself_runs_where_no_derivative_is_wanted() -> None:
    calls = []

    @cr.custom_vjp
    def f(x: Any) -> Any:
        calls.append("function")
        return x * 1.0

    def forward(x: Any) -> Any:
        calls.append("forward")
        return x * 1.0, None

    f.defvjp(forward, lambda residuals, g: (g,))
    f(np.ones(2))
    with cr.no_grad():
        f(cr.asarray(X))
    f(cr.asarray(X))
    assert calls == ["function", "function", "forward"]
    assert f.__name__ == "f"


@pytest.mark.parametrize(
    ("forward", "backward", "error", "message"),
    [
        (lambda x: (x, None), lambda r, g: (g, g), GradientError, "2 cotangents for 1 arguments"),
        (lambda x: (x, None), lambda r, g: g, GradientError, "1 cotangents for 1 arguments; return a tuple"),
        (
            lambda x: (x, None),
            lambda r, g: (cr.sum(g),),
            GradientError,
            r"float64\[\] for an argument of type",
        ),
        (lambda x: (x, None), lambda r, g: ([g],), ShapeError, "cotangent of argument 0 has a list"),
        (lambda x: x, lambda r, g: (g,), GradientError, "has to return"),
        (lambda x: (x * OUTSIDE, None), lambda r, g: (g,), GradientError, "value from outside"),
    ],
)
def test_rules_that_do_not_fit(forward: Any, backward: Any, error: type[Exception], message: str) -> None:
    f = cr.custom_vjp(lambda x: x)
    f.defvjp(forward, backward)
    with pytest.raises(error, match=message):
        cr.grad(lambda x: cr.sum(f(x)))(cr.asarray(X))


OUTSIDE = cr.asarray(np.float64(2.0))


def test_a_rule_that_is_missing() -> None:
    with pytest.raises(GradientError, match="defvjp"):
        cr.custom_vjp(lambda x: x)(cr.asarray(X))


def test_custom_derivatives_hold_inside_checkpoint_scan_and_compile() -> None:
    f = make_log1pexp()

    def looped(x: Any) -> Any:
        return cr.sum(cr.scan(lambda c, e: (f(c) * e, None), x, cr.asarray(X))[0])

    def plain(x: Any) -> Any:
        c = x
        for e in X:
            c = np.log1p(np.exp(c)) * e
        return c.sum()

    expected = complex_step(plain, X)
    x = cr.asarray(X)
    for each in (looped, cr.checkpoint(looped), cr.compile(looped)):
        np.testing.assert_allclose(cr.grad(each)(x).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(
        cr.hessian(looped)(x).numpy(), difference(lambda p: complex_step(plain, p), X), **CLOSE
    )


def test_errors_are_chainrule_errors() -> None:
    with pytest.raises(ChainruleError):
        cr.custom_vjp(lambda x: x)(1.0)
