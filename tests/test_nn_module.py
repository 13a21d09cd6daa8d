"""Module: the tree and its names, state in and out, modes, layer paths, the summary."""

import copy
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.errors import ChainruleError, DTypeError, ShapeError


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        self.inner = nn.Linear(width, width)
        self.scale = nn.Parameter(np.ones(width, np.float32))
        self.seen = nn.Buffer(np.zeros((), np.float32))

    def forward(self, x: Any) -> Any:
        self.seen.assign(self.seen + 1)
        return cr.tanh(self.inner(x)) * self.scale


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.name = "a plain attribute"
        self.blocks = [Block(3), Block(3)]
        self.heads = {"mean": nn.Linear(3, 1), "spread": nn.Linear(3, 1, bias=False)}
        self.pair = (nn.Parameter(np.ones(1, np.float32)), nn.ModuleList([nn.Linear(1, 1)]))
        self.missing = None

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        scale, (last,) = self.pair
        return last(self.heads["mean"](x) * scale) + self.heads["spread"](x)


PARAMETERS = [
    "pair.0",
    "blocks.0.scale", "blocks.0.inner.weight", "blocks.0.inner.bias",
    "blocks.1.scale", "blocks.1.inner.weight", "blocks.1.inner.bias",
    "heads.mean.weight", "heads.mean.bias", "heads.spread.weight",
    "pair.1.0.weight", "pair.1.0.bias",
]  # fmt: skip


# -- names -------------------------------------------------------------------------------------------------
def test_fields_are_found_in_containers_and_named_by_their_path() -> None:
    net = Net()
    assert [path for path, _ in net.named_parameters()] == PARAMETERS
    assert [cell.name for cell in net.parameters()] == PARAMETERS
    assert [path for path, _ in net.named_buffers()] == ["blocks.0.seen", "blocks.1.seen"]
    assert next(path for path, _ in net.named_parameters(prefix="net")) == "net.pair.0"
    assert next(net.parameters()).name == "pair.0"  # a prefix is only shown
    assert [path for path, _ in net.named_children()] == [
        "blocks.0",
        "blocks.1",
        "heads.mean",
        "heads.spread",
        "pair.1",
    ]
    assert [path for path, _ in net.named_modules()][:4] == ["", "blocks.0", "blocks.0.inner", "blocks.1"]
    assert len(list(net.modules())) == 9


def test_a_module_added_to_a_list_later_belongs_to_the_model() -> None:
    net = Net()
    net.blocks.append(Block(3))
    assert "blocks.2.inner.weight" in dict(net.named_parameters())
    assert net.blocks[2].inner.weight.name == "blocks.2.inner.weight"


def test_names_are_those_in_the_outermost_model() -> None:
    linear = nn.Linear(2, 2)
    assert linear.weight.name == "weight"
    inner = nn.Sequential(nn.ReLU(), linear)
    outer = nn.Sequential(inner)
    assert linear.weight.name == "0.1.weight"
    list(inner.named_parameters())  # looked at from inside, it keeps the longer name
    assert linear.weight.name == "0.1.weight"
    assert [path for path, _ in outer.named_parameters()] == ["0.1.weight", "0.1.bias"]


def test_tied_parameters_are_one_cell_under_both_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert [path for path, _ in model.named_parameters()] == ["0.weight"]
    assert [path for path, _ in model.named_parameters(remove_duplicate=False)] == ["0.weight", "1.weight"]
    assert list(model.state_dict()) == ["0.weight", "1.weight"]
    x = cr.ones((1, 2))
    _, gradients = cr.value_and_grad(lambda m, x: cr.sum(m(x)))(model, x)
    assert list(gradients) == ["0.weight", "1.weight"]
    assert gradients["0.weight"].tolist() == gradients["1.weight"].tolist()
    cr.sum(model(x)).backward()
    assert model[0].weight.grad.tolist() == gradients["0.weight"].tolist()


def test_a_module_under_two_names_comes_once() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert [path for path, _ in model.named_modules()] == ["", "0", "1"]
    assert [path for path, _ in model.named_modules(remove_duplicate=False)] == ["", "0", "1", "2"]
    assert len(list(model.parameters())) == 2


# -- layer paths -------------------------------------------------------------------------------------------
def test_everything_a_layer_computes_carries_its_path() -> None:
    net = Net()
    assert net(cr.ones((2, 3))).layer == ""
    assert net.blocks[1](cr.ones((2, 3))).layer == ""  # called alone it is the whole model
    seen: list[str] = []
    with nn.observing(lambda module, output: seen.append(output.layer)):
        net(cr.ones((2, 3)))
    assert seen == [
        "blocks.0.inner", "blocks.0", "blocks.1.inner", "blocks.1",
        "heads.mean", "pair.1.0", "heads.spread", "",
    ]  # fmt: skip
    with cr.scope("encoder"):
        assert net.blocks[0].inner(cr.ones((1, 3))).layer == "encoder"


def test_paths_are_also_in_the_traced_graph() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh(), nn.Linear(2, 1)))
    compiled = cr.compile(model)
    compiled(cr.ones((3, 2)))
    text = compiled.show()
    assert "in 1.1" in text
    assert "in 1.0" in text
    assert "1.1.weight" in text.splitlines()[0]  # inputs are labelled by the parameter's path


# -- fields ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [np.zeros((3, 2)), cr.zeros((3, 2)), 0.0, nn.Linear(2, 3)])
def test_a_parameter_is_not_replaced_by_something_that_is_none(value: Any) -> None:
    layer = nn.Linear(2, 3)
    with pytest.raises(
        ChainruleError, match=r"self.weight of Linear is a Parameter.*self.weight.assign\(value\)"
    ):
        layer.weight = value
    assert isinstance(layer.weight, nn.Parameter)


def test_a_parameter_can_be_replaced_by_a_parameter_or_removed() -> None:
    layer = nn.Linear(2, 3)
    layer.weight = nn.Parameter(np.ones((3, 2), np.float32))
    layer.bias = None
    assert [path for path, _ in layer.named_parameters()] == ["weight"]
    assert layer(cr.ones((1, 2))).tolist() == [[2.0, 2.0, 2.0]]


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(ChainruleError, match=r"ModuleList has no forward\(\).*call the modules it holds"):
        nn.ModuleList([nn.Linear(2, 2)])(cr.ones((1, 2)))


# -- state -------------------------------------------------------------------------------------------------
def test_state_is_a_snapshot_that_training_does_not_change() -> None:
    layer = nn.Linear(2, 1)
    before = layer.state_dict()
    kept = before["weight"].tolist()
    layer.weight.assign(layer.weight + 1)
    assert before["weight"].tolist() == kept
    layer.load_state_dict(before)
    assert layer.weight.tolist() == kept


def test_state_comes_from_arrays_and_keeps_the_models_dtype() -> None:
    layer = nn.Linear(2, 1)
    found = layer.load_state_dict({"weight": np.array([[1.0, 2.0]]), "bias": [3]})
    assert found == ([], [])
    assert layer.weight.dtype == np.float32
    assert layer(cr.ones((1, 2))).tolist() == [[6.0]]


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {path: value.tolist() for path, value in model.state_dict().items()}
    state: dict[str, Any] = {path: value.numpy() + 1 for path, value in model.state_dict().items()}
    del state["0.bias"]
    state["1.weight"] = np.zeros((3, 1))
    state["2.weight"] = np.zeros(1)
    expected = (
        r"nothing was loaded.*1.weight has shape \(3, 1\), the model needs \(1, 3\); missing: 0.bias; "
        "unexpected: 2.weight"
    )
    with pytest.raises(ShapeError, match=expected):
        model.load_state_dict(state)
    with pytest.raises(ShapeError, match=r"1\.weight has shape"):
        model.load_state_dict(state, strict=False)
    assert {path: value.tolist() for path, value in model.state_dict().items()} == before
    del state["1.weight"]
    assert model.load_state_dict(state, strict=False) == (["0.bias", "1.weight"], ["2.weight"])
    assert model[0].weight.tolist() == (np.array(before["0.weight"], np.float32) + 1).tolist()


def test_a_state_that_holds_no_numbers_is_refused() -> None:
    with pytest.raises(ShapeError, match="bias holds <U1, not numbers"):
        nn.Linear(1, 1).load_state_dict({"weight": [[1.0]], "bias": ["a"]})


def test_tied_names_need_one_value_between_them() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model[1].weight = model[0].weight
    model.load_state_dict({"1.weight": [[2.0]]})
    assert model[0].weight.item() == 2.0
    with pytest.raises(
        ShapeError, match=r"1.weight and 0.weight are one tied parameter, but their values differ"
    ):
        model.load_state_dict({"0.weight": [[1.0]], "1.weight": [[2.0]]})


def test_deepcopy_is_a_model_of_its_own() -> None:
    net = Net()
    net.blocks[1].scale = net.blocks[0].scale
    twin = copy.deepcopy(net)
    before = net.state_dict()
    for cell in twin.parameters():
        cell.assign(cell + 1)
    assert all(np.array_equal(net.state_dict()[path], value) for path, value in before.items())
    assert twin.blocks[1].scale is twin.blocks[0].scale
    cr.sum(twin(cr.ones((1, 3)))).backward()
    assert twin.blocks[0].inner.weight.grad is not None
    assert net.blocks[0].inner.weight.grad is None


# -- modes -------------------------------------------------------------------------------------------------
def test_train_and_eval_reach_every_module() -> None:
    net = Net()
    assert net.training
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert all(module.training for module in net.train().modules())


def test_double_and_float_convert_floating_cells_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    assert {str(value.dtype) for value in model.state_dict().values()} == {"float64", "int64"}
    assert model(cr.asarray(np.eye(2))).dtype == np.float64
    assert {cell.dtype for cell in model.float().parameters()} == {np.dtype(np.float32)}
    for wrong in ("cuda", np.int64, np.float16):
        with pytest.raises(DTypeError, match="a model can be float32 or float64"):
            model.to(wrong)


def test_frozen_parameters_stay_state_but_are_not_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    names = list(model.state_dict())
    frozen = model[0].weight
    model[0].requires_grad_(False)
    assert [path for path, _ in model.named_parameters()] == ["1.weight", "1.bias", "2.weight", "2.bias"]
    assert model[0].weight is frozen
    assert list(model.state_dict()) == names
    gradients = cr.grad(lambda m: cr.sum(m(cr.asarray([[1.0, 2.0], [3.0, 1.0]])) ** 2))(model)
    assert list(gradients) == ["1.weight", "1.bias", "2.weight", "2.bias"]
    cr.sum(model(cr.asarray([[1.0, 2.0], [3.0, 1.0]])) ** 2).backward()
    assert frozen.grad is None
    model.requires_grad_(True)
    assert [path for path, _ in model.named_buffers()] == [
        name for name in names if "running" in name or "num" in name
    ]
    cr.sum(model(cr.asarray([[1.0, 2.0], [3.0, 1.0]])) ** 2).backward()
    assert frozen.grad is not None


def test_zero_grad_and_apply() -> None:
    net = Net()
    cr.sum(net(cr.ones((1, 3)))).backward()
    net.zero_grad()
    assert all(cell.grad is None for cell in net.parameters())
    order: list[nn.Module] = []
    assert net.apply(order.append) is net
    assert order[0] is net.blocks[0].inner
    assert order[-1] is net


# -- containers --------------------------------------------------------------------------------------------
def test_sequential_indexes_like_a_list() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(model) == 3
    assert model[-1].out_features == 1
    head = model[:2]
    assert isinstance(head, nn.Sequential)
    assert head[0] is model[0]
    model[1] = nn.Tanh()
    model.append(nn.Sigmoid()).extend([nn.Identity()])
    assert [type(each).__name__ for each in model] == ["Linear", "Tanh", "Linear", "Sigmoid", "Identity"]
    with pytest.raises(IndexError, match="module 5 of a Sequential of 5"):
        model[5]
    with pytest.raises(TypeError, match="Sequential holds modules, not function"):
        nn.Sequential(lambda x: x)  # type: ignore[arg-type]


def test_sequential_with_names() -> None:
    model = nn.Sequential({"first": nn.Linear(2, 2), "act": nn.ReLU()})
    assert list(model.state_dict()) == ["first.weight", "first.bias"]
    assert model(cr.ones((1, 2))).shape == (1, 2)


def test_module_list() -> None:
    layers = nn.ModuleList([nn.Linear(2, 2)])
    layers.append(nn.Linear(2, 1))
    assert [path for path, _ in layers.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert isinstance(layers[1:], nn.ModuleList)


def test_residual_says_which_shapes_do_not_add() -> None:
    model = nn.Sequential(nn.Residual(nn.Linear(3, 2)))
    with pytest.raises(ShapeError, match=r"body gives shape \(1, 2\).*\(1, 3\).*in layer 0.*shortcut="):
        model(cr.ones((1, 3)))


# -- text --------------------------------------------------------------------------------------------------
def test_repr_nests_as_in_pytorch() -> None:
    model = nn.Sequential(nn.Residual(nn.Sequential(nn.LayerNorm(2), nn.GELU())), nn.Dropout(0.1))
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Residual(\n"
        "    (body): Sequential(\n"
        "      (0): LayerNorm((2,), eps=1e-05, elementwise_affine=True)\n"
        "      (1): GELU(approximate='none')\n"
        "    )\n"
        "  )\n"
        "  (1): Dropout(p=0.1)\n"
        ")"
    )


def test_summary_shows_output_shapes_and_counts_without_running_the_model() -> None:
    model = nn.Sequential(
        nn.Linear(4, 3),
        nn.BatchNorm1d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Residual(nn.Linear(3, 3)),
        nn.Linear(3, 1),
    )
    model[5].requires_grad_(False)
    table = nn.summary(model, (1, 4))
    assert [(row.path, row.kind, row.output_shape, row.parameters) for row in table.rows] == [
        ("0", "Linear", (1, 3), 15),
        ("1", "BatchNorm1d", (1, 3), 6),
        ("2", "ReLU", (1, 3), 0),
        ("3", "Dropout", (1, 3), 0),
        ("4.body", "Linear", (1, 3), 12),
        ("5", "Linear", (1, 1), 4),
    ]
    assert (table.parameters, table.frozen) == (37, 4)
    assert str(table).endswith("Sequential: 37 parameters, 4 of them frozen")
    assert model.training
    assert model[1].num_batches_tracked.item() == 0


def test_summary_of_a_model_with_several_inputs_own_parameters_and_tied_weights() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            self.shift = nn.Parameter(np.zeros(2, np.float32))
            self.codes = nn.Embedding(5, 2)
            self.last = nn.Linear(2, 2)
            self.unused = nn.Linear(2, 2)
            self.unused.weight = self.last.weight

        def forward(self, inputs: Any) -> Any:
            return self.last(inputs["numeric"] + self.codes(inputs["code"]) + self.shift)

    table = nn.summary(Table(), {"numeric": (1000, 2), "code": np.zeros(1000, np.int64)})
    assert [(row.path, row.output_shape, row.parameters) for row in table.rows] == [
        ("", (1000, 2), 2),
        ("codes", (1000, 2), 10),
        ("last", (1000, 2), 6),
        ("unused", None, 2),
    ]
    assert "Table " in str(table)
    assert "not called" in str(table)


def test_wrong_input_width_names_the_layer_and_both_widths() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(2, 1)))
    with pytest.raises(
        ShapeError, match=r"takes 2 features along the last axis.*\(5, 3\).*test_nn_module.py.*in layer 1.1"
    ):
        model(cr.ones((5, 4)))
