"""`rosetta inspect`, `convert` and `predict`: the commands that take checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.cli.evidence import (
    EvidenceImages,
    WithEvidence,
    evidence_size,
    gather_evidence,
    print_evidence,
)
from shared.cli.options import (
    Deployed,
    DType,
    Format,
    Frameworks,
    ImageSize,
    Json,
    LeaveOut,
    Settings,
    Take,
    WhichPreset,
    check_outputs,
    choose_frameworks,
    make_console,
    parse_settings,
    parse_size,
    square,
    write_json,
)
from shared.errors import SpecError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from shared.formats.convert import Conversion
    from shared.verification.comparison import Comparison


def inspect(
    file: Annotated[
        str,
        typer.Argument(
            help="A checkpoint file or folder, hf:REPO, torchvision:TAG, keras:imagenet "
            "or rosetta:RECIPE.",
            metavar="FILE",
        ),
    ],
    source_format: Format = None,
    preset: WhichPreset = None,
    settings: Settings = None,
    take: Take = None,
    leave_out: LeaveOut = None,
    tensors: Annotated[
        bool,
        typer.Option("--tensors", help="List every tensor under both of its names.", metavar=""),
    ] = False,
    evidence: WithEvidence = False,
    image: EvidenceImages = None,
    image_size: ImageSize = None,
    json_file: Json = None,
) -> None:
    """Show what a checkpoint is: format, network, tensors, and how certain that is."""
    from shared.cli import report_checkpoints as report
    from shared.cli.live import is_live
    from shared.formats.checkpoint import open_checkpoint
    from shared.recognition.leftovers import COUNTER

    check_outputs(json_file)
    if is_live(file):
        raise SpecError(f"{file}: a model and no file; `rosetta identify` says which network it is")
    side = evidence_size(evidence, image, image_size)
    checkpoint = open_checkpoint(
        file,
        source_format,
        preset,
        parse_settings(settings),
        take=take,
        leave_out=leave_out or (),
        look=True,
    )
    candidates = checkpoint.candidates()
    nearest_preset = None if checkpoint.preset else checkpoint.nearest()
    gathered = gather_evidence(checkpoint, image, side) if evidence else None
    write_json(
        json_file,
        {
            "format": checkpoint.format.name,
            "container": checkpoint.archive.container,
            "preset": checkpoint.preset,
            "identified_by": checkpoint.identified_by,
            "candidates": candidates,
            "nearest": nearest_preset.preset if nearest_preset else checkpoint.preset,
            "tensors": len(checkpoint.entries),
            "params": checkpoint.params,
            "dtypes": list(checkpoint.dtypes),
            "num_classes": checkpoint.spec.num_classes,
            "stripped_prefixes": list(checkpoint.archive.stripped_prefixes),
            "ignored": list(checkpoint.ignored),
            "spec": checkpoint.spec.to_dict(),
            "told": checkpoint.told_fields,
            "told_by": [told.source for told in checkpoint.told],
            "given": dict(checkpoint.given),
            "assumed": checkpoint.assumed,
            "surroundings": list(checkpoint.surroundings),
            "metadata": dict(checkpoint.archive.metadata),
            "evidence": gathered.to_json() if gathered else None,
            "inside": [network.to_dict() for network in checkpoint.inside],
            "taken_by": checkpoint.taken_by,
            "left_out": [group.path for group in checkpoint.left if group.kind != COUNTER],
            "refused": [{"path": one.path, "why": one.why} for one in checkpoint.refused],
            "doubts": [*checkpoint.doubts, *([checkpoint.assumes] if checkpoint.assumes else [])],
        },
    )
    console = make_console(json_file)
    console.print(report.inspection(checkpoint, candidates, nearest_preset), soft_wrap=True)
    if tensors:
        console.print()
        console.print(report.tensor_table(checkpoint), soft_wrap=True)
    if gathered:
        print_evidence(console, gathered)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint of any format, or hf:REPO, torchvision:TAG, "
            "keras:imagenet or rosetta:RECIPE.",
            metavar="SRC",
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help="The file or folder to write, by its suffix.", metavar="DST")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Format of the target; the usual one of its suffix unless given.",
            metavar="FORMAT",
        ),
    ] = None,
    source_format: Format = None,
    preset: WhichPreset = None,
    settings: Settings = None,
    take: Take = None,
    leave_out: LeaveOut = None,
    dtype: Annotated[
        DType | None,
        typer.Option(help="Round to float64, float32, bfloat16 or float16.", metavar="DTYPE"),
    ] = None,
    fold_bias: Annotated[
        bool,
        typer.Option(
            "--fold-bias",
            help="Move convolution biases into the running means of the norms behind them if the "
            "target has no biases.",
            metavar="",
        ),
    ] = False,
    fold_eps: Annotated[
        bool,
        typer.Option(
            "--fold-eps",
            help="Move a difference of eps into the running variances if the target has another "
            "eps.",
            metavar="",
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Also run source and target, each in its framework, and compare every layer.",
            metavar="",
        ),
    ] = False,
    json_file: Json = None,
) -> None:
    """Convert a checkpoint to another format, read it back and compare it bit by bit."""
    from shared.cli import report_checkpoints as report
    from shared.cli.live import open_source
    from shared.formats.convert import Options, find_target
    from shared.formats.convert import convert as carry

    started = time.perf_counter()
    find_target(output, to)
    check_outputs(json_file, None if output.is_dir() else output)
    checkpoint = open_source(
        source, source_format, preset, parse_settings(settings), take=take, leave_out=leave_out
    )
    console, errors = make_console(json_file), make_console(stderr=True)
    with errors.status(f"{source} to {output}"):
        found = carry(
            checkpoint, output, to, Options(fold_bias, fold_eps, dtype.value if dtype else None)
        )
    comparisons = _compare_ends(found, errors) if check else []
    passed = all(comparison.passed for comparison in comparisons)
    write_json(
        json_file,
        found.to_dict()
        | {
            "passed": passed,
            "comparisons": [comparison.to_dict() for comparison in comparisons],
            "seconds": round(time.perf_counter() - started, 1),
        },
    )
    console.print(report.conversion(found, time.perf_counter() - started), soft_wrap=True)
    if check:
        from shared.cli.report_verify import comparison_table, print_failures

        console.print()
        console.print(comparison_table(comparisons), soft_wrap=True)
        print_failures(console, comparisons)
    raise typer.Exit(0 if passed else 1)


def _compare_ends(found: Conversion, errors: Console) -> list[Comparison]:
    """Both ends of the conversion, each in the framework that it is for."""
    from shared.frameworks.check_conversion import compare_ends

    with errors.status("running both ends") as status:
        return compare_ends(found, on_run=lambda end, name: status.update(f"the {end} in {name}"))


def predict(
    images: Annotated[list[Path], typer.Argument(help="Photographs.", metavar="IMAGE...")],
    weights: Annotated[
        str,
        typer.Option(
            help="A checkpoint of any format, or hf:REPO, torchvision:TAG, "
            "keras:imagenet or rosetta:RECIPE.",
            metavar="FILE",
        ),
    ],
    framework: Frameworks = None,
    preset: WhichPreset = None,
    settings: Settings = None,
    take: Take = None,
    leave_out: LeaveOut = None,
    dtype: Annotated[
        DType,
        typer.Option(help="Precision: float64, float32, bfloat16 or float16.", metavar="DTYPE"),
    ] = DType.float32,
    deployed: Deployed = False,
    image_size: ImageSize = None,
    resize: Annotated[
        int | None,
        typer.Option(help="Pixels of the shorter side before the crop.", min=1, metavar="N"),
    ] = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(
            help="imagenet, caffe, half, tf_official, cifar, fashion-mnist "
            "or unit; that of the weights unless given.",
            metavar="NAME",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Class names: imagenet-1k, imagenet-1k-background, cifar10, fashion-mnist or "
            "none; those that fit the number of classes unless given.",
            metavar="NAME",
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(help="How many classes to show.", min=1, max=1000, metavar="N")
    ] = 5,
    json_file: Json = None,
) -> None:
    """Classify photographs in every framework, and show the likeliest classes side by side."""
    from shared.architecture.preprocessing import PREPROCESSING
    from shared.cli import report_checkpoints as report
    from shared.cli.live import open_source
    from shared.frameworks.predict import predict as run
    from shared.frameworks.registry import installed
    from shared.images.labels import class_names, guess_dataset
    from shared.images.photographs import load_images

    check_outputs(json_file)
    alone = ["reference"] if installed() == ["reference"] else None
    chosen = choose_frameworks(framework or alone, reference=False)
    checkpoint = open_source(
        weights, None, preset, parse_settings(settings), take=take, leave_out=leave_out
    )
    if preprocessing is None and (itself := checkpoint.prepared):
        raise SpecError(
            f"{weights}: its model prepares the images itself, by {', '.join(itself)}; say "
            f"--preprocessing: one of {', '.join(PREPROCESSING)}"
        )
    how = preprocessing or checkpoint.preprocessing
    if how not in PREPROCESSING:
        raise SpecError(
            f"unknown preprocessing {how!r}{nearest(how, PREPROCESSING)}; known are "
            f"{', '.join(PREPROCESSING)}"
        )
    names = class_names(labels or guess_dataset(checkpoint.spec))
    pixels = load_images(
        images, checkpoint.spec, how, square(parse_size(image_size)), resize or checkpoint.resize
    )
    errors = make_console(stderr=True)
    with errors.status("starting the frameworks") as status:
        found = run(
            checkpoint,
            pixels,
            images,
            chosen,
            names,
            dtype=dtype.value,
            deployed=deployed,
            top=top,
            on_step=lambda name: status.update(f"{name} is done"),
        )
    write_json(json_file, [prediction.to_dict() for prediction in found])
    console = make_console(json_file)
    console.print(report.prediction_setting(checkpoint, how, pixels, deployed), soft_wrap=True)
    report.print_remarks(console, checkpoint)
    for path in dict.fromkeys(images):
        console.print()
        console.print(
            report.prediction_table(path, [p for p in found if p.image == path]), soft_wrap=True
        )
