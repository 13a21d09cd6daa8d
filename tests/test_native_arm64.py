"""A training step compiled for arm64: the emitters know its vectors by the target's description alone."""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.backends.native.build import assembly, compile_object
from chainrule.backends.native.sharing import runtime
from chainrule.backends.native.target import Target
from chainrule.train.stepping import NativeSteps

NEON = Target("aarch64-unknown-linux-gnu", "generic", "+neon", 16, 32)


def test_a_step_compiles_to_neon() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    x = np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32)
    model = nn.Sequential(nn.Linear(20, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 1))
    trainer = cr.Trainer(model, nn.MSELoss(), optim.Adam(lr=0.1), clip_norm=1.0)
    trainer.run((x, x[:, :1]), 1)
    (stepping,) = (each.stepper for each in trainer._steps.values())
    assert isinstance(stepping, NativeSteps)
    stepping.code.target = NEON
    text = stepping.code.emit().module.text()
    assert "<4 x float>" in text
    assert "<8 x float>" not in text
    assert len(compile_object(text, NEON)) > 1000
    assert assembly(text, NEON).count("fmla") > 50


@pytest.mark.parametrize(
    ("triple", "clock"),
    [
        ("aarch64-unknown-linux-gnu", "cntvct_el0"),
        ("arm64-apple-macosx14", "CNTVCT_EL0"),
        ("x86_64-pc-windows-msvc", "rdtsc"),
        ("riscv64-unknown-linux-gnu", ""),
    ],
)
def test_the_code_of_teams_compiles_elsewhere(triple: str, clock: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{runtime(triple)}')
    module.verify()
    machine = llvm.Target.from_triple(triple).create_target_machine()
    assert clock.lower() in machine.emit_assembly(module).lower()
