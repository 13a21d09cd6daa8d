"""The recipe: one plain document with everything that decides a result.

A run is a recipe and what came of it. A recipe is read and written as TOML; every section has a default, so
the shortest useful one names a data source and a target.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from chainrule.errors import RecipeError

FORMAT = 1


@dataclass(frozen=True)
class Data:
    """Where the rows come from and what is predicted."""

    source: str = ""
    target: str = ""
    task: str = "auto"
    """"regression", "binary", "multiclass", or "auto": read off the target."""
    drop: tuple[str, ...] = ()
    """Columns that are left out."""
    hash: str = ""
    """Content hash of the table that was read; set by the run."""


@dataclass(frozen=True)
class Split:
    """Shares of the rows that are held out. Classes are kept in proportion."""

    test: float = 0.2
    validation: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron over the prepared columns."""

    hidden: tuple[int, ...] = (128, 64)
    activation: str = "relu"
    dropout: float = 0.0
    normalisation: str = "none"
    """"none", "batch" or "layer", applied before each activation."""
    residual: bool = False
    initialisation: str = "auto"
    """"auto" (Kaiming for the ReLU family, Xavier for the rest), "pytorch", or a name in cr.nn.init."""
    model: str = ""
    """For a network written in Python: its qualified name."""
    source_hash: str = ""
    """For a network written in Python: the hash of its source."""


@dataclass(frozen=True)
class Loss:
    """The loss function; "auto" takes the one that fits the task."""

    name: str = "auto"
    class_weight: str | dict[str, float] = "none"
    """"none", "balanced", or a weight per class."""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How long and in which portions."""

    epochs: int = 100
    batch_size: int = 64
    clip_norm: float | None = None
    early_stopping: int | None = None
    """Stop after this many epochs without a better validation loss; the best weights are restored."""
    restore_best: bool = True
    """Keep the weights of the epoch with the best validation loss, also without early stopping."""
    seed: int = 0
    backend: str = "native"


_DEFAULT_OPTIMIZER: dict[str, Any] = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a result.

    >>> import chainrule as cr
    >>> recipe = cr.Recipe.from_document({"data": {"source": "houses.csv", "target": "price"}})
    >>> recipe.training.batch_size
    64
    """

    data: Data = Data()
    split: Split = Split()
    preprocessing: dict[str, Any] = field(default_factory=dict)
    network: Network = Network()
    loss: Loss = Loss()
    optimizer: dict[str, Any] = field(default_factory=lambda: dict(_DEFAULT_OPTIMIZER))
    training: Training = Training()

    @classmethod
    def from_document(cls, document: Mapping[str, Any], where: str = "the recipe") -> Recipe:
        """The recipe a plain document describes; `RecipeError` names what does not belong."""
        given = dict(document)
        version = given.pop("format", FORMAT)
        if version != FORMAT:
            raise RecipeError(
                f"{where} has format {version!r}; this version of chainrule reads format {FORMAT}"
            )
        _check_names(given, [each.name for each in fields(cls)], where, "section")
        hints = get_type_hints(cls)
        sections: dict[str, Any] = {}
        for name, value in given.items():
            if not isinstance(value, Mapping):
                raise RecipeError(f"{where}: [{name}] must be a table of settings, not {value!r}")
            sections[name] = (
                dict(value)
                if get_origin(hints[name]) is dict
                else _section(hints[name], value, f"{where}, [{name}]")
            )
        recipe = cls(**sections)
        _check_ranges(recipe.training, where)
        return recipe

    def to_document(self) -> dict[str, Any]:
        """A plain document: nested dicts of numbers, strings and lists, without what is None."""
        return {"format": FORMAT, **_plain(asdict(self))}

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a TOML (or JSON) file."""
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RecipeError(f"there is no recipe {file}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read the recipe {file}: {error}") from None
        try:
            document = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
        except ValueError as error:
            raise RecipeError(
                f"{file} is not valid {'JSON' if file.suffix == '.json' else 'TOML'}: {error}"
            ) from None
        return cls.from_document(document, str(file))

    def to_toml(self) -> str:
        """The recipe as TOML text."""
        import tomli_w

        return tomli_w.dumps(self.to_document())

    def hash(self) -> str:
        """A short hash of everything that decides the result."""
        return hashlib.sha256(json.dumps(self.to_document(), sort_keys=True).encode()).hexdigest()[:16]

    def with_(self, **sections: Mapping[str, Any]) -> Recipe:
        """A recipe with some settings changed: ``recipe.with_(network={"activation": "tanh"})``."""
        changed: dict[str, Any] = {}
        for name, settings in sections.items():
            _check_names({name: None}, [each.name for each in fields(self)], "the recipe", "section")
            current = getattr(self, name)
            if isinstance(current, dict):
                changed[name] = {**current, **settings}
            else:
                _check_names(settings, [each.name for each in fields(current)], f"[{name}]", "setting")
                changed[name] = replace(current, **settings)
        return Recipe.from_document(
            {**self.to_document(), **_plain({k: _document(v) for k, v in changed.items()})}
        )


def _document(section: Any) -> dict[str, Any]:
    return dict(section) if isinstance(section, dict) else asdict(section)


def _plain(value: Any) -> Any:
    """Tuples to lists, None left out: what TOML can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _check_names(given: Mapping[str, Any], known: list[str], where: str, what: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
            raise RecipeError(f"{where}: there is no {what} {name!r}{hint}")


def _check_ranges(training: Training, where: str) -> None:
    least = {"epochs": 0, "batch_size": 1, "early_stopping": 1}
    for name, lowest in least.items():
        value = getattr(training, name)
        if value is not None and value < lowest:
            raise RecipeError(f"{where}, [training]: {name} = {value} is less than {lowest}")
    if training.clip_norm is not None and not training.clip_norm > 0:
        raise RecipeError(f"{where}, [training]: clip_norm = {training.clip_norm} is not above 0")


def _section(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    _check_names(values, [each.name for each in fields(kind)], where, "setting")
    hints = get_type_hints(kind)
    return kind(**{name: _checked(value, hints[name], f"{where}: {name}") for name, value in values.items()})


def _checked(value: Any, hint: Any, where: str) -> Any:
    """`value` if it is of the type a setting wants (integers pass for floats)."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        options = [each for each in get_args(hint) if each is not type(None)]
        for option in options:
            try:
                return _checked(value, option, where)
            except RecipeError:
                continue
        raise RecipeError(f"{where} = {value!r} is not a {' or a '.join(map(_kind_name, options))}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{where} = {value!r} is not a list")
        return tuple(_checked(each, get_args(hint)[0], where) for each in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} = {value!r} is not a table")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and (hint is bool or not isinstance(value, bool))):
        return value
    raise RecipeError(f"{where} = {value!r} is not a {_kind_name(hint)}")


def _kind_name(hint: Any) -> str:
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(hint, "table")
