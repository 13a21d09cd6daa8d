"""Profiles: every kernel timed by its own code, its work counted, its layer named; all else as before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.backends.native import machine
from chainrule.backends.native.build import compile_object
from chainrule.backends.native.emit import Function, Module
from chainrule.backends.native.profile import Profile
from chainrule.backends.native.target import Target
from chainrule.backends.native.watching import ticks
from chainrule.errors import ChainruleError, RunError

GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(96, 8)).astype(np.float32)
Y = X[:, :2] ** 2


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> machine.Machine:
    """The machine's peaks as given numbers: measuring them is a test of its own."""
    monkeypatch.delenv("CHAINRULE_THREADS", raising=False)
    given = machine.Machine(1e11, 1e10)
    monkeypatch.setattr("chainrule.backends.native.profile.machine", lambda: given)
    return given


def trainer(backend: str = "native", **options: Any) -> cr.Trainer:
    with cr.random.stream(cr.random.key(0)):
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    return cr.Trainer(model, nn.MSELoss(), optim.Adam(lr=0.01), batch_size=32, backend=backend, **options)


def adds_up(found: Profile) -> None:
    """Shares, layers and the rest are parts of the same time."""
    kernels = sum(row.seconds for row in found.rows)
    assert kernels + found.rest == pytest.approx(found.seconds)
    assert sum(row.share for row in found.rows) == pytest.approx(kernels / found.seconds)
    assert sum(row.seconds for row in found.layers) == pytest.approx(kernels)
    for row in found.rows:
        assert sum(row.layers.values()) == pytest.approx(1.0)
    for layer in found.layers:
        assert layer.forward + layer.backward + layer.update == pytest.approx(layer.seconds)


# -- functions -----------------------------------------------------------------------------------------------
def two_products(x: Any) -> Any:
    with cr.scope("large"):
        y = cr.tanh(x @ x)
    with cr.scope("small"):
        return y[:2] @ x


def test_kernels_of_a_function_are_timed_and_told_with_their_layer_line_and_work() -> None:
    compiled = cr.compile(two_products)
    x = GENERATOR.normal(size=(128, 128)).astype(np.float32) / 128
    found = compiled.profile(x, repeats=20)
    adds_up(found)
    assert (found.runs, found.rounds, found.threads) == (20, 20, 1)
    listed = compiled.show("kernels").splitlines()[1:]
    assert [row.function for row in found.rows] == [line.split()[1] for line in listed if line.strip()]
    line = two_products.__code__.co_firstlineno
    large = next(row for row in found.rows if "matmul" in row.computes and row.layer == "large")
    assert f"test_native_profile.py:{line + 2}" in large.line
    assert large.flops >= 2 * 128**3
    assert large.calls == 1
    small = next(layer for layer in found.layers if layer.layer == "small")
    assert sum(each.seconds for each in found.layers) - small.seconds > small.seconds > 0
    assert small.backward == small.update == 0


def test_shares_of_the_peaks_are_work_by_time(measured: machine.Machine) -> None:
    x = np.ones((64, 64), np.float32)
    product = cr.compile(lambda x: x @ x)
    for dtype, peak in ((np.float32, measured.flops), (np.float64, measured.flops / 2)):
        (row,) = product.profile(x.astype(dtype), repeats=5).rows
        assert row.flops == 2 * 64**3
        assert row.of_peak == pytest.approx(row.flops / row.seconds / peak)
        assert row.of_bandwidth == pytest.approx(row.bytes / row.seconds / measured.bytes)


def test_what_a_loop_repeats_is_counted_every_time() -> None:
    def loop(start: Any, rows: Any) -> Any:
        return cr.scan(lambda carry, row: (cr.tanh(carry @ row), carry), start, rows)[0]

    start, rows = np.ones((4, 4), np.float32), GENERATOR.normal(size=(7, 4, 4)).astype(np.float32)
    found = cr.compile(loop).profile(start, rows, repeats=5)
    adds_up(found)
    products = [row for row in found.rows if "matmul" in row.computes]
    assert sum(row.calls for row in products) == 7
    assert sum(row.flops for row in products) >= 7 * 2 * 4**3


def test_shared_work_is_timed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_THREADS", "2")
    found = cr.compile(lambda x: x @ x).profile(np.ones((256, 256), np.float32), repeats=3)
    adds_up(found)
    assert found.threads == 2
    assert "2 threads" in str(found)


def test_a_profile_changes_no_cell_and_no_code() -> None:
    count = cr.nn.Buffer(np.int64(0))

    def counting(x: Any) -> Any:
        count.assign(count + 1)
        return cr.sum(x)

    compiled = cr.compile(counting)
    compiled(X)
    before = compiled.show("llvm")
    compiled.profile(X, repeats=4)
    assert count.item() == 1
    assert compiled.show("llvm") == before
    assert "readcyclecounter" not in before


def test_what_runs_on_the_reference_has_no_kernels() -> None:
    with pytest.raises(ChainruleError, match="numpy backend"):
        cr.compile(lambda x: x + 1, backend="numpy").profile(X)
    with pytest.raises(RunError, match="numpy backend"):
        trainer("numpy").profile((X, Y))


# -- training ------------------------------------------------------------------------------------------------
def test_a_step_is_told_layer_by_layer_and_part_by_part() -> None:
    ours = trainer()
    ours.run((X, Y), 3)
    before = {name: value.tobytes() for name, value in ours.state().items()}
    found = ours.profile((X, Y), steps=40)
    assert {name: value.tobytes() for name, value in ours.state().items()} == before
    adds_up(found)
    assert (found.runs, found.rounds) == (40, 10)
    assert [row.function for row in found.rows[:2]] == ["rows_of_0", "rows_of_1"]
    assert found.rows[0].bytes == 2 * 32 * 8 * 4
    by_layer = {row.layer: row for row in found.layers}
    assert {"batch", "0", "1", "2"} <= by_layer.keys()
    assert min(by_layer["0"].forward, by_layer["0"].backward, by_layer["0"].update) > 0
    assert by_layer["1"].update == 0
    assert sum(row.flops for row in found.rows) > 2 * 32 * (8 * 64 * 2 + 64 * 2 * 3)
    ours.run((X, Y), 3)
    other = trainer()
    other.run((X, Y), 6)
    assert ours.state()["model.0.weight"].tobytes() == other.state()["model.0.weight"].tobytes()


def test_it_prints_as_tables() -> None:
    found = trainer().profile((X, Y), steps=1)
    head, _, *lines = str(found).splitlines()
    assert re.fullmatch(r"[\d.,]+ µs per run \(1 runs in 1 rounds, medians\); .* GFLOP/s .* GB/s", head)
    empty = lines.index("")
    assert lines[0].split()[:5] == ["kernel", "function", "calls", "µs", "share"]
    assert lines[empty - 1].split()[0] == "rest"
    assert len(lines[:empty]) == len(found.rows) + 2
    assert [line.split()[0] for line in lines[empty + 2 : -1]][:1] == ["batch"]


def test_every_stage_of_a_step_can_be_shown() -> None:
    ours = trainer()
    assert ours.show("kernels") == ""
    stages = {what: ours.show(what, (X, Y)) for what in ("graph", "passes", "simplified", "kernels", "nests")}
    assert "float32[32,64]" in stages["graph"]
    assert "after share common subexpressions" in stages["passes"]
    assert len(stages["simplified"].splitlines()) < len(stages["graph"].splitlines())
    assert "relu" in stages["kernels"]
    assert "sum = Σ p0 × p1" in stages["nests"]
    assert "define internal void @step" in ours.show("llvm")
    assert "step:" in ours.show("asm")
    name = stages["kernels"].splitlines()[2].split()[1]
    assert ours.show(f"llvm {name}").count("define") == 1
    assert ours.show(f"asm {name}").startswith(f"{name}:")
    with pytest.raises(ValueError, match=r"no function 'loops_99': choose one of .*step"):
        ours.show("asm loops_99")
    memory = ours.show("memory").splitlines()
    weight = next(line.split() for line in memory if " 0.weight " in line)
    assert weight[2:4] == ["0.weight", "float32[64,8]"]
    assert any(line.endswith("in the place of 0.weight") for line in memory)
    assert re.fullmatch(r"arena [\d,]+ bytes, constants [\d,]+ bytes", memory[0])
    assert "float32[16,64]" in ours.show("graph", (X, Y), rows=16)
    assert "def run" in numpy_shown(trainer("numpy"))


def numpy_shown(ours: cr.Trainer) -> str:
    ours.run((X, Y), 1)
    return ours.show("python")


# -- the machine ---------------------------------------------------------------------------------------------
def test_the_machine_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr(machine, "measure", lambda: calls.append(1) or machine.Machine(2e11, 3e10))
    assert machine.machine() == machine.machine() == machine.Machine(2e11, 3e10)
    (kept,) = tmp_path.glob("machine-*.json")
    assert json.loads(kept.read_text()) == {"flops": 2e11, "bytes": 3e10}
    for damaged in ("", "{", '{"flops": 1}', "[1, 2]"):
        kept.write_text(damaged)
        assert machine.machine().flops == 2e11
    assert len(calls) == 5


def test_measured_peaks_are_possible_numbers() -> None:
    found = machine.measure()
    assert 1e9 < found.flops < 1e13
    assert 1e8 < found.bytes < 1e13
    assert 1e6 < machine.ticks_per_second() < 1e11
    assert 0 < machine.ticks_of_a_look() < 1e5


def test_the_counter_can_be_read_on_arm64_too() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = Target("aarch64-unknown-linux-gnu", "generic", "", 16, 32)
    module = Module(target.triple)
    now = Function(module, "now", [], result="i64", internal=False)
    now.give_back(ticks(now))
    assert len(compile_object(module.text(), target)) > 100
