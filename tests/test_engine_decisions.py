"""The decisions that are dear to change (docs/design.md, "Decisions"), a test each."""

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.active import is_transforming
from chainrule.errors import ChainruleError, DTypeError, TraceError
from chainrule.graph import TRACKED
from chainrule.nn import Parameter
from chainrule.reverse import walk
from chainrule.tensor import Buffer, Tensor
from chainrule.trace import assume, inside_trace, trace_program
from chainrule.types import Type

X = np.array([0.3, -1.2, 0.8])
DTYPES = [np.float32, np.float64, np.int8, np.int32, np.int64, np.uint8, np.uint32, np.bool_]
FLOAT64 = np.dtype(np.float64)


# -- types -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("left", DTYPES)
@pytest.mark.parametrize("right", DTYPES)
def test_promotion_is_numpys_except_that_mixed_floats_raise(left: Any, right: Any) -> None:
    a, b = np.ones(2, left), np.ones(2, right)
    if {a.dtype, b.dtype} == {np.dtype(np.float32), np.dtype(np.float64)}:
        with pytest.raises(DTypeError, match="float32 meets float64"):
            cr.asarray(a) + b
    else:
        found = cr.asarray(a) + b
        assert found.dtype == (a + b).dtype
        np.testing.assert_array_equal(found.numpy(), a + b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scalar", [2, 2.5, True])
def test_python_scalars_are_weak(dtype: Any, scalar: Any) -> None:
    array = np.ones(2, dtype)
    expected = array * scalar
    for found in (cr.asarray(array) * scalar, scalar * cr.asarray(array)):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.numpy(), expected)
    if array.dtype.kind == "f":
        assert expected.dtype == dtype


def test_lists_of_python_numbers_are_weak_too() -> None:
    for dtype in (np.float32, np.float64):
        x = cr.asarray(np.ones(2, dtype))
        for found in (x * [1.0, 2.5], [1, 2] * x, cr.where(x > 0, x, (0.5, 0.5)), cr.concat([x, [1.0, 2.0]])):
            assert found.dtype == dtype
    integers = cr.asarray([1, 2])
    assert (integers * [1, 2]).dtype == np.int64
    assert (integers * [0.5, 2]).dtype == np.float64
    with pytest.raises(DTypeError, match="float32 meets float64"):
        cr.asarray([1.0, 2.0]) * [np.ones(1), np.ones(1)]


def test_tensors_in_lists_keep_their_derivative() -> None:
    found = cr.grad(lambda x: cr.sum(cr.sin([x[0], 2.0, [x[1]][0]]) * X))(cr.asarray(X))
    np.testing.assert_allclose(found.numpy(), [np.cos(X[0]) * X[0], np.cos(X[1]) * X[2], 0.0])


def test_numpys_float64_scalar_is_a_python_float() -> None:
    """np.float64 is a subclass of float; what NumPy computes on the side never changes a network's dtype."""
    assert (cr.asarray([1.0]) * np.mean([1.0, 2.0])).dtype == np.float32


# -- values are immutable, cells are the only state --------------------------------------------------------
def test_values_are_immutable_and_results_read_only() -> None:
    x = cr.asarray(X)
    results = [
        x, x + 1.0, x[1:], x.T, cr.sum(x), cr.broadcast_to(x, (2, 3)), cr.reshape(x, (3, 1)),
        cr.stop_gradient(x),
        cr.grad(lambda x: cr.sum(x * x))(x), cr.compile(lambda x: x * 2.0)(x), cr.compile(lambda x: x)(x),
        *cr.jvp(cr.sin, (x,), (X,)), cr.scan(lambda c, e: (c, e), 0.0, x)[1], Parameter(X), cr.random.key(0),
    ]  # fmt: skip
    for each in results:
        with pytest.raises(ValueError, match="read-only"):
            each.numpy()[...] = 0
        with pytest.raises(ChainruleError, match="immutable"):
            each[...] = 0


def test_a_step_is_one_pure_program_with_its_state_in_and_out() -> None:
    """Parameters, a buffer, optimizer state, a random key and a counter: all in and out, in order."""
    weight, velocity = Parameter(X), Buffer(np.zeros(3))
    mean, count = Buffer(np.float64(0.0)), Buffer(np.int64(0))
    for cell, name in ((weight, "weight"), (velocity, "velocity"), (mean, "mean"), (count, "count")):
        cell.name = name

    def step(x: Tensor) -> Any:
        key = cr.random.fold_in(cr.random.key(7), count)
        noise = cr.random.normal(key, (3,), dtype=np.float64)
        value, gradient = cr.value_and_grad(lambda w: cr.sum((w * x + noise) ** 2))(weight)
        mean.assign(0.9 * mean + 0.1 * cr.mean(x))
        velocity.assign(0.5 * velocity + gradient)
        weight.assign(weight - 0.01 * velocity)
        count.assign(count + 1)
        return {"loss": value}

    program = trace_program(step, [Type((3,), FLOAT64)], ["x"])
    assert [node.label for node in program.graph.inputs] == ["x", "count", "weight", "mean", "velocity"]
    assert [cell.name for cell in program.written] == ["mean", "velocity", "weight", "count"]
    assert all(node.value is None for node in program.graph.inputs)

    run = cr.compile(step)
    eager = [np.array(cell.numpy()) for cell in (weight, velocity, mean, count)]
    losses = [run(X)["loss"].item() for _ in range(5)]
    compiled = [np.array(cell.numpy()) for cell in (weight, velocity, mean, count)]
    for cell, value in zip((weight, velocity, mean, count), eager, strict=True):
        cell.assign(value)
    again = [step(cr.asarray(X))["loss"].item() for _ in range(5)]
    np.testing.assert_allclose(losses, again, rtol=1e-14)
    for found, cell in zip(compiled, (weight, velocity, mean, count), strict=True):
        np.testing.assert_allclose(found, cell.numpy(), rtol=1e-14)
    assert count.item() == 5


def test_a_traced_value_that_escapes_raises() -> None:
    kept: list[Tensor] = []
    cr.compile(lambda x: kept.append(x * 2.0))(X)
    for use in (
        lambda: kept[0] + 1.0,
        lambda: cr.sum(kept[0]),
        lambda: cr.compile(lambda x: x + kept[0])(X),
        lambda: cr.compile(lambda x: kept[0])(X),
        lambda: cr.checkpoint(lambda x: x + kept[0])(cr.asarray(X)),
    ):
        with pytest.raises(TraceError, match=r"escaped from its function.*Return it"):
            use()
    with pytest.raises(TraceError, match=r"float\(x\).*no value"):
        float(kept[0][0]) if False else float(cr.compile(lambda x: float(x[0]))(X))
    with pytest.raises(TraceError, match="no value"):
        kept[0].numpy()
    assert "traced: no value yet" in repr(kept[0])


def test_a_parameter_cannot_hold_a_traced_value() -> None:
    w = Parameter(X)
    kept: list[Tensor] = []
    cr.compile(kept.append)(X)
    with pytest.raises(TraceError, match="assigning to Parameter"):
        w.assign(kept[0])


# -- tied weights ------------------------------------------------------------------------------------------
def test_tied_weights_are_one_by_identity() -> None:
    w = Parameter(X)
    fields = {"encoder": w, "decoder": w}

    def loss() -> Tensor:
        return cr.sum(fields["encoder"] * 2.0) + cr.sum(fields["decoder"] * fields["decoder"])

    loss().backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), 2 + 2 * X)  # summed over both uses
    program = trace_program(loss, [])
    assert len(program.graph.inputs) == 1  # one input, however often it is read


# -- randomness --------------------------------------------------------------------------------------------
def drawn(order: list[str]) -> dict[str, list[int]]:
    found = {}
    with cr.random.stream(cr.random.key(3)):
        for path in order:
            with cr.scope(path):
                found[path] = cr.random.bits(cr.random.site_key(), (2,)).tolist()
    return found


def test_random_numbers_depend_on_the_key_and_the_place_never_on_the_order_of_calls() -> None:
    assert drawn(["a", "b", "c"]) == drawn(["c", "a", "b"])
    assert drawn(["a", "b"])["a"] != drawn(["a", "b"])["b"]
    assert drawn(["a", "extra", "b"])["b"] == drawn(["b"])["b"]


def test_one_place_draws_anew_each_time() -> None:
    with cr.random.stream(cr.random.key(3)):
        first, second = (cr.random.bits(cr.random.site_key(), (4,)).tolist() for _ in range(2))
    assert first != second


def test_recomputation_repeats_its_numbers() -> None:
    def noisy(x: Any) -> Any:
        return cr.sum(cr.sin(x) * cr.random.normal(cr.random.site_key(), (3,), dtype=np.float64))

    def run(f: Any) -> Any:
        with cr.random.stream(cr.random.key(5)):
            return cr.grad(f)(cr.asarray(X)).numpy()

    np.testing.assert_allclose(run(cr.checkpoint(noisy)), run(noisy), rtol=1e-15)


def test_a_compiled_function_cannot_freeze_random_numbers() -> None:
    draw = cr.compile(lambda x: x + cr.random.uniform(cr.random.site_key(), (3,), dtype=np.float64))
    with cr.random.stream(cr.random.key(1)), pytest.raises(TraceError, match="same in every call"):
        draw(X)
    assert draw(X).tolist() != draw(X).tolist()  # the global stream is state, in and out

    @cr.compile
    def keyed(key: Any, x: Any) -> Any:
        with cr.random.stream(key):
            return x + cr.random.uniform(cr.random.site_key(), (3,), dtype=np.float64)

    first, second = cr.random.split(cr.random.key(1))
    assert keyed(first, X).tolist() != keyed(second, X).tolist()
    assert keyed(first, X).tolist() == keyed(first, X).tolist()


def test_the_seed_starts_the_global_stream_anew() -> None:
    def draw() -> Any:
        return cr.random.normal(cr.random.site_key(), (3,)).tolist()

    cr.random.seed(11)
    first = [draw(), draw()]
    cr.random.seed(11)
    assert [draw(), draw()] == first
    assert first[0] != first[1]


# -- shapes are static per specialisation ------------------------------------------------------------------
def test_the_eighth_specialisation_warns_and_the_cache_is_bounded() -> None:
    traces = []

    @cr.compile
    def f(x: Any) -> Any:
        traces.append(x.shape)
        return cr.sum(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(7):
            f(np.ones(n))
            f(np.ones(n))
    assert len(traces) == 7
    with pytest.warns(UserWarning, match="f was compiled for the 8th combination"):
        f(np.ones(7))
    for n in range(8, 100):
        f(np.ones(n))
    assert len(f._specialisations) == 64
    f(np.ones(99))
    assert len(traces) == 100
    f(np.ones(0))  # long forgotten
    assert len(traces) == 101


def test_a_program_is_traced_anew_when_what_it_assumed_has_changed() -> None:
    class Mode:
        training = True

    mode, w = Mode(), Parameter(X)
    traces = []

    @cr.compile
    def run(x: Any) -> Any:
        traces.append(mode.training)
        return x * w if assume(mode, "training") else x + w

    for _ in range(3):  # and not traced again when the old facts are back
        mode.training = True
        np.testing.assert_allclose(run(X).numpy(), X * X)
        mode.training = False
        np.testing.assert_allclose(run(X).numpy(), X + X)
    assert traces == [True, False]
    w.cast(np.float32)
    with pytest.raises(DTypeError, match="float32 meets float64"):
        run(X)
    assert run(X.astype(np.float32)).dtype == np.float32


# -- loops and linear pullbacks ----------------------------------------------------------------------------
def test_a_scan_is_a_node_with_a_graph_inside() -> None:
    program = trace_program(
        lambda x: cr.scan(lambda c, e: (c + e, c), 0.0, x)[0], [Type((5,), np.dtype("f4"))]
    )
    (loop,) = [node for node in program.graph.nodes if node.name == "scan"]
    assert [node.name for node in loop.attributes["graph"].nodes if node.primitive] == ["add"]
    assert "scan" in str(program.graph)
    assert "return" in str(program.graph).splitlines()[-2]


def linear_programs() -> list[Callable[[Any], Any]]:
    return [
        lambda x: cr.sin(x) * cr.exp(x),
        cr.checkpoint(lambda x: cr.tanh(x) * x),
        lambda x: cr.scan(lambda c, e: (cr.sin(c * e), c), x[0], x)[1],
        lambda x: cr.softmax(x @ cr.reshape(x, (3, 1)) * x),
    ]


@pytest.mark.parametrize("index", range(4))
def test_pullbacks_are_linear_in_the_cotangent(index: int) -> None:
    _, pullback = cr.vjp(linear_programs()[index], cr.asarray(X))
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=3), rng.normal(size=3)
    both = pullback(2.0 * a - 3.0 * b)[0].numpy()
    apart = 2.0 * pullback(a)[0].numpy() - 3.0 * pullback(b)[0].numpy()
    np.testing.assert_allclose(both, apart, rtol=1e-12, atol=1e-13)


def test_an_error_in_a_traced_function_leaves_nothing_behind() -> None:
    def broken(x: Any) -> Any:
        with cr.scope("layer"), cr.no_grad():
            raise ZeroDivisionError(str(x.shape))

    for transform in (cr.compile, cr.grad, cr.checkpoint, cr.vmap, lambda f: cr.compile(cr.grad(f))):
        with pytest.raises(ZeroDivisionError):
            transform(broken)(cr.asarray(X))
    assert not inside_trace()
    assert not is_transforming()
    y = cr.sum(cr.asarray(X) * 2.0)
    assert (y.layer, y.node.status) == ("", TRACKED)
    y.backward()


# -- determinism and threads -------------------------------------------------------------------------------
def work(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    w, xs = Parameter(rng.normal(size=(8, 8)).astype(np.float32)), rng.normal(size=(20, 8)).astype(np.float32)

    def loss(x: Any) -> Any:
        with cr.scope(f"layer{seed}"):
            last, kept = cr.scan(lambda h, e: (cr.tanh(w @ h + e), h), cr.zeros(8), x)
            return cr.sum(last) + cr.mean(cr.checkpoint(lambda k: cr.sin(k) * k)(kept))

    compiled = cr.compile(cr.value_and_grad(loss))
    parts = []
    for _ in range(5):
        value, gradient = compiled(xs)
        loss(cr.asarray(xs)).backward()
        assert w.grad is not None
        w.assign(w - 0.1 * w.grad)
        second = cr.jvp(cr.grad(loss), (cr.asarray(xs),), (np.ones_like(xs),))[1]
        with cr.no_grad():
            assert loss(cr.asarray(xs)).node.operands == ()
        assert loss(cr.asarray(xs)).layer == f"layer{seed}"
        parts += [value.numpy(), gradient.numpy(), w.numpy(), second.numpy()]
        w.grad = None
    return b"".join(part.tobytes() for part in parts)


def test_two_runs_are_bit_identical() -> None:
    assert work(0) == work(0)


def test_threads_trace_compile_and_differentiate_at_once() -> None:
    expected = {seed: work(seed) for seed in range(4)}
    start = threading.Barrier(4)

    def together(seed: int) -> bytes:
        start.wait()
        return work(seed)

    with ThreadPoolExecutor(4) as pool:
        assert dict(zip(range(4), pool.map(together, range(4)), strict=True)) == expected


def test_threads_share_one_compiled_function() -> None:
    traces = []

    @cr.compile
    def f(x: Any) -> Any:
        traces.append(x.shape)
        return cr.grad(lambda x: cr.sum(cr.sin(x)))(x)

    start = threading.Barrier(4)

    def call(n: int) -> bool:
        start.wait()
        return all(np.array_equal(f(np.full(k, 0.5)).numpy(), np.cos(np.full(k, 0.5))) for k in range(1, 6))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(4)))
    assert sorted(traces) == [(k,) for k in range(1, 6)]


# -- one walk ----------------------------------------------------------------------------------------------
def test_derivatives_are_graphs_with_reasons() -> None:
    """The one walk, on traced nodes: what it builds knows which pullback made it."""
    x = cr.asarray(X)
    y = cr.sum(cr.sin(x) * x)
    (found,) = walk([y.node], [cr.asarray(np.float64(1.0)).node], [x.node])
    assert found is not None
    np.testing.assert_allclose(found.value, np.cos(X) * X + np.sin(X))
    roles = {origin.role for node in (found, *found.operands) for origin in node.origins}
    assert roles <= {"fan-out", "pullback"}
    assert "fan-out" in roles
