"""Step times of small networks: eager, interpreted, compiled for NumPy, and NumPy written by hand.

    OPENBLAS_NUM_THREADS=1 taskset -c 1 .venv/bin/python benchmarks/engine.py

A step is forward, backward and Adam on one batch, in float32, on one core. The contenders take turns, so that
a slow moment of the machine hits all of them; each figure is the median of its turns. "interpreted" is the
same graph run by its meanings, one NumPy call after the other: what the numpy backend was before it wrote
programs.

On one x86-64 core (NumPy 2.4 with OpenBLAS), in microseconds per step:

                                              eager  interpreted  compiled  by hand  compiled / by hand
    8-64-64-1, batch 64, squared error         1435          328       125      141                0.89
    784-256-128-10, batch 128, cross-entropy   5700         3154      2373     2230                1.06
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

import chainrule as cr
from chainrule.backends.numpy import compile_graph
from chainrule.graph import Graph
from chainrule.tensor import Buffer
from chainrule.trace import trace_program
from chainrule.tree import flatten, unflatten
from chainrule.types import type_of

Array = np.ndarray[Any, Any]
Step = Callable[[], Any]
BETA_1, BETA_2, EPS, RATE = 0.9, 0.999, 1e-8, 1e-3
WORKLOADS = {
    "8-64-64-1, batch 64, squared error": ((8, 64, 64, 1), 64),
    "784-256-128-10, batch 128, cross-entropy": ((784, 256, 128, 10), 128),
}


def data(sizes: tuple[int, ...], batch: int) -> tuple[Array, Array]:
    """One batch: random inputs, and targets that are numbers or classes."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(batch, sizes[0])).astype(np.float32)
    if sizes[-1] == 1:
        return x, generator.normal(size=(batch, 1)).astype(np.float32)
    return x, generator.integers(0, sizes[-1], batch)


class ByHand:
    """Backpropagation and Adam as one writes them with NumPy and some care: in place where natural."""

    def __init__(self, weights: list[Array], biases: list[Array]) -> None:
        self.weights, self.biases = weights, biases
        self.parameters = [*weights, *biases]
        self.means = [np.zeros_like(each) for each in self.parameters]
        self.squares = [np.zeros_like(each) for each in self.parameters]
        self.count = 0

    def step(self, x: Array, y: Array) -> float:
        loss, gradients = self.gradients(x, y)
        self.update(gradients)
        return loss

    def gradients(self, x: Array, y: Array) -> tuple[float, list[Array]]:
        inputs = [x]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            z = inputs[-1] @ weight.T
            z += bias
            inputs.append(np.maximum(z, 0, out=z))
        z = inputs[-1] @ self.weights[-1].T
        z += self.biases[-1]
        loss, error = self.squared_error(z, y) if y.ndim == 2 else self.cross_entropy(z, y)
        of_weights, of_biases = [], []
        for layer in reversed(range(len(self.weights))):
            of_weights.append(error.T @ inputs[layer])
            of_biases.append(error.sum(0))
            if layer:
                error = error @ self.weights[layer]
                error *= inputs[layer] > 0
        return loss, [*of_weights[::-1], *of_biases[::-1]]

    @staticmethod
    def squared_error(z: Array, y: Array) -> tuple[float, Array]:
        error = z - y
        loss = float(np.mean(error * error))
        error *= 2 / error.size
        return loss, error

    @staticmethod
    def cross_entropy(z: Array, y: Array) -> tuple[float, Array]:
        rows = np.arange(len(y))
        z -= z.max(1, keepdims=True)
        probability = np.exp(z)
        total = probability.sum(1, keepdims=True)
        loss = float(np.mean(np.log(total[:, 0]) - z[rows, y]))
        probability /= total
        probability[rows, y] -= 1
        probability /= len(y)
        return loss, probability

    def update(self, gradients: list[Array]) -> None:
        self.count += 1
        root = (1 - BETA_2**self.count) ** 0.5
        size = RATE * root / (1 - BETA_1**self.count)
        for parameter, gradient, mean, square in zip(
            self.parameters, gradients, self.means, self.squares, strict=True
        ):
            mean *= BETA_1
            mean += (1 - BETA_1) * gradient
            square *= BETA_2
            gradient *= gradient
            gradient *= 1 - BETA_2
            square += gradient
            change = np.sqrt(square)
            change += EPS * root
            np.divide(mean, change, out=change)
            change *= size
            parameter -= change


def network(sizes: tuple[int, ...]) -> cr.nn.Module:
    """A multilayer perceptron with ReLU between its layers."""
    layers: list[cr.nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [cr.nn.Linear(before, after), cr.nn.ReLU()]
    return cr.nn.Sequential(*layers[:-1])


def contenders(sizes: tuple[int, ...], batch: int) -> dict[str, Step]:
    """One function per contender; each call is one step of its own copy of the same network."""
    x, y = data(sizes, batch)
    loss = cr.nn.MSELoss() if sizes[-1] == 1 else cr.nn.CrossEntropyLoss()
    cr.random.seed(0)
    model = network(sizes)
    linear = [each for each in model.modules() if isinstance(each, cr.nn.Linear)]
    by_hand = ByHand(
        [np.array(each.weight.numpy()) for each in linear], [np.array(each.bias.numpy()) for each in linear]
    )

    eager_model = network(sizes)
    optimizer = cr.optim.Adam(eager_model.parameters(), lr=RATE)
    eager_x, eager_y = cr.asarray(x), cr.asarray(y)

    def eager() -> None:
        optimizer.zero_grad()
        loss(eager_model(eager_x), eager_y).backward()
        optimizer.step()

    return {
        "eager": eager,
        "interpreted": program_step(network(sizes), loss, x, y, interpreter),
        "compiled": program_step(model, loss, x, y, compile_graph),
        "by hand": lambda: by_hand.step(x, y),
    }


def interpreter(graph: Graph) -> Callable[[Any], Any]:
    """The graph, run by its meanings."""
    return lambda values: graph.evaluate(np, *values)


def program_step(model: cr.nn.Module, loss: cr.nn.Module, x: Array, y: Array, backend: Any) -> Step:
    """The same step as one program with its state in and out, as a Trainer runs it."""
    optimizer = cr.optim.Adam(lr=RATE)
    parameters = dict(model.named_parameters())
    leaves, structure = flatten(optimizer.init(parameters))
    state = [Buffer(leaf) for leaf in leaves]

    def traced(x: Any, y: Any) -> Any:
        value, gradients = cr.value_and_grad(lambda network: loss(network(x), y))(model)
        updates, after = optimizer.update(gradients, unflatten(structure, state), parameters)
        for path, new in cr.optim.apply_updates(parameters, updates).items():
            parameters[path].assign(new)
        for cell, leaf in zip(state, flatten(after)[0], strict=True):
            cell.assign(leaf)
        return value

    program = trace_program(traced, [type_of(x), type_of(y)])
    execute = backend(program.graph)
    values = {cell: cell.numpy() for cell in program.read}

    def step() -> float:
        found = execute([x, y, *(values[cell] for cell in program.read)])
        values.update(zip(program.written, found[1:], strict=True))
        return float(found[0])

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each turn")
    arguments = parser.parse_args()
    for title, (sizes, batch) in WORKLOADS.items():
        steps = contenders(sizes, batch)
        medians = measured(steps, arguments.turns, arguments.seconds)
        print(title)
        for name, seconds in medians.items():
            print(f"  {name:12} {seconds * 1e6:9.1f} µs   {seconds / medians['by hand']:5.2f} × by hand")


def measured(steps: dict[str, Step], turns: int, seconds: float) -> dict[str, float]:
    """Median seconds per step of each contender over interleaved turns."""
    counts = {}
    for name, step in steps.items():
        for _ in range(3):
            step()
        start = time.perf_counter()
        step()
        counts[name] = max(1, int(seconds / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                step()
            times[name].append((time.perf_counter() - start) / counts[name])
    return {name: statistics.median(each) for name, each in times.items()}


if __name__ == "__main__":
    main()
