"""Losses: shapes they refuse, conversions they make, known values."""

import math
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.errors import BoundsError, DTypeError, ShapeError
from chainrule.nn import functional

ELEMENTWISE = [
    functional.mse_loss,
    functional.l1_loss,
    functional.huber_loss,
    functional.smooth_l1_loss,
    functional.binary_cross_entropy_with_logits,
    functional.poisson_nll_loss,
]


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_a_column_and_a_row_are_not_broadcast_against_each_other(loss: Any) -> None:
    expected = r"prediction has shape \(4, 1\) and the target \(4,\).*target.reshape\(4, 1\)"
    with pytest.raises(ShapeError, match=expected) as caught:
        loss(cr.zeros((4, 1)), cr.ones(4))
    assert "test_nn_losses.py" in str(caught.value)
    assert loss.__name__ in str(caught.value)
    with pytest.raises(ShapeError, match="element by element"):
        loss(cr.zeros((4, 2)), cr.ones(4))
    with pytest.raises(ShapeError, match=r"prediction has shape \(4, 1\)"):
        cr.compile(loss)(cr.zeros((4, 1)), cr.ones(4))


@pytest.mark.parametrize("loss", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_integer_and_boolean_targets_take_the_dtype_of_the_prediction(loss: Any, dtype: Any) -> None:
    prediction = cr.asarray(np.array([0.5, -1.0, 2.0], dtype))
    wanted = loss(prediction, cr.asarray(np.array([1.0, 0.0, 1.0], dtype)))
    for kind in (np.int64, np.uint8, bool):
        found = loss(prediction, np.array([1, 0, 1]).astype(kind))
        assert found.dtype == dtype
        assert found.item() == wanted.item()


def test_two_floating_dtypes_do_not_mix() -> None:
    with pytest.raises(DTypeError, match="float32 meets float64"):
        functional.mse_loss(cr.zeros(2), cr.asarray(np.zeros(2)))


def test_known_values() -> None:
    x = cr.asarray(np.array([0.0, 3.0]))
    y = cr.asarray(np.array([0.5, 1.0]))
    assert functional.mse_loss(x, y).item() == pytest.approx((0.25 + 4) / 2)
    assert functional.l1_loss(x, y, "sum").item() == pytest.approx(2.5)
    assert functional.huber_loss(x, y, "none").tolist() == pytest.approx([0.125, 1.5])
    assert functional.smooth_l1_loss(x, y, "none", beta=0.5).tolist() == pytest.approx([0.25, 1.75])
    surprise = [math.log(2), -0.0 + math.log1p(math.exp(3.0)) - 3.0]
    found = functional.binary_cross_entropy_with_logits(x, cr.asarray(np.ones(2)), reduction="none")
    assert found.tolist() == pytest.approx(surprise)
    counts = functional.poisson_nll_loss(x, cr.asarray(np.array([2.0, 1.0])), reduction="none")
    assert counts.tolist() == pytest.approx([1.0, math.exp(3) - 3])


def surprise(logits: Any) -> Any:
    """Minus the logarithm of the softmax along axis 1, as in the textbook."""
    return -np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


LOGITS = np.random.default_rng(0).normal(size=(5, 3))
TARGET = np.array([0, 2, 1, 1, 2])
WEIGHT = np.array([0.5, 1.0, 3.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_follows_its_formula(smoothing: float) -> None:
    wanted = (1 - smoothing) * np.eye(3)[TARGET] + smoothing / 3
    rows = (wanted * WEIGHT * surprise(LOGITS)).sum(axis=1)
    x = cr.asarray(LOGITS)
    numbered = nn.CrossEntropyLoss(WEIGHT, label_smoothing=smoothing)
    assert numbered(x, TARGET).item() == pytest.approx(rows.sum() / WEIGHT[TARGET].sum(), rel=1e-13)
    each = nn.CrossEntropyLoss(WEIGHT, reduction="none", label_smoothing=smoothing)
    np.testing.assert_allclose(each(x, TARGET), rows, rtol=1e-13)
    np.testing.assert_allclose(each(x, np.eye(3)[TARGET]), rows, rtol=1e-13)  # the same as probabilities
    average = nn.CrossEntropyLoss(WEIGHT, label_smoothing=smoothing)(x, np.eye(3)[TARGET])
    assert average.item() == pytest.approx(rows.mean(), rel=1e-13)


def test_nll_is_cross_entropy_after_log_softmax() -> None:
    logs = functional.log_softmax(cr.asarray(LOGITS), dim=1)
    for options in ({}, {"weight": WEIGHT}, {"ignore_index": 1}, {"weight": WEIGHT, "ignore_index": 2}):
        expected = nn.CrossEntropyLoss(**options)(cr.asarray(LOGITS), TARGET).item()
        assert nn.NLLLoss(**options)(logs, TARGET).item() == pytest.approx(expected, rel=1e-13)


def test_modules_keep_the_options_of_the_functions() -> None:
    x, y = cr.asarray(LOGITS), np.abs(np.random.default_rng(1).normal(size=(5, 3)))
    z = LOGITS
    expected = {
        nn.MSELoss("sum"): ((z - y) ** 2).sum(),
        nn.L1Loss(): np.abs(z - y).mean(),
        nn.HuberLoss(delta=0.5): np.where(
            np.abs(z - y) < 0.5, (z - y) ** 2 / 2, 0.5 * np.abs(z - y) - 0.125
        ).mean(),
        nn.SmoothL1Loss(beta=0.0): np.abs(z - y).mean(),
        nn.BCEWithLogitsLoss(weight=[1.0, 2.0, 0.5], pos_weight=[2.0, 1.0, 4.0]): (
            np.array([1.0, 2.0, 0.5])
            * (np.array([2.0, 1.0, 4.0]) * y * np.log1p(np.exp(-z)) + (1 - y) * np.log1p(np.exp(z)))
        ).mean(),
        nn.PoissonNLLLoss(log_input=False, full=True): (
            y - (4 * y) * np.log(y + 1e-8) + stirling(4 * y)
        ).mean(),
    }  # fmt: skip
    for loss, value in expected.items():
        given = (cr.asarray(y), 4 * y) if isinstance(loss, nn.PoissonNLLLoss) else (x, y)
        assert loss(*given).item() == pytest.approx(value, rel=1e-13), loss


def stirling(count: Any) -> Any:
    safe = np.maximum(count, 1)
    return np.where(count > 1, safe * np.log(safe) - safe + 0.5 * np.log(2 * math.pi * safe), 0)


def test_bce_keeps_its_digits_where_the_answer_is_sure() -> None:
    loss = functional.binary_cross_entropy_with_logits
    x = cr.asarray(np.array([40.0, 800.0, -40.0]))
    y = cr.asarray(np.array([1.0, 1.0, 0.0]))
    assert loss(x, y, reduction="none").tolist() == pytest.approx([math.exp(-40), 0.0, math.exp(-40)])
    gradient = cr.grad(lambda x: loss(x, y, reduction="sum"))(x)
    assert gradient.tolist() == pytest.approx([-math.exp(-40), 0.0, math.exp(-40)])


@pytest.mark.parametrize(
    ("inputs", "target", "error", "message"),
    [
        (
            (3, 4),
            np.zeros((3, 1), np.int64),
            ShapeError,
            r"target needs shape \(3,\), not \(3, 1\).*target.reshape\(3,\)",
        ),
        ((3, 4), np.zeros(4, np.int64), ShapeError, r"needs shape \(3,\), not \(4,\)"),
        ((3, 4), np.zeros(3, bool), DTypeError, "class numbers.*not bool"),
        ((3, 4), np.array([0, 4, 1]), BoundsError, "4 classes, numbered 0 to 3, but the input holds 4"),
        ((3, 4), np.array([0, -1, 1]), BoundsError, "holds -1"),
        (
            (3, 4),
            np.zeros(3, np.float32),
            ShapeError,
            r"probability per class.*\(3, 4\), not \(3,\).*astype\('int64'\)",
        ),
        ((), np.int64(0), ShapeError, "needs an axis of classes"),
    ],
)
def test_targets_that_do_not_fit_the_classes_are_refused(
    inputs: tuple[int, ...], target: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        functional.cross_entropy(cr.zeros(inputs), target)
    assert "test_nn_losses.py" in str(caught.value)


def test_class_weights_must_be_one_per_class() -> None:
    with pytest.raises(ShapeError, match=r"there are 4 classes, so weight needs shape \(4,\), not \(3,\)"):
        functional.cross_entropy(cr.zeros((2, 4)), cr.asarray([0, 1]), weight=[1.0, 1.0, 1.0])


def test_weights_may_be_plain_lists_and_follow_the_model_to_float64() -> None:
    loss = nn.CrossEntropyLoss(weight=[1.0, 3.0])
    assert list(loss.state_dict()) == ["weight"]
    assert loss(cr.zeros((2, 2)), cr.asarray([0, 1])).dtype == np.float32
    assert loss(cr.asarray(np.zeros((2, 2))), cr.asarray([0, 1])).dtype == np.float64
    assert loss.double().weight.dtype == np.float64


def test_a_promise_that_nothing_is_ignored_makes_a_smaller_graph_with_the_same_value() -> None:
    logits, target = cr.asarray(np.arange(6.0).reshape(2, 3)), cr.asarray([2, 0])
    careful = cr.compile(functional.cross_entropy)
    trusting = cr.compile(lambda x, t: functional.cross_entropy(x, t, ignore_index=None))
    assert careful(logits, target).item() == pytest.approx(trusting(logits, target).item(), rel=1e-15)
    assert len(trusting.show().splitlines()) < len(careful.show().splitlines())


def test_one_hot_needs_to_know_the_classes() -> None:
    assert functional.one_hot(cr.asarray([1]), 3).tolist() == [[0, 1, 0]]
    with pytest.raises(BoundsError, match="2 classes, numbered 0 to 1"):
        functional.one_hot(cr.asarray([2]), 2)
    with pytest.raises(ShapeError, match="pass num_classes"):
        cr.compile(functional.one_hot)(cr.asarray([1]))


def test_repr_shows_the_options() -> None:
    assert repr(nn.HuberLoss(delta=2.0)) == "HuberLoss(reduction='mean', delta=2.0)"
    assert repr(nn.CrossEntropyLoss(weight=[1.0])) == (
        "CrossEntropyLoss(reduction='mean', ignore_index=-100, label_smoothing=0.0)"
    )
