"""The target as the network sees it, and the way back to its own unit.

A regression target is brought to mean 0 and deviation 1, after a logarithm or a Yeo-Johnson power where it is
skewed. Predictions are taken back by the inverse. That makes a prediction the network's estimate of the
*median* house, not the mean one, where the transform bends: exp(E[log y]) is below E[y]. No smearing factor
corrects it, because the residuals that would estimate the factor come from rows the network was fitted to.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from chainrule.errors import DataError

Floats = npt.NDArray[np.float64]
Bend = Literal["none", "log", "log1p", "yeo-johnson"]

SKEWED = 1.0  # absolute skewness from which a target is transformed; an exponential distribution has 2
LARGEST_EXPONENT = 600.0  # exp of more than 709 is infinite in float64; the rest leaves room for the unit
SMALL_SAMPLE = 20  # rows: with fewer, skewness is mostly noise


@dataclass(frozen=True)
class TargetTransform:
    """`(bend((y - origin) / unit) - centre) / scale`.

    `power` is the exponent of the Yeo-Johnson bend, the only one with another origin than 0 and unit than 1.
    """

    bend: Bend
    centre: float
    scale: float
    power: float | None = None
    origin: float = 0.0
    unit: float = 1.0
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

        Always finite: no logarithm is taken to stand for more than exp(600).
        """
        bent = np.asarray(predicted, dtype=np.float64) * self.scale + self.centre
        return self._unbent(bent) * self.unit + self.origin

    def _bent(self, values: Floats) -> Floats:
        values = (values - self.origin) / self.unit
        if self.bend == "log":
            return np.log(values)
        if self.bend == "log1p":
            return np.log1p(values)
        return yeo_johnson(values, self.power) if self.power is not None else values

    def _unbent(self, bent: Floats) -> Floats:
        if self.bend == "log":
            return np.exp(np.minimum(bent, LARGEST_EXPONENT))
        if self.bend == "log1p":
            return np.expm1(np.minimum(bent, LARGEST_EXPONENT))
        return yeo_johnson_inverse(bent, self.power) if self.power is not None else bent

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
    bare = _fit_yeo_johnson(values) if chosen == "yeo-johnson" else TargetTransform(chosen, 0.0, 1.0)
    bent = bare.apply(values)
    scale = float(bent.std())
    return replace(bare, centre=float(bent.mean()), scale=scale if scale > 0 else 1.0, reason=reason)


def _choose(values: Floats) -> tuple[Bend, str]:
    skew = skewness(values)
    if values.size < SMALL_SAMPLE or abs(skew) <= SKEWED:
        return "none", f"skewness {skew:.1f}"
    candidates: dict[Bend, Floats] = {"yeo-johnson": _fit_yeo_johnson(values).apply(values)}
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

    >>> skewness(np.array([0.0, 0.0, 0.0, 1.0])) > 1
    True
    """
    centred = values - values.mean()
    spread = float(np.sqrt((centred**2).mean()))
    return float(((centred / spread) ** 3).mean()) if spread > 0 else 0.0


def _fit_yeo_johnson(values: Floats) -> TargetTransform:
    """The bend alone, not yet brought to mean 0 and deviation 1.

    The transform depends on where 0 is and on the unit, so both are set by the middle of the values first:
    a power fitted to values far from 0 grows until float32 cannot tell them apart. The power is kept
    between 0 and 2, a logarithm on either side, between which every value has an image and every number is
    one.
    """
    from sklearn.preprocessing import PowerTransformer, RobustScaler

    middle = RobustScaler(quantile_range=(5.0, 95.0), unit_variance=True).fit(values[:, None])
    fitted = PowerTransformer(method="yeo-johnson", standardize=False).fit(middle.transform(values[:, None]))
    power = float(np.clip(fitted.lambdas_[0], 0.0, 2.0))
    return TargetTransform("yeo-johnson", 0.0, 1.0, power, float(middle.center_[0]), float(middle.scale_[0]))


def yeo_johnson(values: Floats, power: float) -> Floats:
    """The transform of Yeo and Johnson (Biometrika 87, 2000) for powers from 0 to 2, of every real number."""
    upper, lower = np.log1p(np.maximum(values, 0.0)), np.log1p(np.maximum(-values, 0.0))
    above = upper if power == 0.0 else np.expm1(power * upper) / power
    below = lower if power == 2.0 else np.expm1((2.0 - power) * lower) / (2.0 - power)
    return above - below


def yeo_johnson_inverse(bent: Floats, power: float) -> Floats:
    """The inverse of `yeo_johnson`, of every real number."""
    upper, lower = np.maximum(bent, 0.0), np.maximum(-bent, 0.0)
    above = upper if power == 0.0 else np.log1p(power * upper) / power
    below = lower if power == 2.0 else np.log1p((2.0 - power) * lower) / (2.0 - power)
    return np.expm1(np.minimum(above, LARGEST_EXPONENT)) - np.expm1(np.minimum(below, LARGEST_EXPONENT))


def target_from_document(document: Mapping[str, Any]) -> TargetTransform:
    """The transform `to_document` wrote; `DataError` if the document is not one."""
    try:
        return TargetTransform(**document)
    except TypeError as error:
        raise DataError(
            f"The fitted target transform is damaged ({error}). Restore the file, or train again."
        ) from None
