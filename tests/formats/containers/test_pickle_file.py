"""Pickles of arrays: whatever protocol and library wrote them, nothing in them is run."""

from __future__ import annotations

import collections
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from shared.errors import CheckpointError, SpecError
from shared.formats.containers.pickle_stream import SHORT
from shared.formats.containers.registry import read_archive
from shared.formats.convert import find_target
from tests.formats.hostile import assert_same, cheaply, is_refused, mutations, values

RNG = np.random.default_rng(0)
ARRAYS = {
    "kernel": RNG.standard_normal((3, 3, 4, 40)).astype("float32"),
    "bias": np.arange(5.0),
    "columns": np.asfortranarray(RNG.standard_normal((20, 30)).astype("float32")),
    "half": np.arange(700).astype("float16"),
    "big": np.arange(4, dtype=">f4"),
    "brain": np.arange(600).astype(ml_dtypes.bfloat16),
    "count": np.array(3),
    "empty": np.zeros((0, 3), "float32"),
    "flags": np.array([True, False]),
    "bytes": np.arange(256, dtype="uint8"),
}


def write(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    value = {"model": ARRAYS, "epoch": 3, "names": np.array(["a", "bc"]), "author": "us"}
    found = read_archive(write(tmp_path / "net.pkl", value, protocol))
    assert found.container == "pickle"
    assert_same(values(found), {f"model/{name}": array for name, array in ARRAYS.items()})
    assert found.metadata == {"epoch": "3", "author": "us"}


def python_2(arrays: dict[str, np.ndarray], protocol: int) -> bytes:
    """As Python 2 and its NumPy pickled arrays: bytes are texts."""

    def text(raw: bytes) -> bytes:
        if protocol == 0:
            return b"S" + repr(raw).encode()[1:] + b"\n"
        short = len(raw) < 256
        return (b"U" + bytes([len(raw)]) if short else b"T" + struct.pack("<i", len(raw))) + raw

    def number(n: int) -> bytes:
        return b"I%d\n" % n if protocol == 0 else b"J" + struct.pack("<i", n)

    out = (b"\x80\x02" if protocol == 2 else b"") + (b"(d" if protocol == 0 else b"}")
    for name, array in arrays.items():
        shape = b"(" + b"".join(map(number, array.shape)) + b"t"
        dtype = b"cnumpy\ndtype\n(" + text(array.dtype.str[1:].encode()) + number(0) + number(1)
        dtype += b"tR(" + number(3) + text(b"<") + b"NNN" + number(-1) + number(-1) + number(0)
        fortran = b"\x89" if protocol == 2 else b"I00\n"
        out += text(name.encode()) + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n("
        out += number(0) + b"t" + text(b"b") + b"tR(" + number(1) + shape + dtype + b"tb"
        out += fortran + text(array.tobytes()) + b"tbs"
    return out + b"."


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_what_python_2_wrote(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "conv1_w": ARRAYS["kernel"],
        "res2_0_branch2a_bn_s": np.arange(4.0),
        "plain": np.frombuffer(b"abcdefgh", "float32"),  # bytes that are a text
    }
    (tmp_path / "R-50.pkl").write_bytes(python_2(arrays, protocol))
    expected = pickle.loads((tmp_path / "R-50.pkl").read_bytes(), encoding="latin1")  # noqa: S301
    assert_same(values(read_archive(tmp_path / "R-50.pkl")), expected)


class Record(collections.namedtuple("Record", "params state")):
    """What a program keeps its weights in."""


class Holder:
    def __init__(self, **attributes: Any):
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ([{"a": ARRAYS["bias"]}, (ARRAYS["bias"], None)], ["0/a", "1/0"]),
        (Record({"w": ARRAYS["bias"]}, {"m": ARRAYS["bias"]}), ["0/w", "1/m"]),
        (Holder(net=Holder(w=ARRAYS["bias"])), ["net/w"]),
        (collections.OrderedDict(a={b"w": ARRAYS["bias"]}), ["a/w"]),
        (collections.defaultdict(dict, a={1: ARRAYS["bias"]}), ["a/1"]),
        ({"a": ARRAYS["bias"], "path": Path("/x"), "f": {1, 2}, "t": np.float32}, ["a"]),
        (np.array({"a": ARRAYS["bias"]}, dtype=object), ["a"]),
        (
            (
                {"n/~/conv": {"w": ARRAYS["bias"]}},
                {"n/~/bn/~/mean_ema": {"average": ARRAYS["bias"]}},
            ),
            ["params/n/~/conv/w", "state/n/~/bn/~/mean_ema/average"],
        ),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_whatever_holds_them(tmp_path: Path, value: Any, names: list[str], protocol: int) -> None:
    found = read_archive(write(tmp_path / "net.pkl", value, protocol))
    assert list(found.entries) == names
    assert all((array == ARRAYS["bias"]).all() for array in values(found).values())


def test_what_jax_and_haiku_wrote(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax.numpy")
    tree = {"res_net/~/conv": {"w": jax.arange(3.0), "b": jax.arange(2.0).astype(jax.bfloat16)}}
    found = values(read_archive(write(tmp_path / "net.pkl", tree)))
    expected = {f"res_net/~/conv/{leaf}": np.array(a) for leaf, a in tree["res_net/~/conv"].items()}
    assert_same(found, expected)


def test_npy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "net.npy", {"model": ARRAYS}, allow_pickle=True)  # type: ignore[arg-type]
    found = values(read_archive(tmp_path / "net.npy"))
    assert_same(found, {f"model/{name}": array for name, array in ARRAYS.items()})
    np.save(tmp_path / "one.npy", ARRAYS["kernel"])
    with pytest.raises(CheckpointError, match=r"holds one array.*numpy\.savez"):
        read_archive(tmp_path / "one.npy")
    np.save(tmp_path / "two.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="holds 2 Python objects"):
        read_archive(tmp_path / "two.npy")


@pytest.mark.parametrize("name", ["net.pkl", "net.pth", "net.pickle", "net"])
def test_whatever_the_file_is_called(tmp_path: Path, name: str) -> None:
    assert read_archive(write(tmp_path / name, {"a": ARRAYS["bias"]})).container == "pickle"


def test_a_checkpoint_of_pytorch_that_is_called_a_pickle(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for new in (True, False):
        path = tmp_path / "net.pkl"
        torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=new)
        assert read_archive(path).container == "torch"


def test_arrays_stay_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "net.pkl", {"a": np.zeros(64 << 20, "uint8")}, 4)
    with cheaply():
        entry = read_archive(path).entries["a"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] = 7
    path.write_bytes(data)
    assert entry.load().max() == 7


@pytest.mark.parametrize("name", ["a.pkl", "a.npy", "a.onnx", "a.ckpt.index"])
def test_what_is_read_alone_is_not_written(name: str) -> None:
    with pytest.raises(SpecError, match="is read, and not written"):
        find_target(Path(name), None)


# What is refused.


def array(
    shape: tuple[int, ...] = (2, 3),
    data: bytes = bytes(24),
    dtype: bytes = b"f4",
    more: bytes = b"",
) -> bytes:
    """An array by hand."""
    sizes = b"".join(b"\x8a\x09" + n.to_bytes(9, "little", signed=True) for n in shape)
    sizes = b"(" + sizes + b"t"
    kind = b"cnumpy\ndtype\n(U" + bytes([len(dtype)]) + dtype + b"\x89\x88tR"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    raw = b"B" + struct.pack("<I", len(data)) + data
    return start + b"(K\x01" + sizes + kind + b"\x89" + raw + b"tb" + more


def item(body: bytes) -> bytes:
    return b"\x80\x03}X\x01\x00\x00\x00w" + body + b"s."


HOSTILE: dict[str, tuple[bytes, str]] = {
    "call": (item(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R"), "os.system.*nothing was run"),
    "call of protocol 0": (b"cos\nsystem\n(S'ls'\ntR.", "os.system.*nothing was run"),
    "a function of a program": (item(b"cevil.tools\nrun\n)R"), "evil.tools.run.*nothing was run"),
    "INST": (b"(S'ls'\nios\nsystem\n.", "INST"),
    "OBJ": (b"(cevil\nClass\no.", "OBJ"),
    "PERSID": (b"(dP1\ns.", "PERSID"),
    "BINPERSID": (item(b"NQ"), "0x51"),
    "partial": (item(b"cfunctools\npartial\nU\x02ls\x85R"), "functools.partial.*nothing was run"),
    "getattr": (item(b"c__builtin__\ngetattr\nU\x02osU\x06system\x86R"), "getattr.*nothing was"),
    "bytes": (item(b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R"), "bytes"),
    "few bytes": (item(array(data=bytes(23))), "needs 24 bytes, and has 23"),
    "many bytes": (item(array(data=bytes(25))), "needs 24 bytes, and has 25"),
    "negative": (item(array((-2, -3))), "impossible"),
    "huge": (item(array((1 << 40, 1 << 30))), "impossible"),
    "huge and empty": (item(array((0, 1 << 30, 1 << 30), b"")), "impossible"),
    "nine axes": (item(array((1,) * 9, bytes(4))), "impossible"),
    "objects as bytes": (item(array((3,), bytes(24), b"O8")), "not of its dtype"),
    "twice": (item(array(more=b"(K\x01)NNNtb")), "impossible"),
    "no contents": (item(array()[: array().index(b"(K\x01")]), "holds no arrays"),
    "texts": (item(array((2, 3), bytes(24), b"S4")), "holds no arrays"),
    "records": (item(array((2, 3), bytes(24), b"V4")), "holds no arrays"),
    "cut": (item(array((2000,), bytes(8000)))[:5000], "cut short"),
    "cut text": (b"\x80\x04X\xff\xff\xff\x7fabc", "cut short"),
    "8 EiB": (b"\x80\x05\x96" + b"\xff" * 8, "cut short"),
    "a long line": (b"I" + b"1" * 5000, "does not end"),
    "a number": (b"I1x\n.", "the number"),
    "a huge number": (b"L" + b"9" * 300 + b"L\n.", "does not end|the number"),
    "infinity in words": (b"Fxnan\n.", "the number"),
    "an index": (b"(dp99999999999\n.", "numbers a value"),
    "no quotes": (b"Sabc\n.", "without quotes"),
    "an escape": (b"S'\\xZZ'\n.", "escapes"),
    "followed": (item(array()) + b"N.", "follows"),
    "deep": (b"(" * 5000, "deep"),
    "many": (b"\x80\x02" + b"N" * 1_000_000 + b".", "operations"),
    "axes": (
        b"\x80\x05}U\x01wcnumpy._core.numeric\n_frombuffer\n(C\x08abcdefgh"
        b"cnumpy\ndtype\nU\x02f8\x85RK\x01\x85U\x01KK\x00\x85tRs.",
        "order of its own",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    body, words = HOSTILE[name]
    path = tmp_path / "net.pkl"
    path.write_bytes(body)
    with cheaply(), pytest.raises(CheckpointError, match=words) as caught:
        values(read_archive(path))
    assert "\n" not in str(caught.value)


def test_an_array_by_hand_is_read(tmp_path: Path) -> None:
    """Those above fail for their own reasons."""
    (tmp_path / "net.pkl").write_bytes(item(array()))
    assert values(read_archive(tmp_path / "net.pkl"))["w"].shape == (2, 3)


class Evil:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_code_does_not_run(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    path = write(tmp_path / "net.pkl", {"a": Evil(f"touch {canary}")}, protocol)
    with pytest.raises(CheckpointError, match="nothing was run"):
        read_archive(path)
    assert not canary.exists()


def test_a_list_within_itself_ends(tmp_path: Path) -> None:
    loop: list[Any] = [ARRAYS["bias"]]
    loop.append(loop)
    assert list(read_archive(write(tmp_path / "net.pkl", loop)).entries) == ["0"]


def test_one_array_over_and_over_is_refused(tmp_path: Path) -> None:
    one = np.zeros(1 << 20, "uint8")
    path = write(tmp_path / "net.pkl", [one] * 1000)
    with cheaply(), pytest.raises(CheckpointError, match="unfold"):
        read_archive(path)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_mutations_and_truncations(tmp_path: Path, protocol: int) -> None:
    names = ("kernel", "columns", "bias")
    path = write(tmp_path / "net.pkl", {n: ARRAYS[n] for n in names}, protocol)
    data = path.read_bytes()
    refused = 0
    with cheaply():
        head, end = data[:400], 400
        for mutant in mutations(head, 150):
            path.write_bytes(mutant + data[end:])
            refused += is_refused(read_archive, path)
        for size in (*range(0, 400, 3), *range(400, len(data), SHORT)):
            path.write_bytes(data[:size])
            assert is_refused(read_archive, path), size
    assert refused > 70
