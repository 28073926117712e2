"""One ResNet specification in PyTorch, Keras and Flax, and the proof that it is the same function.

    from shared import get_spec, make_plan, open_checkpoint, verify

    plan = make_plan(get_spec("torchvision/resnet50"))  # every layer, shape and parameter
    verdict, *_ = verify("resnet18", ["torch", "flax"])  # run and compared, layer by layer
    weights = open_checkpoint("resnet50.pth").weights()  # any format, under canonical names

The packages `resnet_torch`, `resnet_keras` and `resnet_flax` build the networks. Importing this
package imports no framework, and each name only when it is first used; `dir(shared)` lists them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.architecture.plan import Plan, make_plan
    from shared.architecture.presets import get_spec, list_presets, miniature
    from shared.architecture.spec import ResNetSpec
    from shared.errors import CheckpointError, DatasetError, FrameworkError, RosettaError, SpecError
    from shared.formats.checkpoint import Checkpoint, open_checkpoint
    from shared.formats.convert import Conversion, convert
    from shared.frameworks.diagnose import diagnose
    from shared.frameworks.identify import compare_models, identify
    from shared.frameworks.inputs import Inputs
    from shared.frameworks.verify import Verdict, verify
    from shared.graphs.verdict import Identified
    from shared.training.config import OptimizerConfig, Training
    from shared.training.recipes import Recipe, get_recipe
    from shared.verification.comparison import Comparison, compare
    from shared.verification.diagnosis.diagnose import Diagnosis
    from shared.verification.trace import Trace
    from shared.weights.canonical import check_weights, read_weights, save_weights
    from shared.weights.folding import fold_norms
    from shared.weights.initial import initial_weights
    from shared.weights.probe import probe_images, probe_weights

_MODULES = {
    "Checkpoint": "formats.checkpoint",
    "CheckpointError": "errors",
    "Comparison": "verification.comparison",
    "Conversion": "formats.convert",
    "DatasetError": "errors",
    "Diagnosis": "verification.diagnosis.diagnose",
    "FrameworkError": "errors",
    "Identified": "graphs.verdict",
    "Inputs": "frameworks.inputs",
    "OptimizerConfig": "training.config",
    "Plan": "architecture.plan",
    "Recipe": "training.recipes",
    "ResNetSpec": "architecture.spec",
    "RosettaError": "errors",
    "SpecError": "errors",
    "Trace": "verification.trace",
    "Training": "training.config",
    "Verdict": "frameworks.verify",
    "check_weights": "weights.canonical",
    "compare": "verification.comparison",
    "compare_models": "frameworks.identify",
    "convert": "formats.convert",
    "diagnose": "frameworks.diagnose",
    "fold_norms": "weights.folding",
    "get_recipe": "training.recipes",
    "get_spec": "architecture.presets",
    "identify": "frameworks.identify",
    "initial_weights": "weights.initial",
    "list_presets": "architecture.presets",
    "make_plan": "architecture.plan",
    "miniature": "architecture.presets",
    "open_checkpoint": "formats.checkpoint",
    "probe_images": "weights.probe",
    "probe_weights": "weights.probe",
    "read_weights": "weights.canonical",
    "save_weights": "weights.canonical",
    "verify": "frameworks.verify",
}

__all__ = list(_MODULES)
__rosetta__ = True  # that this is no other package of the name; see resnet_rosetta.py


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'shared' has no attribute {name!r}")
    try:
        module = import_module(f"shared.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("shared"):
            raise
        raise ImportError(
            f"{__path__[0]} is resnet-rosetta's, but without {error.name}; if another package "
            "called shared was installed over it, remove that and install resnet-rosetta again"
        ) from None
    found = globals()[name] = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted(globals() | _MODULES)
