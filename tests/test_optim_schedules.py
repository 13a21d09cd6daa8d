"""Schedules at their landmarks, inside and outside of a graph; the plateau rule; PyTorch-named shells."""

import json
import math
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import optim
from chainrule.errors import RecipeError
from chainrule.optim import lr_scheduler
from chainrule.tensor import Parameter

# (schedule, {count: rate}), worked out by hand; the last count is far behind the end.
LANDMARKS: list[tuple[optim.Schedule, dict[int, float]]] = [
    (optim.Constant(0.3), {0: 0.3, 10**6: 0.3}),
    (optim.Step(0.8, 10, 0.5), {0: 0.8, 9: 0.8, 10: 0.4, 19: 0.4, 20: 0.2, 35: 0.1}),
    (optim.MultiStep(1.0, (5, 7)), {0: 1.0, 4: 1.0, 5: 0.1, 6: 0.1, 7: 0.01, 99: 0.01}),
    (optim.MultiStep(1.0, ()), {0: 1.0, 99: 1.0}),
    (optim.Exponential(1.0, 0.5), {0: 1.0, 1: 0.5, 10: 2.0**-10}),
    (optim.Cosine(1.0, 100, 0.2), {0: 1.0, 25: 0.6 + 0.4 * math.sqrt(0.5), 50: 0.6, 100: 0.2, 999: 0.2}),
    (optim.LinearWarmup(1.0, 10, 0.5), {0: 0.5, 5: 0.75, 10: 1.0, 999: 1.0}),
    (optim.WarmupCosine(1.0, 10, 30, 0.5, 0.1), {0: 0.5, 5: 0.75, 10: 1.0, 20: 0.55, 30: 0.1, 999: 0.1}),
    (optim.OneCycle(1.0, 101, 0.3, 10.0, 100.0), {0: 0.1, 100: 1e-3, 999: 1e-3}),
    (optim.OneCycle(1.0, 20, 0.5, 10.0, anneal_strategy="linear"), {0: 0.1, 9: 1.0, 19: 1e-5, 99: 1e-5}),
    (optim.OneCycle(1.0, 10, 0.0, 10.0), {999: 1e-5}),
    (optim.OneCycle(1.0, 10, 1.0, 10.0), {0: 0.1, 9: 1.0, 999: 1.0}),
    (optim.Plateau(0.3), {0: 0.3, 999: 0.3}),
]


@pytest.mark.parametrize(("schedule", "landmarks"), LANDMARKS, ids=[str(each) for each, _ in LANDMARKS])
def test_landmarks(schedule: optim.Schedule, landmarks: dict[int, float]) -> None:
    for count, rate in landmarks.items():
        found = schedule(count)
        assert isinstance(found, float)
        assert found == pytest.approx(rate, rel=1e-12), count


@pytest.mark.parametrize("schedule", [each for each, _ in LANDMARKS], ids=str)
def test_a_graph_gives_the_same_rates(schedule: optim.Schedule) -> None:
    in_graph = cr.compile(schedule)
    for count in (0, 1, 5, 10, 37, 1000):
        rate = in_graph(cr.asarray(np.int64(count)))
        assert rate.dtype == np.float64
        assert rate.shape == ()
        assert rate.item() == schedule(count)


BAD: list[tuple[Any, str]] = [
    (lambda: optim.Constant(-1.0), "Constant: lr = -1.0"),
    (lambda: optim.Step(0.1, 0), "step_size = 0 must be a whole number of at least 1; it counts updates"),
    (lambda: optim.Step(0.1, 2.5), "step_size = 2.5"),  # type: ignore[arg-type]
    (lambda: optim.Step(0.1, True), "step_size = True"),
    (lambda: optim.MultiStep(0.1, (-1,)), "milestones = -1"),
    (lambda: optim.Exponential(0.1, -0.5), "gamma = -0.5"),
    (lambda: optim.Cosine(0.1, 0), "total_steps = 0 .* epochs x steps per epoch"),
    (lambda: optim.Cosine(0.1, 5, -0.1), "minimum = -0.1"),
    (lambda: optim.LinearWarmup(0.1, 5, 1.0), "start_factor = 1.0"),
    (lambda: optim.WarmupCosine(0.1, 10, 10), "total_steps = 10 .* more than warmup_steps = 10"),
    (lambda: optim.OneCycle(0.1, 10, pct_start=1.5), "pct_start = 1.5 must lie between 0 and 1"),
    (lambda: optim.OneCycle(0.1, 10, div_factor=0.5), "div_factor = 0.5"),
    (
        lambda: optim.OneCycle(0.1, 10, anneal_strategy="cosine"),
        "'cosine' is not known; choose 'cos' or 'linear'",
    ),
    (lambda: optim.Plateau(0.1, factor=1.0), "factor = 1.0"),
    (lambda: optim.Plateau(0.1, mode="low"), "mode = 'low'"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_options_are_named_with_a_cure(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()


# -- plateau ---------------------------------------------------------------------------------------------
def test_plateau_waits_drops_cools_down_and_stops_at_the_minimum() -> None:
    watch = optim.Plateau(1.0, factor=0.5, patience=1, cooldown=2, min_scale=0.2).watch()
    losses = [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    #          better    bad  drop cool cool bad  drop cool cool bad  drop: 0.125, held at 0.2
    wanted = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.2]
    assert [watch.scale_after(each) for each in losses] == wanted


def test_plateau_takes_nan_for_no_improvement() -> None:
    watch = optim.Plateau(1.0, patience=0).watch()
    assert watch.scale_after(float("nan")) == 0.1


def test_plateau_goes_on_from_a_checkpoint() -> None:
    losses = np.random.default_rng(0).choice([1.0, 0.9, 0.8], 40).tolist()
    whole, first = (optim.Plateau(1.0, patience=2, cooldown=1).watch() for _ in range(2))
    wanted = [whole.scale_after(each) for each in losses]
    found = [first.scale_after(each) for each in losses[:17]]
    second = optim.Plateau(1.0, patience=2, cooldown=1).watch()
    second.load_state(json.loads(json.dumps(first.state())))
    assert found + [second.scale_after(each) for each in losses[17:]] == wanted


# -- shells ----------------------------------------------------------------------------------------------
def shell(*rates: float) -> optim.StatefulOptimizer:
    found = optim.SGD([{"params": [Parameter([0.0])], "lr": rate} for rate in rates])
    assert isinstance(found, optim.StatefulOptimizer)
    return found


def test_a_scheduler_goes_on_from_a_checkpoint() -> None:
    one, other = shell(0.1), shell(0.1)
    first = lr_scheduler.CosineAnnealingLR(one, T_max=9)
    for _ in range(4):
        first.step()
    second = lr_scheduler.CosineAnnealingLR(other, T_max=9)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    first.step()
    second.step()
    assert first.get_last_lr() == second.get_last_lr()
    plateau = lr_scheduler.ReduceLROnPlateau(one)
    plateau.step(3.0)
    copied = lr_scheduler.ReduceLROnPlateau(other)
    copied.load_state_dict(plateau.state_dict())
    assert copied.state_dict() == plateau.state_dict()


def test_schedulers_want_an_optimizer_with_parameters() -> None:
    with pytest.raises(RecipeError, match=r"StepLR sets the rate .* takes a schedule itself"):
        lr_scheduler.StepLR(optim.Adam(), 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1), "total_steps, or epochs and steps_per_epoch"),
        (lambda o: lr_scheduler.OneCycleLR(o, [0.1], 5), "1 values of max_lr for 2 parameter groups"),
        (lambda o: lr_scheduler.LambdaLR(o, [lambda count: 1.0]), "1 functions for 2 parameter groups"),
        (lambda o: lr_scheduler.SequentialLR(o, [], []), "SequentialLR"),
        (lambda o: lr_scheduler.LinearLR(o, total_iters=0), "total_iters = 0"),
    ],
)
def test_bad_schedulers_say_what_is_wrong(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make(shell(0.1, 0.2))
