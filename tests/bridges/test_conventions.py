"""Where no derivative exists (ties, kinks, bounds) ours is PyTorch's, and JAX's where the two agree."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr

torch = pytest.importorskip("torch")

A = np.array([1.0, 2.0, 3.0, -0.0, 0.0])
B = np.array([2.0, 2.0, 1.0, 0.0, -0.0])
ROWS = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, -1.0, 0.5]])
AROUND = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])

# name, function of (namespace, arrays), arrays
SHARED: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("maximum", lambda xp, a, b: xp.maximum(a, b), (A, B)),
    ("minimum", lambda xp, a, b: xp.minimum(a, b), (A, B)),
    ("maximum of one array with itself", lambda xp, a: xp.maximum(a, a), (A,)),
    ("where at a tie", lambda xp, a, b: xp.where(a == b, a * 2, b * 3), (A, B)),
    ("sort", lambda xp, a: xp.sort(a)[0] if xp is torch else xp.sort(a), (ROWS[0],)),
]
OF_TORCH: list[tuple[str, Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = [
    ("abs", cr.abs, torch.abs, (AROUND,)),
    ("relu", cr.relu, torch.relu, (AROUND,)),
    ("relu functional", cr.nn.functional.relu, torch.nn.functional.relu, (AROUND,)),
    ("max", lambda x: cr.max(x, axis=1), lambda x: torch.amax(x, 1), (ROWS,)),
    ("min", lambda x: cr.min(x, axis=1), lambda x: torch.amin(x, 1), (ROWS,)),
    ("max over everything", cr.max, torch.max, (ROWS,)),
    ("clip", lambda x: cr.clip(x, -1.0, 1.0), lambda x: torch.clamp(x, -1.0, 1.0), (AROUND,)),
    ("clip from below", lambda x: cr.clip(x, min=-1.0), lambda x: torch.clamp(x, min=-1.0), (AROUND,)),
    ("clip by arrays", cr.clip, torch.clamp, (AROUND, np.full(7, -1.0), np.full(7, 1.0))),
    ("clip by crossed bounds", cr.clip, torch.clamp, (AROUND, np.full(7, 1.5), np.full(7, 0.5))),
    ("sign", lambda x: cr.sign(x) * x, lambda x: torch.sign(x) * x, (AROUND,)),
    ("copysign", cr.copysign, torch.copysign, (AROUND[AROUND != 0], -AROUND[AROUND != 0])),
    ("remainder", cr.remainder, torch.remainder, (AROUND, np.full(7, 0.75))),
    ("prod of one zero", cr.prod, torch.prod, (np.array([2.0, 0.0, 3.0]),)),
    ("prod of two zeros", cr.prod, torch.prod, (np.array([2.0, 0.0, 0.0]),)),
    ("std of equal numbers", lambda x: cr.std(x, correction=1), torch.std, (np.array([2.0, 2.0, 2.0]),)),
    ("pow at 0", lambda x: cr.pow(x, 2.0), lambda x: torch.pow(x, 2.0), (AROUND,)),
    ("pow 0 at 0", lambda x: cr.pow(x, 0.0), lambda x: torch.pow(x, 0.0), (AROUND,)),
    (
        "logsumexp with -inf", lambda x: cr.logsumexp(x, axis=0), lambda x: torch.logsumexp(x, 0),
        (np.array([-np.inf, 1.0]),),
    ),
]  # fmt: skip


def ours(function: Callable[..., Any], arrays: tuple[Any, ...], weights: Any) -> list[Any]:
    gradient = cr.grad(lambda *x: cr.sum(function(*x) * weights), argnums=tuple(range(len(arrays))))
    return [each.numpy() for each in gradient(*map(cr.asarray, arrays))]


def pytorchs(function: Callable[..., Any], arrays: tuple[Any, ...], weights: Any) -> list[Any]:
    leaves = [torch.tensor(each, requires_grad=True) for each in arrays]
    (function(*leaves) * torch.tensor(weights)).sum().backward()
    return [each.grad.numpy() for each in leaves]


def weights_for(function: Callable[..., Any], arrays: tuple[Any, ...]) -> Any:
    shape = function(*map(cr.asarray, arrays)).shape
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize(
    ("name", "function", "arrays"), SHARED, ids=lambda each: each if isinstance(each, str) else ""
)
def test_conventions_shared_with_jax_and_pytorch(name: str, function: Any, arrays: tuple[Any, ...]) -> None:
    jax = pytest.importorskip("jax")
    weights = weights_for(lambda *x: function(cr, *x), arrays)
    found = ours(lambda *x: function(cr, *x), arrays, weights)
    for got, wanted in zip(found, pytorchs(lambda *x: function(torch, *x), arrays, weights), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-14)
    with jax.enable_x64(True):
        derive = jax.grad(
            lambda *x: (function(jax.numpy, *x) * weights).sum(), argnums=tuple(range(len(arrays)))
        )
        for got, wanted in zip(found, derive(*map(jax.numpy.asarray, arrays)), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "mine", "theirs", "arrays"), OF_TORCH, ids=lambda each: each if isinstance(each, str) else ""
)
def test_conventions_of_pytorch(name: str, mine: Any, theirs: Any, arrays: tuple[Any, ...]) -> None:
    weights = weights_for(mine, arrays)
    found = zip(ours(mine, arrays, weights), pytorchs(theirs, arrays, weights), strict=True)
    for got, wanted in found:
        np.testing.assert_allclose(got, wanted, rtol=1e-13)


def test_extremes_share_their_derivative_in_jax_too() -> None:
    jax = pytest.importorskip("jax")
    for mine, theirs in ((cr.max, jax.numpy.max), (cr.min, jax.numpy.min)):
        (found,) = ours(lambda x, f=mine: f(x, axis=1), (ROWS,), np.ones(3))
        with jax.enable_x64(True):
            wanted = jax.grad(lambda x, f=theirs: f(x, axis=1).sum())(jax.numpy.asarray(ROWS))
        np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_random_bits_are_those_of_jax() -> None:
    """Threefry over the counters 0 … n-1, as JAX drew before it partitioned them (an even number)."""
    jax = pytest.importorskip("jax")
    key = np.array([5, 77], np.uint32)
    threefry = pytest.importorskip("jax.extend.random").threefry_2x32
    theirs = threefry(jax.numpy.asarray(key), jax.numpy.arange(1000, dtype=np.uint32))
    np.testing.assert_array_equal(cr.random.bits(cr.asarray(key), (1000,)).numpy(), theirs)
    folded = jax.random.fold_in(jax.random.wrap_key_data(jax.numpy.asarray(key)), 123)
    np.testing.assert_array_equal(
        cr.random.fold_in(cr.asarray(key), 123).numpy(), jax.random.key_data(folded)
    )
