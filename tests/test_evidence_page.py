"""`docs/evidence.md` is what its rows say; the rows are what is judged of their scores today."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.evidence import PAGE, REAL, TRAINED, normalisation, read_rows
from benchmarks.evidence_page import OUTCOMES, Row, page
from shared.architecture.preprocessing import PREPROCESSING, preprocess
from shared.verification.evidence import FIELDS, PREPROCESSING_FIELD, _judged

ROWS = read_rows()


def test_the_page_is_of_the_rows() -> None:
    assert PAGE.read_text("utf-8") == page(ROWS)


def test_every_network_has_its_rows() -> None:
    assert [known.name for known in (*REAL, *TRAINED)] == list(
        dict.fromkeys(row.network for row in ROWS)
    )
    assert {row.field for row in ROWS} <= {PREPROCESSING_FIELD, *FIELDS}
    assert {row.outcome for row in ROWS} <= set(OUTCOMES)


@pytest.mark.parametrize("network", dict.fromkeys(row.network for row in ROWS))
def test_the_judgement_is_todays(network: str) -> None:
    """A factor that is changed needs rows that are measured again."""
    rows = [row for row in ROWS if row.network == network and row.field != PREPROCESSING_FIELD]
    assert len(rows) > 5
    for row in rows:
        # What the network has while a field is judged is what is assumed of the field.
        evidence = _judged(row.field, row.assumed, row.scores, row.scores[row.assumed])
        assert (evidence.value, evidence.strength) == (row.value, row.strength), row
        assert row.outcome == outcome(row)


def test_a_recipe_normalises_as_the_preprocessing_does() -> None:
    pixels = np.arange(0, 256, 5.0)
    trained = {known.preprocessing for known in TRAINED} - {""}
    assert len(trained) == 3
    for how in trained:
        mean, std = (float(text.partition("=")[2].strip("[]")) for text in normalisation(how))
        wanted = preprocess(np.repeat(pixels[:, None], 3, axis=1), PREPROCESSING[how], 1)
        np.testing.assert_allclose(
            (pixels / 255 - mean) / std, wanted[:, 0], rtol=1e-15, atol=1e-15
        )


def outcome(row: Row) -> str:
    if row.strength == "none":
        return "no evidence"
    return "right" if row.truth in (row.value, *row.as_likely) else "wrong"
