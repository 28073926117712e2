"""`rosetta diagnose` and `audit`: why a port differs, and what a check cannot see."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from shared.cli.options import (
    Json,
    LeaveOut,
    Settings,
    Take,
    check_outputs,
    make_console,
    parse_settings,
    write_json,
)

Format = Annotated[
    str | None,
    typer.Option("--from", help="Format of the weights; detected unless given.", metavar="FORMAT"),
]
WhichPreset = Annotated[
    str | None,
    typer.Option("--preset", help="The network, where the file does not say it.", metavar="PRESET"),
]


def diagnose(
    weights: Annotated[
        str,
        typer.Argument(
            help="The weights as they are right: a checkpoint of any format, or hf:REPO, "
            "torchvision:TAG, keras:imagenet or rosetta:RECIPE.",
            metavar="WEIGHTS",
        ),
    ],
    io: Annotated[
        Path,
        typer.Option(
            "--io",
            help="What the port made of images: an .npz, safetensors file or trace with images "
            "[N, H, W, C] as they are meant for the network, outputs, and any layers by name.",
            metavar="FILE",
        ),
    ],
    source_format: Format = None,
    preset: WhichPreset = None,
    settings: Settings = None,
    take: Take = None,
    leave_out: LeaveOut = None,
    json_file: Json = None,
) -> None:
    """Say why a port's outputs are not what they should be: the change of network, weights, images
    or training that explains them.
    """
    from shared.cli import report_diagnose as report
    from shared.cli.report_checkpoints import print_remarks
    from shared.formats.checkpoint import open_checkpoint
    from shared.frameworks.diagnose import diagnose as find

    started = time.perf_counter()
    check_outputs(json_file)
    checkpoint = open_checkpoint(
        weights,
        source_format,
        preset,
        parse_settings(settings),
        take=take,
        leave_out=leave_out or (),
    )
    errors = make_console(stderr=True)
    with errors.status("running the reference") as status:
        found = find(checkpoint, io, report.on_try(status))
    write_json(json_file, found.to_dict())
    console = make_console(json_file)
    print_remarks(console, checkpoint)
    report.print_diagnosis(console, found, time.perf_counter() - started)
    raise typer.Exit(0 if found.same else 1)
