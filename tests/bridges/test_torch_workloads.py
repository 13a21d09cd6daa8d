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


@pytest.mark.parametrize("name", specs.WORKLOADS)
def test_loss_and_gradients(name: str) -> None:
    spec = specs.find(name)
    X, y = specs.data(spec)
    rows = specs.Order(spec).next()[: ROWS.get(name)]
    x, t = specs.windows(spec, X, rows) if y is None else (X[rows], y[rows])
    x, t = (each if each.dtype.kind == "i" else each.astype(np.float64) for each in (x, t))
    theirs = pytorch.model_of(spec).double()
    ours = workloads.model_of(spec).double()
    ours.load_state_dict(theirs.state_dict())

    expected = pytorch.loss_of(spec)(theirs(torch.tensor(x)), torch.tensor(t.ravel() if y is None else t))
    expected.backward()
    loss = workloads.loss_of(spec)

    def objective(network: Any) -> Any:
        return loss(network(cr.asarray(x)), cr.asarray(t))

    value, gradients = cr.compile(cr.value_and_grad(objective))(ours)
    assert float(value) == pytest.approx(expected.item(), rel=TOLERANCE)
    for path, parameter in theirs.named_parameters():
        right = parameter.grad.numpy()
        error = np.abs(np.asarray(gradients[path]) - right).max()
        assert error <= TOLERANCE * np.abs(right).max(), path
