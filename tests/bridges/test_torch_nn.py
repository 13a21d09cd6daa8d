"""Networks and losses against PyTorch's, weights exchanged by state_dict: loss and every gradient in float64.

Equal to 1e-10 relative to the largest element of each array: both sides compute the same formulas with
rounding errors of some 1e-16 per operation, which a few hundred operations bring to about 1e-14. A sum that
cancels exactly leaves nothing but that rounding (the gradient of a bias before a BatchNorm is 0), so a
gradient may also differ by 1e-14 of the largest gradient in the model.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.nn import functional

torch = pytest.importorskip("torch")
torch_functional = torch.nn.functional

TOLERANCE = 1e-10
CANCELLATION = 1e-14
ROWS = 7
Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def assert_close(ours: Any, theirs: Any, what: str, largest: float = 0.0) -> None:
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape, what
    allowed = TOLERANCE * float(np.abs(theirs).max(initial=0)) + CANCELLATION * largest
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=allowed, err_msg=what)


def assert_same_gradients(ours: dict[str, Any], reference: Any) -> None:
    theirs = {path: parameter.grad for path, parameter in reference.named_parameters()}
    assert list(ours) == list(theirs)
    largest = max((float(gradient.abs().max()) for gradient in theirs.values()), default=0.0)
    for path, gradient in ours.items():
        assert gradient is not None, path
        assert_close(gradient, theirs[path], path, largest)


def gradients(model: nn.Module) -> dict[str, Any]:
    return {path: parameter.grad for path, parameter in model.named_parameters()}


def assert_same_state(model: nn.Module, reference: Any) -> None:
    ours, theirs = model.state_dict(), reference.state_dict()
    assert list(ours) == list(theirs)
    for path, value in theirs.items():
        assert_close(ours[path], value, path)


def exchange(model: nn.Module, reference: Any) -> None:
    """PyTorch's weights into ours, and ours back into PyTorch's: names, shapes and order must agree."""
    model.double().load_state_dict(reference.state_dict())
    assert list(model.state_dict()) == list(reference.state_dict())
    reference.load_state_dict({path: torch.tensor(value) for path, value in model.state_dict().items()})


def compare(model: nn.Module, reference: Any, inputs: Array, steps: int = 1) -> None:
    """Outputs, loss, all gradients and all state, over a few steps of plain descent in both."""
    for step in range(steps):
        theirs_in = torch.tensor(inputs + step)
        if theirs_in.is_floating_point():
            theirs_in.requires_grad_()
        ours_in = cr.asarray(inputs + step)
        ours, theirs = model(ours_in), reference(theirs_in)
        assert_close(ours, theirs, "output")
        target = numbers(*theirs.shape, seed=99 + step)
        loss = cr.sum(ours * ours * target) + cr.mean(ours)
        reference_loss = (theirs * theirs * torch.tensor(target)).sum() + theirs.mean()
        loss.backward()
        reference_loss.backward()
        assert_close(loss, reference_loss, "loss")
        if theirs_in.requires_grad:
            assert_close(ours_in.grad, theirs_in.grad, "gradient of the input")
        assert_same_gradients(gradients(model), reference)
        assert_same_state(model, reference)
        descend(model, reference)


def descend(model: nn.Module, reference: Any, rate: float = 1e-3) -> None:
    for parameter in model.parameters():
        parameter.assign(parameter - rate * parameter.grad)
    model.zero_grad()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter -= rate * parameter.grad
    reference.zero_grad()


# -- networks ----------------------------------------------------------------------------------------------
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "ReLU": (nn.ReLU, torch.nn.ReLU),
    "LeakyReLU": (nn.LeakyReLU, torch.nn.LeakyReLU),
    "LeakyReLU 0.2": (lambda: nn.LeakyReLU(0.2), lambda: torch.nn.LeakyReLU(0.2)),
    "ELU": (nn.ELU, torch.nn.ELU),
    "ELU 0.7": (lambda: nn.ELU(0.7), lambda: torch.nn.ELU(0.7)),
    "GELU": (nn.GELU, torch.nn.GELU),
    "GELU tanh": (lambda: nn.GELU("tanh"), lambda: torch.nn.GELU(approximate="tanh")),
    "SiLU": (nn.SiLU, torch.nn.SiLU),
    "Tanh": (nn.Tanh, torch.nn.Tanh),
    "Sigmoid": (nn.Sigmoid, torch.nn.Sigmoid),
    "Softplus": (nn.Softplus, torch.nn.Softplus),
    "Softplus 2 1": (lambda: nn.Softplus(2.0, 1.0), lambda: torch.nn.Softplus(2.0, 1.0)),
    "Softmax": (lambda: nn.Softmax(1), lambda: torch.nn.Softmax(1)),
    "LogSoftmax": (lambda: nn.LogSoftmax(1), lambda: torch.nn.LogSoftmax(1)),
    "Identity": (nn.Identity, torch.nn.Identity),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_perceptron(activation: str) -> None:
    ours, theirs = ACTIVATIONS[activation]
    model = nn.Sequential(nn.Linear(5, 8), ours(), nn.Linear(8, 6, bias=False), ours(), nn.Linear(6, 3))
    reference = torch.nn.Sequential(
        torch.nn.Linear(5, 8), theirs(), torch.nn.Linear(8, 6, bias=False), theirs(), torch.nn.Linear(6, 3)
    )
    exchange(model, reference)
    compare(model, reference, numbers(ROWS, 5), steps=2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_far_from_zero_and_at_zero(activation: str) -> None:
    ours, theirs = ACTIVATIONS[activation]
    far = np.array([[-800.0, -30.0, -1.0, -1e-8, 0.0, 1e-8, 1.0, 30.0, 800.0]])
    x, y = cr.asarray(far), torch.tensor(far, requires_grad=True)
    out, reference = ours()(x), theirs()(y)
    assert_close(out, reference, "output")
    cr.sum(out * far).backward()
    (reference * torch.tensor(far)).sum().backward()
    assert_close(x.grad, y.grad, "gradient")


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5), (0, 5), (2, 0, 5)])
def test_linear_of_any_rank(shape: tuple[int, ...]) -> None:
    model, reference = nn.Linear(5, 4), torch.nn.Linear(5, 4)
    exchange(model, reference)
    x, y = cr.asarray(numbers(*shape)), torch.tensor(numbers(*shape), requires_grad=True)
    cr.sum(model(x) ** 2).backward()
    (reference(y) ** 2).sum().backward()
    assert_close(x.grad, y.grad, "gradient of the input")
    assert_same_gradients(gradients(model), reference)


class Normalised(nn.Module):
    def __init__(self, layer: nn.Module, channels: int) -> None:
        self.first = nn.Linear(4, channels)
        self.norm = layer
        self.last = nn.Linear(channels, 2)

    def forward(self, x: Any) -> Any:
        return self.last(cr.tanh(self.norm(self.first(x))))


class TorchNormalised(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, layer: Any, channels: int) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, channels)
        self.norm = layer
        self.last = torch.nn.Linear(channels, 2)

    def forward(self, x: Any) -> Any:
        return self.last(torch.tanh(self.norm(self.first(x))))


BATCH_NORM = [
    {},
    {"momentum": 0.3, "eps": 1e-2},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
]


@pytest.mark.parametrize("options", BATCH_NORM, ids=str)
def test_batch_norm_training_then_evaluation(options: dict[str, Any]) -> None:
    model = Normalised(nn.BatchNorm1d(6, **options), 6)
    reference = TorchNormalised(torch.nn.BatchNorm1d(6, **options), 6)
    exchange(model, reference)
    compare(model, reference, numbers(ROWS, 4), steps=4)
    compare(model.eval(), reference.eval(), numbers(ROWS, 4, seed=1), steps=2)
    compare(model.train(), reference.train(), numbers(3, 4, seed=2), steps=1)


@pytest.mark.parametrize("options", BATCH_NORM, ids=str)
@pytest.mark.parametrize("length", [1, 5])
def test_batch_norm_of_sequences(options: dict[str, Any], length: int) -> None:
    model, reference = nn.BatchNorm1d(3, **options), torch.nn.BatchNorm1d(3, **options)
    exchange(model, reference)
    compare(model, reference, numbers(4, 3, length), steps=3)
    compare(model.eval(), reference.eval(), numbers(4, 3, length, seed=1), steps=1)


@pytest.mark.parametrize(
    "options", [{}, {"eps": 1e-2}, {"elementwise_affine": False}, {"bias": False}], ids=str
)
@pytest.mark.parametrize(("shape", "normalised"), [((ROWS, 6), 6), ((2, 3, 6), (6,)), ((2, 3, 4), (3, 4))])
def test_layer_norm(options: dict[str, Any], shape: tuple[int, ...], normalised: Any) -> None:
    model, reference = nn.LayerNorm(normalised, **options), torch.nn.LayerNorm(normalised, **options)
    exchange(model, reference)
    compare(model, reference, numbers(*shape), steps=2)


def test_layer_norm_in_a_network() -> None:
    model, reference = Normalised(nn.LayerNorm(6), 6), TorchNormalised(torch.nn.LayerNorm(6), 6)
    exchange(model, reference)
    compare(model, reference, numbers(ROWS, 4), steps=2)


@pytest.mark.parametrize("padding", [None, 0, 3, -1])
def test_embedding(padding: int | None) -> None:
    model = nn.Sequential(nn.Embedding(9, 4, padding_idx=padding), nn.Flatten(), nn.Linear(12, 2))
    reference = torch.nn.Sequential(
        torch.nn.Embedding(9, 4, padding_idx=padding), torch.nn.Flatten(), torch.nn.Linear(12, 2)
    )
    exchange(model, reference)
    rows = np.array([[0, 3, 3], [8, 7, 0], [1, 2, 3], [5, 5, 5]])
    compare(model, reference, rows)


class TorchResidual(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, body: Any, shortcut: Any = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Any) -> Any:
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))


def residual_network(library: Any, residual: Any) -> Any:
    def block() -> Any:
        layers = (library.LayerNorm(6), library.Linear(6, 10), library.GELU(), library.Linear(10, 6))
        return residual(library.Sequential(*layers))

    return library.Sequential(
        library.Linear(4, 6), block(), block(),
        residual(library.Linear(6, 3), library.Linear(6, 3, bias=False)),
    )  # fmt: skip


def test_residual_network() -> None:
    model, reference = residual_network(nn, nn.Residual), residual_network(torch.nn, TorchResidual)
    exchange(model, reference)
    compare(model, reference, numbers(ROWS, 4), steps=2)


def test_tied_weights_keep_both_names_and_sum_their_gradients() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    reference = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4))
    model[2].weight = model[0].weight
    reference[2].weight = reference[0].weight
    exchange(model, reference)
    compare(model, reference, numbers(ROWS, 4), steps=2)


# -- functions beside losses -------------------------------------------------------------------------------
@pytest.mark.parametrize("classes", [-1, 5])
def test_one_hot(classes: int) -> None:
    given = np.array([[0, 3], [1, 2]])
    ours, theirs = functional.one_hot(given, classes), torch_functional.one_hot(torch.tensor(given), classes)
    assert ours.dtype == np.int64
    assert_close(ours, theirs, "one_hot")


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.5, float("inf")])
@pytest.mark.parametrize("limit", [0.1, 1e6])
def test_clip_grad_norm(norm: float, limit: float) -> None:
    model, reference = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    exchange(model, reference)
    cr.sum(model(cr.asarray(numbers(4, 3))) ** 2).backward()
    (reference(torch.tensor(numbers(4, 3))) ** 2).sum().backward()
    total = nn.utils.clip_grad_norm_(model.parameters(), limit, norm)
    assert_close(total, torch.nn.utils.clip_grad_norm_(reference.parameters(), limit, norm), "norm")
    assert_same_gradients(gradients(model), reference)
    nn.utils.clip_grad_value_(model.parameters(), 0.02)
    torch.nn.utils.clip_grad_value_(reference.parameters(), 0.02)
    assert_same_gradients(gradients(model), reference)


def test_parameters_to_vector_and_back() -> None:
    model, reference = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    exchange(model, reference)
    theirs = torch.nn.utils.parameters_to_vector(reference.parameters())
    assert_close(nn.utils.parameters_to_vector(model.parameters()), theirs, "vector")
    nn.utils.vector_to_parameters(numbers(8), model.parameters())
    torch.nn.utils.vector_to_parameters(torch.tensor(numbers(8)), reference.parameters())
    assert_same_state(model, reference)


GAINS = [("linear", None), ("sigmoid", None), ("tanh", None), ("relu", None), ("selu", None)]


@pytest.mark.parametrize(("name", "slope"), [*GAINS, ("leaky_relu", None), ("leaky_relu", 0.3)])
def test_gains(name: str, slope: float | None) -> None:
    assert nn.init.calculate_gain(name, slope) == pytest.approx(torch.nn.init.calculate_gain(name, slope))


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3), (2, 4, 3, 5)])
def test_fans(shape: tuple[int, ...]) -> None:
    theirs = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    assert nn.init.fans(nn.Parameter(np.zeros(shape))) == theirs


# -- losses ------------------------------------------------------------------------------------------------
def compare_losses(
    name: str, inputs: Array, target: Array, weights: dict[str, Array], **options: Any
) -> None:
    """A loss of both libraries: value and gradient by the input (and by a floating target)."""
    ours_in, theirs_in = cr.asarray(inputs), torch.tensor(inputs, requires_grad=True)
    ours_out = getattr(functional, name)(ours_in, cr.asarray(target), **weights, **options)
    theirs_weights = {key: torch.tensor(value) for key, value in weights.items()}
    theirs_out = getattr(torch_functional, name)(theirs_in, torch.tensor(target), **theirs_weights, **options)
    assert_close(ours_out, theirs_out, "loss")
    spread = numbers(*theirs_out.shape, seed=5)
    cr.sum(ours_out * spread).backward()
    (theirs_out * torch.tensor(spread)).sum().backward()
    assert_close(ours_in.grad, theirs_in.grad, "gradient of the input")


REDUCTIONS = ("mean", "sum", "none")
SHAPES = [(ROWS,), (ROWS, 1), (4, 3), ()]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mse_loss", {}),
        ("l1_loss", {}),
        ("huber_loss", {}),
        ("huber_loss", {"delta": 0.3}),
        ("smooth_l1_loss", {}),
        ("smooth_l1_loss", {"beta": 0.4}),
        ("smooth_l1_loss", {"beta": 0.0}),
    ],
)
def test_losses_of_differences(
    name: str, options: dict[str, Any], shape: tuple[int, ...], reduction: str
) -> None:
    compare_losses(name, 2 * numbers(*shape), numbers(*shape, seed=1), {}, reduction=reduction, **options)


@pytest.mark.parametrize("name", ["huber_loss", "smooth_l1_loss", "l1_loss"])
def test_losses_at_their_kinks(name: str) -> None:
    compare_losses(name, np.array([-1.0, 0.0, 1.0, 3.0]), np.zeros(4), {})


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("positive", [None, (), (3,)])
@pytest.mark.parametrize("hard", [False, True])
def test_bce_with_logits(reduction: str, weighted: bool, positive: Any, hard: bool) -> None:
    probability = np.random.default_rng(3).random((5, 3))
    weights = {"weight": np.random.default_rng(4).random((5, 3))} if weighted else {}
    if positive is not None:
        weights["pos_weight"] = np.full(positive, 2.5)
    target = np.round(probability) if hard else probability
    compare_losses(
        "binary_cross_entropy_with_logits", 20 * numbers(5, 3), target, weights, reduction=reduction
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("log_input", [False, True])
def test_poisson(reduction: str, full: bool, log_input: bool) -> None:
    counts = np.random.default_rng(2).poisson(2.0, (6, 2)).astype(float)
    rates = numbers(6, 2) if log_input else np.exp(numbers(6, 2))
    compare_losses("poisson_nll_loss", rates, counts, {}, reduction=reduction, full=full, log_input=log_input)


CLASS_SHAPES = [(ROWS, 4), (4,), (3, 4, 2), (2, 4, 3, 2)]


def class_numbers(shape: tuple[int, ...], ignored: int | None) -> Array:
    if len(shape) == 1:
        return np.array(2)
    target = np.random.default_rng(6).integers(0, 4, shape[:1] + shape[2:])
    target.reshape(-1)[::3] = 0 if ignored is None else ignored
    return target


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [None, -100, 1])
@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy", "cross_entropy smoothed"])
def test_losses_of_class_numbers(
    name: str, shape: tuple[int, ...], reduction: str, weighted: bool, ignored: int | None
) -> None:
    weights = {"weight": np.array([0.5, 2.0, 1.0, 0.1])} if weighted else {}
    options: dict[str, Any] = {"reduction": reduction}
    options |= {"label_smoothing": 0.2} if name.endswith("smoothed") else {}
    options |= {} if ignored is None else {"ignore_index": ignored}
    target = class_numbers(shape, ignored)
    compare_losses(name.split(maxsplit=1)[0], 3 * numbers(*shape), target, weights, **options)


@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero):RuntimeWarning")
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_of_which_every_row_is_ignored(reduction: str) -> None:
    compare_losses("cross_entropy", numbers(2, 4), np.array([-100, -100]), {}, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", CLASS_SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_of_probabilities(
    shape: tuple[int, ...], reduction: str, weighted: bool, smoothing: float
) -> None:
    axis = 1 if len(shape) > 1 else 0
    target = np.random.default_rng(8).random(shape)
    target /= target.sum(axis=axis, keepdims=True)
    weights = {"weight": np.array([0.5, 2.0, 1.0, 0.1])} if weighted else {}
    compare_losses(
        "cross_entropy", 3 * numbers(*shape), target, weights, reduction=reduction, label_smoothing=smoothing
    )


MODULES: list[tuple[str, dict[str, Any], Array]] = [
    ("MSELoss", {"reduction": "sum"}, numbers(5, 3, seed=1)),
    ("L1Loss", {}, numbers(5, 3, seed=1)),
    ("HuberLoss", {"delta": 0.5}, numbers(5, 3, seed=1)),
    ("SmoothL1Loss", {"beta": 0.5}, numbers(5, 3, seed=1)),
    ("BCEWithLogitsLoss", {"pos_weight": np.array([1.0, 2.0, 3.0])}, np.eye(5, 3)),
    ("PoissonNLLLoss", {"full": True}, np.arange(15.0).reshape(5, 3)),
    (
        "CrossEntropyLoss",
        {"weight": np.array([1.0, 2.0, 3.0]), "label_smoothing": 0.1},
        np.array([0, 1, 2, 1, 0]),
    ),
    ("NLLLoss", {"weight": np.array([1.0, 2.0, 3.0]), "ignore_index": 2}, np.array([0, 1, 2, 1, 0])),
]


@pytest.mark.parametrize(("name", "options", "target"), MODULES, ids=[name for name, _, _ in MODULES])
def test_loss_modules(name: str, options: dict[str, Any], target: Array) -> None:
    theirs = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    ours = getattr(nn, name)(**options)
    reference = getattr(torch.nn, name)(**theirs)
    inputs = numbers(5, 3)
    value = reference(torch.tensor(inputs), torch.tensor(target))
    assert_close(ours(cr.asarray(inputs), cr.asarray(target)), value, name)
    assert list(ours.state_dict()) == list(reference.state_dict())


# -- the same step, traced ---------------------------------------------------------------------------------
def test_a_compiled_step_gives_pytorchs_gradients_and_running_statistics() -> None:
    model = Normalised(nn.BatchNorm1d(6), 6)
    reference = TorchNormalised(torch.nn.BatchNorm1d(6), 6)
    exchange(model, reference)
    loss, reference_loss = nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()
    step = cr.compile(lambda x, y: cr.value_and_grad(lambda m: loss(m(x), y))(model))
    for index, ignored in product(range(2), (0, -100)):
        inputs = numbers(ROWS, 4, seed=index)
        target = np.array([0, 1, 1, 0, 1, 1, ignored])
        value, by_path = step(inputs, target)
        reference.zero_grad()
        expected = reference_loss(reference(torch.tensor(inputs)), torch.tensor(target))
        expected.backward()
        assert_close(value, expected, "loss")
        assert_same_gradients(by_path, reference)
        assert_same_state(model, reference)
