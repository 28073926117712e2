"""`inference` by oneDNN; by Inductor it is tested beside the other frameworks', in
`tests/parity/test_folding.py`.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import resnet_torch
from shared import get_spec, probe_images, probe_weights
from shared.errors import FrameworkError
from shared.verification.distance import relative_error
from shared.verification.tolerances import ROUNDING_FACTOR

# SAME padding depends on the size of the images, and is a constant of a traced program.
SPEC = get_spec("keras/resnet50v2", depths=(1, 1), widths=(8, 16), strides=(1, 2), num_classes=5)
SPEC = SPEC.replace(**{"block.padding": "same", "dilate": (False, False)})


def built(dtype: str = "float32") -> torch.nn.Module:
    model = resnet_torch.build(SPEC, dtype=dtype)
    resnet_torch.load_weights(model, probe_weights(SPEC, dtype=dtype))
    return model


def test_onednn_computes_the_same_at_every_size() -> None:
    """As near to float64 as rounding allows for: see `ROUNDING_FACTOR`."""
    model, exact = built(), built("float64")
    resnet_torch.load_weights(
        exact, {n: a.astype("float64") for n, a in resnet_torch.export_weights(model).items()}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # TorchScript's are ours to know of
        run = resnet_torch.inference(model, compiler="onednn")
        for shape in ((2, 33, 40, 3), (3, 32, 32, 3), (2, 33, 40, 3)):
            images = probe_images(shape, dtype="float32")
            found = run(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
            eager, right = (resnet_torch.trace(m, images)["eval/output"] for m in (model, exact))
            own = relative_error(eager.astype("float64"), right)
            assert relative_error(found.astype("float64"), right) <= ROUNDING_FACTOR * own
    assert not torch.jit.onednn_fusion_enabled()  # other programs of this process are not fused


def test_onednn_fuses() -> None:
    run = resnet_torch.inference(built(), compiler="onednn")
    run(torch.ones(1, 3, 32, 32))
    assert "oneDNNFusionGroup" in str(torch.jit.last_executed_optimized_graph())


def test_onednn_keeps_the_weights_of_its_time() -> None:
    model, images = built(), torch.ones(1, 3, 32, 32)
    run = resnet_torch.inference(model, compiler="onednn")
    first = run(images).numpy()
    resnet_torch.load_weights(model, probe_weights(SPEC, seed=1))
    assert np.array_equal(run(images).numpy(), first)


@pytest.mark.parametrize(
    ("dtype", "compiler", "said"),
    [
        ("float64", "onednn", "float32 on a CPU, and the network is torch.float64 on cpu"),
        ("float32", "tvm", "unknown compiler 'tvm'; known are 'inductor' and 'onednn'"),
    ],
)
def test_what_cannot_be_compiled_is_refused(dtype: str, compiler: str, said: str) -> None:
    with pytest.raises(FrameworkError, match=said):
        resnet_torch.inference(built(dtype), compiler=compiler)  # type: ignore[arg-type]
