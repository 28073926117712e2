"""Also run with KERAS_BACKEND=jax or torch."""

import os

# Before any of the tests imports JAX.
if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ["JAX_ENABLE_X64"] = "1"
