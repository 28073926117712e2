"""PyTorch checkpoints for the tests of their reader: written by PyTorch, or pickled by hand.
Imports PyTorch.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.errors import CheckpointError
from shared.formats.containers.torch_file import read


def save(path: Path, value: Any, layout: str = "zip", **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=layout == "zip", **options)
    return path


def toy() -> dict[str, Any]:
    return {
        "conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2),
        "bn.bias": torch.arange(3).half(),
        "bn.num_batches_tracked": torch.tensor(7),
    }


# Pickles by hand.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def persistent(
    key: str = "0", numel: int = 6, kind: str = "torch\nFloatStorage", tag: str = "storage"
) -> bytes:
    return (
        b"(" + text(tag) + f"c{kind}\n".encode() + text(key) + text("cpu") + number(numel) + b"tQ"
    )


def tensor(size: tuple = (2, 3), stride: tuple = (3, 1), offset: int = 0, **storage: Any) -> bytes:
    arguments = (
        persistent(**storage) + number(offset) + numbers(*size) + numbers(*stride) + b"\x89}t"
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"R"


def one(name: str, body: bytes) -> bytes:
    """The pickle of a dict with one item."""
    return b"\x80\x02}" + text(name) + body + b"s."


def write_zip(path: Path, body: bytes, data: bytes = bytes(24), **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", body)
        archive.writestr("a/data/0", data)
        for name, content in members.items():
            archive.writestr("a/" + name.replace("__", "/").replace("_pkl", ".pkl"), content)
    return path


def write_legacy(
    path: Path, body: bytes, keys: tuple[str, ...] = ("0",), data: bytes | None = None
) -> Path:
    magic, protocol = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02M\xe9\x03."
    listing = b"\x80\x02](" + b"".join(map(text, keys)) + b"e."
    storages = struct.pack("<q", 6) + bytes(24) if data is None else data
    path.write_bytes(magic + protocol + one("little_endian", b"\x88") + body + listing + storages)
    return path


def refused(path: Path, *words: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message
    return message
