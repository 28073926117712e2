"""Folders and paths: sharded indexes, TensorFlow.js manifests, Orbax; files that pose, end early,
or never end.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.attacks import seeds
from tests.attacks.attack import Attack, Make, Placement, attacks

INDEX, CONFIG, SHARD = (
    "model.safetensors.index.json",
    "config.json",
    "model-00001-of-00002.safetensors",
)
Edit = Callable[[Any, Placement], Any]


@functools.cache
def _made(kind: str) -> Path:
    """One of the valid checkpoints, made once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="attacks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return seeds.SEEDS[kind](folder)


def copied(kind: str, place: Placement) -> Path:
    source = _made(kind)
    target = place.inside / source.name
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target


def edited(kind: str, name: str, edit: Edit) -> Make:
    """A valid folder with a change in one of its JSON files; `edit` changes it in place or returns
    another.
    """

    def make(place: Placement) -> Path:
        path = copied(kind, place)
        table = json.loads((path / name).read_text())
        other = edit(table, place)
        (path / name).write_text(json.dumps(table if other is None else other))
        return path

    return make


def replaced(kind: str, name: str, replace: Callable[[Path, Placement], Any]) -> Make:
    """A valid folder in which one file is gone and something else may stand there."""

    def make(place: Placement) -> Path:
        path = copied(kind, place)
        target = path / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()
        replace(target, place)
        return path

    return make


def linked(kind: str, name: str) -> Make:
    return replaced(kind, name, lambda target, place: target.symlink_to(place.secret))


def piped(kind: str, name: str) -> Make:
    return replaced(kind, name, lambda target, place: os.mkfifo(target))


def shard(name: str) -> Make:
    """An index that places its first tensor in this file."""
    return edited(
        "huggingface",
        INDEX,
        lambda t, p: t["weight_map"].__setitem__(next(iter(t["weight_map"])), name),
    )


def config(**values: Any) -> Make:
    return edited("huggingface", CONFIG, lambda table, place: table.update(values))


def written(kind: str, name: str, data: bytes) -> Make:
    return replaced(kind, name, lambda target, place: target.write_bytes(data))


def manifest(edit: Callable[[dict, Placement], Any]) -> Make:
    return edited(
        "tfjs", "model.json", lambda table, place: edit(table["weightsManifest"][0], place)
    )


def tfjs_path(name: str) -> Make:
    return manifest(lambda group, place: group["paths"].__setitem__(0, name))


def weight(**fields: Any) -> Make:
    return manifest(lambda group, place: group["weights"][0].update(fields))


def leaf(edit: Callable[[dict], Any]) -> Make:
    """A change of the first leaf of Orbax' metadata."""
    return edited("orbax", "_METADATA", lambda t, p: edit(next(iter(t["tree_metadata"].values()))))


def array(**fields: Any) -> Make:
    """A change of what zarr says about an array."""
    return edited(
        "orbax", "params.conv_init.kernel/.zarray", lambda table, place: table.update(fields)
    )


def orbax_bomb(place: Placement) -> Path:
    """An array of 8 GiB without chunks, which zarr reads as its fill value."""
    path = copied("orbax", place)
    name = path / "params.conv_init.kernel" / ".zarray"
    table = json.loads(name.read_text())
    name.write_text(
        json.dumps({**table, "shape": [1 << 10, 1 << 10, 1 << 5, 1 << 5], "fill_value": 0.0})
    )
    metadata = json.loads((path / "_METADATA").read_text())
    (path / "_METADATA").write_text(
        json.dumps({**metadata, "store_array_data_equal_to_fill_value": False})
    )
    return path


# Paths.


def fifo(name: str) -> Make:
    def make(place: Placement) -> Path:
        os.mkfifo(place.inside / name)
        return place.inside / name

    return make


def link(name: str, to: str) -> Make:
    def make(place: Placement) -> Path:
        path = place.inside / name
        path.symlink_to(to)
        return path

    return make


def loop(place: Placement) -> Path:
    folder = place.inside / "loop"
    folder.mkdir()
    (folder / "loop").symlink_to(folder)
    (folder / "config.json").symlink_to(folder)
    return folder


def file(name: str, data: bytes = b"") -> Make:
    return lambda place: place.write(name, data)


def posing(kind: str, name: str) -> Make:
    """A valid file under the name of another format."""

    def make(place: Placement) -> Path:
        path = copied(kind, place)
        return path.rename(place.inside / name)

    return make


def cut(kind: str, keep: float | int) -> Make:
    """A valid file without its end: a part of it, a number of bytes, or all but so many."""

    def make(place: Placement) -> Path:
        path = copied(kind, place)
        size = path.stat().st_size
        os.truncate(path, int(size * keep) if isinstance(keep, float) else keep % size)
        return path

    return make


NAMES, OUT = "plain names of files", "leads out of its folder"

INDEXES: dict[str, tuple[Make, str]] = {
    "traversal": (shard("../../outside/secret.safetensors"), NAMES),
    "absolute": (shard("/etc/passwd.safetensors"), NAMES),
    "backslash": (shard("..\\..\\outside\\secret.safetensors"), NAMES),
    "drive": (shard("C:secret.safetensors"), NAMES),
    "null": (shard("a\0.safetensors"), NAMES),
    "another-kind": (shard("pytorch_model.bin"), "expected .safetensors"),
    "missing-shard": (shard("model-00003-of-00002.safetensors"), "cannot be read"),
    "itself": (shard(INDEX), "expected .safetensors"),
    "wrong-shard": (
        edited("huggingface", INDEX, lambda t, p: t.update(weight_map={"a": SHARD})),
        "does not hold it",
    ),
    "numbers": (
        edited("huggingface", INDEX, lambda t, p: t["weight_map"].update(a=1)),
        "no table 'weight_map'",
    ),
    "a-list": (
        edited("huggingface", INDEX, lambda t, p: t.update(weight_map=["a"])),
        "no table 'weight_map'",
    ),
    "huge": (written("huggingface", INDEX, b" " * (5 << 20)), "at most are read"),
    "deep": (written("huggingface", INDEX, b"[" * 100_000), "is not JSON"),
    "link": (linked("huggingface", SHARD), OUT),
    "pipe": (piped("huggingface", SHARD), "not a regular file"),
    "config-link": (linked("huggingface", CONFIG), OUT),
    "config-pipe": (piped("huggingface", CONFIG), "not a regular file"),
    "config-huge": (written("huggingface", CONFIG, b" " * (2 << 20)), "at most are read"),
    "config-of-a-billion-blocks": (config(depths=[10**9] * 4), "config.json|depths"),
    "config-of-text-blocks": (config(depths="os.system"), "config.json|depths"),
    "config-of-other-widths": (config(hidden_sizes=[10**9] * 4), "config.json|hidden_sizes"),
}

TFJS: dict[str, tuple[Make, str]] = {
    "traversal": (tfjs_path("../../outside/secret.bin"), NAMES),
    "absolute": (manifest(lambda g, p: g["paths"].__setitem__(0, str(p.secret))), NAMES),
    "backslash": (tfjs_path("..\\secret.bin"), NAMES),
    "address": (tfjs_path("http://127.0.0.1/secret.bin"), NAMES),
    "number-as-path": (manifest(lambda g, p: g["paths"].__setitem__(0, 1)), NAMES),
    "same-shard-twice": (manifest(lambda g, p: g["paths"].append(g["paths"][0])), "twice"),
    "manifest-as-shard": (tfjs_path("model.json"), "shards are called"),
    "link": (linked("tfjs", "group1-shard1of1.bin"), OUT),
    "pipe": (piped("tfjs", "group1-shard1of1.bin"), "not a regular file"),
    "huge-shape": (weight(shape=[1 << 40]), "impossible shape"),
    "negative-shape": (weight(shape=[-1]), "impossible shape"),
    "shape-beyond": (weight(shape=[1 << 20]), "its shards have"),
    "lossy": (weight(quantization={"dtype": "uint8", "scale": 1e300, "min": 0}), "quantized"),
    "string-dtype": (weight(dtype="string"), "has the dtype"),
    "same-weight-twice": (
        manifest(lambda g, p: g["weights"].append({**g["weights"][0], "shape": [0]})),
        "there twice",
    ),
    "deep": (written("tfjs", "model.json", b'{"a":' * 100_000), "is not JSON"),
    "huge": (written("tfjs", "model.json", b" " * (5 << 20)), "at most are read"),
    "manifest-pipe": (piped("tfjs", "model.json"), "not a regular file"),
    "graph-model": (
        edited("tfjs", "model.json", lambda t, p: t.update(format="graph-model")),
        "expected 'layers-model'",
    ),
}

ORBAX: dict[str, tuple[Make, str]] = {
    "link": (linked("orbax", "params.conv_init.kernel/0.0.0.0"), "is a link or no file"),
    "folder-link": (
        replaced("orbax", "params.conv_init.kernel", lambda t, p: t.symlink_to(p.outside)),
        "is a link",
    ),
    "pipe": (piped("orbax", "params.conv_init.kernel/0.0.0.0"), "no file"),
    "loop": (
        replaced("orbax", "params.conv_init.kernel", lambda t, p: t.symlink_to(t.parent)),
        "is a link",
    ),
    "metadata-link": (linked("orbax", "_METADATA"), "is a link"),
    "key-as-path": (
        leaf(lambda f: f["key_metadata"][0].update(key="../../outside")),
        "looks like a path",
    ),
    "key-of-a-list": (leaf(lambda f: f["key_metadata"][0].update(key=[])), "impossible keys"),
    "many-keys": (
        leaf(lambda f: f.update(key_metadata=[{"key": "a"}] * 10_000)),
        "impossible keys",
    ),
    "array-that-is-not-there": (
        leaf(lambda f: f["key_metadata"][0].update(key="absent")),
        "cannot be read",
    ),
    "same-array-twice": (
        edited(
            "orbax",
            "_METADATA",
            lambda t, p: t["tree_metadata"].update(again=next(iter(t["tree_metadata"].values()))),
        ),
        "twice",
    ),
    "no-tree": (edited("orbax", "_METADATA", lambda t, p: []), "not an object"),
    "deep": (written("orbax", "_METADATA", b"[" * 100_000), "is not JSON"),
    "shape-that-lies": (array(shape=[1 << 20] * 4), "impossible shape"),
    "shape-of-another": (array(shape=[7, 7, 3, 65]), "of another shape"),
    "chunk-bomb": (array(chunks=[1 << 20, 1 << 20, 1, 1]), "announces chunks"),
    "chunk-beside-the-array": (array(chunks=[7, 7, 3, 64 * 3]), "announces chunks"),
    "fill-bomb": (orbax_bomb, "at most are read"),
    "other-dtype": (array(dtype="|O"), "cannot be read"),
    "foreign-codec": (array(compressor={"id": "pickle"}), "cannot be read"),
    "ocdbt-that-is-none": (
        edited("orbax", "_METADATA", lambda t, p: t.update(use_ocdbt=True)),
        "cannot be read",
    ),
}

PATHS: dict[str, tuple[Make, str]] = {
    "pipe": (fifo("net.safetensors"), "not a regular file"),
    "pipe-torch": (fifo("net.pth"), "not a regular file"),
    "pipe-hdf5": (fifo("net.h5"), "not a regular file"),
    "pipe-without-a-name": (fifo("net"), "not a regular file"),
    "pipe-manifest": (fifo("model.json"), "not a regular file"),
    "dev-zero": (link("net.pth", "/dev/zero"), "not a regular file"),
    "dev-zero-msgpack": (link("net.msgpack", "/dev/zero"), "not a regular file"),
    "dev-random": (link("net.h5", "/dev/urandom"), "not a regular file"),
    "loop": (link("net.pth", "net.pth"), "cannot be read"),
    "folder-loop": (loop, OUT),
    "folder-as-file": (
        lambda p: (p.inside / "net.pth").mkdir() or p.inside / "net.pth",
        "a folder without",
    ),
    "absent": (lambda p: p.inside / "net.pth", "cannot be read"),
    "null-in-the-path": (lambda p: p.inside / "a\0.pth", "cannot be read"),
    "long-name": (lambda p: p.inside / ("a" * 5000 + ".pth"), "cannot be read"),
}

POSES: dict[str, tuple[Make, str]] = {
    "hdf5-as-safetensors": (posing("hdf5", "net.safetensors"), "its name says safetensors"),
    "hdf5-as-torch": (posing("hdf5", "net.pth"), "its name says PyTorch"),
    "hdf5-as-keras": (posing("hdf5", "net.keras"), "its name says Keras archive"),
    "keras-as-npz": (posing("keras", "net.npz"), "its name says NumPy"),
    "npz-as-torch": (posing("npz", "net.pth"), "its name says PyTorch"),
    "torch-as-keras": (posing("torch-zip", "net.keras"), "its name says Keras archive"),
    "pickle-as-safetensors": (
        posing("torch-legacy", "net.safetensors"),
        "its name says safetensors",
    ),
    "pickle-as-msgpack": (posing("torch-legacy", "net.msgpack"), "its name says Flax"),
    "safetensors-as-torch": (
        posing("safetensors", "net.pth"),
        "neither as a zip file nor as a pickle",
    ),
    "safetensors-as-npz": (posing("safetensors", "net.npz"), "its name says NumPy"),
    "msgpack-as-torch": (posing("msgpack", "net.bin"), "neither as a zip file nor as a pickle"),
    "picture": (
        file("net.pth", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        "neither as a zip file nor as a pickle",
    ),
    "program": (file("net.safetensors", b"\x7fELF" + bytes(100)), "not a safetensors file"),
    "text": (
        file("net.h5", b"import os; os.system('true')\n"),
        "not a checkpoint file that is known",
    ),
    "unknown": (file("net.exe", b"MZ" + bytes(100)), "not a checkpoint file that is known"),
    "gzip": (file("net.npz", b"\x1f\x8b\x08" + bytes(100)), "not a checkpoint file that is known"),
}

CUTS: dict[str, tuple[Make, str]] = {
    f"{kind}-{name}": (cut(kind, keep), "")
    for kind in (
        "safetensors",
        "torch-zip",
        "torch-legacy",
        "hdf5",
        "weights-h5",
        "keras",
        "msgpack",
        "npz",
    )
    for name, keep in (
        ("empty", 0),
        ("one-byte", 1),
        ("magic", 8),
        ("half", 0.5),
        ("last-byte", -1),
    )
}

ATTACKS: list[Attack] = (
    attacks("index", INDEXES)
    + attacks("tfjs", TFJS)
    + attacks("orbax", ORBAX)
    + attacks("path", PATHS)
    + attacks("pose", POSES)
    + attacks("cut", CUTS)
)
