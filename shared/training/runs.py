"""A training run's folder: what was asked for, every step, and the checkpoints to go on from.

run.json            the recipe, the framework, versions, hashes of data and start
steps.csv           step, epoch, learning_rate, loss, accuracy, images_per_second: a line a step
evaluations.csv     step, loss, accuracy on the test split
events.out.*        the same for TensorBoard
checkpoints/N/      the framework's own files after step N; the last two are kept
weights.safetensors canonical weights, when the run is done
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from shared.errors import CheckpointError, SpecError
from shared.training.recipes import Recipe
from shared.weights.files import flush_folder, replacing

FORMAT = "resnet-rosetta-run"
STEP_COLUMNS = ("step", "epoch", "learning_rate", "loss", "accuracy", "images_per_second")
EVALUATION_COLUMNS = ("step", "loss", "accuracy")
KEPT = 2  # checkpoints


@dataclass(frozen=True)
class Run:
    """A run that was read back."""

    folder: Path
    recipe: Recipe
    framework: str
    about: Mapping[str, Any]
    steps: list[dict[str, float]]
    evaluations: list[dict[str, float]]

    @property
    def name(self) -> str:
        return f"{self.recipe.name} in {self.framework}"


def read_run(folder: Path) -> Run:
    """What a run's folder holds. Raises `CheckpointError`."""
    path = folder / "run.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{folder}: no training run ({path.name}: {error.strerror or error})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the description of a training run")
    try:
        recipe, framework = Recipe.from_dict(about["recipe"]), str(about["framework"])
    except (KeyError, SpecError) as error:
        raise CheckpointError(f"{path}: its recipe cannot be read ({error})") from None
    tables = [
        _read_table(folder / name, columns)
        for name, columns in (("steps.csv", STEP_COLUMNS), ("evaluations.csv", EVALUATION_COLUMNS))
    ]
    return Run(folder, recipe, framework, about, *tables)


def _read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, float]]:
    """The complete lines of a table; a process that was killed may have left half of
    the last one.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = []
    for row in csv.DictReader(lines):
        try:
            rows.append({name: float(row[name]) for name in columns})
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(
                f"{path}: line {len(rows) + 2} is not {', '.join(columns)}"
            ) from None
    return rows


class RunWriter:
    """The folder of a run that goes on: logs that grow, checkpoints that replace each other."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._files: list[IO[str]] = []
        self._steps: Any = None
        self._evaluations: Any = None
        self._board: Any = None

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()
        if self._board is not None:
            self._board.close()

    def start(self, about: Mapping[str, Any], *, resume: bool) -> int:
        """Make the folder, or go on in it. The step that the run has reached: 0 for a new one.

        Raises `SpecError` when there is a run already and `resume` is not wanted, or another run
        than this one.
        """
        path = self.folder / "run.json"
        about = {"format": FORMAT, **about}
        if path.exists():
            self._require_same(about, resume)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be written ({error.strerror or error})"
            ) from None
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        done = max((step for step, _ in self.checkpoints()), default=0)
        self._steps = self._table("steps.csv", STEP_COLUMNS, done)
        self._evaluations = self._table("evaluations.csv", EVALUATION_COLUMNS, done)
        self._board = _tensorboard(self.folder, done)
        return done

    def _require_same(self, about: Mapping[str, Any], resume: bool) -> None:
        if not resume:
            raise SpecError(
                f"{self.folder}: holds a run already; --resume goes on with it, or choose another "
                "--output"
            )
        before = read_run(self.folder).about
        for key in ("recipe", "framework", "dtype", "data", "start"):
            if before.get(key) != about.get(key):
                raise SpecError(
                    f"{self.folder}: its run has another {key}, so it cannot be resumed with this "
                    "one"
                )

    def _table(self, name: str, columns: tuple[str, ...], done: int) -> Any:
        """A table of `columns`, without what was written after the checkpoint of step `done`."""
        path = self.folder / name
        kept = [row for row in _read_table(path, columns) if row["step"] <= done]
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            table = csv.DictWriter(file, columns, lineterminator="\n")
            table.writeheader()
            table.writerows(
                {k: int(v) if k in ("step", "epoch") else v for k, v in row.items()} for row in kept
            )
        self._files.append(
            path.open("a", encoding="utf-8", newline="", buffering=1)
        )  # a line at a time
        return csv.DictWriter(self._files[-1], columns, lineterminator="\n")

    def step(self, row: Mapping[str, float]) -> None:
        self._steps.writerow(row)
        self._log("train", row)

    def evaluation(self, row: Mapping[str, float]) -> None:
        self._evaluations.writerow(row)
        self._log("test", row)

    def _log(self, split: str, row: Mapping[str, float]) -> None:
        if self._board is not None:
            for name in ("loss", "accuracy", "learning_rate"):
                if name in row:
                    self._board.add_scalar(f"{split}/{name}", row[name], int(row["step"]))

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of the complete ones, oldest first."""
        found = (self.folder / "checkpoints").glob("*")
        return sorted((int(path.name), path) for path in found if path.name.isdecimal())

    def checkpoint(self, step: int, save: Callable[[Path], None]) -> None:
        """Have `save` fill a folder; it takes its place in one step, and older ones go."""
        holder = Path(tempfile.mkdtemp(prefix=f".{step}.", dir=self.folder / "checkpoints"))
        try:
            save(holder)
            for file in sorted(holder.rglob("*")):
                flush_folder(file)
            os.rename(holder, self.folder / "checkpoints" / str(step))
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: no checkpoint of step {step} ({error.strerror or error})"
            ) from None
        finally:
            shutil.rmtree(holder, ignore_errors=True)
        for _, old in self.checkpoints()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _tensorboard(folder: Path, done: int) -> Any:
    """TensorBoard's writer, where tensorboardX is installed."""
    with contextlib.suppress(ImportError):
        from tensorboardX import SummaryWriter

        return SummaryWriter(str(folder), purge_step=done + 1 if done else None)
    return None
