"""However a network is written, it is the network; and where it is another one, it is not."""

from __future__ import annotations

from typing import Any

import pytest

from shared import get_spec, identify
from shared.architecture.presets import miniature
from shared.errors import FrameworkError
from shared.graphs.planned import planned
from shared.graphs.verdict import SAME_FUNCTION, SAME_MODEL, identify_graph

torch = pytest.importorskip("torch")

from tests.graphs import users_models as users
from tests.graphs.planted import randomise
from tests.zoo import rest_in_zoo

SPEC = get_spec("cifar/resnet20", depths=[1, 1, 1])
ACTIVATIONS = ("where", "in place", "a view in place", "clamp", "half of both", "maximum")
HEADS = ("window", "twice", "sum", "1 x 1")  # the short run takes every second of both


def of(model: Any) -> Any:
    randomise(model)
    return identify(model, 32)


def check_is_the_network(found: Any, **changes: Any) -> None:
    assert found.departures == []
    assert found.recognised, (found.verdict, found.notes, found.evidence)
    plans = [planned(spec, (32, 32)) for spec in (found.spec, SPEC.replace(**changes))]
    ours, theirs = ([plan.ops.get(i) for i in plan.order] for plan in plans)
    momentum = found.spec.norm.momentum
    assert momentum == SPEC.norm.momentum
    assert ours == theirs


@pytest.mark.parametrize("how", rest_in_zoo(ACTIVATIONS, ACTIVATIONS[::2]))
def test_a_relu_is_a_relu(how: str) -> None:
    found = of(users.Cifar(how=how))
    check_is_the_network(found)
    assert found.verdict == SAME_MODEL


@pytest.mark.parametrize("head", rest_in_zoo(HEADS, HEADS[::2]))
def test_a_mean_over_the_image_is_one(head: str) -> None:
    check_is_the_network(of(users.Cifar(head=head)))


def test_zero_channels_behind_are_others_than_on_both_sides() -> None:
    check_is_the_network(of(users.Cifar(users.zeros_by_cat)), **{"shortcut.zero_pad": "tail"})


def test_standardised_kernels_by_hand() -> None:
    check_is_the_network(of(users.standardised()), weight_std_eps=1e-8)


def test_a_kernel_that_is_computed_is_the_same_function() -> None:
    found = of(users.weight_normed())
    check_is_the_network(found)
    assert found.verdict == SAME_FUNCTION


def test_folded_norms_are_the_same_function() -> None:
    model = users.Cifar()
    randomise(model)
    found = identify(users.folded(), 32)
    assert found.departures == []
    assert found.recognised, found.notes
    assert found.verdict == SAME_FUNCTION
    assert "norms are folded" in " ".join(found.notes)


def test_norms_are_unfolded_where_the_other_network_has_them() -> None:
    """Of its projections, which have biases of their own, none has a norm."""
    import resnet_torch
    from resnet_torch.read import read_graph

    spec = miniature(get_spec("d2l/resnet18")).replace(depths=(1, 1, 1, 1), image_size=32)
    model = resnet_torch.build(spec)
    randomise(model)
    folded = resnet_torch.fold(model.eval())
    found = identify_graph(lambda size: read_graph(folded, size), 32, spec)
    assert (found.departures, found.verdict) == ([], SAME_FUNCTION)
    assert "9 norms are folded" in " ".join(found.notes)
    assert {name for name in found.weights if "shortcut" in name} == {
        f"stages.{k}.blocks.0.shortcut.conv.{leaf}"
        for k in (1, 2, 3)
        for leaf in ("weight", "bias")
    }


def test_what_is_written_in_place_is_read_where_it_is_read() -> None:
    # Every shortcut begins behind norm and ReLU: no pre-activation, but figure 4 (b) of the paper.
    found = of(users.InPlace())
    assert found.recognised, found.departures
    assert found.spec is not None
    assert found.spec.block.order == "norm_after_add"


def test_an_operator_that_nobody_knows_is_named() -> None:
    model = users.Cifar()
    model.layers[1].bn2 = users.Lambda(lambda x: torch.cumsum(x, 1))
    found = of(model)
    assert not found.recognised
    assert any("cumsum" in d.theirs and d.where == "layers.1.bn2" for d in found.departures)


def backbone_without_gradients() -> Any:
    """A frozen backbone: what runs under `no_grad` is a graph of its own in an exported program."""
    inner = users.Cifar()

    class Frozen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            with torch.no_grad():
                x = torch.relu(self.inner.bn1(self.inner.conv1(x)))
                x = self.inner.layers(x)
            return self.inner.linear(x.mean((2, 3)))

    return Frozen()


def in_bfloat16_where_it_can() -> Any:
    class Mixed(users.Cifar):
        def forward(self, x: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)["logits"]

    return Mixed()


def dropping_in_place() -> Any:
    model = users.Cifar()
    model.layers.append(torch.nn.Dropout(0.5, inplace=True))
    return model


def scripted_in_training_mode() -> Any:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
    )
    return torch.jit.script(net)


@pytest.mark.parametrize(
    "make", [backbone_without_gradients, in_bfloat16_where_it_can, dropping_in_place]
)
def test_what_changes_no_number_changes_no_answer(make: Any) -> None:
    check_is_the_network(of(make()))


def test_a_script_in_training_mode_is_read() -> None:
    found = identify(scripted_in_training_mode(), 32)
    assert found.verdict == "no ResNet"
    assert found.notes == ["there is no addition of a residual branch and its shortcut"]


def test_a_norm_without_scale_and_shift_is_trained_otherwise() -> None:
    model = users.Cifar()
    model.layers[1].bn1 = torch.nn.BatchNorm2d(32, affine=False)
    found = of(model)
    check_is_the_network(found)
    assert found.verdict == SAME_FUNCTION
    assert "a norm without scale or shift" in " ".join(found.notes)


def test_an_addition_behind_the_pool_is_no_unit() -> None:
    """An adapter of low rank beside the head."""

    class Adapted(torch.nn.Module):
        def __init__(self, linear: Any):
            super().__init__()
            self.linear, self.down = linear, torch.nn.Linear(64, 4, bias=False)
            self.up = torch.nn.Linear(4, 10, bias=False)

        def forward(self, x: Any) -> Any:
            return self.linear(x) + self.up(self.down(x))

    model = users.Cifar()
    model.linear = Adapted(model.linear)
    found = of(model)
    assert (found.verdict, found.nearest) == ("departs", "cifar/resnet20")
    assert {d.where for d in found.departures} <= {"linear.linear", "linear", "linear.down"}


def test_a_model_that_returns_nothing_is_told_so() -> None:
    class Silent(users.Cifar):
        def forward(self, x: Any) -> Any:
            super().forward(x)

    with pytest.raises(FrameworkError, match="the model returns no tensor"):
        identify(Silent(), 32)


def test_a_number_that_the_images_decide_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Reporting(users.Cifar):
        def forward(self, x: Any) -> Any:
            found = super().forward(x)
            print("mean", float(found["logits"].mean()))
            return found

    with pytest.raises(FrameworkError, match="cannot trace it"):
        identify(Reporting(), 32)
    assert capsys.readouterr().err == ""  # PyTorch prints the whole graph
