"""One ResNet specification, its plan, its canonical weights, and the proof that renderings agree.

Importing this package imports no framework, and each name only when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.architecture.plan import Plan, make_plan
    from shared.architecture.presets import get_spec, list_presets, miniature
    from shared.architecture.spec import ResNetSpec
    from shared.errors import CheckpointError, FrameworkError, RosettaError, SpecError
    from shared.verification.comparison import Comparison, compare
    from shared.verification.trace import Trace
    from shared.weights.canonical import check_weights, read_weights, save_weights
    from shared.weights.probe import probe_images, probe_weights

_MODULES = {
    "CheckpointError": "errors",
    "Comparison": "verification.comparison",
    "FrameworkError": "errors",
    "Plan": "architecture.plan",
    "ResNetSpec": "architecture.spec",
    "RosettaError": "errors",
    "SpecError": "errors",
    "Trace": "verification.trace",
    "check_weights": "weights.canonical",
    "compare": "verification.comparison",
    "get_spec": "architecture.presets",
    "list_presets": "architecture.presets",
    "make_plan": "architecture.plan",
    "miniature": "architecture.presets",
    "probe_images": "weights.probe",
    "probe_weights": "weights.probe",
    "read_weights": "weights.canonical",
    "save_weights": "weights.canonical",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'shared' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"shared.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted(globals() | _MODULES)
