"""Transforms and loops against JAX's, in float64: the same programs written for both array namespaces.

Equal to 1e-10 relative to the largest element (1e-8 for second derivatives): both sides compute with the same
formulas up to the order of summation, over at most some hundred operations of rounding 1e-16 each.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

import chainrule as cr

jax = pytest.importorskip("jax")
jnp = jax.numpy

Array = np.ndarray[Any, Any]
FIRST, SECOND = 1e-10, 1e-8


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def agree(ours: Any, theirs: Any, tolerance: float) -> None:
    """Corresponding leaves are equal relative to the largest element of each array."""
    found, structure = cr.tree.flatten(ours)
    expected = cr.tree.flatten_as(structure, theirs, "JAX's result")
    for a, b in zip(found, expected, strict=True):
        b = np.asarray(b)
        assert a.shape == b.shape
        np.testing.assert_allclose(
            a.numpy(), b, rtol=tolerance, atol=tolerance * np.max(np.abs(b), initial=0)
        )


# -- the programs: written for `xp`, the namespace, and `t`, the transforms --------------------------------
def network(xp: Any, t: Any, p: Any) -> Any:
    hidden = xp.tanh(p["x"] @ p["layers"][0] + p["bias"])
    return xp.sum(xp.exp(-((hidden @ p["layers"][1]) ** 2)))


def normalised(xp: Any, t: Any, p: Any) -> Any:
    centred = p["x"] - xp.mean(p["x"], axis=0)
    scaled = centred / xp.sqrt(xp.mean(centred**2, axis=0) + 1e-3)
    return xp.sum(xp.where(scaled > 0, scaled**3, 0.1 * scaled) * p["bias"][:3])


def attention(xp: Any, t: Any, p: Any) -> Any:
    scores = xp.einsum("ik,jk->ij", p["x"], p["x"]) / 2.0
    weights = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
    weights = weights / xp.sum(weights, axis=1, keepdims=True)
    return xp.sum(xp.sin(weights @ p["x"]))


def recurrent(xp: Any, t: Any, p: Any) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = xp.tanh(h @ p["square"] + x @ p["layers"][0] @ p["layers"][1])
        return h, xp.sum(h**2)

    last, sums = t.scan(step, p["bias"] @ p["layers"][1], p["x"])
    return xp.sum(last) + xp.sum(xp.sin(sums))


def backwards(xp: Any, t: Any, p: Any) -> Any:
    def step(c: Any, x: Any) -> Any:
        count, total = c
        total = total * xp.cos(x) + count.astype(xp.float64)
        return (count + 1, total), {"total": total, "count": count}

    start = (xp.asarray(np.int64(0)), p["bias"][:3])
    (_, total), ys = t.scan(step, start, p["x"], reverse=True)
    return xp.sum(total**2) + xp.sum(ys["total"] * ys["count"][:, None].astype(xp.float64))


def nested_loops(xp: Any, t: Any, p: Any) -> Any:
    def inner(c: Any, x: Any) -> Any:
        return xp.sin(c * x) + xp.sum(p["bias"]) * 0.1, c

    def outer(c: Any, row: Any) -> Any:
        last, kept = t.scan(inner, c, row)
        return last, xp.sum(kept**2)

    last, sums = t.scan(outer, p["bias"][0], p["x"])
    return last + xp.sum(sums)


def checkpointed(xp: Any, t: Any, p: Any) -> Any:
    block = t.checkpoint(lambda x: xp.tanh(x @ p["square"]) + x)
    return xp.sum(block(block(p["x"] @ p["layers"][0] @ p["layers"][1])) ** 2)


def checkpointed_loop(xp: Any, t: Any, p: Any) -> Any:
    step = t.checkpoint(lambda c, x: (xp.sin(c * x), xp.sum(c)))
    last, ys = t.scan(step, p["bias"][:3], p["x"])
    return xp.sum(last) * xp.sum(ys)


PROGRAMS = [
    network, normalised, attention, recurrent, backwards, nested_loops, checkpointed, checkpointed_loop,
]  # fmt: skip
POINT = {
    "x": numbers(5, 3),
    "layers": [numbers(3, 4, seed=1) * 0.5, numbers(4, 2, seed=2) * 0.5],
    "square": numbers(2, 2, seed=3) * 0.5,
    "bias": numbers(4, seed=4),
}


class Theirs:
    scan = staticmethod(jax.lax.scan)
    checkpoint = staticmethod(jax.checkpoint)


def ours(program: Callable[..., Any]) -> Callable[..., Any]:
    return lambda p: program(cr, cr, p)


def theirs(program: Callable[..., Any]) -> Callable[..., Any]:
    return lambda p: program(jnp, Theirs, p)


def as_ours(tree: Any) -> Any:
    return cr.tree.tree_map(cr.asarray, tree)


# What JAX says, once for the eager and the compiled comparison: tracing and compiling takes it seconds.
TANGENT = cr.tree.tree_map(np.cos, POINT)
BIASES = numbers(3, 4, seed=9)


@cache
def value_and_slope(program: Callable[..., Any]) -> Any:
    return jax.value_and_grad(theirs(program))(POINT)


@cache
def hessian_vector_product(program: Callable[..., Any]) -> Any:
    return jax.jvp(jax.grad(theirs(program)), (POINT,), (TANGENT,))[1]


def slopes(t: Any, f: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient by the bias, of every example: the bias differs, everything else is shared."""
    return t.vmap(t.grad(lambda bias, p: f({**p, "bias": bias})), in_axes=(0, None))


@cache
def slopes_of_examples(program: Callable[..., Any]) -> Any:
    return slopes(jax, theirs(program))(BIASES, POINT)


# -- comparisons -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_value_and_gradient(program: Callable[..., Any], compiled: bool) -> None:
    f = cr.value_and_grad(ours(program))
    value, gradient = (cr.compile(f) if compiled else f)(as_ours(POINT))
    expected, slope = value_and_slope(program)
    agree(value, expected, FIRST)
    agree(gradient, slope, FIRST)


@pytest.mark.parametrize("program", PROGRAMS)
def test_jvp(program: Callable[..., Any]) -> None:
    found = cr.jvp(ours(program), (as_ours(POINT),), (TANGENT,))[1]
    agree(found, jax.jvp(theirs(program), (POINT,), (TANGENT,))[1], FIRST)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_hessian_vector_products(program: Callable[..., Any], compiled: bool) -> None:
    def product(p: Any) -> Any:
        return cr.jvp(cr.grad(ours(program)), (p,), (TANGENT,))[1]

    found = (cr.compile(product) if compiled else product)(as_ours(POINT))
    agree(found, hessian_vector_product(program), SECOND)


@pytest.mark.parametrize("program", [network, recurrent, backwards, checkpointed_loop])
def test_full_hessians_of_containers(program: Callable[..., Any]) -> None:
    small = {"x": POINT["x"][:2], "layers": POINT["layers"], "square": POINT["square"], "bias": POINT["bias"]}
    agree(cr.hessian(ours(program))(as_ours(small)), jax.hessian(theirs(program))(small), SECOND)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_gradients_of_every_example(program: Callable[..., Any], compiled: bool) -> None:
    f = slopes(cr, ours(program))
    found = (cr.compile(f) if compiled else f)(cr.asarray(BIASES), as_ours(POINT))
    agree(found, slopes_of_examples(program), FIRST)


def test_jacobians_of_containers_by_several_arguments() -> None:
    def f(xp: Any, a: Any, b: Any) -> Any:
        return {"outer": xp.sin(a[:, None] * b["v"][None, :]), "norm": xp.sum(a**2) * b["s"]}

    a, b = numbers(3), {"v": numbers(2, seed=1), "s": numbers(seed=2)}
    found = cr.jacobian(lambda a, b: f(cr, a, b), argnums=(0, 1))(cr.asarray(a), as_ours(b))
    expected = jax.jacobian(lambda a, b: f(jnp, a, b), argnums=(0, 1))(a, b)
    agree(found, expected, FIRST)


def test_vjp_with_containers() -> None:
    def f(xp: Any, p: Any) -> Any:
        return [xp.exp(p["x"]), {"s": xp.sum(p["x"], axis=0)}]

    seed = [numbers(5, 3, seed=7), {"s": numbers(3, seed=8)}]
    found = cr.vjp(lambda p: f(cr, p), as_ours({"x": POINT["x"]}))[1](seed)[0]
    agree(found, jax.vjp(lambda p: f(jnp, p), {"x": POINT["x"]})[1](seed)[0], FIRST)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_custom_derivatives_of_several_orders(order: int) -> None:
    """log(1 + exp(x)) with its derivative written by hand, as in JAX's tutorial, and exp(x) as a residual."""

    def make(xp: Any, t: Any) -> Any:
        @t.custom_vjp
        def f(x: Any) -> Any:
            return xp.log1p(xp.exp(x))

        def forward(x: Any) -> Any:
            e = xp.exp(x)
            return xp.log1p(e), (e, x)

        def backward(residuals: Any, g: Any) -> Any:
            e, _ = residuals
            return (g * e / (1 + e),)

        f.defvjp(forward, backward)
        return lambda x: f(x) * x

    mine, other = make(cr, cr), make(jnp, jax)
    for _ in range(order):
        mine, other = cr.grad(mine), jax.grad(other)
    agree(mine(np.float64(0.4)), other(0.4), SECOND)


def test_stop_gradient() -> None:
    def f(xp: Any, stop: Any, x: Any) -> Any:
        return xp.sum(stop(xp.sin(x)) * x**2)

    x = numbers(4)
    agree(cr.hessian(lambda x: f(cr, cr.stop_gradient, x))(cr.asarray(x)),
          jax.hessian(lambda x: f(jnp, jax.lax.stop_gradient, x))(x), SECOND)  # fmt: skip
