"""Published files are downloaded to a temporary sibling first, and kept only if the size and the
SHA-256 are right.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from shared.datasets.catalogue import Dataset, RemoteFile
from shared.errors import CheckpointError, DatasetError
from shared.weights.files import replacing

Progress = Callable[[str, int, int], None]  # the file's name, bytes so far, bytes in all

TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 16


def download_dataset(dataset: Dataset, folder: Path, progress: Progress | None = None) -> Path:
    """All files of the dataset in `folder`, which is returned; those that are there already are
    left alone.

    `progress` is called after every chunk; None draws a bar on standard error where that is a
    terminal. Raises `DatasetError` in one line when there is no network, and when a file is not the
    published one.
    """
    missing = [file for file in dataset.files if not (folder / file.name).is_file()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be made ({error.strerror or error})") from None
    with contextlib.nullcontext(progress) if progress or not missing else _bar(missing) as tell:
        for file in missing:
            _fetch(file, folder / file.name, tell, dataset.hint)
    return folder


def _fetch(file: RemoteFile, target: Path, tell: Progress | None, hint: str) -> None:
    """The file from the first of its addresses that has it."""
    failures = []
    for url in file.urls:
        try:
            with replacing(target) as temporary, temporary.open("wb") as stream:
                _receive(url, file, stream, tell)
            return
        except DatasetError as error:
            failures.append(str(error))
        except CheckpointError as error:  # the disk: another address would not help
            raise DatasetError(str(error)) from None
    others = f", nor from {len(failures) - 1} more" if len(failures) > 1 else ""
    raise DatasetError(
        f"{failures[0]}{others}; files that are elsewhere already can be given by their folder"
        + (f"; {hint}" if hint else "")
    )


def _receive(url: str, file: RemoteFile, stream: IO[bytes], tell: Progress | None) -> None:
    # Imported here: TLS takes long to import, and most runs find their data on the machine.
    import http.client
    import urllib.request

    found, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:  # noqa: S310 - an address of the catalogue
            while size <= file.size and (chunk := response.read(_CHUNK)):
                found.update(chunk)
                size += len(chunk)
                stream.write(chunk)
                if tell:
                    tell(file.name, min(size, file.size), file.size)
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise DatasetError(
            f"{url}: cannot be fetched ({said or type(error).__name__}); is there a network?"
        ) from None
    if size != file.size:
        more = "more than " if size > file.size else ""
        raise DatasetError(
            f"{url}: is not the file that was published; expected {file.size:,} bytes, found "
            f"{more}{min(size, file.size):,}"
        )
    if found.hexdigest() != file.sha256:
        raise DatasetError(
            f"{url}: is not the file that was published; expected SHA-256 {file.sha256}, found "
            f"{found.hexdigest()}"
        )


@contextlib.contextmanager
def _bar(files: list[RemoteFile]) -> Iterator[Progress | None]:
    """A bar for every file on standard error."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {
            file.name: bars.add_task(file.name, total=file.size, start=False) for file in files
        }

        def tell(name: str, done: int, total: int) -> None:
            bars.start_task(tasks[name])
            bars.update(tasks[name], completed=done, total=total)

        yield tell
