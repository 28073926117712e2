"""`rosetta recipes`, `train`, `evaluate` and `curves`: training, and what came of it."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from shared.cli.options import DType, Json, check_outputs, make_console, parse_settings, write_json
from shared.errors import SpecError

if TYPE_CHECKING:
    from shared.datasets import Augmentation
    from shared.formats.checkpoint import Checkpoint

Data = Annotated[
    Path | None,
    typer.Option(
        help="The folder where the dataset lies; found or downloaded unless given.", metavar="DIR"
    ),
]
Framework = Annotated[
    str,
    typer.Option(
        help="torch, keras, keras:tensorflow, keras:jax, keras:torch, flax, or all.", metavar="NAME"
    ),
]


def recipes(json_file: Json = None) -> None:
    """The training recipes: dataset, network, length, optimizer."""
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
    framework: Framework = "torch",
    data: Data = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the runs; each goes to RECIPE/FRAMEWORK in it.",
            metavar="DIR",
        ),
    ] = Path("runs"),
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a field, as in epochs=1, schedule.rate="
            "0.05 or spec.depths=1,1,1; may be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of the start, the order of the images and their augmentation.", min=0, metavar="N"
        ),
    ] = None,
    dtype: Annotated[
        DType, typer.Option(help="float32 or float64.", metavar="DTYPE")
    ] = DType.float32,
    stop_after: Annotated[
        int | None,
        typer.Option(help="Stop after this step; --resume goes on.", min=1, metavar="STEP"),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between checkpoints; an epoch unless given.", min=1, metavar="STEPS"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.", metavar="")
    ] = False,
    json_file: Json = None,
) -> None:
    """Train by a recipe in one framework or in all, from one start and on the same batches."""
    from shared.cli import report_training as report
    from shared.frameworks.processes import run_events
    from shared.frameworks.registry import get_framework, installed
    from shared.training.recipes import get_recipe, with_seed

    if dtype not in (DType.float32, DType.float64):
        raise SpecError(f"--dtype {dtype.value}: training is in float32 or float64")
    chosen = with_seed(get_recipe(recipe, parse_settings(settings)), seed)
    chosen.make_spec()
    check_outputs(json_file)
    names = (
        [n for n in installed() if n != "reference"] if framework == "all" else framework.split(",")
    )
    frameworks = [get_framework(name.strip()).name for name in names]
    if "reference" in frameworks:
        raise SpecError(
            "--framework reference: it proves, and is too slow to train; choose torch, keras or "
            "flax"
        )
    console, errors = make_console(json_file), make_console(stderr=True)
    folders = {
        name: output.absolute() / chosen.name / name.replace(":", "-") for name in frameworks
    }
    if resume and not any(folder.exists() for folder in folders.values()):
        raise SpecError(f"{next(iter(folders.values()))}: no run to resume")
    results: list[dict[str, Any]] = []
    for name, folder in folders.items():
        job = {
            "task": "train",
            "recipe": chosen.to_dict(),
            "folder": str(folder),
            "dtype": dtype.value,
            "data": str(data.absolute()) if data else None,
            "resume": resume,
            "stop_after": stop_after,
            "checkpoint_every": checkpoint_every,
        }
        started = time.perf_counter()
        with report.TrainProgress(errors, name) as progress:
            for event in run_events(name, job):
                progress.show(event)
                if event["event"] == "start" and not results:
                    console.print(report.recipe_line(chosen), soft_wrap=True)
                if event["event"] == "evaluation":
                    report.print_evaluation(console, name, event, time.perf_counter() - started)
        results.append(progress.result(folder, time.perf_counter() - started))
        console.print(report.result_line(results[-1]), soft_wrap=True)
        if progress.interrupted:
            break
    write_json(json_file, results)
    if progress.interrupted:
        raise typer.Exit(130)
    if any(result["diverged"] for result in results):
        raise typer.Exit(1)


def evaluate(
    weights: Annotated[
        list[str],
        typer.Argument(
            help="Checkpoints of any format, or hf:REPO, torchvision:TAG, "
            "keras:imagenet, rosetta:RECIPE.",
            metavar="WEIGHTS",
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="fashion-mnist, cifar10, imagenet or folder; what the weights "
            "were trained on unless given.",
            metavar="NAME",
        ),
    ] = None,
    framework: Framework = "all",
    data: Data = None,
    split: Annotated[str, typer.Option(help="test or train.", metavar="SPLIT")] = "test",
    preset: Annotated[
        str | None,
        typer.Option(help="Which network it is, when the file does not say.", metavar="PRESET"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--augmentation",
            help="How images are prepared, as in "
            "mean=0.286 or resize=96; that of the weights' recipe unless given.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    dtype: Annotated[
        DType, typer.Option(help="float32 or float64.", metavar="DTYPE")
    ] = DType.float32,
    batch: Annotated[int, typer.Option(help="Images at a time.", min=1, metavar="N")] = 256,
    json_file: Json = None,
) -> None:
    """Accuracy of weights on a dataset, in every framework side by side; of several weights,
    whether they differ by more than chance."""
    from shared.cli import report_training as report
    from shared.formats.convert import write_canonical
    from shared.frameworks.processes import run_events
    from shared.frameworks.registry import get_framework, installed
    from shared.training.significance import rivals, short_names

    check_outputs(json_file)
    names = (
        [n for n in installed() if n != "reference"] if framework == "all" else framework.split(",")
    )
    names = [get_framework(name.strip()).name for name in names]
    chosen = [_evaluation_of(one, dataset, preset, settings) for one in dict.fromkeys(weights)]
    if len({one.dataset for one in chosen}) > 1:
        raise SpecError("these weights were trained on different datasets; say --dataset")
    console, errors = make_console(json_file), make_console(stderr=True)
    results: list[dict[str, Any]] = []
    for one in chosen:
        with tempfile.TemporaryDirectory(prefix="rosetta-") as folder:
            canonical = write_canonical(
                one.checkpoint, Path(folder) / "weights.safetensors", dtype.value
            )
            for name in names:
                job = {
                    "task": "evaluate",
                    "spec": one.checkpoint.spec.to_dict(),
                    "weights": str(canonical),
                    "dataset": one.dataset,
                    "data": str(data.absolute()) if data else None,
                    "split": split,
                    "batch": batch,
                    "augmentation": dataclasses.asdict(one.augmentation),
                    "dtype": dtype.value,
                }
                with report.TrainProgress(errors, name) as progress:
                    for event in run_events(name, job):
                        progress.show(event)
                        if event["event"] == "evaluation":
                            measured = {
                                key: value
                                for key, value in event.items()
                                if key not in ("event", "step")
                            }
                            results.append({"weights": one.weights, "framework": name, **measured})
    write_json(json_file, results)
    named = [one.weights for one in chosen]
    short = dict(zip(named, short_names(named), strict=True))
    networks = ", ".join(dict.fromkeys(one.checkpoint.spec.name for one in chosen))
    title = f"{networks} on the {split} split of {chosen[0].dataset}"
    console.print(report.accuracy_table(results, title, short), soft_wrap=True)
    if len(chosen) > 1:
        wrong = {
            short[result["weights"]]: result["wrong"]
            for result in results
            if result["framework"] == names[0]
        }
        console.print()
        console.print(
            report.rivals_table(rivals(wrong, results[0]["examples"]), names[0]), soft_wrap=True
        )


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUN")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The picture, as PNG, SVG or PDF.", metavar="FILE"),
    ] = Path("curves.png"),
    json_file: Json = None,
) -> None:
    """Loss and accuracy of several runs in one picture, and the step where they part."""
    from shared.cli import report_training as report
    from shared.training.curves import divergences, draw
    from shared.training.runs import read_run

    check_outputs(json_file, output)
    found = [read_run(folder) for folder in runs]
    parted = divergences(found)
    draw(found, output)
    write_json(json_file, [dataclasses.asdict(divergence) for divergence in parted])
    console = make_console(json_file)
    if parted:
        console.print(report.divergence_table(parted), soft_wrap=True)
    console.print(f"{output}: {len(found)} run{'s' if parted else ''}", soft_wrap=True)


class _Evaluation(NamedTuple):
    """Weights, and what they are measured on."""

    weights: str  # as the user named them
    checkpoint: Checkpoint
    dataset: str
    augmentation: Augmentation


def _evaluation_of(
    weights: str, dataset: str | None, preset: str | None, settings: list[str] | None
) -> _Evaluation:
    from shared.formats.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(weights, None, preset)
    trained = _recipe_of(checkpoint.archive.metadata)
    name = dataset or (trained.dataset if trained else None)
    if name is None:
        raise SpecError(f"{weights}: does not say what it was trained on; say --dataset")
    augmentation = _augmentation(trained, name, parse_settings(settings))
    return _Evaluation(weights, checkpoint, name, augmentation)


def _recipe_of(metadata: Any) -> Any:
    """The recipe in the metadata of weights that were trained here."""
    import json

    from shared.training.recipes import Recipe

    try:
        return Recipe.from_dict(json.loads(metadata["recipe"]))
    except (KeyError, ValueError, TypeError):
        return None


def _augmentation(recipe: Any, dataset: str, changes: dict[str, Any]) -> Augmentation:
    """How images are prepared: as in the recipe, or scaled by the dataset's mean and deviation."""
    from shared.datasets import DATASETS, Augmentation

    if recipe is not None and recipe.dataset == dataset:
        base = dataclasses.asdict(recipe.augmentation)
    else:
        known = DATASETS.get(dataset)
        base = {"mean": known.mean, "std": known.std} if known else {}
    return Augmentation.from_dict({**base, **changes})
