"""Models of other packages, and what `identify` says of them: `python -m benchmarks.identified`
prints `docs/identified.md`.

Every model is built with fresh weights and norms as after training, and read at 96 pixels, which
leaves more than one pixel at the end of every network here. A package that is not installed is
left out, and said to be.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from shared import Identified, RosettaError, identify
from shared.graphs.verdict import listed

SIZE = 96


class Model(NamedTuple):
    """A model of a package; `scope`: whether it is a ResNet that a spec can express."""

    package: str
    name: str
    make: Callable[[], Any]
    scope: bool = True


TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"),
    *("resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
TIMM = (
    *("resnet10t", "resnet14t", "resnet18", "resnet18d", "resnet26", "resnet26d", "resnet26t"),
    *("resnet34", "resnet34d", "resnet50", "resnet50_gn", "resnet50c", "resnet50d", "resnet50s"),
    *("resnet50t", "resnet101", "resnet101c", "resnet101d", "resnet101s", "resnet152"),
    *("resnet152c", "resnet152d", "resnet152s", "resnet200", "resnet200d", "resnetaa34d"),
    *("resnetaa50", "resnetaa50d", "resnetaa101d", "resnetblur18", "resnetblur50"),
    *("resnetblur50d", "resnetblur101d", "resnext50_32x4d", "resnext50d_32x4d"),
    *("resnext101_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2"),
    *("wide_resnet101_2", "resnetv2_18", "resnetv2_18d", "resnetv2_34", "resnetv2_34d"),
    *("resnetv2_50", "resnetv2_50d", "resnetv2_50d_gn", "resnetv2_50t", "resnetv2_50x1_bit"),
    *("resnetv2_101", "resnetv2_101d", "resnetv2_101x1_bit", "resnetv2_152", "resnetv2_152d"),
)
TIMM_OTHERS = (
    *("seresnet50", "ecaresnet50d", "resnetrs50", "gcresnet50t", "resnest14d", "skresnet18"),
    *("res2net50d", "resnetv2_50d_evos", "resnetv2_50d_frn", "resnet50_clip", "regnetx_002"),
    *("convnext_atto", "mobilenetv2_100"),
)
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ResNet, as published": {},
    "ResNet, basic": {
        "layer_type": "basic",
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [2, 2, 2, 2],
    },
    "ResNet, downsample_in_bottleneck": {"downsample_in_bottleneck": True},
    "ResNet, downsample_in_first_stage": {"downsample_in_first_stage": True},
}
KERAS = ("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2")


def models() -> Iterator[Model]:
    """All of them, package by package; nothing is built before it is asked for."""
    for name in TORCHVISION:
        yield Model("torchvision", name, _maker(_torchvision, name))
    for name in TIMM:
        yield Model("timm", name, _maker(_timm, name))
    for name, options in TRANSFORMERS.items():
        yield Model("transformers", name, _maker(_transformers, options))
    for name in KERAS:
        yield Model("keras.applications", name, _maker(_keras, name))
    for name in TIMM_OTHERS:
        yield Model("timm", name, _maker(_timm, name), scope=False)


def _maker(make: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    return lambda: make(argument)


def _torchvision(name: str) -> Any:
    models = importlib.import_module("torchvision.models")
    return trained(getattr(models, name)(num_classes=10))


def _timm(name: str) -> Any:
    return trained(importlib.import_module("timm").create_model(name, num_classes=10))


def _transformers(options: dict[str, Any]) -> Any:
    library = importlib.import_module("transformers")
    config = library.ResNetConfig(num_labels=10, **options)
    return trained(library.ResNetForImageClassification(config))


def _keras(name: str) -> Any:
    applications = importlib.import_module("keras").applications
    build = getattr(applications, name)
    return build(weights=None, classes=10, input_shape=(SIZE, SIZE, 3))


def trained(model: Any) -> Any:
    """Norms of a PyTorch model as after training: fresh ones hide what is in them."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.dim() == 1 and tensor.is_floating_point():
            centre = 0.75 if name.endswith("weight") else 0.0
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1 + centre)
    return model.eval()


def what(found: Identified) -> str:
    """The verdict in a cell of a table."""
    if found.recognised:
        name = found.preset or f"a spec of its own, nearest {found.nearest}"
        return f"{found.verdict}: {name}"
    if found.departures:
        places = listed((d.where for d in found.departures), most=1)
        return f"departs from {found.nearest}: {found.departures[0].theirs} ({places})"
    return "; ".join([found.verdict, *found.notes[-1:]])


def row(model: Model) -> tuple[bool, str]:
    """Whether the model is recognised, and its row of the table."""
    built = model.make()
    started = time.perf_counter()
    try:
        found = identify(built, SIZE)
    except RosettaError as error:
        return False, f"| {model.package} | {model.name} | not read: {error} | | |"
    seconds = time.perf_counter() - started
    numbers = f"{found.evidence.error:.1e}, {found.evidence.dtype}" if found.evidence else ""
    cells = [model.package, model.name, what(found).replace("|", "/"), numbers, f"{seconds:.1f}"]
    return found.recognised, f"| {' | '.join(cells)} |"


HEAD = """# Models of other packages, identified

`python -m benchmarks.identified` printed this page. Each model was built by its own package with
fresh weights, read at {size} and {next} pixels, compared operator by operator with a plan, and by
its logits with the NumPy reference (the error is over the largest logit). Seconds are those of
`identify` on this machine, beside the import.

| package | model | answer | error | seconds |
| --- | --- | --- | --- | --- |"""


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only models whose package or name has one")
    words = parser.parse_args().words
    warnings.filterwarnings("ignore")
    print(HEAD.format(size=SIZE, next=SIZE + 1))
    counts = {True: [0, 0], False: [0, 0]}
    missing: set[str] = set()
    for model in models():
        if words and not any(word in f"{model.package}/{model.name}" for word in words):
            continue
        try:
            recognised, text = row(model)
        except ImportError:
            missing.add(model.package)
            continue
        counts[model.scope][0] += recognised
        counts[model.scope][1] += 1
        print(text, flush=True)
    (good, whole), (false, others) = counts[True], counts[False]
    print(f"\n{good} of {whole} ResNets in scope are identified, and {false} of {others} others.")
    if missing:
        print(f"Not installed: {', '.join(sorted(missing))}.")


if __name__ == "__main__":
    main()
