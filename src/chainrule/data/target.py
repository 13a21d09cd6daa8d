"""The target as the network sees it, and the way back to its own unit.

A regression target is brought to mean 0 and deviation 1, after a logarithm or a Yeo-Johnson power where it is
skewed. Predictions are taken back by the inverse. That makes a prediction the network's estimate of the
*median* house, not the mean one, where the transform bends: exp(E[log y]) is below E[y]. No smearing factor
corrects it, because the residuals that would estimate the factor come from rows the network was fitted to.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from chainrule.errors import DataError

Floats = npt.NDArray[np.float64]
Bend = Literal["none", "log", "log1p", "yeo-johnson"]

SKEWED = 1.0  # absolute skewness from which a target is transformed; an exponential distribution has 2
SMALL_SAMPLE = 20  # rows: with fewer, skewness is mostly noise


@dataclass(frozen=True)
class TargetTransform:
    """`(bend(y) - centre) / scale`; `power` is the exponent of the Yeo-Johnson bend."""

    bend: Bend
    centre: float
    scale: float
    power: float | None = None
    reason: str = ""

    def apply(self, target: npt.ArrayLike) -> Floats:
        """Own unit to the network's, of the same shape, float64.

        >>> transform = fit_target([1.0, 10.0, 100.0], bend="log")
        >>> transform.apply([10.0]).round(12).tolist(), transform.invert([0.0]).round(12).tolist()
        ([0.0], [10.0])
        """
        values = np.asarray(target, dtype=np.float64)
        return (self._bent(values) - self.centre) / self.scale

    def invert(self, predicted: npt.ArrayLike) -> Floats:
        """The network's unit to the target's own, of the same shape, float64.

        A prediction outside the range of the Yeo-Johnson bend becomes the nearest end of that range.
        """
        bent = np.asarray(predicted, dtype=np.float64) * self.scale + self.centre
        if self.bend == "log":
            return np.exp(bent)
        if self.bend == "log1p":
            return np.expm1(bent)
        return yeo_johnson_inverse(bent, self.power) if self.power is not None else bent

    def _bent(self, values: Floats) -> Floats:
        if self.bend == "log":
            return np.log(values)
        if self.bend == "log1p":
            return np.log1p(values)
        return yeo_johnson(values, self.power) if self.power is not None else values

    def to_document(self) -> dict[str, Any]:
        """Plain numbers and texts, from which `target_from_document` makes an equal transform."""
        return asdict(self)


def fit_target(target: npt.ArrayLike, bend: Bend | None = None) -> TargetTransform:
    """The transform for a regression target, fitted to its training rows, which hold no missing values.

    `bend` overrules the rule, which is: where the skewness exceeds `SKEWED` in size, take the logarithm of a
    positive target if that is less skewed, log(1 + y) of one that is never negative, and Yeo-Johnson else.

    >>> fit_target([100.0, 120.0, 150.0] * 20).bend
    'none'
    """
    values = np.asarray(target, dtype=np.float64)
    chosen, reason = (bend, "as asked") if bend is not None else _choose(values)
    if chosen in ("log", "log1p") and values.min() <= (0.0 if chosen == "log" else -1.0):
        raise DataError(
            f"The target's smallest training value is {values.min():g}, so its {chosen} does not exist. "
            f"Choose 'yeo-johnson' or 'none'."
        )
    power = _fit_power(values) if chosen == "yeo-johnson" else None
    bent = TargetTransform(chosen, 0.0, 1.0, power).apply(values)
    scale = float(bent.std())
    return TargetTransform(chosen, float(bent.mean()), scale if scale > 0 else 1.0, power, reason)


def _choose(values: Floats) -> tuple[Bend, str]:
    skew = skewness(values)
    if values.size < SMALL_SAMPLE or abs(skew) <= SKEWED:
        return "none", f"skewness {skew:.1f}"
    candidates: dict[Bend, Floats] = {"yeo-johnson": yeo_johnson(values, _fit_power(values))}
    if values.min() > 0.0:
        candidates["log"] = np.log(values)
    elif values.min() == 0.0:
        candidates["log1p"] = np.log1p(values)
    # The logarithm is preferred wherever it helps: a price's ratio means something, its Yeo-Johnson power
    # does not.
    bend: Bend = next((name for name in ("log", "log1p") if name in candidates), "yeo-johnson")
    after = skewness(candidates[bend])
    if abs(after) >= abs(skew):
        bend, after = "yeo-johnson", skewness(candidates["yeo-johnson"])
    return bend, f"skewness {skew:.1f}, after the transform {after:.1f}"


def skewness(values: Floats) -> float:
    """The third standardised moment; 0 for a constant.

    >>> skewness(np.array([1.0, 2.0, 3.0]))
    0.0
    """
    centred = values - values.mean()
    spread = float(np.sqrt((centred**2).mean()))
    return float(((centred / spread) ** 3).mean()) if spread > 0 else 0.0


def _fit_power(values: Floats) -> float:
    from sklearn.preprocessing import PowerTransformer

    return float(PowerTransformer(method="yeo-johnson").fit(values[:, None]).lambdas_[0])


def yeo_johnson(values: Floats, power: float) -> Floats:
    """The power transform of Yeo and Johnson (Biometrika 87, 2000), defined for every real number."""
    upper, lower = np.maximum(values, 0.0), np.minimum(values, 0.0)
    above = np.log1p(upper) if power == 0.0 else np.expm1(power * np.log1p(upper)) / power
    below = np.log1p(-lower) if power == 2.0 else np.expm1((2.0 - power) * np.log1p(-lower)) / (2.0 - power)
    return above - below


def yeo_johnson_inverse(bent: Floats, power: float) -> Floats:
    """The inverse; values beyond the transform's range, which ends for powers below 0 or above 2, are cut."""
    upper, lower = np.maximum(bent, 0.0), np.maximum(-bent, 0.0)
    floor = -1.0 + np.finfo(np.float64).epsneg
    above = upper if power == 0.0 else np.log1p(np.maximum(power * upper, floor)) / power
    below = lower if power == 2.0 else np.log1p(np.maximum((2.0 - power) * lower, floor)) / (2.0 - power)
    return np.expm1(above) - np.expm1(below)


def target_from_document(document: Mapping[str, Any]) -> TargetTransform:
    """The transform `to_document` wrote; `DataError` if the document is not one."""
    try:
        return TargetTransform(**document)
    except TypeError as error:
        raise DataError(
            f"The fitted target transform is damaged ({error}). Restore the file, or train again."
        ) from None
