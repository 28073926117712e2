"""Models of other packages: all ResNets that a spec can express are identified, with their preset
where there is one, and no other model is.
"""

from __future__ import annotations

import pytest

from benchmarks import identified
from shared import get_spec, identify
from tests.peers import import_timm, import_torchvision
from tests.zoo import rest_in_zoo

torch = pytest.importorskip("torch")

MODELS = {f"{model.package}/{model.name}": model for model in identified.models()}
SHORT = {
    *("torchvision/resnet18", "timm/resnet10t", "timm/resnet18d", "timm/resnetblur18"),
    *("timm/resnetv2_18", "timm/resnetaa34d", "transformers/ResNet, basic", "timm/skresnet18"),
}
OWN = {  # specs that are no preset
    *("transformers/ResNet, downsample_in_bottleneck",),
    *("transformers/ResNet, downsample_in_first_stage",),
}


@pytest.mark.parametrize("name", rest_in_zoo(MODELS, SHORT))
def test_what_a_model_is(name: str) -> None:
    model = MODELS[name]
    {"torchvision": import_torchvision, "timm": import_timm}.get(model.package, lambda: None)()
    if model.package != "torchvision":
        pytest.importorskip(model.package.partition(".")[0])
    found = identify(model.make(), identified.SIZE)
    assert found.recognised == model.scope, found.notes
    if not model.scope:
        assert found.departures or found.verdict == "no ResNet"
        return
    assert found.departures == []
    if name in OWN:
        assert found.preset is None
        return
    known = f"keras/{model.name.lower()}" if model.package == "keras.applications" else name
    assert found.preset is not None
    if not name.startswith("transformers"):
        assert get_spec(known).replace(name="") in [
            get_spec(preset).replace(name="") for preset in found.presets
        ]
