"""Zip archives: bombs, paths, links, two minds about what they hold; npy headers; and Keras
archives with code.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks import seeds
from tests.attacks.attack import SECRET, Attack, Make, Placement, attacks
from tests.attacks.hdf5s import base as hdf5

KERNEL = "resnet/root_block/standardized_conv2d/kernel"


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def headed(header: str | bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A `.npy` file with this header."""
    raw = header.encode() if isinstance(header, str) else header
    form = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(form, len(raw)) + raw + data


def header(descr: str = "'<f4'", shape: str = "(1,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def archive(
    members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, mode: int = 0o600
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=9) as file:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr, info.filename = method, mode << 16, name
            file.writestr(info, data)
    return buffer.getvalue()


def npz(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Make:
    return lambda place: place.write("net.npz", archive(members, method))


def one(data: bytes) -> Make:
    return npz({f"{KERNEL}.npy": data})


def object_array(place: Placement) -> Path:
    class Evil:
        def __reduce__(self) -> tuple:
            import os

            return os.system, (place.command,)

    return place.write(
        "net.npz", archive({"a.npy": npy(np.array([Evil()], object), allow_pickle=True)})
    )


def bomb(size: int, name: str = f"{KERNEL}.npy") -> Make:
    """Zeros, deflated a thousandfold; they are deflated in pieces."""

    def make(place: Placement) -> Path:
        head = headed(header(shape=f"({size // 4},)"))
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed, crc = deflate.compress(head), zlib.crc32(head)
        piece = bytes(1 << 20)
        for _ in range(size >> 20):
            packed += deflate.compress(piece)
            crc = zlib.crc32(piece, crc)
        packed += deflate.flush()
        return place.write(
            "net.npz", by_hand(name.encode(), packed, crc, len(head) + (size >> 20 << 20), 8)
        )

    return make


def by_hand(
    name: bytes, data: bytes, crc: int, size: int, method: int = 0, count: int = 1
) -> bytes:
    """An archive whose `count` entries are all the same member."""
    common = struct.pack("<4H3L", 0, method, 0, 33, crc, len(data), size)
    local = b"PK\3\4" + struct.pack("<H", 20) + common + struct.pack("<2H", len(name), 0) + name
    central = b"".join(
        b"PK\1\2"
        + struct.pack("<2H", 20, 20)
        + common
        + struct.pack("<5H2L", len(entry), 0, 0, 0, 0, 0, 0)
        + entry
        for entry in ([name] if count == 1 else [b"%05d.npy" % i for i in range(count)])
    )
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(central), len(local) + len(data), 0
    )
    return local + data + central + end


def overlapped(place: Placement) -> Path:
    """Ten thousand names for the same deflated bytes, as in the better zip bomb."""
    whole = bytes(1 << 20) + bytes(range(256)) * 4
    data = zlib.compress(whole, 1)[2:-4]  # which packs zeros less than the thousandfold
    return place.write(
        "net.npz", by_hand(b"00000.npy", data, zlib.crc32(whole), len(whole), 8, 10_000)
    )


def patched(old: bytes, new: bytes) -> Make:
    """A valid archive of one member with bytes of its directory changed."""
    data = archive({f"{KERNEL}.npy": npy(np.zeros(4, "f4"))})
    at = data.rindex(old)
    return lambda place: place.write("net.npz", data[:at] + new + data[at + len(old) :])


def torch_named(name: str) -> Make:
    """A PyTorch archive with one more member."""
    return lambda place: place.write("net.pth", archive({**seeds.torch_members(), name: SECRET}))


def torch_deflated(place: Placement) -> Path:
    return place.write("net.pth", archive(seeds.torch_members(), zipfile.ZIP_DEFLATED))


# Keras archives.


def keras_members(config: Any = None, **changes: bytes) -> dict[str, bytes]:
    layers = {
        "class_name": "Functional",
        "module": "keras.src.models.functional",
        "config": {"layers": []},
    }
    made = {
        "metadata.json": b'{"keras_version": "3.15.0"}',
        "config.json": json.dumps(layers if config is None else config).encode(),
        "model.weights.h5": hdf5(),
    }
    return made | {name.replace("__", "."): data for name, data in changes.items()}


def keras(config: Any = None, **changes: bytes) -> Make:
    return lambda place: place.write("net.keras", archive(keras_members(config, **changes)))


def layer(**fields: Any) -> Make:
    """A functional model in which one layer is this one."""
    plain = {
        "class_name": "Dense",
        "module": "keras.layers",
        "config": {"name": "evil"},
        "registered_name": None,
    }
    model = {"class_name": "Functional", "module": "keras.src.models.functional"}
    return keras({**model, "config": {"layers": [{**plain, **fields}]}})


def with_member(name: str, data: bytes = SECRET) -> Make:
    return lambda place: place.write("net.keras", archive({**keras_members(), name: data}))


def symlink(place: Placement) -> Path:
    """The weights as a link to a file outside, as Unix zips store it."""
    members = keras_members()
    members["model.weights.h5"] = str(place.secret).encode()
    return place.write("net.keras", archive(members, mode=0o120777))


def deflated_bomb(name: str, size: int) -> Make:
    def make(place: Placement) -> Path:
        return place.write(
            "net.keras", archive({**keras_members(), name: bytes(size)}, zipfile.ZIP_DEFLATED)
        )

    return make


CODE = "may carry code"
LAMBDA = {"class_name": "__lambda__", "config": {"value": ["4wEAAAA=", None, None]}}

ZIP: dict[str, tuple[Make, str]] = {
    "bomb": (bomb(100 << 20), "times as many at most"),
    "bomb-of-overlaps": (overlapped, "overlaps what precedes it"),
    "bomb-of-shapes": (
        npz({f"{i}.npy": headed(header(shape="(268435456, 4)")) for i in range(100)}),
        "does not follow",
    ),
    "nested": (
        npz({"inner.zip": archive({"inner.zip": archive({"a.npy": npy(np.zeros(4))})})}),
        "is no .npy file",
    ),
    "nested-as-npy": (one(archive({"a.npy": npy(np.zeros(4))})), "is no .npy file"),
    "object-array": (object_array, "Python objects, which are never read"),
    "object-dtype": (one(headed(header("'|O'"), b"cos\nsystem\n(Vtrue\ntR.")), "Python objects"),
    "object-in-a-structure": (one(headed(header("[('a', '|O')]"), b"x")), "Python objects"),
    "header-of-code": (
        one(headed("__import__('os').system('true')")),
        "a header that NumPy would not write",
    ),
    "header-of-depth": (
        one(headed("{'descr': " + "(" * 3000 + "}")),
        "a header that NumPy would not write",
    ),
    "header-of-a-gigabyte": (
        one(headed(b"", b"", b"\x02\x00")[:8] + struct.pack("<I", 1 << 30)),
        "at most are read",
    ),
    "header-of-a-megabyte": (
        one(headed(header() + " " * (1 << 20), bytes(4), b"\x02\x00")),
        "at most are read",
    ),
    "shape-of-8-pib": (one(headed(header(shape="(1125899906842624, 2)"))), "impossible shape"),
    "shape-below-zero": (one(headed(header(shape="(-1,)"))), "a header that NumPy would not write"),
    "shape-of-digits": (
        one(headed(header(shape=f"({'9' * 3000},)"))),
        "a header that NumPy would not write",
    ),
    "text-dtype": (one(headed(header("'<U4'"), bytes(16))), "has the dtype"),
    "traversal": (npz({"../outside/secret.npy": npy(np.zeros(4))}), "no ResNet that is known"),
    "absolute": (npz({"/etc/passwd.npy": npy(np.zeros(4))}), "no ResNet that is known"),
    "encrypted": (patched(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"), "encrypted"),
    "other-method": (
        patched(b"PK\1\2\x14\x03\x14\0\0\0\0\0", b"PK\1\2\x14\x03\x14\0\0\0\x0c\0"),
        "method 12",
    ),
    "lying-count": (patched(b"PK\5\6\0\0\0\0\1\0\1\0", b"PK\5\6\0\0\0\0\2\0\2\0"), "fewer members"),
    "many-members": (
        patched(b"PK\5\6\0\0\0\0\1\0\1\0", b"PK\5\6\0\0\0\0\xfe\xff\xfe\xff"),
        "at most are read",
    ),
    "several-disks": (patched(b"PK\5\6\0\0", b"PK\5\6\1\0"), "one volume of several"),
    "two-directories": (
        lambda p: p.write("net.npz", archive({"a.npy": b""}) + archive({"b.npy": b""})),
        "announced to end at byte",
    ),
    "in-front": (
        lambda p: p.write(
            "net.npz", b"PK\3\4" + archive({f"{KERNEL}.npy": npy(np.zeros(4, "f4"))})
        ),
        "announced to end at byte",
    ),
    "lying-name": (patched(b"kernel.npy", b"kernel.exe"), "two headers"),
    "torch-traversal": (torch_named("../../outside/executed"), "is not acceptable"),
    "torch-traversal-within": (torch_named("archive/../../executed"), "is not acceptable"),
    "torch-absolute": (torch_named("/executed"), "is not acceptable"),
    "torch-backslash": (torch_named("archive\\..\\..\\executed"), "is not acceptable"),
    "torch-lines": (torch_named("archive/a\nb"), "is not acceptable"),
    "torch-deflated": (torch_deflated, "is compressed"),
}

KERAS: dict[str, tuple[Make, str]] = {
    "lambda": (layer(class_name="Lambda"), f"Lambda|{CODE}"),
    "lambda-function": (layer(config={"name": "a", "activation": LAMBDA}), f"__lambda__|{CODE}"),
    "torch-module-wrapper": (layer(class_name="TorchModuleWrapper"), f"TorchModuleWrapper|{CODE}"),
    "tfsm-layer": (layer(class_name="TFSMLayer", config={"filepath": "/etc"}), f"TFSMLayer|{CODE}"),
    "jax-layer": (layer(class_name="JaxLayer"), f"JaxLayer|{CODE}"),
    "module": (layer(module="os", class_name="system"), f"os.system|{CODE}"),
    "module-by-name": (layer(module="keras.src.utils", class_name="get_file"), f"get_file|{CODE}"),
    "module-of-numbers": (layer(module=["os"]), CODE),
    "builtin": (
        layer(config={"f": {"class_name": "function", "module": "os", "config": "system"}}),
        CODE,
    ),
    "registered-name": (layer(registered_name="evil>Layer"), CODE),
    "registered-name-alone": (keras({"registered_name": "evil>Layer", "config": {}}), CODE),
    "class-of-lists": (layer(class_name=[]), CODE),
    "within-the-optimizer": (
        keras({"compile_config": {"optimizer": {"module": "os", "class_name": "system"}}}),
        CODE,
    ),
    "spec-of-a-billion-blocks": (
        keras(
            {
                "module": "resnet_keras.model",
                "class_name": "ResNet",
                "registered_name": "resnet_rosetta>ResNet",
                "config": {"spec": {"depths": [10**9] * 4}},
            }
        ),
        "at most 4096 blocks",
    ),
    "symlink": (symlink, "not an HDF5 file"),
    "asset-by-path": (with_member("assets/../../outside/executed"), "expected are"),
    "asset-absolute": (with_member("/executed"), "expected are"),
    "asset-backslash": (with_member("assets\\..\\..\\executed"), "expected are"),
    "vocabulary": (with_member("assets/vocabulary.txt"), "expected are"),
    "weights-elsewhere": (with_member("model.weights.npz"), "expected are"),
    "config-bomb": (deflated_bomb("config.json", 100 << 20), "at most are read"),
    "metadata-bomb": (deflated_bomb("metadata.json", 20 << 20), "at most are read"),
    "weights-bomb": (deflated_bomb("model.weights.h5", 100 << 20), "at most are read"),
    "deep-config": (
        keras(config__json=b'{"config":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "is not JSON",
    ),
    "config-twice": (
        keras(config__json=b'{"class_name": "Dense", "class_name": "Lambda"}'),
        "names something twice",
    ),
    "nested-archive": (
        keras(model__weights__h5=archive({"model.weights.h5": hdf5()})),
        "not an HDF5 file",
    ),
}

ATTACKS: list[Attack] = attacks("zip", ZIP) + attacks("keras", KERAS)
