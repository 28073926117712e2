"""What the scripts `bare_*.py` share: the networks of their folders, loaded as the files say.

A folder has `network.py`, `weights.safetensors` and `batch.npz`; `found.npz` is written into it:
what the network returns in evaluation mode, and its tensors after a step of plain SGD.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def loaded(safetensors: Any) -> Iterator[tuple[Path, Any, Any]]:
    """(folder, model, batch) of each folder of the command line."""
    for folder in map(Path, sys.argv[1:]):
        text = (folder / "network.py").read_text("utf-8")
        names = {"safetensors": safetensors}
        exec(compile(text, "network.py", "exec"), names)  # noqa: S102 - written by the test
        loading = "".join(
            line[4:].replace("weights.safetensors", str(folder / "weights.safetensors")) + "\n"
            for line in (ast.get_docstring(ast.parse(text), clean=False) or "").splitlines()
            if line.startswith("    ")
        )
        exec(loading, names)  # noqa: S102
        yield folder, names["model"], np.load(folder / "batch.npz")


def nothing_of_ours() -> None:
    """End, well only if nothing of ours has been imported."""
    tops = {name.partition(".")[0] for name in sys.modules}
    ours = sorted(top for top in tops if top.startswith(("shared", "resnet_")))
    sys.exit(f"imported {ours}" if ours else 0)
