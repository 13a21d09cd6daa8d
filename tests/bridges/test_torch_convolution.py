"""Convolutions and pools against PyTorch's in float64: values, gradients, second derivatives, state_dicts.

Equal to 1e-10 of the largest element: the same sums of products in another order, of some thousand terms at
most, differ by about 1e-13.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.nn import functional

torch = pytest.importorskip("torch")
theirs = torch.nn.functional

TOLERANCE = 1e-10
Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def assert_close(ours: Any, reference: Any, what: str) -> None:
    ours, wanted = np.asarray(ours), reference.detach().numpy()
    assert ours.shape == wanted.shape, what
    allowed = TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=allowed, err_msg=what)


def compare(ours: Callable[..., Any], reference: Callable[..., Any], *arrays: Array) -> None:
    """The value of a function, the gradients of a weighted sum of its squares, and gradients of those."""
    tensors = [torch.tensor(each, requires_grad=True) for each in arrays]
    value = reference(*tensors)
    weights = numbers(*value.shape, seed=1)
    gradients = torch.autograd.grad((value**2 * torch.tensor(weights)).sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum((each**2).sum() for each in gradients), tensors)

    def loss(*given: Any) -> Any:
        return cr.sum(ours(*given) ** 2 * weights)

    def of_gradients(*given: Any) -> Any:
        return sum(cr.sum(each**2) for each in cr.grad(loss, argnums=every)(*given))

    every, given = tuple(range(len(arrays))), [cr.asarray(each) for each in arrays]
    assert_close(ours(*given), value, "value")
    for k, (got, wanted) in enumerate(zip(cr.grad(loss, argnums=every)(*given), gradients, strict=True)):
        assert_close(got, wanted, f"gradient by argument {k}")
    for k, (got, wanted) in enumerate(zip(cr.grad(of_gradients, argnums=every)(*given), second, strict=True)):
        assert_close(got, wanted, f"second derivative by argument {k}")


# -- convolutions ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((2, 3, 6, 5), (4, 3, 3, 2), {}),
        ((2, 3, 6, 5), (4, 3, 3, 2), {"stride": 2}),
        ((2, 3, 7, 8), (4, 3, 3, 3), {"stride": (3, 2), "padding": (2, 1)}),
        ((2, 2, 7, 9), (3, 2, 2, 3), {"dilation": (2, 3), "padding": 1}),
        ((2, 2, 9, 9), (3, 2, 3, 2), {"dilation": 2, "stride": (2, 3), "padding": (3, 0)}),
        ((2, 4, 5, 5), (6, 2, 3, 3), {"groups": 2, "padding": 1}),
        ((2, 3, 6, 4), (6, 1, 2, 3), {"groups": 3, "stride": 2, "dilation": (2, 1)}),
        ((2, 3, 5, 6), (4, 3, 3, 4), {"padding": "same"}),
        ((2, 3, 5, 6), (4, 3, 2, 2), {"padding": "same", "dilation": (1, 3)}),
        ((2, 3, 5, 6), (4, 3, 3, 4), {"padding": "valid"}),
        ((3, 5, 6), (4, 3, 2, 2), {"padding": 1}),
        ((2, 3, 4, 4), (2, 3, 1, 1), {"stride": 3, "padding": 2}),
        ((2, 3, 4, 3), (5, 3, 4, 3), {}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding=.same:UserWarning")  # PyTorch about its own speed
def test_conv2d(x: tuple[int, ...], w: tuple[int, ...], options: dict[str, Any]) -> None:
    compare(
        lambda *given: functional.conv2d(*given, **options),
        lambda *given: theirs.conv2d(*given, **options),
        numbers(*x),
        numbers(*w, seed=2),
        numbers(w[0], seed=3),
    )


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((2, 3, 9), (4, 3, 3), {}),
        ((2, 4, 9), (2, 2, 3), {"groups": 2, "stride": 2, "padding": 2}),
        ((2, 3, 9), (4, 3, 2), {"dilation": 3, "padding": "same"}),
        ((3, 9), (4, 3, 2), {"stride": (3,)}),
    ],
    ids=str,
)
def test_conv1d(x: tuple[int, ...], w: tuple[int, ...], options: dict[str, Any]) -> None:
    compare(
        lambda *given: functional.conv1d(*given, **options),
        lambda *given: theirs.conv1d(*given, **options),
        numbers(*x),
        numbers(*w, seed=2),
    )


# -- pools -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 3, 6, 8), {"kernel_size": 2}),
        ((2, 3, 7, 8), {"kernel_size": (3, 2)}),
        ((3, 7, 8), {"kernel_size": 2}),
        ((2, 3, 7, 8), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((2, 3, 7, 8), {"kernel_size": 2, "stride": (1, 3)}),
        ((2, 3, 7, 8), {"kernel_size": 2, "ceil_mode": True}),
        ((2, 3, 7, 8), {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True}),
        ((3, 7, 8), {"kernel_size": (2, 4), "stride": (3, 2), "padding": (1, 2), "ceil_mode": True}),
        ((1, 1, 2, 2), {"kernel_size": 1, "stride": 3, "ceil_mode": True}),
    ],
    ids=str,
)
def test_pools_of_images(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    x = numbers(*shape)
    compare(lambda x: functional.max_pool2d(x, **options), lambda x: theirs.max_pool2d(x, **options), x)
    for count in (True, False):
        averaged = {**options, "count_include_pad": count}
        compare(
            lambda x, o=averaged: functional.avg_pool2d(x, **o),
            lambda x, o=averaged: theirs.avg_pool2d(x, **o),
            x,
        )


def test_max_pools_take_a_dilation() -> None:
    options = {"kernel_size": (2, 3), "stride": 2, "padding": 1, "dilation": (3, 2), "ceil_mode": True}
    compare(
        lambda x: functional.max_pool2d(x, **options),
        lambda x: theirs.max_pool2d(x, **options),
        numbers(2, 2, 8, 9),
    )


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3}, {"kernel_size": 4, "stride": 2, "padding": 2}], ids=str
)
def test_pools_of_series(options: dict[str, Any]) -> None:
    x = numbers(2, 3, 10)
    compare(lambda x: functional.max_pool1d(x, **options), lambda x: theirs.max_pool1d(x, **options), x)
    compare(lambda x: functional.avg_pool1d(x, **options), lambda x: theirs.avg_pool1d(x, **options), x)


@pytest.mark.parametrize("size", [1, (2, 3)])
def test_adaptive_pools(size: Any) -> None:
    compare(
        lambda x: functional.adaptive_avg_pool2d(x, size),
        lambda x: theirs.adaptive_avg_pool2d(x, size),
        numbers(2, 3, 4, 6),
    )


def test_the_derivative_of_a_tie_sums_to_pytorchs() -> None:
    """Shared here, given to the first there; no more than that differs."""
    x = np.maximum(numbers(2, 2, 6, 6), 0.5)
    tensor = torch.tensor(x, requires_grad=True)
    theirs.max_pool2d(tensor, 2).sum().backward()
    found = cr.grad(lambda x: cr.sum(functional.max_pool2d(x, 2)))(cr.asarray(x))
    windows = torch.nn.functional.avg_pool2d(tensor.grad, 2)
    assert_close(functional.avg_pool2d(found, 2), windows, "sum over each window")


# -- layers ------------------------------------------------------------------------------------------------
def network(of: Any) -> Any:
    """The small CNN of the benchmarks, for 28 × 28 images."""
    return of.Sequential(
        of.Conv2d(1, 8, 3), of.ReLU(), of.MaxPool2d(2),
        of.Conv2d(8, 16, 3), of.ReLU(), of.MaxPool2d(2),
        of.Flatten(), of.Linear(400, 64), of.ReLU(), of.Linear(64, 10),
    )  # fmt: skip


def other_layers(of: Any) -> Any:
    return of.Sequential(
        of.Conv2d(1, 4, (3, 5), stride=(1, 2), padding=(1, 2), bias=False), of.Tanh(),
        of.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        of.Conv2d(4, 8, 3, padding="same", dilation=2, groups=2), of.Tanh(),
        of.MaxPool2d(3, 2, 1, ceil_mode=True), of.AdaptiveAvgPool2d(1), of.Flatten(2),
        of.Conv1d(8, 6, 1), of.AvgPool1d(1), of.MaxPool1d(1), of.Flatten(), of.Linear(6, 10),
    )  # fmt: skip


@pytest.mark.parametrize("build", [network, other_layers])
def test_networks_interchange_with_pytorch(build: Callable[[Any], Any]) -> None:
    """Weights over and back, loss and every gradient, eager and as one compiled program."""
    model, reference = build(nn).double(), build(torch.nn)
    model.load_state_dict(reference.state_dict())
    assert list(model.state_dict()) == list(reference.state_dict())
    reference.load_state_dict({path: torch.tensor(value) for path, value in model.state_dict().items()})
    images, labels = numbers(5, 1, 28, 28), np.arange(5) % 10
    loss = torch.nn.CrossEntropyLoss()(reference(torch.tensor(images)), torch.tensor(labels))
    loss.backward()

    eager = nn.CrossEntropyLoss()(model(images), labels)
    eager.backward()
    compiled = cr.compile(
        cr.value_and_grad(lambda m: nn.CrossEntropyLoss()(m(images), labels)), backend="numpy"
    )
    value, gradients = compiled(model)
    assert_close(eager, loss, "loss")
    assert_close(value, loss, "compiled loss")
    for path, parameter in reference.named_parameters():
        assert_close(dict(model.named_parameters())[path].grad, parameter.grad, path)
        assert_close(gradients[path], parameter.grad, f"compiled {path}")


def test_a_trainer_takes_the_steps_that_pytorch_takes() -> None:
    """The reference network, a few steps of Adam: more would compare which ReLU flips first."""
    model, reference = network(nn).double(), network(torch.nn)
    model.load_state_dict(reference.state_dict())
    images, labels = numbers(40, 1, 28, 28), np.arange(40) % 10
    batches = np.random.default_rng(1).permutation(40).reshape(4, 10)
    trainer = cr.Trainer(model, nn.CrossEntropyLoss(), cr.optim.Adam(lr=1e-3), backend="numpy")
    trainer.run((images, labels), 4, batches=batches)
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3)
    for rows in batches:
        optimizer.zero_grad()
        loss = torch.nn.CrossEntropyLoss()(reference(torch.tensor(images[rows])), torch.tensor(labels[rows]))
        loss.backward()
        optimizer.step()
    for path, value in reference.state_dict().items():
        assert_close(model.state_dict()[path], value, path)
