"""What people read when something does not fit: one paragraph per habit, kept in golden/messages.txt.

The places that messages name are written as `at FILE:LINE`. To change a message, change it and run
`pytest tests/test_engine_messages.py --update-golden`, then read the diff as a user would.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import ChainruleError
from chainrule.nn import Linear, Parameter
from chainrule.tensor import Buffer, Tensor

Golden = Callable[[str, str], None]
HERE = Path(__file__).name


def vector() -> Tensor:
    return cr.asarray([1.0, 2.0, 3.0])


def matrix() -> Tensor:
    return cr.ones((2, 3))


def backward_twice() -> None:
    loss = cr.sum(vector() ** 2)
    loss.backward()
    loss.backward()


def assign_item() -> None:
    x = vector()
    x[0] = 1.0


def requires_grad() -> None:
    x = vector()
    x.requires_grad = True


def in_place_on_a_parameter() -> None:
    p = Parameter([1.0])
    p.name = "0.weight"
    p -= 0.1


def in_place_on_an_array() -> None:
    a = np.zeros(3)
    a += vector()


def shapes_inside_a_layer() -> None:
    with cr.scope("encoder"), cr.scope("0"):
        matrix() @ vector()[:2]


def branch_in_a_trace() -> None:
    cr.compile(lambda x: x if x > 0 else -x)(np.float32(1.0))


def mask_in_a_trace() -> None:
    cr.compile(lambda x: x[x > 0])(np.ones(3))


def loop_in_a_trace() -> None:
    cr.compile(lambda x, n: [x for _ in range(int(n))])(np.ones(3), np.int64(2))


def numpy_in_a_trace() -> None:
    cr.compile(np.linalg.norm)(np.ones(3))


def backward_in_a_trace() -> None:
    cr.compile(lambda x: cr.sum(x).backward())(np.ones(3))


def escaped_from_a_trace() -> None:
    kept: list[Any] = []
    cr.compile(kept.append)(np.ones(3))
    kept[0] + 1.0


def state_in_a_loop() -> None:
    total = Buffer(np.float32(0))
    total.name = "total"
    cr.scan(lambda c, x: (c, total.assign(x)), 0.0, np.ones(3, np.float32))


def lost_derivative() -> None:
    cr.grad(np.linalg.norm)(np.ones(3))


def index_beyond_the_end_in_a_layer() -> None:
    with cr.scope("embedding"):
        cr.take(matrix(), cr.asarray([0, 5]), axis=0)


def wrong_cotangent() -> None:
    cr.vjp(lambda x: (x, x), vector())[1](vector())


HABITS: dict[str, Callable[[], Any]] = {
    # shapes and dtypes
    "add two shapes": lambda: matrix() + cr.ones((4, 3)),
    "multiply matrices": lambda: matrix() @ matrix(),
    "shapes inside a layer": shapes_inside_a_layer,
    "reshape": lambda: matrix().reshape(4, -1),
    "concatenate": lambda: cr.concat([matrix(), cr.ones((2, 2))]),
    "sum over an axis that is not there": lambda: cr.sum(matrix(), axis=2),
    "einsum": lambda: cr.einsum("ij,jk->ik", matrix(), matrix()),
    "mix float32 and float64": lambda: vector() * np.ones(3),
    "index beyond the end": lambda: vector()[3],
    "index beyond the end, array": index_beyond_the_end_in_a_layer,
    "index with floats": lambda: vector()[cr.asarray([0.0, 1.0])],
    "too many indices": lambda: vector()[0, 0],
    "float as an index": lambda: [1, 2][cr.asarray(1.0)],  # type: ignore[call-overload]
    "a text": lambda: cr.asarray("text"),
    "ragged lists": lambda: cr.asarray([[1.0], [1.0, 2.0]]),
    "a module where an array belongs": lambda: cr.sum(Linear(2, 2)),
    "too few arguments": lambda: cr.add(vector()),
    "too many arguments": lambda: cr.sin(vector(), vector()),
    "an option that is not there": lambda: cr.sum(vector(), axes=0),
    # values
    "truth of an array": lambda: bool(vector() > 1),
    "item of an array": lambda: vector().item(),
    "iterate over a number": lambda: list(cr.asarray(1.0)),
    "length of a number": lambda: len(cr.asarray(1.0)),
    "assign an item": assign_item,
    "in place on a parameter": in_place_on_a_parameter,
    "in place on an array": in_place_on_an_array,
    "assign another shape": lambda: Parameter([1.0]).assign(vector()),
    "x.data": lambda: vector().data,
    "x.requires_grad = True": requires_grad,
    "x.add_()": lambda: vector().add_(1.0),
    "x.view()": lambda: vector().view(1, 3),
    "x.exp()": lambda: vector().exp(),
    "x.cuda()": lambda: vector().cuda(),
    "x.nonsense": lambda: vector().nonsense,
    "cr.Tensor": lambda: Tensor([1.0]),  # type: ignore[arg-type]
    # derivatives
    "backward twice": backward_twice,
    "backward on an array": (vector() * 2.0).backward,
    "backward on integers": lambda: cr.asarray(1).backward(),
    "backward on a constant": lambda: vector().detach().sum().backward(),
    "backward on a result of grad": lambda: cr.sum(cr.grad(cr.sum)(vector())).backward(),
    "gradient by integers": lambda: cr.grad(cr.sum)(cr.asarray([1, 2])),
    "gradient of an array": lambda: cr.grad(cr.sin)(vector()),
    "gradient of a relation": lambda: cr.grad(lambda x: cr.sum(x > 0))(vector()),
    "gradient of a pair": lambda: cr.grad(lambda x: (cr.sum(x), x))(vector()),
    "argnums beyond the end": lambda: cr.grad(cr.sum, argnums=1)(vector()),
    "lost derivative": lost_derivative,
    "wrong cotangent": wrong_cotangent,
    "wrong tangent": lambda: cr.jvp(cr.sin, (vector(),), (np.ones(3),)),
    # tracing
    "branch in a trace": branch_in_a_trace,
    "mask in a trace": mask_in_a_trace,
    "Python loop in a trace": loop_in_a_trace,
    "NumPy in a trace": numpy_in_a_trace,
    "backward in a trace": backward_in_a_trace,
    "escaped from a trace": escaped_from_a_trace,
    "state in a loop": state_in_a_loop,
    "carry of another type": lambda: cr.scan(lambda c, x: (c * matrix(), x), vector(), matrix()),
    "sequences of two lengths": lambda: cr.scan(lambda c, x: (c, x), 0.0, (vector(), matrix())),
}


def message(habit: Callable[[], Any]) -> tuple[Exception, str]:
    try:
        habit()
    except Exception as error:
        return error, str(error)
    raise AssertionError("it raised nothing")


def test_every_message_is_the_golden_one(golden: Golden) -> None:
    paragraphs = []
    for name, habit in HABITS.items():
        error, text = message(habit)
        text = re.sub(rf"at \S*{HERE}:\d+", "at FILE:LINE", text)
        paragraphs.append(f"# {name}\n{type(error).__name__}: {text}\n")
    golden("messages.txt", "\n".join(paragraphs))


FOREIGN = {
    "too few arguments",
    "too many arguments",
    "an option that is not there",
}  # TypeErrors, as in Python
NO_PLACE = FOREIGN | {"x.data", "x.add_()", "x.view()", "x.exp()", "x.cuda()", "x.nonsense"}


@pytest.mark.parametrize("name", [name for name in HABITS if name not in NO_PLACE])
def test_every_message_names_the_users_line_once(name: str) -> None:
    error, text = message(HABITS[name])
    assert isinstance(error, ChainruleError)
    assert len(re.findall(rf"\bat \S*{HERE}:\d+", text)) == 1, text
    assert "\n" not in text
