"""What the scripts `bare_*.py` share: the networks of their folders, loaded as the files say.

A folder has `network.py`, `weights.safetensors` and `batch.npz`, and `tools` where the framework's
own compilers and formats have to take the network; `found.npz` is written into it:
what the network returns in evaluation mode, and its tensors after a step of plain SGD.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

LIMIT = 1e-12  # of the largest value; float64


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


def same(expected: np.ndarray, found: Iterable[tuple[str, np.ndarray]]) -> None:
    """End badly where a tool of the framework made another function of a network."""
    for tool, array in found:
        error = np.abs(array - expected).max() / np.abs(expected).max()
        if not error < LIMIT:
            sys.exit(f"{tool} is off by {error}")


def nothing_of_ours() -> None:
    """End, well only if nothing of ours has been imported."""
    tops = {name.partition(".")[0] for name in sys.modules}
    ours = sorted(top for top in tops if top.startswith(("shared", "resnet_")))
    sys.exit(f"imported {ours}" if ours else 0)
