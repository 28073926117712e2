"""config.json of transformers: believed or contradicted, with transformers as the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import CheckpointError, get_spec, make_plan
from shared.architecture.spec import ResNetSpec
from shared.formats.attempt import Wanted
from shared.formats.checkpoint import Checkpoint, identify
from shared.formats.containers.archive import Archive, Configuration, Entry
from shared.naming.names import foreign_names
from shared.naming.schemes import FORMATS

SPEC = get_spec(
    "torchvision/resnet50", depths=(1, 1), widths=(8, 16), strides=(1, 2), num_classes=3
)
BASIC = SPEC.replace(**{"block.kind": "basic", "block.stride_conv": 1})


def config_of(spec: ResNetSpec = SPEC, **changes: Any) -> dict[str, Any]:
    config = {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": [spec.expansion * width for width in spec.widths],
        "depths": list(spec.depths),
        "layer_type": spec.block.kind,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "id2label": {str(i): f"LABEL_{i}" for i in range(spec.num_classes)},
    }
    return {key: value for key, value in (config | changes).items() if value is not None}


def read(config: dict[str, Any], spec: ResNetSpec = SPEC, **wanted: Any) -> Checkpoint:
    plan, scheme = make_plan(spec), FORMATS["huggingface"].schemes[0]
    names, _ = foreign_names(scheme, plan)
    float32 = np.dtype(np.float32)
    entries = {names[name]: Entry(shape, float32, np.empty) for name, shape in plan.tensors.items()}
    archive = Archive(
        "huggingface", entries, configuration=Configuration("huggingface", "config.json", config)
    )
    return identify(Path("folder"), archive, Wanted(**wanted))


@pytest.mark.parametrize(
    ("spec", "changes", "told"),
    [
        (SPEC, {}, {"strides": (1, 2), "block.stride_conv": 2}),
        (SPEC, {"downsample_in_bottleneck": True}, {"strides": (1, 2), "block.stride_conv": 1}),
        (SPEC, {"downsample_in_first_stage": True}, {"strides": (2, 2), "block.stride_conv": 2}),
        (BASIC, {"downsample_in_bottleneck": True}, {"strides": (1, 2)}),
        (SPEC, {"label2id": {"a": 0}}, {"strides": (1, 2), "block.stride_conv": 2}),
        (SPEC, {"architectures": None}, {"strides": (1, 2), "block.stride_conv": 2}),
    ],
    ids=str,
)
def test_what_it_says_is_told(
    spec: ResNetSpec, changes: dict[str, Any], told: dict[str, Any]
) -> None:
    found = read(config_of(spec, **changes), spec)
    assert found.told_fields == told
    assert {name: getattr(found.spec, name, None) for name in ("strides",)} == {
        "strides": told["strides"]
    }
    assert "norm.eps" in found.assumed  # which transformers' code has, and no configuration
    assert not found.assumed.keys() & told.keys()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("hidden_act", "gelu", "hidden_act = 'gelu'"),
        ("hidden_act", None, ""),
        ("layer_type", "basic", "layer_type = 'basic', and by the tensors it is 'bottleneck'"),
        ("model_type", "regnet", "model_type = 'regnet'"),
        ("model_type", ["resnet"], "model_type = ['resnet']"),
        ("depths", [1, 2], "depths = [1, 2], and by the tensors it is [1, 1]"),
        ("hidden_sizes", [32, 63], "hidden_sizes = [32, 63]"),
        ("embedding_size", 32, "embedding_size = 32, and by the tensors it is 64"),
        ("num_channels", 1, "num_channels = 1"),
        ("id2label", {"0": "a"}, "id2label = 1, and by the tensors it is 3"),
        ("num_labels", 4, "num_labels = 4"),
        ("downsample_in_first_stage", "yes", "downsample_in_first_stage = 'yes'"),
        ("downsample_in_bottleneck", 1, "downsample_in_bottleneck = 1"),
        ("architectures", ["ResNetModel"], "architectures = ['ResNetModel'], and by the tensors"),
        ("architectures", ["BertModel"], "architectures = ['BertModel']"),
        ("architectures", [{}], "architectures = [{}]"),
        ("quantization_config", {"bits": 8}, "quantization_config"),
    ],
    ids=str,
)
def test_another_function_is_refused(key: str, value: Any, says: str) -> None:
    config = config_of(**{key: value})
    if not says:  # transformers' default
        assert read(config).spec.block.kind == "bottleneck"
        return
    with pytest.raises(CheckpointError) as caught:
        read(config)
    message = str(caught.value)
    assert message.startswith("folder: its config.json says ")
    assert says in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("block.stride_conv", 1, "downsample_in_bottleneck = false, and --set says"),
        ("strides", (2, 2), "downsample_in_first_stage = false, and --set says strides = [2, 2]"),
    ],
)
def test_the_caller_does_not_overrule_it(name: str, value: Any, says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(config_of(), changes={name: value})
    assert says in str(caught.value)
    assert read(config_of(), changes={"norm.eps": 1e-3}).given == {"norm.eps": 1e-3}


def test_a_folder_of_transformers_with_another_activation(tmp_path: Path) -> None:
    """transformers does build another function from it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from shared.formats.checkpoint import open_checkpoint
    from tests.peers import import_torchvision

    import_torchvision()
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3
    )
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    assert open_checkpoint(tmp_path).told_fields == {"strides": (1, 2), "block.stride_conv": 2}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "gelu"}))
    other = transformers.ResNetForImageClassification.from_pretrained(tmp_path).eval()
    images = torch.ones(1, 3, 32, 32)
    with torch.inference_mode():
        assert not torch.allclose(model(images).logits, other(images).logits)
    with pytest.raises(CheckpointError, match="hidden_act = 'gelu'"):
        open_checkpoint(tmp_path)
