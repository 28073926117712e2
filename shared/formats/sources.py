"""Weights by name: `hf:REPO[@REVISION]`, `torchvision:IMAGENET1K_V2`, `keras:imagenet`,
`rosetta:RECIPE`, or a path.

`rosetta:` weights are bundled. For the others each hub's own library fetches, with its cache and
its hash checks. What it brings is as untrusted as any file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from shared.architecture.presets import get_preset
from shared.errors import CheckpointError, FrameworkError, SpecError, nearest
from shared.weights.pretrained import pretrained_file

TORCHVISION_URL = "https://download.pytorch.org/models/"
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"

# torchvision/models/resnet.py: the start of each file's SHA-256, which is part of its name.
TORCHVISION: dict[str, dict[str, str]] = {
    "resnet18": {"IMAGENET1K_V1": "f37072fd"},
    "resnet34": {"IMAGENET1K_V1": "b627a593"},
    "resnet50": {"IMAGENET1K_V1": "0676ba61", "IMAGENET1K_V2": "11ad3fa6"},
    "resnet101": {"IMAGENET1K_V1": "63fe2227", "IMAGENET1K_V2": "cd907fc2"},
    "resnet152": {"IMAGENET1K_V1": "394f9c45", "IMAGENET1K_V2": "f82ba261"},
    "resnext50_32x4d": {"IMAGENET1K_V1": "7cdf4587", "IMAGENET1K_V2": "1a0047aa"},
    "resnext101_32x8d": {"IMAGENET1K_V1": "8ba56ff5", "IMAGENET1K_V2": "110c445d"},
    "resnext101_64x4d": {"IMAGENET1K_V1": "173b62eb"},
    "wide_resnet50_2": {"IMAGENET1K_V1": "95faca4d", "IMAGENET1K_V2": "9ba9bcbe"},
    "wide_resnet101_2": {"IMAGENET1K_V1": "32ee1156", "IMAGENET1K_V2": "d733dc28"},
}
# Trained for evaluation at 224 of 232 pixels instead of 256 (their `transforms`).
RESIZE_232 = {("resnext101_64x4d", "IMAGENET1K_V1")}

# keras/applications/resnet.py WEIGHTS_HASHES: MD5 with and without the classifier.
KERAS: dict[str, tuple[str, str]] = {
    "resnet50": ("2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": ("f1aeb4b969a6efcfb50fad2f0c20cfc5", "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": ("100835be76be38e30d865e96f2aaae62", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "resnet50v2": ("3ef43a0b657b3be2300d5770ece849e0", "fac2f116257151a9d068a22e544a4917"),
    "resnet101v2": ("6343647c601c52e1368623803854d971", "c0ed64b8031c3730f411d2eb4eea35b5"),
    "resnet152v2": ("a49b44d1979771252814e80f8ec446f9", "ed17cf2e0169df9d443503ef94b23b33"),
}

# What a model repository may keep its weights in; the first that there is is fetched, and no other.
HUB_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
)


class FetchedFile(NamedTuple):
    """A checkpoint on this machine, and what its name says about it."""

    path: Path
    format: str | None = None
    preset: str | None = None
    resize: int | None = (
        None  # the shorter side before the crop, where the weights want another than usual
    )


def fetch(text: str, preset: str | None = None) -> FetchedFile:
    """The checkpoint that `text` names, downloaded if it has to be.

    `torchvision:` and `keras:` name the weights of a network, which `preset` gives. Raises
    `SpecError` for names that do not exist, `CheckpointError` when there is no network or a file
    does not match its hash.
    """
    scheme, separator, name = text.partition(":")
    fetchers: dict[str, Callable[[str, str | None], FetchedFile]] = {
        "hf": _huggingface,
        "torchvision": _torchvision,
        "keras": _keras,
        "rosetta": _bundled,
    }
    if not separator or scheme not in fetchers or Path(text).exists():
        return FetchedFile(Path(text))
    return fetchers[scheme](name, preset)


def _bundled(name: str, preset: str | None) -> FetchedFile:
    return FetchedFile(pretrained_file(name), "canonical", preset)


def _torchvision(name: str, preset: str | None) -> FetchedFile:
    model = _model(preset, "torchvision", TORCHVISION)
    hashes = TORCHVISION[model]
    tag = name if name != "DEFAULT" else list(hashes)[-1]
    if tag not in hashes:
        raise SpecError(f"torchvision has no {name!r} for {model}; it has {', '.join(hashes)}")
    hub = _library("torch.hub", "torch", "torch")
    file = f"{model}-{hashes[tag]}.pth"
    target = Path(hub.get_dir()) / "checkpoints" / file
    if not target.exists():

        def download() -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            hub.download_url_to_file(
                TORCHVISION_URL + file, str(target), hashes[tag], progress=True
            )

        _online(download, TORCHVISION_URL + file)
    resize = 232 if tag == "IMAGENET1K_V2" or (model, tag) in RESIZE_232 else None
    return FetchedFile(target, "torchvision", f"torchvision/{model}", resize)


def _keras(name: str, preset: str | None) -> FetchedFile:
    if name not in ("imagenet", "imagenet-notop"):
        raise SpecError(
            f"keras.applications has no weights {name!r}; it has imagenet and imagenet-notop"
        )
    model = _model(preset, "keras", KERAS)
    suffix, md5 = ("", KERAS[model][0]) if name == "imagenet" else ("_notop", KERAS[model][1])
    file = f"{model}_weights_tf_dim_ordering_tf_kernels{suffix}.h5"
    keras = _library("keras", "keras", "keras")

    def download() -> str:
        return keras.utils.get_file(file, KERAS_URL + file, cache_subdir="models", file_hash=md5)

    return FetchedFile(
        Path(_online(download, KERAS_URL + file)), "keras-applications", f"keras/{model}"
    )


def _huggingface(name: str, preset: str | None) -> FetchedFile:
    """A model repository: its config.json and weights; or, with a file behind the repository, that
    file.
    """
    repo, _, revision = name.partition("@")
    parts = repo.split("/")
    if len(parts) < 2 or not all(parts):
        raise SpecError(
            f"hf:{name}: expected hf:OWNER/NAME, hf:OWNER/NAME@REVISION, or a file in it as "
            "hf:OWNER/NAME/FILE@REVISION"
        )
    hub = _library("huggingface_hub", "huggingface_hub", "hub")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])

    def download() -> Path:
        if file:
            return Path(hub.hf_hub_download(repository, file, revision=revision or None))
        for patterns in HUB_WEIGHTS:
            wanted = ["config.json", *patterns]
            folder = Path(
                hub.snapshot_download(repository, revision=revision or None, allow_patterns=wanted)
            )
            first = folder / patterns[0]
            if first.exists():
                alone = len(patterns) == 1 and not (folder / "config.json").exists()
                return first if alone else folder
        return folder

    return FetchedFile(_online(download, f"hf:{name}"), None, preset)


def _model(preset: str | None, family: str, known: dict[str, Any]) -> str:
    """The network's name in a table of released weights."""
    if preset is None:
        raise SpecError(
            f"{family}: names the weights of a network; say which one with --preset, "
            f"for example --preset {family}/resnet50"
        )
    full = get_preset(preset if "/" in preset else f"{family}/{preset}").name
    model = full.removeprefix(f"{family}/")
    if model not in known or not full.startswith(f"{family}/"):
        raise SpecError(
            f"{family} has no weights for {full}{nearest(model, known)}; it has {', '.join(known)}"
        )
    return model


def _library(module: str, package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise FrameworkError(
            f"this needs {package}, which is not installed; pip install 'resnet-rosetta[{extra}]'"
        ) from None


def _online(download: Callable[[], Any], what: str) -> Any:
    """The result of a download, or one clear line."""
    try:
        return download()
    except Exception as error:  # noqa: BLE001 - each library raises its own kinds
        said = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{what}: cannot be fetched ({type(error).__name__}: {said}); is there a network? A "
            "file "
            "that is already here can be given by its path"
        ) from None
