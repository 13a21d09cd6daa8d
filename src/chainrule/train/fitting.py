"""`cr.fit`: train a Module on arrays, or a recipe on its table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chainrule import optim
from chainrule import run as storage
from chainrule.errors import DataError, RecipeError, RunError
from chainrule.nn import Module
from chainrule.recipe import Data, Loss, Network, Recipe, Split, Training
from chainrule.run import RunFolder
from chainrule.tensor import Tensor
from chainrule.train import metrics, table
from chainrule.train.callbacks import Callback
from chainrule.train.loop import Loop
from chainrule.train.losses import LOSSES, TASKS, class_weights, make_loss
from chainrule.train.past import Rows, fingerprint
from chainrule.train.rates import Rates
from chainrule.train.result import Run, finish
from chainrule.train.trainer import Trainer
from chainrule.tree import flatten, unflatten

Array = np.ndarray[Any, Any]


def fit(
    model: Module | Recipe | str | Path,
    data: Any = None,
    *,
    loss: str | Callable[..., Any] | None = None,
    optimizer: str | Mapping[str, Any] | optim.Optimizer | None = None,
    epochs: int = 50,
    batch_size: int = 64,
    validation: float | tuple[Any, Any] | None = 0.1,
    clip_norm: float | None = None,
    class_weight: str | Mapping[Any, float] | None = None,
    early_stopping: int | None = None,
    restore_best: bool = True,
    seed: int = 0,
    backend: str = "native",
    telemetry: bool | Rates = True,
    callbacks: Sequence[Callback] = (),
    runs: str | Path | None = None,
    resume: str | Path | None = None,
) -> Run:
    """Train and return a `Run`.

    model       a Module; or a Recipe (or the path of one), which brings its own table and settings
    data        ``(inputs, targets)``: arrays, or containers of arrays, with rows along the first axis. For a
                recipe: a table instead of the one it names
    loss        a name ("mse", "cross_entropy", "bce_with_logits", ...), a loss Module, or a function of
                (outputs, targets). Default: by the dtype of the targets, "mse" for floats, "cross_entropy"
                for integers, "bce_with_logits" for booleans
    optimizer   ``cr.optim.Adam(lr=1e-3)``, a name, or a document. Default: AdamW(lr=1e-3)
    validation  share of the rows that is held out, or ``(inputs, targets)``, or None
    class_weight "balanced", or {class: weight}, for losses over classes given by name
    early_stopping  stop after this many epochs without a lower validation loss
    restore_best    end with the weights of the epoch with the lowest validation loss
    telemetry   note facts about layers and parameters, see `Trainer`; False: none
    runs        folder in which to keep the run, with checkpoints; None keeps nothing
    resume      the folder of a run that was interrupted: go on where its last checkpoint stands

    The same seed gives the same bits.

    >>> import numpy as np, chainrule as cr
    >>> X = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
    >>> y = X[:, :1] - 2 * X[:, 1:2]
    >>> run = cr.fit(cr.nn.Linear(3, 1), (X, y), optimizer=cr.optim.Adam(lr=0.05), epochs=30)
    >>> run.metrics["r2"] > 0.99
    True
    """
    if not isinstance(model, Module):
        recipe = model if isinstance(model, Recipe) else Recipe.read(model)
        return table.fit_table(recipe, data=data, runs=runs, callbacks=callbacks, telemetry=telemetry)
    inputs, targets = pair(data)
    name = _loss_name(loss, targets)
    chosen = _optimizer(optimizer)
    training = Training(epochs, batch_size, clip_norm, early_stopping, restore_best, seed, backend)
    recipe = _recipe(model, (inputs, targets), name, class_weight, chosen, training, validation)
    train, held_out, rows = split_pair(inputs, targets, validation, seed)
    function = loss if callable(loss) else named_loss(name, class_weight, train[1])
    folder = _folder(runs, resume, recipe, type(model).__name__)
    trainer = Trainer(
        model, function, chosen, clip_norm=clip_norm, batch_size=batch_size, seed=seed, backend=backend,
        telemetry=telemetry,
    )  # fmt: skip
    loop = Loop(
        trainer, train, epochs, validation=held_out, patience=early_stopping, restore_best=restore_best,
        plateau=chosen.plateau_watch(), callbacks=callbacks, folder=folder,
        stamp={"recipe": recipe.hash(), "data": recipe.data.hash}, rows=rows,
    )  # fmt: skip
    if rows.numbers is None:  # else the training has rows of its own
        loop.past.check = lambda: check_data((inputs, targets), recipe)
    table.run_loop(loop, folder)
    model.eval()
    result = _result(TASKS.get(name, ""), loop, held_out)
    if folder is not None:
        finish(folder, model, result, trainer.telemetry)
        storage.record(folder, "finished", result)
    return Run(
        recipe, model, loop.history, result, trainer.predict, folder, telemetry=trainer.telemetry,
        past=loop.past,
    )  # fmt: skip


def _result(task: str, loop: Loop, held_out: tuple[Any, Any] | None) -> dict[str, Any]:
    result: dict[str, Any] = {"task": task, **loop.outcome, "metrics": {}}
    if held_out is not None and task:
        measured = metrics.measure(task, held_out[1], loop.trainer.predict(held_out[0]))
        headline = metrics.HEADLINE[task]
        result["metrics"]["validation"] = measured
        result["headline"] = {"metric": headline, "value": measured.get(headline), "on": "validation"}
    return result


def _loss_name(loss: str | Callable[..., Any] | None, targets: Any) -> str:
    """The name of the loss, by which its task is known; "" for a function of the user's own."""
    if isinstance(loss, str):
        return loss
    if loss is None:
        kind = flatten(targets)[0][0].dtype.kind
        return "mse" if kind == "f" else "bce_with_logits" if kind == "b" else "cross_entropy"
    return next((name for name, kind in LOSSES.items() if type(loss) is kind), "")


def pair(data: Any) -> tuple[Any, Any]:
    """Inputs and targets as arrays with equally many rows, all of them finite; else `DataError`."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise DataError(
            "fit needs data=(inputs, targets): two arrays, or containers of arrays, with equally many rows"
        )
    inputs, targets = (_arrays(each) for each in data)
    counts = {len(leaf) for leaf in flatten((inputs, targets))[0] if leaf.ndim}
    if len(counts) != 1:
        raise DataError(f"inputs and targets have different numbers of rows: {sorted(counts)}")
    if counts == {0}:
        raise DataError("there are no rows to train on")
    for leaf in flatten((inputs, targets))[0]:
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            row = int(np.argwhere(~np.isfinite(leaf))[0][0])
            raise DataError(
                f"the data hold a value that is not finite, first in row {row}; impute or drop such "
                "rows before fit"
            )
    return inputs, targets


def _arrays(value: Any) -> Any:
    leaves, structure = flatten(value)
    if len(leaves) > 1 and all(isinstance(leaf, int | float) for leaf in leaves):
        return np.asarray(value, np.float32 if any(isinstance(leaf, float) for leaf in leaves) else None)
    return unflatten(
        structure, [leaf.numpy() if isinstance(leaf, Tensor) else np.asarray(leaf) for leaf in leaves]
    )


def named_loss(name: str, asked: str | Mapping[Any, float] | None, targets: Any) -> Any:
    """The loss of that name, with class weights as they were asked for."""
    if asked is None or asked == "none":
        return make_loss(name)
    classes = [str(k) for k in range(int(np.max(targets)) + 1)]
    return make_loss(name, None, class_weights(asked, targets, classes))


def _optimizer(given: str | Mapping[str, Any] | optim.Optimizer | None) -> optim.Optimizer:
    if given is None:
        return optim.AdamW(lr=1e-3)
    if isinstance(given, str):
        return optim.from_document({"name": given})
    return optim.from_document(dict(given)) if isinstance(given, Mapping) else given


def split_pair(
    inputs: Any, targets: Any, validation: Any, seed: int
) -> tuple[tuple[Any, Any], tuple[Any, Any] | None, Rows]:
    """What is trained on, what is held out, and which rows the former are."""
    if validation is None or validation == 0:
        return (inputs, targets), None, Rows()
    if not isinstance(validation, float | int):
        return (inputs, targets), pair(validation), Rows()
    leaves, structure = flatten((inputs, targets))
    rows = len(leaves[0])
    held = round(rows * float(validation))
    if not 0 < held < rows:
        raise DataError(
            f"validation={validation} of {rows} rows leaves {held} rows to validate and {rows - held} "
            "to train on"
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(rows)
    numbers = np.sort(order[held:])
    train = unflatten(structure, [leaf[numbers] for leaf in leaves])
    kept = unflatten(structure, [leaf[np.sort(order[:held])] for leaf in leaves])
    return train, kept, Rows(numbers)


def _recipe(
    model: Module,
    data: Any,
    loss: str,
    class_weight: Any,
    optimizer: optim.Optimizer,
    training: Training,
    validation: Any,
) -> Recipe:
    kind = type(model)
    share = float(validation) if isinstance(validation, float | int) else 0.0
    return Recipe(
        data=Data(hash=_hash(data)),
        split=Split(0.0, share, training.seed),
        network=Network(
            hidden=(), model=f"{kind.__module__}.{kind.__qualname__}", source_hash=fingerprint(model)
        ),
        loss=Loss(
            loss or "python",
            class_weight=dict(class_weight) if isinstance(class_weight, Mapping) else class_weight or "none",
        ),
        optimizer=_documented(optimizer),
        training=training,
    )


def _documented(optimizer: optim.Optimizer) -> dict[str, Any]:
    try:
        return optim.to_document(optimizer)
    except RecipeError:  # its schedule is a Python function: the recipe says so and can be read, not replayed
        return {"name": "python", "repr": repr(optimizer)}


def _hash(data: Any) -> str:
    digest = hashlib.sha256()
    for leaf in flatten(data)[0]:
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def check_data(data: Any, recipe: Recipe) -> None:
    """Raise unless these are the arrays that the run of a recipe was trained on."""
    now = _hash(data)
    if now != recipe.data.hash:
        raise RunError(
            f"the data have changed since the run was trained on them: their hash is {now}, then "
            f"{recipe.data.hash}. A step can be replayed on the same arrays alone; restore them"
        )


def _folder(
    runs: str | Path | None, resume: str | Path | None, recipe: Recipe, title: str
) -> RunFolder | None:
    if resume is not None:
        folder = RunFolder(resume)
        saved = folder.recipe()
        if saved.hash() != recipe.hash():
            raise RunError(
                f"{folder.path} was started with another recipe; give fit the same model, data and "
                "settings as then "
                "(recipe.toml says which), or start a new run"
            )
        return folder
    return None if runs is None else storage.create(runs, title, recipe)
