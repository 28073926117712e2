"""`rosetta identify`: which network a model is, where it departs from it, and the proof."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.cli.options import (
    HtmlFile,
    Json,
    LeaveOut,
    MarkdownFile,
    Take,
    check_outputs,
    command_line,
    make_console,
    write_json,
    write_pages,
)
from shared.errors import SpecError

if TYPE_CHECKING:
    from shared.architecture.spec import ResNetSpec
    from shared.frameworks.identify import Answer
    from shared.weights.canonical import Weights


def identify(
    target: Annotated[
        str,
        typer.Argument(
            help="python:FILE.py:NAME or python:package.module:NAME, a model or a function "
            "without arguments that makes one; a .onnx, .xml (OpenVINO), .tflite, .pt2, "
            "TorchScript or .keras file, or a SavedModel folder.",
            metavar="TARGET",
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare with this preset, checkpoint or other target, and say whether they are "
            "the same.",
            metavar="PRESET|FILE|TARGET",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the model's weights, in any format.", metavar="WEIGHTS"
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Pixels of the square images; those that the model says unless given.",
            min=8,
            max=2048,
            metavar="N",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="How long the model's own code may take.", min=1.0, metavar="S")
    ] = 600.0,
    take: Take = None,
    leave_out: LeaveOut = None,
    json_file: Json = None,
    html: HtmlFile = None,
    markdown: MarkdownFile = None,
) -> None:
    """Say which ResNet a model is, where it departs from it, and prove it by numbers."""
    from shared.cli import report_identify as report
    from shared.frameworks.identify import Answer, compare_targets, identify_target

    check_outputs(json_file, html, markdown, None if output is None or output.is_dir() else output)
    side = _other_side(against, image_size, seconds, take, leave_out)
    if output is not None:
        from shared.formats.convert import find_target

        find_target(output, None)  # now, not after minutes
    errors = make_console(stderr=True)
    with errors.status(f"reading {target}"):
        if side is None:
            spec, weights, notes = None, None, list[str]()
            answer = Answer(compare_targets(target, str(against), image_size, seconds=seconds))
        else:
            spec, weights, notes = side
            answer = identify_target(
                target,
                image_size,
                spec,
                keep_weights=output is not None or weights is not None,
                seconds=seconds,
            )
    found = answer.found
    found["notes"] += notes
    causes = []
    if weights is not None:
        theirs, ours, note = _comparable(answer, weights)
        found["departures"] += report.unequal_tensors(theirs, ours, found["names"])
        found["notes"] += [note] if note else []
        found["by_effects"] = bool(note)
        causes = [] if note else _causes(spec, ours, theirs)
    found |= {"against": against, "causes": causes}
    good = found["recognised"] and not (against and found["departures"])
    written = _write(answer, output) if output is not None else None
    write_json(json_file, found)
    if html or markdown:
        from shared.cli.pages_of_others import identify_page

        write_pages(identify_page(target, found, against, good, command_line()), html, markdown)
    console = make_console(json_file)
    console.print(report.answer(target, found, against, good), soft_wrap=True)
    for cause in causes:
        line = f"  cause     {cause['what']} ({len(cause['tensors'])} tensors)"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if written:
        console.print(written, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(0 if good else 1)


def _other_side(
    against: str | None,
    image_size: int | None,
    seconds: float,
    take: str | None,
    leave_out: Sequence[str] | None,
) -> tuple[ResNetSpec | None, Weights | None, list[str]] | None:
    """The spec to compare with, its weights if it has any, and what was chosen, left out or assumed
    of its file; None of a model that is no ResNet that is known in full.
    """
    from shared.architecture.presets import get_spec
    from shared.frameworks.targets import is_target

    is_file = against is not None and not is_target(against) and Path(against).exists()
    if (take or leave_out) and not is_file:
        option = "--take" if take else "--leave-out"
        raise SpecError(f"{option} is for a checkpoint that --against names")
    if against is None:
        return None, None, []
    if is_target(against):
        from shared.frameworks.identify import identify_target

        other = identify_target(against, image_size, keep_weights=True, seconds=seconds)
        known = other.spec is not None and other.found["recognised"]
        return (other.spec, other.weights, []) if known else None
    if not is_file:
        return get_spec(against), None, []
    from shared.cli.report_checkpoints import fields_text
    from shared.formats.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(against, take=take, leave_out=leave_out or ())
    notes = [f"{against}: {remark}" for remark in checkpoint.remarks]
    if assumed := checkpoint.assumed:
        how = f"as {checkpoint.scheme.convention} has it: {fields_text(assumed)}"
        notes.append(f"{against}: assumed, because neither tensors nor file tell, {how}")
    return checkpoint.spec, checkpoint.weights(), notes


def _comparable(answer: Answer, weights: Weights) -> tuple[Weights, Weights, str]:
    """The target's tensors and the other side's, and what is to be said of that: where norms are
    folded on one side, what the tensors do; nothing, where that is the same.
    """
    import numpy as np

    from shared.graphs.verdict import SAME_MODEL
    from shared.weights.folding import APART, apart_by, effects, has_identities

    spec, own = answer.spec, answer.weights
    folded = has_identities(weights) or (
        answer.found["verdict"] != SAME_MODEL and has_identities(own, fresh=True)
    )
    if spec is None or not folded or own.keys() != weights.keys():
        return own, weights, ""
    if all(np.array_equal(own[name], array) for name, array in weights.items()):
        return own, weights, ""
    theirs, ours = effects(spec, own), effects(spec, weights)
    apart = apart_by(theirs, ours)
    what = "compared by what they do: norms, and standardised kernels, are folded on both sides"
    far = [name for name, error in apart.items() if error > APART]
    if far:
        note = f"its tensors are {what}"
        return {name: theirs[name] for name in far}, {name: ours[name] for name in far}, note
    note = f"its tensors are those of the other side, {what}: {max(apart.values()):.1e} apart"
    return {}, {}, note


def _causes(spec: ResNetSpec | None, right: Weights, found: Weights) -> list[dict[str, Any]]:
    """What has been done to tensors that are not those of the other side."""
    if spec is None or not found:
        return []
    from shared.verification.diagnosis.tensors import explain_tensors

    causes, _ = explain_tensors(spec, right, found)
    return [
        {
            "kind": cause.kind,
            "what": cause.what,
            "set": None,
            "where": list(dict.fromkeys(tensor.rpartition(".")[0] for tensor in tensors)),
            "tensors": list(tensors),
        }
        for cause, tensors in causes
    ]


def _write(answer: Answer, output: Path) -> str:
    """Write the weights in the format of the output's suffix, read them back and compare; the line
    that says so, or why nothing is written.
    """
    from shared.formats.checkpoint import open_checkpoint
    from shared.formats.convert import convert
    from shared.weights.canonical import save_weights

    spec = answer.spec
    if spec is None or not answer.found["recognised"]:
        return f"{output} is not written: the model is no ResNet that is known in full"
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(path, answer.weights, spec)
        done = convert(open_checkpoint(str(path)), output)
    count = done.to_dict()["tensors"]
    return f"wrote {output}: {count} tensors, read back and equal bit by bit"
