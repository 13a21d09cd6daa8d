"""Threads that share a call: the same bits, whoever is busy, asleep, forked or not there at all."""

import ctypes
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_native_engine import EMITTERS, F32, chain

import chainrule as cr
from chainrule.backends.native import step, threads
from chainrule.backends.native.arena import address
from chainrule.backends.native.build import Code, compile_object
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.engine import Program
from chainrule.backends.native.sharing import ALONE, KERNEL_RECORD, KERNEL_TRIALS, STEP_RECORD, STEPS
from chainrule.backends.native.target import host
from chainrule.backends.native.threads import default_threads, lone_team, team
from chainrule.backends.native.values import INDEX
from chainrule.backends.native.waiting import waiting
from chainrule.errors import ChainruleError

Array = np.ndarray[Any, Any]
PIECE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


@pytest.fixture(autouse=True)
def small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share even what is not worth it, so that small arrays will do."""
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path))
    monkeypatch.setattr(step, "GRAIN", 1)


def share(memory: int, piece: Callable[..., None], each: int, record: Array | None = None) -> None:
    """Have a team call a Python function for every piece; without a record sharing is worth it."""
    called = PIECE(piece)
    record = np.array([1 << 40, 0, 0, 0]) if record is None else record
    assert record.size == KERNEL_RECORD
    run = threads._code().function("share", *[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_void_p)
    run(memory, ctypes.cast(called, ctypes.c_void_p), None, each, address(record))


@contextmanager
def step_of(memory: int, record: Array) -> Iterator[None]:
    """What is shared inside is a step."""
    assert record.size == STEP_RECORD
    pointer, ticks = ctypes.c_void_p, ctypes.c_int64
    start = threads._code().function("begin", pointer, pointer, result=ticks)(memory, address(record))
    yield
    threads._code().function("end", pointer, pointer, ticks)(memory, address(record), start)


# -- teams ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_piece_is_done_once_before_the_caller_goes_on(count: int) -> None:
    random = np.random.default_rng(count)
    with team(count) as memory:
        for _ in range(50):
            each = int(random.integers(0, 5))
            done: list[int] = []
            share(memory, lambda _, __, piece, done=done: done.append(piece), each)
            assert sorted(done) == list(range(count * each))


def test_whoever_is_quick_takes_over_from_whoever_is_slow() -> None:
    """The caller is held up in its first piece until the worker has done all the others."""
    by: dict[int, int] = {}
    others_done = threading.Event()

    def piece(_: Any, thread: int, number: int) -> None:
        by[number] = thread
        if list(by.values()).count(1) == 7:
            others_done.set()
        if thread == 0:
            assert others_done.wait(60)

    with team(2) as memory:
        share(memory, piece, 4)
    assert sorted(by) == list(range(8))
    assert list(by.values()).count(0) <= 1


def test_a_sleeping_worker_wakes_up_and_a_sleeping_caller_too() -> None:
    both = threading.Barrier(2, timeout=60)
    done: list[int] = []

    def piece(_: Any, thread: int, number: int) -> None:
        both.wait()  # so that neither thread does both pieces
        if thread == 1:
            time.sleep(0.001)  # the caller goes to sleep meanwhile
        done.append(thread)

    for _ in range(5):
        with team(2) as memory:
            time.sleep(0.2)  # the worker has gone to sleep by now, and the caller does not mind the last time
            share(memory, piece, 1)
    assert done.count(0) == done.count(1) == 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets a thread choose")
def test_a_thread_leaves_its_processor_and_may_still_use_it() -> None:
    may_use = os.sched_getaffinity(0)
    if len(may_use) == 1:
        pytest.skip("this process may use only one processor")
    target = host()
    module = Module(target.triple)
    for name, type_, arguments in (("processor", INDEX, []), ("leave", "void", [("from", INDEX)])):
        function = Function(module, f"test_{name}", arguments, internal=False, result=type_)
        function.give_back(function.call(name, type_, function.arguments))
    code = Code(compile_object(module.text() + waiting(target.triple), target), target)
    processor = code.function("test_processor", result=ctypes.c_int64)
    leave = code.function("test_leave", ctypes.c_int64)

    left = 0
    for _ in range(20):
        before = processor()
        leave(before)
        left += processor() != before  # the system may have moved it back, but not every time
        assert os.sched_getaffinity(0) == may_use
    assert left > 10
    os.sched_setaffinity(0, {before})
    try:
        leave(before)  # there is no other: it stays
        assert processor() == before
        assert os.sched_getaffinity(0) == {before}
        leave(-1)  # where the system does not say where a thread is
        assert os.sched_getaffinity(0) == {before}
    finally:
        os.sched_setaffinity(0, may_use)


class Pieces:
    """Pieces of half a millisecond, but of nine times that for a worker whose core is `taken`."""

    def __init__(self) -> None:
        self.by: list[int] = []
        self.taken = False

    def __call__(self, _: Any, thread: int, number: int) -> None:
        self.by.append(thread)
        time.sleep(0.0045 if self.taken and thread == 1 else 0.0005)

    def shared(self) -> bool:
        """Whether the worker had any since this was asked last."""
        by, self.by = self.by, []
        return 1 in by


def test_steps_are_shared_while_that_is_quicker() -> None:
    pieces, record = Pieces(), np.zeros(STEP_RECORD, np.int64)

    def share_of_steps() -> float:
        """How many of the steps of a season and more the worker takes part in."""
        took_part, until = [], time.monotonic() + 1
        while time.monotonic() < until:
            with step_of(memory, record):
                share(memory, pieces, 3)
            took_part.append(pieces.shared())
        return sum(took_part) / len(took_part)

    with team(2) as memory:
        for _ in range(ALONE):
            with step_of(memory, record):
                share(memory, pieces, 3)
        assert not pieces.shared()
        for pieces.taken in (False, True, False):
            # Times are only as steady as the machine is idle: sooner or later is soon enough.
            assert any((share_of_steps() > 0.5) != pieces.taken for _ in range(40))


def test_steps_that_come_one_by_one_are_shared() -> None:
    """However long ago the season began: only so many steps may be followed by some that are done alone."""
    pieces, alone = Pieces(), 1 << 40
    with team(2) as memory:
        for steps, shared in ((ALONE, True), (STEPS - 1, True), (STEPS, False)):
            pieces.shared()
            with step_of(memory, np.array([alone, 0, 0, 1, 0, steps])):
                share(memory, pieces, 20)
            assert pieces.shared() == shared


def test_kernels_are_shared_while_that_is_quicker() -> None:
    pieces, record = Pieces(), np.zeros(KERNEL_RECORD, np.int64)
    forever = np.iinfo(np.int64).max

    def shared(season: int, alone: bool = False) -> bool:
        """Whether the worker takes part at last, in a season of steps that the caller does alone or not."""
        steps = np.array([0, 0, 0, season, forever, 0 if alone else ALONE])
        for _ in range(3 * KERNEL_TRIALS):
            pieces.shared()
            with step_of(memory, steps):
                share(memory, pieces, 3, record)
            steps[5] = 0 if alone else ALONE
        return pieces.shared()

    def comes(wanted: bool, seasons: Iterator[int]) -> bool:
        """Times are only as steady as the machine is idle: sooner or later is soon enough."""
        return any(shared(season) == wanted for season in islice(seasons, 40))

    with team(2) as memory:
        seasons = iter(range(1, 1000))
        assert not shared(next(seasons), alone=True)
        for pieces.taken in (False, True, False):
            assert comes(not pieces.taken, seasons)


def test_a_team_without_workers_computes_all_the_same() -> None:
    memory = lone_team(3)
    done: list[tuple[int, int]] = []
    share(address(memory), lambda _, thread, piece: done.append((thread, piece)), 2)
    assert done == [(0, piece) for piece in range(6)]


def test_whoever_comes_second_has_no_workers() -> None:
    with team(2) as one, team(2) as other:
        assert one != other
    with team(2) as again:
        assert again == one


# -- programs ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_bits_are_those_of_one_thread(count: int, size: int) -> None:
    schedule = chain([("add", 0, 1), ("multiply", 2, 1), ("add", 3, 0), ("multiply", 4, 4)], size, [4, 5])
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, size)).astype(F32)
    alone = Program(schedule, emitters=EMITTERS, threads=1)((x, y))
    shared = Program(schedule, emitters=EMITTERS, threads=count)
    assert ("@piece_0" in shared.show("llvm")) == (size >= count)
    for _ in range(20):
        for one, other in zip(shared((x, y)), alone, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_training_step_on_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contractions, reductions, their scratch memory and an index out of bounds, all shared."""

    def loss(x: cr.Tensor, w: cr.Tensor, v: cr.Tensor, rows: cr.Tensor) -> cr.Tensor:
        return cr.mean(cr.square(cr.take(cr.tanh(x @ w) @ v, rows, axis=0)))

    random = np.random.default_rng(0)
    x, w, v = (
        cr.asarray(random.uniform(-1, 1, shape).astype(F32)) for shape in ((50, 33), (33, 70), (70, 9))
    )
    rows = cr.asarray(random.integers(0, 50, 64))
    results = []
    for count in ("1", "2", "4"):
        monkeypatch.setenv("CHAINRULE_THREADS", count)
        compiled = cr.compile(cr.value_and_grad(loss, argnums=(0, 1, 2)))
        value, gradients = compiled(x, w, v, rows)
        results.append([value.numpy(), *(each.numpy() for each in gradients)])
        with pytest.raises(IndexError, match="out of bounds"):
            compiled(x, w, v, rows + 1000)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_training_on_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(100, 7)).astype(F32), random.normal(size=(100, 1)).astype(F32)
    weights = []
    for count in ("1", "2"):
        monkeypatch.setenv("CHAINRULE_THREADS", count)
        with cr.random.stream(cr.random.key(0)):
            model = cr.nn.Sequential(cr.nn.Linear(7, 33), cr.nn.Tanh(), cr.nn.Linear(33, 1))
        trainer = cr.Trainer(model, cr.nn.MSELoss(), cr.optim.Adam(lr=1e-2))
        trainer.run((x, y), 30, batches=np.arange(30 * 20).reshape(30, 20) % 100)
        weights.append([each.numpy() for each in model.state_dict().values()])
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_several_callers_at_once() -> None:
    program = Program(chain([("add", 0, 1), ("multiply", 2, 1)], 999, [3]), emitters=EMITTERS, threads=2)
    wrong: list[int] = []

    def work(number: int) -> None:
        x, y = np.full(999, number, F32), np.arange(999, dtype=F32)
        for _ in range(200):
            if not np.array_equal(program((x, y))[0], (x + y) * y):
                wrong.append(number)

    callers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_has_a_team_of_its_own() -> None:
    program = Program(chain([("add", 0, 1)], 64, [2]), emitters=EMITTERS, threads=2)
    x = np.ones(64, F32)
    program((x, x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # workers are asleep, and hold nothing
        with team(2):  # locked in the child, by nobody
            child = os.fork()
    if child == 0:
        good = all(np.array_equal(program((x, k * x))[0], x + k * x) for k in range(50))
        os._exit(0 if good and threading.active_count() > 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(program((x, x))[0], 2 * x)


def test_the_process_ends_while_workers_wait() -> None:
    program = (
        "import test_native_threads as here\n"
        "here.step.GRAIN = 1\n"
        "made = here.Program(here.chain([('add', 0, 1)], 64, [2]), emitters=here.EMITTERS, threads=3)\n"
        "one = here.np.ones(64, 'float32')\n"
        "print(made((one, one))[0].sum())\n"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "128.0\n"
    assert not ended.stderr


# -- how many ------------------------------------------------------------------------------------------------
def test_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAINRULE_THREADS", raising=False)
    assert default_threads() == 1
    monkeypatch.setenv("CHAINRULE_THREADS", "3")
    assert default_threads() == 3
    for wrong in ("0", "two", "-1", "1.5", "4096"):
        monkeypatch.setenv("CHAINRULE_THREADS", wrong)
        with pytest.raises(ChainruleError, match=r"CHAINRULE_THREADS=.*from 1 to 1024"):
            default_threads()
