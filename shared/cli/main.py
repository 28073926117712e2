"""The `rosetta` command. Exit codes: 0 all good, 1 the answer is no, 2 it could not run or has a
bug, 130 interrupted, 141 the reader of its output has gone.

A person gets tables and progress; a program gets `--json FILE`, where `-` is standard output and
then nothing else is printed there. Frameworks are never imported here.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.architecture.plan import make_plan
from shared.architecture.presets import FAMILIES, get_preset, get_spec, list_presets
from shared.cli import checkpoints as cli_checkpoints
from shared.cli import training as cli_train
from shared.cli.options import (
    Batch,
    Checks,
    DType,
    Frameworks,
    Images,
    ImageSize,
    Json,
    Mini,
    Precision,
    Preset,
    Seed,
    Settings,
    TrainingSettings,
    Weights,
    canonical_weights,
    check_outputs,
    choose_frameworks,
    make_console,
    make_inputs,
    open_weights,
    parse_size,
    spec_of,
    write_json,
    write_text,
)
from shared.errors import RosettaError, SpecError

if TYPE_CHECKING:
    from shared.verification.trace import Trace

DEBUG = "ROSETTA_DEBUG"  # 1: show the traceback of what is no `RosettaError`
CLOSED_PIPE = 141  # what a shell shows of a program that SIGPIPE has ended

app = typer.Typer(
    name="rosetta",
    help="One ResNet in PyTorch, Keras and Flax, and the proof that it is the same function.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list")
def list_command(json_file: Json = None) -> None:
    """The presets by family, with parameters and multiply-adds."""
    check_outputs(json_file)
    plans = {name: make_plan(get_spec(name)) for name in list_presets()}
    write_json(
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
    from shared.cli.tables import Column, Table, giga

    table = Table(
        Column("preset"),
        Column("params", right=True),
        Column("MACs", right=True),
        Column("image", right=True),
        Column("classes", right=True),
    )
    for family, names in itertools.groupby(plans, key=lambda name: get_preset(name).family):
        table.section(FAMILIES[family].title)
        for name in names:
            plan, spec = plans[name], plans[name].spec
            table.row(
                name,
                f"{plan.params:,}",
                giga(plan.macs),
                str(spec.image_size),
                str(spec.num_classes),
            )
    console = make_console()
    console.print(table, soft_wrap=True)
    console.print(
        f"\n{len(plans)} presets; MACs are multiply-adds of one image. "
        "`rosetta show PRESET` prints a network layer by layer.",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def show(
    preset: Preset, settings: Settings = None, image_size: ImageSize = None, json_file: Json = None
) -> None:
    """The plan: every layer with its shape, parameters and multiply-adds."""
    spec = spec_of(preset, settings)
    plan = make_plan(spec, parse_size(image_size))
    check_outputs(json_file)
    write_json(
        json_file,
        {
            "name": spec.name,
            "spec": spec.to_dict(),
            "params": plan.params,
            "macs": plan.macs,
            "image_size": list(plan.image_size),
            "layers": [
                {
                    "name": row.name,
                    "op": row.op,
                    "output": list(row.output),
                    "params": row.params,
                    "macs": row.macs,
                }
                for row in plan.layers
            ],
            "tensors": {name: list(shape) for name, shape in plan.tensors.items()},
        },
    )
    if json_file != "-":
        from shared.cli.tables import plan_table

        console = make_console()
        console.print(plan_table(plan), soft_wrap=True)
        console.print(
            f"\ndefined by {get_preset(preset).source}",
            style="dim",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


@app.command()
def verify(
    context: typer.Context,
    presets: Annotated[
        list[str] | None,
        typer.Argument(help="Presets; without any, a small telling set.", metavar="PRESET"),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every preset, at full size.", metavar="")
    ] = False,
    framework: Frameworks = None,
    dtype: Precision = DType.float64,
    settings: Settings = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    seed: Seed = 0,
    weights: Weights = None,
    image: Images = None,
    mini: Mini = False,
    check: Checks = None,
    training: TrainingSettings = None,
    json_file: Json = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Also write the table as Markdown.", metavar="FILE")
    ] = None,
) -> None:
    """Build, carry the weights over, run, train, and compare every layer and step in every
    framework.
    """
    from shared.cli import report_verify as report
    from shared.frameworks.registry import installed
    from shared.frameworks.verify import DEFAULT_PRESETS, count_networks, verify

    started = time.perf_counter()
    if every and presets:
        raise SpecError("--all verifies every preset; name presets or say --all, not both")
    if every and weights:
        raise SpecError("--weights and --image belong to one preset; name it")
    checkpoint = open_weights(weights, presets, settings, mini) if weights and not every else None
    if checkpoint:
        names, specs = [checkpoint.preset or checkpoint.scheme.convention], [checkpoint.spec]
    else:
        names = list_presets() if every else presets or list(DEFAULT_PRESETS)
        specs = [spec_of(name, settings, mini) for name in names]
    chosen = choose_frameworks(framework, reference=True)
    check_outputs(json_file, markdown)
    canonical = canonical_weights(context, checkpoint) if checkpoint else None
    inputs = make_inputs(
        specs, names, dtype, seed, batch, image_size, canonical, image, weights, check, training
    )
    console, errors = make_console(json_file), make_console(stderr=True)
    verdicts = []
    with report.VerifyProgress(errors, total=count_networks(specs) * len(chosen)) as progress:
        for verdict in verify(specs, chosen, inputs, progress.step):
            verdicts.append(verdict)
            if markdown:  # after every network: a long run that is interrupted keeps what it found
                write_text(
                    markdown,
                    report.markdown_page(verdicts, inputs, shlex.join(["rosetta", *sys.argv[1:]])),
                )
            if len(specs) > 1 and not verdict.passed:
                report.print_failure(errors, verdict)
    comparisons = [c for verdict in verdicts for c in verdict.comparisons]
    passed = all(verdict.passed for verdict in verdicts)
    environment = {k: v for verdict in verdicts for k, v in verdict.versions.items()}
    write_json(
        json_file,
        {
            "passed": passed,
            "environment": environment,
            "comparisons": [c.to_dict() for c in comparisons],
            "seconds": round(time.perf_counter() - started, 1),
            "peak_bytes": {
                s.framework: max(
                    t.peak_bytes for w in verdicts for t in w.steps if t.framework == s.framework
                )
                for v in verdicts
                for s in v.steps
            },
            "failures": {v.spec.name: v.failure for v in verdicts if v.failure},
        },
    )
    if len(verdicts) == 1:
        console.print(report.setting(verdicts[0], inputs), soft_wrap=True)
        console.print()
        console.print(report.comparison_table(comparisons), soft_wrap=True)
        report.print_failures(console, comparisons)
    else:
        console.print(report.verdict_table(verdicts), soft_wrap=True)
    console.print()
    console.print(report.conclusion(verdicts, time.perf_counter() - started), soft_wrap=True)
    absent = (
        [name for name in ("torch", "keras", "flax") if name not in installed()]
        if not framework
        else []
    )
    if absent:
        console.print(f"  not installed, so not compared: {', '.join(absent)}", style="yellow")
    raise typer.Exit(0 if passed else 1)


@app.command()
def trace(
    context: typer.Context,
    preset: Preset,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the trace goes.", metavar="FILE")
    ],
    framework: Annotated[
        str,
        typer.Option(
            help="torch, keras, keras:tensorflow, keras:jax, keras:torch, flax or reference.",
            metavar="NAME",
        ),
    ] = "torch",
    dtype: Precision = DType.float64,
    settings: Settings = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    seed: Seed = 0,
    weights: Weights = None,
    image: Images = None,
    mini: Mini = False,
    check: Checks = None,
    training: TrainingSettings = None,
) -> None:
    """What one framework computes, layer by layer and step by step, in a file that `rosetta
    compare` reads.
    """
    from shared.cli import report_verify as report
    from shared.frameworks.registry import get_framework
    from shared.frameworks.verify import take_trace
    from shared.verification.trace import Trace

    checkpoint = open_weights(weights, [preset], settings, mini) if weights else None
    spec = checkpoint.spec if checkpoint else spec_of(preset, settings, mini)
    chosen = get_framework(framework).name
    check_outputs(None, output)
    canonical = canonical_weights(context, checkpoint) if checkpoint else None
    inputs = make_inputs(
        [spec], [preset], dtype, seed, batch, image_size, canonical, image, weights, check, training
    )
    errors = make_console(stderr=True)
    with report.VerifyProgress(errors, total=1) as progress:
        step = take_trace(spec, chosen, inputs, output)
        progress.step(step)
    found = Trace.load(output)
    report.print_line(
        make_console(),
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
    from shared.cli import report_verify as report
    from shared.verification.comparison import compare
    from shared.verification.trace import Trace

    if len(files) < 2:
        raise SpecError("a comparison needs two traces; `rosetta trace` writes them")
    check_outputs(json_file)
    traces = [Trace.load(file) for file in files]
    frameworks = [trace.framework for trace in traces]
    for trace, file in zip(traces, files, strict=True):
        if frameworks.count(trace.framework) > 1:
            trace.framework += f" ({file})"
    comparisons = [
        compare(a, b, check=check)
        for a, b in itertools.combinations(traces, 2)
        for check in _common_checks(a, b)
    ]
    passed = all(c.passed for c in comparisons)
    environment = {k: v for t in traces for k, v in t.versions.items()}
    write_json(
        json_file,
        {
            "passed": passed,
            "environment": environment,
            "comparisons": [c.to_dict() for c in comparisons],
        },
    )
    console = make_console(json_file)
    if layers:
        for comparison in comparisons:
            console.print(report.layer_table(comparison), soft_wrap=True)
            console.print()
    console.print(report.comparison_table(comparisons), soft_wrap=True)
    report.print_failures(console, comparisons)
    raise typer.Exit(0 if passed else 1)


def _common_checks(a: Trace, b: Trace) -> list[str]:
    from shared.verification.comparison import checks_of

    common = [check for check in checks_of(a) if check in checks_of(b)]
    if not common:
        said = [
            f"{trace.framework} has {', '.join(checks_of(trace)) or 'nothing'}" for trace in (a, b)
        ]
        raise SpecError(f"the traces have no check in common: {' and '.join(said)}")
    return common


app.command()(cli_checkpoints.inspect)
app.command()(cli_checkpoints.convert)
app.command()(cli_checkpoints.predict)
app.command()(cli_train.recipes)
app.command()(cli_train.train)
app.command()(cli_train.evaluate)
app.command()(cli_train.curves)


def main() -> None:
    """Entry point: whatever goes wrong becomes one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ✓ gets a question mark
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="rosetta", standalone_mode=False)
        sys.stdout.flush()
    except RosettaError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except (BrokenPipeError, SystemExit):  # SystemExit is what Typer and Rich make of the former
        _discard_output()
        sys.exit(CLOSED_PIPE)
    except Exception as error:  # noqa: BLE001 - exit code 1 would say that the answer is no
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exc()
        _fail(_unexpected(error))
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _unexpected(error: Exception) -> str:
    """One line for an error that is not our own."""
    usage = getattr(error, "format_message", None)  # click's errors, which typer has a copy of
    if usage is not None:
        context = getattr(error, "ctx", None)
        return (
            f"{usage().rstrip('.?')}; see {context.command_path if context else 'rosetta'} --help"
        )
    if isinstance(error, OSError):  # of the machine: a full disk, a folder that is gone
        _discard_output()
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, MemoryError):
        return "out of memory"
    said = str(error)[:300]
    name = type(error).__name__ + (f": {said}" if said else "")
    return f"{name}; this is a bug, set {DEBUG}=1 for the traceback"


def _discard_output() -> None:
    """Let nothing that is still buffered be written when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is no file of the system
        output = sys.stdout.fileno()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), output)


def _fail(message: str, code: int = 2) -> None:
    """Print one line, whatever the names in a third-party file hold, and end."""
    line = " ".join(message.split())
    with contextlib.suppress(OSError):
        print("rosetta: " + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
