"""Pickles that run code when they are loaded the usual way, and tensors that lie, in both layouts
of PyTorch.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

from tests.attacks import seeds
from tests.attacks.attack import Attack, Make, Placement, attacks
from tests.attacks.seeds import integer, numbers, state_pickle, storage, tensor, text

Code = Callable[[Placement], bytes]


def called(module: str, name: str, argument: Callable[[Placement], str] | None = None) -> Code:
    """GLOBAL, one text, REDUCE."""

    def code(place: Placement) -> bytes:
        said = place.command if argument is None else argument(place)
        return f"c{module}\n{name}\n".encode() + text(said) + b"\x85R"

    return code


def of(code: bytes) -> Code:
    return lambda place: code


def zipped(
    code: Code, protocol: int = 2, wrap: Callable[[bytes], bytes] = lambda state: state
) -> Make:
    return lambda place: place.write(
        "net.pth", seeds.torch_zip(state_pickle(code(place), protocol, wrap))
    )


def legacy(
    code: Code, protocol: int = 2, wrap: Callable[[bytes], bytes] = lambda state: state
) -> Make:
    return lambda place: place.write(
        "net.th", seeds.torch_legacy(state_pickle(code(place), protocol, wrap))
    )


def raw(make_pickle: Callable[[Placement], bytes]) -> Make:
    """A zip with just this pickle."""
    return lambda place: place.write("net.pt", seeds.torch_zip(make_pickle(place)))


def python(place: Placement) -> str:
    return f"__import__('os').system({place.command!r})"


def in_wrapper(*keys: str) -> Callable[[bytes], bytes]:
    def wrap(state: bytes) -> bytes:
        for key in keys:
            state = b"}(" + text(key) + state + b"u"
        return state

    return wrap


def beside(place: Placement) -> bytes:
    """A clean state dict, and the code in the optimizer beside it."""
    state = state_pickle()[2:-1]
    code = called("posix", "system")(place)
    return b"\x80\x02}(" + text("state_dict") + state + text("optimizer") + code + b"u."


def nested(place: Placement) -> bytes:
    inner = b"\x80\x02" + called("os", "system")(place) + b"."
    return b"c_pickle\nloads\nC" + bytes([len(inner)]) + inner + b"\x85R"


def setstate(place: Placement) -> bytes:
    """An object that calls what its `__setstate__` is."""
    state = b"}(" + text("__setstate__") + b"cos\nsystem\nu"
    return b"cargparse\nNamespace\n)\x81" + state + b"b" + text(place.command) + b"b"


def followed(place: Placement) -> bytes:
    return state_pickle() + b"\x80\x02" + called("os", "system")(place) + b"."


def popped(place: Placement) -> bytes:
    return b"cos\nsystem\n" + text(place.command) + b"\x85R0N"


def by_the_library(place: Placement) -> bytes:
    class Evil:
        def __reduce__(self) -> tuple:
            import os

            return os.system, (place.command,)

    return pickle.dumps({"state_dict": {"conv1.weight": Evil()}}, 4)


def laughs(place: Placement) -> bytes:
    """Lists of ten times the list before."""
    return (
        b"](]q\x00"
        + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(40))
        + b"e"
    )


def many_copies(place: Placement) -> bytes:
    big = b"](" + b"".join(b"(" + integer(i) + b"Nt" for i in range(1000)) + b"eq\x05"
    return b"](" + big + b"](" + b"ccollections\nOrderedDict\nh\x05\x85R" * 1000 + b"ee"


def described_twice(place: Placement) -> bytes:
    return tensor("0", (2,), 1 << 20)


def sparse(name: str) -> Code:
    """Indices that point out of the tensor."""

    def code(place: Placement) -> bytes:
        indices = tensor(
            "0", (1, 2), stride=(2, 1), numel=len(seeds.weights()["stem.conv1.weight"].reshape(-1))
        )
        return (
            f"ctorch._utils\n{name}\n(".encode()
            + b"ctorch\nsparse_coo\n("
            + indices
            + indices
            + numbers(2)
            + b"ttR"
        )

    return code


def view(shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Code:
    """A tensor on the first storage that is not inside."""
    numel = seeds.weights()["stem.conv1.weight"].size
    return of(tensor("0", shape, numel, offset, stride))


def swap_legacy_count(place: Placement) -> Path:
    data = seeds.torch_legacy()
    first = seeds.weights()["stem.conv1.weight"]
    honest = first.size.to_bytes(8, "little") + first.tobytes()[:16]
    return place.write(
        "net.pth", data.replace(honest, (1 << 62).to_bytes(8, "little") + honest[8:], 1)
    )


def members(change: Callable[[dict[str, bytes]], None]) -> Make:
    def make(place: Placement) -> Path:
        found = seeds.torch_members()
        change(found)
        return place.write("net.pth", seeds.stored_zip(found))

    return make


def doing(place: Placement) -> bytes:
    """An attribute that is a call."""
    return text("forward") + called("os", "system")(place) + b"s"


def script(place: Placement) -> Path:
    """A TorchScript archive whose module has code for an attribute."""
    made = b"\x80\x02c__torch__.net\nNet\n)\x81}" + doing(place) + b"b."
    found = seeds.torch_members(made)
    found["archive/code/__torch__/net.py"] = b"import os"
    return place.write("net.pt", seeds.stored_zip(found))


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85N\x87R"
RUNS = "nothing was run"

TABLE: dict[str, tuple[Make, str]] = {
    "reduce": (zipped(called("os", "system")), f"os.system|{RUNS}"),
    "reduce-legacy": (legacy(called("os", "system")), f"os.system|{RUNS}"),
    "reduce-posix": (zipped(called("posix", "system")), f"posix.system|{RUNS}"),
    "reduce-by-the-library": (raw(by_the_library), f"posix.system|{RUNS}"),
    "stack-global": (
        zipped(lambda p: text("os") + text("system") + b"\x93" + text(p.command) + b"\x85R", 4),
        f"os.system|{RUNS}",
    ),
    "stack-global-legacy": (
        legacy(lambda p: text("os") + text("system") + b"\x93" + text(p.command) + b"\x85R", 4),
        f"os.system|{RUNS}",
    ),
    "stack-global-dotted": (
        zipped(
            lambda p: (
                text("builtins") + text("eval.__call__") + b"\x93" + text(python(p)) + b"\x85R"
            ),
            4,
        ),
        f"builtins.eval.__call__|{RUNS}",
    ),
    "build-setstate": (zipped(setstate), f"os.system|{RUNS}"),
    "build-of-a-dict": (legacy(of(b"}}b")), f"sets the attributes|{RUNS}"),
    "build-in-metadata": (
        zipped(lambda p: b"ccollections\nOrderedDict\n)R" + called("os", "system")(p) + b"b"),
        f"os.system|{RUNS}",
    ),
    "inst": (zipped(lambda p: b"(" + text(p.command) + b"ios\nsystem\n"), f"INST|{RUNS}"),
    "inst-legacy": (legacy(lambda p: b"(" + text(p.command) + b"ios\nsystem\n"), f"INST|{RUNS}"),
    "obj": (zipped(lambda p: b"(cos\nsystem\n" + text(p.command) + b"o"), f"os.system|{RUNS}"),
    "obj-of-a-known-class": (legacy(of(b"(ccollections\nOrderedDict\no")), f"OBJ|{RUNS}"),
    "newobj": (
        zipped(lambda p: b"csubprocess\nPopen\n" + text(p.command) + b"\x85\x81"),
        f"subprocess.Popen|{RUNS}",
    ),
    "newobj-of-a-known-class": (
        legacy(of(b"ccollections\nOrderedDict\n)\x81")),
        f"makes an object|{RUNS}",
    ),
    "newobj-ex": (
        zipped(lambda p: b"csubprocess\nPopen\n" + text(p.command) + b"\x85}\x92", 4),
        "subprocess.Popen",
    ),
    "newobj-ex-of-a-known-class": (
        legacy(of(b"ccollections\nOrderedDict\n)}\x92"), 4),
        f"NEWOBJ_EX|{RUNS}",
    ),
    "ext1": (zipped(of(b"\x82\x01")), f"EXT1|{RUNS}"),
    "ext2": (legacy(of(b"\x83\x01\x00")), f"EXT2|{RUNS}"),
    "ext4": (zipped(of(b"\x84\x01\x00\x00\x00")), f"EXT4|{RUNS}"),
    "persid": (legacy(of(b"Pevil\n")), f"PERSID|{RUNS}"),
    "binpersid": (zipped(called("os", "system")), "os.system"),
    "binpersid-of-a-text": (
        zipped(of(text("../outside/secret.bin") + b"Q")),
        "outside it that is not a storage",
    ),
    "next-buffer": (zipped(of(b"\x97"), 5), "NEXT_BUFFER"),
    "protocol-0": (legacy(of(b"N"), 0), "protocol 2 to 5"),
    "eval": (zipped(called("builtins", "eval", python)), f"builtins.eval|{RUNS}"),
    "exec-python-2": (legacy(called("__builtin__", "exec", python)), f"__builtin__.exec|{RUNS}"),
    "import-module": (
        zipped(called("importlib", "import_module", lambda p: "antigravity")),
        "importlib.import_module",
    ),
    "runpy": (legacy(called("runpy", "run_path", lambda p: str(p.executed))), "runpy.run_path"),
    "getattr": (
        zipped(of(b"cbuiltins\ngetattr\n" + text("os") + text("system") + b"\x86R")),
        f"builtins.getattr|{RUNS}",
    ),
    "attrgetter": (
        zipped(called("operator", "attrgetter", lambda p: "system")),
        "operator.attrgetter",
    ),
    "partial": (legacy(called("functools", "partial")), "functools.partial"),
    "nested-loads": (zipped(nested), f"_pickle.loads|{RUNS}"),
    "nested-torch-load": (legacy(called("torch", "load", lambda p: str(p.secret))), "torch.load"),
    "nested-storage": (
        zipped(called("torch.storage", "_load_from_bytes")),
        f"_load_from_bytes|{RUNS}",
    ),
    "marshal": (zipped(called("marshal", "loads")), "marshal.loads"),
    "code-object": (legacy(called("types", "CodeType")), "types.CodeType"),
    "ctypes": (zipped(called("ctypes", "CDLL", lambda p: "libc.so.6")), "ctypes.CDLL"),
    "socket": (legacy(called("socket", "create_connection")), "socket.create_connection"),
    "open": (zipped(called("io", "open", lambda p: str(p.secret))), "io.open"),
    "numpy-load": (legacy(called("numpy", "load", lambda p: str(p.secret))), "numpy.load"),
    "numpy-fromfile": (
        zipped(called("numpy", "fromfile", lambda p: str(p.secret))),
        "numpy.fromfile",
    ),
    "numpy-reconstruct": (
        zipped(of(RECONSTRUCT + b"(K\x01" + numbers(1 << 30, 1 << 30) + b"NNNtb")),
        "impossible dtype, shape or data",
    ),
    "a-whole-model": (
        legacy(lambda p: b"ctorchvision.models.resnet\nResNet\n)\x81}" + doing(p) + b"b"),
        f"os.system|{RUNS}",
    ),
    "in-state-dict": (
        zipped(called("os", "system"), 2, in_wrapper("state_dict")),
        f"os.system|{RUNS}",
    ),
    "in-nested-wrappers": (
        legacy(called("os", "system"), 2, in_wrapper("model", "state_dict")),
        "os.system",
    ),
    "in-the-optimizer": (raw(beside), f"posix.system|{RUNS}"),
    "popped-value": (zipped(popped), "os.system"),
    "second-pickle": (raw(followed), "follows its pickle"),
    "script": (script, f"os.system|{RUNS}"),
    "two-pickles": (members(lambda m: m.update({"other/data.pkl": b"\x80\x02}."})), "2 members"),
    "old-tar": (
        lambda p: p.write("net.pth", b"x".ljust(257, b"\0") + b"ustar\x00" + bytes(2000)),
        "tar layout",
    ),
    "sparse": (zipped(sparse("_rebuild_sparse_tensor")), "_rebuild_sparse_tensor|only dense"),
    "sparse-csr": (
        legacy(sparse("_rebuild_sparse_csr_tensor")),
        "_rebuild_sparse_csr_tensor|only dense",
    ),
    "quantized": (zipped(sparse("_rebuild_qtensor")), "_rebuild_qtensor|only dense"),
    "quantized-storage": (zipped(of(storage("0", 4, "QUInt8Storage"))), "QUInt8Storage|only dense"),
    "subclass": (
        legacy(of(b"ctorch._tensor\n_rebuild_from_type_v2\n)R")),
        "_rebuild_from_type_v2|only dense",
    ),
    "beyond-its-storage": (zipped(view((1 << 20,), (1,))), "beyond its storage"),
    "far-offset": (legacy(view((1,), (1,), 1 << 50)), "beyond its storage"),
    "far-stride": (zipped(view((2,), (1 << 50,))), "beyond its storage"),
    "negative-offset": (zipped(view((1,), (1,), -4)), "offset, size or strides are impossible"),
    "negative-stride": (legacy(view((4,), (-1,))), "offset, size or strides are impossible"),
    "huge-shape": (zipped(view((1 << 40,), (0,))), "impossible shape"),
    "unfolding-views": (zipped(view((1 << 29,), (0,))), "unfold to"),
    "two-minds-of-a-storage": (legacy(described_twice), "described twice"),
    "lines-in-a-name": (
        zipped(of(b"N" + text("a\nError\x1b[2J") + tensor("0", (4,), 108))),
        "a tensor named",
    ),
    "storage-that-is-not-there": (zipped(of(tensor("none", (4,)))), "no such member"),
    "storage-by-path": (
        zipped(of(tensor("../../../outside/secret.bin", (1024,)))),
        "no such member",
    ),
    "legacy-count": (swap_legacy_count, "does not have the"),
    "huge-text": (zipped(of(b"\x8d" + struct.pack("<Q", 1 << 62))), "cut short"),
    "huge-integer": (zipped(of(b"\x8b" + struct.pack("<I", 1 << 30) + bytes(100))), "integer of"),
    "deep": (zipped(of(b"(" * 100_000)), "deep"),
    "laughs-as-keys": (zipped(lambda p: b"}" + laughs(p) + b"Ns"), "key that is neither"),
    "many-copies": (legacy(many_copies), "over and over"),
    "many-operations": (zipped(of(b"N" + b"N" * 1_000_000)), "operations"),
    "memo": (zipped(of(b"j\xff\xff\xff\xff")), "has not named"),
}

ATTACKS: list[Attack] = attacks("pickle", TABLE)
