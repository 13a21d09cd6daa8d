"""The race's own logic: workloads, order, models, statistics, verdicts, and the page written from results.

Nothing is timed here. That the networks equal PyTorch's is tested in tests/bridges/test_torch_workloads.py.
"""

import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import chainrule_adapter, measure, promises, report, results, specs, workloads
from benchmarks.contests import CONTESTS, available_cpus
from benchmarks.machine import Machine, cores_worth
from benchmarks.peers import ALL, library, numpy_by_hand
from chainrule import nn

MACHINE = {"cpu": "a processor", "cores": 2, "vector_bits": 256, "gflops": 100.0, "bandwidth": 20.0}
SMALL = specs.Spec("small", "mlp", (5, 6, 6, 3), batch=7, rows=40)
TINY_GPT = specs.Spec("tiny", "gpt", vocab=11, context=6, d_model=8, heads=2, batch=3, rows=100)


# -- workloads ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", [SMALL, TINY_GPT], ids=lambda spec: spec.name)
def test_batches_are_the_same_however_they_are_asked_for(spec: specs.Spec) -> None:
    one, other = specs.Order(spec), specs.Order(spec)
    steps = 13
    alone = np.stack([one.next() for _ in range(steps)])
    assert np.array_equal(alone, np.concatenate([other.block(4), [other.next()], other.block(steps - 5)]))
    assert alone.shape == (steps, spec.batch)


def test_an_epoch_visits_no_row_twice_and_drops_the_rest() -> None:
    epochs = specs.Order(SMALL).block(2 * SMALL.steps_per_epoch).reshape(2, -1)
    assert all(len(set(epoch.tolist())) == 35 for epoch in epochs)
    assert not np.array_equal(*epochs)


def test_windows_are_followed_by_their_targets() -> None:
    stream = specs.data(TINY_GPT)[0]
    inputs, targets = specs.windows(TINY_GPT, stream, np.array([0, 90]))
    assert inputs.shape == targets.shape == (2, 6)
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])


def test_workloads_and_families_are_found_by_name() -> None:
    assert [specs.find(name).name for name in specs.WORKLOADS] == list("ABCDEFGH")
    assert specs.find("width=64").dims == (784, 64, 64, 10)
    assert len(specs.find("depth=200").dims) == 202
    assert specs.find("batch=8").batch == 8
    for wrong in ("Z", "width", "width=wide"):
        with pytest.raises(KeyError, match="no workload"):
            specs.find(wrong)
    for contest in CONTESTS.values():
        assert [specs.find(name).name for name in contest.workloads] == list(contest.workloads)
        assert set(contest.peers) <= set(ALL)


def test_arithmetic_of_the_networks() -> None:
    a = 2 * 64 * (8 * 64 + 64 * 64 + 64)
    assert specs.flops(specs.find("A")) == (a, 3 * a - 2 * 64 * 8 * 64)
    tokens, d = 16 * 64, 64
    attention = 2 * 2 * 16 * d * (64 * 65 // 2)
    block = 2 * tokens * 12 * d * d + attention
    forward = 2 * block + 2 * tokens * d * 96
    assert specs.flops(specs.find("H")) == (forward, 3 * forward)


@pytest.mark.parametrize("name", "ABCDEF")
def test_perceptrons_start_from_the_shared_weights(name: str) -> None:
    spec = specs.find(name)
    linear = [layer for layer in workloads.model_of(spec).modules() if isinstance(layer, nn.Linear)]
    assert [(each.in_features, each.out_features) for each in linear] == list(pairwise(spec.dims))
    for layer, (weight, bias) in zip(linear, specs.mlp_params(spec), strict=True):
        assert np.array_equal(layer.weight.numpy().T, weight)
        assert np.array_equal(layer.bias.numpy(), bias)


# -- peers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["A", "B", "F", "batch=8"])
def test_chainrule_and_numpy_by_hand_take_the_same_steps(name: str) -> None:
    spec = specs.find(name)
    X, y = specs.data(spec)
    ours = workloads.make(spec, X, y, "numpy", "train")
    theirs = numpy_by_hand.make(spec, X, y, "", "train")
    # Ten steps in float32: the two sum in different orders, and ReLU gates close to 0 amplify that.
    assert [ours.run(5), ours.run(5)] == pytest.approx([theirs.run(5), theirs.run(5)], rel=1e-4)


def test_one_batch_has_one_loss_in_every_mode() -> None:
    spec = specs.find("A")
    X, y = specs.data(spec)
    losses = [workloads.make(spec, X, y, "numpy", mode).run(2) for mode in ("value", "grad", "valuegraph")]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_recomputed_segments_change_nothing() -> None:
    spec = specs.Spec("deep", "mlp", (4, *[6] * 7, 3), "tanh", batch=5, rows=20, segments=3)
    kept = specs.Spec("deep", "mlp", (4, *[6] * 7, 3), "tanh", batch=5, rows=20)
    X, y = specs.data(spec)
    one, other = (workloads.make(each, X, y, "numpy", "train").run(6) for each in (spec, kept))
    assert one == pytest.approx(other, rel=1e-5)


def test_the_adapter_refuses_other_batches_or_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = specs.find("A")
    X, y = specs.data(spec)
    monkeypatch.setitem(sys.modules, "specs", specs)
    assert np.isfinite(chainrule_adapter.make(spec, X, y, "numpy", "train").run(1))
    with pytest.raises(NotImplementedError, match="checked"):
        chainrule_adapter.make(spec, X, y, "checked", "train")
    other = SimpleNamespace(Order=specs.Order, mlp_params=lambda spec: specs.mlp_params(spec, seed=3))
    monkeypatch.setitem(sys.modules, "specs", other)
    with pytest.raises(ValueError, match="start weights are not those"):
        chainrule_adapter.make(spec, X, y, "numpy", "train")


def test_a_worker_answers_and_says_why_it_does_not() -> None:
    numpy = measure.Entry("NumPy by hand", "E")
    found = measure.race({"hand": numpy, "none": numpy._replace(workload="H")}, rounds=2, seconds=0.01)
    assert len(found["hand"]["us"]) == 2
    assert min(found["hand"]["us"]) > 0
    assert "perceptrons" in found["none"]["failed"]
    fit = iter([True, False, True, True, True, False])  # before and after the only block of every round
    found = measure.race({"hand": numpy}, rounds=1, seconds=0.01, fit=lambda: next(fit))
    assert (len(found["hand"]["us"]), found["hand"]["unfit"]) == (1, 1)
    found = measure.race({"hand": numpy}, rounds=1, seconds=0.01, fit=lambda: False)
    assert (len(found["hand"]["us"]), found["hand"]["unfit"]) == (0, 4)
    epoch = measure.once(numpy)
    assert 0 < epoch["grown_mb"] < epoch["peak_mb"]
    assert epoch["seconds"] > 0


# -- statistics and verdicts -------------------------------------------------------------------------------
def timings(**us: list[float]) -> measure.Timings:
    return {name.replace("_", ", "): {"us": each, "loss": 0.5, "steps": 100} for name, each in us.items()}


def test_the_best_way_to_use_a_library_counts() -> None:
    found = timings(
        chainrule=[1.0] * 5, PyTorch=[4.0] * 5, PyTorch_fast=[2.0, 2.0, 3.0, 2.0, 2.0], JAX=[1.5] * 5
    )
    found["PyTorch, broken"] = {"failed": "no compiler"}
    assert measure.of_library(found, "PyTorch") == ["PyTorch", "PyTorch, fast", "PyTorch, broken"]
    assert measure.ratio(found, "chainrule", measure.of_library(found, "PyTorch")) == (
        2.0, 2.0, 3.0, "PyTorch, fast",
    )  # fmt: skip
    assert measure.ratio(found, "chainrule", ["PyTorch, broken"]) is None
    assert library("PyTorch, fast") == "PyTorch"


def test_an_interval_takes_whole_rounds_so_a_slow_moment_cancels() -> None:
    slow = [1.0, 1.0, 5.0, 1.0, 1.0]
    found = timings(chainrule=slow, JAX=[2 * each for each in slow])
    assert measure.ratio(found, "chainrule", ["JAX"]) == (2.0, 2.0, 2.0, "JAX")


def trained(ours: list[float], theirs: float) -> dict[str, Any]:
    peers = timings(chainrule=ours, PyTorch=[theirs] * 5, JAX=[theirs] * 5)
    return {"timings": peers, "machine": MACHINE, "settings": {}}


def test_a_training_bar_needs_its_median_and_nine_tenths_at_the_lower_end() -> None:
    steady, wide, slow = [1.0] * 5, [0.9, 1.0, 1.0, 1.3, 1.3], [1.1] * 5
    for ours, holds in ((steady, True), (wide, False), (slow, False)):
        pytorch, jax = promises.train({"D": trained(ours, 1.3)})
        assert (pytorch.passed, jax.passed) == (holds, holds), ours
        assert pytorch.bar == "train-D-pytorch"
    assert not next(promises.train({"D": {"timings": {"chainrule": {"failed": "broken"}}}})).passed


def test_scaling_must_lead_nearly_everywhere_and_fall_behind_nowhere() -> None:
    ahead = {f"width={k}": trained([1.0] * 5, 2.0) for k in range(9)}
    (kept,) = promises.scaling(ahead | {"width=32": trained([1.0] * 5, 0.96)})
    (broken,) = promises.scaling(ahead | {"width=32": trained([1.0] * 5, 0.9)})
    assert (kept.passed, broken.passed) == (True, False)
    assert "least 0.90× at width=32" in broken.figure
    alone = {"timings": timings(chainrule=[1.0] * 5, PyTorch=[2.0] * 5), "machine": MACHINE, "settings": {}}
    (unmeasured,) = promises.scaling(ahead | {"width=32": alone})
    assert not unmeasured.passed, "JAX was not raced"


def test_other_promises() -> None:
    cost = {
        "F": {"timings": timings(**{"chainrule: value": [1.0], "chainrule: grad": [3.2]}), "machine": MACHINE}
    }
    assert next(promises.gradcost(cost)).passed
    runs = {"chainrule": [{"seconds": 0.6}], "chainrule, cold cache": [{"seconds": 1.0}]}
    assert [each.passed for each in promises.firstuse({"A": {"runs": runs}})] == [True, False]
    steps = {"G": {"first_step": {"chainrule": [0.9, 1.2, 0.8]}}}
    assert next(promises.compilation(steps)).passed
    peaks = {
        "C": {"runs": {"chainrule": [{"peak_mb": 2.0}], "PyTorch": [{"peak_mb": 1.0}]}},
        "checkpointed=1": {"runs": {"chainrule": [{"grown_mb": 10.0}]}},
        "checkpointed=4": {"runs": {"chainrule": [{"grown_mb": 20.0}]}},
    }
    assert [each.passed for each in promises.memory(peaks)] == [False, True]
    beside = timings(**{"chainrule: 1": [2.0], "chainrule: 2": [2.5]})
    for rounds, kept in ((5, True), (4, False)):
        pair = timings(**{"chainrule: 1": [2.0] * rounds, "chainrule: 2": [1.0] * rounds})
        threads = {"C": {"timings": pair, "beside": beside}}
        assert [each.passed for each in promises.threads(threads)] == [kept, False]


# -- results and the page ----------------------------------------------------------------------------------
def test_results_hold_for_their_source_and_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "PUBLISHED", tmp_path / "results" / "race.json")
    for name in ("width=256", "width=64", "depth=2"):
        results.save("scaling", name, {"settings": {"rounds": 5}})
    assert results.load("scaling", "width=64", {"rounds": 5}) is not None
    assert results.load("scaling", "width=64", {"rounds": 7}) is None
    assert list(results.publish()["scaling"]) == ["depth=2", "width=64", "width=256"]
    monkeypatch.setattr(results, "fingerprint", lambda: "another")
    assert results.load("scaling", "width=64", {"rounds": 5}) is None
    assert results.collect() == {}


def test_every_contest_has_its_table_and_its_promises() -> None:
    assert list(CONTESTS) == list(report.TABLES) == list(report.TITLES) == list(promises.PROMISES)


def test_a_table_shows_what_is_missing_as_missing() -> None:
    found = trained([100.0] * 5, 1300.0)
    found["timings"]["tinygrad"] = {"failed": "needs clang"}
    text = report.train({"D": found})
    assert "| D | 784-1024-1024-10 relu, ce, batch 256 | 100.0 | 24484% | 13.00 (13.00 to 13.00)" in text
    assert "| – | 2448% | 2448% |" in text
    assert "| tinygrad | – |" in text


def test_the_page_is_written_from_the_published_results() -> None:
    """Run `python -m benchmarks.race … --write-docs` after changing how results are shown."""
    assert report.PAGE.read_text(encoding="utf-8") == report.page(results.read_published())


def test_cpus_are_compared_with_each_alone() -> None:
    cpus, before = sorted(available_cpus()), available_cpus()
    assert cores_worth(cpus) > 0
    assert available_cpus() == before


def test_a_machine_says_what_it_is() -> None:
    assert str(Machine(**MACHINE)).startswith("a processor, 2 cores: FMA peak of one 100 GFLOP/s")
