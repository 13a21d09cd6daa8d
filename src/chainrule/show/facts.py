"""What there is to tell about a run, gathered once for the terminal and the report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.data.preprocess import Preprocessor
from chainrule.data.target import TargetTransform, target_from_document
from chainrule.errors import DataError
from chainrule.nn import Module
from chainrule.recipe import Recipe
from chainrule.run import RunFolder
from chainrule.show import network
from chainrule.show.figures import counted, unit_of
from chainrule.train.comparison import DOCUMENT
from chainrule.train.result import Run
from chainrule.train.table import load


@dataclass(frozen=True)
class Facts:
    """A run, as far as it has come, in plain data.

    path          where it is kept, None if it was not saved
    result        what came of it, empty while it is not finished
    preprocessor  for a run on a table
    comparison    what `chainrule.train.comparison.compare` returned, empty if it was not asked
    """

    path: Path | None
    recipe: Recipe
    result: Mapping[str, Any]
    history: list[dict[str, Any]]
    layers: list[network.Layer]
    preprocessor: Preprocessor | None
    transform: TargetTransform | None
    comparison: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        return bool(self.result)

    def command(self, verb: str, *rest: str) -> str:
        """A command line about this run, ready to be typed: a path with blanks in it is quoted."""
        return " ".join(["chainrule", verb, shlex.quote(str(self.path)), *rest])

    @property
    def unit(self) -> str:
        """The sign of the target's unit, "" if it is not known."""
        return unit_of(self.recipe)

    @property
    def title(self) -> str:
        """What is predicted."""
        return self.recipe.data.target or self.recipe.network.model

    @property
    def heading(self) -> str:
        """What the run is about: what is predicted, or which network was trained."""
        if self.recipe.data.target:
            return f"Predicting {self.recipe.data.target}"
        kind = self.recipe.network.model.rpartition(".")[2]
        return f"{kind} with {counted(network.total(self.layers), 'parameter')}"

    @property
    def part(self) -> str:
        """The held-out rows the figures are about: "test", or "validation" if none were kept for a test."""
        measured = self.result.get("metrics", {})
        return "test" if measured.get("test") else "validation"

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics on those rows."""
        found: dict[str, float] = self.result.get("metrics", {}).get(self.part, {})
        return found

    def document(self) -> dict[str, Any]:
        """Everything as plain data, for programs to read."""
        return {
            "run": None if self.path is None else str(self.path),
            "finished": self.finished,
            "recipe": self.recipe.to_document(),
            "result": dict(self.result),
            "comparison": dict(self.comparison),
            "layers": [{**asdict(layer), "parameters": layer.parameters} for layer in self.layers],
            "history": self.history,
        }


def of_run(run: Run, comparison: Mapping[str, Any] | None = None) -> Facts:
    """The facts about a run that is in memory."""
    prepared = run.prepared
    return Facts(
        path=run.folder.path if run.folder is not None else None,
        recipe=run.recipe,
        result=run.result,
        history=run.history,
        layers=layers(run.model, None if prepared is None else prepared.preprocessor),
        preprocessor=None if prepared is None else prepared.preprocessor,
        transform=None if prepared is None else prepared.transform,
        comparison=comparison or {},
    )


def of_folder(path: str | Path) -> Facts:
    """The facts about a run on disk, finished or not."""
    folder = RunFolder(path)
    recipe = folder.recipe()
    result = folder.document("result.json") if folder.has("result.json") else {}
    fitted = folder.document("preprocessing.json") if folder.has("preprocessing.json") else None
    preprocessor = None if fitted is None else Preprocessor.from_document(fitted["columns"])
    bent = None if fitted is None else fitted.get("target")
    return Facts(
        path=folder.path,
        recipe=recipe,
        result=result,
        history=folder.history(),
        layers=_layers_on_disk(folder, recipe, result, preprocessor),
        preprocessor=preprocessor,
        transform=None if bent is None else target_from_document(bent),
        comparison=folder.document(DOCUMENT) if folder.has(DOCUMENT) else {},
    )


def layers(model: Module, preprocessor: Preprocessor | None) -> list[network.Layer]:
    """The layers of a model; with the shapes they put out, if it reads a prepared table."""
    if preprocessor is None:
        return network.layers_of_model(model)
    return network.layers(model, _example(preprocessor))


def _example(preprocessor: Preprocessor) -> dict[str, np.ndarray[Any, Any]]:
    """One row such as a network for this table reads."""
    inputs: dict[str, np.ndarray[Any, Any]] = {"numeric": np.zeros((1, len(preprocessor.names)), np.float32)}
    if preprocessor.embedded:
        inputs["codes"] = np.zeros((1, len(preprocessor.embedded)), np.int64)
    return inputs


def _layers_on_disk(
    folder: RunFolder, recipe: Recipe, result: Mapping[str, Any], preprocessor: Preprocessor | None
) -> list[network.Layer]:
    if not result:
        return []
    if recipe.network.model:  # its code is the user's: only the arrays are here
        arrays, about = folder.arrays("weights.safetensors")
        buffers = set(about.get("buffers", ()))  # runs of before have not said so
        trained = {name: value.shape for name, value in arrays.items() if name not in buffers}
        return network.layers_of_weights(trained)
    if preprocessor is None:
        raise DataError(f"{folder.path} has no preprocessing.json: restore it from a copy, or train again")
    return layers(load(folder.path).model, preprocessor)
