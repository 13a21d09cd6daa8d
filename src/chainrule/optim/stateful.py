"""PyTorch's shell around a pure optimizer: it remembers parameters and state between calls of ``step()``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from chainrule.errors import GradientError, RecipeError, ShapeError
from chainrule.program import compile
from chainrule.tensor import Parameter, Tensor, asarray

Group = dict[str, Any]


class StatefulOptimizer:
    """An optimizer that holds parameters, as in PyTorch: ``loss.backward(); step(); zero_grad()``.

    `param_groups` is PyTorch's list of dicts; ``param_groups[0]["lr"] = 0.01`` counts from the next step on.
    `state` has one dict per parameter: the step count and the algorithm's slots.
    Parameters whose `.grad` is None are left alone. A parameter shared by several layers is updated once.
    """

    def __init__(self, optimizer: Any, params: Any) -> None:
        self.optimizer = optimizer
        self.defaults = {each.name: getattr(optimizer, each.name) for each in fields(optimizer)}
        self.param_groups: list[Group] = []
        self.state: dict[Parameter, dict[str, Any]] = {}
        self._update = compile(_updated)
        for group in _as_groups(params, type(optimizer).__name__):
            self.add_param_group(group)
        if not self.parameters():
            raise RecipeError(
                f"{type(optimizer).__name__} was given no parameters. An iterator such as model.parameters() "
                "can be used only once: make a new one, or keep list(model.parameters())"
            )

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add ``{"params": [...], "lr": ..., ...}``; what the group does not say is as in `defaults`."""
        options = {name: value for name, value in group.items() if name != "params"}
        self._algorithm({**self.defaults, **options})  # complains about options that do not fit
        already = set(self.parameters())
        added = list(dict.fromkeys(_parameters(group["params"], type(self.optimizer).__name__)))
        for each in added:
            if each in already:
                raise RecipeError(
                    f"{each.describe()} stands in two parameter groups; it can have only one rate"
                )
        self.param_groups.append({"params": added, **self.defaults, **options})

    def parameters(self) -> list[Parameter]:
        """All parameters, group by group; `state_dict` numbers them in this order."""
        return [each for group in self.param_groups for each in group["params"]]

    def _algorithm(self, options: Mapping[str, Any]) -> Any:
        known = {name: value for name, value in options.items() if name in self.defaults}
        extra = [name for name in options if name not in self.defaults and name != "initial_lr"]
        if extra:
            raise RecipeError(
                f"{type(self.optimizer).__name__} has no option {extra[0]!r}; "
                f"it has {', '.join(self.defaults)}"
            )
        return replace(self.optimizer, **known)

    # -- a step ----------------------------------------------------------------------------------------------
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            algorithm = self._algorithm({name: value for name, value in group.items() if name != "params"})
            with_gradient = [each for each in group["params"] if each.grad is not None]
            for count, parameters in self._by_count(with_gradient):
                self._step(algorithm, count, parameters)

    def _by_count(self, parameters: Iterable[Parameter]) -> Iterator[tuple[int, list[Parameter]]]:
        """Parameters that were updated equally often, together: one set, unless gradients were missing."""
        by_count: dict[int, list[Parameter]] = {}
        for each in parameters:
            count = self.state[each]["step"] if each in self.state else 0
            by_count.setdefault(count, []).append(each)
        return iter(by_count.items())

    def _step(self, algorithm: Any, count: int, parameters: list[Parameter]) -> None:
        named = {_path(each, index): each for index, each in enumerate(parameters)}
        for each in parameters:
            if each not in self.state:
                self.state[each] = {"step": 0, **{s: algorithm.first(s, each) for s in algorithm.slots}}
            elif missing := [slot for slot in algorithm.slots if slot not in self.state[each]]:
                self.state[each].update({slot: algorithm.first(slot, each) for slot in missing})
        moments = {s: {path: self.state[p][s] for path, p in named.items()} for s in algorithm.slots}
        rate = np.float64(algorithm.rate(count).value)
        gradients = {path: each.grad for path, each in named.items()}
        static = replace(algorithm, lr=0.0)  # the rate is an input, so that changing it traces nothing anew
        values, after = self._update(static, rate, np.int64(count + 1), gradients, moments, named)
        for path, each in named.items():
            each.assign(values[path])
            self.state[each].update(step=count + 1, **{slot: after[slot][path] for slot in algorithm.slots})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients (or set those that exist to zeros)."""
        for each in self.parameters():
            if each.grad is not None:
                each.grad = None if set_to_none else asarray(np.zeros(each.shape, each.dtype))

    # -- saving ----------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """``{"state": {number: {...}}, "param_groups": [...]}``: PyTorch's layout, parameters numbered."""
        number = {each: index for index, each in enumerate(self.parameters())}
        groups = [
            {**group, "params": [number[each] for each in group["params"]]} for group in self.param_groups
        ]
        return {
            "state": {number[each]: dict(kept) for each, kept in self.state.items()},
            "param_groups": groups,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`, ours or PyTorch's; everything is checked before anything changes."""
        groups, own = state_dict["param_groups"], self.param_groups
        sizes, wanted = [len(group["params"]) for group in groups], [len(group["params"]) for group in own]
        if sizes != wanted:
            raise RecipeError(
                f"the state_dict has parameter groups of {sizes} parameters, this optimizer of {wanted}: "
                "build the optimizer for the same model and groups before loading"
            )
        options = [_options(group, self.defaults) for group in groups]
        for each in options:
            self._algorithm(each)
        parameters, kept = self.parameters(), state_dict["state"]
        numbers = [number for group in groups for number in group["params"]]
        state = {p: _loaded(p, kept[n]) for p, n in zip(parameters, numbers, strict=True) if n in kept}
        for group, each in zip(own, options, strict=True):
            group.update(each)
        self.state = state

    def __repr__(self) -> str:
        counts = ", ".join(str(len(group["params"])) for group in self.param_groups)
        return f"<{self.optimizer!r} of {counts} parameters>"


def _updated(
    algorithm: Any, rate: Any, count: Any, gradients: Any, moments: Any, parameters: Any
) -> tuple[dict[str, Tensor], Any]:
    updates, after = algorithm.step(rate, count, gradients, moments, parameters)
    return {path: parameters[path] + change for path, change in updates.items()}, after


def _path(parameter: Parameter, index: int) -> str:
    return f"{index}:{parameter.name}" if parameter.name else str(index)


def _as_groups(params: Any, name: str) -> list[Mapping[str, Any]]:
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise RecipeError(
            f"{name} takes an iterable of parameters, such as model.parameters(), "
            f"not one {type(params).__name__}"
        )
    listed = list(params)
    if listed and all(isinstance(each, Mapping) for each in listed):
        for each in listed:
            if "params" not in each:
                raise RecipeError(
                    f"{name}: a parameter group needs an entry 'params', this one has {list(each)}"
                )
        return listed
    return [{"params": listed}]


def _parameters(params: Any, name: str) -> list[Parameter]:
    """The parameters in an iterable of them, or of (name, parameter) pairs."""
    listed = [params] if isinstance(params, Tensor) else list(params)
    found: list[Any] = [each[1] if isinstance(each, tuple) else each for each in listed]
    for each in found:
        if not isinstance(each, Parameter):
            raise GradientError(
                f"{name} can only train cr.nn.Parameter objects, not {type(each).__name__}: a Tensor is "
                "immutable. Wrap the value, w = cr.nn.Parameter(value), and compute with w"
            )
    return found


def _options(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> Group:
    """The options of a saved group that this algorithm has; PyTorch's speed switches mean nothing here."""
    if group.get("maximize"):
        raise RecipeError("the state_dict was saved with maximize=True; minimise the negative loss instead")
    return {name: value for name, value in group.items() if name in defaults or name == "initial_lr"}


def _loaded(parameter: Parameter, kept: Mapping[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = {
        "step": 1
    }  # PyTorch's SGD counts nothing; all it asks is whether a step was taken
    for slot, value in kept.items():
        if value is None:
            continue
        array = np.asarray(value)
        if slot == "step":
            loaded["step"] = int(array)
        elif array.shape != parameter.shape:
            raise ShapeError(
                f"the state_dict holds {slot} of shape {array.shape} for {parameter.describe()} of shape "
                f"{parameter.shape}: it was saved for another model, or its parameters are in another order"
            )
        else:
            loaded[slot] = asarray(array, parameter.dtype)
    return loaded
