"""`docs/formats.md` is what `python -m shared.formats` prints, and says what is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import get_spec, probe_weights, save_weights
from shared.formats import __main__ as page_of_formats
from shared.formats.__main__ import PROJECTS, SPEC_KEPT, main, page
from shared.formats.checkpoint import open_checkpoint
from shared.formats.containers.registry import CONTAINERS
from shared.formats.convert import convert
from shared.naming.schemes import FORMATS

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
SPEC = get_spec(
    "keras/resnet50", depths=(1, 1), widths=(4, 8), num_classes=3, **{"stem.convs": ((7, 2, 4),)}
)


@pytest.mark.zoo  # counting the presets of every format takes seconds
def test_the_page_is_that_of_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Else: `python -m shared.formats > docs/formats.md`."""
    main()
    assert capsys.readouterr().out == PAGE.read_text(encoding="utf-8")


def test_all_but_the_counts_is_that_of_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncounted(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith(("* Presets: ", "| [`"))]

    monkeypatch.setattr(page_of_formats, "presets_of", lambda form: [])
    assert uncounted(page()) == uncounted(PAGE.read_text(encoding="utf-8"))


def test_every_format_has_its_section() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for name, f in FORMATS.items():
        assert lines.count(f"## {name}") == 1
        assert f"{f.title} ({PROJECTS[name]})." in lines
    assert PROJECTS.keys() == FORMATS.keys()


@pytest.mark.parametrize(
    ("form", "container"),
    [
        (name, container)
        for name, f in FORMATS.items()
        if f.schemes[0].free is None
        for container in f.containers
    ],
)
def test_which_files_say_what_network_they_are(tmp_path: Path, form: str, container: str) -> None:
    needed = {"torch": "torch", "orbax": "orbax.checkpoint"}.get(container)
    if needed:
        pytest.importorskip(needed)
    save_weights(tmp_path / "a.safetensors", probe_weights(SPEC), SPEC)
    suffixes = CONTAINERS[container].suffixes
    target = tmp_path / f"b{suffixes[0] if suffixes else ''}"
    found = convert(open_checkpoint(tmp_path / "a.safetensors"), target, form).target
    assert found.archive.container == container
    assert ("spec" in found.archive.metadata) == (container in SPEC_KEPT)
