"""PyTorch in the usual loop, watched as people watch it: with hooks, with TensorBoard, with wandb.

hooks, hooks_every_step  the facts that chainrule's telemetry notes (norm, mean, largest, zeros, not finite;
of activations, errors, gradients, weights, updates), at one step of 16 or at
every one: kept as tensors, brought over once a step
tensorboard              a histogram of every parameter and gradient, at the rate of chainrule's
wandb                    `wandb.watch(log="all")` at that rate, and the loss of every step; offline
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.peers.pytorch import Training
from benchmarks.specs import Array, Spec
from chainrule.train import Rates

RATES = Rates(facts=16)


class Nothing:
    """Watches nothing: what the others do not do."""

    def __init__(self, model: Any) -> None:
        self.model, self.count = model, 0

    def backward_done(self, loss: Any) -> None:
        """After the backward pass."""

    def updated(self) -> None:
        """After the update."""
        self.count += 1


class Hooks(Nothing):
    """Facts of every array at every `every` steps."""

    def __init__(self, model: Any, every: int) -> None:
        super().__init__(model)
        self.every, self.log = every, []
        self.told: list[Any] = []
        self.before: list[Any] = []
        self.parameters = list(model.parameters())
        for module in model:
            module.register_forward_hook(self.forward)

    @property
    def watching(self) -> bool:
        return self.count % self.every == 0

    def facts(self, array: Any) -> None:
        sizes = array.abs()
        self.told += [array.norm(), array.mean(), sizes.max()]
        self.told += [(array == 0).float().mean(), (~array.isfinite()).sum().float()]

    def forward(self, module: Any, _: Any, output: Any) -> None:
        if self.watching:
            self.facts(output.detach())
            if isinstance(module, nn.Linear):
                output.register_hook(self.facts)

    def backward_done(self, loss: Any) -> None:
        if self.watching:
            for each in self.parameters:
                self.facts(each.grad)
            self.before = [each.detach().clone() for each in self.parameters]

    def updated(self) -> None:
        if self.watching:
            for each, old in zip(self.parameters, self.before, strict=True):
                self.facts(each.detach())
                self.facts(each.detach() - old)
            self.log.append(torch.stack(self.told).tolist())
            self.told = []
        super().updated()


class Histograms(Nothing):
    """TensorBoard's, of every parameter and gradient."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(tempfile.mkdtemp())

    def backward_done(self, loss: Any) -> None:
        if self.count % RATES.pictures == 0:
            for name, each in self.model.named_parameters():
                self.writer.add_histogram(name, each, self.count)
                self.writer.add_histogram(f"{name}.grad", each.grad, self.count)


class Wandb(Nothing):
    """wandb.watch, and the loss of every step."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        folder = tempfile.mkdtemp()
        os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": folder}
        import wandb

        self.run = wandb.init(project="race", dir=folder)
        wandb.watch(model, log="all", log_freq=RATES.pictures)

    def backward_done(self, loss: Any) -> None:
        self.run.log({"loss": loss.item()})


WATCHES: dict[str, Callable[[Any], Nothing]] = {
    "hooks": lambda model: Hooks(model, RATES.facts),
    "hooks_every_step": lambda model: Hooks(model, 1),
    "tensorboard": Histograms,
    "wandb": Wandb,
}


class Watched(Training):
    """The usual loop, and who watches it."""

    def __init__(self, spec: Spec, X: Array, y: Array | None, variant: str) -> None:
        super().__init__(spec, X, y, "fused")
        watch, objective, last = WATCHES[variant](self.model), self.objective, None

        def noted(x: Any, y: Any) -> Any:
            nonlocal last
            last = objective(x, y)
            return last

        self.objective = noted
        self.optimizer.register_step_pre_hook(lambda *_: watch.backward_done(last))
        self.optimizer.register_step_post_hook(lambda *_: watch.updated())


def make(spec: Spec, X: Array, y: Array | None, variant: str, mode: str) -> Any:
    """The runner of a workload."""
    if mode != "train" or spec.kind != "mlp":
        raise NotImplementedError("watched are training steps of networks of linear layers")
    return Watched(spec, X, y, variant)
