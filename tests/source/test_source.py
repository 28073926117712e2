"""Every file of `rosetta source` is the proved network, in its output and in a training step."""

from __future__ import annotations

import ast
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shared import (
    ResNetSpec,
    SpecError,
    get_spec,
    list_presets,
    make_plan,
    miniature,
    probe_weights,
)
from shared.source.write import WRITERS, source
from tests.probes import function_of
from tests.source.bare import errors, run
from tests.zoo import in_zoo, rest_in_zoo

LIMIT = 1e-12  # of outputs and of tensors after a step
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
    "keras": ("keras/resnet50v2", "cifar/preresnet20"),
    "flax": ("cifar/preresnet20",),
}


# Fields that few presets have; of dropout the rate is taken out of the file, or it would draw.
FEW: dict[str, dict[str, Any]] = {
    "affine": {"stem.input_norm": "affine", "norm.running_var": "biased"},
    "shift": {"stem.input_norm": "shift", "stem.pool": "max", "stem.pool_padding": "valid"},
    "always": {"shortcut.preact": "always", "block.first_preact": False, "stem.norm_act": True},
    "preact": {"shortcut.preact": "always", "norm.eps": 2e-5},
    "dropout": {"block.dropout": 0.25},
    "dropout, V1": {"block.dropout": 0.25, "block.order": "post", "head.final": "none"},
}


# Files with a layer of their own, or of an order that a compiler may take for another.
TOOLED = (
    "flax/resnet50",
    "timm/resnetblur50",
    "bit/r50x1",
    "cifar/preresnet20",
    "ablation/resnet110_exclusive_gate_b0",
)
# Over which the networks are spread: starting a framework takes long, too.
PROCESSES = {"torch": 1, "keras": 3, "flax": 4}
SHARES = [(framework, k) for framework, n in PROCESSES.items() for k in range(n)]


def small(name: str) -> ResNetSpec:
    """The first and the last stage of a miniature, with every kind of block; dropout would draw, so
    nothing is dropped.
    """
    full = get_spec(name)
    # A stage whose last block strides has three kinds: first, inner, last.
    most = 3 if full.block.stride_block == "last" else 2
    (first, *_, last), strides = full.depths, full.strides
    spec = miniature(full).replace(
        depths=(min(first, most), min(last, most)), strides=(strides[0], strides[-1])
    )
    return spec.replace(shortcut_dropout=0.0) if spec.shortcut.join == "dropout" else spec


def without_chance(spec: ResNetSpec, framework: str) -> str:
    """The file, whose dropout between convolutions keeps every value: it would draw."""
    rate = spec.block.dropout
    text = source(spec, framework)
    assert not rate or f"Dropout({rate}" in text
    return text.replace(f"Dropout({rate}", "Dropout(0.0") if rate else text


def wrong(
    framework: str, specs: list[ResNetSpec], folder: Path, tools: Sequence[str] = ()
) -> dict[str, float]:
    """The networks whose file is another function, and the largest error of each."""
    own = {spec.name: spec for spec in specs}
    still = [spec.replace(**{"block.dropout": 0.0}) for spec in specs]

    def write(spec: ResNetSpec, framework: str) -> str:
        return without_chance(own[spec.name], framework)

    found = errors(framework, still, folder, write, tools=tools)
    assert found.keys() == {spec.name for spec in specs}
    return {name: error for name, error in found.items() if not error < LIMIT}


@pytest.mark.parametrize(("framework", "names"), SAMPLE.items())
def test_a_sample_is_the_proved_networks(
    framework: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    pytest.importorskip(framework)
    specs = [small(name) for name in names]
    specs += with_few_fields() if framework == "torch" else []
    assert wrong(framework, specs, tmp_path) == {}


def with_few_fields() -> list[ResNetSpec]:
    base = small("tf/cifar_resnet20_v2")
    return [base.replace(name=name, **changes) for name, changes in FEW.items()]


@pytest.mark.parametrize("framework", [in_zoo("keras"), in_zoo("flax")])
def test_fields_that_few_have(framework: str, tmp_path: Path) -> None:
    """In PyTorch they are a part of the sample."""
    pytest.importorskip(framework)
    assert wrong(framework, with_few_fields(), tmp_path) == {}


@pytest.mark.parametrize("framework", [in_zoo(framework) for framework in WRITERS])
def test_the_frameworks_own_tools_take_the_files(framework: str, tmp_path: Path) -> None:
    """PyTorch's compiler and exporter; Keras' files, also in a process of their own; JAX' jit."""
    pytest.importorskip(framework)
    specs = [small(name) for name in TOOLED]
    assert wrong(framework, specs, tmp_path, tools=TOOLED) == {}
    if framework == "keras":
        run("bare_keras_file.py", "keras", [tmp_path / str(k) for k in range(len(specs))])


@pytest.mark.parametrize(
    ("framework", "share"),
    rest_in_zoo(SHARES, (), [(f, k) for f, k in SHARES if f != "flax" or k % 2 == 0]),
)
def test_every_preset_is_the_proved_network(framework: str, share: int, tmp_path: Path) -> None:
    """As a miniature; of those that are one network then, the first."""
    pytest.importorskip(framework)
    specs = [small(name) for name in list_presets()]
    different = list({function_of(spec): spec for spec in reversed(specs)}.values())
    assert wrong(framework, different[share :: PROCESSES[framework]], tmp_path) == {}


DEEP = """
import sys
text = open("network.py").read()
line = next(line for line in text.splitlines() if "setrecursionlimit" in line)
for without in (text.replace(line, "    pass"), text):
    names = {}
    exec(without, names)
    try:
        print(names["ResNet"]().count_params())
    except RecursionError:
        print("too deep")
"""


@pytest.mark.zoo
def test_a_deep_network_in_keras(tmp_path: Path) -> None:
    """Keras takes more frames than Python has, for as many blocks as those of ResNet-1202."""
    pytest.importorskip("keras")
    spec = small("cifar/resnet20").replace(depths=(600, 1))
    (tmp_path / "network.py").write_text(source(spec, "keras"), "utf-8")
    line = [sys.executable, "-c", DEEP]
    run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    variables = sum(math.prod(shape) for shape in make_plan(spec).tensors.values())
    assert run.stdout.split("\n")[-3:-1] == ["too deep", str(variables)]


@pytest.mark.parametrize("name", rest_in_zoo(list_presets(), ALL_KINDS))
@pytest.mark.parametrize("framework", WRITERS)
def test_a_file_is_that_of_its_miniature_but_for_numbers(framework: str, name: str) -> None:
    """What is proved of a miniature, in this file, is proved of the file of the preset."""
    assert skeleton(source(get_spec(name), framework)) == skeleton(source(small(name), framework))


def skeleton(text: str) -> list[str]:
    """The lines of a file, each once: without docstrings and numbers, and with one block for each
    run of them.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            del node.body[0]
    code = ast.unparse(_WithoutNumbers().visit(tree))
    code = re.sub(r"stages\.\d+\.blocks\.(\d+|\{j\})", "stages.i.blocks.j", code)
    code = code.replace("0 * width", "width")  # a factor of 1 is not written
    code = re.sub(r"import sys|sys\.setrecursionlimit.*", "", code)  # by the number of layers
    lines = code.replace("Stage(", "\nStage(").splitlines()
    return list(dict.fromkeys(line.strip(" ,)]") for line in lines if line.strip()))


class _WithoutNumbers(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        known = isinstance(node.value, str | bool | None)
        return node if known else ast.Constant(0)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Constant:
        return ast.Constant(ast.unparse(node)[2:-1])

    def visit_Starred(self, node: ast.Starred) -> ast.AST:
        if isinstance(node.value, ast.GeneratorExp):  # *(Block(…) for _ in range(n))
            return self.visit(node.value.elt)
        return self.generic_visit(node)

    def visit_For(self, node: ast.For) -> list[ast.stmt] | ast.AST:
        if isinstance(node.target, ast.Name) and node.target.id == "j":  # blocks of a stage
            return [self.visit(statement) for statement in node.body]
        return self.generic_visit(node)


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
    assert program, "ruff is not installed; it is one of the extra `test`"
    line = [program, command, "--isolated", "--line-length", "100", *options, "-"]
    return subprocess.run(line, input=text, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.parametrize("framework", [in_zoo("keras"), "flax"])
def test_weights_of_another_network_are_refused(framework: str) -> None:
    """`load_state_dict` refuses them. A deeper network has every tensor of these files."""
    pytest.importorskip(framework)
    names: dict[str, Any] = {}
    spec = small("cifar/resnet20").replace(depths=(1, 1))
    exec(source(spec, framework), names)  # noqa: S102 - our own text
    arguments = {"rngs": names["nnx"].Rngs(0)} if framework == "flax" else {}
    model = names["ResNet"](**arguments)
    names["load_weights"](model, probe_weights(spec))
    with pytest.raises(ValueError, match="weights of another network"):
        names["load_weights"](model, probe_weights(spec.replace(depths=(1, 2))))


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
