"""Folding: the same function with fewer biases or another eps, where a format needs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared import CheckpointError, get_spec, make_plan, probe_weights, save_weights
from shared.architecture.spec import ResNetSpec
from shared.formats.checkpoint import Checkpoint, open_checkpoint
from shared.formats.folding import Fitted, fit, fold_bias, fold_eps
from shared.formats.pipeline import Pipeline
from shared.naming.schemes import FORMATS

NARROW = {"depths": (1, 1), "widths": (4, 8), "stem.convs": ((7, 2, 4),), "num_classes": 3}
FLOAT64 = np.dtype(np.float64)


def opened(spec: ResNetSpec, folder: Path, **changes: np.ndarray) -> Checkpoint:
    """A canonical file of probe weights in float64, some of them changed."""
    weights = probe_weights(spec, dtype="float64") | changes
    save_weights(folder / "source.safetensors", weights, spec)
    return open_checkpoint(folder / "source.safetensors")


def folded_pipeline(source: Checkpoint, *, bias: bool = True, eps: float) -> Pipeline:
    """The pipeline to a canonical file of the folded network."""
    spec, biases = fold_bias(source.spec) if bias else (source.spec, {})
    spec, shift = fold_eps(spec, eps)
    fitted = Fitted(spec, FORMATS["canonical"].schemes[0], biases, shift)
    return Pipeline(source, fitted, dict.fromkeys(make_plan(spec).tensors, FLOAT64))


@pytest.mark.parametrize("preset", ["keras/resnet50", "d2l/resnet18"])
def test_folding_keeps_the_function(preset: str, tmp_path: Path) -> None:
    """Biases into means and eps into variances: the same outputs, to a rounding."""
    from shared.frameworks import reference
    from tests.probes import images_for, relative_error

    source = opened(get_spec(preset, **NARROW, **{"shortcut.norm": True}), tmp_path)
    images, weights = images_for(source.spec, (33, 34)), source.weights()

    def run(spec: ResNetSpec, weights: dict[str, np.ndarray]) -> np.ndarray:
        return reference.trace(reference.Reference(spec, weights), images)["eval/output"]

    pipeline = folded_pipeline(source, eps=2e-5)
    folded = pipeline.fitted.spec
    fewer = {name: entry.load() for name, entry in pipeline.entries.items()}
    pipeline.check.finish()
    assert len(fewer) < len(weights)
    assert not any(name.endswith("conv1.bias") for name in fewer)
    assert folded.norm.eps == 2e-5
    assert relative_error(run(folded, fewer), run(source.spec, weights)) < 1e-13
    broken = {**fewer, "stem.norm1.running_mean": weights["stem.norm1.running_mean"]}
    assert relative_error(run(folded, broken), run(source.spec, weights)) > 1e-3


def test_a_variance_below_zero_is_refused_with_its_channels(tmp_path: Path) -> None:
    """Of a channel that is dead, or nearly: its variance is less than the difference of eps."""
    spec = get_spec("torchvision/resnet18", **NARROW)
    variances = np.array([1.0, 0.0, 2.0, 1e-6])
    source = opened(spec, tmp_path, **{"stem.norm1.running_var": variances})
    pipeline = folded_pipeline(source, bias=False, eps=1e-3)
    for entry in pipeline.entries.values():
        entry.load()
    said = r"1 with variances .* below zero .* 0\.001: stem\.norm1\.running_var in channels 1, 3$"
    with pytest.raises(CheckpointError, match=said):
        pipeline.check.finish()
    fits = folded_pipeline(source, bias=False, eps=1e-6)
    assert fits.entries["stem.norm1.running_var"].load().min() > 0
    fits.check.finish()


def test_group_norms_cannot_be_folded_into() -> None:
    spec = get_spec("timm/resnet50_gn")
    with pytest.raises(CheckpointError, match="batch norm only"):
        fold_bias(spec)
    with pytest.raises(CheckpointError, match="group norms have none"):
        fold_eps(spec, 1e-3)


@pytest.mark.parametrize(
    ("preset", "form", "eps"),
    [
        ("keras/resnet50", "keras-caffe", 1e-3),  # which the scheme changes in its convention
        ("keras/resnet50", "keras-applications", 1.001e-5),
    ],
)
def test_eps_is_folded_to_that_of_the_target(preset: str, form: str, eps: float) -> None:
    spec = get_spec(preset, **{"norm.eps": 2e-5})
    with pytest.raises(CheckpointError, match=r"norm\.eps"):
        fit(spec, FORMATS[form])
    fitted = fit(spec, FORMATS[form], eps=True)
    assert fitted.spec.norm.eps == eps
    assert fitted.variance_shift == 2e-5 - eps
    assert len(fitted.notes) == 1


def test_nothing_is_folded_that_need_not_be() -> None:
    spec = get_spec("keras/resnet50")
    fitted = fit(spec, FORMATS["keras-applications"], bias=True, eps=True)
    assert (fitted.spec, fitted.biases, fitted.variance_shift, fitted.notes) == (spec, {}, 0, ())
