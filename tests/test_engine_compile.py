"""cr.compile: the same values as eager, one graph per combination of what a graph depends on."""

import functools
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import BoundsError, ChainruleError
from chainrule.graph import CONSTANT, PLAIN
from chainrule.nn import Parameter
from chainrule.tensor import Buffer, Tensor

X = np.array([0.3, -1.2, 0.8])


def test_values_containers_keywords_and_static_arguments() -> None:
    @cr.compile
    def f(tree: Any, power: int, *, mode: str = "plain", flag: Any = None) -> Any:
        """Doc."""
        y = tree["a"] ** power
        return {"y": y if mode == "plain" else -y, "n": None, "pair": (y > 0, cr.argmax(y))}

    found = f({"a": X}, 2)
    np.testing.assert_allclose(found["y"].numpy(), X**2)
    assert found["n"] is None
    assert found["pair"][1].item() == 1
    assert (found["y"].node.status, found["pair"][0].node.status) == (PLAIN, CONSTANT)
    np.testing.assert_allclose(f({"a": X}, 3)["y"].numpy(), X**3)
    np.testing.assert_allclose(f({"a": X}, power=3, mode="negative")["y"].numpy(), -(X**3))
    assert (f.__name__, f.__doc__) == ("f", "Doc.")


def test_python_numbers_are_told_apart_by_type_and_sign() -> None:
    copysign = cr.compile(lambda x, s: cr.copysign(x, cr.asarray(s).astype(np.float64)))
    assert copysign(X, 0.0)[0].item() == 0.3
    assert copysign(X, -0.0)[0].item() == -0.3
    kind = cr.compile(lambda x, s: x * (1.0 if isinstance(s, bool) else 2.0))
    assert kind(X, 1)[0].item() == 0.6
    assert kind(X, True)[0].item() == 0.3


def test_arguments_that_cannot_be_compared() -> None:
    f = cr.compile(lambda x, options: x)
    with pytest.raises(ChainruleError, match=r"unhashable.*Arguments are arrays"):
        f(X, {1, 2})


def test_decorators_partials_and_unknown_backends() -> None:
    @cr.compile(backend="numpy")
    def f(x: Any) -> Any:
        return x + 1.0

    assert f(X)[0].item() == 1.3
    assert cr.compile(functools.partial(lambda x, y: x * y, y=2.0))(X)[0].item() == 0.6
    with pytest.raises(ValueError, match="there is no backend 'nope'"):
        cr.compile(lambda x: x, backend="nope")


def test_a_method_can_be_compiled() -> None:
    class Model:
        def __init__(self, scale: float) -> None:
            self.w = Parameter(X * scale)

        @cr.compile
        def predict(self, x: Any) -> Any:
            """Doc."""
            return x * self.w

    first, second = Model(1.0), Model(2.0)
    np.testing.assert_allclose(first.predict(X).numpy(), X * X)
    np.testing.assert_allclose(second.predict(X).numpy(), 2 * X * X)
    assert Model.predict.__doc__ == "Doc."


def test_inside_a_transform_or_a_trace_it_is_part_of_it() -> None:
    f = cr.compile(lambda x: cr.sum(cr.sin(x)))
    np.testing.assert_allclose(cr.grad(f)(X).numpy(), np.cos(X))
    np.testing.assert_allclose(cr.jvp(f, (X,), (X,))[1].numpy(), np.sum(np.cos(X) * X))
    np.testing.assert_allclose(cr.compile(cr.grad(f))(X).numpy(), np.cos(X))
    np.testing.assert_allclose(cr.hessian(f)(X).numpy(), -np.diag(np.sin(X)))
    w = Parameter(X)

    @cr.compile
    def scaled(x: Any) -> Any:
        assert isinstance(x, Tensor)  # also where it was given as a NumPy array
        return cr.sum(x * w)

    np.testing.assert_allclose(cr.grad(lambda p: scaled(X))(w).numpy(), X)


def test_a_compiled_function_may_call_itself_and_others() -> None:
    @cr.compile
    def power(x: Any, n: int) -> Any:
        return x if n == 1 else x * power(x, n - 1)

    twice = cr.compile(lambda x: power(power(x, 2), 2))
    np.testing.assert_allclose(twice(X).numpy(), X**4)


def test_cells_are_inputs_and_outputs_also_when_nothing_else_is() -> None:
    count = Buffer(np.int64(0))
    w = Parameter(X)

    @cr.compile
    def step() -> Any:
        count.assign(count + 1)
        w.assign(w * 0.5)
        return w

    assert step().tolist() == (X * 0.5).tolist()
    assert step().tolist() == w.tolist() == (X * 0.25).tolist()
    assert count.item() == 2
    w.assign(X)
    assert step().tolist() == (X * 0.5).tolist()


def test_values_from_outside_are_constants_without_their_history() -> None:
    scale = cr.exp(cr.asarray(X) * 2.0)
    f = cr.compile(lambda x: x * scale)
    f(X)
    assert "exp" not in f.show()
    assert "constant" in f.show()
    np.testing.assert_allclose(f(X).numpy(), X * np.exp(2 * X))


def test_outputs_that_are_inputs_or_constants() -> None:
    f = cr.compile(lambda x: (x, x, 3.0, cr.asarray(X)))
    a, b, c, d = f(X)
    assert a.tolist() == b.tolist() == d.tolist() == X.tolist()
    assert c.item() == 3.0


def test_gradients_of_graphs_with_no_grad_inside() -> None:
    def f(x: Any) -> Any:
        with cr.no_grad():
            y = cr.sin(x) * x
        return cr.sum(x * y)

    np.testing.assert_allclose(cr.compile(cr.grad(f))(X).numpy(), np.sin(X) * X)
    with cr.no_grad():
        g = cr.compile(cr.grad(lambda x: cr.sum(x * x)))
        g(X)
    assert "stop_gradient" not in g.show()


def test_an_index_beyond_the_end_is_found_when_it_runs() -> None:
    f = cr.compile(cr.take)
    assert f(X, np.array([2])).item() == 0.8
    with pytest.raises(BoundsError):
        f(X, np.array([3]))


def test_show_prints_every_specialisation() -> None:
    f = cr.compile(cr.sum)
    f(X)
    f(X[:2])
    assert f.show().count("graph(") == 2
    assert f.show("llvm").count("define void @run") == 2


@pytest.mark.parametrize(("backend", "foreign"), [("native", "python"), ("numpy", "llvm")])
def test_show_names_what_a_backend_can_show(backend: str, foreign: str) -> None:
    f = cr.compile(cr.sum, backend=backend)
    f(X)
    with pytest.raises(ValueError, match=rf"can show only 'graph', .* not '{foreign}'"):
        f.show(foreign)
