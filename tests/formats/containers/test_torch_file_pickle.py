"""Pickles in PyTorch checkpoints that mean harm: what would run code does not run."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.formats.containers.pickle_machine import MAX_OPERATIONS, Machine
from shared.formats.containers.pickle_values import PickleRefused
from shared.formats.containers.torch_file import read

torch = pytest.importorskip("torch")

from tests.formats.torch_files import (
    number,
    one,
    persistent,
    refused,
    save,
    tensor,
    text,
    write_legacy,
    write_zip,
)


@pytest.fixture
def craft(layout: str, tmp_path: Path) -> Any:
    """Writes a pickle by hand into a checkpoint of either layout."""
    writer = write_zip if layout == "zip" else write_legacy
    return lambda body, **options: writer(tmp_path / "hostile.pth", body, **options)


class Call:
    """Pickled as a call, which the real unpickler would make."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["top", "value", "wrapped", "key", "parameter"])
@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (os.system, f"{os.system.__module__}.system"),
        (eval, "eval"),
        (exec, "exec"),
        (pickle.loads, "loads"),
        (getattr, "getattr"),
        (subprocess.check_output, "check_output"),
        (__import__, "__import__"),
        (torch.load, "torch.serialization.load"),
        (torch.storage._load_from_bytes, "torch.storage._load_from_bytes"),
        (np.load, "load"),
        (torch.utils.collect_env.run, "run"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_code_does_not_run(tmp_path, layout, function, shown, place, protocol):
    canary = tmp_path / "canary"
    call: Any = Call(
        function, f"touch {canary}" if function is os.system else f"open({str(canary)!r}, 'w')"
    )
    values = {
        "top": call,
        "value": {"w": torch.ones(2), "x": call},
        "wrapped": {"state_dict": {"w": torch.ones(2)}, "optimizer": [(call,)]},
        "key": {"w": torch.ones(2), "x": {"y": call}},
        "parameter": collections.OrderedDict(w=torch.ones(2), x=argparse.Namespace(y=call)),
    }
    path = save(tmp_path / "a.pth", values[place], layout, pickle_protocol=protocol)
    refused(path, shown, "would run code", "nothing was run")
    assert not canary.exists()


ATTACKS = {
    "INST": (b"\x80\x02(S'ls'\nios\nsystem\n.", "opcode"),
    "INST directly": (b"\x80\x02(ios\nsystem\n.", "opcode INST"),
    "OBJ": (b"\x80\x02(cargparse\nNamespace\no.", "opcode OBJ"),
    "NEWOBJ_EX": (b"\x80\x04cargparse\nNamespace\n)}\x92.", "opcode NEWOBJ_EX"),
    "EXT1": (b"\x80\x02\x82\x01.", "opcode EXT1"),
    "EXT2": (b"\x80\x02\x83\x01\x00.", "opcode EXT2"),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "opcode EXT4"),
    "PERSID": (b"\x80\x02P0\n.", "opcode PERSID"),
    "BYTEARRAY8": (b"\x80\x05\x96" + bytes(8) + b".", "opcode BYTEARRAY8"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.", "os.system"),
    "STACK_GLOBAL of numbers": (b"\x80\x04K\x01K\x02\x93.", "not a text"),
    "dotted STACK_GLOBAL": (
        b"\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.fromkeys.x\x93.",
        "collections.OrderedDict.fromkeys",
    ),
    "a name of two lines": (b"\x80\x04\x8c\x04o\n\x1bs\x8c\x06system\x93.", "would run code"),
    "a long name": (
        b"\x80\x04X\x00\x10\x00\x00" + b"x" * 4096 + b"\x8c\x01y\x93.",
        "would run code",
    ),
    "an endless name": (b"\x80\x02c" + b"x" * 4096 + b"\n", "does not end"),
    "BUILD on a list": (b"\x80\x02]}b.", "sets the attributes"),
    "BUILD on a dict": (b"\x80\x02}}b.", "sets the attributes"),
    "BUILD on a function": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",
        "sets the attributes",
    ),
    "BUILD on a storage": (b"\x80\x02" + persistent() + b"}b.", "sets the attributes"),
    "BUILD on a tensor": (one("w", tensor() + b"}b"), "sets the attributes"),
    "BUILD with slots": (b"\x80\x02ccollections\nOrderedDict\n)R}}\x86b.", "sets the attributes"),
    "NEWOBJ of a dict": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "makes an object"),
    "NEWOBJ of a function": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.",
        "makes an object",
    ),
    "a call of a text": (
        b"\x80\x02" + text("os.system") + text("ls") + b"\x85R.",
        "cannot be called",
    ),
    "a call of a dtype": (b"\x80\x02ctorch\nfloat32\n)R.", "cannot be called"),
    "a call of a storage type": (b"\x80\x02ctorch\nFloatStorage\n)R.", "cannot be called"),
    "a call without a tuple": (b"\x80\x02ctorch\nSize\n]R.", "cannot be called"),
    "a size of a list": (b"\x80\x02ctorch\nSize\n]\x85R.", "torch.Size"),
    "a parameter of nothing": (
        b"\x80\x02ctorch._utils\n_rebuild_parameter\nN\x88N\x87R.",
        "parameter",
    ),
    "rot13": (b"\x80\x02c_codecs\nencode\n" + text("yf") + text("rot13") + b"\x86R.", "Latin-1"),
    "no Latin-1": (
        b"\x80\x02c_codecs\nencode\n" + text("\u0416") + text("latin1") + b"\x86R.",
        "Latin-1",
    ),
    "an ordered dict of text": (
        b"\x80\x02ccollections\nOrderedDict\n" + text("ab") + b"\x85R.",
        "ordered dict",
    ),
    "an ordered dict of singles": (b"\x80\x02ccollections\nOrderedDict\n]]a\x85R.", "ordered dict"),
    "a persistent text": (b"\x80\x02" + text("0") + b"Q.", "not a storage"),
    "a module": (b"\x80\x02" + persistent(tag="module") + b".", "not a storage"),
    "a storage of another type": (
        b"\x80\x02" + persistent(kind="torch\nSize") + b".",
        "not a storage",
    ),
    "a storage type of a text": (
        b"\x80\x02(" + text("storage") * 4 + number(6) + b"tQ.",
        "not a storage",
    ),
    "a negative storage": (b"\x80\x02" + persistent(numel=-1) + b".", "impossible number"),
    "a huge storage": (b"\x80\x02" + persistent(numel=1 << 62) + b".", "impossible number"),
    "two storages in one": (
        b"\x80\x02" + persistent() + persistent(numel=5) + b"\x86.",
        "described twice",
    ),
    "a storage that is a view": (
        b"\x80\x02(" + persistent()[1:-2] + b"(NNNttQ.",
        "views of one another",
    ),
    "an unhashable key": (b"\x80\x02}]Ns.", "key"),
    "a tuple as key": (b"\x80\x02})Ns.", "key"),
    "a huge number as key": (b"\x80\x02}" + b"\x8a\x20" + b"\x7f" * 32 + b"Ns.", "key"),
    "SETITEM on a list": (b"\x80\x02]NNs.", "not a dict"),
    "SETITEMS of an odd number": (b"\x80\x02}(Nu.", "not a dict"),
    "APPEND to a dict": (b"\x80\x02}Na.", "not a list"),
    "APPENDS to a tuple": (b"\x80\x02)(Ne.", "not a list"),
    "an empty stack": (b"\x80\x02a.", "never put"),
    "a value of another container": (b"\x80\x02]N(a.", "never put"),
    "no mark": (b"\x80\x02t.", "never opened"),
    "an open mark": (b"\x80\x02(}.", "exactly one value"),
    "two values": (b"\x80\x02NN.", "exactly one value"),
    "no value": (b"\x80\x02.", "exactly one value"),
    "an unknown name of a value": (b"\x80\x02h\x05.", "not named"),
    "memoize nothing": (b"\x80\x02q\x05.", "never put"),
    "LONG4 of 2 GiB": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "an integer of"),
    "LONG4 of 64 KiB": (
        b"\x80\x02\x8b\x00\x00\x01\x00" + b"\x7f" * (1 << 16) + b".",
        "an integer of",
    ),
    "LONG4 of -1": (b"\x80\x02\x8b\xff\xff\xff\xff.", "an integer of"),
    "a text of 4 GiB": (b"\x80\x02X\xff\xff\xff\xff.", "cut short"),
    "a text of 2 ** 64": (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "cut short"),
    "bytes of 2 ** 64": (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "cut short"),
    "a frame and nothing": (b"\x80\x04\x95" + bytes(8) + b".", "exactly one value"),
    "no UTF-8": (b"\x80\x02X\x01\x00\x00\x00\xff.", "not UTF-8"),
    "protocol 1": (b"\x80\x01N.", "protocol"),
    "protocol 6": (b"\x80\x06N.", "protocol"),
    "protocol 0": (b"I1\n.", "protocol"),
    "deep marks": (b"\x80\x02" + b"(" * 5000 + b".", "deep"),
    "a scalar of nothing": (b"\x80\x02cnumpy.core.multiarray\nscalar\nNN\x86R.", "NumPy scalar"),
    "an array of objects": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncbuiltins\nobject\n)N\x87R.",
        "not a NumPy array",
    ),
    "many operations": (b"\x80\x02" + b"N" * (MAX_OPERATIONS + 1) + b".", "operations"),
}

BAD_TENSORS = {
    "beyond its storage": tensor((2, 4), (4, 1)),
    "by its offset": tensor(offset=1),
    "by its stride": tensor((2, 3), (3, 2)),
    "by one axis": tensor((2,), (6,)),
    "empty, but far away": tensor((0,), (1,), offset=7),
    "negative size": tensor((-2, 3)),
    "negative stride": tensor(stride=(-3, 1)),
    "negative offset": tensor(offset=-1),
    "huge size": tensor((1 << 62, 3)),
    "huge size without steps": tensor((1 << 40, 1), (0, 0)),
    "huge empty": tensor((0, 1 << 30, 1 << 30), (1, 1, 1)),
    "nine dimensions": tensor((1,) * 9, (1,) * 9),
    "many dimensions": tensor((1,) * 5000, (1,) * 5000),
    "sizes without strides": tensor((2, 3), (1,)),
    "expanded": tensor((1 << 20,), (0,)),
    "a size of texts": b"ctorch._utils\n_rebuild_tensor_v2\n("
    + persistent()
    + b"K\x00"
    + b"N\x85" * 2
    + b"\x89}tR",
    "a storage of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00)))tR",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_pickle_is_refused(craft, name):
    body, words = ATTACKS[name]
    start = time.process_time()
    message = refused(craft(body), words)
    assert time.process_time() - start < 2
    assert len(message) < 500


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_tensor_that_does_not_fit_is_refused(craft, name):
    refused(craft(one("w", BAD_TENSORS[name])))


def test_a_tensor_made_by_hand_is_read(craft):
    """The bodies above fail for their own reasons: without them, this is a checkpoint."""
    assert read(craft(one("w", tensor()))).entries["w"].load().shape == (2, 3)
    assert read(craft(one("w", tensor((2, 1), (3, (1 << 60) - 1))))).entries["w"].load().shape == (
        2,
        1,
    )
    assert read(craft(one("w", tensor((2, 0, 3), (9, 9, 9))))).entries["w"].load().shape == (
        2,
        0,
        3,
    )


@pytest.mark.parametrize(
    "twice", [b"h%ch%c\x86", b"](h%ch%ce", b"}(K\x00h%cK\x01h%cu"], ids=["tuples", "lists", "dicts"]
)
def test_a_billion_laughs_stay_small(craft, twice):
    """Every level holds the one before twice."""
    laughs = b"(]" + b"".join(b"\x94" + twice % (i, i) for i in range(200)) + b"t"
    start = time.process_time()
    checkpoint = b"\x80\x04}(" + text("w") + tensor() + text("x") + laughs + b"u."
    assert list(read(craft(checkpoint)).entries) == ["w"]
    assert list(read(craft(b"\x80\x04" + tensor() + laughs + b"\x86.")).entries) == ["0"]
    refused(craft(b"\x80\x04}" + laughs + b"Ns."), "key")
    assert time.process_time() - start < 2


def test_a_step_that_is_never_taken_may_be_absurd(tmp_path):
    """PyTorch writes any stride for an axis of one element, close to what 64 bits hold."""
    body = one("w", tensor((1, 2), ((1 << 60) - 1, 2), kind="torch\nDoubleStorage", numel=3))
    assert read(write_zip(tmp_path / "a.pth", body)).entries["w"].load().tolist() == [[0.0, 0.0]]


def test_the_same_dict_on_every_path_is_searched_once(tmp_path):
    keys = (
        "state_dict",
        "model_state_dict",
        "model",
        "net",
        "module",
        "params",
        "weights",
        "model_ema",
    )
    many = b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(100_000))
    path = write_zip(
        tmp_path / "a.pth",
        b"\x80\x02}q\x00(" + many + b"".join(text(key) + b"h\x00" for key in keys) + b"u.",
    )
    start = time.process_time()
    refused(path, "no state dict")
    assert time.process_time() - start < 2


def test_a_dict_within_itself_ends(craft):
    refused(
        craft(
            b"\x80\x02}q\x00("
            + b"".join(text(key) + b"h\x00" for key in ("state_dict", "model", "net"))
            + b"u."
        )
    )
    looped = b"\x80\x02}q\x00(" + text("model") + b"h\x00" + text("w") + tensor() + b"u."
    assert list(read(craft(looped)).entries) == ["w"]


@pytest.mark.parametrize(
    "body",
    [
        b"](" + b"NN\x86" * 1000 + b"e\x94" + b"ccollections\nOrderedDict\nh\x00\x85R" * 1100,
        b"X\x00\x00\x01\x00"
        + b"x" * 65536
        + b"\x94"
        + b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86R" * 50,
        b"}("
        + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(1000))
        + b"u\x94"
        + b"cargparse\nNamespace\n)\x81h\x00b" * 1100,
    ],
    ids=["pairs", "bytes", "namespaces"],
)
def test_copies_of_shared_values_are_limited(body):
    with pytest.raises(PickleRefused, match="over and over"):
        Machine(b"\x80\x04(" + body + b"t.").load()


def test_numbers_of_equal_hash_are_no_trap(craft):
    modulus = sys.hash_info.modulus
    keys = b"".join(
        b"\x8a\x10" + (i * modulus).to_bytes(16, "little", signed=True) + b"N"
        for i in range(20_000)
    )
    start = time.process_time()
    refused(craft(b"\x80\x02}(" + keys + b"u."), "key")
    assert time.process_time() - start < 2


def test_a_million_prefixes(craft):
    name = "module." * 200_000 + "w"
    assert list(read(craft(one(name, tensor()))).entries) == [name]


def test_many_views_of_little_are_refused(craft):
    items = b"".join(text(f"w{i}") + tensor((1 << 12,), (0,)) for i in range(100))
    refused(craft(b"\x80\x02}(" + items + b"u."), "unfold")
