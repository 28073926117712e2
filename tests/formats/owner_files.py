"""Files as their owners have them: one or more for each row of "I have a file from …" in
docs/formats.md.
"""

from __future__ import annotations

import pickle
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.formats import onnx_files, tensorflow_files
from tests.formats.inside_files import FEATURES, Arrays, net, ones, save, under

RAW, OTHER = 1, 2  # seeds


class Case(NamedTuple):
    """A file like that of a row, and the network that has to arrive."""

    owner: str
    write: Callable[[Path], Path]  # into a folder
    seed: int = RAW
    classes: int = 5


def renamed(tensors: Arrays, *pairs: tuple[str, str]) -> Arrays:
    """By regular expressions."""
    found = {}
    for name, array in tensors.items():
        for pattern, new in pairs:
            name = re.sub(pattern, new, name)
        found[name] = array
    return found


def torch_file(tree: Callable[[], Any], name: str = "file.pth") -> Callable[[Path], Path]:
    """`torch.save` of a tree of arrays."""

    def write(folder: Path) -> Path:
        torch = pytest.importorskip("torch")

        def tensors(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return torch.from_numpy(value.copy())
            if isinstance(value, dict):
                return {key: tensors(inner) for key, inner in value.items()}
            kind = type(value)
            return kind(map(tensors, value)) if kind in (list, tuple) else value

        torch.save(tensors(tree()), folder / name)
        return folder / name

    return write


def flat(tensors: Callable[[], Arrays]) -> Callable[[Path], Path]:
    """A safetensors file."""
    return lambda folder: save(folder, tensors())


def optimizer() -> dict[str, Any]:
    state = {i: {"exp_avg": array} for i, array in enumerate(net(RAW).values())}
    return {"state": state, "param_groups": [{"lr": 0.1, "params": list(state)}]}


def lightning() -> dict[str, Any]:
    return {
        "epoch": 9,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": under("model.net.", net(RAW)),
        "optimizer_states": [optimizer()],
        "callbacks": {},
        "hyper_parameters": Namespace(lr=1e-3),
    }


def compiled() -> Arrays:
    inside = renamed(net(RAW), (r"^(layer\d)\.", r"\1._orig_mod."))
    return under("_orig_mod.module.", inside)


def wrapped() -> Arrays:
    inside = renamed(net(RAW), (r"^(layer\d\.\d)\.", r"\1._checkpoint_wrapped_module."))
    return under("_fsdp_wrapped_module.", inside)


def ema_pytorch() -> Arrays:
    """Where the average is called so in the middle of its path."""
    both = under("online_model.", net(OTHER)) | under("ema_model.", net(RAW))
    return both | {"step": np.array(3), "initted": np.array(True)}


def moco() -> Arrays:
    head = ones(fc__0__weight=(64, FEATURES), fc__2__weight=(16, 64))
    query, key = net(RAW, 0) | head, net(OTHER, 0) | head
    sides = under("module.encoder_q.", query) | under("module.encoder_k.", key)
    return sides | ones(module__queue=(16, 8)) | {"module.queue_ptr": np.zeros(1, np.int64)}


def byol() -> Arrays:
    found = under("online_encoder.net.", net(RAW, 0)) | under("target_encoder.net.", net(OTHER, 0))
    return found | ones(
        online_encoder__projector__0__weight=(64, FEATURES),
        online_encoder__projector__3__weight=(16, 64),
        online_predictor__0__weight=(64, 16),
    )


def swav() -> Arrays:
    heads = ones(projection_head__0__weight=(32, FEATURES), prototypes__weight=(30, 16))
    return under("module.", net(RAW, 0) | heads)


def barlow() -> Arrays:
    heads = ones(projector__0__weight=(32, FEATURES), bn__running_mean=(16,))
    return under("module.", under("backbone.", net(RAW, 0)) | heads)


def dino() -> dict[str, Any]:
    def side(seed: int) -> Arrays:
        head = ones(head__mlp__0__weight=(32, FEATURES), head__last_layer__weight_v=(40, 32))
        return under("module.", under("backbone.", net(seed, 0)) | head)

    return {
        "student": side(OTHER),
        "teacher": side(RAW),
        "dino_loss": {"center": np.zeros((1, 40), np.float32)},
        "optimizer": optimizer(),
        "args": Namespace(arch="resnet50"),
    }


def detector() -> Arrays:
    return under("backbone.body.", net(RAW, 0)) | ones(
        backbone__fpn__inner_blocks__0__0__weight=(16, 32, 1, 1),
        rpn__head__cls_logits__weight=(3, 16, 1, 1),
        roi_heads__box_predictor__cls_score__weight=(5, 64),
        roi_heads__box_predictor__cls_score__bias=(5,),
    )


def segmenter() -> Arrays:
    found = under("encoder.", net(RAW, 0))
    for i, (inputs, outputs) in enumerate(((96, 32), (48, 16), (24, 8))):
        for k, channels in ((1, inputs), (2, outputs)):
            found |= ones(**{f"decoder__{i}__conv{k}__0__weight": (outputs, channels, 3, 3)})
            found |= ones(**{f"decoder__{i}__conv{k}__1__weight": (outputs,)})
    return found


def reidentification() -> Arrays:
    norm = {f"bottleneck.{leaf}": np.ones(FEATURES, np.float32) for leaf in ("weight", "bias")}
    return under("base.", net(RAW, 0)) | norm | ones(classifier__weight=(7, FEATURES))


def robust() -> Arrays:
    """Twins, and a normaliser."""
    more = ones(normalizer__new_mean=(3, 1, 1), attacker__normalize__new_mean=(3, 1, 1))
    return under("model.", net(RAW)) | under("attacker.model.", net(RAW)) | more


def short_names() -> Arrays:
    return renamed(
        net(RAW),
        (r"^conv1", "stem.c"), (r"^bn1", "stem.n"), (r"layer(\d)", r"stage\1"),
        (r"\.conv(\d)", r".c\1"), (r"\.bn(\d)", r".n\1"), ("downsample", "proj"), ("^fc", "out"),
    )  # fmt: skip


def units() -> Arrays:
    return renamed(
        net(RAW),
        (r"^conv1", "features.init_block.conv.conv"), (r"^bn1", "features.init_block.conv.bn"),
        (r"layer(\d)\.(\d)\.", r"features.stage\1.unit\2."),
        (r"\.conv(\d)\.", r".body.conv\1.conv."), (r"\.bn(\d)\.", r".body.conv\1.bn."),
        (r"downsample\.0", "identity_conv.conv"), (r"downsample\.1", "identity_conv.bn"),
        (r"^fc", "output"),
    )  # fmt: skip


def children() -> Arrays:
    found = renamed(net(RAW, 0), (r"^conv1", "0"), (r"^bn1", "1"))
    return {re.sub(r"^layer(\d)", lambda m: str(int(m[1]) + 3), n): a for n, a in found.items()}


def sequences() -> Arrays:
    """Numbers alone: `1.0.0.3.weight`."""
    return renamed(
        net(RAW),
        (r"^conv1", "0.0"), (r"^bn1", "0.1"), (r"^fc", "6"), (r"^layer(\d)", r"\1"),
        (r"^(\d)\.(\d)\.conv1", r"\1.\2.0.0"), (r"^(\d)\.(\d)\.bn1", r"\1.\2.0.1"),
        (r"^(\d)\.(\d)\.conv2", r"\1.\2.0.3"), (r"^(\d)\.(\d)\.bn2", r"\1.\2.0.4"),
        (r"^(\d)\.(\d)\.conv3", r"\1.\2.0.6"), (r"^(\d)\.(\d)\.bn3", r"\1.\2.0.7"),
        ("downsample", "1"),
    )  # fmt: skip


def counted() -> Arrays:
    """`conv2d_17`, in the order in which they run."""
    numbers: dict[str, str] = {}
    counts = {"conv2d": 0, "batchnorm": 0, "dense": 0}
    found = {}
    for name, array in net(RAW).items():
        layer, _, leaf = name.rpartition(".")
        if layer not in numbers:
            kind = "conv2d" if array.ndim == 4 else "dense" if array.ndim == 2 else "batchnorm"
            numbers[layer] = f"{kind}_{counts[kind]}"
            counts[kind] += 1
        found[f"{numbers[layer]}.{leaf}"] = array
    return found


def hwio(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    return np.ascontiguousarray(array.T)


def linen() -> dict[str, Any]:
    """Somebody's own modules in a training state."""
    layers = renamed(
        {name: array for name, array in net(RAW).items() if not name.endswith("tracked")},
        (r"^conv1", "stem_conv"), (r"^bn1", "stem_bn"), (r"^fc", "logits"),
        (r"layer(\d)\.(\d)\.", r"stage\1/block\2/"), ("downsample.0", "proj_conv"),
        ("downsample.1", "proj_bn"), (r"\.", "/"),
    )  # fmt: skip
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, array in layers.items():
        *path, leaf = name.split("/")
        kernel = array.ndim > 1
        names = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
        inner = tree["batch_stats" if leaf.startswith("running") else "params"]
        for part in path:
            inner = inner.setdefault(part, {})
        inner[names.get(leaf, "kernel" if kernel else "scale")] = hwio(array) if kernel else array
    more = {"opt_state": {"0": {"mu": tree["params"]}}, "ema_params": tree["params"]}
    return {**tree, **more, "step": 7}


def msgpack(folder: Path) -> Path:
    serialization = pytest.importorskip("flax.serialization")
    (folder / "file.msgpack").write_bytes(serialization.msgpack_serialize(linen()))
    return folder / "file.msgpack"


def npz(folder: Path) -> Path:
    arrays = under("model/", renamed(net(RAW), (r"\.", "/")))
    np.savez(folder / "file.npz", **arrays)
    return folder / "file.npz"


def detectron2() -> dict[str, Any]:
    named = renamed(
        {name: array for name, array in net(RAW, 0).items() if not name.endswith("tracked")},
        (r"^(conv1|bn1)", r"stem.\1"), (r"downsample\.0", "shortcut"),
        (r"downsample\.1", "shortcut.norm"), (r"bn(\d)", r"conv\1.norm"),
    )  # fmt: skip
    named = {re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", n): a for n, a in named.items()}
    heads = ones(proposal_generator__rpn_head__conv__weight=(16, 16, 3, 3))
    return {"model": under("backbone.bottom_up.", named) | heads, "__author__": "me"}


def paddle() -> Arrays:
    named = renamed(
        {name: array for name, array in net(RAW).items() if not name.endswith("tracked")},
        (r"^conv1", "conv1._conv"), (r"^bn1", "conv1._batch_norm"),
        (r"\.conv(\d)\.", r".conv\1._conv."), (r"\.bn(\d)\.", r".conv\1._batch_norm."),
        (r"downsample\.0", "short._conv"), (r"downsample\.1", "short._batch_norm"),
        ("running_mean", "_mean"), ("running_var", "_variance"),
    )  # fmt: skip
    return {name: array.T if array.ndim == 2 else array for name, array in named.items()}


def pickled(tree: Callable[[], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "file.pkl").write_bytes(pickle.dumps(tree(), protocol=4))
        return folder / "file.pkl"

    return write


def slim(folder: Path) -> Path:
    leaves = {
        "weight": "gamma", "bias": "beta",
        "running_mean": "moving_mean", "running_var": "moving_variance",
    }  # fmt: skip
    found: Arrays = {"global_step": np.array(5), "mean_rgb": np.ones(3, np.float32)}
    for name, array in net(RAW).items():
        layer, _, leaf = name.rpartition(".")
        block = re.fullmatch(r"layer(\d)\.(\d)\.(\w+?)(\d?)(\.\d)?", layer)
        if leaf == "num_batches_tracked":
            continue
        if layer == "fc":
            own = f"logits/{'weights' if leaf == 'weight' else 'biases'}"
            array = hwio(array)[None, None] if array.ndim == 2 else array
        else:
            unit = "conv1"
            if block:
                kind = "shortcut" if block[3] == "downsample" else f"conv{block[4]}"
                unit = f"block{block[1]}/unit_{int(block[2]) + 1}/bottleneck_v1/{kind}"
            own = f"{unit}/weights" if array.ndim == 4 else f"{unit}/BatchNorm/{leaves[leaf]}"
            array = hwio(array) if array.ndim == 4 else array
        found[f"resnet_v1_50/{own}"] = np.ascontiguousarray(array)
    return tensorflow_files.write(folder / "model.ckpt.index", found)


def counted_variables() -> Arrays:
    """`conv2d_17/kernel`, as TensorFlow counts layers."""
    leaves = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    found = {}
    for name, array in counted().items():
        layer, _, leaf = name.rpartition(".")
        if leaf != "num_batches_tracked":
            norm = {**leaves, "weight": "gamma", "bias": "beta"}
            own = norm[leaf] if "batchnorm" in layer else {"weight": "kernel"}.get(leaf, leaf)
            found[f"{layer}/{own}"] = hwio(array) if array.ndim > 1 else array
    return found


def averaged(folder: Path) -> Path:
    """Beside the averages that TensorFlow puts behind the names, and a slot of an optimizer."""
    raw = {f"model/{name}": array for name, array in counted_variables().items()}
    averages = {f"{name}/ExponentialMovingAverage": array + 1 for name, array in raw.items()}
    slots = {f"{name}/Momentum": array for name, array in raw.items() if "moving" not in name}
    return tensorflow_files.write(folder / "model.ckpt.index", raw | averages | slots)


def objects(folder: Path) -> Path:
    """As `tf.train.Checkpoint(model=…)` names the layers of a Keras model: by number."""
    numbers: dict[str, int] = {}
    found = {"save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.array(1)}
    for name, array in counted_variables().items():
        layer, _, leaf = name.partition("/")
        number = numbers.setdefault(layer, len(numbers))
        found[f"model/layer_with_weights-{number}/{leaf}/.ATTRIBUTES/VARIABLE_VALUE"] = array
    return tensorflow_files.write(folder / "model.ckpt.index", found)


def whole_module(folder: Path) -> Path:
    """An object of a class that is gone when the file is read."""
    torch = pytest.importorskip("torch")
    modules: dict[str, Any] = {}
    root = torch.nn.Module()
    for name, array in net(RAW).items():
        *path, leaf = name.split(".")
        at = root
        for part in path:
            if part not in at._modules:
                at.add_module(part, torch.nn.Module())
            at = at._modules[part]
        value = torch.from_numpy(array.copy())
        if leaf in ("weight", "bias"):
            at.register_parameter(leaf, torch.nn.Parameter(value))
        else:
            at.register_buffer(leaf, value)
    modules["model"] = root
    torch.save(modules, folder / "file.pt")
    return folder / "file.pt"


def onnx(folder: Path) -> Path:
    """A graph whose batch norms are there."""
    arrays = {n: a for n, a in net(RAW).items() if not n.endswith("num_batches_tracked")}
    (folder / "file.onnx").write_bytes(onnx_files.network(arrays))
    return folder / "file.onnx"


def npy(folder: Path) -> Path:
    np.save(folder / "file.npy", {"model": net(RAW)}, allow_pickle=True)  # type: ignore[arg-type]
    return folder / "file.npy"


def keras_model(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        """A network of keras.applications, nested between others, with the weights of `net`."""
        keras = pytest.importorskip("keras")
        from tests.formats.configuration.keras_models import built, small_config

        base = built(small_config(classes=0))
        inner = [
            keras.Input((64, 64, 3)), keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 255),
            base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.1),
            keras.layers.Dense(5, activation="softmax"),
        ]  # fmt: skip
        model = keras.Sequential(inner)
        path = folder / f"file{suffix}"
        if suffix == ".weights.h5":
            model.save_weights(path)
        else:
            model.save(path)
        return path

    return write


CASES: dict[str, Case] = {
    "imagenet example": Case(
        "trainer",
        torch_file(lambda: {
            "epoch": 90, "arch": "resnet50", "state_dict": under("module.", net(RAW)),
            "best_acc1": np.array(76.1), "optimizer": optimizer(),
        }),
    ),
    "lightning": Case("trainer", torch_file(lightning, "file.ckpt")),
    "compiled": Case("trainer", torch_file(compiled)),
    "sharded": Case("trainer", torch_file(lambda: {"state": {"model": wrapped()}})),
    "in lists": Case("trainer", torch_file(lambda: [{"meta": 1}, (net(RAW), 3)])),
    "timm": Case(
        "averages",
        torch_file(lambda: {
            "state_dict": net(OTHER), "state_dict_ema": net(RAW), "args": Namespace(model="r"),
        }),
    ),
    "torchvision": Case(
        "averages",
        torch_file(lambda: {
            "model": net(OTHER),
            "model_ema": {"n_averaged": np.array(7), **under("module.", net(RAW))},
        }),
    ),
    "ema-pytorch": Case("averages", flat(ema_pytorch)),
    "moco": Case("contrastive", flat(moco), classes=0),
    "byol": Case("contrastive", flat(byol), classes=0),
    "swav": Case("contrastive", flat(swav), classes=0),
    "barlow": Case("contrastive", flat(barlow), classes=0),
    "dino": Case("teacher", torch_file(dino), classes=0),
    "distillation": Case(
        "teacher", flat(lambda: under("teacher.", net(RAW)) | under("student.", net(OTHER)))
    ),
    "detector": Case("bigger", flat(detector), classes=0),
    "segmenter": Case("bigger", flat(segmenter), classes=0),
    "reidentification": Case("bigger", flat(reidentification), classes=0),
    "robust": Case("bigger", flat(robust)),
    "last_linear": Case("classifier", flat(lambda: renamed(net(RAW), ("^fc", "last_linear")))),
    "in a sequence": Case("classifier", flat(lambda: renamed(net(RAW), ("^fc", "classifier.1")))),
    "outside": Case(
        "classifier",
        flat(lambda: renamed(net(RAW), ("^", "backbone."), (r"^backbone\.fc", "head.fc"))),
    ),
    "short": Case("names", flat(short_names)),
    "units": Case("names", flat(units)),
    "children": Case("names", flat(children), classes=0),
    "sequences": Case("names", torch_file(sequences)),
    "counted": Case("names", torch_file(counted)),
    "whole module": Case("module", whole_module),
    "detectron2": Case("pickle", pickled(detectron2), classes=0),
    "paddle": Case("pickle", pickled(paddle)),
    "slim": Case("tensorflow", slim),
    "averaged": Case("tensorflow", averaged),
    "objects": Case("tensorflow", objects),
    "linen": Case("arrays", msgpack),
    "npz": Case("arrays", npz),
    "npy": Case("arrays", npy),
    "onnx": Case("onnx", onnx),
}  # fmt: skip
