"""The optimizers: SGD, RMSprop, Adam, AdamW, Adagrad, with PyTorch's names, defaults and meanings.

Numbers that depend on the step alone (learning rate, bias corrections) are float64 scalars, computed once per
step; per parameter only the arithmetic that needs its elements is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from chainrule.errors import RecipeError
from chainrule.graph import Node
from chainrule.ops import ops
from chainrule.optim.base import Algorithm, Rate
from chainrule.optim.checks import check_number
from chainrule.tensor import Tensor, asarray


def _decayed(gradient: Node, parameter: Node, weight_decay: float) -> Node:
    """The gradient of the loss plus weight_decay / 2 times the squared parameter."""
    if weight_decay == 0:
        return gradient
    return ops.add(gradient, ops.multiply(parameter, weight_decay))


def _average(kept: Node, new: Node, decay: float) -> Node:
    """An exponential moving average that keeps the share `decay` of what it was."""
    return ops.add(ops.multiply(kept, decay), ops.multiply(new, 1 - decay))


def _check_weight_decay(optimizer: Any) -> None:
    check_number(
        optimizer, "weight_decay", optimizer.weight_decay, cure="0 switches it off, 0.0001 to 0.1 are usual"
    )


def _check_eps(optimizer: Any) -> None:
    check_number(
        optimizer, "eps", optimizer.eps, cure="it only keeps the quotient finite, 1e-8 and 1e-10 are usual"
    )


@dataclass(frozen=True)
class SGD(Algorithm):
    """Stochastic gradient descent, with momentum as in PyTorch (Sutskever et al., ICML 2013).

    >>> import chainrule as cr
    >>> sgd = cr.optim.SGD(lr=0.1)
    >>> w = {"w": cr.asarray([1.0, 2.0])}
    >>> updates, state = sgd.update({"w": cr.asarray([1.0, -1.0])}, sgd.init(w), w)
    >>> updates["w"].tolist(), state["count"].item()
    ([-0.10000000149011612, 0.10000000149011612], 1)
    """

    name: ClassVar[str] = "sgd"

    lr: Rate = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "momentum", self.momentum, cure="0.9 is usual, 0 switches it off")
        check_number(self, "dampening", self.dampening, cure="0 is usual")
        _check_weight_decay(self)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise RecipeError(
                f"SGD: nesterov=True looks ahead along the momentum, but momentum = {self.momentum!r} and "
                f"dampening = {self.dampening!r}; set momentum=0.9 and dampening=0, or nesterov=False"
            )

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def scalars(self, rate: Node, count: Node) -> dict[str, Node]:
        found = {"minus_rate": ops.negative(rate)}
        if self.momentum and self.dampening:  # the first gradient enters the buffer undampened
            all_of_it = ops.constant(1, np.float64)
            found["taken"] = ops.where(ops.equal(count, 1), all_of_it, 1 - self.dampening)
        return found

    def rule(self, gradient: Node, parameter: Node, kept: dict[str, Node], scalars: dict[str, Node]) -> Node:
        gradient = _decayed(gradient, parameter, self.weight_decay)
        if self.momentum:
            taken = ops.multiply(gradient, scalars["taken"]) if "taken" in scalars else gradient
            velocity = ops.add(ops.multiply(kept["momentum_buffer"], self.momentum), taken)
            kept["momentum_buffer"] = velocity
            gradient = ops.add(gradient, ops.multiply(velocity, self.momentum)) if self.nesterov else velocity
        return ops.multiply(gradient, scalars["minus_rate"])


@dataclass(frozen=True)
class RMSprop(Algorithm):
    """Steps divided by a running root mean square of the gradient (Tieleman and Hinton, 2012)."""

    name: ClassVar[str] = "rmsprop"

    lr: Rate = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "alpha", self.alpha, high=1.0, cure="0.99 is usual, it is the share that is kept")
        check_number(self, "momentum", self.momentum, cure="0 switches it off")
        _check_eps(self)
        _check_weight_decay(self)

    @property
    def slots(self) -> tuple[str, ...]:
        with_momentum = ("momentum_buffer",) if self.momentum else ()
        return ("square_avg", *with_momentum, *(("grad_avg",) if self.centered else ()))

    def scalars(self, rate: Node, count: Node) -> dict[str, Node]:
        return {"minus_rate": ops.negative(rate)}

    def rule(self, gradient: Node, parameter: Node, kept: dict[str, Node], scalars: dict[str, Node]) -> Node:
        gradient = _decayed(gradient, parameter, self.weight_decay)
        spread = kept["square_avg"] = _average(kept["square_avg"], ops.square(gradient), self.alpha)
        if self.centered:
            mean = kept["grad_avg"] = _average(kept["grad_avg"], gradient, self.alpha)
            # A variance; rounding can bring it below 0 when the gradient does not change.
            spread = ops.maximum(ops.subtract(spread, ops.square(mean)), 0)
        change = ops.divide(gradient, ops.add(ops.sqrt(spread), self.eps))
        if self.momentum:
            change = ops.add(ops.multiply(kept["momentum_buffer"], self.momentum), change)
            kept["momentum_buffer"] = change
        return ops.multiply(change, scalars["minus_rate"])


@dataclass(frozen=True)
class Adam(Algorithm):
    """Adaptive moments (Kingma and Ba, arXiv:1412.6980; `amsgrad`: Reddi et al., ICLR 2018).

    The rule is the paper's with the bias corrections moved into two scalars (its section 2, last paragraph):
    ``-rate * sqrt(c2) / c1 * m / (sqrt(v) + eps * sqrt(c2))`` with ``c1 = 1 - beta1**count``, likewise c2.

    >>> import chainrule as cr
    >>> model = cr.nn.Linear(2, 1)
    >>> optimizer = cr.optim.Adam(model.parameters(), lr=0.01)
    >>> cr.mean(model(cr.ones((4, 2))) ** 2).backward()
    >>> optimizer.step()
    >>> optimizer.zero_grad()
    """

    name: ClassVar[str] = "adam"

    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.shape(self.betas) != (2,):
            raise RecipeError(
                f"{type(self).__name__}: betas = {self.betas!r} must be two numbers, such as (0.9, 0.999)"
            )
        object.__setattr__(self, "betas", tuple(self.betas))  # recipes write lists
        for k, (beta, usual) in enumerate(zip(self.betas, ("0.9", "0.999"), strict=True)):
            check_number(
                self, f"betas[{k}]", beta, high=1.0, cure=f"{usual} is usual, it is the share that is kept"
            )
        _check_eps(self)
        _check_weight_decay(self)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if self.amsgrad else ()))

    def scalars(self, rate: Node, count: Node) -> dict[str, Node]:
        first, second = (
            ops.subtract(1.0, ops.pow(ops.constant(beta, np.float64), count)) for beta in self.betas
        )
        root = ops.sqrt(second)
        return {
            "minus_size": ops.negative(ops.divide(ops.multiply(rate, root), first)),
            "eps": ops.multiply(root, self.eps),
        }

    def rule(self, gradient: Node, parameter: Node, kept: dict[str, Node], scalars: dict[str, Node]) -> Node:
        return self._moved(_decayed(gradient, parameter, self.weight_decay), kept, scalars)

    def _moved(self, gradient: Node, kept: dict[str, Node], scalars: dict[str, Node]) -> Node:
        mean = kept["exp_avg"] = _average(kept["exp_avg"], gradient, self.betas[0])
        spread = kept["exp_avg_sq"] = _average(kept["exp_avg_sq"], ops.square(gradient), self.betas[1])
        if self.amsgrad:
            spread = kept["max_exp_avg_sq"] = ops.maximum(kept["max_exp_avg_sq"], spread)
        quotient = ops.divide(mean, ops.add(ops.sqrt(spread), scalars["eps"]))
        return ops.multiply(quotient, scalars["minus_size"])


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay that the moments do not see (Loshchilov and Hutter, arXiv:1711.05101)."""

    name: ClassVar[str] = "adamw"

    weight_decay: float = 1e-2

    def scalars(self, rate: Node, count: Node) -> dict[str, Node]:
        return {**super().scalars(rate, count), "minus_decay": ops.multiply(rate, -self.weight_decay)}

    def rule(self, gradient: Node, parameter: Node, kept: dict[str, Node], scalars: dict[str, Node]) -> Node:
        change = self._moved(gradient, kept, scalars)
        if self.weight_decay == 0:
            return change
        return ops.add(change, ops.multiply(parameter, scalars["minus_decay"]))


@dataclass(frozen=True)
class Adagrad(Algorithm):
    """Steps divided by the root of the sum of all squared gradients (Duchi, Hazan and Singer, JMLR 2011)."""

    name: ClassVar[str] = "adagrad"

    lr: Rate = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "lr_decay", self.lr_decay, cure="0 switches it off")
        check_number(
            self,
            "initial_accumulator_value",
            self.initial_accumulator_value,
            cure="0 is usual",
        )
        _check_eps(self)
        _check_weight_decay(self)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("sum",)

    def first(self, slot: str, parameter: Any) -> Tensor:
        return asarray(np.full(parameter.shape, self.initial_accumulator_value, parameter.dtype))

    def scalars(self, rate: Node, count: Node) -> dict[str, Node]:
        if self.lr_decay:
            earlier = ops.multiply(ops.subtract(count, 1.0), self.lr_decay)
            rate = ops.divide(rate, ops.add(earlier, 1.0))
        return {"minus_rate": ops.negative(rate)}

    def rule(self, gradient: Node, parameter: Node, kept: dict[str, Node], scalars: dict[str, Node]) -> Node:
        gradient = _decayed(gradient, parameter, self.weight_decay)
        kept["sum"] = ops.add(kept["sum"], ops.square(gradient))
        quotient = ops.divide(gradient, ops.add(ops.sqrt(kept["sum"]), self.eps))
        return ops.multiply(quotient, scalars["minus_rate"])
