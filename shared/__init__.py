"""One ResNet specification, its plan, its canonical weights, and the proof that renderings agree.

Importing this package imports no framework, and each name only when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.comparison import Comparison, compare
    from shared.errors import CheckpointError, FrameworkError, RosettaError, SpecError
    from shared.plan import Plan, make_plan
    from shared.presets import get_spec, list_presets, miniature
    from shared.spec import ResNetSpec
    from shared.trace import Trace
    from shared.weights import check_weights, probe_images, probe_weights, read_weights, save_weights

__all__ = [
    "CheckpointError",
    "Comparison",
    "FrameworkError",
    "Plan",
    "ResNetSpec",
    "RosettaError",
    "SpecError",
    "Trace",
    "check_weights",
    "compare",
    "get_spec",
    "list_presets",
    "make_plan",
    "miniature",
    "probe_images",
    "probe_weights",
    "read_weights",
    "save_weights",
]

_MODULES = ("errors", "spec", "plan", "presets", "weights", "trace", "comparison")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = vars(import_module(f"shared.{module}")).get(name)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module 'shared' has no attribute {name!r}")
