"""Run: what training gives back, and what a run folder is read back into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.nn import Module
from chainrule.program import on_demand
from chainrule.recipe import Recipe
from chainrule.representation import html_of
from chainrule.run import RunFolder
from chainrule.train.metrics import LABELS
from chainrule.train.past import Past
from chainrule.train.telemetry import Telemetry

Array = np.ndarray[Any, Any]
TELEMETRY = "telemetry.safetensors"
"""The file of a run folder with what the steps told of themselves."""


class Run:
    """A recipe and what came of it.

    recipe    everything that decided the result
    model     the trained network, in evaluation mode
    history   one dict per epoch: epoch, loss, gradient_norm, validation_loss, ...
    result    a plain document: task, reason for stopping, headline, metrics per part of the data
    folder    where the run is kept, None if it was not saved
    prepared  for a table: what `chainrule.train.table.prepare` made of it (None for arrays)
    telemetry what the steps told of layers and parameters; empty where `fit` was told not to ask
    past      the steps that it took, to be taken again; None for a run that was read from its folder
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Module,
        history: list[dict[str, Any]],
        result: dict[str, Any],
        predictor: Callable[[Any], Any],
        folder: RunFolder | None = None,
        prepared: Any = None,
        telemetry: Telemetry | None = None,
        past: Past | None = None,
    ) -> None:
        self.recipe, self.model, self.history, self.result = recipe, model, history, result
        self.folder, self.prepared, self.past = folder, prepared, past
        self.telemetry = Telemetry() if telemetry is None else telemetry
        self._predictor = predictor

    def predict(self, data: Any) -> Any:
        """Predictions for new rows.

        For arrays: the network's outputs. For a table: a `chainrule.train.table.Predictions`
        in the unit of the target, with class probabilities where there are classes.
        """
        return self._predictor(data)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics on the test rows, or on the validation rows if nothing was held out for a test."""
        measured = self.result.get("metrics", {})
        chosen: dict[str, float] = measured.get("test") or measured.get("validation") or {}
        return chosen

    def report(self, path: str | Path = "report.html") -> Path:
        """Write what came of the run, and why, as one HTML file that opens anywhere; its path is returned.

        It holds figures, aggregates and numbers of rows, but no row of the data.
        """
        written: Path = on_demand("show").write_report(self, path)
        return written

    def __repr__(self) -> str:
        numbers = ", ".join(f"{LABELS.get(name, name)} {value:.4g}" for name, value in self.metrics.items())
        place = f", in {self.folder.path}" if self.folder else ""
        return f"<Run of {len(self.history)} epochs: {numbers or 'no held-out rows'}{place}>"

    def _repr_html_(self) -> str:
        """For notebooks: the figures, why it ended, the last epochs."""
        return html_of("run", self)


def finish(
    folder: RunFolder, model: Module, result: dict[str, Any], telemetry: Telemetry | None = None
) -> None:
    """Write the weights, then the result: a run that has a result is complete."""
    if telemetry:
        folder.write_arrays(TELEMETRY, telemetry.state(), {"parameters": list(telemetry)})
    about = {"recipe": folder.recipe().hash(), "buffers": [path for path, _ in model.named_buffers()]}
    folder.write_arrays("weights.safetensors", weights(model), about)
    folder.write_document("result.json", result)


def load_telemetry(run: str | Path) -> Telemetry:
    """What the steps of a finished run told of themselves; `RunError` where that was not kept."""
    arrays, _ = RunFolder(run).arrays(TELEMETRY)
    telemetry = Telemetry()
    telemetry.load_state(arrays)
    return telemetry


def weights(model: Module) -> dict[str, Array]:
    """Parameters and buffers by path, as arrays."""
    return {path: np.asarray(value) for path, value in model.state_dict().items()}
