"""`rosetta recipes`, `train`, `evaluate` and `curves`: the commands of training."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from shared.cli.options import (
    Deployed,
    DType,
    Frameworks,
    HtmlFile,
    Json,
    LeaveOut,
    MarkdownFile,
    Take,
    Workers,
    check_outputs,
    choose_frameworks,
    command_line,
    make_console,
    parse_settings,
    write_json,
    write_pages,
)
from shared.errors import CheckpointError, SpecError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from shared.formats.checkpoint import Checkpoint
    from shared.training.augmentation import Augmentation
    from shared.training.recipes import Recipe

Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the dataset; found in the usual places or downloaded unless given.",
        metavar="DIR",
    ),
]
TrainedIn = Annotated[
    list[str] | None,
    typer.Option(
        "--framework",
        help="torch, keras, keras:tensorflow, keras:jax, keras:torch or flax, with commas or "
        "repeated, or all of these that are installed; reference is plain NumPy, and slow. torch "
        "unless given.",
        metavar="NAME",
    ),
]


def recipes(json_file: Json = None) -> None:
    """List the training recipes: dataset, network, length and optimizer."""
    from shared.cli import report_training as report
    from shared.training.recipes import recipes as all_recipes

    check_outputs(json_file)
    found = list(all_recipes().values())
    write_json(json_file, [recipe.to_dict() for recipe in found])
    make_console(json_file).print(report.recipe_table(found), soft_wrap=True)


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe, such as fashion-mnist/resnet20.", metavar="RECIPE")
    ],
    framework: TrainedIn = None,
    data: Data = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the runs; each is written to RECIPE/FRAMEWORK in it.",
            metavar="DIR",
        ),
    ] = Path("runs"),
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a field of the recipe, as in epochs=1, schedule.rate=0.05 or "
            "spec.depths=1,1,1; may be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the initial weights, the order of the images and their augmentation; "
            "the recipe's unless given.",
            min=0,
            metavar="N",
        ),
    ] = None,
    dtype: Annotated[
        DType, typer.Option(help="Precision: float32 or float64.", metavar="DTYPE")
    ] = DType.float32,
    workers: Workers = None,
    stop_after: Annotated[
        int | None,
        typer.Option(help="Stop after this step; --resume continues.", min=1, metavar="STEP"),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between checkpoints; those of an epoch unless given.",
            min=1,
            metavar="STEPS",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint.", metavar="")
    ] = False,
    json_file: Json = None,
) -> None:
    """Train by a recipe in one framework or several, from the same initial weights and on the same
    batches. A run that is resumed on the CPU is bit for bit an undisturbed one; an accelerator,
    which Keras and Flax take where there is one, may add in another order.
    """
    from shared.cli import report_training as report
    from shared.training.recipes import get_recipe, with_seed

    if dtype not in (DType.float32, DType.float64):
        raise SpecError(f"--dtype {dtype.value}: training is in float32 or float64")
    chosen = with_seed(get_recipe(recipe, parse_settings(settings)), seed)
    chosen.make_spec()
    check_outputs(json_file)
    frameworks = choose_frameworks(framework or ["torch"], reference=False)
    folders = {
        name: output.absolute() / chosen.name / name.replace(":", "-") for name in frameworks
    }
    if resume and not any(folder.exists() for folder in folders.values()):
        raise SpecError(f"{next(iter(folders.values()))}: no run to resume")
    job = {
        "task": "train",
        "recipe": chosen.to_dict(),
        "dtype": dtype.value,
        "data": str(data.absolute()) if data else None,
        "resume": resume,
        "stop_after": stop_after,
        "checkpoint_every": checkpoint_every,
        "workers": workers,
    }
    console = make_console(json_file)
    results: list[dict[str, Any]] = []
    interrupted = False
    for name, folder in folders.items():
        header = None if results else report.recipe_line(chosen)
        result, interrupted = _train_in(name, folder, job, console, header)
        results.append(result)
        console.print(report.result_line(result), soft_wrap=True)
        if interrupted:
            break
    write_json(json_file, results)
    if interrupted:
        raise typer.Exit(130)
    if any(result["diverged"] for result in results):
        raise typer.Exit(1)


def _train_in(
    framework: str, folder: Path, job: dict[str, Any], console: Console, header: Text | None
) -> tuple[dict[str, Any], bool]:
    """What came of the run in one framework, and whether it was interrupted."""
    from shared.cli import report_training as report
    from shared.frameworks.workers import run_events

    started = time.perf_counter()
    with report.TrainProgress(make_console(stderr=True), framework) as progress:
        for event in run_events(framework, {**job, "folder": str(folder)}):
            progress.show(event)
            if event["event"] == "start" and header is not None:
                console.print(header, soft_wrap=True)
            if event["event"] == "evaluation":
                seconds = time.perf_counter() - started
                report.print_evaluation(console, framework, event, seconds)
    return progress.result(folder, time.perf_counter() - started), progress.interrupted


def evaluate(
    weights: Annotated[
        list[str],
        typer.Argument(
            help="Checkpoints of any format, or hf:REPO, torchvision:TAG, "
            "keras:imagenet or rosetta:RECIPE.",
            metavar="WEIGHTS...",
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="fashion-mnist, cifar10, imagenet or folder; the dataset that the weights were "
            "trained on unless given.",
            metavar="NAME",
        ),
    ] = None,
    framework: Frameworks = None,
    data: Data = None,
    split: Annotated[str, typer.Option(help="Split: test or train.", metavar="SPLIT")] = "test",
    preset: Annotated[
        str | None,
        typer.Option(help="The network, where the file does not say it.", metavar="PRESET"),
    ] = None,
    take: Take = None,
    leave_out: LeaveOut = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--augmentation",
            help="Change how images are prepared, as in mean=0.286 or resize=96; as in the "
            "recipe of the weights unless given.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    dtype: Annotated[
        DType, typer.Option(help="Precision: float32 or float64.", metavar="DTYPE")
    ] = DType.float32,
    deployed: Deployed = False,
    workers: Workers = None,
    batch: Annotated[int, typer.Option(help="Images at a time.", min=1, metavar="N")] = 256,
    json_file: Json = None,
) -> None:
    """Measure the accuracy of weights on a dataset in every framework, and whether several weights
    differ by more than chance.
    """
    from shared.cli import report_training as report
    from shared.cli.report_checkpoints import print_remarks
    from shared.training.significance import paired_comparisons, short_names

    check_outputs(json_file)
    if dtype not in (DType.float32, DType.float64):
        raise SpecError(f"--dtype {dtype.value}: evaluation is in float32 or float64")
    frameworks = choose_frameworks(framework, reference=False)
    chosen = [
        _evaluation_of(one, dataset, preset, settings, take, leave_out)
        for one in dict.fromkeys(weights)
    ]
    if len({one.dataset for one in chosen}) > 1:
        raise SpecError("these weights were trained on different datasets; say --dataset")
    job = {
        "task": "evaluate",
        "data": str(data.absolute()) if data else None,
        "split": split,
        "batch": batch,
        "dtype": dtype.value,
        "deployed": deployed,
        "workers": workers,
    }
    results = [result for one in chosen for result in _evaluate_in(frameworks, one, job)]
    write_json(json_file, results)
    console = make_console(json_file)
    named = [one.weights for one in chosen]
    short = dict(zip(named, short_names(named), strict=True))
    networks = ", ".join(dict.fromkeys(one.checkpoint.spec.name for one in chosen))
    how = ", as deployed: norms folded, compiled" if deployed else ""
    title = f"{networks} on the {split} split of {chosen[0].dataset}{how}"
    console.print(report.accuracy_table(results, title, short), soft_wrap=True)
    for one in chosen:
        print_remarks(console, one.checkpoint)
    if len(chosen) > 1:
        first = [result for result in results if result["framework"] == frameworks[0]]
        wrong = {short[result["weights"]]: result["wrong"] for result in first}
        pairs = paired_comparisons(wrong, results[0]["examples"])
        console.print()
        console.print(report.paired_table(pairs, frameworks[0]), soft_wrap=True)


def _evaluate_in(
    frameworks: Sequence[str], chosen: _Evaluation, job: dict[str, Any]
) -> list[dict[str, Any]]:
    """What each framework measures of the same weights, as JSON has it."""
    from shared.cli import report_training as report
    from shared.formats.convert import write_canonical
    from shared.frameworks.workers import run_events

    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder:
        canonical = Path(folder) / "weights.safetensors"
        write_canonical(chosen.checkpoint, canonical, job["dtype"])
        job = {
            **job,
            "spec": chosen.checkpoint.spec.to_dict(),
            "weights": str(canonical),
            "dataset": chosen.dataset,
            "augmentation": chosen.augmentation.to_dict(),
        }
        for name in frameworks:
            with report.TrainProgress(make_console(stderr=True), name) as progress:
                for event in run_events(name, job):
                    progress.show(event)
                    if event["event"] == "evaluation":
                        measured = {k: v for k, v in event.items() if k not in ("event", "step")}
                        about = {"weights": chosen.weights, "framework": name}
                        results.append({**about, "deployed": job["deployed"], **measured})
    return results


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of training runs.", metavar="RUN...")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The plot, a .png, .svg or .pdf file.", metavar="FILE"),
    ] = Path("curves.png"),
    json_file: Json = None,
    html: HtmlFile = None,
    markdown: MarkdownFile = None,
) -> None:
    """Plot loss and accuracy of training runs, and find the step where they diverge."""
    from shared.cli import report_training as report
    from shared.training.curves import divergences, draw
    from shared.training.runs import read_run

    check_outputs(json_file, output, html, markdown)
    found = [read_run(folder) for folder in runs]
    pairs = divergences(found)
    draw(found, output)
    write_json(json_file, [dataclasses.asdict(divergence) for divergence in pairs])
    if html or markdown:
        from shared.cli.pages import curves_page

        write_pages(curves_page(found, pairs, command_line()), html, markdown)
    console = make_console(json_file)
    if pairs:
        console.print(report.divergence_table(pairs), soft_wrap=True)
    console.print(f"{output}: {len(found)} run{'s' if pairs else ''}", soft_wrap=True)


class _Evaluation(NamedTuple):
    """Weights, and what they are measured on."""

    weights: str  # as the user named them
    checkpoint: Checkpoint
    dataset: str
    augmentation: Augmentation


def _evaluation_of(
    weights: str,
    dataset: str | None,
    preset: str | None,
    settings: list[str] | None,
    take: str | None,
    leave_out: list[str] | None,
) -> _Evaluation:
    from shared.cli.live import is_live
    from shared.formats.checkpoint import open_checkpoint

    if is_live(weights):
        raise SpecError(f"{weights}: a model and no file; `rosetta convert` makes one of it")
    checkpoint = open_checkpoint(weights, None, preset, take=take, leave_out=leave_out or ())
    trained = _recipe_of(checkpoint)
    name = dataset or (trained.dataset if trained else None)
    if name is None:
        raise SpecError(f"{weights}: does not say what it was trained on; say --dataset")
    augmentation = _augmentation(trained, name, parse_settings(settings))
    return _Evaluation(weights, checkpoint, name, augmentation)


def _recipe_of(checkpoint: Checkpoint) -> Recipe | None:
    """The recipe in the metadata of weights that were trained here.

    Raises `CheckpointError` for one that cannot be read: without it images might be prepared in
    another way than the weights need.
    """
    from shared.training.recipes import Recipe

    text = checkpoint.archive.metadata.get("recipe")
    if text is None or checkpoint.format.name != "canonical":
        return None
    try:
        return Recipe.from_json(text)
    except SpecError as error:
        raise CheckpointError(
            f"{checkpoint.path}: the recipe in its metadata cannot be read ({str(error)[:300]})"
        ) from None


def _augmentation(recipe: Recipe | None, dataset: str, changes: dict[str, Any]) -> Augmentation:
    """How images are prepared: as in the recipe, or scaled by the dataset's mean and deviation."""
    from shared.datasets.catalogue import get_dataset
    from shared.training.augmentation import Augmentation

    if recipe is not None and recipe.dataset == dataset:
        base = recipe.augmentation.to_dict()
    else:
        known = get_dataset(dataset)
        base = {"mean": known.mean, "std": known.std}
    return Augmentation.from_dict({**base, **changes})
