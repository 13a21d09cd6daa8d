"""Who takes part in the race, one file each: `make(spec, X, y, variant, mode)` returns an object with
`run(n)`, which takes n steps and returns the last loss.

An object may have `whole`: then n is always a multiple of it. What a peer cannot do raises
NotImplementedError; a library that is not installed leaves its rows out.
"""

from __future__ import annotations

from typing import NamedTuple


class Peer(NamedTuple):
    """A library used in one way; the best of a library's ways counts."""

    module: str
    variant: str = ""
    environment: tuple[tuple[str, str], ...] = ()


_HERE = "benchmarks.peers"
PEERS = {
    "chainrule": Peer("benchmarks.workloads"),
    "chainrule, telemetry": Peer("benchmarks.workloads", "telemetry"),
    "chainrule, reference backend": Peer("benchmarks.workloads", "numpy"),
    "PyTorch": Peer(f"{_HERE}.pytorch", "fused"),
    "PyTorch, foreach": Peer(f"{_HERE}.pytorch", "foreach"),
    "PyTorch, channels_last": Peer(f"{_HERE}.pytorch", "channels_last"),
    "PyTorch, compiled loss": Peer(f"{_HERE}.pytorch", "compiled_loss"),
    "PyTorch, compiled step": Peer(f"{_HERE}.pytorch", "compiled_step"),
    "JAX": Peer(f"{_HERE}.jax_optax", "jit"),
    "JAX, scan": Peer(f"{_HERE}.jax_optax", "scan"),
    "Keras, JAX": Peer(f"{_HERE}.keras_fit", environment=(("KERAS_BACKEND", "jax"),)),
    "Keras, PyTorch": Peer(f"{_HERE}.keras_fit", environment=(("KERAS_BACKEND", "torch"),)),
    "scikit-learn": Peer(f"{_HERE}.scikit_learn"),
    "tinygrad": Peer(f"{_HERE}.tinygrad_jit"),
    "NumPy by hand": Peer(f"{_HERE}.numpy_by_hand"),
}
WATCHED = {
    "chainrule, telemetry every step": Peer("benchmarks.workloads", "telemetry_every_step"),
    "PyTorch, hooks": Peer(f"{_HERE}.pytorch_watched", "hooks"),
    "PyTorch, hooks every step": Peer(f"{_HERE}.pytorch_watched", "hooks_every_step"),
    "PyTorch, TensorBoard": Peer(f"{_HERE}.pytorch_watched", "tensorboard"),
    "PyTorch, wandb.watch": Peer(f"{_HERE}.pytorch_watched", "wandb"),
}
"""The same, telling what happens inside."""
ALL = PEERS | WATCHED


def library(peer: str) -> str:
    """The library that a peer uses: "PyTorch" of "PyTorch, compiled step"."""
    return peer.partition(",")[0]
