"""Options and helpers that the commands share: specs, sizes, outputs, consoles."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.architecture.plan import make_plan
from shared.architecture.presets import get_preset, get_spec, miniature
from shared.architecture.spec import ResNetSpec, parse_setting
from shared.errors import FrameworkError, SpecError

if TYPE_CHECKING:
    from shared.formats.checkpoint import Checkpoint
    from shared.frameworks.inputs import Inputs
    from shared.reports.page import Page
    from shared.training.config import Training
    from shared.verification.comparison import Comparison

NO_TERMINAL_WIDTH = 1000  # of a file or pipe: enough for every table to be whole


class DType(StrEnum):
    """The precision of weights, images and arithmetic."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Preset = Annotated[
    str, typer.Argument(help="A preset, such as resnet50 or keras/resnet50v2.", metavar="PRESET")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a field of the spec, as in num_classes=10; may be repeated.",
        metavar="KEY=VALUE",
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--from", help="Format of the file; detected unless given.", metavar="FORMAT"),
]
WhichPreset = Annotated[
    str | None,
    typer.Option("--preset", help="The network, where the file does not say it.", metavar="PRESET"),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        help="Pixels: a side, or HEIGHTxWIDTH; the network's usual size unless given.", metavar="N"
    ),
]
Json = Annotated[
    str | None,
    typer.Option("--json", help="Also write JSON; - is standard output.", metavar="FILE"),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option(
        "--html", help="Also write one page for a browser, which needs no network.", metavar="FILE"
    ),
]
MarkdownFile = Annotated[
    Path | None, typer.Option("--markdown", help="Also write Markdown.", metavar="FILE")
]
ModelExplorer = Annotated[
    Path | None,
    typer.Option(
        "--model-explorer",
        help="Also write node data for Google's Model Explorer: the errors, by layer, on the graph "
        "that `rosetta show PRESET --model-explorer FILE` writes.",
        metavar="FILE",
    ),
]
Precision = Annotated[
    DType,
    typer.Option(
        help="Precision of weights, images and arithmetic: float64, float32, bfloat16 or float16.",
        metavar="DTYPE",
    ),
]
Frameworks = Annotated[
    list[str] | None,
    typer.Option(
        "--framework",
        help="torch, keras, keras:tensorflow, keras:jax, keras:torch, flax or reference, with "
        "commas or repeated; all that are installed unless given.",
        metavar="NAME",
    ),
]
Sides = Annotated[
    list[str] | None,
    typer.Option(
        "--framework",
        "--sides",
        help="torch, keras, keras:tensorflow, keras:jax, keras:torch, flax or reference; or what "
        "one exports, run by its own runtime: torch:export, torch:onnx, torch:openvino, "
        "keras:saved-model, keras:litert, flax:stablehlo. With commas or repeated; all frameworks "
        "that are installed unless given.",
        metavar="NAME",
    ),
]
Deployed = Annotated[
    bool,
    typer.Option(
        "--deployed",
        help="Run the network as each framework deploys it: batch norms folded, compiled.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Threads that decode images; for folders of images the cores but one, else none, "
        "unless given.",
        min=0,
        max=256,
        metavar="N",
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(help="Random images in a batch; 2 unless given.", min=1, max=1024, metavar="N"),
]
Seed = Annotated[
    int, typer.Option(help="Seed of the probe weights and random images.", min=0, metavar="N")
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint of any format instead of probe weights, or "
        "hf:REPO, torchvision:TAG, keras:imagenet or rosetta:RECIPE.",
        metavar="FILE",
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--image", help="A photograph instead of random images; may be repeated.", metavar="FILE"
    ),
]
Checks = Annotated[
    list[str] | None,
    typer.Option(
        "--check",
        help="What to record: eval, train, gradients or steps, with commas or repeated; all of "
        "them unless given (eval in half precision).",
        metavar="NAME",
    ),
]
TrainingSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--training",
        help="Change the training configuration, as in "
        "optimizer.kind=adamw or label_smoothing=0; may be repeated.",
        metavar="KEY=VALUE",
    ),
]
Take = Annotated[
    str | None,
    typer.Option(
        "--take",
        help="Which of several networks: its path, or a part that no other has.",
        metavar="PATH",
    ),
]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option(
        "--leave-out",
        help="Tensors that belong to no ResNet and may be left out; '*' is all.",
        metavar="GLOB",
    ),
]
# An empty metavar, here and below: a flag takes no value, and the help need not say that it is a
# bool.
Mini = Annotated[
    bool, typer.Option("--miniature", help="The same structure, few and narrow layers.", metavar="")
]


def spec_of(preset: str, settings: Sequence[str] | None, mini: bool = False) -> ResNetSpec:
    spec = get_spec(preset)
    spec = miniature(spec) if mini else spec
    changes = parse_settings(settings)
    return spec.replace(**changes) if changes else spec


def parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 10 for side in sides):
        raise SpecError(f"--image-size {text!r} is neither a number of pixels nor HEIGHTxWIDTH")
    return int(sides[0]), int(sides[-1])


def make_inputs(
    specs: Sequence[ResNetSpec],
    names: Sequence[str],
    dtype: DType,
    seed: int,
    batch: int | None,
    image_size: str | None,
    weights: Path | None,
    image: Sequence[Path] | None,
    weights_name: str | None = None,
    checks: Sequence[str] | None = None,
    training: Sequence[str] | None = None,
) -> Inputs:
    """Check and read what the user gave, before any framework starts.

    `weights` is a canonical file.
    """
    from shared.frameworks.inputs import BATCH, Inputs

    size = parse_size(image_size)
    if image and len(specs) > 1:
        raise SpecError("--weights and --image belong to one preset; name it")
    for spec in specs:
        make_plan(spec, size)
    images = None
    if image:
        from shared.images.photographs import load_images

        if batch is not None:
            raise SpecError(
                "--batch is for random images; the photographs given with --image are the batch"
            )
        images = load_images(image, specs[0], get_preset(names[0]).preprocessing, square(size))
    recorded = make_checks(dtype, checks, training)
    return Inputs(dtype.value, seed, batch or BATCH, size, weights, images, weights_name, *recorded)


def make_checks(
    dtype: DType, checks: Sequence[str] | None, settings: Sequence[str] | None
) -> tuple[tuple[str, ...], Training]:
    """What is recorded, and with which training configuration."""
    from shared.training.config import PROBE
    from shared.verification.recording import CHECKS, EVAL, require_known

    half = dtype in (DType.bfloat16, DType.float16)
    chosen = require_known(
        [name.strip() for text in checks for name in text.split(",")]
        if checks
        else [EVAL]
        if half
        else CHECKS
    )
    if half and chosen != (EVAL,):
        raise SpecError(
            f"--check {','.join(chosen)}: training is compared in float64 and float32, not in "
            f"{dtype.value}; say eval"
        )
    if settings and chosen == (EVAL,):
        raise SpecError(
            "--training changes what the checks train, gradients and steps do; name one of them "
            "with --check"
        )
    return chosen, PROBE.replace(parse_settings(settings))


def square(
    size: tuple[int, int] | None, why: str = "with --image: photographs are cropped to squares"
) -> int | None:
    """The side of a size that has to be square."""
    if size is not None and size[0] != size[1]:
        raise SpecError(f"--image-size must be one side {why}")
    return size[0] if size else None


def choose_frameworks(
    names: Sequence[str] | None, *, reference: bool, exported: bool = False
) -> list[str]:
    """The frameworks of `--framework`: with commas or repeated, `all` being those that are
    installed and, where wanted, the reference; and what they export, if it is `exported`.

    Raises `FrameworkError` where none is installed.
    """
    from shared.frameworks.registry import get_framework, installed

    asked = [name.strip() for text in names or ["all"] for name in text.split(",")]
    there = installed()
    if "all" in asked and there == ["reference"]:
        raise FrameworkError(
            "no framework is installed; pip install 'resnet-rosetta[torch]', [keras], [flax] or "
            "[all]"
        )
    every = there if reference else [name for name in there if name != "reference"]
    chosen = [one for name in asked for one in (every if name == "all" else [name])]
    found = [get_framework(name, exported=exported).name for name in chosen]
    return list(dict.fromkeys(found))


def parse_settings(settings: Sequence[str] | None) -> dict[str, Any]:
    """What `--set key=value`, repeated, asks for."""
    return dict(parse_setting(text) for text in settings or ())


def open_weights(
    text: str,
    presets: Sequence[str] | None,
    settings: Sequence[str] | None,
    mini: bool,
    take: str | None = None,
    leave_out: Sequence[str] | None = None,
) -> Checkpoint:
    """The checkpoint that `--weights` names, of the preset that is named, or of what it says
    itself.
    """
    from shared.cli.live import open_source

    if presets and len(presets) > 1:
        raise SpecError("--weights and --image belong to one preset; name it")
    preset = presets[0] if presets else None
    spec = spec_of(preset, settings, mini) if preset and mini else None
    return open_source(
        text, None, preset, parse_settings(settings), spec, take=take, leave_out=leave_out
    )


def canonical_weights(context: typer.Context, checkpoint: Checkpoint) -> Path:
    """The checkpoint as a canonical file, for as long as the command runs."""
    from shared.formats.convert import write_canonical

    folder = context.with_resource(tempfile.TemporaryDirectory(prefix="rosetta-"))
    return write_canonical(checkpoint, Path(folder) / "weights.safetensors")


def make_console(json_file: str | None = None, *, stderr: bool = False) -> Any:
    """Where tables go; nowhere when standard output belongs to JSON."""
    from rich.console import Console

    console = Console(stderr=stderr, quiet=json_file == "-")
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = NO_TERMINAL_WIDTH
    return console


def check_outputs(*paths: str | Path | None) -> None:
    """Refuse a place that cannot be written before the work starts, not after it."""
    for path in paths:
        if path is not None and str(path) != "-":
            from shared.weights.files import replacing_is_possible

            replacing_is_possible(path)


def write_json(path: str | None, data: Mapping[str, Any] | Sequence[Any]) -> None:
    if path is None:
        return
    if path == "-":
        sys.stdout.write(json_text(data))
    else:
        write_text(Path(path), json_text(data))


def write_node_data(path: Path | None, comparisons: Sequence[Comparison]) -> None:
    """Errors for Model Explorer, where a file is given for them."""
    if path is not None:
        from shared.reports.model_explorer import node_data

        write_text(path, json_text(node_data(comparisons)))


def json_text(data: Mapping[str, Any] | Sequence[Any]) -> str:
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def write_pages(page: Page, html: Path | None, markdown: Path | None = None) -> None:
    """Write the page in each form that a file is given for."""
    if html is not None:
        from shared.reports.html import html_page

        write_text(html, html_page(page))
    if markdown is not None:
        from shared.reports.markdown import markdown_page

        write_text(markdown, markdown_page(page))


def command_line() -> str:
    """What the user typed, as a shell would read it again."""
    return shlex.join(["rosetta", *sys.argv[1:]])


def write_text(path: Path, text: str) -> None:
    from shared.weights.files import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
