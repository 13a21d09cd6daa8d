"""Training: the step as one program, epochs around it, tables in front of it."""

from __future__ import annotations

from chainrule.train.callbacks import Callback, Progress
from chainrule.train.fitting import fit
from chainrule.train.loop import Interrupted
from chainrule.train.result import Run
from chainrule.train.table import load, resume
from chainrule.train.trainer import Trainer

__all__ = ["Callback", "Interrupted", "Progress", "Run", "Trainer", "fit", "load", "resume"]
