"""A training run's folder: what was asked for, every step, and the checkpoints to go on from.

run.json            the recipe, the framework, hashes of data and start, and versions: an object
                    with the step it began at for the start and for each resume
steps.csv           step, epoch, learning_rate, loss, accuracy, images_per_second: a line a step
evaluations.csv     step, loss, accuracy on the test split
events.out.*        the same for TensorBoard
checkpoints/N/      the framework's own files after step N; the last two are kept
weights.safetensors canonical weights, when the run is done
.lock               held by the process that trains
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from shared.errors import CheckpointError, SpecError
from shared.training.recipes import Recipe
from shared.weights.files import creating_folder, replacing

FORMAT = "resnet-rosetta-run"
RUN, STEPS, EVALUATIONS = "run.json", "steps.csv", "evaluations.csv"
WEIGHTS, CHECKPOINTS = "weights.safetensors", "checkpoints"
STEP_COLUMNS = ("step", "epoch", "learning_rate", "loss", "accuracy", "images_per_second")
EVALUATION_COLUMNS = ("step", "loss", "accuracy")
KEPT = 2  # checkpoints
# What a resumed run has to have in common with the one that it continues, beside the recipe.
_SAME = ("framework", "dtype", "data", "start")


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
    path = folder / RUN
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
    framework = about.get("framework")
    if not isinstance(framework, str):
        raise CheckpointError(f"{path}: framework: expected a name, found {framework!r}")
    try:
        recipe = Recipe.from_dict(about.get("recipe", {}))
    except SpecError as error:
        raise CheckpointError(f"{path}: its recipe cannot be read ({error})") from None
    steps = _read_table(folder / STEPS, STEP_COLUMNS)
    evaluations = _read_table(folder / EVALUATIONS, EVALUATION_COLUMNS)
    return Run(folder, recipe, framework, about, steps, evaluations)


def _read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, float]]:
    """The complete lines of a table; a process that was killed may have left half of
    the last one.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    text = data[: data.rfind(b"\n") + 1].decode("utf-8", errors="replace")
    rows: list[dict[str, float]] = []
    try:
        for row in csv.DictReader(text.splitlines()):
            values = {name: float(row[name]) for name in columns}
            if not all(map(math.isfinite, values.values())) or values["step"] % 1:
                raise ValueError
            rows.append(values)
    except (KeyError, TypeError, ValueError, csv.Error):
        raise CheckpointError(
            f"{path}: line {len(rows) + 2} is not {', '.join(columns)}, each a finite number"
        ) from None
    return rows


class RunWriter:
    """The folder of a run that is being made: logs that grow, checkpoints that replace each
    other.
    """

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
        if self._board is not None:
            self._board.close()
        for file in reversed(self._files):  # the lock last
            file.close()

    def start(self, about: Mapping[str, Any], *, resume: bool) -> int:
        """Make the folder, or continue the run in it. The step that the run has reached: 0 for a
        new one.

        `about` has what `_SAME` names, and perhaps `versions`. What a killed process has left
        unfinished is removed. Raises `SpecError` when another process trains in the folder, when
        there is a run already and `resume` is not wanted, or when it is another run than this one.
        """
        self._make_folder()
        self._lock()
        earlier: list[Any] = []
        done = 0
        if self._has_begun():
            earlier = self._require_same(about, resume)
            done = max((step for step, _ in self.checkpoints()), default=0)
        self._remove_leftovers()
        versions = [*earlier, {"from_step": done, **about.get("versions", {})}]
        with replacing(self.folder / RUN) as temporary:
            text = json.dumps({"format": FORMAT, **about, "versions": versions}, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
        self._steps = self._table(STEPS, STEP_COLUMNS, done)
        self._evaluations = self._table(EVALUATIONS, EVALUATION_COLUMNS, done)
        self._board = _tensorboard(self.folder, done)
        return done

    def _make_folder(self) -> None:
        try:
            (self.folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be written ({error.strerror or error})"
            ) from None

    def _lock(self) -> None:
        """Keep other processes out until this one ends, however it ends."""
        try:
            file = (self.folder / ".lock").open("a")
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be written ({error.strerror or error})"
            ) from None
        self._files.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpecError(
                f"{self.folder}: another process is training in this folder; wait for its end, or "
                "choose another --output"
            ) from None
        except OSError:  # a file system without locks
            return

    def _has_begun(self) -> bool:
        """Whether there is anything to lose: a run whose network could not be built has no step."""
        if not (self.folder / RUN).exists():
            return False
        logged = _read_table(self.folder / STEPS, STEP_COLUMNS)
        return bool(logged or self.checkpoints() or (self.folder / WEIGHTS).exists())

    def _require_same(self, about: Mapping[str, Any], resume: bool) -> list[Any]:
        """The versions that the run has had until now."""
        if not resume:
            raise SpecError(
                f"{self.folder}: holds a run already; --resume continues it, or choose another "
                "--output"
            )
        before = read_run(self.folder)
        changed = [key for key in _SAME if before.about.get(key) != about.get(key)]
        if before.recipe != Recipe.from_dict(about["recipe"]):
            changed.insert(0, "recipe")
        if changed:
            raise SpecError(
                f"{self.folder}: its run has another {changed[0]}, so it cannot be resumed with "
                "this one"
            )
        versions = before.about.get("versions", [])
        return versions if isinstance(versions, list) else [versions]

    def _remove_leftovers(self) -> None:
        """Temporary files of a process that was killed; the lock keeps other writers out."""
        for path in (self.folder / CHECKPOINTS).glob(".*"):
            shutil.rmtree(path, ignore_errors=True)
        for name in (RUN, STEPS, EVALUATIONS, WEIGHTS):
            for path in self.folder.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)

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
        found = (self.folder / CHECKPOINTS).glob("*")
        return sorted((int(path.name), path) for path in found if path.name.isdecimal())

    def checkpoint(self, step: int, save: Callable[[Path], None]) -> None:
        """Have `save` fill a folder; it takes its place in one step, and older ones are removed."""
        with creating_folder(self.folder / CHECKPOINTS / str(step)) as holder:
            holder.mkdir()
            save(holder)
        for _, old in self.checkpoints()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _tensorboard(folder: Path, done: int) -> Any:
    """TensorBoard's writer, where tensorboardX is installed."""
    with contextlib.suppress(ImportError):
        with _without_torch():
            from tensorboardX import SummaryWriter

        return SummaryWriter(str(folder), purge_step=done + 1 if done else None)
    return None


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """PyTorch cannot be imported in here, unless it is already.

    tensorboardX imports it where it is installed, which takes a second, for tensors and graphs
    that it may be given; it gets numbers alone here.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment] # so says the import system
    try:
        yield
    finally:
        del sys.modules["torch"]
