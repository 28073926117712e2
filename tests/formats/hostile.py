"""What a reader must survive: cut and mutated files, and bombs; and the archives that writers are
tried with.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from shared.errors import CheckpointError
from shared.formats.containers.archive import Archive, Entry

SECONDS = 2.0
MEMORY = 200 << 20  # bytes over what the process had before

Read = Callable[[Path], Archive]


def arrays() -> dict[str, np.ndarray]:
    """A few arrays of different ranks; name -> array, the names with slashes."""
    rng = np.random.default_rng(0)
    return {
        "conv/kernel": rng.standard_normal((3, 3, 2, 4)).astype("float32"),
        "conv/half": rng.standard_normal((5,)).astype("float16"),
        "bn/scale": rng.standard_normal((4,)).astype("float32"),
        "head/kernel": np.asfortranarray(rng.standard_normal((4, 7)).astype("float32")),
        "head/empty": np.zeros((0, 3), "float32"),
        "head/count": np.arange(6, dtype="int32").reshape(2, 3),
    }


def wide_arrays() -> dict[str, np.ndarray]:
    """Those of `arrays` and of dtypes that not every format has."""
    return arrays() | {
        "x/double": np.linspace(0, 1, 5),
        "x/bf": np.arange(6).astype(ml_dtypes.bfloat16).reshape(3, 2),
        "x/long": np.array([1 << 40, -1]),
        "x/scalar": np.array(2.5, "float32"),
        "x/big": np.arange(4, dtype=">f4"),
        "x/byte": np.arange(3, dtype="uint8"),
    }


def archive_of(tensors: dict[str, np.ndarray], container: str = "test", **metadata: str) -> Archive:
    return Archive(container, {name: Entry.of(array) for name, array in tensors.items()}, metadata)


def values(archive: Archive) -> dict[str, np.ndarray]:
    """All arrays of an archive, which are what its entries announce."""
    found = {name: entry.load() for name, entry in archive.entries.items()}
    for name, entry in archive.entries.items():
        assert (found[name].shape, found[name].dtype) == (entry.shape, entry.dtype), name
    return found


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same names, dtypes (in any byte order), shapes and bits."""
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype.name == array.dtype.name, name
        assert found[name].shape == array.shape, name
        assert found[name].astype(array.dtype).tobytes() == array.tobytes(), name


def is_refused(read: Read, path: Path) -> bool:
    """Whether reading, or loading what was read, raises `CheckpointError` of one line; any other
    error is raised.
    """
    try:
        values(read(path))
    except CheckpointError as error:
        message = str(error)
    else:
        return False
    assert "\n" not in message
    assert str(path.parent) in message
    return True


def mutations(data: bytes, count: int = 300, seed: int = 0) -> Iterator[bytes]:
    """The data with a few bytes changed, removed, inserted or copied from elsewhere."""
    rng = np.random.default_rng(seed)
    special = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0xDF, 0xC1)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            at, kind = int(rng.integers(len(mutant))), rng.integers(5)
            if kind == 0:
                mutant[at] = rng.integers(256)
            elif kind == 1:
                mutant[at] = special[rng.integers(len(special))]
            elif kind == 2:
                del mutant[at : at + int(rng.integers(1, 9))]
            elif kind == 3:
                mutant[at:at] = rng.bytes(int(rng.integers(1, 9)))
            else:
                start = int(rng.integers(len(mutant)))
                mutant[at : at + 8] = mutant[start : start + 8]
            if not mutant:
                break
        yield bytes(mutant)


@contextlib.contextmanager
def cheaply() -> Iterator[None]:
    """Fail if the block takes too much processor time or memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    assert seconds < SECONDS, f"took {seconds:.1f} s"
    assert grown < MEMORY, f"took {grown >> 20} MiB"
