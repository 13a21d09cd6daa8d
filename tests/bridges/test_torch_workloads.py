"""The raced networks are PyTorch's: loss and gradients of one batch in float64, weights copied, to 1e-10.

Both sides sum the same terms in other orders; a few hundred roundings of 1e-16 stay far below that.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from benchmarks import specs, workloads

torch = pytest.importorskip("torch")
pytorch = pytest.importorskip("benchmarks.peers.pytorch")

TOLERANCE = 1e-10
ROWS = {"D": 32, "G": 16, "H": 4}  # of a batch; enough to use every parameter


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


Batch = tuple[Any, Any]


def batch_of(spec: specs.Spec) -> Batch:
    """Inputs and targets of one batch, as the workload's data are."""
    X, y = specs.data(spec)
    rows = specs.Order(spec).next()[: ROWS.get(spec.name)]
    return specs.windows(spec, X, rows) if y is None else (X[rows], y[rows])


def in_dtype(batch: Batch, dtype: Any) -> Batch:
    inputs, targets = (each if each.dtype.kind == "i" else each.astype(dtype) for each in batch)
    return inputs, targets


def of_torch(spec: specs.Spec, network: Any, batch: Batch) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of a PyTorch network."""
    x, t = (torch.tensor(each) for each in batch)
    value = pytorch.loss_of(spec)(network(x), t.flatten() if spec.kind == "gpt" else t)
    value.backward()
    return value.item(), {path: each.grad.numpy() for path, each in network.named_parameters()}


def of_chainrule(spec: specs.Spec, network: Any, batch: Batch) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of ours, compiled by the default backend."""
    loss = workloads.loss_of(spec)
    x, t = map(cr.asarray, batch)
    value, gradients = cr.compile(cr.value_and_grad(lambda model: loss(model(x), t)))(network)
    return float(value), {path: np.asarray(each) for path, each in gradients.items()}


@pytest.mark.parametrize("name", specs.WORKLOADS)
def test_loss_and_gradients(name: str) -> None:
    spec = specs.find(name)
    theirs, ours = pytorch.model_of(spec).double(), workloads.model_of(spec).double()
    ours.load_state_dict(theirs.state_dict())
    batch = in_dtype(batch_of(spec), np.float64)
    expected, right = of_torch(spec, theirs, batch)
    value, gradients = of_chainrule(spec, ours, batch)
    assert value == pytest.approx(expected, rel=TOLERANCE)
    for path, gradient in gradients.items():
        assert np.abs(gradient - right[path]).max() <= TOLERANCE * np.abs(right[path]).max(), path


@pytest.mark.parametrize("name", specs.WORKLOADS)
def test_gradients_in_single_precision(name: str) -> None:
    """As near to float64's as 1e-5 of their norm, or twice as far as PyTorch's own."""
    spec = specs.find(name)
    double = pytorch.model_of(spec).double()
    single, ours = pytorch.model_of(spec), workloads.model_of(spec)
    for each in (single, ours):
        each.load_state_dict({path: value.float() for path, value in double.state_dict().items()})
    double.load_state_dict({path: value.double() for path, value in single.state_dict().items()})
    batch = batch_of(spec)
    _, exact = of_torch(spec, double, in_dtype(batch, np.float64))
    _, theirs = of_torch(spec, single.float(), in_dtype(batch, np.float32))
    _, gradients = of_chainrule(spec, ours, in_dtype(batch, np.float32))
    for path, gradient in gradients.items():
        norm = np.linalg.norm(exact[path])
        error, peers = (np.linalg.norm(each - exact[path]) / norm for each in (gradient, theirs[path]))
        assert error <= max(1e-5, 2 * peers), f"{path}: {error:.2e}, PyTorch's {peers:.2e}"
