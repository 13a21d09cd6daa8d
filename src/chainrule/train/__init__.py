"""Training: the step as one program, epochs around it, tables in front of it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainrule.train.callbacks import Callback, Progress
    from chainrule.train.fitting import fit
    from chainrule.train.loop import Interrupted
    from chainrule.train.past import Replayed
    from chainrule.train.rates import Rates
    from chainrule.train.replaying import replay
    from chainrule.train.result import Run, load_telemetry
    from chainrule.train.table import load, resume
    from chainrule.train.trainer import Trainer

__all__ = [
    "Callback",
    "Interrupted",
    "Progress",
    "Rates",
    "Replayed",
    "Run",
    "Trainer",
    "fit",
    "load",
    "load_telemetry",
    "replay",
    "resume",
]

_HOMES = {
    "Callback": "callbacks",
    "Progress": "callbacks",
    "fit": "fitting",
    "Rates": "rates",
    "Interrupted": "loop",
    "replay": "replaying",
    "Replayed": "past",
    "Run": "result",
    "load": "table",
    "load_telemetry": "result",
    "resume": "table",
    "Trainer": "trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found
