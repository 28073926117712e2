"""A live model in the place of a checkpoint: every command that reads weights takes
`python:FILE.py:NAME`, too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from shared.errors import RosettaError

_folders: list[tempfile.TemporaryDirectory[str]] = []  # they go when this process ends


def is_live(text: str) -> bool:
    """Whether a word of the command line is the user's own code."""
    from shared.frameworks.targets import PREFIX

    return text.startswith(PREFIX)


def weights_of(text: str) -> str:
    """A canonical file of a live model's weights, for as long as the command runs; anything else
    as it is.

    Raises `RosettaError` for a model that is no ResNet node by node: its weights are nobody's.
    """
    if not is_live(text):
        return text
    from shared.frameworks.identify import identify_target
    from shared.weights.canonical import save_weights

    answer = identify_target(text, keep_weights=True)
    spec, found = answer.spec, answer.found
    if spec is None or not found["recognised"]:
        count = len(found["departures"])
        why = f"departures: {count}" if count else found["verdict"]
        raise RosettaError(
            f"{text}: is not the network of any spec ({why}); `rosetta identify` says where"
        )
    _folders.append(tempfile.TemporaryDirectory(prefix="rosetta-"))
    path = Path(_folders[-1].name) / "model.safetensors"
    save_weights(path, answer.weights, spec)
    return str(path)
