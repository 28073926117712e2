"""`rosetta diagnose` and `audit`: why a port differs, and what a check cannot see."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from shared.cli.options import (
    Batch,
    Format,
    HtmlFile,
    Images,
    ImageSize,
    Json,
    LeaveOut,
    MarkdownFile,
    Settings,
    Take,
    WhichPreset,
    check_outputs,
    command_line,
    make_console,
    parse_settings,
    parse_size,
    write_json,
    write_pages,
)
from shared.errors import SpecError


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
    html: HtmlFile = None,
    markdown: MarkdownFile = None,
) -> None:
    """Say why a port's outputs are not what they should be: the change of network, weights, images
    or training that explains them.
    """
    from shared.cli import report_diagnose as report
    from shared.cli.live import open_source
    from shared.cli.report_checkpoints import print_remarks
    from shared.frameworks.diagnose import diagnose as find

    started = time.perf_counter()
    check_outputs(json_file, html, markdown)
    checkpoint = open_source(
        weights, source_format, preset, parse_settings(settings), take=take, leave_out=leave_out
    )
    errors = make_console(stderr=True)
    with errors.status("running the reference") as status:
        found = find(checkpoint, io, report.on_try(status))
    write_json(json_file, found.to_dict())
    if html or markdown:
        from shared.cli.pages_of_others import diagnose_page

        write_pages(diagnose_page(found, command_line()), html, markdown)
    console = make_console(json_file)
    print_remarks(console, checkpoint)
    report.print_diagnosis(console, found, time.perf_counter() - started)
    raise typer.Exit(0 if found.same else 1)


def audit(
    target: Annotated[
        str | None,
        typer.Argument(
            help="The weights of the check: a checkpoint of any format. Without one, --io is a "
            "trace of the probe's weights.",
            metavar="TARGET",
        ),
    ] = None,
    io: Annotated[
        Path | None,
        typer.Option(
            "--io",
            help="The images of the check, and the layers that it compares, as for diagnose.",
            metavar="FILE",
        ),
    ] = None,
    image: Images = None,
    image_size: ImageSize = None,
    batch: Batch = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="The largest error, relative to the largest value, that the check lets pass; "
            "1e-4 unless given.",
            min=0.0,
            metavar="X",
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            help="Your check as a command, with {file} where the weights to load stand: mistakes "
            "are planted in files like TARGET, and the command run on each (exit code 0: passed). "
            "No shell runs it.",
            metavar="COMMAND",
        ),
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(
            "--plant", help="How many mistakes --check plants; 60 unless given.", min=1, metavar="N"
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            help="Seconds for one run of --check; 600 unless given.",
            min=0.1,
            metavar="X",
        ),
    ] = None,
    source_format: Format = None,
    preset: WhichPreset = None,
    settings: Settings = None,
    take: Take = None,
    leave_out: LeaveOut = None,
    json_file: Json = None,
) -> None:
    """Say which mistakes a check of outputs could not see with its weights and images, and why; or
    which files with mistakes a check of your own lets pass.
    """
    from shared.cli import report_diagnose as report
    from shared.cli.live import open_source
    from shared.cli.report_checkpoints import print_remarks
    from shared.frameworks.diagnose import audit_of_trace, audit_of_weights
    from shared.frameworks.inputs import BATCH
    from shared.frameworks.user_check import MOST, SECONDS, audit_command
    from shared.verification.diagnosis.audit import TOLERANCE

    started = time.perf_counter()
    check_outputs(json_file)
    if target is None and io is None:
        raise SpecError("name the weights of the check, or give --io with a trace of the probe's")
    if io and (image or image_size or batch):
        raise SpecError("--io has the images; --image, --image-size and --batch go without it")
    if check is None and (most or seconds):
        raise SpecError("--plant and --timeout belong to --check")
    if check is not None and (target is None or io or image or image_size or batch or tolerance):
        raise SpecError(
            "--check takes the weights that it loads and nothing else: images and tolerance are "
            "its own"
        )
    limit = TOLERANCE if tolerance is None else tolerance
    console, errors = make_console(json_file), make_console(stderr=True)
    with errors.status("running the reference") as status:
        if target is None:
            found, name = audit_of_trace(Path(str(io)), limit, report.on_plant(status))
        else:
            checkpoint = open_source(
                target,
                source_format,
                preset,
                parse_settings(settings),
                take=take,
                leave_out=leave_out,
            )
            name = checkpoint.spec.name
            if check is not None:
                checked = audit_command(
                    checkpoint,
                    check,
                    seconds=seconds or SECONDS,
                    most=most or MOST,
                    on_try=report.on_plant(status),
                )
                write_json(json_file, checked.to_dict())
                print_remarks(console, checkpoint)
                report.print_checked(console, name, checked, time.perf_counter() - started)
                raise typer.Exit(0 if checked.mistakes and not checked.unseen else 1)
            found = audit_of_weights(
                checkpoint,
                io,
                image,
                parse_size(image_size),
                batch or BATCH,
                limit,
                report.on_plant(status),
            )
            print_remarks(console, checkpoint)
    write_json(json_file, found.to_dict())
    report.print_audit(console, name, found, time.perf_counter() - started)
    raise typer.Exit(0 if found.mistakes and not found.unseen else 1)
