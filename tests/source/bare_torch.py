"""Runs files of PyTorch in a process that has nothing of ours: `python bare_torch.py FOLDER …`.

A folder has `network.py`, `weights.safetensors` and `batch.npz`; `found.npz` is written into it:
what the network returns in evaluation mode, and its tensors after a step of plain SGD.
"""

import ast
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

for folder in map(Path, sys.argv[1:]):
    text = (folder / "network.py").read_text("utf-8")
    names = {"safetensors": safetensors}
    exec(compile(text, "network.py", "exec"), names)  # noqa: S102 - written by the test
    loading = "".join(
        line[4:].replace("weights.safetensors", str(folder / "weights.safetensors")) + "\n"
        for line in ast.get_docstring(ast.parse(text), clean=False).splitlines()
        if line.startswith("    ")
    )
    exec(loading, names)  # noqa: S102
    model, batch = names["model"], np.load(folder / "batch.npz")
    images = torch.from_numpy(batch["images"]).permute(0, 3, 1, 2)
    found = {"output": model(images).detach().numpy()}
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), float(batch["rate"]))
    F.cross_entropy(model(images), torch.from_numpy(batch["labels"])).backward()
    optimizer.step()
    found |= {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez(folder / "found.npz", **found)

ours = [name for name in sys.modules if name.partition(".")[0].startswith(("shared", "resnet_"))]
sys.exit(f"imported {ours}" if ours else 0)
