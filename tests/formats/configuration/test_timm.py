"""timm's config.json and the name of an architecture beside PyTorch's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import get_spec, make_plan
from shared.errors import RosettaError
from shared.formats.attempt import Wanted
from shared.formats.checkpoint import Checkpoint, identify
from shared.formats.configuration.timm import LIKE
from shared.formats.containers.archive import Archive, Configuration, Entry
from shared.formats.render import choose_scheme
from shared.naming.names import foreign_names
from shared.naming.schemes import FORMATS
from tests.peers import import_timm

FLOAT32 = np.dtype(np.float32)
SPEC = get_spec("timm/resnet18", num_classes=3)
HALF = [0.5, 0.5, 0.5]


def entries_of(preset: str, **changes: Any) -> dict[str, Entry]:
    spec, target = get_spec(preset, **changes), FORMATS["timm"]
    plan = make_plan(spec)
    names, _ = foreign_names(choose_scheme(spec, target), plan)
    return {names[name]: Entry(shape, FLOAT32, np.empty) for name, shape in plan.tensors.items()}


def read(config: dict[str, Any], entries: dict[str, Entry], **wanted: Any) -> Checkpoint:
    configuration = Configuration("huggingface", "config.json", config)
    archive = Archive("huggingface", entries, configuration=configuration)
    return identify(Path("folder"), archive, Wanted(**wanted))


def labelled(label: str, entries: dict[str, Entry], **wanted: Any) -> Checkpoint:
    return identify(Path("a.pth"), Archive("torch", entries, {"arch": label}), Wanted(**wanted))


def test_the_architecture_is_believed() -> None:
    config = {"architecture": "resnet18.a1_in1k", "num_classes": 3, "global_pool": "avg"}
    cfg = {"input_size": [3, 160, 160], "mean": HALF, "std": HALF}
    found = read(config | {"pretrained_cfg": cfg}, entries_of("timm/resnet18", num_classes=3))
    assert (found.format.name, found.preset, found.assumed) == ("timm", "timm/resnet18", {})
    assert (found.spec.image_size, found.preprocessing) == (160, "half")


def test_the_architecture_tells_what_no_tensor_tells() -> None:
    """The eps of weight standardisation; without it another network has the same tensors."""
    found = read({"architecture": "resnetv2_50x1_bit"}, entries_of("timm/resnetv2_50x1_bit"))
    assert found.preset == "timm/resnetv2_50x1_bit"
    assert found.spec.weight_std_eps == 1e-8


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "seresnet18.x"}, "architecture = 'seresnet18.x'"),
        ({"architecture": "resnet19"}, "nearest"),
        ({"architecture": ["resnet18"]}, "architecture = ['resnet18']"),
        ({"architecture": "resnet34"}, "architecture = 'resnet34', and by the tensors"),
        ({"num_classes": 4}, "num_classes = 4, and by the tensors it is 3"),
        ({"global_pool": "catavgmax"}, "global_pool = 'catavgmax'"),
        ({"model_args": {"output_stride": 8}}, "model_args.output_stride = 8"),
        ({"model_args": [1]}, "model_args = [1]"),
    ],
    ids=str,
)
def test_another_function_is_refused(changes: dict[str, Any], says: str) -> None:
    config = {"architecture": "resnet18", "num_classes": 3} | changes
    with pytest.raises(RosettaError) as caught:
        read(config, entries_of("timm/resnet18", num_classes=3))
    message = str(caught.value)
    assert message.startswith("folder: ")
    assert says in message
    assert message.isprintable()


def test_an_unknown_preprocessing_is_said() -> None:
    cfg = {"mean": [0.1, 0.2, 0.3], "std": HALF}
    config = {"architecture": "resnet18", "pretrained_cfg": cfg}
    found = read(config, entries_of("timm/resnet18", num_classes=3))
    assert "mean [0.1, 0.2, 0.3]" in found.told[0].surroundings[0]


def test_a_label_is_believed_unless_the_caller_knows_better() -> None:
    entries = entries_of("timm/resnet18", num_classes=3)
    assert labelled("resnet18", entries).assumed == {}
    assert labelled("my_resnet", entries).told == ()
    found = labelled("resnet18", entries, changes={"stem.pool_padding": "same"})
    assert found.spec.stem.pool_padding == "same"
    assert labelled("resnetblur18", entries).spec.anti_alias == "blur"


@pytest.mark.parametrize("name", ["resnetblur50", "resnetaa50d", "resnext101_32x16d"])
def test_networks_of_timm_with_the_tensors_of_a_resnet(name: str) -> None:
    """Their configuration says which one it is."""
    timm = import_timm()
    import torch

    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    entries = {
        key: Entry(tuple(tensor.shape), FLOAT32, np.empty)
        for key, tensor in state.items()
        if tensor.is_floating_point()
    }
    plain = identify(Path("x"), Archive("safetensors", entries), Wanted())
    found = read({"architecture": name}, entries)
    if name in LIKE:
        assert found.spec.block.groups == plain.spec.block.groups == 32
    else:
        assert plain.spec.anti_alias != found.spec.anti_alias
        assert found.preset == f"timm/{name}"
