"""Opens the files that `bare_keras.py` has saved, in a process of its own: Keras knows of a network
only what is in its file, and the layers that `network.py` corrects.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import running

keras.config.set_floatx("float64")

for folder in map(Path, sys.argv[1:]):
    text = (folder / "network.py").read_text("utf-8")
    if "register_keras_serializable" in text:
        exec(compile(text, "network.py", "exec"), {})  # noqa: S102 - written by the test
    model = keras.saving.load_model(folder / "model.keras")
    images = np.load(folder / "batch.npz")["images"]
    expected = np.load(folder / "found.npz")["output"]
    running.same(expected, [("another process", model(images).numpy())])

running.nothing_of_ours()
