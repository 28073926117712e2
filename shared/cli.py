"""The `rosetta` command. Exit codes: 0 all good, 1 the answer is no, 2 it could not run.

A person gets tables and progress; a program gets `--json FILE`, where `-` is standard output and
then nothing else is printed there. Frameworks are never imported here.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.errors import FrameworkError, RosettaError, SpecError
from shared.plan import make_plan
from shared.presets import FAMILIES, get_preset, get_spec, list_presets, miniature
from shared.spec import ResNetSpec, parse_setting

if TYPE_CHECKING:
    from shared.verify import Inputs

NO_TERMINAL_WIDTH = 1000  # of a file or pipe: enough for every table to be whole

app = typer.Typer(
    name="rosetta",
    help="One ResNet in PyTorch, Keras and Flax, and the proof that it is the same function.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class DType(StrEnum):
    """The precision of weights, images and arithmetic."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Preset = Annotated[str, typer.Argument(help="A preset, such as resnet50 or keras/resnet50v2.", metavar="PRESET")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a spec field, as in num_classes=10; may be repeated.", metavar="KEY=VALUE"),
]
ImageSize = Annotated[str | None, typer.Option(help="Pixels: a side, or HEIGHTxWIDTH.", metavar="N")]
Json = Annotated[str | None, typer.Option("--json", help="Also write JSON; - is standard output.", metavar="FILE")]
Precision = Annotated[DType, typer.Option(help="Precision of weights, images and arithmetic: float64, float32, "
                                               "bfloat16 or float16.", metavar="DTYPE")]  # fmt: skip
Batch = Annotated[int | None, typer.Option(help="Random images in a batch, 2 unless given.", min=1, max=1024,
                                           metavar="N")]  # fmt: skip
Seed = Annotated[int, typer.Option(help="Of probe weights and random images.", min=0, metavar="N")]
Weights = Annotated[Path | None, typer.Option(help="Canonical weights instead of probe weights.", metavar="FILE")]
Images = Annotated[
    list[Path] | None,
    typer.Option("--image", help="A photograph instead of random images; may be repeated.", metavar="FILE"),
]
# An empty metavar, here and below: a flag takes no value, and the help need not say that it is a bool.
Mini = Annotated[bool, typer.Option("--miniature", help="The same structure, shallow and narrow.", metavar="")]


@app.command("list")
def list_command(json_file: Json = None) -> None:
    """The presets by family, with parameters and multiply-adds."""
    _check_outputs(json_file)
    plans = {name: make_plan(get_spec(name)) for name in list_presets()}
    _write_json(
        json_file,
        [
            {
                "name": name,
                "family": get_preset(name).family,
                "params": plan.params,
                "macs": plan.macs,
                "image_size": plan.spec.image_size,
                "num_classes": plan.spec.num_classes,
            }
            for name, plan in plans.items()
        ],
    )
    if json_file == "-":
        return
    from shared.tables import Column, Table, giga

    table = Table(
        Column("preset"), Column("params", right=True), Column("MACs", right=True), Column("image", right=True),
        Column("classes", right=True),
    )  # fmt: skip
    for family, names in itertools.groupby(plans, key=lambda name: get_preset(name).family):
        table.section(FAMILIES[family].title)
        for name in names:
            plan, spec = plans[name], plans[name].spec
            table.row(name, f"{plan.params:,}", giga(plan.macs), str(spec.image_size), str(spec.num_classes))
    console = _console()
    console.print(table, soft_wrap=True)
    console.print(
        f"\n{len(plans)} presets; MACs are multiply-adds of one image. "
        "`rosetta show PRESET` prints a network layer by layer.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


@app.command()
def show(preset: Preset, settings: Settings = None, image_size: ImageSize = None, json_file: Json = None) -> None:
    """The plan: every layer with its shape, parameters and multiply-adds."""
    spec = _spec(preset, settings)
    plan = make_plan(spec, _parse_size(image_size))
    _check_outputs(json_file)
    _write_json(
        json_file,
        {
            "name": spec.name,
            "spec": spec.to_dict(),
            "params": plan.params,
            "macs": plan.macs,
            "image_size": list(plan.image_size),
            "layers": [
                {"name": row.name, "op": row.op, "output": list(row.output), "params": row.params, "macs": row.macs}
                for row in plan.layers
            ],
            "tensors": {name: list(shape) for name, shape in plan.tensors.items()},
        },
    )
    if json_file != "-":
        from shared.tables import plan_table

        console = _console()
        console.print(plan_table(plan), soft_wrap=True)
        console.print(f"\ndefined by {get_preset(preset).source}", style="dim", highlight=False, markup=False,
                      soft_wrap=True)  # fmt: skip


@app.command()
def verify(
    presets: Annotated[list[str] | None, typer.Argument(help="Presets; without any, a small telling set.",
                                                        metavar="PRESET")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every preset, at full size.", metavar="")] = False,
    framework: Annotated[list[str] | None, typer.Option(help="torch, keras, keras:tensorflow, keras:jax, keras:torch, "
                         "flax or reference, with commas or repeated; all that are installed unless given.",
                         metavar="NAME")] = None,
    dtype: Precision = DType.float64,
    settings: Settings = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    seed: Seed = 0,
    weights: Weights = None,
    image: Images = None,
    mini: Mini = False,
    json_file: Json = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the table as Markdown.", metavar="FILE")] = None,
) -> None:  # fmt: skip
    """Build, carry the weights over, run and compare every layer in every framework."""
    from shared import report
    from shared.frameworks import get_framework, installed
    from shared.verify import TELLING, count_networks, verify

    started = time.perf_counter()
    if every and presets:
        raise SpecError("--all verifies every preset; name presets or say --all, not both")
    names = list_presets() if every else presets or list(TELLING)
    specs = [_spec(name, settings, mini) for name in names]
    asked = [name.strip() for text in framework or installed() for name in text.split(",")]
    chosen = list(dict.fromkeys(get_framework(name).name for name in asked))
    if not framework and chosen == ["reference"]:
        raise FrameworkError("no framework is installed to compare; pip install 'resnet-rosetta[torch]', [keras], "
                             "[flax] or [all]")  # fmt: skip
    _check_outputs(json_file, markdown)
    inputs = _inputs(specs, names, dtype, seed, batch, image_size, weights, image)
    console, errors = _console(json_file), _console(stderr=True)
    verdicts = []
    with report.VerifyProgress(errors, total=count_networks(specs) * len(chosen)) as progress:
        for verdict in verify(specs, chosen, inputs, progress.step):
            verdicts.append(verdict)
            if markdown:  # after every network: a long run that is interrupted keeps what it found
                _write_text(markdown, report.markdown_page(verdicts, inputs, shlex.join(["rosetta", *sys.argv[1:]])))
            if len(specs) > 1 and not verdict.passed:
                report.print_failure(errors, verdict)
    comparisons = [c for verdict in verdicts for c in verdict.comparisons]
    passed = all(verdict.passed for verdict in verdicts)
    environment = {k: v for verdict in verdicts for k, v in verdict.versions.items()}
    _write_json(json_file, {
        "passed": passed,
        "environment": environment,
        "comparisons": [c.to_dict() for c in comparisons],
        "seconds": round(time.perf_counter() - started, 1),
        "peak_bytes": {s.framework: max(t.peak_bytes for w in verdicts for t in w.steps if t.framework == s.framework)
                       for v in verdicts for s in v.steps},
        "failures": {v.spec.name: v.failure for v in verdicts if v.failure},
    })  # fmt: skip
    if len(verdicts) == 1:
        console.print(report.setting(verdicts[0], inputs), soft_wrap=True)
        console.print()
        console.print(report.comparison_table(comparisons), soft_wrap=True)
        report.print_failures(console, comparisons)
    else:
        console.print(report.verdict_table(verdicts), soft_wrap=True)
    console.print()
    console.print(report.conclusion(verdicts, time.perf_counter() - started), soft_wrap=True)
    absent = [name for name in ("torch", "keras", "flax") if name not in installed()] if not framework else []
    if absent:
        console.print(f"  not installed, so not compared: {', '.join(absent)}", style="yellow")
    raise typer.Exit(0 if passed else 1)


@app.command()
def trace(
    preset: Preset,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the trace goes.", metavar="FILE")],
    framework: Annotated[str, typer.Option(help="torch, keras, keras:tensorflow, keras:jax, keras:torch, flax "
                                                "or reference.", metavar="NAME")] = "torch",
    dtype: Precision = DType.float64,
    settings: Settings = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    seed: Seed = 0,
    weights: Weights = None,
    image: Images = None,
    mini: Mini = False,
) -> None:  # fmt: skip
    """One framework's activations, layer by layer, in a file that `rosetta compare` reads."""
    from shared import report
    from shared.frameworks import get_framework
    from shared.trace import Trace
    from shared.verify import take_trace

    spec = _spec(preset, settings, mini)
    chosen = get_framework(framework).name
    _check_outputs(None, output)
    inputs = _inputs([spec], [preset], dtype, seed, batch, image_size, weights, image)
    errors = _console(stderr=True)
    with report.VerifyProgress(errors, total=1) as progress:
        step = take_trace(spec, chosen, inputs, output)
        progress.step(step)
    found = Trace.load(output)
    report.print_line(
        _console(),
        f"{output}: {len(found.names)} tensors of {spec.name} in {found.framework}, {found.dtype}; "
        f"{step.seconds:.1f} s, {step.peak_bytes / 2**30:.1f} GiB",
    )


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Two traces or more.", metavar="FILE")],
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer.", metavar="")] = False,
    json_file: Json = None,
) -> None:
    """Traces against each other, each with every other one."""
    from shared import report
    from shared.comparison import compare
    from shared.trace import Trace

    if len(files) < 2:
        raise SpecError("a comparison needs two traces; `rosetta trace` writes them")
    _check_outputs(json_file)
    traces = [Trace.load(file) for file in files]
    frameworks = [trace.framework for trace in traces]
    for trace, file in zip(traces, files, strict=True):
        if frameworks.count(trace.framework) > 1:
            trace.framework += f" ({file})"
    comparisons = [compare(a, b) for a, b in itertools.combinations(traces, 2)]
    passed = all(c.passed for c in comparisons)
    environment = {k: v for t in traces for k, v in t.versions.items()}
    _write_json(json_file, {
        "passed": passed,
        "environment": environment,
        "comparisons": [c.to_dict() for c in comparisons],
    })  # fmt: skip
    console = _console(json_file)
    if layers:
        for comparison in comparisons:
            console.print(report.layer_table(comparison), soft_wrap=True)
            console.print()
    console.print(report.comparison_table(comparisons), soft_wrap=True)
    report.print_failures(console, comparisons)
    raise typer.Exit(0 if passed else 1)


def _spec(preset: str, settings: Sequence[str] | None, mini: bool = False) -> ResNetSpec:
    spec = get_spec(preset)
    spec = miniature(spec) if mini else spec
    changes = dict(parse_setting(text) for text in settings or ())
    return spec.replace(**changes) if changes else spec


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 10 for side in sides):
        raise SpecError(f"--image-size {text!r} is neither a number of pixels nor HEIGHTxWIDTH")
    return int(sides[0]), int(sides[-1])


def _inputs(
    specs: Sequence[ResNetSpec],
    names: Sequence[str],
    dtype: DType,
    seed: int,
    batch: int | None,
    image_size: str | None,
    weights: Path | None,
    image: Sequence[Path] | None,
) -> Inputs:
    """Check and read what the user gave, before any framework starts."""
    from shared.verify import BATCH, Inputs
    from shared.weights import read_weights

    size = _parse_size(image_size)
    if (weights or image) and len(specs) > 1:
        raise SpecError("--weights and --image belong to one preset; name it")
    for spec in specs:
        make_plan(spec, size)
    if weights:
        read_weights(weights, specs[0])
    images = None
    if image:
        from shared.images import load_images

        if batch is not None:
            raise SpecError("--batch is for random images; the photographs given with --image are the batch")
        if size is not None and size[0] != size[1]:
            raise SpecError("--image-size must be one side with --image: photographs are cropped to squares")
        images = load_images(image, specs[0], get_preset(names[0]).preprocessing, size[0] if size else None)
    return Inputs(dtype.value, seed, batch or BATCH, size, weights, images)


def _console(json_file: str | None = None, *, stderr: bool = False) -> Any:
    """Where tables go; nowhere when standard output belongs to JSON."""
    from rich.console import Console

    console = Console(stderr=stderr, quiet=json_file == "-")
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = NO_TERMINAL_WIDTH
    return console


def _check_outputs(*paths: str | Path | None) -> None:
    """Refuse a place that cannot be written before the work starts, not after it."""
    for path in paths:
        if path is not None and str(path) != "-":
            from shared.files import replacing_is_possible

            replacing_is_possible(path)


def _write_json(path: str | None, data: Mapping[str, Any] | Sequence[Any]) -> None:
    if path is None:
        return
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        _write_text(Path(path), text)


def _write_text(path: Path, text: str) -> None:
    from shared.files import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Entry point: errors become one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ✓ gets a question mark
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="rosetta", standalone_mode=False)
    except RosettaError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's errors, which typer carries a copy of
        if usage is None:
            raise
        context = getattr(error, "ctx", None)
        _fail(f"{usage().rstrip('.?')}; see {context.command_path if context else 'rosetta'} --help")
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = 2) -> None:
    """Print one line, whatever the names in somebody's file hold, and end."""
    line = " ".join(message.split())
    print("rosetta: " + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
