"""Optimizers as pure functions: eager, compiled and behind the shell they are one rule; how they compose.

That the rule is the right one is decided in tests/bridges/test_torch_optim.py, against PyTorch. Here it is
also held to what can be worked out on paper.
"""

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import optim
from chainrule.errors import GradientError, RecipeError
from chainrule.tensor import Parameter, Tensor
from chainrule.trace import Program, trace_program

ALL = [
    optim.SGD(lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01),
    optim.SGD(lr=0.1, momentum=0.9, nesterov=True),
    optim.RMSprop(momentum=0.9, centered=True, weight_decay=0.01),
    optim.Adam(amsgrad=True, weight_decay=0.01),
    optim.AdamW(lr=optim.OneCycle(max_lr=0.1, total_steps=10)),
    optim.Adagrad(lr_decay=0.1, initial_accumulator_value=0.1),
]


def arrays(seed: int, dtype: str = "float32") -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    shapes = {"layers.0.weight": (3, 2), "layers.0.bias": (3,), "scale": (), "nothing": (0, 2)}
    return {path: generator.normal(size=shape).astype(dtype) for path, shape in shapes.items()}


def tensors(seed: int, dtype: str = "float32") -> dict[str, Tensor]:
    return {path: cr.asarray(each) for path, each in arrays(seed, dtype).items()}


def step(optimizer: optim.Optimizer, gradients: Any, state: Any, parameters: Any) -> Any:
    updates, after = optimizer.update(gradients, state, parameters)
    return optim.apply_updates(parameters, updates), after


def assert_same(one: dict[str, Any], other: dict[str, Any], roundings: int = 0) -> None:
    """Equal bit for bit, or within so many roundings of numbers up to one or their own size."""
    assert one.keys() == other.keys()
    for path, each in one.items():
        assert each.dtype == other[path].dtype
        if roundings == 0:
            assert each.numpy().tobytes() == other[path].numpy().tobytes(), path
        else:
            bound = roundings * np.finfo(each.dtype).eps / 2
            np.testing.assert_allclose(
                each.numpy(), other[path].numpy(), rtol=bound, atol=bound, err_msg=path
            )


# -- three ways to run one rule --------------------------------------------------------------------------
@pytest.mark.parametrize("backend", ["numpy", "native"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ALL, ids=lambda each: each.name)
def test_eager_compiled_and_shell_agree(optimizer: Any, dtype: str, backend: str) -> None:
    """Exactly on the reference; native code, which the shell runs, fuses multiplications and additions.

    A step rounds once in adding an update, and fewer than 30 times in making it, a number below one.
    """
    eager = compiled = tensors(0, dtype)
    eager_state = compiled_state = optimizer.init(eager)
    cells = {path: Parameter(each) for path, each in eager.items()}
    shell = optim.StatefulOptimizer(optimizer, cells.values())
    run = cr.compile(lambda *given: step(optimizer, *given), backend=backend)
    for seed in range(1, 8):
        gradients = tensors(seed, dtype)
        eager, eager_state = step(optimizer, gradients, eager_state, eager)
        compiled, compiled_state = run(gradients, compiled_state, compiled)
        for path, each in cells.items():
            each.grad = gradients[path]
        shell.step()
        assert_same(eager, compiled, roundings=0 if backend == "numpy" else 30 * seed)
        assert_same(eager, cells, roundings=30 * seed)
    assert eager_state["count"].item() == compiled_state["count"].item() == 7


def test_parameters_of_two_dtypes_stay_as_they_are() -> None:
    parameters = {"a": cr.asarray(np.float32(1)), "b": cr.asarray(np.float64(1))}
    after, state = step(optim.AdamW(lr=0.1), parameters, optim.AdamW().init(parameters), parameters)
    assert [each.dtype for each in after.values()] == [np.float32, np.float64]
    assert [each.dtype for each in state["exp_avg"].values()] == [np.float32, np.float64]


# -- what can be worked out on paper ---------------------------------------------------------------------
def test_sgd_takes_the_gradient_times_the_rate() -> None:
    parameters, gradients = tensors(0), tensors(1)
    updates, _ = optim.SGD(lr=0.5).update(gradients, optim.SGD().init(parameters), parameters)
    for path, each in updates.items():
        np.testing.assert_array_equal(each.numpy(), -0.5 * gradients[path].numpy())


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_adam_steps_by_the_rate_whatever_the_size_of_a_steady_gradient(size: float) -> None:
    """With one gradient g forever, both corrected averages are g and g**2: the step is -rate * sign(g)."""
    optimizer = optim.Adam(lr=0.1, eps=0.0)
    parameters = {"w": cr.asarray(np.zeros(2))}
    state = optimizer.init(parameters)
    for count in range(1, 20):
        parameters, state = step(optimizer, {"w": cr.asarray(np.array([size, -size]))}, state, parameters)
        np.testing.assert_allclose(parameters["w"].numpy(), [-0.1 * count, 0.1 * count], rtol=1e-12)


def test_centred_rmsprop_survives_a_gradient_that_never_changes() -> None:
    optimizer = optim.RMSprop(lr=0.01, alpha=0.5, centered=True)
    parameters = {"w": cr.asarray(np.zeros(50, np.float32))}
    state = optimizer.init(parameters)
    gradients = {"w": cr.asarray(np.linspace(0.1, 3, 50, dtype=np.float32))}
    for _ in range(200):  # the variance falls to 0, and rounding below it
        parameters, state = step(optimizer, gradients, state, parameters)
    assert np.isfinite(parameters["w"].numpy()).all()


def test_adamw_decays_without_a_gradient() -> None:
    parameters = {"w": cr.asarray(np.ones(1))}
    optimizer = optim.AdamW(lr=0.1, weight_decay=0.5)
    after, _ = step(optimizer, {"w": cr.asarray(np.zeros(1))}, optimizer.init(parameters), parameters)
    np.testing.assert_allclose(after["w"].numpy(), [1 - 0.1 * 0.5], rtol=1e-15)


# -- composition -----------------------------------------------------------------------------------------
def test_weight_decay_in_a_chain_is_weight_decay_of_the_optimizer() -> None:
    inside = optim.Adam(lr=0.01, weight_decay=0.1)
    outside = optim.chain(optim.add_decayed_weights(0.1), optim.Adam(lr=0.01))
    parameters, gradients = tensors(0), tensors(1)
    one, _ = step(inside, gradients, inside.init(parameters), parameters)
    other, _ = step(outside, gradients, outside.init(parameters), parameters)
    assert_same(one, other)


def test_a_chain_transforms_in_order() -> None:
    parameters = {"w": cr.asarray(np.zeros(2))}
    gradients = {"w": cr.asarray(np.array([3.0, 4.0]))}
    transforms = optim.clip_by_value(3.5), optim.clip_by_global_norm(1.0)
    for stages, wanted in ((transforms, [3.0, 3.5]), (transforms[::-1], [3.0, 4.0])):
        optimizer = optim.chain(*stages, optim.SGD(lr=1.0))
        updates, _ = optimizer.update(gradients, optimizer.init(parameters), parameters)
        direction = np.array(wanted) / np.linalg.norm(wanted)
        np.testing.assert_allclose(updates["w"].numpy(), -direction, rtol=1e-5)


def test_gradients_below_the_norm_pass_unchanged() -> None:
    gradients = tensors(1)
    clipped, _ = optim.clip_by_global_norm(1e6).update(gradients, {}, gradients)
    assert_same(clipped, gradients)


def test_gradients_that_are_all_zero_stay_zero() -> None:
    gradients = {"w": cr.zeros(3)}
    clipped, _ = optim.clip_by_global_norm(1.0).update(gradients, {}, gradients)
    assert clipped["w"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "stages",
    [(), (optim.Adam(), optim.clip_by_value(1.0)), (optim.clip_by_value(1.0),), (optim.SGD(), optim.SGD())],
)
def test_a_chain_ends_with_its_one_optimizer(stages: Any) -> None:
    with pytest.raises(RecipeError, match="last, one optimizer"):
        optim.chain(*stages)


def test_further_names_of_tied_weights_count_once() -> None:
    """cr.grad gives a shared weight's gradient under each of its names; parameters name it once."""
    shared = cr.asarray(np.array([3.0]))
    parameters = {"encoder": cr.asarray(np.zeros(1))}
    clipped, _ = optim.clip_by_global_norm(3.0).update({"encoder": shared, "decoder": shared}, {}, parameters)
    assert list(clipped) == ["encoder"]
    np.testing.assert_allclose(clipped["encoder"].numpy(), [3.0], rtol=1e-6)


def test_a_missing_gradient_is_named() -> None:
    parameters = tensors(0)
    gradients = {path: each for path, each in parameters.items() if path == "scale"}
    with pytest.raises(GradientError, match=r"no gradient for parameter 'layers\.0\.weight'.* named 'scale'"):
        optim.SGD().update(gradients, optim.SGD().init(parameters), parameters)


# -- inside a program ------------------------------------------------------------------------------------
def traced(optimizer: optim.Optimizer, parameters: dict[str, Any]) -> Program:
    paths, state = list(parameters), optimizer.init(parameters)

    def program(*gradients: Tensor) -> Any:
        return step(optimizer, dict(zip(paths, gradients, strict=True)), state, parameters)

    return trace_program(program, [each.node.type for each in parameters.values()])


def test_every_node_of_an_update_names_its_parameter() -> None:
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.AdamW())
    cells = {path: Parameter(each) for path, each in arrays(0).items()}
    nodes = [node for node in traced(optimizer, cells).graph.nodes if node.primitive is not None]
    assert {origin.role for node in nodes for origin in node.origins} == {"update"}
    for node in nodes:
        assert node.shape == () or node.layer in cells


NODES_PER_PARAMETER = {
    optim.SGD(): 2,
    optim.SGD(momentum=0.9): 3,
    optim.RMSprop(): 8,
    optim.Adam(): 10,
    optim.AdamW(): 12,
    optim.Adagrad(): 7,
}


@pytest.mark.parametrize("optimizer", NODES_PER_PARAMETER, ids=str)
def test_one_more_parameter_costs_few_nodes(optimizer: Any) -> None:
    """The addition to the parameter included; bias corrections and rates are shared by all."""

    def count(parameters: dict[str, Any]) -> int:
        graph = traced(optimizer, {path: Parameter(each) for path, each in parameters.items()}).graph
        return sum(node.primitive is not None for node in graph.nodes)

    both = {path: arrays(0)[path] for path in ("layers.0.weight", "layers.0.bias")}
    one = {path: each for path, each in both.items() if path.endswith("weight")}
    assert count(both) - count(one) == NODES_PER_PARAMETER[optimizer]


def test_the_scale_changes_without_tracing_anew() -> None:
    optimizer = optim.chain(optim.clip_by_global_norm(1e6), optim.SGD(lr=optim.Plateau(lr=1.0)))
    parameters = {"w": cr.asarray(np.zeros(1))}
    traces = []

    @cr.compile
    def run(gradients: Any, state: Any, parameters: Any) -> Any:
        traces.append(1)
        return step(optimizer, gradients, state, parameters)

    state = optimizer.init(parameters)
    after, state = run({"w": cr.asarray(np.ones(1))}, state, parameters)
    halved, _ = run({"w": cr.asarray(np.ones(1))}, optimizer.with_scale(state, 0.5), parameters)
    np.testing.assert_allclose([after["w"].item(), halved["w"].item()], [-1.0, -0.5], rtol=1e-6)
    assert len(traces) == 1


def test_only_a_plateau_schedule_watches_the_loss() -> None:
    assert optim.Adam(lr=0.1).plateau_watch() is None
    watch = optim.chain(optim.clip_by_value(1.0), optim.Adam(lr=optim.Plateau(lr=0.1))).plateau_watch()
    assert isinstance(watch, optim.PlateauWatch)


def test_a_python_function_can_be_the_schedule() -> None:
    optimizer = optim.SGD(lr=lambda count: 1.0 / (count + 1.0))
    parameters = {"w": cr.asarray(np.zeros(1))}
    state = optimizer.init(parameters)
    for wanted in (-1.0, -1.5):
        parameters, state = step(optimizer, {"w": cr.asarray(np.ones(1))}, state, parameters)
        np.testing.assert_allclose(parameters["w"].numpy(), [wanted], rtol=1e-6)


# -- hyperparameters -------------------------------------------------------------------------------------
BAD: list[tuple[Any, str]] = [
    (
        lambda: optim.SGD(lr=-0.1),
        r"SGD: lr = -0\.1 is out of range, it must be at least 0; 0\.001 is a common",
    ),
    (lambda: optim.SGD(lr=float("nan")), "lr = nan is out of range"),
    (lambda: optim.SGD(lr=float("inf")), "lr = inf is out of range"),
    (lambda: optim.SGD(lr="0.1"), "lr = '0.1' is not a number"),
    (lambda: optim.SGD(lr=True), "lr = True is not a number"),
    (lambda: optim.SGD(momentum=-1), "momentum = -1 .* 0.9 is usual"),
    (lambda: optim.SGD(dampening=-1), "dampening = -1"),
    (lambda: optim.SGD(weight_decay=-1), "weight_decay = -1"),
    (lambda: optim.SGD(nesterov=True), "nesterov=True .* set momentum=0.9 and dampening=0"),
    (lambda: optim.SGD(momentum=0.9, dampening=0.1, nesterov=True), "dampening = 0.1"),
    (lambda: optim.RMSprop(alpha=1.0), "alpha = 1.0 .* at least 0 and below 1"),
    (lambda: optim.RMSprop(eps=-1e-8), "eps = -1e-08"),
    (lambda: optim.RMSprop(momentum=-0.1), "momentum"),
    (lambda: optim.Adam(betas=(0.9, 1.0)), r"betas\[1\] = 1.0 .* 0.999 is usual"),
    (lambda: optim.AdamW(betas=(-0.1, 0.9)), r"AdamW: betas\[0\] = -0.1"),
    (lambda: optim.Adam(betas=0.9), r"betas = 0.9 must be two numbers, such as \(0.9, 0.999\)"),
    (lambda: optim.Adam(eps=-1.0), "eps = -1.0"),
    (lambda: optim.Adagrad(lr_decay=-1.0), "lr_decay = -1.0"),
    (lambda: optim.Adagrad(initial_accumulator_value=-1.0), "initial_accumulator_value = -1.0"),
    (lambda: optim.clip_by_global_norm(-1.0), "clip_by_global_norm: max_norm = -1.0"),
    (lambda: optim.clip_by_value(-1.0), "max_value = -1.0"),
    (lambda: optim.add_decayed_weights(-1.0), "weight_decay = -1.0"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_hyperparameters_are_named_with_a_cure(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()
