"""Trainer: one training step as one pure program, run over minibatches by a backend.

The step (loss, gradients, clipping, update, metrics) is traced once per batch shape. Everything that changes
is a cell: parameters, buffers, optimizer state, the count of steps. The program takes them in and gives them
back, so a step can be repeated, checkpointed and replayed exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule import optim, random
from chainrule.backends.native.build import collection_paused
from chainrule.backends.native.training import row_is_dense
from chainrule.data.windows import Windows
from chainrule.errors import RunError
from chainrule.graph import Node
from chainrule.nn import Module
from chainrule.nn.module import observing
from chainrule.ops import no_grad, ops
from chainrule.origin import Origin, because
from chainrule.program import BACKENDS, Executable, compiler, is_checked
from chainrule.tensor import Buffer, Cell, Parameter, Tensor
from chainrule.trace import Program, trace_program
from chainrule.train.cells import check_fits, state_cells
from chainrule.train.facts import Layers, Told
from chainrule.train.feeding import batch_of, check_classes, check_rows, given, shuffled
from chainrule.train.rates import FACTS, PICTURES, Rates
from chainrule.train.stepping import NOTED, NativeSteps, Pace, Step, Stepper, stepper
from chainrule.train.telemetry import Telemetry
from chainrule.transform import value_and_cotangents
from chainrule.tree import Structure, flatten, unflatten
from chainrule.types import Type, type_of

if TYPE_CHECKING:
    from chainrule.backends.native.profile import Profile

Array = np.ndarray[Any, Any]
OnStep = Callable[[float, float, int], bool | None]
OnSlice = Callable[[Array, Array, Array], bool | None]
_ORDER = 0x0BA7C4E5  # folded into the seed for the order of rows; no layer gets the same numbers
_ROUNDS = 10  # over which the medians of a profile are taken
_LAYERS = 0x1A9E85ED  # folded into the seed for what layers draw


class Trainer:
    """Trains `model` on minibatches.

    model      a Module; called as ``model(inputs)``
    loss       ``loss(outputs, targets) -> scalar``; a loss Module or a function. With `weights` given to
               `run`, it is called as ``loss(outputs, targets, weights)``
    optimizer  an optimizer without parameters, such as ``cr.optim.Adam(lr=1e-3)``
    clip_norm  clip gradients to this global norm before the update
    batch_size rows per step when `run` chooses the batches itself
    seed       decides the order of rows and what layers such as Dropout draw
    checked    raise `NumericalError` at the first operation that makes NaN or infinity (see `cr.compile`)
    telemetry  note facts about activations, errors, weights, gradients and updates, to be read from
               `telemetry`: True, as often as costs about a 40th of the time, or `train.Rates(facts=1)`, at
               every step. Other steps are what they would be without, and all results are

    >>> import numpy as np, chainrule as cr
    >>> X = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> model = cr.nn.Sequential(cr.nn.Linear(1, 16), cr.nn.Tanh(), cr.nn.Linear(16, 1))
    >>> trainer = cr.Trainer(model, cr.nn.MSELoss(), cr.optim.Adam(lr=0.05))
    >>> trainer.run((X, X**2), steps=200) < 0.01
    True
    """

    def __init__(
        self,
        model: Module,
        loss: Callable[..., Any],
        optimizer: optim.Optimizer,
        *,
        clip_norm: float | None = None,
        batch_size: int = 64,
        seed: int = 0,
        backend: str = "native",
        checked: bool | None = None,
        telemetry: bool | Rates = False,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"there is no backend {backend!r}: choose one of {', '.join(BACKENDS)}")
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(
                "Trainer needs an optimizer without parameters, such as cr.optim.Adam(lr=1e-3): it takes "
                "the parameters from the model"
            )
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.batch_size = batch_size
        self.seed = seed
        self.backend = backend
        self.checked = is_checked(checked)
        self.parameters: dict[str, Parameter] = dict(model.named_parameters())
        if not self.parameters:
            raise ValueError("the model has no parameters to train")
        self.count = Buffer(np.int64(0))
        self.count.name = "count"
        self._state, self._state_structure = state_cells(optimizer.init(dict(self.parameters)))
        self.gradient_norm = float("nan")
        """Global norm of the gradients of the last step, before clipping."""
        self.rates = (Rates() if telemetry is True else telemetry) or None
        """Every how many steps they tell of themselves; None: never. What is open the first step decides."""
        self.telemetry = Telemetry(self.rates)
        """What the steps told of themselves; empty unless asked for."""
        self._backend = backend  # the one that can do it: the reference, for what has no native kernel
        self._loaded: Stepper | None = None
        self._steps: dict[Any, Step] = {}
        self._forwards: dict[Any, tuple[Program, Executable]] = {}

    # -- the step as a program ---------------------------------------------------------------------------
    def step(self, inputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """One step on Tensors: assigns every cell; returns loss, gradient norm, facts and pictures."""
        return self._told_step(Told.nothing(), inputs, targets, weights)

    def _told_step(self, told: Told, inputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        layers = Layers(self.model)

        def objective(_: Module) -> Any:
            with observing(layers):
                return self.loss_of(inputs, targets, weights)

        def computed(loss: Node) -> list[Node]:
            return [row.computed for row in layers.within(loss.trace).values()]

        value, by_path, errors = value_and_cotangents(objective, self.model, computed)
        if self.rates:
            for (name, row), error in zip(layers.within(value.node.trace).items(), errors, strict=True):
                told.layer(name, row.activation, error)
        gradients = unclipped = {path: by_path[path] for path in self.parameters}
        if self.rates:
            told.norms(gradients)
        norm = optim.global_norm(gradients)
        if self.clip_norm is not None:
            gradients, _ = optim.clip_by_global_norm(self.clip_norm).update(
                gradients, {}, dict(self.parameters)
            )
        state = unflatten(self._state_structure, self._state)
        updates, new_state = self.optimizer.update(gradients, state, dict(self.parameters))
        for path, parameter in self.parameters.items():
            with because(Origin("update", path)):
                updated = ops.add(parameter, updates[path])
                if self.rates:
                    told.parameter(path, unclipped[path], updated, updates[path])
                parameter.assign(updated)
        for cell, leaf in zip(self._state, flatten(new_state)[0], strict=True):
            cell.assign(leaf)
        self.count.assign(ops.add(self.count, 1))
        noted = {"loss": value, "gradient_norm": norm}
        return noted | {"norms": told.squares, "facts": told.facts, "pictures": told.pictures}

    def loss_of(self, inputs: Any, targets: Any, weights: Any = None) -> Any:
        """The loss of a batch as the next step computes it: layers draw what they will draw then."""
        key = random.fold_in(random.fold_in(random.key(self.seed), _LAYERS), self.count)
        wanted = (targets,) if weights is None else (targets, weights)
        with random.stream(key):
            return self.loss(self.model(inputs), *wanted)

    def program(self, data: Any, rows: int | None = None) -> Program:
        """The traced step for batches of `rows` rows (default: the batch size); its graph can be printed."""
        leaves, structure = self.leaves(data)
        return self._example_step(leaves, structure, rows).program

    def _example_step(self, leaves: Sequence[Array], structure: Structure, rows: int | None) -> Step:
        chosen = np.arange(min(rows or self.batch_size, len(leaves[0])))
        return self._traced_step(batch_of(leaves, chosen), structure)

    def show(self, what: str = "graph", data: Any = None, rows: int | None = None) -> str:
        """The step as text, for batches of `rows` rows of `data`; without data, every step taken so far.

        what  "graph" (as traced), "passes" (what each pass left of it), "simplified" (the graph after them),
              "kernels" (a table), "nests" (their loops), "memory" (where arrays lie), "llvm", "asm"; these
              two with the name of a function, "asm loops_1", show one. With backend="numpy", "python"
        """
        made = list(self._steps.values()) if data is None else [self._example_step(*self.leaves(data), rows)]
        return "\n\n".join(
            str(each.program.graph) if what == "graph" else each.stepper.show(what) for each in made
        )

    def profile(self, data: Any, steps: int = 200, rows: int | None = None) -> Profile:
        """Where the time of a step goes: kernel by kernel, and summed up by layer; prints as a table.

        Takes `steps` steps on batches of `rows` rows with a copy of the state: the trainer is as it was
        before. Needs the native backend: raises `RunError` for what runs on another.

        >>> import numpy as np, chainrule as cr
        >>> X = np.ones((64, 8), np.float32)
        >>> trainer = cr.Trainer(cr.nn.Linear(8, 1), cr.nn.MSELoss(), cr.optim.SGD(lr=0.01))
        >>> found = trainer.profile((X, X[:, :1]), steps=20)
        >>> found.runs, sum(row.flops for row in found.rows) > 2 * 64 * 8
        (20, True)
        """
        leaves, structure = self.leaves(data)
        stepping = self._example_step(leaves, structure, rows).stepper
        if not isinstance(stepping, NativeSteps):
            raise RunError("the training step runs on the numpy backend, which has no kernels to time")
        self._settle()
        size = min(rows or self.batch_size, len(leaves[0]))
        block = np.resize(self.order(len(leaves[0]), 0), (steps, size))
        rounds = np.array_split(block, min(_ROUNDS, steps))
        return stepping.profile(leaves, [rounds[0], *rounds])

    def _traced_step(self, batch: Sequence[Array], structure: Structure) -> Step:
        key = (structure, tuple(type_of(each) for each in batch), self.model.training)
        made = self._steps.get(key)
        if made is None or not made.program.holds:
            with collection_paused():
                made = self._steps[key] = self._made_step(key[1], structure)
        return made

    def _made_step(self, types: Sequence[Type], structure: Structure) -> Step:
        told = Told.nothing()

        def traced(*tensors: Tensor) -> Any:
            return self._told_step(told, *unflatten(structure, tensors))

        program = trace_program(traced, types)
        noted = (
            [0] * (NOTED + len(told.squares)) + [FACTS] * len(told.facts) + [PICTURES] * len(told.pictures)
        )
        steps = stepper(program, noted, self._backend, self.checked)
        self._backend = steps.backend
        return Step(program, steps, told.columns, Pace())

    # -- running -----------------------------------------------------------------------------------------
    def run(
        self,
        data: tuple[Any, ...],
        steps: int,
        batches: Any = None,
        on_step: OnStep | None = None,
        on_slice: OnSlice | None = None,
    ) -> float:
        """Take `steps` steps and return the last loss; called again, it goes on.

        data      ``(inputs, targets)`` or ``(inputs, targets, weights)``; each an array or a container of
                  arrays with rows along the first axis; or `cr.data.Windows` of a stream
        batches   integer array (steps, batch) of rows; None shuffles all rows anew every epoch
        on_step   called with (loss, gradient norm, rows) after every step, which are then taken one by one;
                  a true result stops the run
        on_slice  called after every slice of about a tenth of a second with arrays of these, a number per
                  step; a true result stops the run. Ask the trainer (`state`, `predict`) for values then:
                  the cells of the model follow when somebody asks, and at the end

        However a run ends, with an error or with Ctrl-C too, the cells hold the values after its last whole
        step; after an index out of bounds, which native code notices at the end of a slice, those after some
        step before it.
        """
        leaves, structure = self.leaves(data)
        count = len(leaves[0])
        at = int(self.count.item())
        chosen = (
            shuffled(lambda epoch: self.order(count, epoch), count, self.batch_size, at, steps)
            if batches is None
            else given(batches, steps, count)
        )
        check_classes(self.loss, data)
        last = float("nan")
        one_by_one = Pace(1) if on_step is not None else None
        try:
            for block in chosen:
                step = self._traced_step(batch_of(leaves, block[0]), structure)
                pace = one_by_one or step.pace
                for rows in pace.slices(block, step.stepper.noted.count(0)):
                    noted = self._slice(step, leaves, rows, at)
                    last, self.gradient_norm = map(float, noted[-1])
                    at += len(rows)
                    if on_step is not None:
                        self._settle()
                    if self._stops(noted, rows, on_step, on_slice):
                        return last
        finally:
            self._settle()
        return last

    def _slice(self, step: Step, leaves: Sequence[Array], rows: Array, at: int) -> Array:
        """Take some steps, from number `at` on; their losses and gradient norms."""
        self._load(step.stepper)
        rates = self.rates = self.telemetry.settled(self.rates, step.program.graph, step.stepper.noted)
        details = rates.details(at, len(rows)) if rates else None
        noted, *told = step.stepper.run(leaves, rows, details)
        self.telemetry.note(at, step.columns, [noted[:, NOTED:], *told])
        return noted[:, :NOTED]

    def _load(self, stepping: Stepper) -> None:
        """Let `stepping`, and nobody else, have the values of the cells."""
        if self._loaded is not stepping:
            self._settle()
            stepping.load()
            self._loaded = stepping

    def _settle(self) -> None:
        """Put the values that a stepper has into the cells; it takes them over again before its next step."""
        if self._loaded is not None:
            self._loaded.unload()
            self._loaded = None

    @staticmethod
    def _stops(noted: Array, rows: Array, on_step: OnStep | None, on_slice: OnSlice | None) -> bool:
        counts = np.full(len(rows), rows.shape[1])
        stop = on_slice is not None and on_slice(noted[:, 0], noted[:, 1], counts)
        if on_step is not None:
            stop = on_step(float(noted[-1, 0]), float(noted[-1, 1]), rows.shape[1]) or stop
        return bool(stop)

    def order(self, rows: int, epoch: int) -> Array:
        """The order in which `epoch` visits the rows."""
        key = random.fold_in(random.fold_in(random.key(self.seed), _ORDER), epoch)
        return random.permutation(key, rows).numpy()

    def steps_per_epoch(self, rows: int) -> int:
        """Steps that visit every row once; the last may have a smaller batch."""
        return -(-rows // self.batch_size)

    def leaves(self, data: tuple[Any, ...]) -> tuple[list[Array], Structure]:
        """The arrays of `data`, floats in the dtype of the model (cast here, once), every row dense."""
        if isinstance(data, Windows):  # casting the stream copies it once, not once per window
            data = Windows(self._cast(data.stream), data.length).arrays()
        leaves, structure = flatten(tuple(data))
        arrays = [self._cast(leaf.numpy() if isinstance(leaf, Tensor) else leaf) for leaf in leaves]
        check_rows(arrays)
        return arrays, structure

    def _cast(self, leaf: Any) -> Array:
        array = np.asarray(leaf)
        dtype = next(iter(self.parameters.values())).dtype if array.dtype.kind == "f" else array.dtype
        array = array.astype(dtype.newbyteorder("="), copy=False)
        return array if row_is_dense(array) else np.ascontiguousarray(array)

    # -- using the model -----------------------------------------------------------------------------------
    def predict(self, inputs: Any, batch_size: int = 4096) -> Array:
        """The model's outputs in evaluation mode, rows along the first axis."""
        leaves, structure = self.leaves((inputs,))
        return np.concatenate(list(self._outputs(leaves, structure, batch_size)))

    def _outputs(self, leaves: Sequence[Array], structure: Structure, batch_size: int) -> Iterator[Array]:
        self._settle()
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            for start in range(0, len(leaves[0]), batch_size):
                batch = [leaf[start : start + batch_size] for leaf in leaves]
                program, execute = self._traced_forward(batch, structure)
                yield execute(program.arrays(batch))[0]
        finally:
            for module, training in modes.items():
                module.training = training

    def _traced_forward(self, batch: Sequence[Array], structure: Structure) -> tuple[Program, Executable]:
        key = (structure, tuple(type_of(each) for each in batch))
        if key not in self._forwards:
            program = trace_program(lambda *tensors: self.model(*unflatten(structure, tensors)), key[1])
            self._forwards[key] = program, compiler(self._backend, self.checked)(program.graph)
        return self._forwards[key]

    def evaluate(self, outputs: Any, targets: Any) -> float:
        """The loss of given outputs, for example those of `predict` on validation rows."""
        (output_leaves, structure) = self.leaves((outputs, targets))
        with no_grad():
            value = self.loss(*(unflatten(structure, [Tensor(ops.node(leaf)) for leaf in output_leaves])))
        return float(value.item())

    # -- state -------------------------------------------------------------------------------------------
    def cells(self) -> dict[str, Cell]:
        """Everything that a step changes, by name: what a checkpoint has to hold."""
        self._settle()
        found: dict[str, Cell] = {f"model.{path}": cell for path, cell in self.parameters.items()}
        found |= {f"model.{path}": cell for path, cell in self.model.named_buffers()}
        found |= {cell.name: cell for cell in self._state}
        found["count"] = self.count
        return found

    def state(self) -> dict[str, Array]:
        """A copy of every cell's value."""
        return {name: np.array(cell.numpy()) for name, cell in self.cells().items()}

    def load_state(self, state: dict[str, Array]) -> None:
        """Put back what `state` gave; everything is checked before anything changes."""
        cells = self.cells()
        check_fits(cells, state)
        for name, cell in cells.items():
            cell.assign(state[name])

    def set_scale(self, scale: float) -> None:
        """Multiply the learning rate by `scale` from now on (used by the plateau schedule)."""
        self._settle()
        state = self.optimizer.with_scale(unflatten(self._state_structure, self._state), scale)
        for cell, leaf in zip(self._state, flatten(state)[0], strict=True):
            cell.assign(leaf)
