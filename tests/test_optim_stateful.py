"""PyTorch's shell: groups, shared weights, saving, and what it says about misuse."""

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import optim
from chainrule.errors import GradientError, RecipeError, ShapeError
from chainrule.tensor import Parameter


def cell(value: Any, name: str = "") -> Parameter:
    found = Parameter(np.asarray(value, np.float32))
    found.name = name
    return found


def quadratic_steps(optimizer: Any, parameters: list[Parameter], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        cr.sum(sum(cr.sum(each * each) for each in parameters)).backward()
        optimizer.step()


def test_a_loop_written_by_hand_descends() -> None:
    w = cell([1.0, -2.0])
    quadratic_steps(optim.Adam([w], lr=0.1), [w], 100)
    assert np.abs(w.numpy()).max() < 0.05


def test_the_rate_comes_second_as_in_pytorch() -> None:
    w = cell([1.0])
    assert optim.SGD([w], 0.25).param_groups[0]["lr"] == 0.25
    assert optim.SGD(params=[w], lr=0.25).param_groups[0]["lr"] == 0.25
    assert optim.SGD(0.25) == optim.SGD(lr=0.25)


def test_named_parameters_are_taken_too() -> None:
    w = cell([1.0])
    assert optim.SGD([("w", w)]).parameters() == [w]


def test_a_shared_weight_is_updated_once() -> None:
    w = cell([1.0])
    optimizer = optim.SGD([w, w], lr=0.1)
    w.grad = cr.asarray([1.0])
    optimizer.step()
    assert w.item() == pytest.approx(0.9)
    assert list(optimizer.state) == [w]


def test_zero_grad() -> None:
    w, b = cell([1.0]), cell([1.0])
    w.grad = cr.asarray([2.0])
    optimizer = optim.SGD([w, b])
    optimizer.zero_grad(set_to_none=False)
    assert w.grad.tolist() == [0.0]
    assert b.grad is None
    optimizer.zero_grad()
    assert w.grad is None


def test_options_of_a_group_count_from_the_next_step_on() -> None:
    w = cell([0.0])
    optimizer = optim.SGD([w], lr=1.0)
    found = []
    for options in ({}, {"lr": 0.5}, {"momentum": 0.5}, {"lr": 0.25}):
        optimizer.param_groups[0].update(options)
        w.grad = cr.asarray([-1.0])
        optimizer.step()
        found.append(w.item())
    # The momentum buffer starts with the third gradient: 1, then 0.5 * 1 + 1.
    assert found == [1.0, 1.5, 2.0, 2.375]


def test_a_schedule_as_the_rate_of_the_shell() -> None:
    w = cell([0.0])
    optimizer = optim.SGD([w], lr=optim.Step(1.0, 2, 0.5))
    found = []
    for _ in range(4):
        w.grad = cr.asarray([-1.0])
        optimizer.step()
        found.append(w.item())
    assert found == [1.0, 2.0, 2.5, 3.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda ps: optim.SGD(ps, momentum=0.9),
        lambda ps: optim.Adam(ps, amsgrad=True),
        lambda ps: optim.AdamW([{"params": ps[:1], "lr": 0.1}, {"params": ps[1:]}]),
    ],
)
def test_training_goes_on_from_a_state_dict(make: Any) -> None:
    whole = [cell([1.0, 2.0], "w"), cell(3.0, "b")]
    optimizer = make(whole)
    quadratic_steps(optimizer, whole, 5)
    saved, copied = optimizer.state_dict(), [cell(each.numpy()) for each in whole]
    quadratic_steps(optimizer, whole, 5)
    other = make(copied)
    other.load_state_dict(saved)
    quadratic_steps(other, copied, 5)
    for one, two in zip(whole, copied, strict=True):
        assert one.numpy().tobytes() == two.numpy().tobytes()


def test_a_state_dict_for_another_model_changes_nothing() -> None:
    w = cell([1.0, 2.0])
    optimizer = optim.Adam([w], lr=0.1)
    quadratic_steps(optimizer, [w], 1)
    wrong = cell([1.0, 2.0, 3.0])
    other = optim.Adam([wrong], lr=0.7)
    with pytest.raises(ShapeError, match=r"exp_avg of shape \(2,\) for Parameter of shape \(3,\)"):
        other.load_state_dict(optimizer.state_dict())
    with pytest.raises(RecipeError, match=r"groups of \[1\] parameters, this optimizer of \[2\]"):
        optim.Adam([wrong, w]).load_state_dict(optimizer.state_dict())
    saved = optimizer.state_dict()
    saved["param_groups"][0]["maximize"] = True
    with pytest.raises(RecipeError, match="maximize=True"):
        optimizer.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.7
    assert other.state == {}


def test_groups_can_be_added() -> None:
    w, b = cell([1.0]), cell([2.0])
    optimizer = optim.SGD([w], lr=0.1)
    optimizer.add_param_group({"params": b, "lr": 0.5})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert repr(optimizer).endswith("of 1, 1 parameters>")
    with pytest.raises(RecipeError, match="two parameter groups"):
        optimizer.add_param_group({"params": [b]})
    with pytest.raises(RecipeError, match="SGD has no option 'betas'; it has lr, momentum"):
        optimizer.add_param_group({"params": [cell([1.0])], "betas": (0.9, 0.9)})


class Model:
    """As much of a Module as the constructor looks at."""

    def __call__(self, x: Any) -> Any:
        return x

    def named_parameters(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("params", "kind", "message"),
    [
        ([], RecipeError, r"no parameters.* only once"),
        (cell([1.0]), RecipeError, r"such as model.parameters\(\), not one Parameter"),
        (None, RecipeError, "not one NoneType"),
        (Model(), RecipeError, r"was given a model .* write Adam\(model.parameters\(\), lr=0.001\)"),
        ([cr.asarray([1.0])], GradientError, "only train cr.nn.Parameter objects, not Tensor"),
        ([{"lr": 0.1}], RecipeError, r"needs an entry 'params', this one has \['lr'\]"),
        ([{"params": [cell([1.0])], "lr": -1.0}], RecipeError, "lr = -1.0"),
    ],
)
def test_what_is_no_parameter_is_refused(params: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        optim.Adam(params)
