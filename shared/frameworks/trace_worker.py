"""One framework takes traces: `python -m shared.frameworks.trace_worker FRAMEWORK`.

Reads one JSON job a line from standard input and answers each with one JSON line:

    {"spec": {...}, "dtype": "float64", "seed": 0, "batch": 2, "image_size": [224, 224],
     "weights": file or null, "images": file of `save_images` or null, "output": file,
     "durable": true,
     "checks": ["eval", ...], "training": JSON of a `Training`, both with defaults,
     "only": names of the arrays to save, all when absent,
     "budget": false to leave out the rounding budget,
     "deployed": true for the output alone of the network as it is deployed}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import FrameworkError
from shared.frameworks.deployed import deployed
from shared.frameworks.devices import device, prepare
from shared.frameworks.exported.side import trace_file
from shared.frameworks.registry import Framework, get_framework, load_package
from shared.processes import answers, failure
from shared.training.config import Training, num_outputs, probe_labels
from shared.verification.comparison import rounding_budget
from shared.verification.recording import EVAL, OUTPUT
from shared.verification.trace import Trace
from shared.weights.canonical import Weights, read_weights
from shared.weights.dtypes import float_dtype
from shared.weights.files import read_tensors
from shared.weights.probe import probe_images, probe_weights


def main() -> None:
    """Serve jobs until standard input ends."""
    file, framework = answers(), get_framework(sys.argv[1], exported=True)
    package: ModuleType | None = None
    job: dict[str, Any] = {}
    for line in sys.stdin:
        started = time.perf_counter()
        try:
            if package is None:
                package = load_package(framework)
                if not framework.kind:  # `torch.export` refuses to work after it, and CPUs need not
                    prepare(on_cpu=True)
            job = json.loads(line)
            run_job(package, job, framework)
            answer: dict[str, Any] = {
                "seconds": round(time.perf_counter() - started, 3),
                "peak_bytes": _peak_bytes(),
            }
        except Exception as error:  # noqa: BLE001 - a framework may raise anything; the parent says it in one line
            answer = failure(error, _place(framework, job))
        print(json.dumps(answer), file=file)


def _place(framework: Framework, job: Mapping[str, Any]) -> str:
    """Which network failed where."""
    return f"{job.get('spec', {}).get('name', 'a network')} in {framework.name}"


def _peak_bytes() -> int:
    """The most memory that this process has had."""
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_job(
    package: ModuleType, job: Mapping[str, Any], framework: Framework | None = None
) -> None:
    """Take one trace and save it. A low precision brings its rounding budget along.

    Where the `framework` is one that exports, the trace is that of the file.
    """
    spec = ResNetSpec.from_dict(job["spec"])
    dtype = job["dtype"]
    if package.__name__ == "shared.frameworks.reference":
        dtype = (
            "float64"  # the reference is exact; it gets the weights and images that the others get
        )
    images = _images(job, spec)

    def take(dtype: str) -> Trace:
        weights = _weights(job, spec)
        if framework is not None and framework.kind:
            return trace_file(framework, package, spec, weights, images, dtype)
        return _trace(package, spec, weights, images, dtype, job)

    trace = take(dtype)
    if dtype != "float64" and job.get("budget", True) and "rounding" not in trace.about:
        trace.about["rounding"] = json.dumps(rounding_budget(trace, take("float64")))
    trace.about |= {
        "device": device(),
        "seed": str(job["seed"]),
        "weights_source": str(job["weights"] or "probe"),
        "images_source": str(job["images"] or "probe"),
    }
    if job.get("only"):
        trace.arrays = {name: trace[name] for name in job["only"]}
    trace.save(job["output"], durable=job["durable"])


def _trace(
    package: ModuleType,
    spec: ResNetSpec,
    weights: Weights,
    images: np.ndarray,
    dtype: str,
    job: Mapping[str, Any],
) -> Trace:
    model = package.build(spec, dtype=dtype)
    package.load_weights(model, weights)
    weights.clear()  # the largest networks fit into memory only once or twice
    if job.get("deployed"):
        output = deployed(package, model)(images)
        return Trace(spec, package.__name__, dtype, {f"{EVAL}/{OUTPUT}": output})
    if "checks" not in job:
        return package.trace(model, images)
    labels = probe_labels(len(images), num_outputs(make_plan(spec, images.shape[1:3])), job["seed"])
    return package.trace(
        model,
        images,
        labels,
        checks=tuple(job["checks"]),
        training=Training.from_json(job["training"]),
    )


def _weights(job: Mapping[str, Any], spec: ResNetSpec) -> Weights:
    """The file's weights, or probe weights; rounded to the job's dtype, then exact in
    every other.
    """
    if not job["weights"]:
        return probe_weights(spec, job["seed"], job["dtype"])
    dtype = float_dtype(job["dtype"])
    return {
        name: array.astype(dtype, copy=False)
        for name, array in read_weights(job["weights"], spec)[0].items()
    }


def _images(job: Mapping[str, Any], spec: ResNetSpec) -> np.ndarray:
    """Float64, whose values are of the job's dtype."""
    if job["images"]:
        tensors, _ = read_tensors(job["images"])
        if set(tensors) != {"images"}:
            raise FrameworkError(f"{job['images']}: holds no images")
        return tensors["images"]
    height, width = make_plan(spec, tuple(job["image_size"])).image_size
    shape = (job["batch"], height, width, spec.in_channels)
    return probe_images(shape, job["seed"], job["dtype"]).astype(np.float64)


if __name__ == "__main__":
    main()
