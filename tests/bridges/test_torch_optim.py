"""Optimizers, schedules and clipping against PyTorch's: equal in float64 to 1e-12 over 100 steps.

Both sides are given the same gradients, so that differences are those of the update rule alone. Rounding
grows by a few ulps (2e-16 relative) per step; 1e-12 leaves room for 100 steps and for nothing else.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import optim
from chainrule.tensor import Parameter

torch = pytest.importorskip("torch")
torch_optim = torch.optim
torch_scheduler = torch.optim.lr_scheduler

STEPS = 100
SHAPES = {"weight": (3, 2), "bias": (3,), "scale": ()}
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def options(**choices: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def valid_sgd(given: dict[str, Any]) -> bool:
    return not given["nesterov"] or (given["momentum"] > 0 and given["dampening"] == 0)


SGD = options(
    lr=(0.05,), momentum=(0.0, 0.9), dampening=(0.0, 0.3), weight_decay=(0.0, 0.1), nesterov=(False, True)
)
ADAM = options(
    lr=(0.01,),
    betas=((0.9, 0.999), (0.7, 0.9), (0.0, 0.5)),
    eps=(1e-8, 1e-2),
    weight_decay=(0.0, 0.1),
    amsgrad=(False, True),
)
CASES = [
    *(("SGD", each) for each in SGD if valid_sgd(each)),
    *(
        ("RMSprop", each)
        for each in options(
            lr=(0.01,),
            alpha=(0.99, 0.5),
            eps=(1e-8, 1e-2),
            weight_decay=(0.0, 0.1),
            momentum=(0.0, 0.9),
            centered=(False, True),
        )
    ),
    *(("Adam", each) for each in ADAM),
    *(("AdamW", each) for each in ADAM),
    *(
        ("Adagrad", each)
        for each in options(
            lr=(0.05,),
            lr_decay=(0.0, 0.02),
            weight_decay=(0.0, 0.1),
            initial_accumulator_value=(0.0, 0.3),
            eps=(1e-10, 1e-3),
        )
    ),
    *((name, {}) for name in ("SGD", "RMSprop", "Adam", "AdamW", "Adagrad")),
]


def named(case: tuple[str, dict[str, Any]]) -> str:
    name, given = case
    return name + "".join(f"-{key}={value}" for key, value in given.items() if key != "lr")


@pytest.fixture(scope="module")
def start() -> dict[str, Any]:
    generator = np.random.default_rng(3)
    return {path: generator.normal(size=shape) for path, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def gradients() -> list[dict[str, Any]]:
    """Gradients over several orders of magnitude; one element is always zero, as behind a dead unit."""
    generator = np.random.default_rng(4)
    found = []
    for step in range(STEPS):
        scale = 10.0 ** generator.uniform(-4, 1)
        found.append({path: scale * generator.normal(size=shape) for path, shape in SHAPES.items()})
        found[step]["weight"][1, 1] = 0.0
    return found


def torch_parameters(start: dict[str, Any]) -> dict[str, Any]:
    return {path: torch.nn.Parameter(torch.tensor(value)) for path, value in start.items()}


def our_parameters(start: dict[str, Any]) -> dict[str, Parameter]:
    found = {path: Parameter(value) for path, value in start.items()}
    for path, each in found.items():
        each.name = path
    return found


def torch_step(optimizer: Any, parameters: dict[str, Any], gradient: dict[str, Any]) -> None:
    for path, each in parameters.items():
        each.grad = torch.tensor(gradient[path])
    optimizer.step()


def our_step(optimizer: Any, parameters: dict[str, Parameter], gradient: dict[str, Any]) -> None:
    for path, each in parameters.items():
        each.grad = cr.asarray(gradient[path])
    optimizer.step()


def assert_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for path, each in ours.items():
        np.testing.assert_allclose(each.numpy(), theirs[path].detach().numpy(), **TOLERANCE, err_msg=path)


@pytest.mark.parametrize(("name", "given"), CASES, ids=map(named, CASES))
def test_updates_equal_pytorch(
    name: str, given: dict[str, Any], start: dict[str, Any], gradients: list[dict[str, Any]]
) -> None:
    theirs = torch_parameters(start)
    reference = getattr(torch_optim, name)(theirs.values(), **given, foreach=False)
    optimizer = getattr(optim, name)(**given)
    ours = {path: cr.asarray(value) for path, value in start.items()}
    state = optimizer.init(ours)

    @cr.compile
    def step(gradient: Any, state: Any, parameters: Any) -> Any:
        updates, state = optimizer.update(gradient, state, parameters)
        return optim.apply_updates(parameters, updates), state

    for gradient in gradients:
        torch_step(reference, theirs, gradient)
        ours, state = step({path: cr.asarray(each) for path, each in gradient.items()}, state, ours)
        assert_equal(ours, theirs)
    assert state["count"].item() == STEPS


def test_defaults_are_pytorchs() -> None:
    for name in ("SGD", "RMSprop", "Adam", "AdamW", "Adagrad"):
        reference = getattr(torch_optim, name)([torch.nn.Parameter(torch.zeros(1))]).defaults
        ours = getattr(optim, name)([Parameter([0.0])]).defaults
        assert ours == {option: reference[option] for option in ours}


# -- the shell -------------------------------------------------------------------------------------------
SHELLS = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.2}),
    ("SGD", {"lr": 0.1}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("Adagrad", {"lr_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "given"), SHELLS, ids=map(named, SHELLS))
def test_training_begun_in_pytorch_goes_on_here(
    name: str, given: dict[str, Any], start: dict[str, Any], gradients: list[dict[str, Any]]
) -> None:
    theirs = torch_parameters(start)
    reference = getattr(torch_optim, name)(theirs.values(), **given)
    for gradient in gradients[:10]:
        torch_step(reference, theirs, gradient)
    ours = our_parameters({path: each.detach().numpy() for path, each in theirs.items()})
    optimizer = getattr(optim, name)(ours.values())
    optimizer.load_state_dict(reference.state_dict())
    for gradient in gradients[10:20]:
        torch_step(reference, theirs, gradient)
        our_step(optimizer, ours, gradient)
    assert_equal(ours, theirs)


def test_groups_and_missing_gradients_equal_pytorch(
    start: dict[str, Any], gradients: list[dict[str, Any]]
) -> None:
    """A parameter without a gradient is skipped and its step not counted; a rate may be set at any time."""
    theirs, ours = torch_parameters(start), our_parameters(start)

    def groups(parameters: dict[str, Any]) -> list[dict[str, Any]]:
        decayed = {"params": [parameters["weight"]], "weight_decay": 0.1}
        return [decayed, {"params": [parameters["bias"], parameters["scale"]], "lr": 0.5}]

    reference = torch_optim.AdamW(groups(theirs), lr=0.1)
    optimizer = optim.AdamW(groups(ours), lr=0.1)
    for step, gradient in enumerate(gradients[:20]):
        for each in (reference, optimizer):
            each.zero_grad()
            each.param_groups[1]["lr"] = 0.5 / (1 + step)
        for path in gradient:
            if path != "bias" or step % 3 != 1:
                theirs[path].grad = torch.tensor(gradient[path])
                ours[path].grad = cr.asarray(gradient[path])
        reference.step()
        optimizer.step()
        assert_equal(ours, theirs)
    assert [each["step"] for each in optimizer.state.values()] == [20, 13, 20]


# -- clipping --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("max_norm", [0.1, 3.0, 1e6])
def test_clipping_equals_pytorch(max_norm: float, gradients: list[dict[str, Any]]) -> None:
    for gradient in gradients[:10]:
        theirs = {path: torch.nn.Parameter(torch.zeros(shape)) for path, shape in SHAPES.items()}
        theirs = {path: torch.nn.Parameter(each.double()) for path, each in theirs.items()}
        for path, each in theirs.items():
            each.grad = torch.tensor(gradient[path])
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), max_norm)
        ours = {path: cr.asarray(each) for path, each in gradient.items()}
        clipped, _ = optim.clip_by_global_norm(max_norm).update(ours, {}, ours)
        np.testing.assert_allclose(optim.global_norm(ours).item(), norm.item(), rtol=1e-12)
        assert_equal(clipped, {path: each.grad for path, each in theirs.items()})

        torch.nn.utils.clip_grad_value_(theirs.values(), max_norm / 10)
        held, _ = optim.clip_by_value(max_norm / 10).update(clipped, {}, ours)
        assert_equal(held, {path: each.grad for path, each in theirs.items()})


# -- schedules -------------------------------------------------------------------------------------------
def warmup_cosine(optimizer: Any) -> Any:
    up = torch_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=10)
    down = torch_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=1e-3)
    return torch_scheduler.SequentialLR(optimizer, [up, down], milestones=[10])


def one_cycle(**given: Any) -> Callable[[Any], Any]:
    return lambda optimizer: torch_scheduler.OneCycleLR(optimizer, cycle_momentum=False, **given)


SCHEDULES = [
    (optim.Constant(0.1), lambda o: torch_scheduler.LambdaLR(o, lambda count: 1.0)),
    (optim.Step(0.1, 7, 0.5), lambda o: torch_scheduler.StepLR(o, 7, 0.5)),
    (optim.MultiStep(0.1, (3, 20, 21)), lambda o: torch_scheduler.MultiStepLR(o, [3, 20, 21])),
    (optim.Exponential(0.1, 0.93), lambda o: torch_scheduler.ExponentialLR(o, 0.93)),
    (optim.Cosine(0.1, 50, 0.01), lambda o: torch_scheduler.CosineAnnealingLR(o, 50, 0.01)),
    (optim.LinearWarmup(0.1, 20, 0.05), lambda o: torch_scheduler.LinearLR(o, 0.05, total_iters=20)),
    (optim.WarmupCosine(0.1, 10, 50, minimum=1e-3), warmup_cosine),
    *(
        (optim.OneCycle(**given), one_cycle(**given))
        for given in (
            {"max_lr": 0.3, "total_steps": 51},
            {"max_lr": 0.3, "total_steps": 51, "anneal_strategy": "linear"},
            {"max_lr": 0.3, "total_steps": 60, "pct_start": 0.0},
            {"max_lr": 0.3, "total_steps": 51, "pct_start": 1.0},
            {"max_lr": 1.0, "total_steps": 70, "pct_start": 0.45, "div_factor": 3.0, "final_div_factor": 7.0},
        )
    ),
]


@pytest.mark.parametrize(("schedule", "reference"), SCHEDULES, ids=[str(each) for each, _ in SCHEDULES])
def test_schedules_equal_pytorch(schedule: optim.Schedule, reference: Callable[[Any], Any]) -> None:
    optimizer = torch_optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = reference(optimizer)
    for count in range(51):
        wanted = optimizer.param_groups[0]["lr"]
        np.testing.assert_allclose(schedule(count), wanted, **TOLERANCE, err_msg=str(count))
        if count < 50:
            optimizer.step()
            scheduler.step()


def sequential(library: Any) -> Callable[[Any], Any]:
    return lambda o: library.SequentialLR(
        o,
        [library.LinearLR(o, 0.1, total_iters=5), library.StepLR(o, 4, 0.5), library.ExponentialLR(o, 0.9)],
        milestones=[5, 15],
    )


SHELL_SCHEDULES: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "StepLR": lambda s: lambda o: s.StepLR(o, step_size=3),
    "MultiStepLR": lambda s: lambda o: s.MultiStepLR(o, milestones=[2, 9], gamma=0.2),
    "ExponentialLR": lambda s: lambda o: s.ExponentialLR(o, gamma=0.97),
    "CosineAnnealingLR": lambda s: lambda o: s.CosineAnnealingLR(o, T_max=7, eta_min=0.01),
    "LambdaLR": lambda s: lambda o: s.LambdaLR(o, [lambda count: 0.9**count, lambda count: 1 / (1 + count)]),
    "LinearLR": lambda s: lambda o: s.LinearLR(o, start_factor=0.5, end_factor=0.1, total_iters=6),
    "SequentialLR": sequential,
}


def rates(optimizer: Any, scheduler: Any, steps: int = 30) -> Iterator[list[float]]:
    for _ in range(steps):
        yield [group["lr"] for group in optimizer.param_groups]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", SHELL_SCHEDULES)
def test_lr_schedulers_equal_pytorch(name: str) -> None:
    make = SHELL_SCHEDULES[name]
    theirs = torch_optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": r} for r in (0.1, 0.7)])
    ours = optim.SGD([{"params": [Parameter([0.0])], "lr": r} for r in (0.1, 0.7)])
    wanted = rates(theirs, make(torch_scheduler)(theirs))
    found = rates(ours, make(optim.lr_scheduler)(ours))
    np.testing.assert_allclose(list(found), list(wanted), **TOLERANCE)


def test_one_cycle_lr_equals_pytorch() -> None:
    theirs = torch_optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]}, {"params": [torch.zeros(1)]}])
    ours = optim.SGD([{"params": [Parameter([0.0])]}, {"params": [Parameter([0.0])]}])
    given: dict[str, Any] = {"max_lr": [0.1, 0.4], "epochs": 4, "steps_per_epoch": 8}
    wanted = rates(theirs, torch_scheduler.OneCycleLR(theirs, cycle_momentum=False, **given))
    found = rates(ours, optim.lr_scheduler.OneCycleLR(ours, **given))
    np.testing.assert_allclose(list(found), list(wanted), **TOLERANCE)


@pytest.mark.parametrize(
    "given",
    options(
        mode=("min", "max"),
        threshold_mode=("rel", "abs"),
        patience=(0, 2),
        cooldown=(0, 3),
        min_lr=(0.0, 0.02),
    ),
    ids=str,
)
def test_reduce_lr_on_plateau_equals_pytorch(given: dict[str, Any]) -> None:
    generator = np.random.default_rng(5)
    values = 1.0 + np.cumsum(generator.choice([-0.02, 0.0, 0.01, 0.0001], 60))
    theirs = torch_optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    ours = optim.SGD([Parameter([0.0])], lr=0.3)
    reference = torch_scheduler.ReduceLROnPlateau(theirs, factor=0.5, threshold=0.01, **given)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(ours, factor=0.5, threshold=0.01, **given)
    for value in values:
        reference.step(value)
        scheduler.step(value)
        np.testing.assert_allclose(scheduler.get_last_lr(), reference.get_last_lr(), **TOLERANCE)
