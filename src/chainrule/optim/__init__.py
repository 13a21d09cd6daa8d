"""Optimizers and learning-rate schedules, with PyTorch's names and meanings.

``Adam(lr=0.001)`` is a pair of pure functions, ``init(parameters)`` and ``update(gradients, state,
parameters)``, for the Trainer and for steps that are compiled. ``Adam(model.parameters(), lr=0.001)`` is
the same behind PyTorch's ``step()`` and ``zero_grad()``, for loops written by hand.
"""

from __future__ import annotations

from chainrule.optim import lr_scheduler
from chainrule.optim.algorithms import SGD, Adagrad, Adam, AdamW, RMSprop
from chainrule.optim.base import Algorithm, Optimizer, Rate, Transform, apply_updates
from chainrule.optim.documents import from_document, to_document
from chainrule.optim.schedules import (
    Constant,
    Cosine,
    Exponential,
    LinearWarmup,
    MultiStep,
    OneCycle,
    Plateau,
    PlateauWatch,
    Schedule,
    Step,
    WarmupCosine,
)
from chainrule.optim.stateful import StatefulOptimizer
from chainrule.optim.transforms import (
    Chain,
    add_decayed_weights,
    chain,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
)

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Algorithm",
    "Chain",
    "Constant",
    "Cosine",
    "Exponential",
    "LinearWarmup",
    "MultiStep",
    "OneCycle",
    "Optimizer",
    "Plateau",
    "PlateauWatch",
    "RMSprop",
    "Rate",
    "Schedule",
    "StatefulOptimizer",
    "Step",
    "Transform",
    "WarmupCosine",
    "add_decayed_weights",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "from_document",
    "global_norm",
    "lr_scheduler",
    "to_document",
]
