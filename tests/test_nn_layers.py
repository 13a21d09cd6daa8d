"""Layers: what they do that PyTorch's comparison cannot show: errors, randomness, tracing, initial values."""

import math
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.errors import BoundsError, DTypeError, RecipeError, ShapeError
from chainrule.nn import functional

Array = np.ndarray[Any, Any]


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def seeded(build: Any, seed: int = 0) -> Any:
    with cr.random.stream(cr.random.key(seed)):
        return build()


# -- initial values ----------------------------------------------------------------------------------------
def test_linear_starts_uniform_in_one_over_root_of_its_inputs() -> None:
    layer = seeded(lambda: nn.Linear(400, 300))
    for values in (layer.weight.numpy(), layer.bias.numpy()):
        assert np.abs(values).max() <= 1 / 20
        # The mean square of n uniforms in ±b has mean b²/3 and standard deviation 2b²/(3 sqrt(5 n)).
        allowed = 5 * 2 / (3 * np.sqrt(5 * values.size)) / 400
        assert np.mean(values**2) == pytest.approx(1 / 400 / 3, abs=allowed)


def test_embedding_starts_standard_normal_and_its_padding_at_zero() -> None:
    layer = seeded(lambda: nn.Embedding(500, 40, padding_idx=-1))
    assert layer.padding_idx == 499
    assert not layer.weight.numpy()[499].any()
    drawn = layer.weight.numpy()[:499]
    assert drawn.mean() == pytest.approx(0, abs=5 / np.sqrt(drawn.size))
    assert drawn.var() == pytest.approx(1, abs=5 * np.sqrt(2 / drawn.size))


def test_a_seed_decides_the_initial_values() -> None:
    cr.random.seed(3)
    first = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    cr.random.seed(3)
    second = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert first[0].weight.tolist() == second[0].weight.tolist()
    assert first[0].weight.tolist() != first[1].weight.tolist()


def test_layers_can_be_made_in_float64() -> None:
    layers = (nn.Linear(2, 2, dtype=np.float64), nn.Embedding(2, 2, dtype=np.float64))
    norms = (nn.BatchNorm1d(2, dtype=np.float64), nn.LayerNorm(2, dtype=np.float64))
    assert all(cell.dtype == np.float64 for layer in (*layers, *norms) for cell in layer.parameters())


# -- what they refuse --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("layer", "given", "error", "message"),
    [
        (nn.Linear(3, 1), np.ones((2, 3), np.int64), DTypeError, r"floating-point.*int64\[2,3\].*astype"),
        (nn.Linear(3, 1), np.float32(1), ShapeError, r"takes 3 features along the last axis.*\(\)"),
        (nn.Embedding(3, 1), np.ones(2, np.float32), DTypeError, r"category numbers.*float32\[2\]"),
        (nn.Embedding(3, 1), np.array([0, 3]), BoundsError, r"3 categories, numbered 0 to 2, but.*holds 3"),
        (nn.Embedding(3, 1), np.array([0, -1]), BoundsError, r"holds -1"),
        (
            nn.BatchNorm1d(3),
            np.ones((2, 4), np.float32),
            ShapeError,
            r"\(rows, 3\) or \(rows, 3, length\).*\(2, 4\)",
        ),
        (nn.BatchNorm1d(3), np.ones(3, np.float32), ShapeError, r"\(rows, 3\).*\(3,\)"),
        (
            nn.BatchNorm1d(3),
            np.ones((1, 3), np.float32),
            ShapeError,
            r"batch with 1 value per channel.*eval\(\)",
        ),
        (nn.LayerNorm(3), np.ones((2, 4), np.float32), ShapeError, r"last axes of shape \(3,\).*\(2, 4\)"),
        (nn.LayerNorm((2, 3)), np.ones(3, np.float32), ShapeError, r"last axes of shape \(2, 3\).*\(3,\)"),
        (nn.Flatten(2, 1), np.ones((2, 3, 4), np.float32), ShapeError, "axis 2 comes after axis 1"),
    ],
)
def test_wrong_inputs_are_refused_with_layer_line_and_cure(
    layer: nn.Module, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}") as caught:
        nn.Sequential(layer)(cr.asarray(given))
    assert "test_nn_layers.py" in str(caught.value)
    assert "in layer 0" in str(caught.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Dropout(1.5), "p = 1.5 is not a probability"),
        (lambda: nn.GELU("erf"), "approximate = 'erf' is not known"),
        (lambda: nn.MSELoss("average"), "reduction = 'average' is not known"),
        (lambda: functional.huber_loss(cr.zeros(2), cr.zeros(2), delta=0), "delta = 0 must be positive"),
        (
            lambda: functional.smooth_l1_loss(cr.zeros(2), cr.zeros(2), beta=-1),
            "beta = -1 must not be negative",
        ),
        (
            lambda: functional.cross_entropy(cr.zeros((1, 2)), cr.asarray([0]), label_smoothing=2),
            "label_smoothing = 2 is not between 0 and 1",
        ),
    ],
)
def test_wrong_options_are_refused(build: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build()


def test_padding_must_be_one_of_the_categories() -> None:
    with pytest.raises(BoundsError, match="padding_idx 4 is none of 4 categories"):
        nn.Embedding(4, 2, padding_idx=4)


def test_running_statistics_must_be_buffers() -> None:
    with pytest.raises(DTypeError, match="they must be Buffers"):
        functional.batch_norm(cr.ones((2, 2)), cr.zeros(2), cr.ones(2), training=True)


def test_mixed_precision_names_the_layer_and_the_cure() -> None:
    with pytest.raises(DTypeError, match=r"float32 meets float64.*model.double\(\)") as caught:
        nn.Sequential(nn.Linear(2, 2))(cr.asarray(np.ones((1, 2))))
    assert "in layer 0" in str(caught.value)


# -- dropout -----------------------------------------------------------------------------------------------
def test_dropout_keeps_the_expected_share_and_scales_it() -> None:
    p, n = 0.3, 100_000
    dropped = functional.dropout(cr.ones(n), p, key=cr.random.key(1)).numpy()
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.7)}
    # Binomial: standard deviation sqrt(p (1 - p) / n).
    assert np.mean(dropped == 0) == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / n))


def test_dropout_is_the_identity_in_evaluation_and_for_zero_probability() -> None:
    x = cr.asarray(numbers(3, 4))
    assert nn.Dropout(0.5).eval()(x) is x
    assert nn.Dropout(0.0)(x) is x
    assert functional.dropout(numbers(2), training=False).tolist() == numbers(2).tolist()
    assert not nn.Dropout(1.0)(x).numpy().any()


def test_the_derivative_of_dropout_is_its_mask() -> None:
    key = cr.random.key(5)
    gradient = cr.grad(lambda x: cr.sum(functional.dropout(x, 0.4, key=key)))(cr.ones(50))
    assert gradient.tolist() == functional.dropout(cr.ones(50), 0.4, key=key).tolist()


def test_one_key_gives_one_mask_eager_and_compiled_and_every_place_its_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            self.first = nn.Dropout(0.5)
            self.second = nn.Dropout(0.5)

        def forward(self, x: Any) -> Any:
            return self.first(x), self.second(x), self.first(x)

    model, x = Twice(), cr.ones((8, 8))

    def run(key: Any, x: Any) -> Any:
        with cr.random.stream(key):
            return model(x)

    eager = [each.tolist() for each in run(cr.random.key(7), x)]
    assert eager == [each.tolist() for each in run(cr.random.key(7), x)]
    compiled = cr.compile(run)
    assert eager == [each.tolist() for each in compiled(cr.random.key(7), x)]
    assert eager != [each.tolist() for each in compiled(cr.random.key(8), x)]
    first, second, again = eager
    assert first != second
    assert first != again  # drawn twice in one place: two masks


def test_without_a_stream_each_call_draws_anew_and_seed_repeats_it() -> None:
    layer, x = nn.Dropout(0.5), cr.ones(64)
    cr.random.seed(1)
    first, second = layer(x).tolist(), layer(x).tolist()
    cr.random.seed(1)
    assert first != second
    assert [first, second] == [layer(x).tolist(), layer(x).tolist()]


# -- batch normalisation -----------------------------------------------------------------------------------
def test_running_statistics_follow_the_formula() -> None:
    layer = nn.BatchNorm1d(3, momentum=0.2, dtype=np.float64)
    mean, variance = np.zeros(3), np.ones(3)
    for seed in range(3):
        batch = numbers(5, 3, seed=seed).astype(np.float64)
        layer(cr.asarray(batch))
        mean = 0.8 * mean + 0.2 * batch.mean(axis=0)
        variance = 0.8 * variance + 0.2 * batch.var(axis=0, ddof=1)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-13)
    np.testing.assert_allclose(layer.running_var, variance, rtol=1e-13)
    assert layer.num_batches_tracked.item() == 3


def test_no_derivative_flows_into_running_statistics_and_evaluation_leaves_them() -> None:
    layer = nn.BatchNorm1d(2).eval()
    before = layer.state_dict()
    x = cr.asarray(numbers(4, 2))
    np.testing.assert_allclose(layer(x), x.numpy() / np.sqrt(1 + 1e-5), rtol=1e-6)
    assert all(np.array_equal(layer.state_dict()[path], value) for path, value in before.items())
    layer.train()
    gradients = cr.grad(lambda m: cr.sum(m(x) ** 2))(layer)
    assert list(gradients) == ["weight", "bias"]
    assert layer.num_batches_tracked.item() == 1


# -- eager and traced --------------------------------------------------------------------------------------
NETWORKS: dict[str, Any] = {
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ELU(), nn.Linear(3, 2)),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.4), nn.SiLU(), nn.Linear(3, 2)),
    "residual": lambda: nn.Sequential(nn.Residual(nn.Linear(4, 4)), nn.LeakyReLU(), nn.Linear(4, 2)),
}


@pytest.mark.parametrize(("backend", "tolerance"), [("numpy", 0.0), ("native", 1e-13)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_traced_step_is_the_eager_step(name: str, backend: str, tolerance: float) -> None:
    """The reference gives the same bits; native code fuses and reorders, within rounding.

    Every number here is made by fewer than 100 operations on numbers of about one: 100 roundings of float64
    are 1.1e-14, ten times that covers the condition of the normalisations.
    """
    eager, traced = seeded(NETWORKS[name]).double(), seeded(NETWORKS[name]).double()
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def step(model: nn.Module, key: Any, x: Any, y: Any) -> Any:
        with cr.random.stream(key):
            return cr.value_and_grad(lambda m: loss(m(x), y))(model)

    def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
        assert list(found) == list(expected)
        for path, value in expected.items():
            np.testing.assert_allclose(found[path], value, rtol=tolerance, atol=tolerance, err_msg=path)

    compiled = cr.compile(lambda key, x, y: step(traced, key, x, y), backend=backend)
    for count in range(3):
        x = numbers(5, 4, seed=count).astype(np.float64)
        batch = cr.random.key(count), cr.asarray(x), cr.asarray([0, 1, 1, 0, 1])
        value, gradients = step(eager, *batch)
        traced_value, traced_gradients = compiled(*batch)
        assert list(gradients) == [path for path, _ in eager.named_parameters()]
        same({"loss": traced_value, **traced_gradients}, {"loss": value, **gradients})
        same(traced.state_dict(), eager.state_dict())


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4)], ids=["dropout", "batch norm"])
def test_eval_reaches_a_function_that_was_compiled_in_training(layer: nn.Module) -> None:
    compiled, x = cr.compile(layer), cr.asarray(numbers(5, 4))
    trained = compiled(x).tolist()
    layer.eval()
    assert compiled(x).tolist() == layer(x).tolist() != trained
    layer.train()
    assert compiled(x).tolist() != layer.eval()(x).tolist()


def test_an_ignored_class_is_ignored_in_a_traced_loss_too() -> None:
    logits, target = cr.asarray(numbers(4, 3)), cr.asarray([0, -100, 2, -100])
    kept = functional.cross_entropy(logits[::2], target[::2])
    compiled = cr.compile(functional.cross_entropy)
    assert compiled(logits, target).item() == pytest.approx(kept.item(), rel=1e-6)
    assert functional.cross_entropy(logits, target).item() == pytest.approx(kept.item(), rel=1e-6)


def test_recomputed_layers_draw_the_same_numbers_and_count_the_batch_once() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Tanh())

    def step(model: nn.Module, wrap: Any) -> Any:
        with cr.random.stream(cr.random.key(3)):
            return cr.value_and_grad(lambda m: cr.sum(wrap(m)(numbers(6, 4)) ** 2))(model)

    kept, recomputed = seeded(build), seeded(build)
    value, gradients = step(kept, lambda m: m)
    again, by_path = step(recomputed, cr.checkpoint)
    assert value.item() == again.item()
    assert {path: each.tolist() for path, each in gradients.items()} == {
        path: each.tolist() for path, each in by_path.items()
    }
    for path, state in kept.state_dict().items():
        assert state.tolist() == recomputed.state_dict()[path].tolist(), path


# -- activations -------------------------------------------------------------------------------------------
FORMULAS: dict[str, tuple[nn.Module, Any]] = {
    "ReLU": (nn.ReLU(), lambda x: max(x, 0.0)),
    "LeakyReLU": (nn.LeakyReLU(0.2), lambda x: x if x > 0 else 0.2 * x),
    "ELU": (nn.ELU(1.5), lambda x: x if x > 0 else 1.5 * math.expm1(x)),
    "GELU": (nn.GELU(), lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2))),
    "GELU tanh": (
        nn.GELU("tanh"),
        lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "SiLU": (nn.SiLU(), lambda x: x / (1 + math.exp(-x))),
    "Tanh": (nn.Tanh(), math.tanh),
    "Sigmoid": (nn.Sigmoid(), lambda x: 1 / (1 + math.exp(-x))),
    "Softplus": (nn.Softplus(2.0), lambda x: math.log1p(math.exp(2 * x)) / 2 if 2 * x <= 20 else x),
    "Identity": (nn.Identity(), lambda x: x),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_follow_their_formula(name: str) -> None:
    layer, formula = FORMULAS[name]
    x = np.array([-30.0, -3.0, -0.1, 0.0, 0.1, 3.0, 30.0])
    # 0.5 x (1 + tanh) cancels for x far below 0: it has the digits of 1, not those of its value.
    np.testing.assert_allclose(layer(cr.asarray(x)), [formula(each) for each in x], rtol=1e-13, atol=1e-15)
    assert layer(cr.asarray([1, 2])).dtype in (np.float64, np.int64)  # integers as in NumPy


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax_and_its_logarithm(dim: int) -> None:
    x = numbers(3, 4).astype(np.float64)
    expected = np.exp(x) / np.exp(x).sum(axis=dim, keepdims=True)
    np.testing.assert_allclose(nn.Softmax(dim)(cr.asarray(x)), expected, rtol=1e-13)
    np.testing.assert_allclose(nn.LogSoftmax(dim)(cr.asarray(x)), np.log(expected), rtol=1e-13)


@pytest.mark.parametrize(
    "build", [nn.ELU, nn.Softplus, nn.GELU, lambda: nn.GELU("tanh"), nn.SiLU, nn.LeakyReLU]
)
def test_values_and_derivatives_are_finite_far_out(build: Any) -> None:
    x = cr.asarray([-1e4, -1e2, 0.0, 1e2, 1e4])
    assert np.isfinite(build()(x).numpy()).all()
    assert np.isfinite(cr.grad(lambda x: cr.sum(build()(x)))(x).numpy()).all()


def test_flatten() -> None:
    x = cr.asarray(numbers(2, 3, 4))
    assert nn.Flatten()(x).shape == (2, 12)
    assert nn.Flatten(0, 1)(x).shape == (6, 4)
    assert functional.flatten(x).shape == (24,)
    assert functional.flatten(cr.asarray(1.0)).shape == (1,)
    flat = cr.asarray(numbers(2, 3))
    assert nn.Flatten()(flat) is flat


def test_repr_shows_how_a_layer_was_built() -> None:
    layers = [
        nn.Embedding(3, 2, padding_idx=0), nn.BatchNorm1d(2, momentum=None), nn.Flatten(), nn.LeakyReLU(),
        nn.ELU(), nn.Softplus(), nn.Softmax(), nn.LogSoftmax(1),
    ]  # fmt: skip
    assert [repr(layer) for layer in layers] == [
        "Embedding(3, 2, padding_idx=0)",
        "BatchNorm1d(2, eps=1e-05, momentum=None, affine=True, track_running_stats=True)",
        "Flatten(start_dim=1, end_dim=-1)",
        "LeakyReLU(negative_slope=0.01)",
        "ELU(alpha=1.0)",
        "Softplus(beta=1.0, threshold=20.0)",
        "Softmax(dim=-1)",
        "LogSoftmax(dim=1)",
    ]


def test_identity_ignores_what_it_is_built_with() -> None:
    x = cr.ones(2)
    assert nn.Identity(54, unused=True)(x) is x
