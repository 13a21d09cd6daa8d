"""`cr.train.replay`: one step of a run taken again, whether the run is in memory or in its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chainrule import optim
from chainrule.errors import RunError
from chainrule.nn import Module
from chainrule.recipe import Recipe
from chainrule.run import RunFolder
from chainrule.train import table
from chainrule.train.fitting import check_data, named_loss, pair, split_pair
from chainrule.train.past import Past, Replayed, Rows, fingerprint, modes_of, state_of
from chainrule.train.result import Run
from chainrule.train.states import States
from chainrule.train.trainer import Trainer

_PYTHON = "python"  # what a recipe says of a loss or an optimizer that only its code can tell


def replay(
    run: Run | RunFolder | str | Path,
    step: int | None = None,
    *,
    model: Module | None = None,
    data: Any = None,
    loss: Callable[..., Any] | None = None,
    optimizer: optim.Optimizer | None = None,
) -> Replayed:
    """Take a step of a run again: the same batch, from the same weights, with the same random draws.

    run    what `fit` returned, or the folder of a run
    step   counted from 0; negative numbers count from the end; None is the last

    A run on a table is rebuilt from its folder. Of one that trained a Python model, the folder holds neither
    the code nor the arrays: give `model`, built as then, and `data`, the same arrays; and `loss` or
    `optimizer` where they were more than a name with numbers. For a run on a table, `data` is the table, if
    it is not where the recipe says. `RunError` where something is missing, or is not what it was.

    The trainer takes the steps from the last kept state on again, on the same backend: what they leave are
    the same bits. (What a callback did to the model then is not done again.) The loss is then computed
    eagerly, so it may differ from the training's by rounding.

    >>> import numpy as np, chainrule as cr
    >>> X = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
    >>> run = cr.fit(cr.nn.Linear(1, 1), (X, 2 * X), epochs=3, batch_size=10)
    >>> found = cr.train.replay(run, 7)
    >>> found.step, found.loss.shape, found.names[0].startswith("row ")
    (7, (), True)
    """
    return past_of(run, model=model, data=data, loss=loss, optimizer=optimizer).replay(step)


def past_of(
    run: Run | RunFolder | str | Path,
    *,
    model: Module | None = None,
    data: Any = None,
    loss: Callable[..., Any] | None = None,
    optimizer: optim.Optimizer | None = None,
) -> Past:
    """The steps of a run; what is read from a folder for a `Run` is kept with it."""
    if not isinstance(run, Run | RunFolder | str | Path):
        raise TypeError(f"a run or the folder of one can be replayed, not a {type(run).__name__}")
    if isinstance(run, Run):
        if run.past is None:
            if run.folder is None:
                raise RunError(
                    "this run cannot be replayed: it was neither trained here nor kept in a folder"
                )
            run.past = past_of(run.folder, model=model, data=data, loss=loss, optimizer=optimizer)
        return run.past
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    recipe = folder.recipe()
    if recipe.network.model:
        return _of_arrays(folder, recipe, model, data, loss, optimizer)
    return _of_table(folder, recipe, data)


def bad_step_of(run: Run | RunFolder | str | Path) -> int | None:
    """The step at which training ended because its loss or gradient was not finite; None where all were."""
    if isinstance(run, Run):
        result, history = run.result, run.history
    else:
        folder = run if isinstance(run, RunFolder) else RunFolder(run)
        saved = folder.checkpoint()
        result = (
            folder.document("result.json") if folder.has("result.json") else saved.progress if saved else {}
        )
        history = folder.history()
    found: int | None = result.get("bad_step")
    if found is None and any(not np.isfinite(row["loss"]) for row in history):
        raise RunError(
            "the loss of this run was not finite, but older versions did not note in which step: name one, "
            "as in cr.first_bad_number(run, step=...)"
        )
    return found


# -- a run on a table ----------------------------------------------------------------------------------------
def _of_table(folder: RunFolder, recipe: Recipe, data: Any) -> Past:
    if data is None and not recipe.data.source:
        raise RunError(
            f"run {folder.name} was trained on a table that was handed over in Python: "
            f"give it, as in cr.train.replay({str(folder.path)!r}, step, data=...)"
        )
    read = table.read_source(recipe, data)
    if read.data_hash != recipe.data.hash:
        raise RunError(
            f"run {folder.name} cannot be replayed: {read.source} has changed since it was trained (hash "
            f"{read.data_hash}, then {recipe.data.hash}). Restore the data"
        )
    prepared = table.prepare(recipe, read)
    trainer = table.trainer_of(recipe, prepared)
    rows = Rows(prepared.made.numbers[prepared.parts["train"]], table=True)
    return _past(folder, trainer, prepared.arrays("train"), _facts(folder), rows)


# -- a run of a Python model ---------------------------------------------------------------------------------
def _of_arrays(
    folder: RunFolder,
    recipe: Recipe,
    model: Module | None,
    data: Any,
    loss: Callable[..., Any] | None,
    optimizer: optim.Optimizer | None,
) -> Past:
    if model is None or data is None:
        raise RunError(
            f"run {folder.name} trained the Python model {recipe.network.model}, whose code and data it does "
            f"not hold: give both, as in cr.train.replay({str(folder.path)!r}, step, model=..., data=(X, y))"
        )
    inputs, targets = pair(data)
    check_data((inputs, targets), recipe)
    train, _, rows = split_pair(inputs, targets, recipe.split.validation, recipe.training.seed)
    training, facts = recipe.training, _facts(folder)
    trainer = Trainer(
        model, _loss(folder, recipe, loss, train[1], facts), _optimizer(folder, recipe, optimizer),
        clip_norm=training.clip_norm, batch_size=training.batch_size, seed=training.seed,
        backend=training.backend,
    )  # fmt: skip
    found = _past(folder, trainer, train, facts, rows)
    _check_model(found, folder, recipe)
    return found


def _loss(
    folder: RunFolder, recipe: Recipe, given: Callable[..., Any] | None, targets: Any, facts: dict[str, Any]
) -> Callable[..., Any]:
    """The loss that was trained with: the one given, or the one the recipe names, if that tells it whole."""
    name, weights = recipe.loss.name, recipe.loss.class_weight
    made = given
    if made is None and name != _PYTHON:
        made = named_loss(name, weights, targets)
    if made is None or fingerprint(made) != facts.get("loss", fingerprint(made)):
        raise RunError(
            f"run {folder.name} was trained with a loss of its own ({name}): give the same one, as in "
            "cr.train.replay(..., loss=...)"
        )
    return made


def _optimizer(folder: RunFolder, recipe: Recipe, given: optim.Optimizer | None) -> optim.Optimizer:
    if given is not None:
        return given
    if recipe.optimizer["name"] == _PYTHON:
        raise RunError(
            f"run {folder.name} was trained with {recipe.optimizer.get('repr')}, whose schedule is Python "
            "code: give the same one, as in cr.train.replay(..., optimizer=...)"
        )
    return optim.from_document(recipe.optimizer)


def _check_model(past: Past, folder: RunFolder, recipe: Recipe) -> None:
    """Raise unless the model is that of the run: its source, and the weights it began with."""
    trainer = past.trainer
    now = state_of(trainer)
    begun = past.states.before(0)
    assert begun is not None  # `_past` sees to it
    trainer.load_state(begun[1])
    same = fingerprint(trainer.model) == recipe.network.source_hash
    trainer.load_state(now)
    if not same:
        raise RunError(
            f"the model is not the one that run {folder.name} trained: its code has changed since then, or "
            f"it is built or was begun otherwise. Give {recipe.network.model} as it was"
        )


# -- both ----------------------------------------------------------------------------------------------------
def _past(folder: RunFolder, trainer: Trainer, data: Any, facts: dict[str, Any], rows: Rows) -> Past:
    states = States(folder)
    if 0 not in states.steps:  # of an older version: the model is built as it was then
        states.suppose(0, state_of(trainer))
    modes = facts.get("training") or dict.fromkeys(modes_of(trainer.model), True)
    return Past(trainer, data, states, folder.history(), _taken(folder), rows, modes)


def _taken(folder: RunFolder) -> int:
    """How many steps a run has taken."""
    result = folder.document("result.json") if folder.has("result.json") else {}
    if "steps" in result:
        return int(result["steps"])
    saved = folder.checkpoint()
    if saved is None:
        return 0
    return int(saved.arrays["count"]) + (saved.progress.get("bad_step") is not None)


def _facts(folder: RunFolder) -> dict[str, Any]:
    """What was noted of the training beside its recipe; nothing in runs of older versions."""
    steps = folder.states()
    return folder.state(steps[0]).progress if steps else {}
