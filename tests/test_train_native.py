"""Training in native code: the same as on the reference backend, whatever happens in between."""

from __future__ import annotations

import re
import signal
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.errors import BoundsError, ShapeError
from chainrule.ops import ops
from chainrule.primitive import Primitive
from chainrule.train import Trainer, stepping
from chainrule.train.stepping import NativeSteps, Pace, PythonSteps

GENERATOR = np.random.default_rng(1)
X = GENERATOR.normal(size=(101, 4))
Y = np.sin(X[:, :1]) + 0.5 * X[:, 1:2]
LABELS = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
TOKENS = GENERATOR.integers(0, 7, size=(101, 5))
AGREE = {"rtol": 1e-10, "atol": 1e-10}
"""A step of float64 rounds some hundred times, each time by 1e-16; these models are well conditioned."""
Make = Callable[[], nn.Module]


def seeded(make: Make) -> nn.Module:
    with cr.random.stream(cr.random.key(3)):
        return make()


def perceptron(outputs: int = 1) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


def trainer(backend: str = "native", make: Make = perceptron, loss: Any = None, **options: Any) -> Trainer:
    optimizer = options.pop("optimizer", None) or optim.Adam(lr=0.02)
    settings: dict[str, Any] = {"batch_size": 16, "seed": 5} | options
    return Trainer(seeded(make), loss or nn.MSELoss(), optimizer, backend=backend, **settings)


def same_bits(one: Trainer, other: Trainer) -> bool:
    first, second = one.state(), other.state()
    return first.keys() == second.keys() and all(first[k].tobytes() == second[k].tobytes() for k in first)


def assert_close(one: Trainer, other: Trainer) -> None:
    first, second = one.state(), other.state()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        np.testing.assert_allclose(second[name], value, err_msg=name, **AGREE)


def compare(data: Any, steps: int = 15, batches: Any = None, **options: Any) -> Trainer:
    """Train on both backends and hold the losses, the norms and every cell against each other."""
    told: list[list[Any]] = []
    trained = []
    for backend in ("numpy", "native"):
        ours = trainer(backend, **options)
        seen: list[Any] = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing falls back
            ours.run(data, steps, batches, on_slice=lambda *slice, seen=seen: seen.append(slice))
        told.append([np.concatenate(each) for each in zip(*seen, strict=True)])
        trained.append(ours)
    for numbers, native_numbers in zip(*told, strict=True):
        assert len(numbers) == steps
        np.testing.assert_allclose(native_numbers, numbers, **AGREE)
    assert_close(*trained)
    for name, told in trained[0].telemetry.items():
        np.testing.assert_allclose(trained[1].telemetry[name], told, err_msg=name, **AGREE)
    assert all(isinstance(each.stepper, NativeSteps) for each in trained[1]._steps.values())
    return trained[1]


# -- the same training --------------------------------------------------------------------------------------
class Tokens(nn.Module):
    """Integers in, one class per position out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)

    def forward(self, tokens: Any) -> Any:
        return self.head(self.norm(self.embedding(tokens)))


class Recurrent(nn.Module):
    """A loop over the features."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(2, 1)

    def forward(self, x: Any) -> Any:
        def step(carry: Any, column: Any) -> Any:
            after = cr.tanh(self.cell(cr.stack([carry[:, 0], column], axis=1)))
            return after, after

        return cr.scan(step, x[:, :1], x.T)[0]


def per_token(outputs: Any, targets: Any) -> Any:
    return nn.functional.cross_entropy(outputs.reshape(-1, 7), targets.reshape(-1))


class Sides(nn.Module):
    """Inputs in a dict: floats, integers and truth values."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.linear = nn.Linear(4, 1)

    def forward(self, row: Any) -> Any:
        known = cr.where(row["known"][:, None], row["x"], 0.0)
        return self.linear(known + self.embedding(row["kind"]))


MODELS: dict[str, tuple[Make, Any, Any]] = {
    "perceptron": (perceptron, nn.MSELoss(), (X, Y)),
    "batch norm and dropout": (
        lambda: nn.Sequential(
            nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 1)
        ).double(),
        nn.MSELoss(),
        (X, Y),
    ),
    "layer norm and residual": (
        lambda: nn.Sequential(
            nn.Residual(nn.Linear(4, 4)), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 1)
        ).double(),
        nn.HuberLoss(),
        (X, Y),
    ),
    "classes": (lambda: perceptron(3), nn.CrossEntropyLoss(label_smoothing=0.1), (X, LABELS)),
    "weights of rows": (
        perceptron,
        lambda outputs, targets, weights: (
            cr.sum(weights[:, None] * (outputs - targets) ** 2) / cr.sum(weights)
        ),
        (X, Y, np.abs(X[:, 2])),
    ),
    "embedding": (lambda: Tokens().double(), per_token, (TOKENS, (TOKENS + 1) % 7)),
    "inputs in a dict": (
        lambda: Sides().double(),
        nn.MSELoss(),
        ({"x": X, "kind": LABELS.astype(np.int32), "known": X[:, 3] > 0}, Y),
    ),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv1d(1, 3, 3), nn.Tanh(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(3, 1)
        ).double(),
        nn.MSELoss(),
        (X[:, None, :], Y),
    ),
    "a loop over the features": (lambda: Recurrent().double(), nn.MSELoss(), (X, Y)),
    "one weight, one feature": (lambda: nn.Linear(1, 1).double(), nn.MSELoss(), (X[:, :1], Y)),
}


@pytest.mark.parametrize("telemetry", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_both_backends_train_alike(name: str, telemetry: bool) -> None:
    """15 steps of 16 of 101 rows: two epochs, each with a last batch of five."""
    make, loss, data = MODELS[name]
    ours = compare(data, make=make, loss=loss, telemetry=telemetry)
    assert len(ours.telemetry) == (len(ours.parameters) if telemetry else 0)


OPTIMIZERS = [
    optim.SGD(lr=0.05),
    optim.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    optim.RMSprop(lr=0.01, momentum=0.5, centered=True),
    optim.Adam(lr=0.01, amsgrad=True, weight_decay=0.01),
    optim.AdamW(lr=optim.OneCycle(max_lr=0.05, total_steps=15)),
    optim.Adagrad(lr=0.1, lr_decay=0.1),
    optim.AdamW(lr=optim.WarmupCosine(lr=0.05, warmup_steps=5, total_steps=15)),
    optim.chain(optim.add_decayed_weights(0.01), optim.clip_by_value(0.1), optim.SGD(lr=0.05)),
    optim.SGD(lr=optim.Plateau(lr=0.05, factor=0.5, patience=1)),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_every_optimizer_trains_alike(optimizer: Any, clip_norm: float | None) -> None:
    compare((X, Y), optimizer=optimizer, clip_norm=clip_norm)


def test_a_very_deep_network() -> None:
    """The norm of its 402 gradients is a long sum, and no recursion."""

    def make() -> nn.Module:
        layers = [each for _ in range(200) for each in (nn.Linear(2, 2), nn.Tanh())]
        return nn.Sequential(*layers, nn.Linear(2, 1)).double()

    compare((X[:, :2], Y), steps=2, make=make, clip_norm=1.0)


# -- data --------------------------------------------------------------------------------------------------
def test_windows_of_a_stream() -> None:
    tokens = GENERATOR.integers(0, 7, size=60)
    compare(cr.data.Windows(tokens, 6), make=lambda: Tokens().double(), loss=per_token)
    batches = GENERATOR.integers(0, 54, size=(15, 4))
    compare(cr.data.Windows(tokens[::-1], 6), batches=batches, make=lambda: Tokens().double(), loss=per_token)


def test_windows_of_floats_are_cast_as_a_stream() -> None:
    """A window of the stream as it is trained on is a view: no copy per window."""
    windows = cr.data.Windows(X[:, :1].astype(np.float32), 20)
    ours = compare(windows, make=lambda: nn.Linear(1, 1).double())
    (inputs, _), _ = ours.leaves(windows)
    assert inputs.dtype == np.float64
    assert inputs.strides == (8, 8, 8)


LAYOUTS: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "column-major": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "one row for all": lambda x: np.broadcast_to(x[:1], x.shape),
    "another byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "float32": lambda x: x.astype(np.float32),
    "off the grid of its type": lambda x: np.frombuffer(b"." + x.tobytes(), x.dtype, offset=1).reshape(
        x.shape
    ),
    "empty columns beside": lambda x: np.concatenate([x, x], axis=1)[:, :4],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_wherever_they_lie(layout: str) -> None:
    ours, reference = trainer(), trainer()
    data = LAYOUTS[layout](X)
    ours.run((data, Y), 9)
    reference.run((np.array(data, np.float64, order="C"), Y), 9)
    assert same_bits(ours, reference)


def test_an_array_that_changes_between_runs_is_read_again() -> None:
    for order in ("C", "F"):
        x = np.array(X, order=order)
        ours, reference = trainer(), trainer()
        for _ in range(2):
            ours.run((x, Y), 3)
            reference.run((np.ascontiguousarray(x), Y), 3)
            x[:, 0] += 1.0
        assert same_bits(ours, reference)


def test_fewer_rows_than_a_batch_and_rows_that_come_and_go() -> None:
    trained = [trainer(backend) for backend in ("numpy", "native")]
    for ours in trained:
        for rows in (5, 101, 16, 1, 33):
            ours.run((X[:rows], Y[:rows]), 4)
    assert_close(*trained)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.uint64])
def test_batches_of_any_integers(dtype: Any) -> None:
    batches = GENERATOR.integers(0, 101, size=(9, 14))
    ours, reference = trainer(), trainer()
    ours.run((X, Y), 9, batches.astype(dtype)[:, ::2])
    reference.run((X, Y), 9, np.ascontiguousarray(batches[:, ::2]))
    assert same_bits(ours, reference)


@pytest.mark.parametrize("backend", ["numpy", "native"])
@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        ([[0, 101]], BoundsError, "rows from 0 to 101, but the rows are 0 to 100"),
        ([[0, -1]], BoundsError, "rows from -1 to 0"),
        ([[0.0, 1.0]], ShapeError, "float64"),
        (np.empty((1, 0), np.int64), ShapeError, "one row or more"),
        ([0, 1], ShapeError, "integer array of shape"),
    ],
)
def test_batches_that_do_not_fit_change_nothing(backend: str, batches: Any, error: Any, words: str) -> None:
    ours, untouched = trainer(backend), trainer(backend)
    with pytest.raises(error, match=words):
        ours.run((X, Y), 1, np.asarray(batches))
    assert same_bits(ours, untouched)


@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_no_steps_are_no_steps(backend: str) -> None:
    ours, untouched = trainer(backend), trainer(backend)
    assert np.isnan(ours.run((X, Y), 0))
    assert np.isnan(ours.run((X, Y), 0, np.empty((0, 4), np.int64)))
    assert same_bits(ours, untouched)


# -- slices ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_how_a_run_is_sliced_changes_nothing(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, reference = trainer(), trainer()
    reference.run((X, Y), 40)
    monkeypatch.setattr(stepping, "SLICE_SECONDS", seconds)
    ours.run((X, Y), 40)
    assert same_bits(ours, reference)


def test_slices_grow_until_they_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(stepping.time, "perf_counter", lambda: now[0])
    sizes = []
    for rows in Pace().slices(np.zeros((1000, 1), np.int64)):
        sizes.append(len(rows))
        now[0] += 0.001 * len(rows)
    assert sizes == [1, 8, 64, 100, 100, 100, 100, 100, 100, 100, 100, 100, 27]


def test_on_step_is_told_of_every_step_and_sees_its_values() -> None:
    for backend in ("numpy", "native"):
        ours, reference = trainer(backend), trainer(backend)
        weight = ours.parameters["0.weight"]
        told: list[Any] = []
        ours.run((X, Y), 9, on_step=lambda *of, told=told, w=weight: told.append((*of, w.numpy())))
        assert [rows for _, _, rows, _ in told] == [16, 16, 16, 16, 16, 16, 5, 16, 16]
        for loss, norm, _, value in told:
            assert loss == reference.run((X, Y), 1)
            assert norm == reference.gradient_norm
            assert value.tobytes() == reference.parameters["0.weight"].numpy().tobytes()


def test_on_slice_is_told_of_every_step_and_may_ask_and_change() -> None:
    ours, reference = trainer(optimizer=optim.SGD(lr=optim.Plateau(lr=0.05))), trainer(
        optimizer=optim.SGD(lr=optim.Plateau(lr=0.05))
    )  # fmt: skip
    counts: list[int] = []

    def look(losses: Any, norms: Any, rows: Any) -> None:
        counts.append(int(ours.state()["count"]) - sum(map(len, (losses,))))
        assert len(losses) == len(norms) == len(rows)
        ours.predict(X)
        if len(counts) == 1:
            ours.set_scale(0.5)

    ours.run((X, Y), 30, on_slice=look)
    reference.run((X, Y), 1)
    reference.set_scale(0.5)
    reference.run((X, Y), 29)
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert same_bits(ours, reference)


def test_a_true_answer_stops_the_run() -> None:
    ours, reference = trainer(), trainer()
    ours.run((X, Y), 30, on_slice=lambda losses, norms, rows: True)
    reference.run((X, Y), int(ours.count.item()))
    assert same_bits(ours, reference)


# -- when something happens in between ---------------------------------------------------------------------
@pytest.mark.parametrize("backend", ["numpy", "native"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_trained_is_kept_when_a_listener_raises(backend: str, error: Any) -> None:
    ours, reference = trainer(backend), trainer(backend)
    steps = 0

    def raises(losses: Any, norms: Any, rows: Any) -> None:
        nonlocal steps
        steps += len(losses)
        if steps > 3:
            raise error

    with pytest.raises(error):
        ours.run((X, Y), 40, on_slice=raises)
    assert ours.count.item() == steps < 40
    reference.run((X, Y), steps)
    assert same_bits(ours, reference)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer signal")
def test_ctrl_c_leaves_the_state_of_a_whole_step() -> None:
    """A signal at any time, also within native code, where it waits for the end of the slice."""

    def press(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    ours, reference = trainer(), trainer()
    for each in (ours, reference):
        each.run((X, Y), 7)  # compiled
    before = signal.signal(signal.SIGALRM, press)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            ours.run((X, Y), 10**7)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    reference.run((X, Y), int(ours.count.item()) - 7)
    assert same_bits(ours, reference)


def test_a_class_that_is_not_there_is_an_error_and_nothing_is_learned_from_it() -> None:
    ours, reference = (trainer(make=lambda: perceptron(3), loss=nn.CrossEntropyLoss()) for _ in range(2))
    for each in (ours, reference):
        each.run((X, LABELS), 10)
    wrong = np.where(np.arange(101) == 50, 3, LABELS)
    with pytest.raises(BoundsError, match="out of bounds for axis 1 with size 3"):
        ours.run((X, wrong), 20)
    reference.run((X, LABELS), int(ours.count.item()) - 10)
    assert same_bits(ours, reference)
    for each in (ours, reference):
        each.run((X, LABELS), 10)
    assert same_bits(ours, reference)


# -- cells that others change ------------------------------------------------------------------------------
def test_cells_changed_by_hand_are_what_is_trained_on() -> None:
    trained = []
    for backend in ("numpy", "native"):
        ours = trainer(backend)
        ours.run((X, Y), 10)
        weight = ours.parameters["2.weight"]
        weight.assign(weight * 0.5)
        ours.run((X, Y), 10)
        ours.load_state(ours.state())
        ours.run((X, Y), 1)
        trained.append(ours)
    assert_close(*trained)


def test_two_trainers_of_one_model() -> None:
    trained = []
    for backend in ("numpy", "native"):
        model = seeded(perceptron)
        options: dict[str, Any] = {"batch_size": 16, "backend": backend}
        first = Trainer(model, nn.MSELoss(), optim.Adam(lr=0.02), **options)
        second = Trainer(model, nn.L1Loss(), optim.SGD(lr=0.01, momentum=0.9), **options)
        for steps in (3, 1, 8):
            first.run((X, Y), steps)
            second.run((X, Y), steps)
        trained.append((first, second))
    assert_close(trained[0][0], trained[1][0])
    assert_close(trained[0][1], trained[1][1])


def test_a_layer_put_into_evaluation_is_traced_anew() -> None:
    trained = []
    for backend in ("numpy", "native"):
        ours = trainer(backend, make=MODELS["batch norm and dropout"][0])
        ours.run((X, Y), 5)
        ours.model[1].eval()
        ours.run((X, Y), 5)
        statistics = ours.state()["model.1.running_mean"]
        ours.run((X, Y), 1)
        assert statistics.tobytes() == ours.state()["model.1.running_mean"].tobytes()
        trained.append(ours)
    assert_close(*trained)


def test_values_that_were_handed_out_stay_as_they_were() -> None:
    ours = trainer()
    ours.run((X, Y), 3)
    weight = ours.parameters["0.weight"].numpy()
    kept = weight.copy()
    ours.run((X, Y), 3)
    assert weight.tobytes() == kept.tobytes()
    assert not weight.flags.writeable


def test_predictions_between_runs_are_those_of_the_reference() -> None:
    outputs = []
    for backend in ("numpy", "native"):
        ours = trainer(backend)
        ours.run((X, Y), 10)
        outputs.append(ours.predict(X, batch_size=40))
    np.testing.assert_allclose(outputs[1], outputs[0], **AGREE)


# -- what has no kernel ------------------------------------------------------------------------------------
SPREAD = Primitive(
    "spread", "x - x reversed; told to the compiler as no nest.",
    infer=lambda x: x,
    meaning=lambda xp, x: x - xp.flip(x),
    pullback=(lambda ops, g, y, x: ops.apply(SPREAD, (g,)),),
    samples=(),
)  # fmt: skip


class Spread(nn.Module):
    """A model for which there is no native code."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Any) -> Any:
        return cr.Tensor(ops.apply(SPREAD, (self.linear(x).node,)))


def test_what_has_no_kernel_trains_on_the_reference_and_says_so_once() -> None:
    ours = trainer(make=lambda: Spread().double())
    reference = trainer("numpy", make=lambda: Spread().double())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours.run((X, Y), 10)  # two shapes of batches
        ours.run((X[:50], Y[:50]), 10)
        ours.predict(X)
    assert len(told) == 1
    assert re.search(r"no kernel for spread .*numpy backend instead", str(told[0].message))
    assert told[0].filename == __file__
    assert all(isinstance(each.stepper, PythonSteps) for each in ours._steps.values())
    reference.run((X, Y), 10)
    reference.run((X[:50], Y[:50]), 10)
    assert same_bits(ours, reference)
