"""Second derivatives of networks against JAX's: Hessian-vector products by every parameter, in float64.

Equal to 1e-8 relative to the largest element of each array, plus 1e-14 of the largest of all: the rounding
of sums that cancel to 0, as for a bias before a BatchNorm. The networks are written once more in jax.numpy
below, so the two sides share no code but NumPy's arrays.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.nn import functional

jax = pytest.importorskip("jax")
jnp = jax.numpy

TOLERANCE = 1e-8
CANCELLATION = 1e-14
Array = np.ndarray[Any, Any]
Parameters = dict[str, Any]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


# -- the networks in jax.numpy -----------------------------------------------------------------------------
def linear(p: Parameters, name: str, x: Any) -> Any:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def normalised(x: Any, axes: Any, eps: float = 1e-5) -> Any:
    mean = jnp.mean(x, axis=axes, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, axis=axes, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + eps)


def affine(p: Parameters, name: str, x: Any) -> Any:
    return x * p[f"{name}.weight"] + p[f"{name}.bias"]


ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "ReLU": (nn.ReLU, jax.nn.relu),
    "LeakyReLU": (nn.LeakyReLU, jax.nn.leaky_relu),
    "ELU": (nn.ELU, jax.nn.elu),
    "GELU": (nn.GELU, lambda x: jax.nn.gelu(x, approximate=False)),
    "GELU tanh": (lambda: nn.GELU("tanh"), jax.nn.gelu),
    "SiLU": (nn.SiLU, jax.nn.silu),
    "Tanh": (nn.Tanh, jnp.tanh),
    "Sigmoid": (nn.Sigmoid, jax.nn.sigmoid),
    "Softplus": (nn.Softplus, jax.nn.softplus),
    "Softmax": (nn.Softmax, jax.nn.softmax),
    "LogSoftmax": (nn.LogSoftmax, jax.nn.log_softmax),
}


def perceptron(activation: Callable[[Any], Any]) -> Callable[[Parameters, Any], Any]:
    return lambda p, x: linear(p, "2", activation(linear(p, "0", x)))


def batch_normalised(p: Parameters, x: Any) -> Any:
    return linear(p, "3", jnp.tanh(affine(p, "1", normalised(linear(p, "0", x), 0))))


def layer_normalised(p: Parameters, x: Any) -> Any:
    return linear(p, "3", jnp.tanh(affine(p, "1", normalised(linear(p, "0", x), -1))))


def residual(p: Parameters, x: Any) -> Any:
    x = linear(p, "0", x)
    x = x + linear(p, "1.body.1", jax.nn.silu(x))
    return linear(p, "2", x)


def embedded(p: Parameters, x: Any) -> Any:
    return linear(p, "2", p["0.weight"][x].reshape(len(x), -1))


# -- Hessian-vector products -------------------------------------------------------------------------------
def compare(
    model: nn.Module, reference: Any, inputs: Array, target: Array, loss: Any, reference_loss: Any
) -> None:
    """Hessian times a direction, by all parameters, two ways in ours: reverse over reverse, and compiled."""
    model.double()
    values = {path: value.numpy() for path, value in model.state_dict().items()}
    parameters = {path: values[path] for path, _ in model.named_parameters()}
    direction = {path: numbers(*value.shape, seed=7) for path, value in parameters.items()}
    x, y = cr.asarray(inputs), cr.asarray(target)

    def slope(m: nn.Module) -> Any:
        gradients = cr.grad(lambda inner: loss(inner(x), y))(m)
        return sum(cr.sum(gradients[path] * direction[path]) for path in gradients)

    ours = cr.grad(slope)(model)
    compiled = cr.compile(lambda: cr.grad(slope)(model))()
    gradient = jax.grad(lambda p: reference_loss(reference(p, inputs), target))
    _, theirs = jax.jvp(gradient, (parameters,), (direction,))
    assert list(ours) == list(parameters)
    largest = {path: float(np.abs(expected).max()) for path, expected in theirs.items()}
    for path, expected in theirs.items():
        allowed = TOLERANCE * largest[path] + CANCELLATION * max(largest.values())
        np.testing.assert_allclose(ours[path], expected, rtol=0, atol=allowed, err_msg=path)
        np.testing.assert_allclose(compiled[path], expected, rtol=0, atol=allowed, err_msg=f"compiled {path}")


def cross_entropy(logits: Any, target: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1))


def squared(prediction: Any, target: Any) -> Any:
    return jnp.mean((prediction - target) ** 2)


CLASSES = np.array([0, 2, 1, 2, 0, 1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_perceptron(activation: str) -> None:
    ours, theirs = ACTIVATIONS[activation]
    model = nn.Sequential(nn.Linear(4, 5), ours(), nn.Linear(5, 3))
    compare(model, perceptron(theirs), numbers(6, 4), CLASSES, nn.CrossEntropyLoss(), cross_entropy)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, Array]] = {
    "BatchNorm": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
        batch_normalised,
        numbers(6, 4),
    ),
    "LayerNorm": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)),
        layer_normalised,
        numbers(6, 4),
    ),
    "Residual": (
        lambda: nn.Sequential(
            nn.Linear(4, 5), nn.Residual(nn.Sequential(nn.SiLU(), nn.Linear(5, 5))), nn.Linear(5, 3)
        ),
        residual,
        numbers(6, 4),
    ),
    "Embedding": (
        lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 3)),
        embedded,
        np.array([[0, 1], [1, 1], [6, 2], [3, 4], [5, 0], [2, 2]]),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers(name: str) -> None:
    build, reference, inputs = NETWORKS[name]
    compare(build(), reference, inputs, CLASSES, nn.CrossEntropyLoss(), cross_entropy)


def huber(prediction: Any, target: Any) -> Any:
    size = jnp.abs(prediction - target)
    return jnp.mean(jnp.where(size < 0.5, size**2 / 2, 0.5 * (size - 0.25)))


def binary(logits: Any, target: Any) -> Any:
    return -jnp.mean(2.0 * target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits))


def poisson(logits: Any, target: Any) -> Any:
    return jnp.mean(jnp.exp(logits) - target * logits)


def smoothed(logits: Any, target: Any) -> Any:
    wanted = 0.8 * jax.nn.one_hot(target, 3) + 0.2 / 3
    return -jnp.mean(jnp.sum(wanted * jax.nn.log_softmax(logits), axis=1))


LOSSES: dict[str, tuple[Any, Any, Array]] = {
    "mse": (nn.MSELoss(), squared, numbers(6, 3, seed=1)),
    "huber": (nn.HuberLoss(delta=0.5), huber, numbers(6, 3, seed=1)),
    "bce": (nn.BCEWithLogitsLoss(pos_weight=2.0), binary, np.round(np.random.default_rng(1).random((6, 3)))),
    "poisson": (nn.PoissonNLLLoss(), poisson, np.arange(18.0).reshape(6, 3)),
    "smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), smoothed, CLASSES),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    loss, reference_loss, target = LOSSES[name]
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    compare(model, perceptron(jnp.tanh), numbers(6, 4), target, loss, reference_loss)


def test_hessian_by_the_input_of_softmax_cross_entropy() -> None:
    logits = numbers(4, 3)
    target = np.array([0, 2, 1, 1])
    ours = cr.hessian(lambda x: functional.cross_entropy(x, target))(cr.asarray(logits))
    theirs = jax.hessian(lambda x: cross_entropy(x, target))(logits)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
