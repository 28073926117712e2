"""Flax's msgpack: the bytes that Flax writes, and what it restores from ours; every
damage refused.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import CheckpointError, FrameworkError
from shared.formats.containers import msgpack_file
from shared.formats.containers.msgpack_file import read, write
from shared.formats.containers.registry import read_archive
from tests.formats.hostile import (
    archive_of,
    arrays,
    assert_same,
    cheaply,
    is_refused,
    mutations,
    values,
    wide_arrays,
)

FILE = "x.msgpack"


def nested(tensors: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in tensors.items():
        *parents, leaf = name.split("/")
        level = tree
        for parent in parents:
            level = level.setdefault(parent, {})
        level[leaf] = array
    return tree


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    pairs = [
        (flat(v, f"{prefix}{k}/") if isinstance(v, dict) else {prefix + k: v})
        for k, v in tree.items()
    ]
    return {name: array for pair in pairs for name, array in pair.items()}


def variables() -> dict[str, np.ndarray]:
    return {f"params/{n}": a for n, a in arrays().items()} | {
        "batch_stats/bn/mean": np.ones(4, "float32")
    }


# msgpack by hand, for what Flax would not write.


def text(value: str) -> bytes:
    return b"\xda" + struct.pack(">H", len(value.encode())) + value.encode()


def table(*pairs: tuple[str, bytes]) -> bytes:
    return b"\xdf" + struct.pack(">I", len(pairs)) + b"".join(text(k) + v for k, v in pairs)


def ndarray(
    shape: bytes = b"\x91\x01", dtype: str = "float32", data: bytes = b"1234", code: int = 1
) -> bytes:
    body = b"\x93" + shape + text(dtype) + b"\xc4" + bytes([len(data)]) + data
    return b"\xc9" + struct.pack(">I", len(body)) + bytes([code]) + body


def chunked(shape: bytes, *chunks: bytes) -> bytes:
    parts = table(*((str(i), chunk) for i, chunk in enumerate(chunks)))
    return table(("__msgpack_chunked_array__", b"\xc3"), ("shape", shape), ("chunks", parts))


@pytest.fixture
def serialization() -> Any:
    return pytest.importorskip("flax.serialization")


def test_the_bytes_are_flax_own(tmp_path: Path, serialization: Any) -> None:
    tensors = {n: a for n, a in wide_arrays().items() if n != "x/big"}
    write(tmp_path / FILE, archive_of(tensors))
    assert (tmp_path / FILE).read_bytes() == serialization.msgpack_serialize(
        nested(tensors), in_place=True
    )
    assert_same(flat(serialization.msgpack_restore((tmp_path / FILE).read_bytes())), tensors)


def test_what_flax_writes_is_read(tmp_path: Path, serialization: Any) -> None:
    (tmp_path / FILE).write_bytes(serialization.to_bytes(nested(variables())))
    archive = read(tmp_path / FILE)
    assert archive.container == "msgpack"
    assert archive.stripped_prefixes == ()
    assert_same(values(archive), variables())


def test_from_bytes_restores_what_is_written(tmp_path: Path, serialization: Any) -> None:
    write(tmp_path / FILE, archive_of(variables()))
    target = nested({name: np.zeros_like(array) for name, array in variables().items()})
    assert_same(flat(serialization.from_bytes(target, (tmp_path / FILE).read_bytes())), variables())


def test_large_arrays_are_chunked_as_flax_does(
    tmp_path: Path, serialization: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    monkeypatch.setattr(msgpack_file, "CHUNK", 100)
    write(tmp_path / FILE, archive_of(arrays()))
    assert b"__msgpack_chunked_array__" in (tmp_path / FILE).read_bytes()
    assert (tmp_path / FILE).read_bytes() == serialization.msgpack_serialize(
        nested(arrays()), in_place=True
    )
    assert_same(values(read(tmp_path / FILE)), arrays())


@pytest.mark.parametrize(
    "step", [7, np.int64(7), np.array(7, "int32")], ids=["int", "scalar", "array"]
)
def test_a_train_state(tmp_path: Path, serialization: Any, step: Any) -> None:
    state = nested(variables()) | {
        "step": step,
        "opt_state": {"0": {"trace": arrays()["bn/scale"]}, "1": {}},
        "ema_params": {"a": arrays()["bn/scale"]},
    }
    (tmp_path / FILE).write_bytes(serialization.to_bytes(state))
    archive = read(tmp_path / FILE)
    others = {"opt_state/0/trace": arrays()["bn/scale"], "ema_params/a": arrays()["bn/scale"]}
    assert_same(values(archive), variables() | others)
    assert archive.stripped_prefixes == ()
    assert archive.metadata == {"step": "7"}


@pytest.mark.parametrize("tops", [("ema_params", "ema_batch_stats"), ("model_state", "other")])
def test_other_trees_of_a_state_are_there(tmp_path: Path, tops: tuple[str, str]) -> None:
    """Averaged weights with their statistics are a network of their own."""
    more = {f"{top}/bn/mean": arrays()["bn/scale"] for top in tops}
    write(tmp_path / FILE, archive_of(variables() | more))
    assert_same(values(read(tmp_path / FILE)), variables() | more)


@pytest.mark.parametrize("name", ["checkpoint_7", "folder"])
def test_as_flax_calls_its_files(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "checkpoint" if name == "folder" else tmp_path / name
    write(path, archive_of(variables()))
    assert_same(values(read_archive(tmp_path / name)), variables())


def test_a_bare_tree_stays_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / FILE, archive_of(arrays()))
    archive = read(tmp_path / FILE)
    assert_same(values(archive), arrays())
    assert archive.stripped_prefixes == ()


def test_leaves_that_are_no_arrays(tmp_path: Path) -> None:
    leaves = table(
        ("i", b"\xff"),
        ("f", b"\xcb" + struct.pack(">d", 0.5)),
        ("n", b"\xc0"),
        ("s", text("é")),
        ("l", b"\x92\x01" + ndarray()),
        ("u", b"\xcf" + b"\xff" * 8),
    )
    (tmp_path / FILE).write_bytes(leaves)
    archive = read(tmp_path / FILE)
    assert archive.metadata == {
        "i": "-1",
        "f": "0.5",
        "n": "None",
        "s": "é",
        "l/0": "1",
        "u": str((1 << 64) - 1),
    }
    assert list(archive.entries) == ["l/1"]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    write(tmp_path / FILE, archive_of(variables()))
    good = (tmp_path / FILE).read_bytes()
    accepted = []
    for length in range(len(good)):
        (tmp_path / FILE).write_bytes(good[:length])
        if not is_refused(read, tmp_path / FILE):
            accepted.append(length)
    assert accepted == []


def test_mutants_are_refused_or_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msgpack_file, "CHUNK", 100)
    write(tmp_path / FILE, archive_of(variables()))
    good, refused = (tmp_path / FILE).read_bytes(), 0
    for mutant in mutations(good):
        (tmp_path / FILE).write_bytes(mutant)
        refused += is_refused(read, tmp_path / FILE)
    assert refused > 100


DEEP = b"\x81\xa1a" * 100_000 + b"\x80"
BAD = {
    "empty": (b"", "announces 1 bytes"),
    "no-map": (b"\x93\x01\x02\x03", "expected map"),
    "trailing-bytes": (table(("a", ndarray())) + b"\x00", "the file at byte"),
    "unknown-tag": (table(("a", b"\xc1")), "starts no object"),
    "deep": (DEEP, "nested deeper"),
    "deep-lists": (table(("a", b"\x91" * 100_000 + b"\x01")), "nested deeper"),
    "map-of-2^32": (b"\xdf\xff\xff\xff\xff", "announces 8589934590 bytes"),
    "list-of-2^32": (table(("a", b"\xdd\xff\xff\xff\xff")), "announces"),
    "text-of-4-GB": (table(("a", b"\xdb\xff\xff\xff\xff")), "text of"),
    "array-of-4-GB": (table(("a", b"\xc9\xff\xff\xff\xff\x01")), "announces"),
    "key-of-4-GB": (b"\x81\xdb\xff\xff\xff\xff", "key at byte"),
    "key-is-a-number": (b"\x81\x01" + ndarray(), "expected str"),
    "key-not-utf8": (b"\x81\xa1\xff" + ndarray(), "not UTF-8"),
    "key-of-two-maps": (
        table(("a", table(("b", ndarray()))), ("a", table(("c", ndarray())))),
        "twice",
    ),
    "bytes-after-an-array": (
        table(("a", b"\xc7\x11\x01\x93\x91\x01\xa7float32\xc4\x02xxxx")),
        "end at byte",
    ),
    "key-twice": (table(("a", ndarray()), ("a", ndarray())), "twice"),
    "path-twice": (table(("a/b", ndarray()), ("a", table(("b", ndarray())))), "twice"),
    "long-paths": (
        table(
            *[
                (
                    "x" * 200,
                    b"\x81\xda\x00\xc8" + b"y" * 200 + b"\x81\xda\x00\xc8" + b"z" * 200 + b"\x01",
                )
            ]
        ),
        "nested deeper",
    ),
    "complex": (table(("a", b"\xd5\x02\x90\x90")), "complex"),
    "unknown-extension": (table(("a", b"\xd4\x07\x00")), "extension type 7"),
    "raw-bytes": (table(("a", b"\xc4\x01x")), "without a type"),
    "object-dtype": (table(("a", ndarray(dtype="object"))), "dtype"),
    "structured-dtype": (table(("a", ndarray(dtype="f4,f4"))), "dtype"),
    "shape-too-large": (table(("a", ndarray(b"\x91\x02"))), "does not follow"),
    "8-PiB": (table(("a", ndarray(b"\x91\xcf\x00\x04" + bytes(6)))), "impossible shape"),
    "zero-times-2^63": (
        table(("a", ndarray(b"\x92\x00\xcf\x80" + bytes(7), data=b""))),
        "impossible shape",
    ),
    "negative-size": (table(("a", ndarray(b"\x91\xff"))), "impossible shape"),
    "true-as-a-size": (table(("a", ndarray(b"\x91\xc3"))), "impossible shape"),
    "nine-dimensions": (table(("a", ndarray(b"\x99" + b"\x01" * 9))), "9 dimensions"),
    "dimensions-2^32": (table(("a", ndarray(b"\xdd\xff\xff\xff\xff"))), "announces"),
    "scalar-with-a-shape": (table(("a", ndarray(code=3))), "scalar"),
    "chunks-of-two-dtypes": (
        table(("a", chunked(table(("0", b"\x02")), ndarray(), ndarray(dtype="int32")))),
        "2 dtypes",
    ),
    "chunks-too-few": (table(("a", chunked(table(("0", b"\x02")), ndarray()))), "does not follow"),
    "chunks-none": (table(("a", chunked(table(("0", b"\x00"))))), "0 dtypes"),
    "chunks-not-numbered": (
        table(("a", chunked(table(("1", b"\x01")), ndarray()))),
        "number its shape",
    ),
    "chunk-not-flat": (
        table(("a", chunked(table(("0", b"\x01")), ndarray(b"\x92\x01\x01")))),
        "no flat array",
    ),
    "chunked-root": (chunked(table(("0", b"\x01")), ndarray()), "damaged"),
    "300000-leaves": (
        b"\xdf"
        + struct.pack(">I", 300_000)
        + b"".join(b"\xa5%05x\x01" % n for n in range(300_000)),
        "more than",
    ),
    "300000-chunks": (
        table(
            (
                "a",
                table(
                    ("__msgpack_chunked_array__", b"\xc3"),
                    ("shape", table()),
                    ("chunks", b"\xdf" + struct.pack(">I", 300_000) + bytes(900_000)),
                ),
            )
        ),
        "more than",
    ),
    "large-texts": (table(*((str(n), text("x" * 60_000)) for n in range(20))), "characters"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / FILE).write_bytes(data)
    with cheaply(), pytest.raises(CheckpointError, match=message) as caught:
        values(read(tmp_path / FILE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a/b"], "goes through"),
        (["a/b", "a"], "a group"),
        (["/".join("a" * 65)], "nested deeper"),
        (["a/__msgpack_chunked_array__"], "keeps for itself"),
        (["\ud800"], "Unicode"),
    ],
)
def test_names_that_cannot_be_written(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        write(tmp_path / FILE, archive_of({name: np.zeros(1, "float32") for name in names}))


def test_a_dtype_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="complex64"):
        write(tmp_path / FILE, archive_of({"a": np.zeros(1, "complex64")}))


def test_without_msgpack_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)  # imports as if it were not there
    with pytest.raises(FrameworkError, match=r"pip install 'resnet-rosetta\[flax\]'"):
        write(tmp_path / FILE, archive_of({"a": np.zeros(1, "float32")}))
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("shape", [(), (1,), (63,), (64,), (16383,), (16384,), (128, 129), (0, 3)])
def test_the_bytes_are_those_of_flax(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Heads of every length, short ones and long ones."""
    serialization = pytest.importorskip("flax.serialization")
    array = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    write(tmp_path / FILE, archive_of({"a/b": array, "a/c": array, "d": array}))
    tree = {"a": {"b": array, "c": array}, "d": array}
    assert (tmp_path / FILE).read_bytes() == serialization.msgpack_serialize(tree)
