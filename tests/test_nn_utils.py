"""Clipping what backward() left, and all parameters as one vector."""

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.errors import GradientError, ShapeError


def with_gradients(*gradients: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(np.zeros(len(each))) for each in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = cr.asarray(np.array(gradient))
    return parameters


def gradients_of(parameters: list[nn.Parameter]) -> list[float]:
    return [value for each in parameters if each.grad is not None for value in each.grad.tolist()]


def test_clipping_scales_all_gradients_together() -> None:
    parameters = with_gradients([3.0, 0.0], [4.0])
    assert nn.utils.clip_grad_norm_(parameters, 1.0).item() == 5.0
    assert gradients_of(parameters) == pytest.approx([0.6, 0.0, 0.8], rel=1e-6)


def test_small_gradients_and_missing_ones_are_left_alone() -> None:
    parameters = [*with_gradients([0.3, 0.4]), nn.Parameter([1.0])]
    assert nn.utils.clip_grad_norm_(parameters, 1.0).item() == pytest.approx(0.5)
    assert gradients_of(parameters) == [0.3, 0.4]
    assert nn.utils.clip_grad_norm_([nn.Parameter([1.0])], 1.0).item() == 0.0


def test_a_single_parameter_will_do() -> None:
    (parameter,) = with_gradients([3.0, 4.0])
    assert nn.utils.clip_grad_norm_(parameter, 1.0).item() == 5.0
    nn.utils.clip_grad_value_(parameter, 0.5)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [0.5, 0.5]


def test_gradients_that_are_not_finite_are_refused_when_asked() -> None:
    with pytest.raises(GradientError, match="norm of the gradients is inf"):
        nn.utils.clip_grad_norm_(with_gradients([np.inf]), 1.0, error_if_nonfinite=True)


def test_the_vector_of_parameters_is_differentiable_and_goes_back() -> None:
    model = nn.Linear(2, 2)
    vector = nn.utils.parameters_to_vector(model.parameters())
    cr.sum(vector * np.arange(6, dtype=np.float32)).backward()
    assert model.bias is not None
    assert model.bias.grad is not None
    assert model.bias.grad.tolist() == [4.0, 5.0]
    nn.utils.vector_to_parameters(np.arange(6.0), model.parameters())
    assert model.weight.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert model.bias.tolist() == [4.0, 5.0]
    with pytest.raises(ShapeError, match=r"parameters have 6 elements, the vector has shape \(5,\)"):
        nn.utils.vector_to_parameters(np.zeros(5), model.parameters())
