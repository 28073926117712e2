"""Pickles of arrays of every protocol, whole modules and TorchScript: code where a value belongs,
and arrays that lie.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks import seeds
from tests.attacks.attack import Attack, Make, Placement, attacks
from tests.attacks.seeds import integer, numbers, text

RUNS = "nothing was run"
LARGE = "stages.1.blocks.0.conv2.weight"  # so that its bytes stay in the file
Code = Callable[[Placement], bytes]
NEW = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
DTYPE = b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R"


def pickled(code: Code, key: str = "extra") -> Make:
    """A dict of the network's arrays whose item `key` is `code`."""

    def make(place: Placement) -> Path:
        items = b"".join(
            text(name) + array(value.shape, value.tobytes())
            for name, value in seeds.weights().items()
        )
        body = b"}(" + items + text(key) + code(place) + b"u."
        return place.write("net.pkl", b"\x80\x04" + body)

    return make


def of(code: bytes) -> Code:
    return lambda place: code


def array(
    shape: tuple[int, ...], data: bytes, dtype: bytes = DTYPE, fortran: bytes = b"\x89"
) -> bytes:
    raw = b"B" + struct.pack("<I", len(data)) + data
    return NEW + b"(K\x01" + numbers(*shape) + dtype + fortran + raw + b"tb"


def call(module: str, name: str, argument: Callable[[Placement], str] | None = None) -> Code:
    def code(place: Placement) -> bytes:
        said = place.command if argument is None else argument(place)
        return f"c{module}\n{name}\n".encode() + text(said) + b"\x85R"

    return code


def lines(body: Callable[[Placement], str]) -> Make:
    """A pickle of protocol 0."""
    return lambda place: place.write("net.pkl", body(place).encode())


class Evil:
    def __init__(self, place: Placement):
        self._command = place.command

    def __reduce__(self) -> tuple:
        import os

        return os.system, (self._command,)


def dumped(protocol: int, wrap: Callable[[Any], Any] = lambda evil: {"a": evil}) -> Make:
    """As Python's own pickler writes it."""
    return lambda place: place.write("net.pkl", pickle.dumps(wrap(Evil(place)), protocol))


def npy(header: str, data: bytes = b"") -> Make:
    def make(place: Placement) -> Path:
        raw = header.encode().ljust(117) + b"\n"
        start = b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw
        return place.write("net.npy", start + data)

    return make


def npy_object(place: Placement) -> Path:
    objects = np.empty((), dtype=object)
    objects[()] = {"a": Evil(place)}
    path = place.inside / "net.npy"
    np.save(path, objects, allow_pickle=True)
    return path


def twins(place: Placement) -> bytes:
    """One array a thousand times."""
    one = array((1 << 18,), bytes(1 << 20)) + b"q\x01"
    return b"](" + one + b"h\x01" * 1000 + b"e"


def wide_text(place: Placement) -> bytes:
    """Bytes that are written as a text, with a character that is no byte."""
    kernel = seeds.weights()[LARGE]
    said = text("\u0416" * kernel.nbytes)
    raw = b"c_codecs\nencode\n" + said + text("latin1") + b"\x86R"
    return NEW + b"(K\x01" + numbers(*kernel.shape) + DTYPE + b"\x89" + raw + b"tb"


# Whole modules and TorchScript.


def module(code: Code, layout: str = "zip") -> Make:
    """The network as a module of PyTorch, with the attributes that `code` makes."""

    def make(place: Placement) -> Path:
        body = seeds.module_pickle(more=code(place))
        data = seeds.torch_zip(body) if layout == "zip" else seeds.torch_legacy(body)
        return place.write("net.pth", data)

    return make


def attribute(name: str, code: Code) -> Code:
    return lambda place: text(name) + code(place)


def own_class(place: Placement) -> Path:
    """A class of the old layout that is a function of the system, with its source."""
    named = b"(" + text("module") + b"cposix\nsystem\n" + text("net.py") + text("source") + b"tQ"
    body = b"\x80\x02" + named + text(place.command) + b"\x85R."
    return place.write("net.th", seeds.torch_legacy(body))


def scripted(change: Callable[[dict[str, bytes], Placement], None], **options: Any) -> Make:
    def make(place: Placement) -> Path:
        found = seeds.script_members()
        change(found, place)
        return place.write("net.pt", seeds.stored_zip(found, **options))

    return make


def tag(place: Placement, found: dict[str, bytes]) -> None:
    found["archive/data.pkl"] = b"\x80\x02ctorch.jit._pickle\nbuild_intlist\n)R."


EMPTY = b"}" + text("_parameters") + b"}s" + text("_buffers") + b"}s"
ITSELF = (
    b"\x80\x02cnet\nNet\n)\x81q\x00"
    + EMPTY
    + text("_modules")
    + b"}"
    + text("again")
    + b"h\x00ssb."
)
DEEP = b"\x80\x02" + b"cnet\nNet\n)\x81}(" * 3000

ARRAYS: dict[str, tuple[Make, str]] = {
    "reduce": (pickled(call("os", "system")), f"os.system|{RUNS}"),
    **{
        f"by-the-library-{protocol}": (dumped(protocol), f"posix.system|{RUNS}")
        for protocol in range(6)
    },
    "in-a-list": (dumped(4, lambda evil: [np.ones(3), (evil,)]), f"posix.system|{RUNS}"),
    "in-an-array-of-objects": (
        dumped(4, lambda evil: np.array([evil, None], dtype=object)),
        f"posix.system|{RUNS}",
    ),
    "inst-protocol-0": (lines(lambda p: f"(S{p.command!r}\nios\nsystem\n."), f"INST|{RUNS}"),
    "obj-protocol-1": (lines(lambda p: f"(cevil\nClass\nS{p.command!r}\no."), f"OBJ|{RUNS}"),
    "persid": (lines(lambda p: "(dS'a'\nPevil\ns."), f"PERSID|{RUNS}"),
    "binpersid": (pickled(of(text("0") + b"Q")), f"0x51|{RUNS}"),
    "ext": (pickled(of(b"\x82\x01")), f"EXT1|{RUNS}"),
    "eval-python-2": (
        lines(lambda p: f"c__builtin__\neval\n(S\"open('{p.executed}', 'w')\"\ntR."),
        f"__builtin__.eval|{RUNS}",
    ),
    "function-of-dill": (
        pickled(call("dill._dill", "_create_function")),
        f"dill._dill._create_function|{RUNS}",
    ),
    "code-of-cloudpickle": (
        pickled(call("cloudpickle.cloudpickle", "_make_function")),
        f"_make_function|{RUNS}",
    ),
    "setstate": (
        pickled(lambda p: b"cevil\nClass\n)\x81}" + text("__setstate__") + b"cos\nsystem\nsb"),
        f"os.system|{RUNS}",
    ),
    "partial": (pickled(lambda p: b"cfunctools\npartial\ncos\nsystem\n\x85R"), f"os.system|{RUNS}"),
    "getattr": (
        pickled(of(b"c__builtin__\ngetattr\n" + text("os") + text("system") + b"\x86R")),
        f"builtins.getattr|{RUNS}",
    ),
    "load-of-numpy": (pickled(call("numpy", "load", lambda p: str(p.secret))), "numpy.load"),
    "memmap": (pickled(call("numpy", "memmap", lambda p: str(p.secret))), f"numpy.memmap|{RUNS}"),
    "huge-shape": (pickled(of(array((1 << 40,), bytes(4)))), "impossible"),
    "huge-and-empty": (pickled(of(array((0, 1 << 29, 1 << 29), b""))), "impossible"),
    "negative-shape": (pickled(of(array((-2, -2), bytes(16)))), "impossible"),
    "nine-dimensions": (pickled(of(array((1,) * 9, bytes(4)))), "impossible"),
    "few-bytes": (pickled(of(array((1 << 20,), bytes(16)))), "needs 4,194,304 bytes"),
    "objects-as-bytes": (
        pickled(of(array((2,), bytes(16), DTYPE.replace(text("f4"), text("O8"))))),
        "not of its dtype",
    ),
    "filled-twice": (pickled(of(array((1,), bytes(4)) + b"(K\x01)NNNtb")), "impossible"),
    "own-order": (
        pickled(
            of(
                b"cnumpy._core.numeric\n_frombuffer\n(C\x04abcd"
                + DTYPE
                + integer(1)
                + b"\x85"
                + text("K")
                + b"K\x00\x85tR"
            )
        ),
        "order of its own",
    ),
    "8-eib": (pickled(of(b"\x96" + b"\xff" * 8)), "cut short"),
    "a-text-of-2-gib": (pickled(of(b"X\xff\xff\xff\x7f")), "cut short"),
    "a-line-without-end": (lambda p: p.write("net.pkl", b"(dS'" + b"a" * (1 << 24)), "cut short"),
    "a-number-of-a-megabyte": (
        lambda p: p.write("net.pkl", b"(dL" + b"9" * (1 << 20) + b"L\n."),
        "does not end",
    ),
    "no-latin-1": (pickled(wide_text, LARGE), "not written as the bytes"),
    "twins": (pickled(twins), "unfold to"),
    "deep": (pickled(of(b"(" * 5000)), "deep"),
    "many-operations": (pickled(of(b"N" * 1_000_000)), "operations"),
    "a-list-in-itself": (lambda p: p.write("net.pkl", b"\x80\x02]q\x00h\x00a."), "holds no arrays"),
    "second-pickle": (
        lambda p: p.write("net.pkl", pickle.dumps({"a": np.ones(3)}, 4) + pickle.dumps(Evil(p), 4)),
        "follows its pickle",
    ),
    "npy-object": (npy_object, f"posix.system|{RUNS}"),
    "npy-expression": (
        npy("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (), }"),
        "a header that NumPy would not write",
    ),
    "npy-one-array": (
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(8)),
        "holds one array",
    ),
    "npy-many-objects": (
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (9, 9), }", b"\x80\x04N."),
        "81 Python objects",
    ),
}

MODULES: dict[str, tuple[Make, str]] = {
    "hook": (module(attribute("hook", call("os", "system"))), f"os.system|{RUNS}"),
    "hook-legacy": (
        module(attribute("hook", call("posix", "system")), layout="legacy"),
        f"posix.system|{RUNS}",
    ),
    "loader": (
        module(attribute("weights", call("torch", "load", lambda p: str(p.secret)))),
        f"torch.load|{RUNS}",
    ),
    "class-of-the-system": (own_class, f"posix.system|{RUNS}"),
    "module-in-itself": (lambda p: p.write("net.pth", seeds.torch_zip(ITSELF)), "no state dict"),
    "deep": (lambda p: p.write("net.pth", seeds.torch_zip(DEEP)), "deep"),
    "beyond-its-storage": (
        lambda p: p.write(
            "net.pth",
            seeds.torch_zip(
                b"\x80\x02cnet\nNet\n)\x81}("
                + text("_parameters")
                + b"}"
                + text("w")
                + seeds.tensor("0", (1 << 20,), numel=108, stride=(1,))
                + b"s"
                + text("_buffers")
                + b"}"
                + text("_modules")
                + b"}ub."
            ),
        ),
        "reaches beyond its storage",
    ),
    "quantised": (
        module(attribute("q", lambda p: b"ctorch._utils\n_rebuild_qtensor\n)R")),
        "quantised|_rebuild_qtensor",
    ),
    "script-tag": (scripted(lambda m, p: tag(p, m)), "tags nothing"),
    "script-frozen": (
        scripted(
            lambda m, p: m.update({"archive/data.pkl": b"\x80\x02c__torch__.net\nNet\n)\x81}b."})
        ),
        "TorchScript|constants of its program",
    ),
    "script-member-outside": (
        scripted(lambda m, p: m.update({"archive/code/../../outside/x.py": b""})),
        "name of a member",
    ),
    "script-compressed": (scripted(lambda m, p: None, deflated=True), "compressed"),
    "script-two-roots": (
        scripted(lambda m, p: m.update({"other/data.pkl": b"\x80\x02}."})),
        "2 members",
    ),
}

ATTACKS: list[Attack] = attacks("arrays", ARRAYS) + attacks("module", MODULES)
