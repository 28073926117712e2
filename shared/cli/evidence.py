"""`rosetta inspect --evidence`: run what a checkpoint's running statistics can be compared with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.architecture.plan import make_plan
from shared.cli.options import make_console, parse_size, square
from shared.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from shared.architecture.plan import Plan
    from shared.formats.checkpoint import Checkpoint
    from shared.verification.evidence import Evidence

# Of one candidate over all crops: 16 crops for ResNet-50, 5 for ResNet-152.
MULTIPLY_ADDS = 66e9
FEWEST, MOST_IMAGES = 4, 512

WithEvidence = Annotated[
    bool,
    typer.Option(
        "--evidence",
        help="Compare the norms' running statistics with those that photographs make: what they "
        "say of padding, stride place, pools, eps and preprocessing. Minutes for a ResNet-50.",
        metavar="",
    ),
]
EvidenceImages = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        help="With --evidence: a photograph instead of the bundled ones; best are some dozens of "
        "the kind that the network was trained on; may be repeated.",
        metavar="FILE",
    ),
]


@dataclass(frozen=True)
class Gathered:
    """The evidence for a checkpoint, or in one line why there is none."""

    found: list[Evidence] | None
    why_none: str | None = None
    images: str = ""  # which, and how large
    networks: int = 0  # that were run
    seconds: float = 0.0

    def to_json(self) -> list[dict[str, Any]] | None:
        return None if self.found is None else [evidence.to_dict() for evidence in self.found]


def evidence_size(
    wanted: bool, images: Sequence[Path] | None, image_size: str | None
) -> int | None:
    """The side of the images. Raises `SpecError` for options that go with --evidence alone."""
    if not wanted and (images or image_size):
        raise SpecError(
            f"{'--image' if images else '--image-size'} is for --evidence; give it as well"
        )
    if images and len(images) > MOST_IMAGES:
        raise SpecError(f"--image {len(images)} times; --evidence takes at most {MOST_IMAGES}")
    return square(parse_size(image_size))


def gather_evidence(
    checkpoint: Checkpoint, images: Sequence[Path] | None, size: int | None
) -> Gathered:
    """Run the candidates over `images`, or over the bundled photographs, with progress."""
    from shared.verification.evidence import gather, why_none

    started = time.perf_counter()
    spec = checkpoint.spec
    plan = make_plan(spec, (size, size) if size else None)
    weights = checkpoint.weights()
    if why := why_none(spec, weights):
        return Gathered(None, why)
    pixels, about = _pixels(checkpoint, plan, images)
    networks = 0
    with make_console(stderr=True).status("evidence") as status:

        def on_run(what: str, number: int, total: int) -> None:
            nonlocal networks
            networks = number
            status.update(f"{number} of {total}: {what}")

        found = gather(spec, weights, pixels, checkpoint.preprocessing, on_run=on_run)
    return Gathered(found, None, about, networks, time.perf_counter() - started)


def _pixels(
    checkpoint: Checkpoint, plan: Plan, images: Sequence[Path] | None
) -> tuple[np.ndarray, str]:
    """uint8 [N, side, side, 3], and what they are."""
    from shared.images.photographs import load_pixels
    from shared.images.samples import PHOTOGRAPHS, sample_pixels

    side = plan.image_size[0]
    if images:
        pixels = load_pixels(images, checkpoint.spec, side, checkpoint.resize)
        kind = "image" if len(images) == 1 else "images"
        return pixels, f"{len(pixels)} {kind} of {side} x {side} pixels"
    crops = sample_pixels(side)
    each = len(crops) // len(PHOTOGRAPHS)
    wanted = max(FEWEST, min(len(crops), int(MULTIPLY_ADDS / plan.macs)))
    # The first crop of every photograph, then the second ones, …
    order = [k * each + n for n in range(each) for k in range(len(PHOTOGRAPHS))][:wanted]
    about = f"{wanted} crops of {len(PHOTOGRAPHS)} bundled photographs, {side} x {side} pixels"
    return crops[sorted(order)], about


def print_evidence(console: Console, gathered: Gathered) -> None:
    from shared.cli.report_evidence import evidence_table, notes, summary

    console.print(
        summary(
            gathered.why_none,
            f"{gathered.networks} networks on {gathered.images}; {gathered.seconds:.0f} s",
        ),
        soft_wrap=True,
    )
    if gathered.found:
        console.print()
        console.print(evidence_table(gathered.found), soft_wrap=True)
        for note in notes(gathered.found):
            console.print(note, soft_wrap=True)
