"""Hyperparameters are checked once, where they enter."""

from __future__ import annotations

import math
from typing import Any

from chainrule.errors import RecipeError


def check_number(
    owner: object, name: str, value: Any, *, low: float = 0.0, high: float = math.inf, cure: str
) -> None:
    """Raise `RecipeError` unless `value` is a finite number in [low, high); `cure` says what to write."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecipeError(f"{_of(owner)}: {name} = {value!r} is not a number; {cure}")
    if not low <= value < high:
        wanted = f"at least {low:g}" if math.isinf(high) else f"at least {low:g} and below {high:g}"
        raise RecipeError(f"{_of(owner)}: {name} = {value!r} is out of range, it must be {wanted}; {cure}")


def check_count(owner: object, name: str, value: Any, *, low: int, cure: str) -> None:
    """Raise `RecipeError` unless `value` is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RecipeError(
            f"{_of(owner)}: {name} = {value!r} must be a whole number of at least {low}; {cure}"
        )


def check_choice(owner: object, name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `RecipeError` unless `value` is one of `choices`."""
    if value not in choices:
        listed = " or ".join(repr(each) for each in choices)
        raise RecipeError(f"{_of(owner)}: {name} = {value!r} is not known; choose {listed}")


def _of(owner: object) -> str:
    return type(owner).__name__
