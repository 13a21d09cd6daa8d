"""Initial values: moments and bounds of each distribution, orthogonality, keys, shape rules.

A mean of n draws may be off by 5 standard errors (once in two million); seeds are fixed.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.errors import ChainruleError, RecipeError, ShapeError
from chainrule.nn import init

OUT, IN = 300, 200
Array = np.ndarray[Any, Any]


def weight(*shape: int, dtype: Any = np.float64) -> nn.Parameter:
    return nn.Parameter(np.zeros(shape or (OUT, IN), dtype))


def drawn(
    function: Callable[..., Any], *arguments: Any, shape: tuple[int, ...] = (), **options: Any
) -> Array:
    result: Array = function(weight(*shape), *arguments, key=cr.random.key(11), **options).numpy()
    return result


def assert_moments(values: Array, mean: float, std: float, kurtosis: float) -> None:
    n = values.size
    assert values.mean() == pytest.approx(mean, abs=5 * std / math.sqrt(n))
    assert values.var() == pytest.approx(std**2, abs=5 * std**2 * math.sqrt((kurtosis - 1) / n))


def assert_uniform(values: Array, low: float, high: float) -> None:
    assert low <= values.min()
    assert values.max() < high
    assert_moments(values, (low + high) / 2, (high - low) / math.sqrt(12), 1.8)
    assert_evenly_spread((values - low) / (high - low))


def assert_normal(values: Array, mean: float, std: float) -> None:
    assert_moments(values, mean, std, 3.0)
    standard = (values.ravel() - mean) / std
    assert_evenly_spread(np.array([0.5 * math.erfc(-each / math.sqrt(2)) for each in standard[:20_000]]))


def assert_evenly_spread(probabilities: Array) -> None:
    """Kolmogorov and Smirnov: the largest gap to the diagonal exceeds 2.2 / sqrt(n) once in 8,000 times."""
    ordered = np.sort(probabilities.ravel())
    gap = np.abs(ordered - (np.arange(ordered.size) + 0.5) / ordered.size).max()
    assert gap < 2.2 / math.sqrt(ordered.size)


def test_plain_distributions() -> None:
    assert_uniform(drawn(init.uniform_, -1.0, 3.0), -1.0, 3.0)
    assert_normal(drawn(init.normal_, 2.0, 0.5), 2.0, 0.5)
    assert (init.constant_(weight(2, 3), 1.5).numpy() == 1.5).all()
    assert (init.ones_(weight(3)).numpy() == 1).all()
    assert not init.zeros_(init.ones_(weight(3))).numpy().any()


@pytest.mark.parametrize("gain", [1.0, 5 / 3])
def test_xavier(gain: float) -> None:
    std = gain * math.sqrt(2 / (IN + OUT))
    assert_uniform(drawn(init.xavier_uniform_, gain), -math.sqrt(3) * std, math.sqrt(3) * std)
    assert_normal(drawn(init.xavier_normal_, gain), 0, std)


@pytest.mark.parametrize(("mode", "fan"), [("fan_in", IN), ("fan_out", OUT)])
@pytest.mark.parametrize(
    ("name", "slope", "gain"), [("relu", 0, math.sqrt(2)), ("leaky_relu", 0.5, math.sqrt(1.6))]
)
def test_kaiming(mode: str, fan: int, name: str, slope: float, gain: float) -> None:
    std = gain / math.sqrt(fan)
    options = {"a": slope, "mode": mode, "nonlinearity": name}
    assert_uniform(drawn(init.kaiming_uniform_, **options), -math.sqrt(3) * std, math.sqrt(3) * std)
    assert_normal(drawn(init.kaiming_normal_, **options), 0, std)


def test_lecun() -> None:
    std = 1 / math.sqrt(IN)
    assert_uniform(drawn(init.lecun_uniform_), -math.sqrt(3) * std, math.sqrt(3) * std)
    assert_normal(drawn(init.lecun_normal_), 0, std)


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [
        (0.0, 1.0, -2.0, 2.0),
        (1.0, 0.5, 0.0, 1.2),
        (0.0, 1.0, 3.0, 4.0),
        (0.0, 1.0, -9.0, -8.0),
        (0.0, 1.0, 8.0, 9.0),
    ],
)
def test_truncated_normal(mean: float, std: float, a: float, b: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = drawn(init.trunc_normal_, mean, std, a, b)
    assert a <= values.min()
    assert values.max() <= b
    expected = stats.truncnorm((a - mean) / std, (b - mean) / std, mean, std)
    assert_evenly_spread(expected.cdf(values) if b <= 4 else expected.sf(values))


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8), (4, 2, 3), (2, 3, 4)])
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_orthogonal(shape: tuple[int, ...], gain: float) -> None:
    matrix = drawn(init.orthogonal_, gain, shape=shape).reshape(shape[0], -1)
    smaller = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(smaller, gain**2 * np.eye(len(smaller)), atol=1e-13)


def test_orthogonal_matrices_are_spread_evenly() -> None:
    """Uniform over rotations and reflections: of a 2 × 2 matrix, every sign of the corner equally often."""
    corners = np.array(
        [init.orthogonal_(weight(2, 2), key=cr.random.key(seed)).numpy()[0, 0] for seed in range(400)]
    )
    assert_evenly_spread(np.arccos(corners) / math.pi)


def test_keys_decide_and_streams_replace_them() -> None:
    def values(**options: Any) -> Any:
        return init.normal_(weight(2, 3), **options).tolist()

    assert values(key=cr.random.key(1)) == values(key=cr.random.key(1))
    assert values(key=cr.random.key(1)) != values(key=cr.random.key(2))
    with cr.random.stream(cr.random.key(4)):
        first, second = values(), values()
    with cr.random.stream(cr.random.key(4)):
        assert [first, second] == [values(), values()]
    assert first != second


@pytest.mark.parametrize("name", ["uniform_", "normal_", "trunc_normal_", "xavier_normal_", "orthogonal_"])
def test_values_come_in_the_dtype_of_the_cell_and_the_cell_comes_back(name: str) -> None:
    cell = weight(3, 3, dtype=np.float32)
    assert getattr(init, name)(cell) is cell
    assert cell.dtype == np.float32
    assert cell.numpy().any()


FANNED = [
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "lecun_uniform_",
    "lecun_normal_",
]


@pytest.mark.parametrize("name", [*FANNED, "orthogonal_"])
def test_a_bias_has_no_fans(name: str) -> None:
    with pytest.raises(ShapeError, match=r"at least two axes.*\(3,\).*zeros_"):
        getattr(init, name)(weight(3))


@pytest.mark.parametrize("name", FANNED)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_weights_without_elements_are_left_alone(name: str, shape: tuple[int, ...]) -> None:
    assert getattr(init, name)(weight(*shape)).shape == shape


def test_what_is_refused() -> None:
    with pytest.raises(ChainruleError, match=r"only a Parameter or Buffer.*cr.nn.Parameter"):
        init.zeros_(cr.zeros(3))  # type: ignore[type-var]
    with pytest.raises(RecipeError, match="no gain for 'swish'; there are gains for linear"):
        init.calculate_gain("swish")
    with pytest.raises(RecipeError, match="mode = 'fan_avg' is not known"):
        init.kaiming_normal_(weight(), mode="fan_avg")
    with pytest.raises(RecipeError, match="needs a < b and std > 0"):
        init.trunc_normal_(weight(), a=1.0, b=1.0)
