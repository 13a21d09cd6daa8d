"""Attention: what it means in the corners, and what it refuses. PyTorch's numbers: tests/bridges."""

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import ChainruleError, DTypeError, RecipeError, ShapeError
from chainrule.nn.functional import scaled_dot_product_attention

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 3))


def test_equal_scores_give_the_mean_of_the_values_seen() -> None:
    found = scaled_dot_product_attention(np.zeros_like(X), X, X, is_causal=True)
    expected = np.cumsum(X, axis=1) / np.arange(1, 5)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_causal_query_does_not_feel_later_positions() -> None:
    changed = X.copy()
    changed[:, 2:] += 100.0
    before = scaled_dot_product_attention(X, X, X, is_causal=True).numpy()
    after = scaled_dot_product_attention(changed, changed, changed, is_causal=True).numpy()
    assert np.array_equal(before[:, :2], after[:, :2])


def test_a_query_that_sees_nothing_gets_zeros_and_sends_no_gradient() -> None:
    q = cr.asarray(X)
    seen = np.array([True, False, True, True])[:, None]
    out = scaled_dot_product_attention(q, X, X, attn_mask=seen)
    cr.sum(out * out).backward()
    assert q.grad is not None
    assert not out.numpy()[:, 1].any()
    assert not q.grad.numpy()[:, 1].any()
    assert np.isfinite(q.grad.numpy()).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_enormous_scores_stay_finite(dtype: Any) -> None:
    q = cr.asarray((X * 1e15).astype(dtype))
    out = scaled_dot_product_attention(q, q, q, is_causal=True)
    assert out.dtype == dtype
    assert np.isfinite(out.numpy()).all()


def test_dropped_weights_keep_their_mean() -> None:
    ones = np.ones((1, 400, 1), np.float32)
    with cr.random.stream(cr.random.key(3)):
        out = scaled_dot_product_attention(ones, ones, ones, dropout_p=0.25).numpy()
    assert out.std() > 0
    assert out.mean() == pytest.approx(1.0, abs=5 * np.sqrt(1 / 3 / 400**2))


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ((X, X[..., :2], X), {}, ShapeError, r"\(\.\.\., L, E\).*\(2, 4, 3\), \(2, 4, 2\)"),
        ((X, X, X[:, :3]), {}, ShapeError, r"\(2, 3, 3\)"),
        ((X[0, 0], X, X), {}, ShapeError, r"\(3,\)"),
        ((X.astype(int), X, X), {}, DTypeError, "floating-point.*int64"),
        ((X, X, X), {"attn_mask": np.ones((4, 4), int)}, DTypeError, "attn_mask is int64"),
        ((X, X, X), {"attn_mask": np.ones((4, 4), bool), "is_causal": True}, RecipeError, "not both"),
    ],
)
def test_what_does_not_fit_is_refused(
    given: Any, options: dict[str, Any], error: type[ChainruleError], message: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}") as caught:
        scaled_dot_product_attention(*given, **options)
    assert "test_nn_attention.py" in str(caught.value)
