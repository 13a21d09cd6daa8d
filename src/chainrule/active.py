"""The arguments of a running transform: what is differentiated by, and what becomes of the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from chainrule.errors import DTypeError, GradientError, ShapeError
from chainrule.graph import ABSTRACT, ACTIVE, CONSTANT, OWNED, PLAIN, Node
from chainrule.ops import as_node, is_recording, ops, recording
from chainrule.origin import at_user_line, layer_origins
from chainrule.tensor import Cell, Tensor, frame
from chainrule.tree import Structure, flatten, flatten_as, tree_map, unflatten

_depth: ContextVar[int] = ContextVar("chainrule_transform_depth", default=0)


def is_transforming() -> bool:
    """True inside a function that is being differentiated."""
    return _depth.get() > 0


class Binding:
    """A frame that answers for the cells that are arguments, alone or as the parameters of a Module."""

    def __init__(self) -> None:
        self.nodes: dict[Cell, Node] = {}

    def read(self, cell: Cell) -> Node | None:
        return self.nodes.get(cell)

    def write(self, cell: Cell, node: Node) -> bool:
        if cell in self.nodes:
            raise GradientError(
                f"{cell.describe()} is being differentiated and cannot be assigned{at_user_line()}; assign "
                "it after the transform has returned"
            )
        return False


Slot = Node | dict[str, Node]  # what stands for one leaf: a node, or {path: node} for a Module


class Active:
    """The arguments of a transform, those in `argnums` replaced by fresh active copies."""

    def __init__(self, arguments: Sequence[Any], argnums: int | Sequence[int]) -> None:
        self.single = isinstance(argnums, int)
        chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        self.nested, self.recorded = is_transforming(), is_recording()
        self.nodes: list[Node] = []
        self.binding = Binding()
        self.arguments = list(arguments)
        self._slots: list[tuple[Structure, list[Slot]]] = []
        for k in chosen:
            if not -len(arguments) <= k < len(arguments):
                raise ShapeError(
                    f"argnums names argument {k}, but there are only {len(arguments)}{at_user_line()}"
                )
            leaves, structure = flatten(arguments[k])
            slots = [self._activate(leaf) for leaf in leaves]
            self._slots.append((structure, slots))
            self.arguments[k] = unflatten(structure, map(_shown, leaves, slots))

    def _activate(self, leaf: Any) -> Slot:
        if isinstance(leaf, Cell):
            node = self._fresh(leaf.node, cut=True)
            self.binding.nodes.setdefault(leaf, node)  # the function may read it without the argument
            return node
        if isinstance(leaf, Tensor) or not hasattr(leaf, "named_parameters"):
            return self._fresh(as_node(leaf), cut=False)
        for _, cell in leaf.named_parameters():
            if cell not in self.binding.nodes:
                self.binding.nodes[cell] = self._fresh(cell.node, cut=True)
        named = leaf.named_parameters(remove_duplicate=False)
        return {path: self.binding.nodes[cell] for path, cell in named}

    def _fresh(self, node: Node, cut: bool) -> Node:
        """A node of its own for an argument; linked to the argument where that may be differentiated too."""
        if not node.floating:
            raise DTypeError(
                f"cannot differentiate by an argument of {node.dtype}{at_user_line()}: derivatives need "
                "floating point. Convert it (x.astype('float32')) or leave it out with argnums"
            )
        owned = node.status == OWNED and not cut
        if self.recorded and node.status and (owned or self.nested or node.status in (ACTIVE, ABSTRACT)):
            fresh = ops.identity(node)
            fresh.status = max(fresh.status, ACTIVE)
        elif node.value is None:
            fresh = ops.identity(ops.stop_gradient(node))  # traced inside no_grad
        else:
            fresh = leaf_of(node, ACTIVE)
        self.nodes.append(fresh)
        return fresh

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the function or its pullback runs: history is kept, whatever surrounds the transform."""
        self.nested, self.recorded = is_transforming(), is_recording()
        token = _depth.set(_depth.get() + 1)
        try:
            with frame(self.binding), recording(True):
                yield
        finally:
            _depth.reset(token)

    # -- results -------------------------------------------------------------------------------------------
    def keeps_history(self, *nodes: Node) -> bool:
        """True when results may be differentiated further: nested, traced, or made with a Parameter."""
        further = self.nested or any(node.status in (OWNED, ABSTRACT) for node in (*nodes, *self.nodes))
        return self.recorded and further

    def recording(self, *nodes: Node) -> recording:
        """For the walk: keep its history if that can be used."""
        return recording(self.keeps_history(*nodes) or any(each.value is None for each in self.nodes))

    def finish(self, node: Node, *deciding: Node) -> Tensor:
        """A result: with its history where that can be used, else a plain value."""
        if self.keeps_history(*deciding):
            return Tensor(node)
        if node.value is None:
            return Tensor(ops.stop_gradient(node))
        return Tensor(leaf_of(node, PLAIN if node.floating else CONSTANT))

    def finished(self, aux: Any) -> Any:
        """`finish` for whatever a function returns besides its value."""

        def finish(leaf: Any) -> Any:
            is_result = isinstance(leaf, Tensor) and not isinstance(leaf, Cell)
            return self.finish(leaf.node, leaf.node) if is_result else leaf

        return tree_map(finish, aux)

    def gradients(self, found: Sequence[Node | None], *deciding: Node) -> Any:
        """The cotangents in the structure of the arguments; zeros where nothing flowed."""
        by_node = {
            node: self.finish(ops.zeros(node.type) if each is None else each, *deciding)
            for node, each in zip(self.nodes, found, strict=True)
        }
        shaped = [
            unflatten(
                structure,
                [{p: by_node[n] for p, n in s.items()} if isinstance(s, dict) else by_node[s] for s in slots],
            )
            for structure, slots in self._slots
        ]
        return shaped[0] if self.single else tuple(shaped)

    # -- tangents ------------------------------------------------------------------------------------------
    def directions(self, tangents: Sequence[Any]) -> list[Node]:
        """The tangents as one node per active node, checked against their types."""
        by_node: dict[Node, Node] = {}
        for k, ((structure, slots), tangent) in enumerate(zip(self._slots, tangents, strict=True)):
            what = f"jvp: tangent {k}"
            shape = unflatten(structure, [dict.fromkeys(s, 0) if isinstance(s, dict) else 0 for s in slots])
            leaves = flatten_as(flatten(shape)[1], tangent, what)
            owners = [n for s in slots for n in (s.values() if isinstance(s, dict) else (s,))]
            by_node.update((node, as_node(leaf)) for node, leaf in zip(owners, leaves, strict=True))
        for node, direction in by_node.items():
            if node.type != direction.type:
                raise ShapeError(
                    f"jvp: a tangent is {direction.type}, its primal {node.type}{at_user_line()}: they must "
                    "agree"
                )
        return [by_node[node] for node in self.nodes]


def leaf_of(node: Node, status: int) -> Node:
    """The value of `node` without its history, taking part in differentiation as `status` says."""
    return Node(None, (), {}, node.type, node.value, layer_origins(), status, None, node.label)


def _shown(leaf: Any, slot: Slot) -> Any:
    return leaf if isinstance(slot, dict) else Tensor(slot)
