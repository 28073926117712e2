"""Settings of the test process, made before NumPy and the frameworks are imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_keras_home = tempfile.mkdtemp(prefix="keras-home-")
atexit.register(shutil.rmtree, _keras_home, ignore_errors=True)

os.environ.update(
    {
        "CUDA_VISIBLE_DEVICES": "",  # the tier that passes or fails is the CPU
        "HF_HUB_OFFLINE": "1",
        "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "KERAS_HOME": _keras_home,  # a person's ~/.keras/keras.json may change dtype and layout
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",  # oneDNN orders its sums by the number of threads
        # Tensors are so small here that a second thread costs more than it brings: on a busy
        # machine with two cores, the parity tests of PyTorch took twenty times as long with two.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
)
