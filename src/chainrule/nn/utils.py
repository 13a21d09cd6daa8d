"""Gradients and parameters as a whole: clipping what `backward()` left, and one vector for all parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from chainrule.errors import GradientError, ShapeError
from chainrule.graph import constant
from chainrule.ops import as_array, ops
from chainrule.origin import at_user_line
from chainrule.tensor import Cell, Tensor, asarray


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients together so that their norm is at most `max_norm`; return the norm before.

    >>> import chainrule as cr
    >>> w = cr.nn.Parameter([3.0, 4.0])
    >>> (0.5 * cr.sum(w * w)).backward()
    >>> cr.nn.utils.clip_grad_norm_([w], 1.0).item(), [round(g, 4) for g in w.grad.tolist()]
    (5.0, [0.6, 0.8])
    """
    owners = _with_gradient(parameters)
    if not owners:
        return _plain(np.float32(0))
    sizes = [abs(owner.grad.numpy()) for owner in owners]
    if norm_type == math.inf:
        total = max(np.max(size, initial=0) for size in sizes)
    else:
        norms = np.stack([np.sum(size**norm_type) ** (1 / norm_type) for size in sizes])
        total = np.sum(norms**norm_type) ** (1 / norm_type)
    if error_if_nonfinite and not np.isfinite(total):
        raise GradientError(
            f"the norm of the gradients is {total}{at_user_line()}, so they cannot be clipped. "
            "Look for the first parameter whose .grad is not finite"
        )
    scale = min(max_norm / (float(total) + 1e-6), 1.0)
    for owner in owners:
        owner.grad = _plain(owner.grad.numpy() * owner.dtype.type(scale))
    return _plain(total)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Hold every element of every gradient in ±clip_value."""
    for owner in _with_gradient(parameters):
        owner.grad = _plain(np.clip(owner.grad.numpy(), -clip_value, clip_value))


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters in one vector, in order; derivatives flow through it."""
    return Tensor(ops.concat([ops.reshape(each, (-1,)) for each in parameters]))


def vector_to_parameters(vec: Any, parameters: Iterable[Cell]) -> None:
    """Give the parameters the values of a vector made by `parameters_to_vector`."""
    cells, values = list(parameters), asarray(vec)
    wanted = sum(cell.size for cell in cells)
    if values.shape != (wanted,):
        raise ShapeError(
            f"the parameters have {wanted} elements, the vector has shape {values.shape}{at_user_line()}"
        )
    at = 0
    for cell in cells:
        cell.assign(values[at : at + cell.size].reshape(cell.shape))
        at += cell.size


def _with_gradient(parameters: Tensor | Iterable[Tensor]) -> list[Any]:
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [each for each in listed if each.grad is not None]


def _plain(value: Any) -> Tensor:
    return Tensor(constant(as_array(value)))
