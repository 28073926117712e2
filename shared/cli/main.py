"""The `rosetta` command. Exit codes: 0 all good, 1 the answer is no, 2 it could not run or has a
bug, 130 interrupted, 141 the reader of its output has gone.

A person gets tables and progress; a program gets `--json FILE`, where `-` is standard output and
then nothing else is printed there. Frameworks are never imported here.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.architecture.plan import make_plan
from shared.architecture.presets import FAMILIES, get_preset, get_spec, list_presets
from shared.cli import checkpoints, export, identify, source, training, verify, why
from shared.cli.options import (
    ImageSize,
    Json,
    Preset,
    Settings,
    check_outputs,
    json_text,
    make_console,
    parse_size,
    spec_of,
    write_json,
    write_text,
)
from shared.errors import RosettaError

DEBUG = "ROSETTA_DEBUG"  # 1: show the traceback of what is no `RosettaError`
CLOSED_PIPE = 141  # what a shell shows of a program that SIGPIPE has ended

app = typer.Typer(
    name="rosetta",
    help="One ResNet in PyTorch, Keras and Flax, and the proof that it is the same function.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            version = metadata.version("resnet-rosetta")
        except metadata.PackageNotFoundError:  # run from a source tree
            version = "without a version: not installed"
        print(f"rosetta {version}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
            metavar="",
        ),
    ] = False,
) -> None:
    """One ResNet in PyTorch, Keras and Flax, and the proof that it is the same function."""


@app.command("list", rich_help_panel="Networks")
def list_command(json_file: Json = None) -> None:
    """List the presets by family, with parameters and multiply-adds."""
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


@app.command(rich_help_panel="Networks")
def show(
    preset: Preset,
    settings: Settings = None,
    image_size: ImageSize = None,
    json_file: Json = None,
    model_explorer: Annotated[
        Path | None,
        typer.Option(
            "--model-explorer",
            help="Also write the network's graph for Google's Model Explorer.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Show the plan of a network: every layer with its shape, parameters and multiply-adds."""
    spec = spec_of(preset, settings)
    plan = make_plan(spec, parse_size(image_size))
    check_outputs(json_file, model_explorer)
    if model_explorer is not None:
        from shared.reports.model_explorer import graph

        write_text(model_explorer, json_text(graph(plan)))
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


PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Networks": (source.source, export.export, identify.identify),
    "Proof": (verify.verify, verify.trace, verify.compare, why.diagnose, why.audit),
    "Checkpoints": (checkpoints.inspect, checkpoints.convert, checkpoints.predict),
    "Training": (training.recipes, training.train, training.evaluate, training.curves),
}
for panel, commands in PANELS.items():
    for command in commands:  # a help text is wrapped by the terminal, not as its docstring is
        text = " ".join((command.__doc__ or "").split())
        app.command(help=text, rich_help_panel=panel)(command)


def main() -> None:
    """Entry point: whatever goes wrong becomes one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ✓ gets a question mark
    try:
        if sys.platform == "win32":
            from shared.processes import require_posix

            require_posix()
        given = sys.argv[1:] or ["--help"]
        code = _program()(given, prog_name="rosetta", standalone_mode=False)
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


@functools.cache
def _program() -> Callable[..., Any]:
    """The commands as Click has them: made of all their signatures, so once a process."""
    return typer.main.get_command(app)


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
