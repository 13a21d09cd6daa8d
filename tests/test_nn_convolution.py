"""Convolutions and pools beyond the comparison with PyTorch: by hand, what they refuse, traced, trained."""

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.errors import ChainruleError, DTypeError, RecipeError, ShapeError
from chainrule.nest import nest_of
from chainrule.nn import functional
from chainrule.ops import ops
from chainrule.primitives import REGISTRY
from chainrule.types import Type

Array = np.ndarray[Any, Any]


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


# -- by hand -----------------------------------------------------------------------------------------------
def test_a_convolution_opens_into_its_products() -> None:
    """Loop axes: row, output channel, height, width, then input channel and the kernel's height and width."""
    attributes = {
        "strides": (2, 1), "padding": ((1, 0), (0, 0)),
        "input_dilation": (1, 1), "kernel_dilation": (1, 3),
    }  # fmt: skip
    float64 = np.dtype("float64")
    loop = nest_of(
        REGISTRY["convolve"], Type((2, 3, 5, 8), float64), Type((4, 3, 3, 2), float64), **attributes
    )
    assert loop is not None
    assert loop.extents == (2, 4, 2, 5, 3, 3, 2)
    assert loop.combiner == "sum"
    first = list(loop.points((1, 2, 0, 4)))[:3]
    assert first == [
        (None, (1, (2, 0, 0, 0))),
        (None, (1, (2, 0, 0, 1))),
        ((0, (1, 0, 0, 4)), (1, (2, 0, 1, 0))),
    ]


def test_kernels_are_not_turned_around() -> None:
    x, w = np.array([[[1.0, 2.0, 4.0]]]), np.array([[[1.0, 10.0]]])
    assert functional.conv1d(x, w).tolist() == [[np.correlate(x[0, 0], w[0, 0]).tolist()]]


def test_integers_are_convolved_as_they_are_by_the_primitive() -> None:
    attributes = {"strides": (1,), "padding": ((1, 0),), "input_dilation": (1,), "kernel_dilation": (1,)}
    y = ops.convolve(np.array([[[1, 2, 3]]]), np.array([[[1, 1]]]), **attributes)
    assert y.value.tolist() == [[[1, 3, 5]]]
    assert y.dtype == np.int64


def test_the_largest_ignores_the_padding_even_where_all_is_below_zero() -> None:
    x = cr.asarray(np.full((1, 1, 2, 2), -3.0))
    assert functional.max_pool2d(x, 2, padding=1).numpy().tolist() == [[[[-3.0, -3.0], [-3.0, -3.0]]]]


def test_an_infinity_reaches_only_the_windows_that_read_it() -> None:
    x = np.zeros((1, 1, 1, 6))
    x[..., 0] = np.inf
    for pooled in (functional.max_pool2d, functional.avg_pool2d):
        assert pooled(cr.asarray(x), (1, 2), stride=(1, 1)).tolist() == [[[[np.inf, 0, 0, 0, 0]]]]


def test_elements_that_tie_for_the_largest_share_the_derivative() -> None:
    x = cr.asarray(np.array([[[1.0, 1.0, 0.0, 2.0]]]))
    for options in ({}, {"stride": 2, "padding": 1}):
        gradient = cr.grad(lambda x, o=options: cr.sum(functional.max_pool1d(x, 2, **o)))(x)
        assert gradient.tolist() == ([[[0.5, 0.5, 0, 1]]] if not options else [[[1, 1, 0, 1]]])


def test_what_a_pool_drops_at_the_border_has_no_derivative() -> None:
    gradient = cr.grad(lambda x: cr.sum(functional.avg_pool2d(x, 2)))(cr.ones((1, 3, 5)))
    assert gradient.tolist() == [[[0.25] * 4 + [0.0]] * 2 + [[0.0] * 5]]


# -- what they refuse --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("layer", "shape", "error", "message"),
    [
        (
            nn.Conv2d(3, 1, 2),
            (4, 4),
            ShapeError,
            r"conv2d takes.*\(channels, height, width\).*given \(4, 4\)",
        ),
        (nn.Conv1d(3, 1, 2), (1, 3, 4, 4), ShapeError, r"conv1d takes.*\(channels, length\).*\(1, 3, 4, 4\)"),
        (nn.Conv2d(3, 1, 2), (1, 4, 5, 5), ShapeError, "takes 3 channels, but was given 4"),
        (
            nn.Conv2d(4, 4, 2, groups=2),
            (1, 2, 5, 5),
            ShapeError,
            r"takes 4 channels in 2 groups, but was given 2.*weight has shape \(4, 2, 2, 2\)",
        ),
        (
            nn.Conv2d(1, 1, 3, padding=1, dilation=(1, 4)),
            (1, 1, 5, 5),
            ShapeError,
            r"spans \(3, 9\) does not fit into \(7, 7\), padding included.*smaller kernel",
        ),
        (nn.MaxPool2d(4), (1, 1, 5, 3), ShapeError, "a window that spans 4 does not fit.*length of 3"),
        (nn.AvgPool1d(2), (1, 1, 0), ShapeError, "avg_pool1d.*length of 0"),
        (nn.MaxPool2d(2), (4, 4), ShapeError, "max_pool2d takes shape"),
        (
            nn.MaxPool2d(2, padding=2),
            (1, 4, 4),
            RecipeError,
            "padding = 2 is more than half of kernel_size = 2",
        ),
        (nn.AdaptiveAvgPool2d(3), (1, 4, 6), ShapeError, r"multiples of.*\(3, 3\).*\(1, 4, 6\)"),
    ],
)
def test_wrong_inputs_are_refused_with_layer_line_and_cure(
    layer: nn.Module, shape: tuple[int, ...], error: type[ChainruleError], message: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}") as caught:
        nn.Sequential(layer)(cr.ones(shape))
    assert "test_nn_convolution.py" in str(caught.value)
    assert "in layer 0" in str(caught.value)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 1, 2), nn.MaxPool2d(2), nn.AvgPool2d(2)])
def test_whole_numbers_are_refused_with_the_cure(layer: nn.Module) -> None:
    with pytest.raises(DTypeError, match=r"2d takes floating-point.*int64\[1,3,4,4\].*astype"):
        layer(cr.asarray(np.ones((1, 3, 4, 4), np.int64)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Conv2d(1, 1, (3, 3, 3)), r"Conv2d: kernel_size = \(3, 3, 3\) must be .* 2 of them"),
        (lambda: nn.Conv2d(1, 1, 0), "kernel_size = 0 must be made of whole numbers, 1 or larger"),
        (lambda: nn.Conv2d(1, 1, 2.5), "kernel_size = 2.5 must be a whole number"),
        (lambda: nn.Conv2d(1, 1, 3, stride=0), "stride = 0 must be made of whole numbers, 1 or larger"),
        (lambda: nn.Conv2d(1, 1, 3, padding=-1), "padding = -1 must be made of whole numbers, 0 or larger"),
        (lambda: nn.Conv2d(1, 1, 3, padding="full"), "padding = 'full' is not known.*'same' or 'valid'"),
        (lambda: nn.Conv2d(1, 1, 3, 2, "same"), r"'same' needs stride 1, not \(2, 2\)"),
        (lambda: nn.Conv1d(4, 2, 3, groups=3), "groups = 3 must divide in_channels = 4 and out_channels = 2"),
        (lambda: nn.Conv1d(4, 2, 3, groups=0), "groups = 0 must divide"),
        (lambda: nn.MaxPool1d(3, stride=(1, 1)), r"MaxPool1d: stride = \(1, 1\) must be .* 1 of them"),
        (
            lambda: functional.conv1d(cr.ones((1, 2, 5)), cr.ones((3, 1, 2)), groups=2),
            "groups = 2 must divide the 3 output channels",
        ),
    ],
)
def test_wrong_options_are_refused(build: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build()


def test_a_weight_of_another_rank_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"conv2d: a weight has 4 axes.*\(3, 1, 2\)"):
        functional.conv2d(cr.ones((1, 1, 5, 5)), cr.ones((3, 1, 2)))


def test_operands_that_do_not_fit_are_refused_by_the_primitive_itself() -> None:
    attributes = {"strides": (1,), "padding": ((0, 0),), "input_dilation": (1,), "kernel_dilation": (1,)}
    with pytest.raises(ShapeError, match=r"\(1, 2, 5\) and w .*\(3, 1, 2\) do not fit, given 1 axes"):
        ops.convolve(np.ones((1, 2, 5)), np.ones((3, 1, 2)), **attributes)


# -- layers ------------------------------------------------------------------------------------------------
def test_layers_show_their_options() -> None:
    conv = nn.Conv1d(4, 8, 3, stride=2, padding="valid", dilation=2, groups=4, bias=False)
    assert repr(conv) == (
        "Conv1d(4, 8, kernel_size=(3,), stride=(2,), padding='valid', dilation=(2,), groups=4, bias=False)"
    )
    assert repr(nn.MaxPool1d(2, ceil_mode=True)) == (
        "MaxPool1d(kernel_size=(2,), stride=(2,), padding=(0,), dilation=(1,), ceil_mode=True)"
    )
    assert repr(nn.AvgPool2d(3, 2, 1)) == "AvgPool2d(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))"
    assert repr(nn.AdaptiveAvgPool2d(1)) == "AdaptiveAvgPool2d(output_size=(1, 1))"


def test_a_convolution_starts_uniform_in_one_over_root_of_a_windows_elements() -> None:
    with cr.random.stream(cr.random.key(0)):
        layer = nn.Conv2d(32, 64, (4, 2), groups=2)
    bound = 1 / np.sqrt(16 * 4 * 2)
    assert layer.weight.shape == (64, 16, 4, 2)
    for values in (layer.weight.numpy(), layer.bias.numpy()):
        assert np.abs(values).max() <= bound
        # The mean square of n uniforms in ±b has mean b²/3 and standard deviation 2b²/(3 sqrt(5 n)).
        allowed = 5 * 2 / (3 * np.sqrt(5 * values.size)) * bound**2
        assert np.mean(values**2) == pytest.approx(bound**2 / 3, abs=allowed)


def test_layers_can_be_made_in_float64() -> None:
    assert nn.Conv2d(1, 1, 1, dtype=np.float64)(cr.ones((1, 1, 1), np.float64)).dtype == np.float64


def small() -> nn.Module:
    """For 12 × 12 images, with every layer of this page."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding="same", groups=2), nn.Tanh(), nn.MaxPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(2, stride=1), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def test_one_image_is_a_row_without_its_axis() -> None:
    model, images = small()[:7].double(), numbers(3, 1, 12, 12)
    np.testing.assert_allclose(model(images[1]).numpy(), model(images).numpy()[1], rtol=1e-13, atol=1e-15)


def test_gradients_per_example_are_those_of_each_example() -> None:
    model, images, labels = small().double(), numbers(3, 1, 12, 12), np.array([0, 2, 1])
    body, head = model[:7], model[7:]

    def loss(model: nn.Module, image: Any, label: Any) -> Any:
        features = cr.reshape(body(image), (1, 6, 2, 2))
        return functional.cross_entropy(head(features), cr.reshape(label, (1,)))

    each = cr.vmap(cr.grad(loss), in_axes=(None, 0, 0))(model, images, labels)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        for path, gradient in cr.grad(loss)(model, image, label).items():
            found = each[path].numpy()[index]
            np.testing.assert_allclose(found, gradient.numpy(), rtol=1e-12, atol=1e-15, err_msg=path)


def test_a_compiled_step_computes_what_eager_computes() -> None:
    model, images = small().double(), numbers(3, 1, 12, 12)
    step = cr.value_and_grad(lambda model, x: cr.sum(cr.square(model(x))))
    value, gradients = cr.compile(step, backend="numpy")(model, images)
    wanted, eager = step(model, images)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-13)
    for path, gradient in eager.items():
        np.testing.assert_allclose(gradients[path].numpy(), gradient.numpy(), rtol=1e-12, atol=1e-14)


def test_an_empty_batch_passes() -> None:
    assert small()(cr.zeros((0, 1, 12, 12))).shape == (0, 3)


def test_the_summary_shows_the_shapes_between_layers() -> None:
    rows = nn.summary(small(), (7, 1, 12, 12)).rows
    assert [row.output_shape for row in rows[2:7]] == [
        (7, 4, 5, 5), (7, 6, 5, 5), (7, 6, 5, 5), (7, 6, 3, 3), (7, 6, 2, 2),
    ]  # fmt: skip
    assert rows[3].parameters == 6 * 2 * 9 + 6


def test_a_trainer_takes_the_steps_of_a_loop_written_by_hand() -> None:
    images, labels = numbers(12, 1, 12, 12), np.arange(12) % 3
    batches = np.random.default_rng(1).integers(0, 12, (4, 5))
    with cr.random.stream(cr.random.key(0)):
        trained = small().double()
    by_hand = small().double()
    by_hand.load_state_dict(trained.state_dict())
    trainer = cr.Trainer(trained, nn.CrossEntropyLoss(), cr.optim.Adam(lr=1e-2), backend="numpy")
    last = trainer.run((images, labels), 4, batches=batches)
    optimizer = cr.optim.Adam(by_hand.parameters(), lr=1e-2)
    for rows in batches:
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(by_hand(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
    assert last == pytest.approx(loss.item(), rel=1e-11)
    for path, value in by_hand.state_dict().items():
        np.testing.assert_allclose(trained.state_dict()[path], value, rtol=0, atol=1e-11, err_msg=path)
