"""Another package called `shared` in the user's path: the first import names both places."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIRST = ("import resnet_torch", "import resnet_keras", "import resnet_flax")
COMMAND = "import resnet_rosetta, sys; sys.argv[1:] = ['list']; resnet_rosetta.main()"


def run(code: str, *path: Path, options: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code and last line of standard error of a Python with this path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, "-P", *options, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=path[0],
    )
    return done.returncode, next(reversed(done.stderr.strip().splitlines()), "")


def without_ours(folder: Path) -> Path:
    """The packages, but not `shared`."""
    folder.mkdir()
    for name in ("resnet_torch", "resnet_keras", "resnet_flax", "resnet_rosetta.py"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(params=["regular package", "namespace package", "chimera"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, ...]:
    """Where Python looks: the user's folder, then ours."""
    theirs = tmp_path / "theirs" / "shared"
    theirs.mkdir(parents=True)
    (theirs / "util.py").write_text("")
    if request.param == "namespace package":  # a regular one would win, so ours must be absent
        return theirs.parent, without_ours(tmp_path / "ours")
    ours = f"__path__.append({str(ROOT / 'shared')!r})"  # as an editable installation does
    (theirs / "__init__.py").write_text(ours if request.param == "chimera" else "")
    return theirs.parent, ROOT


@pytest.mark.parametrize("code", FIRST)
def test_the_first_import_names_both_places(path: tuple[Path, ...], code: str) -> None:
    failed, line = run(code, *path)
    assert failed
    assert line.startswith("ImportError: the package 'shared' is ")
    assert f"{path[0] / 'shared'}, and not that of resnet-rosetta" in line
    assert f"belongs in {path[1] / 'shared'}" in line


def test_the_command_says_it_in_one_line_too(path: tuple[Path, ...]) -> None:
    failed, line = run(COMMAND, *path)
    assert failed == 2
    assert line.startswith("rosetta: the package 'shared' is ")


def test_beside_a_folder_without_init_ours_is_found(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "util.py").write_text("")
    assert run("import shared; shared.get_spec('resnet50')", tmp_path, ROOT) == (0, "")
    assert run(COMMAND, tmp_path, ROOT) == (0, "")


def test_a_part_of_ours_that_is_gone_is_said(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").write_text((ROOT / "shared" / "__init__.py").read_text())
    failed, line = run(
        "import shared; shared.get_spec", tmp_path, options=("-S",)
    )  # nothing installed
    assert failed
    assert f"{tmp_path / 'shared'} is resnet-rosetta's, but without shared.architecture" in line
