"""vmap: every primitive on every sample against one example after the other, and whole programs."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from oracles import CLOSE, difference

import chainrule as cr
from chainrule.batching import RULES
from chainrule.errors import ShapeError, TraceError
from chainrule.nn import Parameter
from chainrule.ops import ops
from chainrule.primitive import Primitive, Sample
from chainrule.primitives import REGISTRY
from chainrule.tensor import Buffer, Tensor

PRIMITIVES = {name: each for name, each in REGISTRY.items() if isinstance(each, Primitive)}
SIZE = 3
X = np.array([[0.3, -1.2, 0.8], [0.5, 0.9, -0.1]])


def calls() -> list[Any]:
    """Every primitive, sample and choice of the operands that differ from example to example."""
    return [
        pytest.param(record, sample, many, id=f"{name}-{k}-{''.join('01'[each] for each in many)}")
        for name, record in PRIMITIVES.items()
        for k, sample in enumerate(record.samples)
        for many in product((False, True), repeat=min(len(sample.operands), 4))
        if any(many)
    ]


@pytest.mark.parametrize(("record", "sample", "many"), calls())
def test_a_primitive_on_many_examples_is_the_primitive_on_each(
    record: Primitive, sample: Sample, many: tuple[bool, ...]
) -> None:
    """Equal up to the order in which a contraction of a whole batch sums: 8 units in the last place."""
    many = many + (False,) * (len(sample.operands) - len(many))
    draws = [sample.arrays(seed) for seed in range(SIZE)]
    operands = [np.stack([draw[k] for draw in draws]) if each else draws[0][k] for k, each in enumerate(many)]

    def apply(*tensors: Any) -> Tensor:
        return Tensor(ops.apply(record, [ops.node(each) for each in tensors], **sample.attributes))

    found = cr.vmap(apply, in_axes=[0 if each else None for each in many])(*operands)
    for index in range(SIZE):
        one = apply(*(each[index] if of_many else each for each, of_many in zip(operands, many, strict=True)))
        assert found.dtype == one.dtype
        np.testing.assert_allclose(found.numpy()[index], one.numpy(), rtol=2e-15, atol=1e-15)


def test_there_is_no_rule_for_a_primitive_that_is_not_there() -> None:
    assert set(RULES) <= set(PRIMITIVES)


def looped(x: Any, w: Any) -> Any:
    last, ys = cr.scan(lambda c, e: (cr.tanh(c * cr.sum(w) + e), c), cr.sum(x), x)
    return last * cr.sum(ys)


PROGRAMS = {
    "softmax": lambda x, w: cr.softmax(x * w),
    "network": lambda x, w: cr.tanh(x @ (w[:, None] * np.eye(3))) @ w,
    "norm": lambda x, w: (x - cr.mean(x)) / cr.sqrt(cr.var(x) + 0.1) * w,
    "index": lambda x, w: x[::-1][:2] * w[cr.argmax(x)],
    "sort": lambda x, w: cr.sort(x) @ w,
    "scan": looped,
    "checkpoint": lambda x, w: cr.checkpoint(lambda x: cr.sin(x) * w)(x),
    "gradient": lambda x, w: cr.grad(lambda x: cr.sum(cr.sin(x * w) * x))(x),
    "gradient of scan": cr.grad(looped),
    "forward": lambda x, w: cr.jvp(lambda x: cr.exp(x) * w, (x,), (w,))[1],
    "constant": lambda x, w: w * 2.0,
}


@pytest.mark.parametrize("around", [lambda f: f, cr.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str, around: Any) -> None:
    f, w = PROGRAMS[name], np.array([0.5, -1.0, 2.0])
    found = around(cr.vmap(f, in_axes=(0, None)))(cr.asarray(X), cr.asarray(w))
    expected = np.stack([f(cr.asarray(x), cr.asarray(w)).numpy() for x in X])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", PROGRAMS)
def test_derivatives_of_programs(name: str) -> None:
    f, w = PROGRAMS[name], np.array([0.5, -1.0, 2.0])

    def total(x: Any, w: Any) -> Any:
        return cr.sum(cr.vmap(f, in_axes=(0, None))(x, w) ** 2)

    def by_hand(x: Any, w: Any) -> Any:
        return sum(np.sum(f(cr.asarray(row), cr.asarray(w)).numpy() ** 2) for row in x)

    x_bar, w_bar = cr.grad(total, (0, 1))(cr.asarray(X), cr.asarray(w))
    np.testing.assert_allclose(x_bar.numpy(), difference(lambda x: by_hand(x, w), X), **CLOSE)
    np.testing.assert_allclose(w_bar.numpy(), difference(lambda w: by_hand(X, w), w), **CLOSE)


def test_gradients_of_every_example_of_a_captured_parameter() -> None:
    w = Parameter(np.array([0.5, -1.0, 2.0]))
    found = cr.vmap(lambda x: cr.sum(cr.sin(x * w)))(cr.asarray(X))
    cr.sum(found).backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), np.sum(np.cos(X * w.numpy()) * X, axis=0))
    each = cr.vmap(cr.grad(lambda w, x: cr.sum(cr.sin(x * w))), in_axes=(None, 0))(w, X)
    np.testing.assert_allclose(each.numpy(), np.cos(X * w.numpy()) * X)


def test_axes_containers_keywords_and_static_arguments() -> None:
    def f(tree: Any, power: int, *, scale: Any) -> Any:
        return {"y": (tree["a"] ** power) * scale, "n": None, "s": [cr.sum(tree["b"])]}

    a, b = np.ones((4, 2)) * np.arange(2), np.arange(6.0).reshape(3, 2)
    found = cr.vmap(f, in_axes=(-1, None), out_axes=-1)({"a": a, "b": b}, 2, scale=np.array([1.0, 10.0]))
    assert found["n"] is None
    np.testing.assert_allclose(found["y"].numpy(), a**2 * [1.0, 10.0])
    np.testing.assert_allclose(found["s"][0].numpy(), b.sum(axis=0))


def test_nested() -> None:
    outer = cr.vmap(cr.vmap(lambda a, b: a * b, in_axes=(None, 0)), in_axes=(0, None))
    np.testing.assert_allclose(outer(X[0], X[1]).numpy(), np.outer(X[0], X[1]))


def test_custom_derivatives_run_one_by_one() -> None:
    @cr.custom_vjp
    def clipped(x: Any) -> Any:
        return x * 1.0

    clipped.defvjp(lambda x: (x * 1.0, None), lambda residuals, g: (cr.clip(g, -1.0, 1.0),))
    found = cr.grad(lambda x: cr.sum(cr.vmap(lambda x: 5.0 * clipped(x))(x)))(X)
    assert found.tolist() == np.ones((2, 3)).tolist()


def test_random_numbers_of_every_example() -> None:
    keys = cr.asarray([each.numpy().tolist() for each in cr.random.split(cr.random.key(0), 3)]).astype(
        "uint32"
    )
    found = cr.vmap(lambda key: cr.random.normal(key, (2,)))(keys)
    expected = [cr.random.normal(key, (2,)).tolist() for key in cr.random.split(cr.random.key(0), 3)]
    assert found.tolist() == expected


def test_no_examples_at_all() -> None:
    assert cr.vmap(lambda x: cr.sum(cr.sort(x)))(np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cr.vmap(lambda a, b: a)(X, X[:1]), ShapeError, "common number of examples.*1, 2"),
        (lambda: cr.vmap(lambda a: a, in_axes=None)(X), ShapeError, "none at all"),
        (lambda: cr.vmap(lambda a: a, in_axes=(0, 0))(X), ShapeError, "names 2 arguments, not 1"),
        (lambda: cr.vmap(lambda a: a)(np.float64(1)), ShapeError, "out of range for an array of 0"),
        (lambda: cr.vmap(lambda x: COUNT.assign(cr.sum(x)))(X), TraceError, "the function given to vmap"),
    ],
)
def test_calls_that_do_not_fit(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


COUNT = Buffer(np.float64(0))
