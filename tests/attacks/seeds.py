"""Small valid checkpoints of every container: what attacks start from, and what
mutations change.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from shared.architecture.plan import make_plan
from shared.architecture.presets import get_spec, miniature
from shared.architecture.spec import ResNetSpec
from shared.formats.checkpoint import open_checkpoint
from shared.formats.containers.archive import Entry
from shared.formats.convert import convert
from shared.formats.layouts import from_canonical
from shared.naming.names import foreign_names
from shared.naming.schemes import FORMATS
from shared.weights.canonical import FORMAT
from shared.weights.files import write_tensors
from tests.formats import litert_files, onnx_files, openvino_files, tensorflow_files

Tensors = Mapping[str, np.ndarray]


def tiny(
    preset: str = "torchvision/resnet18", stages: int = 2, width: int = 4, **changes: Any
) -> ResNetSpec:
    """A miniature of one block a stage."""
    spec = miniature(get_spec(preset))
    return spec.replace(
        **{"depths": (1,) * stages, "widths": (width,) * stages, "num_classes": 3, **changes}
    )


TINY = tiny(**{"stem.convs": ((3, 2, 4),)})
_BIT = tiny("bit/r50x1", 1, 8, **{"stem.convs": ((7, 2, 32),), "norm.groups": 32, "widths": (32,)})
_WIDE_STEM = {"stem.convs": ((7, 2, 64),)}


@functools.cache
def _weights(spec: ResNetSpec) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: np.abs(rng.standard_normal(shape)).astype("float32")
        for name, shape in make_plan(spec).tensors.items()
    }


def weights() -> dict[str, np.ndarray]:
    """The tensors of `TINY` under canonical names, which are those of our PyTorch module."""
    return dict(_weights(TINY))


def keras_weights() -> dict[str, np.ndarray]:
    """Those as our Keras model has them: `<layer>/<leaf>`."""
    leaves = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    found = {}
    for name, array in weights().items():
        layer, _, leaf = name.rpartition(".")
        plain = "conv" in layer or layer == "head"
        leaf = {"weight": "kernel", "bias": "bias"}[leaf] if plain else leaves[leaf]
        found[f"{layer}/{leaf}"] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return found


def canonical(path: Path, spec: ResNetSpec = TINY) -> Path:
    write_tensors(path, _weights(spec), {"format": FORMAT, "spec": spec.to_json()}, durable=False)
    return path


def _converted(name: str, to: str, spec: ResNetSpec = TINY) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        source = canonical(folder / "source.safetensors", spec)
        convert(open_checkpoint(source), folder / name, to)
        source.unlink()
        return folder / name

    return make


# Pickles, as torch.save lays them out. `code` is what an attack adds.


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(key: str, numel: int, kind: str = "FloatStorage") -> bytes:
    return (
        b"("
        + text("storage")
        + f"ctorch\n{kind}\n".encode()
        + text(key)
        + text("cpu")
        + integer(numel)
        + b"tQ"
    )


def tensor(
    key: str,
    shape: tuple[int, ...],
    numel: int | None = None,
    offset: int = 0,
    stride: tuple[int, ...] | None = None,
) -> bytes:
    """`_rebuild_tensor_v2` of a storage."""
    size = int(np.prod(shape)) if numel is None else numel
    steps = (
        stride
        if stride is not None
        else tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage(key, size)
        + integer(offset)
        + numbers(*shape)
        + numbers(*steps)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def state_pickle(
    code: bytes = b"",
    protocol: int = 2,
    wrap: Callable[[bytes], bytes] = lambda state: state,
    arrays: Tensors | None = None,
) -> bytes:
    """A pickled state dict whose item 'extra' is `code`."""
    arrays = weights() if arrays is None else arrays
    items = b"".join(
        text(name) + tensor(str(i), a.shape) for i, (name, a) in enumerate(arrays.items())
    )
    extra = text("extra") + code if code else b""
    return bytes([0x80, protocol]) + wrap(b"}(" + items + extra + b"u") + b"."


def stored_zip(members: Mapping[str, bytes], deflated: bool = False) -> bytes:
    """An archive of stored members, whatever their names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, kind)
    return buffer.getvalue()


def _tree(names: Mapping[str, bytes]) -> dict[str, Any]:
    """The nested dict of `a.b.c`."""
    tree: dict[str, Any] = {}
    for name, leaf in names.items():
        *parents, last = name.split(".")
        level = tree
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = leaf
    return tree


def _references() -> dict[str, bytes]:
    return {name: tensor(str(i), a.shape) for i, (name, a) in enumerate(weights().items())}


def module_pickle(more: bytes = b"") -> bytes:
    """The network as a module of PyTorch; `more` are attributes of the outermost."""

    def module(tree: Mapping[str, Any], more: bytes = b"") -> bytes:
        parts = {"_parameters": b"", "_buffers": b"", "_modules": b""}
        for name, leaf in tree.items():
            inner = isinstance(leaf, dict)
            part = "_modules" if inner else "_buffers" if "running" in name else "_parameters"
            parts[part] += text(name) + (module(leaf) if inner else leaf)
        state = b"".join(text(name) + b"}(" + items + b"u" for name, items in parts.items())
        return b"ctorch.nn.modules.module\nModule\n)\x81}(" + state + more + b"ub"

    return b"\x80\x02" + module(_tree(_references()), more) + b"."


def script_members() -> dict[str, bytes]:
    """The network as a TorchScript archive."""

    def scripted(tree: Mapping[str, Any]) -> bytes:
        items = b"".join(
            text(name) + (scripted(leaf) if isinstance(leaf, dict) else leaf)
            for name, leaf in tree.items()
        )
        return b"c__torch__.net\nNet\n)\x81}(" + text("training") + b"\x89" + items + b"ub"

    found = torch_members(b"\x80\x02" + scripted(_tree(_references())) + b".")
    code = {"archive/code/__torch__/net.py": b"class Net(Module):\n  pass\n"}
    return {**found, **code, "archive/constants.pkl": b"\x80\x02)."}


def torch_members(pickle: bytes | None = None) -> dict[str, bytes]:
    pickle = state_pickle() if pickle is None else pickle
    data = {f"archive/data/{i}": a.tobytes() for i, a in enumerate(weights().values())}
    return {
        "archive/data.pkl": pickle,
        "archive/byteorder": b"little",
        **data,
        "archive/version": b"3\n",
    }


def torch_zip(pickle: bytes | None = None) -> bytes:
    return stored_zip(torch_members(pickle))


def torch_legacy(pickle: bytes | None = None) -> bytes:
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    system = b"\x80\x02}(" + text("little_endian") + b"\x88u."
    arrays = weights()
    keys = b"\x80\x02](" + b"".join(text(str(i)) for i in range(len(arrays))) + b"e."
    data = b"".join(a.size.to_bytes(8, "little") + a.tobytes() for a in arrays.values())
    return (
        magic
        + b"\x80\x02M\xe9\x03."
        + system
        + (state_pickle() if pickle is None else pickle)
        + keys
        + data
    )


def _file(name: str, data: Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data())
        return folder / name

    return make


# Folders.


def sharded(folder: Path) -> Path:
    """A Hugging Face folder of two shards."""
    make = _converted("hf", "huggingface", tiny(stages=4, **_WIDE_STEM))
    path = make(folder)
    arrays = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(arrays)
    halves = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in halves.items():
        save_file({name: arrays[name] for name in part}, path / file, {"format": "pt"})
    places = {name: file for file, part in halves.items() for name in part}
    (path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    return path


def zarr(folder: Path) -> Path:
    """An Orbax checkpoint of plain zarr arrays, small enough to write by hand: a Linen network."""
    spec = tiny("flax/resnet18", **_WIDE_STEM)
    scheme = next(s for s in FORMATS["linen"].schemes if s.convention == "flax/resnet18")
    names, _ = foreign_names(scheme, make_plan(spec))
    path, tree = folder / "orbax", {}
    for name, foreign in names.items():
        array = from_canonical(scheme, name, Entry.of(_weights(spec)[name])).load()
        keys = foreign.split("/")
        array_folder = path / ".".join(keys)
        array_folder.mkdir(parents=True)
        layout = {
            "zarr_format": 2,
            "shape": array.shape,
            "chunks": array.shape,
            "dtype": "<f4",
            "compressor": None,
            "fill_value": None,
            "filters": None,
            "order": "C",
            "dimension_separator": ".",
        }
        (array_folder / ".zarray").write_text(json.dumps(layout))
        (array_folder / ".".join("0" * array.ndim)).write_bytes(
            np.ascontiguousarray(array).tobytes()
        )
        leaf = {"value_type": "jax.Array", "skip_deserialize": False}
        tree[str(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": leaf,
        }
    metadata = {
        "tree_metadata": tree,
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
    }
    (path / "_METADATA").write_text(json.dumps(metadata))
    return path


def npy(folder: Path) -> Path:
    """A dict of arrays in a `.npy` file."""
    objects = np.empty((), dtype=object)
    objects[()] = {"model": weights()}
    np.save(folder / "net.npy", objects, allow_pickle=True)
    return folder / "net.npy"


def openvino(folder: Path) -> Path:
    return openvino_files.small().write(folder / "net.xml")


def tensorflow(folder: Path) -> Path:
    """A TensorFlow checkpoint in a folder of its own."""
    path = folder / "ckpt"
    path.mkdir()
    tensorflow_files.write(path / "model.ckpt-1.index", weights())
    (path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
    return path


def saved_model(folder: Path) -> Path:
    """The variables of a SavedModel, whose program nobody looks at."""
    path = folder / "saved"
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"\x08\x01")
    tensorflow_files.write(path / "variables" / "variables.index", weights())
    return path


# Container -> how its file or folder is made in a folder.
SEEDS: dict[str, Callable[[Path], Path]] = {
    "safetensors": lambda folder: canonical(folder / "net.safetensors"),
    "torch-zip": _file("net.pth", torch_zip),
    "torch-legacy": _file("old.pth", torch_legacy),
    "hdf5": _converted("net.h5", "keras"),
    "weights-h5": _converted("net.weights.h5", "keras"),
    "keras": _converted("net.keras", "keras"),
    "msgpack": _converted("net.msgpack", "linen", tiny("flax/resnet18", **_WIDE_STEM)),
    "npz": _converted("net.npz", "bit", _BIT),
    "tfjs": _converted("tfjs", "keras"),
    "huggingface": sharded,
    "orbax": zarr,
    "module": _file("net.pth", lambda: torch_zip(module_pickle())),
    "module-legacy": _file("net.th", lambda: torch_legacy(module_pickle())),
    "script": _file("net.pt", lambda: stored_zip(script_members())),
    "pickle": _file("net.pkl", lambda: pickle.dumps({"model": weights()}, 4)),
    "pickle-old": _file("net.pkl", lambda: pickle.dumps(weights(), 0)),
    "npy": npy,
    "tensorflow": tensorflow,
    "tensorflow-old": _file("model.ckpt", lambda: tensorflow_files.old(weights())),
    "saved-model": saved_model,
    "onnx": _file("net.onnx", lambda: onnx_files.network(weights())),
    "openvino": openvino,
    "litert": _file("net.tflite", lambda: litert_files.small().bytes()),
}

SANDBOXED = ("weights-h5", "orbax")  # one of each reader that works in a process of its own
WARM = tuple(kind for kind in SEEDS if kind not in ("hdf5", "weights-h5", "keras", "orbax"))


def make_all(folder: Path) -> dict[str, Path]:
    """A valid checkpoint of every container."""
    made = {}
    for kind, make in SEEDS.items():
        (folder / kind).mkdir(parents=True)
        made[kind] = make(folder / kind)
    return made
