"""What `verify` shows, without a framework to run."""

from __future__ import annotations

import re

from shared import get_spec, make_plan
from shared.cli.pages import verify_markdown
from shared.cli.report_verify import VERDICT_COLUMNS
from shared.frameworks.verify import Inputs, Verdict


def test_a_failure_with_a_bar_stays_in_its_cell() -> None:
    """A `|` would start another cell of a Markdown table."""
    spec = get_spec("cifar/resnet20")
    failure = "torch: weights: 1 missing: a | 2 unexpected: b"
    verdict = Verdict(spec, make_plan(spec), (), (), {}, 0.0, failure=failure)
    page = verify_markdown([verdict], Inputs(), "rosetta verify")
    row = next(line for line in page.splitlines() if line.startswith(f"| {spec.name}"))
    assert len(re.split(r"(?<!\\)\|", row)) == len(VERDICT_COLUMNS) + 1 + 2
    assert failure.replace("|", r"\|") in row
