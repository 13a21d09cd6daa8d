"""From a table to a trained network: read, split, prepare, build, train, measure; and back to predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chainrule import optim
from chainrule import run as storage
from chainrule.data.preparation import Prepared as PreparedTable
from chainrule.data.preparation import prepare as prepare_table
from chainrule.data.preprocess import Features, Preprocessor
from chainrule.data.reading import read_table
from chainrule.data.table import Table, suggestion
from chainrule.data.target import TargetTransform, target_from_document
from chainrule.data.task import Task
from chainrule.errors import DataError, RecipeError, RunError
from chainrule.optim.documents import with_total_steps
from chainrule.program import BACKENDS, Compiled
from chainrule.recipe import Recipe
from chainrule.run import RunFolder
from chainrule.train import metrics
from chainrule.train.callbacks import Callback
from chainrule.train.loop import Interrupted, Loop
from chainrule.train.losses import FITTING, class_weights, make_loss
from chainrule.train.network import TableNetwork, build
from chainrule.train.past import Rows
from chainrule.train.rates import Rates
from chainrule.train.result import TELEMETRY, Run, finish, load_telemetry
from chainrule.train.trainer import Trainer

Array = np.ndarray[Any, Any]
PARTS = ("train", "validation", "test")
PREPROCESSING = ("kinds", "ordinals", "target")
"""What [preprocessing] of a recipe may hold; each overrules what the data suggest."""


@dataclass(frozen=True)
class Prepared:
    """A table made ready for a network, and the network.

    `parts`, `features` and `targets` are by part: "train", "validation", "test". Parts are row numbers of
    `table`; targets are in their own unit (regression) or class numbers.
    """

    made: PreparedTable
    model: TableNetwork

    @property
    def table(self) -> Table:
        return self.made.table

    @property
    def task(self) -> Task:
        return self.made.task

    @property
    def preprocessor(self) -> Preprocessor:
        return self.made.preprocessor

    @property
    def transform(self) -> TargetTransform | None:
        return self.made.transform

    @property
    def parts(self) -> dict[str, Array]:
        return {name: getattr(self.made, name).rows for name in PARTS}

    @property
    def features(self) -> dict[str, Features]:
        return {name: getattr(self.made, name).features for name in PARTS}

    @property
    def targets(self) -> dict[str, Array]:
        return {name: getattr(self.made, name).original for name in PARTS}

    def arrays(self, part: str) -> tuple[dict[str, Array], Array]:
        """What the trainer takes: inputs, and targets as the loss wants them."""
        chosen = getattr(self.made, part)
        targets = chosen.target if self.task.kind == "multiclass" else chosen.target[:, None]
        return network_inputs(chosen.features), targets


@dataclass(frozen=True)
class Predictions:
    """Predictions in the unit of the target; classes have `probabilities`, of shape (rows, classes)."""

    target: str
    values: Array
    probabilities: Array | None = None
    classes: tuple[str, ...] = ()

    def columns(self) -> dict[str, Array]:
        """Named columns, ready to be written as a table."""
        found = {self.target: self.values}
        if self.probabilities is not None:
            found |= {
                f"probability of {name}": self.probabilities[:, k] for k, name in enumerate(self.classes)
            }
        return found

    def __len__(self) -> int:
        return len(self.values)


def network_inputs(features: Features) -> dict[str, Array]:
    """The arrays a `TableNetwork` reads."""
    inputs: dict[str, Array] = {"numeric": features.numeric}
    if features.codes is not None:
        inputs["codes"] = features.codes
    return inputs


# -- training ----------------------------------------------------------------------------------------------
def fit_table(
    recipe: Recipe,
    *,
    data: Any = None,
    runs: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    on_prepared: Callable[[Prepared], None] | None = None,
    telemetry: bool | Rates = True,
) -> Run:
    """Train the network a recipe describes on its table (or on `data` instead) and measure it.

    With `runs`, a run folder is made there, with checkpoints while training goes on.
    """
    table = read_source(recipe, data)
    if recipe.data.hash and recipe.data.hash != table.data_hash:
        raise RunError(
            f"{table.source} holds other data than the recipe was made for: its hash is "
            f"{table.data_hash}, the recipe "
            f"says {recipe.data.hash}. Restore the data, or remove hash from [data] to train on what is there"
        )
    recipe = recipe.with_(data={"hash": table.data_hash})
    prepared = prepare(recipe, table)
    trainer = trainer_of(
        recipe, prepared, telemetry=telemetry
    )  # refuses wrong settings, before anything is written
    folder = None if runs is None else storage.create(runs, recipe.data.target, recipe)
    if folder is not None:
        folder.write_document("preprocessing.json", fitted_document(prepared))
    return _train(recipe, prepared, trainer, folder, callbacks, on_prepared)


def resume(
    path: str | Path,
    *,
    callbacks: Sequence[Callback] = (),
    on_prepared: Callable[[Prepared], None] | None = None,
    telemetry: bool | Rates = True,
) -> Run:
    """Go on with a run that was interrupted, from its last checkpoint to the same end."""
    folder = RunFolder(path)
    recipe = folder.recipe()
    if recipe.network.model:
        raise RunError(
            f"run {folder.name} trains the Python model {recipe.network.model}: call cr.fit(model, "
            "data, ..., "
            f"resume={str(folder.path)!r}) with the same model and data"
        )
    if folder.has("result.json"):
        return load(path)
    table = read_source(recipe)
    if table.data_hash != recipe.data.hash:
        raise RunError(
            f"run {folder.name} cannot go on: {recipe.data.source} has changed since it began (hash "
            f"{table.data_hash}, then "
            f"{recipe.data.hash}). Restore the data, or start a new run"
        )
    prepared = prepare(recipe, table)
    folder.write_document("preprocessing.json", fitted_document(prepared))
    trainer = trainer_of(recipe, prepared, telemetry=telemetry)
    return _train(recipe, prepared, trainer, folder, callbacks, on_prepared)


def read_source(recipe: Recipe, data: Any = None) -> Table:
    """The table a recipe names, or `data` instead, with its columns read as the recipe wants them."""
    for name in recipe.preprocessing:
        if name not in PREPROCESSING:
            hint = suggestion(name, PREPROCESSING) or f" There are {', '.join(PREPROCESSING)}."
            raise RecipeError(f"[preprocessing]: there is no setting '{name}'.{hint}")
    return read_table(recipe.data.source if data is None else data, kinds=recipe.preprocessing.get("kinds"))


def prepare(recipe: Recipe, table: Table) -> Prepared:
    """Split the rows, fit the preprocessing to the training rows alone, and build the network."""
    if not recipe.data.target:
        raise RecipeError("the recipe names no target: say which column to predict (--target COLUMN)")
    dropped = [table[name].name for name in recipe.data.drop]  # suggests the nearest name, where one is wrong
    made = prepare_table(
        table.without(*dropped),
        recipe.data.target,
        task=_task_kind(recipe.data.task),
        seed=recipe.split.seed,
        test=recipe.split.test,
        validation=recipe.split.validation,
        ordinals=recipe.preprocessing.get("ordinals"),
        bend=recipe.preprocessing.get("target"),
    )
    return Prepared(made, _network(recipe, made.preprocessor, made.task))


def _task_kind(name: str) -> Any:
    if name not in ("auto", *metrics.HEADLINE):
        raise RecipeError(f"there is no task {name!r}; there are auto, {', '.join(metrics.HEADLINE)}")
    return None if name == "auto" else name


def _network(recipe: Recipe, preprocessor: Preprocessor, task: Task) -> TableNetwork:
    embedded = [(each.cardinality, each.width) for each in preprocessor.embedded]
    return build(recipe.network, len(preprocessor.names), embedded, task.outputs, recipe.training.seed)


def _train(
    recipe: Recipe,
    prepared: Prepared,
    trainer: Trainer,
    folder: RunFolder | None,
    callbacks: Sequence[Callback],
    on_prepared: Callable[[Prepared], None] | None,
) -> Run:
    training = recipe.training
    if on_prepared is not None:
        on_prepared(prepared)
    has_validation = len(prepared.parts["validation"]) > 0
    loop = Loop(
        trainer,
        prepared.arrays("train"),
        training.epochs,
        validation=prepared.arrays("validation") if has_validation else None,
        patience=training.early_stopping if has_validation else None,
        restore_best=training.restore_best,
        plateau=trainer.optimizer.plateau_watch(),
        callbacks=callbacks,
        folder=folder,
        stamp={"recipe": recipe.hash(), "data": recipe.data.hash},
        rows=Rows(prepared.made.numbers[prepared.parts["train"]], table=True),
    )
    run_loop(loop, folder)
    prepared.model.eval()
    prepared.model.settle(prepared.preprocessor.embedded)
    result = _result(prepared, trainer, loop)
    if folder is not None:
        finish(folder, prepared.model, result, trainer.telemetry)
        storage.record(folder, "finished", result)
    predictor = _predictor(prepared.model, _Fitted.of(prepared))
    return Run(
        recipe,
        prepared.model,
        loop.history,
        result,
        predictor,
        folder,
        prepared,
        trainer.telemetry,
        loop.past,
    )


def run_loop(loop: Loop, folder: RunFolder | None) -> None:
    """Run, with the folder locked and its state noted in the index."""
    if folder is None:
        loop.run()
        return
    with folder.locked():
        storage.record(folder, "training")
        try:
            loop.run()
        except Interrupted:
            storage.record(folder, "interrupted")
            raise


def trainer_of(recipe: Recipe, prepared: Prepared, **options: Any) -> Trainer:
    """The trainer a recipe describes, before its first step; `options` are those that no recipe has."""
    name = FITTING[prepared.task.kind] if recipe.loss.name == "auto" else recipe.loss.name
    weights = class_weights(recipe.loss.class_weight, prepared.targets["train"], list(prepared.task.classes))
    training = recipe.training
    if training.backend not in BACKENDS:
        raise RecipeError(
            f"[training]: there is no backend {training.backend!r}; there is {', '.join(BACKENDS)}"
        )
    steps = training.epochs * -(-len(prepared.parts["train"]) // training.batch_size)
    return Trainer(
        prepared.model,
        make_loss(name, recipe.loss.options, weights),
        optim.from_document(with_total_steps(recipe.optimizer, steps)),
        clip_norm=training.clip_norm,
        batch_size=training.batch_size,
        seed=training.seed,
        backend=training.backend,
        **options,
    )


def _result(prepared: Prepared, trainer: Trainer, loop: Loop) -> dict[str, Any]:
    measured: dict[str, dict[str, float]] = {}
    for part in ("validation", "test"):
        if len(prepared.parts[part]):
            outputs = trainer.predict(prepared.arrays(part)[0])
            own = outputs if prepared.transform is None else prepared.transform.invert(outputs)
            measured[part] = metrics.measure(prepared.task.kind, prepared.targets[part], own)
    on = "test" if "test" in measured else "validation"
    headline = metrics.HEADLINE[prepared.task.kind]
    return {
        "task": prepared.task.kind,
        "target": prepared.task.target,
        **loop.outcome,
        "best_epoch": loop.best.epoch + 1,
        "rows": {part: len(prepared.parts[part]) for part in PARTS},
        "metrics": measured,
        "headline": {"metric": headline, "value": measured[on].get(headline), "on": on} if measured else {},
    }


# -- what was fitted, and predicting with it ---------------------------------------------------------------
@dataclass(frozen=True)
class _Fitted:
    """What prediction needs besides the network."""

    task: Task
    preprocessor: Preprocessor
    transform: TargetTransform | None

    @classmethod
    def of(cls, prepared: Prepared) -> _Fitted:
        return cls(prepared.task, prepared.preprocessor, prepared.transform)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], where: Path) -> _Fitted:
        try:
            transform = document["target"]
            return cls(
                Task.from_document(document["task"]),
                Preprocessor.from_document(document["columns"]),
                None if transform is None else target_from_document(transform),
            )
        except (KeyError, TypeError) as error:
            raise RunError(f"{where} is damaged ({error}): restore it from a copy, or train again") from None


def fitted_document(prepared: Prepared) -> dict[str, Any]:
    """The fitted preprocessing in readable form: plain numbers, texts and lists."""
    return {
        "task": prepared.task.to_document(),
        "target": None if prepared.transform is None else prepared.transform.to_document(),
        "columns": prepared.preprocessor.to_document(),
    }


def load(path: str | Path) -> Run:
    """Read a finished run on a table back: its network predicts as it did when it was saved."""
    folder = RunFolder(path)
    recipe = folder.recipe()
    if recipe.network.model:
        raise RunError(
            f"run {folder.name} trained the Python model {recipe.network.model}: build it in Python and load "
            f"{folder.path / 'weights.safetensors'} with model.load_state_dict(...)"
        )
    fitted = _Fitted.from_document(folder.document("preprocessing.json"), folder.path / "preprocessing.json")
    result = folder.document("result.json")
    arrays, _ = folder.arrays("weights.safetensors")
    model = _network(recipe, fitted.preprocessor, fitted.task)
    model.load_state_dict(arrays)
    model.eval()
    told = load_telemetry(path) if folder.has(TELEMETRY) else None
    return Run(recipe, model, folder.history(), result, _predictor(model, fitted), folder, telemetry=told)


def _predictor(model: TableNetwork, fitted: _Fitted) -> Callable[[Any], Predictions]:
    def predict(data: Any) -> Predictions:
        table = data if isinstance(data, Table) else read_table(data, kinds=fitted.preprocessor.kinds)
        if table.rows == 0:
            raise DataError(f"{table.source} has no rows to predict")
        outputs = _forward(model, network_inputs(fitted.preprocessor.transform(table)))
        task = fitted.task
        if task.kind == "regression":
            values = outputs if fitted.transform is None else fitted.transform.invert(outputs)
            return Predictions(task.target, np.asarray(values, np.float64).reshape(-1))
        shares = metrics.probabilities(outputs)
        labels = np.asarray(task.classes, dtype=object)[shares.argmax(axis=1)]
        return Predictions(task.target, labels, shares, tuple(task.classes))

    return predict


def _forward(model: TableNetwork, inputs: dict[str, Array], batch_size: int = 4096) -> Array:
    run = Compiled(model)
    rows = len(inputs["numeric"])
    parts = [
        run({name: value[start : start + batch_size] for name, value in inputs.items()}).numpy()
        for start in range(0, rows, batch_size)
    ]
    return np.concatenate(parts)
