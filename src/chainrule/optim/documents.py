"""Optimizers as plain documents, for recipes: numbers, strings, lists and nested dicts, nothing else.

>>> from chainrule import optim
>>> document = {"name": "adamw", "schedule": {"name": "one_cycle", "max_lr": 0.003, "total_steps": 6000}}
>>> optimizer = optim.from_document(document)
>>> optimizer.lr.max_lr, optimizer.betas
(0.003, (0.9, 0.999))
>>> optim.from_document(optim.to_document(optimizer)) == optimizer
True
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from chainrule.errors import RecipeError
from chainrule.optim import algorithms, schedules, transforms
from chainrule.optim.base import Optimizer, Transform
from chainrule.optim.schedules import Schedule

OPTIMIZERS: dict[str, type[Any]] = {
    each.name: each
    for each in (
        algorithms.SGD, algorithms.RMSprop, algorithms.Adam, algorithms.AdamW, algorithms.Adagrad,
        transforms.Chain,
    )
}  # fmt: skip
TRANSFORMS: dict[str, type[Any]] = {
    each.name: each
    for each in (transforms.clip_by_global_norm, transforms.clip_by_value, transforms.add_decayed_weights)
}
SCHEDULES: dict[str, type[Any]] = {
    "constant": schedules.Constant,
    "step": schedules.Step,
    "multi_step": schedules.MultiStep,
    "exponential": schedules.Exponential,
    "cosine": schedules.Cosine,
    "linear_warmup": schedules.LinearWarmup,
    "warmup_cosine": schedules.WarmupCosine,
    "one_cycle": schedules.OneCycle,
    "plateau": schedules.Plateau,
}


def from_document(document: Mapping[str, Any]) -> Optimizer:
    """The optimizer a document describes.

    ``name`` chooses the algorithm, the other entries are its options; ``schedule`` is a document of its own,
    whose ``lr`` is that of the optimizer unless it says otherwise. ``{"name": "chain", "stages": [...],
    "optimizer": {...}}`` is a `chain`. Raises `RecipeError` with the nearest name for one that is not known.
    """
    kind, options = _chosen(document, OPTIMIZERS, "optimizer")
    if kind is transforms.Chain:
        _check_options(options, ["stages", "optimizer"], "optimizer 'chain'")
        stages = [
            _built(*_chosen(each, TRANSFORMS, "gradient transform")) for each in options.get("stages", ())
        ]
        return transforms.chain(*stages, from_document(options.get("optimizer", {})))
    if "schedule" in options:
        options["lr"] = _schedule(options.pop("schedule"), options.get("lr"))
    optimizer: Optimizer = _built(kind, options, ["schedule"])
    return optimizer


def _schedule(document: Mapping[str, Any], rate: Any) -> Schedule:
    kind, options = _chosen(document, SCHEDULES, "schedule")
    if rate is not None and "lr" in {each.name for each in fields(kind)}:
        options.setdefault("lr", rate)
    schedule: Schedule = _built(kind, options)
    return schedule


def to_document(optimizer: Optimizer) -> dict[str, Any]:
    """The document of an optimizer, every option written out."""
    if isinstance(optimizer, transforms.Chain):
        stages = [_document(stage) for stage in optimizer.stages]
        return {"name": optimizer.name, "stages": stages, "optimizer": to_document(optimizer.optimizer)}
    document = _document(optimizer)
    if isinstance(optimizer.lr, Schedule):
        name = next(name for name, kind in SCHEDULES.items() if kind is type(optimizer.lr))
        document["schedule"] = {"name": name, **_options(optimizer.lr)}
        del document["lr"]
    elif callable(optimizer.lr):
        raise RecipeError(
            f"the schedule {optimizer.lr!r} is a Python function, which a recipe cannot hold; use one of "
            f"cr.optim's schedules ({', '.join(SCHEDULES)})"
        )
    return document


def _document(transform: Transform) -> dict[str, Any]:
    return {"name": transform.name, **_options(transform)}


def _options(described: Any) -> dict[str, Any]:
    values = {each.name: getattr(described, each.name) for each in fields(described)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _chosen(
    document: Mapping[str, Any], known: Mapping[str, type[Any]], what: str
) -> tuple[type[Any], dict[str, Any]]:
    options = dict(document)
    name = options.pop("name", None)
    if name is None:
        raise RecipeError(f"the {what} has no name; write name = one of {', '.join(known)}")
    if name not in known:
        raise RecipeError(f"there is no {what} {name!r}{_hint(name, list(known))}")
    return known[name], options


def _built(kind: type[Any], options: Mapping[str, Any], also: list[str] | None = None) -> Any:
    accepted = [each.name for each in fields(kind)]
    _check_options(options, accepted + (also or []), kind.__name__)
    missing = [each.name for each in fields(kind) if each.default is MISSING and each.name not in options]
    if missing:
        raise RecipeError(f"{kind.__name__} needs {' and '.join(missing)}; it has {', '.join(accepted)}")
    for each in fields(kind):
        if isinstance(each.default, bool) and not isinstance(options.get(each.name, False), bool):
            raise RecipeError(f"{kind.__name__}: {each.name} = {options[each.name]!r} must be true or false")
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in options.items()})


def _check_options(options: Mapping[str, Any], accepted: list[str], owner: str) -> None:
    for name in options:
        if name not in accepted:
            raise RecipeError(f"{owner} has no option {name!r}{_hint(name, accepted)}")


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def with_total_steps(optimizer: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The optimizer document, with the length of the training filled into a schedule that spans it."""
    document = dict(optimizer)
    schedule = document.get("schedule")
    if isinstance(schedule, Mapping) and "total_steps" not in schedule:
        kind = SCHEDULES.get(str(schedule.get("name")))
        if kind is not None and "total_steps" in {each.name for each in fields(kind)}:
            document["schedule"] = {**schedule, "total_steps": steps}
    return document
