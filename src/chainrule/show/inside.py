"""What went on inside a network while it learned: steps of its run, opened, and what every step noted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from chainrule import nn
from chainrule.errors import ChainruleError
from chainrule.insight.adjoint import Adjoint, parameters_of
from chainrule.insight.bad_number import BadNumber, of_step
from chainrule.insight.explain import explain
from chainrule.insight.ledger import Ledger, ledger
from chainrule.run import RunFolder
from chainrule.show.pictures import dataflow, tree
from chainrule.show.pictures.flow import Dataflow
from chainrule.show.pictures.tree import Branch
from chainrule.train.past import Past, Replayed
from chainrule.train.replaying import bad_step_of, past_of
from chainrule.train.result import Run, load_telemetry
from chainrule.train.telemetry import Telemetry

_RARE = 1e-7
"""A share of rows that stands for none, whose logarithm is not finite."""
_CODE = "Its folder holds neither the code of the Python model nor the data that it was trained on."
_LARGE = 1_000_000
"""Parameters; in a network of more, fewer numbers are opened, as each may take a good part of a second."""


@dataclass(frozen=True)
class Look:
    """One step of a run, taken again and opened.

    step    counted from 0
    ledger  why every gradient is as large as it is
    flow    values forward and derivatives backward, layer by layer
    opened  the largest elements of the gradients of the first and the last weight, where they were asked for
    """

    step: int
    ledger: Ledger
    flow: Dataflow
    opened: tuple[Branch, ...]


@dataclass(frozen=True)
class Inside:
    """What can be told of a run beyond its result.

    looks      at the first and the last step; none where the run cannot be replayed
    missing    why it cannot, "" if it can
    telemetry  of every step, empty where none was noted
    kinds      of layers by path, such as {"0": "Linear"}, as far as they are known
    bad        the number that ended the training, because it was not finite
    constant   the training loss of the best answer that is the same for all rows; None where nobody knows
    """

    looks: tuple[Look, ...] = ()
    missing: str = ""
    telemetry: Telemetry = field(default_factory=Telemetry)
    kinds: Mapping[str, str] = field(default_factory=dict)
    constant: float | None = None
    bad: BadNumber | None = None


UNSEEN = Inside()


def of_run(run: Run) -> Inside:
    """The inside of a run in memory."""
    return _inside(run, run.telemetry)


def of_folder(path: str | Path, **given: Any) -> Inside:
    """The inside of a run on disk, whose data are read again from where they came.

    given  the code and the arrays of a Python model, which its folder does not hold
    """
    folder = RunFolder(path)
    if not folder.has("result.json"):
        return Inside(missing="The run is not finished.")
    telemetry = load_telemetry(path) if folder.has("telemetry.safetensors") else Telemetry()
    found = _inside(path, telemetry, **given)
    if not found.missing or given or not folder.recipe().network.model:
        return found
    call = f'cr.show.write_report("{path}", "report.html", model=..., data=(X, y))'
    return replace(found, missing=f"{_CODE} With both, they are: {call}.")


def _inside(run: Run | str | Path, telemetry: Telemetry, **given: Any) -> Inside:
    try:
        past, bad = past_of(run, **given), bad_step_of(run)
        modules = past.trainer.model.named_modules()
        kinds = {
            path: type(each).__name__ for path, each in modules if not any(True for _ in each.children())
        }
        looks = tuple(_looks(past, kinds))
        ended = None if bad is None else of_step(past, bad)
        return Inside(looks, "", telemetry, kinds, _constant(past), ended)
    except ChainruleError as reason:
        return Inside(missing=str(reason), telemetry=telemetry)


def _constant(past: Past) -> float | None:
    """The training loss of the best answer that is the same for all rows, where the loss is a usual one."""
    targets = past.data[1]
    if len(past.data) != 2 or not isinstance(targets, np.ndarray):
        return None
    answer = _same_for_all(past.trainer.loss, targets)
    if answer is None:
        return None
    return past.trainer.evaluate(np.broadcast_to(answer, (len(targets), *answer.shape)), targets)


def _same_for_all(loss: Any, targets: Any) -> Any:
    """The mean of numbers; the frequencies of classes, as the logarithms that a network puts out."""
    if isinstance(loss, nn.MSELoss):
        return targets.mean(axis=0)
    shares = np.clip(targets.mean(axis=0), _RARE, 1 - _RARE)
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return np.log(shares / (1 - shares))
    if isinstance(loss, nn.CrossEntropyLoss) and targets.ndim == 1 and targets.dtype.kind in "iu":
        return np.log(np.maximum(np.bincount(targets) / len(targets), _RARE))
    return None


def _looks(past: Past, kinds: Mapping[str, str]) -> Iterator[Look]:
    if past.steps > 1:
        yield look(past.replay(0), kinds, opened=False)
    yield look(past.replay(-1), kinds)


def look(step: Replayed, kinds: Mapping[str, str], opened: bool = True) -> Look:
    """A step of a run; with its largest numbers opened, if asked for."""
    trees = tuple(_telling(step)) if opened else ()
    return Look(step.step, ledger(step), dataflow.readable(step.loss, kinds), trees)


def _telling(step: Replayed) -> Iterator[Branch]:
    """The trees of the largest elements in the gradients of the first and of the last weight."""
    parameters = parameters_of(step.loss.node)
    weights = [name for name, leaf in parameters.items() if leaf.ndim > 1] or list(parameters)
    ends = list(dict.fromkeys([weights[0], weights[-1]]))
    adjoint = Adjoint(step.loss.node, [parameters[name] for name in ends])
    size = sum(leaf.size for leaf in parameters.values())
    opened = (3, 2, 1) if size <= _LARGE else (2, 1)
    for name in ends:
        (gradient,) = adjoint.cotangents.get(parameters[name], (None,))
        if gradient is None or not np.isfinite(gradient).all() or not gradient.any():
            continue  # nothing flows, or nothing can be told: the ledger says which
        index = tuple(map(int, np.unravel_index(np.abs(gradient).argmax(), gradient.shape)))
        yield tree.of_explanation(explain(step, name, index, most=4), opened, data=False)
