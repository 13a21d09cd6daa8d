"""Cotangents: a pullback's terms are summed up before the cotangent they share is multiplied by them."""

from __future__ import annotations

from chainrule.graph import Graph, Node
from chainrule.ops import ops
from chainrule.origin import because
from chainrule.passes.rewriting import Known, copied, finished
from chainrule.primitives import REGISTRY

ADD, SUBTRACT, MULTIPLY, DIVIDE, NEGATIVE = (
    REGISTRY[name] for name in ("add", "subtract", "multiply", "divide", "negative")
)
VIEWS = frozenset(("reshape", "permute_dims", "broadcast_to", "slice", "flip"))
BACKWARD = frozenset(("pullback", "fan-out", "recompute"))
"""Roles of what the backward pass computes."""


def is_backward(node: Node) -> bool:
    """True for what no other pass needs."""
    return bool(node.origins) and all(origin.role in BACKWARD for origin in node.origins)


def free_of_cotangents(graph: Graph) -> frozenset[Node]:
    """What the backward pass makes elementwise of values of the forward pass alone, such as a derivative.

    Not what is recomputed on purpose, nor what is made of that.
    """
    bound: set[Node] = set()
    free: set[Node] = set()
    for node in graph.nodes:
        if node.primitive is None or not is_backward(node):
            continue
        purely = node.primitive.elementwise or node.name in VIEWS
        recomputed = any(origin.role == "recompute" for origin in node.origins)
        if purely and not recomputed and not any(each in bound for each in node.operands):
            free.add(node)
        else:
            bound.add(node)
    return frozenset(free)


def gather_cotangents(graph: Graph) -> Graph:
    """``g · a + (g · b) · c`` as ``g · (a + b · c)`` where g is a cotangent and a, b, c are not.

    What is in brackets is then one value, the derivative of an activation, say, that the forward pass can
    leave behind in the place of what it is made of. Never more operations; only where nobody else uses the
    terms.

    >>> import chainrule as cr
    >>> from chainrule import passes
    >>> from chainrule.trace import trace_program
    >>> x, w = cr.ones((4, 3)), cr.ones((3, 2))
    >>> gradient = cr.grad(lambda x: cr.sum(cr.square((x * cr.sigmoid(x)) @ w)))
    >>> graph = passes.simplify(trace_program(gradient, [x.node.type]).graph)
    >>> [node.name for node in graph.nodes][-6:]
    ['multiply', 'multiply', 'subtract', 'multiply', 'multiply', 'add']
    >>> [node.name for node in gather_cotangents(graph).nodes][-5:]
    ['subtract', 'multiply', 'multiply', 'add', 'multiply']
    """
    terms = _Terms(graph)
    chosen = terms.closed_sums()
    if not chosen:
        return graph
    known: Known = {node: node for node in graph.inputs}
    for node in graph.nodes:
        if node in known:
            continue
        if node in chosen:
            with because(node.origins[0]):
                known[node] = terms.gathered(node, known)
        else:
            known[node] = node if node.primitive is None else copied(node, known)
    return finished(graph, known)


class _Terms:
    """Values that are a cotangent times something free of cotangents."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self._free = graph, free_of_cotangents(graph)
        self._roots: dict[Node, Node] = {}
        self._users: dict[Node, set[Node]] = {}
        for node in graph.nodes:
            for operand in node.operands:
                self._users.setdefault(operand, set()).add(node)
            root = self._root_of(node)
            if root is not None:
                self._roots[node] = root

    def gathered(self, node: Node, known: Known) -> Node:
        """A sum of terms as their cotangent times the sum of everything else."""
        factors: dict[Node, Node] = {}

        def factor(each: Node) -> Node:
            if each not in self._roots:
                there: Node = known[each]
                return there
            if each not in factors:
                parts = [factor(part) for part in each.operands if part is not self._roots[each]]
                alone = len(parts) < len(each.operands)
                assert each.primitive is not None
                factors[each] = parts[0] if alone else ops.apply(each.primitive, parts, **each.attributes)
            return factors[each]

        made: Node = ops.multiply(known[self._roots[node]], factor(node))
        return made

    def closed_sums(self) -> set[Node]:
        """The sums whose terms nobody else uses; of several that are part of each other the last."""
        found: set[Node] = set()
        inside: set[Node] = set()
        outputs = set(self._graph.outputs)
        for node in reversed(self._graph.nodes):
            if node in self._roots and node not in inside and node.primitive in (ADD, SUBTRACT):
                terms = self._terms(node)
                whole = {node, *terms}
                if not terms & outputs and all(self._users[term] <= whole for term in terms):
                    found.add(node)
                    inside |= terms
        return found

    def _terms(self, node: Node) -> set[Node]:
        """What lies between a sum and its cotangent."""
        found: set[Node] = set()
        pending = self._bound(node)
        while pending:
            each = pending.pop()
            if each in self._roots and each not in found:
                found.add(each)
                pending += self._bound(each)
        return found

    def _root_of(self, node: Node) -> Node | None:
        """The cotangent that a value is a multiple of; None for anything else."""
        if node.primitive not in (ADD, SUBTRACT, MULTIPLY, DIVIDE, NEGATIVE) or not node.floating:
            return None
        bound = self._bound(node)
        if any(each.type != node.type for each in bound):
            return None
        if any(each.dtype != node.dtype for each in node.operands):
            return None
        if node.primitive is MULTIPLY and len(bound) == 1:
            return self._roots.get(bound[0], bound[0])
        roots = {self._roots.get(each) for each in bound}
        term = node.primitive is NEGATIVE or (node.primitive is DIVIDE and bound == [node.operands[0]])
        total = node.primitive in (ADD, SUBTRACT) and len(bound) == 2
        return roots.pop() if (term or total) and len(roots) == 1 else None

    def _bound(self, node: Node) -> list[Node]:
        return [each for each in node.operands if is_backward(each) and each not in self._free]
