"""How values show themselves in a notebook: HTML, made on the floor above all of them when one asks."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MAKER = "show.notebook"


def html_of(kind: str, value: Any) -> str:
    """What `chainrule.show.notebook` makes of a value, by the function for its kind."""
    return str(getattr(import_module(f"chainrule.{_MAKER}"), kind)(value))
