"""`source`: the text of a network's file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError, nearest
from shared.source.facts import Facts, facts_of
from shared.source.flax_file import flax_file
from shared.source.keras_file import keras_file
from shared.source.torch_file import torch_file

WRITERS: Mapping[str, Callable[[Facts], str]] = {
    "torch": torch_file,
    "keras": keras_file,
    "flax": flax_file,
}


def source(spec: ResNetSpec, framework: str) -> str:
    """The network as one stand-alone file of a framework: `torch`, `keras` or `flax`.

    It imports nothing of ours, its layers are stock ones but for corrections that the network
    needs, and its attribute paths (Keras: layer names) are the canonical names.

    >>> print(source(get_spec("resnet18"), "torch").splitlines()[0])
    \"\"\"torchvision/resnet18 in PyTorch: 11,689,512 parameters, 1.81 G multiply-adds at 224 x 224.

    Raises `SpecError` for a framework that there is not, and for a network that no file can be
    written of, naming the field.
    """
    if framework not in WRITERS:
        raise SpecError(
            f"unknown framework {framework!r}{nearest(framework, WRITERS)}; there are "
            f"{', '.join(WRITERS)}"
        )
    return WRITERS[framework](facts_of(spec))
