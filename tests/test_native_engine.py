"""From a schedule to code that runs: memory, calls, shared functions, the processor's state, threads."""

import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.backends.native import engine
from chainrule.backends.native.emit import Emitted, Function, Module
from chainrule.backends.native.engine import Program
from chainrule.backends.native.target import Target
from chainrule.backends.native.values import INDEX, POINTER, SCALARS
from chainrule.errors import BoundsError, GraphError
from chainrule.schedule import lower
from chainrule.schedule.interpret import interpret
from chainrule.schedule.kernels import (
    Access,
    Buffer,
    Expression,
    Loops,
    Schedule,
    Statement,
    View,
    expressions,
    places,
)
from chainrule.schedule.memory import ARENA, LINE, plan

Array = np.ndarray[Any, Any]
F32 = np.dtype("float32")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path))
    return tmp_path


# -- kernels small enough to be written here -----------------------------------------------------------------
def emit_plainly(module: Module, name: str, kernel: Loops, target: Target) -> Emitted:
    """Elementwise float32 loops over one axis: loads, constants, add and mul; a unit is one element."""
    count = len(places(kernel))
    arguments = [(f"p{k}", POINTER) for k in range(count)]
    f = Function(module, name, [*arguments, ("scratch", POINTER), ("first", INDEX), ("last", INDEX)])
    pointers = {id(place): f.arguments[k] for k, place in reversed(list(enumerate(places(kernel))))}
    float_ = SCALARS["float32"]

    def body(i: Any, _: Any) -> None:
        values: dict[Any, Any] = {}
        for each in expressions(statement.value for statement in kernel.statements):
            if each.op == "load":
                access = each.attributes["access"]
                at = f.at(pointers[id(access)], f.mul(i, access.strides[0]), float_)
                values[each] = f.load(at, float_)
            else:
                a, b = (values[argument] for argument in each.arguments)
                values[each] = f.binary({"add": "fadd", "multiply": "fmul"}[each.op], a, b)
        for statement in kernel.statements:
            assert statement.target is not None
            at = f.at(pointers[id(statement.target)], f.mul(i, statement.target.strides[0]), float_)
            f.store(values[statement.value], at)

    f.loop(f.arguments[-2], f.arguments[-1], 1, [], body)
    f.give_back()
    return Emitted(kernel.extents[0])


EMITTERS = {Loops: emit_plainly}


def buffer(name: str, size: int, role: str = "temporary", value: Any = None) -> Buffer:
    slack = role not in ("input", "output")
    return Buffer(name, F32, (size,), (1,), size, role, value, slack)


def whole(given: Buffer) -> View:
    return View(given, 0, given.shape, given.strides)


def load(given: Buffer, offset: int = 0, stride: int = 1) -> Expression:
    return Expression("load", (), F32, {"access": Access(given, offset, (stride,))})


def combine(op: str, a: Buffer, b: Buffer, to: Buffer) -> Loops:
    root = Expression(op, (load(a), load(b)), F32)
    return Loops(to.shape, 1, 0, (Statement(root, Access(to, 0, (1,))),))


def run(schedule: Schedule, *values: Array, **options: Any) -> list[Array]:
    return Program(schedule, emitters=EMITTERS, **options)(values)


def sum_times_weight(size: int = 5) -> tuple[Schedule, Callable[[Array, Array], Array]]:
    """(x + y) * w with a constant w, in two kernels."""
    weight = np.arange(size, dtype=F32)
    x, y = buffer("x", size, "input"), buffer("y", size, "input")
    w, t, z = buffer("w", size, "constant", weight), buffer("t", size), buffer("z", size, "output")
    kernels = (combine("add", x, y, t), combine("multiply", t, w, z))
    return Schedule((whole(x), whole(y)), (whole(z),), kernels), lambda x, y: (x + y) * weight


def chain(operations: list[tuple[str, int, int]], size: int, kept: list[int]) -> Schedule:
    """Two inputs, then a temporary per operation on earlier values; the values in `kept` are handed out."""
    values = [buffer("x", size, "input"), buffer("y", size, "input")]
    kernels = []
    for number, (op, a, b) in enumerate(operations):
        made = buffer(f"t{number}", size)
        kernels.append(combine(op, values[a % len(values)], values[b % len(values)], made))
        values.append(made)
    outputs = tuple(whole(values[each % len(values)]) for each in kept)
    return Schedule((whole(values[0]), whole(values[1])), outputs, tuple(kernels))


operations = st.lists(
    st.tuples(st.sampled_from(["add", "multiply"]), st.integers(0, 30), st.integers(0, 30)), max_size=12
)


# -- running -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("guarded", [False, True])
def test_two_kernels_and_a_constant(guarded: bool) -> None:
    schedule, expected = sum_times_weight()
    x, y = np.float32([1, 2, 3, 4, 5]), np.float32([5, 4, 3, 2, 1])
    (z,) = run(schedule, x, y, guarded=guarded)
    np.testing.assert_array_equal(z, expected(x, y))
    assert not z.flags.writeable


@settings(max_examples=30)
@given(operations, st.integers(1, 40), st.lists(st.integers(0, 30), min_size=1, max_size=3), st.booleans())
def test_any_chain_of_kernels_is_what_numpy_says(
    made: list[tuple[str, int, int]], size: int, kept: list[int], guarded: bool
) -> None:
    schedule = chain(made, size, kept)
    random = np.random.default_rng(0)
    x, y = random.uniform(-1, 1, (2, size)).astype(F32)
    for result, wanted in zip(run(schedule, x, y, guarded=guarded), interpret(schedule, (x, y)), strict=True):
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("guarded", [False, True])
def test_no_kernels_no_elements_no_outputs(guarded: bool) -> None:
    x = buffer("x", 0, "input")
    (empty,) = run(Schedule((whole(x),), (whole(x),), ()), np.empty(0, F32), guarded=guarded)
    assert empty.shape == (0,)
    assert run(Schedule((), (), ()), guarded=guarded) == []


def test_inputs_in_any_layout() -> None:
    """Dense arrays are used where they are; others are copied, and so are those that promise slack."""
    x = Buffer("x", F32, (2, 3), (3, 1), 6, "input", None, slack=False)
    padded = Buffer("y", F32, (2, 3), (16, 1), 32, "input", None, slack=True)
    z = Buffer("z", F32, (6,), (1,), 6, "output")
    views = View(x, 0, (2, 3), (3, 1)), View(padded, 0, (2, 3), (16, 1))
    outputs = View(z, 0, (6,), (1,)), View(padded, 0, (3, 2), (1, 16))
    program = Program(Schedule(views, outputs, (combine("add", x, x, z),)), emitters=EMITTERS)
    value, other = np.arange(6, dtype=F32).reshape(2, 3), np.float32([[7, 8, 9], [1, 2, 3]])
    odd = np.zeros(25, np.uint8)[1:].view(F32).reshape(2, 3)  # not aligned
    odd[...] = value
    frozen = value.copy()
    frozen.flags.writeable = False
    for given_x in (value, np.asfortranarray(value), value[::-1][::-1], odd, frozen, value.tolist()):
        array = np.asarray(given_x, F32)
        doubled, turned = program((array, other.T.copy().T))
        np.testing.assert_array_equal(doubled, 2 * value.ravel())
        np.testing.assert_array_equal(turned, other.T)


def test_outputs_that_are_views_of_anything_are_copies() -> None:
    size = 4
    weight = np.arange(size, dtype=F32)
    x, w, t = buffer("x", size, "input"), buffer("w", size, "constant", weight), buffer("t", size)
    square = (2, 2)
    views = [View(each, 0, square, (1, 2)) for each in (x, w, t)] + [View(t, 3, (4,), (-1,))]
    schedule = Schedule((whole(x),), tuple(views), (combine("add", x, w, t),))
    value = np.float32([4, 3, 2, 9])
    results = run(schedule, value)
    for result, wanted in zip(results, (value, weight, value + weight), strict=False):
        np.testing.assert_array_equal(result, wanted.reshape(square).T)
    np.testing.assert_array_equal(results[3], (value + weight)[::-1])
    assert all(each.flags.c_contiguous and not each.flags.writeable for each in results)
    assert not any(np.shares_memory(each, value) for each in results)


def test_results_stay_as_they_are() -> None:
    """No result lies in memory that a later call uses."""
    schedule = chain([("add", 0, 1), ("multiply", 2, 2)], 7, [2, 3])
    program = Program(schedule, emitters=EMITTERS)
    ones = np.ones(7, F32)
    first = program((ones, ones))
    copies = [each.copy() for each in first]
    program((3 * ones, ones))
    for result, wanted in zip(first, copies, strict=True):
        np.testing.assert_array_equal(result, wanted)


def test_state_keeps_its_value_from_run_to_run() -> None:
    state, new = buffer("state", 3, "state"), buffer("new", 3)
    x = buffer("x", 3, "input")
    new.home = state
    schedule = Schedule((whole(state), whole(x)), (whole(state),), (combine("add", state, x, new),))
    made = plan(schedule)
    assert made.places[new] == made.places[state]
    (result,) = run(schedule, np.float32([1, 2, 3]), np.float32([10, 10, 10]))
    np.testing.assert_array_equal(result, [11, 12, 13])


def test_a_wrong_number_or_type_of_inputs_is_said() -> None:
    schedule, _ = sum_times_weight()
    program = Program(schedule, emitters=EMITTERS)
    x = np.zeros(5, F32)
    with pytest.raises(GraphError, match="2 inputs but was given 1"):
        program((x,))
    with pytest.raises(GraphError, match=r"input y is float32\[5\] but was given float32\[4\]"):
        program((x, x[:4]))
    with pytest.raises(GraphError, match=r"given float64\[5\]"):
        program((x, x.astype(float)))
    with pytest.raises(GraphError, match=r"given >f4\[5\]"):
        program((x, x.astype(">f4")))


# -- memory --------------------------------------------------------------------------------------------------
def lifetimes(schedule: Schedule) -> dict[Buffer, tuple[int, int]]:
    end = len(schedule.kernels)
    found = {view.buffer: (-1, -1) for view in schedule.inputs}
    for time, kernel in enumerate(schedule.kernels):
        for place in places(kernel):
            found[place.buffer] = (found.get(place.buffer, (time, time))[0], time)
    for view in schedule.outputs:
        found[view.buffer] = (found[view.buffer][0], end)
    return found


@settings(max_examples=100)
@given(operations, st.integers(1, 5000), st.lists(st.integers(0, 30), min_size=1, max_size=3))
def test_no_two_living_buffers_share_memory(
    made: list[tuple[str, int, int]], size: int, kept: list[int]
) -> None:
    schedule = chain(made, size, kept)
    planned = plan(schedule)
    lives = lifetimes(schedule)
    blocks = [(each, place.offset) for each, place in planned.places.items() if place.slot == ARENA]
    for k, (one, start) in enumerate(blocks):
        assert start % LINE == 0
        assert 0 <= start <= planned.arena.size - (one.size * 4 + LINE)
        for other, begin in blocks[k + 1 :]:
            together = lives[one][0] <= lives[other][1] and lives[other][0] <= lives[one][1]
            apart = start + one.size * 4 + LINE <= begin or begin + other.size * 4 + LINE <= start
            assert apart or not together


def test_a_deep_chain_needs_the_memory_of_a_short_one() -> None:
    """Each value dies with the kernel that reads it, so two at a time live."""
    deep = chain([("add", k, k) for k in range(1, 60)], 100_000, [60])
    assert plan(deep).arena.size == plan(chain([("add", k, k) for k in range(1, 4)], 100_000, [4])).arena.size
    assert plan(deep).arena.size < 2.1 * 400_000


def test_arrays_whose_size_is_a_power_of_two_do_not_collide() -> None:
    made = plan(chain([("add", 0, 1), ("add", 0, 1), ("add", 2, 3)], 1 << 14, [2, 3, 4]))
    starts = sorted(place.offset for place in made.places.values() if place.slot == ARENA)
    lines = {start % 4096 // LINE for start in starts}
    assert len(lines) == len(starts) == 3
    assert min(abs(a - b) for a in lines for b in lines if a != b) > 8


def test_large_arenas_and_arrays() -> None:
    size = 3 << 20
    schedule = chain([("add", 0, 1), ("add", 2, 1)], size, [3])
    x, y = np.ones(size, F32), np.arange(size, dtype=F32)
    np.testing.assert_array_equal(run(schedule, x, y)[0], x + y + y)


# -- guarded memory ------------------------------------------------------------------------------------------
OUT_OF_BOUNDS = """
import sys
import numpy as np
from test_native_engine import *
schedule, _ = sum_times_weight(int(sys.argv[1]))
kernel = schedule.kernels[int(sys.argv[2])]
statement = kernel.statements[0]
shifted = int(sys.argv[3])
if sys.argv[4] == "write":
    to = Access(statement.target.buffer, shifted, (1,))
    statement = Statement(statement.value, to)
else:
    read = statement.value.arguments[0].attributes["access"].buffer
    value = Expression("add", (load(read, shifted),) * 2, F32)
    statement = Statement(value, statement.target)
broken = Loops(kernel.extents, 1, 0, (statement,))
kernels = tuple(broken if each is kernel else each for each in schedule.kernels)
x = np.ones(int(sys.argv[1]), F32)
run(Schedule(schedule.inputs, schedule.outputs, kernels), x, x, guarded=True)
"""


def out_of_bounds(size: int, kernel: int, shifted: int, what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", OUT_OF_BOUNDS, *map(str, (size, kernel, shifted)), what]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kernel", [0, 1])  # of an input, and of a temporary that has a line of slack
@pytest.mark.parametrize("what", ["read", "write"])
def test_guarded_memory_finds_who_goes_beyond_the_end(kernel: int, what: str) -> None:
    far = 1 if (kernel, what) == (0, "read") else 1 + 2 * LINE // 4
    assert out_of_bounds(5, kernel, far, what).returncode == -signal.SIGSEGV


def test_guarded_memory_finds_who_writes_before_the_beginning() -> None:
    found = out_of_bounds(5, 1, -1, "write")
    assert "wrote before the buffer" in found.stderr


def test_guarded_memory_lets_pass_what_is_allowed() -> None:
    assert out_of_bounds(5, 0, 0, "read").returncode == 0
    assert out_of_bounds(16, 1, 16, "read").returncode == 0  # the line of slack


@pytest.mark.parametrize("size", [0, 1, 5, 200])
def test_whole_programs_in_guarded_memory(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch memory, packed operands, and arrays without elements."""
    monkeypatch.setenv("CHAINRULE_GUARDED", "1")
    x = np.random.default_rng(size).normal(size=(size, size)).astype(F32)
    order, product = cr.compile(lambda x: (cr.argsort(x[:, 0]) if size else x, x @ cr.exp(x)))(cr.asarray(x))
    np.testing.assert_array_equal(order.numpy(), np.argsort(x[:, 0]) if size else x)
    np.testing.assert_allclose(product.numpy(), x @ np.exp(x), rtol=1e-4, atol=1e-3)


# -- the state of the processor ------------------------------------------------------------------------------
def test_denormals_count_as_zero_inside_and_the_state_is_restored() -> None:
    tiny = np.full(3, 1e-39, F32)
    assert tiny[0] != 0
    assert tiny[0] + tiny[0] != 0
    schedule = chain([("add", 0, 1)], 3, [2])
    (result,) = run(schedule, tiny, tiny)
    np.testing.assert_array_equal(result, 0)
    assert tiny[0] + tiny[0] != 0  # still counted outside
    assert np.float32(1e-30) * np.float32(1e-10) != 0


# -- one function for equal kernels --------------------------------------------------------------------------
def test_equal_kernels_share_a_function() -> None:
    program = Program(chain([("add", k, k + 1) for k in range(20)], 8, [21]), emitters=EMITTERS)
    # the first reads two inputs, the second an input and a temporary, the others two temporaries
    assert len(program.functions.texts) == 3
    program = Program(chain([("add", 2, 2), ("multiply", 2, 2), ("add", 2, 3)], 8, [4]), emitters=EMITTERS)
    assert len(program.functions.texts) == 3


def test_show() -> None:
    program = Program(sum_times_weight()[0], emitters=EMITTERS)
    table = program.show("kernels").splitlines()
    assert table[0].split() == ["kernel", "function", "extents", "flops", "bytes", "computes", "for"]
    assert table[2].split()[:5] == ["1", "loops_1", "5", "5", "60"]
    assert "kernel 1: p0=t, p1=w, p2=z" in program.show("nests")
    assert "e2 = multiply e0 e1 : float32" in program.show("nests")
    assert "define void @run(ptr %table)" in program.show("llvm")
    assert "loops_0" in program.show("asm")
    with pytest.raises(ValueError, match="can show only"):
        program.show("soul")


# -- threads and processes -----------------------------------------------------------------------------------
def test_two_python_threads_at_once() -> None:
    schedule = chain([("add", 0, 1), ("multiply", 2, 1), ("add", 3, 0)], 50_000, [4])
    program = Program(schedule, emitters=EMITTERS)
    wrong: list[int] = []

    def work(number: int) -> None:
        x, y = np.full(50_000, number, F32), np.arange(50_000, dtype=F32)
        wanted = (x + y) * y + x
        for _ in range(20):
            if not np.array_equal(program((x, y))[0], wanted):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_after_fork_parent_and_child_have_memory_of_their_own() -> None:
    size = 2 << 20  # an arena in huge pages, which must not be shared
    program = Program(chain([("add", 0, 1), ("add", 2, 2)], size, [2, 3]), emitters=EMITTERS)
    x, y = np.ones(size, F32), np.arange(size, dtype=F32)
    program((x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads, which this test does not use
        child = os.fork()
    if child == 0:
        good = all(np.array_equal(program((k * x, y))[0], k * x + y) for k in range(5))
        os._exit(0 if good else 1)
    for k in range(5):
        np.testing.assert_array_equal(program((k * y, x))[1], 2 * (k * y + x))
    assert os.waitpid(child, 0)[1] == 0


# -- graphs --------------------------------------------------------------------------------------------------
def test_a_graph_as_native_code() -> None:
    def loss(x: cr.Tensor, w: cr.Tensor) -> cr.Tensor:
        return cr.sum(cr.maximum(x @ w, 0.25) * x)

    x, w = np.random.default_rng(0).uniform(-1, 1, (2, 6, 6)).astype(F32)
    step = cr.compile(cr.value_and_grad(loss, argnums=(0, 1)), backend="native")
    value, (to_x, to_w) = step(cr.asarray(x), cr.asarray(w))
    value_again, (to_x_again, to_w_again) = cr.value_and_grad(loss, argnums=(0, 1))(
        cr.asarray(x), cr.asarray(w)
    )
    for one, other in ((value, value_again), (to_x, to_x_again), (to_w, to_w_again)):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-5)
    assert "matmul" in step.show("kernels")
    assert "after fold constants" in step.show("passes")
    assert "matmul(" in step.show("simplified")


def test_what_has_no_kernel_runs_on_the_reference_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower, "SPECIAL", lower.SPECIAL - {"argsort"})
    compiled = cr.compile(lambda x: cr.sort(x) * 2.0, backend="native")
    with pytest.warns(
        UserWarning, match=r"no kernel for argsort .*test_native_engine.py.*numpy backend"
    ) as told:
        ordered = compiled(cr.asarray([3.0, 1.0, 2.0]))
    assert len(told) == 1
    assert told[0].filename == __file__
    assert ordered.tolist() == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("index", [5, -6])
def test_an_index_out_of_bounds_is_an_error_that_names_the_line(index: int) -> None:
    compiled = cr.compile(lambda x, at: cr.take(x, at, axis=0) * 2.0, backend="native")
    x = cr.asarray(np.arange(5.0))
    assert compiled(x, cr.asarray([4, -5])).tolist() == [8.0, 0.0]
    with pytest.raises(BoundsError, match=r"gather.*test_native_engine\.py"):
        compiled(x, cr.asarray([0, index]))
    assert compiled(x, cr.asarray([4, 0])).tolist() == [8.0, 0.0]  # the failure is forgotten


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_after_fork_no_lock_is_held_by_nobody() -> None:
    compiled = cr.compile(lambda x, at: cr.take(x, at, axis=0), backend="native")
    x, at = cr.asarray(np.arange(5.0)), cr.asarray([4, 0])
    before = set(engine._programs)
    compiled(x, at)
    (program,) = set(engine._programs) - before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads
        with program._reporting:
            child = os.fork()
    if child == 0:
        os._exit(0 if compiled(x, at).tolist() == [4.0, 0.0] else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the worker fills the address space with Linux's means")
def test_code_is_loaded_in_a_crowded_address_space() -> None:
    worker = Path(__file__).with_name("crowded_worker.py")
    ran = subprocess.run([sys.executable, str(worker)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
