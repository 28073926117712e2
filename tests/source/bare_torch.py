"""Runs files of PyTorch in a process that has nothing of ours: `python bare_torch.py FOLDER …`.

`running.py` says what is in a folder.
"""

import numpy as np
import running
import safetensors.torch
import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)


def by_tools(model, images):
    """What PyTorch's compiler and its exporter make of the network."""
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True)
        yield "torch.compile", compiled(images).numpy()
        program = torch.export.export(model, (images,))
        yield "torch.export", program.module()(images).numpy()


for folder, model, batch in running.loaded(safetensors):
    images = torch.from_numpy(batch["images"]).permute(0, 3, 1, 2)
    found = {"output": model(images).detach().numpy()}
    if (folder / "tools").exists():
        running.same(found["output"], by_tools(model, images))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), float(batch["rate"]))
    F.cross_entropy(model(images), torch.from_numpy(batch["labels"])).backward()
    optimizer.step()
    found |= {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez(folder / "found.npz", **found)

running.nothing_of_ours()
