"""Every file of `rosetta source` is the proved network, in its output and in a training step."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared import ResNetSpec, SpecError, get_spec, list_presets, make_plan, miniature
from shared.source.write import WRITERS, source
from tests.probes import function_of
from tests.source.bare import errors
from tests.zoo import in_zoo, rest_in_zoo

LIMIT = 1e-12  # of outputs and of tensors after a step
FAMILIES = sorted({name.partition("/")[0] for name in list_presets()})
ALL_KINDS = (
    "torchvision/resnet18",
    "torchvision/resnet50",
    "torchvision/resnext50_32x4d",
    "timm/resnet50d",
    "timm/resnetaa50d",
    "timm/resnetblur50",
    "timm/resnet50_gn",
    "timm/resnetv2_50d",
    "he/plain18",
    "he/resnet50",
    "he/resnet34_a",
    "keras/resnet50",
    "keras/resnet50v2",
    "flax/resnet50",
    "tf/resnet50_v2",
    "fb/preresnet18",
    "bit/r50x1",
    "cifar/preresnet20",
    "ablation/resnet110_exclusive_gate_b0",
    "ablation/resnet164_act_only_pre",
)
CLASSIC = (
    "torchvision/resnet18",
    "torchvision/resnet50",
    "he/resnet50",
    "fb/preresnet50",
    "cifar/resnet20",
    "cifar/preresnet164",
    "timm/resnet50d",
)
MOST_LINES = 150
ALLOWED = {
    "torch": {"torch", "functools"},
    "keras": {"keras", "sys"},
    "flax": {"flax", "jax", "numpy", "functools", "typing"},
}
# TensorFlow and XLA take seconds for what takes PyTorch a tenth of one.
SAMPLE = {
    "torch": ALL_KINDS,
    "keras": ("torchvision/resnet50", "keras/resnet50v2", "fb/preresnet18", "cifar/preresnet20"),
    "flax": ("cifar/preresnet20",),
}


def small(name: str, shallow: bool = False) -> ResNetSpec:
    """A miniature, or two stages of it, of one and of two blocks; dropout would draw, so nothing is
    dropped.
    """
    spec = miniature(get_spec(name))
    spec = spec.replace(depths=(1, 2)) if shallow else spec
    return spec.replace(shortcut_dropout=0.0) if spec.shortcut.join == "dropout" else spec


def wrong(framework: str, specs: list[ResNetSpec], folder: Path) -> dict[str, float]:
    """The networks whose file is another function, and the largest error of each."""
    found = errors(framework, specs, folder)
    assert found.keys() == {spec.name for spec in specs}
    return {name: error for name, error in found.items() if not error < LIMIT}


@pytest.mark.parametrize(
    ("framework", "names"),
    [*SAMPLE.items(), in_zoo(("keras", ALL_KINDS)), in_zoo(("flax", ALL_KINDS))],
)
def test_a_sample_is_the_proved_networks(
    framework: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    pytest.importorskip(framework)
    specs = [small(name, shallow=framework != "torch") for name in names]
    assert wrong(framework, specs, tmp_path) == {}


@pytest.mark.parametrize(
    ("framework", "family"),
    rest_in_zoo(
        [(framework, family) for framework in WRITERS for family in FAMILIES],
        (),
        [("torch", family) for family in FAMILIES],
    ),
)
def test_every_preset_is_the_proved_network(framework: str, family: str, tmp_path: Path) -> None:
    """As a miniature; of those that are one network, the first."""
    pytest.importorskip(framework)
    specs = [small(name, shallow=framework == "flax") for name in list_presets()]
    different = {function_of(spec): spec for spec in reversed(specs)}.values()
    chosen = [spec for spec in different if spec.name.startswith(f"{family}/")]
    assert wrong(framework, chosen, tmp_path) == {}


# What a file says -> what a careless one would, and the preset that has it.
MISTAKES = {
    "eps": ("torchvision/resnet18", "eps=1e-5", "eps=1e-3"),
    "momentum": ("torchvision/resnet50", "momentum=0.1", "momentum=0.9"),
    "SAME": (
        "flax/resnet50",
        "= SameConv2d(width, width, 3, ",
        "= nn.Conv2d(width, width, 3, padding=1, ",
    ),
    "running variance": ("keras/resnet50", "partial(BiasedBatchNorm2d,", "partial(nn.BatchNorm2d,"),
    "zeros": ("cifar/preresnet20", "(0, zeros)", "(zeros // 2, zeros - zeros // 2)"),
    "pool": ("keras/resnet50v2", "nn.ZeroPad2d(1)", "nn.ConstantPad2d(1, float('-inf'))"),
    "standardisation": ("bit/r50x1", "correction=0", "correction=1"),
}


def test_mistakes_are_seen(tmp_path: Path) -> None:
    pytest.importorskip("torch")

    def careless(spec: ResNetSpec, framework: str) -> str:
        right, wrong = next(m[1:] for m in MISTAKES.values() if m[0] == spec.name)
        text = source(spec, framework)
        assert right in text
        return text.replace(right, wrong)

    specs = [small(preset) for preset, _, _ in MISTAKES.values()]
    found = errors("torch", specs, tmp_path, careless)
    assert len(found) == len(MISTAKES)
    assert {name: error for name, error in found.items() if error < 1e-5} == {}


@pytest.mark.parametrize("name", rest_in_zoo(list_presets(), CLASSIC))
@pytest.mark.parametrize("framework", WRITERS)
def test_the_text(framework: str, name: str) -> None:
    """It is as `ruff format` leaves it, has nothing unused, and imports nothing of ours."""
    text = source(get_spec(name), framework)
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)]
    froms = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    modules = {alias.name for node in imports for alias in node.names}
    modules |= {node.module or "" for node in froms}
    assert {module.partition(".")[0] for module in modules} <= ALLOWED[framework]
    assert ruff("format", text).stdout == text
    checked = ruff("check", text, "--select", "E,F,W,B,UP,I,C4,SIM")
    assert checked.returncode == 0, checked.stdout
    if name in CLASSIC:
        assert len(text.splitlines()) <= MOST_LINES


def ruff(command: str, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("ruff", path=Path(sys.executable).parent) or shutil.which("ruff")
    if program is None:
        pytest.skip("ruff is not installed")
    line = [program, command, "--isolated", "--line-length", "100", *options, "-"]
    return subprocess.run(line, input=text, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.parametrize("name", rest_in_zoo(list_presets(), CLASSIC))
def test_the_tensors_at_full_size(name: str) -> None:
    torch = pytest.importorskip("torch")
    names: dict[str, Any] = {}
    with torch.device("meta"):
        exec(source(get_spec(name), "torch"), names)  # noqa: S102 - our own text
        state = names["ResNet"]().state_dict()
    found = {n: tuple(t.shape) for n, t in state.items() if not n.endswith("num_batches_tracked")}
    assert found == make_plan(get_spec(name)).tensors


def test_what_is_set_is_written() -> None:
    text = source(get_spec("cifar/resnet20", num_classes=100, norm_eps=1e-3), "torch")
    assert "nn.Linear(64, 100)" in text
    assert "eps=0.001" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dilate": (False, False, True, True), "anti_alias": "blur"}, "dilate together"),
        ({"weight_std_eps": 1e-8, "block.padding": "same"}, "weight_std_eps together"),
        ({"dilate": (False, False, True, True), "shortcut.pool": "avg"}, "dilate together"),
        ({"norm.folded": True}, "norm.folded set"),
    ],
    ids=["blur", "standardised", "average", "folded"],
)
def test_what_cannot_be_written_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        source(get_spec("resnet50").replace(**changes), "torch")


def test_an_unknown_framework_is_refused() -> None:
    with pytest.raises(SpecError, match="unknown framework 'pytorch'"):
        source(get_spec("resnet50"), "pytorch")
