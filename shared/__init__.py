"""One ResNet specification, its plan, its canonical weights, and the proof that renderings agree.

Importing this package imports no framework.
"""

from shared.errors import CheckpointError, FrameworkError, RosettaError, SpecError
from shared.plan import Plan, make_plan
from shared.presets import get_spec, list_presets
from shared.spec import ResNetSpec
from shared.trace import Trace
from shared.weights import check_weights, probe_images, probe_weights, read_weights, save_weights

__all__ = [
    "CheckpointError",
    "FrameworkError",
    "Plan",
    "ResNetSpec",
    "RosettaError",
    "SpecError",
    "Trace",
    "check_weights",
    "get_spec",
    "list_presets",
    "make_plan",
    "probe_images",
    "probe_weights",
    "read_weights",
    "save_weights",
]
