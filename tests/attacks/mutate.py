"""Mutations of valid checkpoints, each a function of the format, its number and nothing else.

Half of them know the format: JSON, the members of archives and the integers in headers are changed
and put back in such a way that the rest stays as it was. HDF5 and Orbax are read through the same
sandbox as ever, whose process is here a fork of one that has imported its libraries, which is the
only difference to `shared.formats.containers.sandbox`.
"""

from __future__ import annotations

import copy
import io
import json
import random
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.formats.containers.protobuf import BYTES, Source
from shared.formats.containers.tensorflow.leveldb_table import blocks
from tests.attacks import seeds
from tests.attacks.check import REFUSALS, wrong_line
from tests.attacks.mutants import Mutants, Seen, mutating
from tests.formats import tensorflow_files

MAGIC = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**9,
    1e308,
    -0.5,
    "",
    "../x",
    "/etc/passwd",
    "\0",
    "é",
    [],
    {},
    [[]],
    [10**9] * 4,
    "9" * 400,
)
HANG = 5.0  # seconds


def mutant_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to three changes, most of them near the start, where headers are."""
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if not mutant:
            break
        reach = min(len(mutant), 4096) if rng.random() < 0.5 else len(mutant)
        at, kind = rng.randrange(reach), rng.randrange(7)
        if kind == 0:
            mutant[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            mutant[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 2:
            del mutant[at : at + rng.randint(1, 8)]
        elif kind == 3:
            del mutant[rng.choice((at, len(mutant) - rng.randint(1, min(32, len(mutant))))) :]
        elif kind == 4:
            start, size = rng.randrange(len(mutant)), rng.randint(1, 64)
            mutant[at : at + size] = mutant[start : start + size]
        else:
            width = rng.choice((1, 2, 4, 8))
            at -= at % width if kind == 5 else 0
            value = rng.choice(MAGIC) % (1 << (8 * width))
            mutant[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
    return bytes(mutant)


def mutant_json(text: bytes, rng: random.Random) -> bytes:
    """JSON with one to three values changed, removed, doubled or swapped."""
    value = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        holders = list(_holders(value))
        if not holders:
            break
        holder = rng.choice(holders)
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        kind, old = rng.randrange(6), holder[key]
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other = rng.choice(holders)
            another = rng.choice(list(other) if isinstance(other, dict) else range(len(other)))
            holder[key] = copy.deepcopy(other[another])
        elif kind == 2 and isinstance(old, int) and not isinstance(old, bool):
            holder[key] = old + rng.choice((-1, 1, -old, 1 << 31, 1 << 62))
        elif kind == 3 and isinstance(holder, dict):
            holder[key + rng.choice(("", "x", "/", "\n", ".weight"))] = holder.pop(key)
        elif kind == 4 and isinstance(old, str) and old[:1] == "{":
            holder[key] = mutant_json(old.encode(), rng).decode()
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    made = json.dumps(value).encode()
    return mutant_bytes(made, rng) if rng.random() < 0.1 else made


def _holders(value: Any) -> Iterator[dict | list]:
    """All objects and lists with something in them."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, dict | list) and found:
            yield found
            pending.extend(found.values() if isinstance(found, dict) else found)


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    end = 8 + int.from_bytes(data[:8], "little")
    header = mutant_json(data[8:end], rng)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _zip(data: bytes, rng: random.Random) -> bytes:
    """A zip file with a member changed, and its sizes and checksum put right."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = rng.choice([n for n in members if n.endswith((".pkl", ".json", ".h5"))] or list(members))
    if rng.random() < 0.1:
        members[name + rng.choice(("", "2", "\\x", "/../x"))] = members.pop(name)
    elif name.endswith(".json"):
        members[name] = mutant_json(members[name], rng)
    else:
        members[name] = mutant_bytes(members[name], rng)
    return seeds.stored_zip(members)


def _pickle(data: bytes, rng: random.Random, end: int | None = None) -> bytes:
    """A stream of pickles with opcodes changed into others, or arguments, up to `end`."""
    mutant = bytearray(data)
    end = min(len(data), len(seeds.state_pickle()) + 60 if end is None else end)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(end)
        mutant[at] = rng.choice(
            b"RbioPQ\x81\x82\x85\x92\x93()tu}]eaNJKMXqhj.0" + bytes([mutant[at] ^ 1])
        )
    return bytes(mutant)


def _arrays(data: bytes, rng: random.Random) -> bytes:
    """A pickle of arrays, of which most opcodes are anywhere between their bytes."""
    starts = [at for at in range(len(data) - 8) if data[at : at + 5] in (b"numpy", b"dtype")]
    base = max(0, rng.choice(starts or [0]) - 20)
    return data[:base] + _pickle(data[base:], rng, 60)


def _table(data: bytes, rng: random.Random) -> bytes:
    """A table of LevelDB whose first block is changed, and its checksum put right."""
    source = Source(data, ValueError)
    first = blocks(source)[0]
    changed = mutant_bytes(data[: first.size], rng)[: first.size].ljust(first.size, b"\0")
    return tensorflow_files.closed(changed) + data[first.size + 5 :]


def _message(data: bytes, rng: random.Random, depth: int = 0) -> bytes:
    """A message of protocol buffers with a field changed, and the lengths around it put right."""
    source = Source(data, ValueError)
    try:
        fields = list(source.fields())
    except ValueError:
        fields = []
    inner = [f for f in fields if f.kind == BYTES and 0 < f.end - f.start < 1 << 20]
    if not inner or depth == 5 or rng.random() < 0.15 * depth:
        return mutant_bytes(data[:512], rng) + data[512:]
    chosen = rng.choice(inner)
    content = _message(data[chosen.start : chosen.end], rng, depth + 1)
    size = tensorflow_files.varint(chosen.end - chosen.start)
    head = data[: chosen.start - len(size)]
    return head + tensorflow_files.varint(len(content)) + content + data[chosen.end :]


STRUCTURED = {
    "safetensors": _safetensors,
    "torch-zip": _zip,
    "npz": _zip,
    "keras": _zip,
    "torch-legacy": _pickle,
    "module": _zip,
    "module-legacy": _pickle,
    "script": _zip,
    "pickle": _arrays,
    "npy": _arrays,
    "pickle-old": _arrays,
    "tensorflow-old": _table,
    "onnx": _message,
}


def mutate(kind: str, files: dict[str, bytes], number: int) -> dict[str, bytes]:
    """Mutant `number` of a checkpoint's files: name -> bytes, of those that change."""
    rng = random.Random(f"{kind} {number}")  # noqa: S311 - the same every time
    plain = [n for n in files if n.endswith((".json", ".zarray", "_METADATA", ".index"))]
    name = rng.choice(plain if plain and rng.random() < 0.6 else list(files))
    data = files[name]
    if rng.random() < 0.5:
        if kind in STRUCTURED:
            return {name: STRUCTURED[kind](data, rng)}
        if name.endswith(".index"):
            return {name: _table(data, rng)}
        if name in plain:
            return {name: mutant_json(data, rng)}
    return {name: mutant_bytes(data, rng)}


def read_files(path: Path) -> dict[str, bytes]:
    """The files of a checkpoint by their places in it; `.` is the file itself."""
    if path.is_file():
        return {".": path.read_bytes()}
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def problems(seen: Seen, path: Path) -> list[str]:
    """What is wrong with how a mutant was taken."""
    found = []
    if seen.kind in REFUSALS:
        found += wrong_line(seen.message, path)
    elif seen.kind != "read":
        found.append(f"{seen.kind}: {seen.message[:300]}")
    if seen.seconds > HANG:
        found.append(f"took {seen.seconds:.1f} s")
    if seen.new:
        found.append(f"left {seen.new}")
    return found


def run_kind(
    mutants: Mutants, kind: str, numbers: range, until: float | None = None
) -> tuple[int, dict[str, int], list[str]]:
    """(next number, how often what happened, failures) of a format's mutants; ends early at the
    time `until`.
    """
    counts: dict[str, int] = {}
    failures: list[str] = []
    number = numbers.start
    with tempfile.TemporaryDirectory() as folder:
        path = seeds.SEEDS[kind](Path(folder).resolve())
        files = read_files(path)
        for number in numbers:
            if until is not None and time.monotonic() > until:
                return number, counts, failures
            seen = mutants.open(path, mutate(kind, files, number))
            how = "in its sandbox, died" if "its reader" in seen.message else seen.kind
            counts[how] = counts.get(how, 0) + 1
            failures += [f"{kind} {number}: {problem}" for problem in problems(seen, path)]
    return numbers.stop, counts, failures


def checksum(kind: str, files: dict[str, bytes], number: int) -> int:
    """Of a mutant: equal for equal ones."""
    return zlib.crc32(
        b"".join(name.encode() + data for name, data in mutate(kind, files, number).items())
    )


def run_mutations(count: int, only: str | None, minutes: float | None, state: Path | None) -> int:
    """The number of failures, each printed with the number that makes it again."""
    until = None if minutes is None else time.monotonic() + 60 * minutes
    done: dict[str, int] = (
        json.loads(state.read_text()) if state is not None and state.exists() else {}
    )
    failed = 0
    for kind in (kind for kind in seeds.SEEDS if only is None or only in kind):
        start, began = done.get(kind, 0), time.monotonic()
        with mutating() as mutants:
            numbers = range(start, max(start, count))
            end, counts, failures = run_kind(mutants, kind, numbers, until)
        done[kind] = end
        if state is not None:
            state.write_text(json.dumps(done))
        print(*failures, sep="\n", end="\n" if failures else "")
        said = ", ".join(f"{n} {how}" for how, n in sorted(counts.items()))
        print(
            f"{kind:14}{start:6} to {end:6} of {count} in {time.monotonic() - began:6.1f} s: "
            f"{said}",
            flush=True,
        )
        failed += len(failures)
    print(f"{failed} failures")
    return failed
