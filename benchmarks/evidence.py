"""How often `inspect --evidence` is right: networks whose settings are known, field by field.

`python -m benchmarks evidence` measures every network that it finds and writes docs/evidence.md and
evidence.json beside this file: the bundled ones; real weights in the folder `ROSETTA_TEST_DATA`;
and those that were trained for this below the folder `EVIDENCE_RUNS`. `--train` first trains there
whichever are missing: small ones, on Fashion-MNIST's training split (the folder `EVIDENCE_DATA`,
Debian's dataset-fashion-mnist, or a download), some minutes each. The rows of networks that are not
there stay as they were measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.evidence_page import Row, page
from shared.architecture.preprocessing import PREPROCESSING
from shared.datasets.idx import read_idx
from shared.formats.checkpoint import open_checkpoint
from shared.images.samples import sample_pixels
from shared.verification.evidence import PREPROCESSING_FIELD, Evidence, gather, shown

HERE = Path(__file__).parent
ROWS = HERE / "evidence.json"
PAGE = HERE.parent / "docs" / "evidence.md"
FASHION = HERE.parent / "shared" / "datasets" / "fashion_mnist" / "t10k-images-idx3-ubyte.gz"
IMAGES = 64  # of a network's own dataset

RECIPE = "fashion-mnist/resnet20"
_ALL = ("steps=300", "batch=64", "schedule.warmup=50")
_SMALL = (
    "spec.depths=1,1,1",
    "spec.widths=16,32,64",
    "spec.strides=1,2,2",
    "spec.stem.convs=[[3,1,16]]",
)
BASIC = "kuangliu/resnet18"
BOTTLENECK = "kuangliu/resnet50"
PREACT = "kuangliu/preact_resnet18"


@dataclass(frozen=True)
class Known:
    """A network whose settings are known, and which of them `inspect` would not assume."""

    name: str
    other: Mapping[str, Any] = field(default_factory=dict)  # field -> what `inspect` would assume
    preset: str = ""  # of those that are trained for this
    settings: tuple[str, ...] = ()
    preprocessing: str = ""  # as it is trained; what the file says unless given
    file: str = ""  # of real weights, below ROSETTA_TEST_DATA, or rosetta:NAME
    own_images: str = ""  # a picture of 32 x 32 images there, or the bundled Fashion-MNIST


TRAINED = (
    Known("basic blocks", preset=BASIC),
    Known(
        "… SAME padding",
        {"block.padding": "symmetric"},
        preset=BASIC,
        settings=("spec.block.padding=same",),
    ),
    Known("… eps 1e-3", {"norm.eps": 1e-5}, preset=BASIC, settings=("spec.norm.eps=1e-3",)),
    Known(
        "… average-pool shortcut",
        {"shortcut.pool": "none"},
        preset=BASIC,
        settings=("spec.shortcut.pool=avg",),
    ),
    Known("… blur", {"anti_alias": "none"}, preset=BASIC, settings=("spec.anti_alias=blur",)),
    Known(
        "… strides 1,2,1", {"strides": (1, 2, 2)}, preset=BASIC, settings=("spec.strides=1,2,1",)
    ),
    Known("… max pool", {"stem.pool": "none"}, preset=BASIC, settings=("spec.stem.pool=max",)),
    Known("… 0 to 1", {PREPROCESSING_FIELD: "fashion-mnist"}, preset=BASIC, preprocessing="unit"),
    Known("… -1 to 1", {PREPROCESSING_FIELD: "fashion-mnist"}, preset=BASIC, preprocessing="half"),
    Known(
        "… 0 to 255", {PREPROCESSING_FIELD: "fashion-mnist"}, preset=BASIC, preprocessing="0 to 255"
    ),
    Known(
        "… option A, zeros behind",
        {"shortcut.zero_pad": "split"},
        preset="cifar/resnet20",
        settings=("spec.shortcut.zero_pad=tail",),
    ),
    Known(
        "bottlenecks, stride in the 1x1",
        {"block.stride_conv": 2},
        preset=BOTTLENECK,
        settings=("spec.block.stride_conv=1",),
    ),
    Known(
        "bottlenecks, stride in the 3x3",
        {"block.stride_conv": 1},
        preset=BOTTLENECK,
        settings=("spec.block.stride_conv=2",),
    ),
    Known("pre-activation", preset=PREACT),
    # Not looked at when the factors of shared/verification/evidence.py were set.
    Known(
        "held out: basic blocks, max pool and average-pool shortcut",
        {"stem.pool": "none", "shortcut.pool": "none"},
        preset=BASIC,
        settings=("spec.stem.pool=max", "spec.shortcut.pool=avg"),
    ),
)
REAL = (
    Known("ResNet-20 for Fashion-MNIST, bundled", file="rosetta:fashion-mnist/resnet20"),
    Known(
        "pre-activation ResNet-20 for Fashion-MNIST, bundled",
        file="rosetta:fashion-mnist/resnet20-v2",
    ),
    Known(
        "akamaster's ResNet-20 for CIFAR-10",
        file="akamaster/resnet20-12fca82f.th",
        own_images="cifar10/test_0000_0999.png",
    ),
)


def run_folder(known: Known) -> Path | None:
    """Where a network that is trained for this has its run."""
    runs = os.environ.get("EVIDENCE_RUNS")
    slug = "".join(c if c.isalnum() or c == "-" else "-" for c in known.name.removeprefix("… "))
    return Path(runs) / f"{known.preset.replace('/', '-')}-{slug}" if runs else None


def train(known: Known, folder: Path) -> None:
    prepared = normalisation(known.preprocessing) if known.preprocessing else ()
    settings = (f"preset={known.preset}", *_SMALL, *known.settings, *prepared, *_ALL)
    data = os.environ.get("EVIDENCE_DATA")
    command = [sys.executable, "-m", "shared.cli.main", "train", RECIPE, "-o", str(folder)]
    command += ["--data", data] if data else []
    subprocess.run([*command, *(s for each in settings for s in ("--set", each))], check=True)


def normalisation(how: str) -> tuple[str, str]:
    """What a recipe does to grey pixels of 0 to 1 that is a preprocessing of 0 to 255."""
    known = PREPROCESSING[how]
    mean, std = (values[0] * known.divisor / 255 for values in (known.mean, known.std))
    return f"augmentation.mean=[{mean}]", f"augmentation.std=[{std}]"


def find(known: Known, training: bool) -> str | None:
    """The checkpoint of a known network, if it is there."""
    if known.file.startswith("rosetta:"):
        return known.file
    if known.file:
        path = Path(os.environ.get("ROSETTA_TEST_DATA", "/nowhere")) / known.file
        return str(path) if path.exists() else None
    folder = run_folder(known)
    if folder is None:
        return None
    path = folder / RECIPE / "torch" / "weights.safetensors"
    if training and not path.exists():
        train(known, folder)
    return str(path) if path.exists() else None


def own_images(known: Known) -> np.ndarray:
    """Images of the dataset that a network was trained on, uint8 [N, side, side, 3]."""
    from PIL import Image

    if not known.file or known.file.startswith("rosetta:"):
        grey = read_idx(FASHION, 3).array[:IMAGES]
        return np.repeat(grey[..., None], 3, axis=-1)
    path = Path(os.environ["ROSETTA_TEST_DATA"]) / known.own_images
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 32, 32, 3)
    return pixels[:IMAGES]


def measure(known: Known, source: str) -> Iterator[Row]:
    """A row for each field, from bundled photographs and from images of the network's dataset."""
    checkpoint = open_checkpoint(source)
    truth, weights = checkpoint.spec, checkpoint.weights()
    how = known.preprocessing or checkpoint.preprocessing
    assumed = truth.replace(**{n: v for n, v in known.other.items() if n != PREPROCESSING_FIELD})
    for images, pixels in (
        ("photographs", sample_pixels(truth.image_size)),
        ("its dataset", own_images(known)),
    ):
        found = gather(assumed, weights, pixels, known.other.get(PREPROCESSING_FIELD, how))
        for evidence in found:
            right = (
                how if evidence.field == PREPROCESSING_FIELD else attrgetter(evidence.field)(truth)
            )
            yield row_of(known, images, evidence, right)


def row_of(known: Known, images: str, evidence: Evidence, truth: Any) -> Row:
    likely = (shown(evidence.value), *evidence.as_likely)
    outcome = (
        "no evidence"
        if evidence.strength == "none"
        else "right"
        if shown(truth) in likely
        else "wrong"
    )
    scores = {shown(evidence.value): evidence.score, **evidence.other_scores}
    return Row(
        network=known.name,
        trained_here=not known.file,
        images=images,
        field=evidence.field,
        truth=shown(truth),
        assumed=shown(known.other.get(evidence.field, truth)),
        value=shown(evidence.value),
        strength=evidence.strength,
        outcome=outcome,
        as_likely=list(evidence.as_likely),
        scores={value: float(f"{score:.4g}") for value, score in scores.items()},
    )


def main(console: Console, training: bool) -> None:
    """Measure what is there, keep the rest, write the page."""
    rows = read_rows()
    for known in (*REAL, *TRAINED):
        source = find(known, training)
        if source is None:
            console.print(f"kept as measured before: {known.name}", highlight=False)
            continue
        measured = list(measure(known, source))
        rows = [row for row in rows if row.network != known.name] + measured
        wrong = [f"{row.field} on {row.images}" for row in measured if row.outcome == "wrong"]
        said = f"wrong in {', '.join(wrong)}" if wrong else "nothing wrong"
        console.print(f"measured: {known.name}: {said}", highlight=False, soft_wrap=True)
    order = [known.name for known in (*REAL, *TRAINED)]
    rows = sorted(
        (row for row in rows if row.network in order), key=lambda r: order.index(r.network)
    )
    lines = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in rows)
    ROWS.write_text(f"[\n{lines}\n]\n", "utf-8")
    PAGE.write_text(page(rows), "utf-8")


def read_rows() -> list[Row]:
    return [Row(**row) for row in json.loads(ROWS.read_text("utf-8"))] if ROWS.exists() else []
