"""Attention against PyTorch's: output and every gradient in float64, to 1e-10 of the largest element."""

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.nn.functional import scaled_dot_product_attention

torch = pytest.importorskip("torch")
reference = torch.nn.functional.scaled_dot_product_attention

TOLERANCE = 1e-10
L, S, E, V = 5, 7, 4, 3
MASK = np.random.default_rng(9).random((2, 1, L, S)) < 0.5
MASK[0, 0, 2] = False  # a query that sees nothing
FLOATS = np.random.default_rng(8).normal(size=(L, S))
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "boolean mask": {"attn_mask": MASK},
    "added mask": {"attn_mask": FLOATS},
    "causal and scale": {"is_causal": True, "scale": 2.0},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("leading", [(2, 3), (2, 1)], ids=str)
def test_attention(option: str, leading: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    shapes = ((2, 3, L, E), (*leading, S, E), (*leading, S, V))
    arrays = [rng.normal(size=shape) * 3 for shape in shapes]
    ours = [cr.asarray(each) for each in arrays]
    theirs = [torch.tensor(each, requires_grad=True) for each in arrays]
    torch_options = {
        name: torch.tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in OPTIONS[option].items()
    }
    out, expected = (
        scaled_dot_product_attention(*ours, **OPTIONS[option]),
        reference(*theirs, **torch_options),
    )
    cotangent = rng.normal(size=expected.shape)
    cr.sum(out * cotangent).backward()
    (expected * torch.tensor(cotangent)).sum().backward()
    pairs = [(out, expected), *((x.grad, y.grad) for x, y in zip(ours, theirs, strict=True))]
    for found, right in pairs:
        right = right.detach().numpy()
        atol = TOLERANCE * np.abs(right).max()
        np.testing.assert_allclose(np.asarray(found), right, rtol=0, atol=atol)


def test_one_row_without_leading_axes() -> None:
    x = np.random.default_rng(1).normal(size=(6, 2))
    right = reference(*[torch.tensor(x)] * 3, is_causal=True).numpy()
    np.testing.assert_allclose(scaled_dot_product_attention(x, x, x, is_causal=True), right, atol=TOLERANCE)
