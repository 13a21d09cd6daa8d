"""The network a recipe describes: embeddings for coded columns, then a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

import chainrule.nn.init as initialise
from chainrule import nn, random
from chainrule.data.preprocess import EmbeddedColumn
from chainrule.errors import RecipeError
from chainrule.functions import FUNCTIONS
from chainrule.recipe import Network
from chainrule.tensor import Tensor

ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}
_RELU_FAMILY = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")


class TableNetwork(nn.Module):
    """Numbers, and embedded codes beside them, through hidden layers to the outputs.

    The input is a dict with "numeric" (rows, columns) and, if columns are embedded, "codes" (rows, columns).
    """

    def __init__(
        self, network: Network, numeric: int, embedded: Sequence[tuple[int, int]], outputs: int
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(cardinality, width) for cardinality, width in embedded])
        self.layers = _perceptron(network, numeric + sum(width for _, width in embedded), outputs)

    def forward(self, inputs: Any) -> Tensor:
        if not len(self.embeddings):
            result: Tensor = self.layers(inputs["numeric"])
            return result
        codes = inputs["codes"]
        columns = [embedding(codes[:, k]) for k, embedding in enumerate(self.embeddings)]
        joined: Tensor = self.layers(FUNCTIONS["concat"]([inputs["numeric"], *columns], axis=1))
        return joined

    def settle(self, columns: Sequence[EmbeddedColumn]) -> None:
        """Give codes that no training row had the mean of the levels that had some."""
        for module, column in zip(self.embeddings, columns, strict=True):
            embedding = cast(nn.Embedding, module)
            untrained = list(column.untrained)
            if untrained:
                weight = np.array(embedding.weight.numpy())
                weight[untrained] = np.delete(weight, untrained, axis=0).mean(axis=0)
                embedding.weight.assign(weight)


def _perceptron(network: Network, inputs: int, outputs: int) -> nn.Sequential:
    if network.activation not in ACTIVATIONS:
        raise RecipeError(
            f"[network]: there is no activation {network.activation!r}; there are {', '.join(ACTIVATIONS)}"
        )
    if any(width < 1 for width in network.hidden):
        raise RecipeError(f"[network]: hidden = {list(network.hidden)} has a layer without units")
    if not 0 <= network.dropout < 1:
        raise RecipeError(f"[network]: dropout = {network.dropout} is not in [0, 1)")
    layers: list[nn.Module] = []
    width = inputs
    for hidden in network.hidden:
        block = _block(network, width, hidden)
        layers.extend([nn.Residual(nn.Sequential(*block))] if network.residual and width == hidden else block)
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def _block(network: Network, width: int, hidden: int) -> list[nn.Module]:
    normalisations = {"none": None, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    if network.normalisation not in normalisations:
        raise RecipeError(
            f"[network]: there is no normalisation {network.normalisation!r}; there are "
            f"{', '.join(normalisations)}"
        )
    block: list[nn.Module] = [nn.Linear(width, hidden)]
    normalisation: Any = normalisations[network.normalisation]
    if normalisation is not None:
        block.append(normalisation(hidden))
    block.append(ACTIVATIONS[network.activation]())
    if network.dropout:
        block.append(nn.Dropout(network.dropout))
    return block


def build(
    network: Network, numeric: int, embedded: Sequence[tuple[int, int]], outputs: int, seed: int
) -> TableNetwork:
    """The network with its initial weights, which depend on the seed alone.

    `embedded` holds (cardinality, width) per embedded column.
    """
    with random.stream(random.key(seed)):
        model = TableNetwork(network, numeric, embedded, outputs)
    _initialise(model, network, seed)
    return model


def _initialise(model: nn.Module, network: Network, seed: int) -> None:
    name = network.initialisation
    if name == "pytorch":
        return  # what the layers' constructors drew
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for index, module in enumerate(linear):
        key = random.fold_in(random.fold_in(random.key(seed), 0x1217), index)
        last = index == len(linear) - 1
        if name == "auto":
            if network.activation in _RELU_FAMILY and not last:
                initialise.kaiming_normal_(module.weight, nonlinearity="relu", key=key)
            else:
                initialise.xavier_normal_(module.weight, key=key)
        else:
            chosen = getattr(initialise, f"{name}_", None)
            if chosen is None:
                raise RecipeError(
                    f"[network]: there is no initialisation {name!r}; there are auto, pytorch, "
                    "xavier_uniform, xavier_normal, "
                    "kaiming_uniform, kaiming_normal, lecun_normal, orthogonal, ..."
                )
            chosen(module.weight, key=key)
        if module.bias is not None:
            initialise.zeros_(module.bias)
