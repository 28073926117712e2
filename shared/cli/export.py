"""`rosetta export`: a network as a file that another runtime runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.architecture.plan import make_plan
from shared.architecture.presets import get_preset, list_presets
from shared.cli.options import (
    DType,
    Format,
    Json,
    LeaveOut,
    Mini,
    Seed,
    Settings,
    Take,
    WhichPreset,
    check_outputs,
    make_console,
    parse_settings,
    spec_of,
    write_json,
)
from shared.errors import SpecError, nearest

if TYPE_CHECKING:
    from shared.cli.report_export import Source
    from shared.formats.checkpoint import Checkpoint


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint of any format, hf:REPO, torchvision:TAG, keras:imagenet, "
            "rosetta:RECIPE or python:FILE.py:NAME; or a preset, which gets probe weights.",
            metavar="SRC",
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The file or folder to write.", metavar="DST")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="torch-export (.pt2), onnx (.onnx), saved-model (a folder), stablehlo "
            "(.stablehlo), openvino (.xml and .bin) or litert (.tflite); by the suffix unless "
            "given.",
            metavar="KIND",
        ),
    ] = None,
    framework: Annotated[
        str | None,
        typer.Option(
            "--framework",
            help="Which framework exports it, where several can; the usual one unless given.",
            metavar="NAME",
        ),
    ] = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold",
            help="Fold batch norms into the convolutions in front of them first.",
            metavar="",
        ),
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Pixels of a side of the images; the network's usual size unless given.",
            min=1,
            metavar="N",
        ),
    ] = None,
    free_size: Annotated[
        bool, typer.Option("--free-size", help="Let the file take images of any size.", metavar="")
    ] = False,
    dtype: Annotated[
        DType, typer.Option(help="Precision of the file: float32 or float64.", metavar="DTYPE")
    ] = DType.float32,
    source_format: Format = None,
    preset: WhichPreset = None,
    settings: Settings = None,
    take: Take = None,
    leave_out: LeaveOut = None,
    mini: Mini = False,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Export a network through a framework's own exporter, run the file with its own runtime,
    compare it with the reference, and read it back.
    """
    from shared.cli import report_export as report
    from shared.frameworks.exported.export import export as write
    from shared.frameworks.exported.export import plan_export

    started = time.perf_counter()
    if image_size and free_size:
        raise SpecError("--image-size fixes the size of the images and --free-size frees it")
    wanted = plan_export(output, to, framework, dtype.value, image_size, fold)
    check_outputs(json_file, output)
    given = _source(source, source_format, preset, settings, take, leave_out, mini, seed, dtype)
    if not free_size:
        wanted = dataclasses.replace(wanted, image_size=image_size or given.spec.image_size)
    make_plan(given.spec, wanted.image_size)
    errors = make_console(stderr=True)
    with errors.status(f"exporting {given.spec.name}") as status:
        found = write(given.spec, given.weights, output, wanted, status.update)
    seconds = round(time.perf_counter() - started, 1)
    about = {
        "source": source,
        "weights": given.origin,
        "preprocessing": {"name": given.preprocessing, "inside": False},
        "remarks": list(given.remarks),
        "seconds": seconds,
    }
    write_json(json_file, found.to_dict() | about)
    console = make_console(json_file)
    for line in report.exported(found, given, seconds):
        console.print(line, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if found.passed else 1)


def _source(
    source: str,
    source_format: str | None,
    preset: str | None,
    settings: Sequence[str] | None,
    take: str | None,
    leave_out: Sequence[str] | None,
    mini: bool,
    seed: int,
    dtype: DType,
) -> Source:
    """The network that SRC names: a preset, unless there is such a file, or it is where one comes
    from.
    """
    from shared.cli.report_export import Source
    from shared.weights.probe import probe_weights

    if ":" in source or Path(source).exists():
        if mini:
            raise SpecError(f"--miniature is for presets; {source} has weights of its own")
        return _of_checkpoint(source, source_format, preset, settings, take, leave_out)
    for option, value in (
        ("--from", source_format),
        ("--preset", preset),
        ("--take", take),
        ("--leave-out", leave_out),
    ):
        if value:
            raise SpecError(f"{option} is for checkpoints, and there is no file {source}")
    try:
        spec = spec_of(source, settings, mini)
    except SpecError as error:
        if source in list_presets() or "." not in Path(source).name:
            raise
        hint = nearest(source, list_presets())
        raise SpecError(f"{source}: neither a file nor a preset{hint}") from error
    origin = f"probe weights, seed {seed}"
    prepared = get_preset(source).preprocessing
    return Source(spec, probe_weights(spec, seed, dtype.value), origin, prepared)


def _of_checkpoint(
    source: str,
    source_format: str | None,
    preset: str | None,
    settings: Sequence[str] | None,
    take: str | None,
    leave_out: Sequence[str] | None,
) -> Source:
    from shared.cli.live import open_source
    from shared.cli.report_export import Source

    checkpoint = open_source(
        source, source_format, preset, parse_settings(settings), take=take, leave_out=leave_out
    )
    remarks = (*checkpoint.remarks, *_assumed(checkpoint))
    weights = checkpoint.weights()
    return Source(checkpoint.spec, weights, source, checkpoint.preprocessing, remarks)


def _assumed(checkpoint: Checkpoint) -> list[str]:
    """What neither tensors nor the file tell, as the other commands on checkpoints say it."""
    from shared.cli.report_checkpoints import fields_text

    assumed = checkpoint.assumed
    if not assumed:
        return []
    how = f"as {checkpoint.scheme.convention} has it: {fields_text(assumed)}"
    return [f"assumed, because neither tensors nor file tell, {how}"]
