"""The wheel holds all that the packages need: built, installed into an environment of its own, and
run far from the checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from shared.weights.pretrained import PRETRAINED, pretrained_file
from tests.zoo import in_zoo

ROOT = Path(__file__).parents[1]
PACKAGES = ("shared", "resnet_torch", "resnet_keras", "resnet_flax")
MODULE = "resnet_rosetta.py"


def run(*command: str | Path, cwd: Path) -> str:
    """What a program prints that sees nothing of the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves folders where it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, MODULE, "pyproject.toml", "README.md", "LICENSE"):
        source, copy = ROOT / name, folder / "source" / name
        copy.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet")
    run(*pip, *offline, "--wheel-dir", folder, folder / "source", cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has the wheel, and all else from where the tests run."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    programs = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return programs


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    expected = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    held = zipfile.ZipFile(wheel).namelist()
    assert {name for name in held if ".dist-info/" not in name} == {*expected, MODULE}
    assert {f"{package}/py.typed" for package in PACKAGES} <= expected


def test_what_runs_is_what_was_installed(programs: Path, tmp_path: Path) -> None:
    code = f"import importlib.util as u; [print(u.find_spec(p).origin) for p in {PACKAGES}]"
    found = run(programs / "python", "-c", code, cwd=tmp_path).splitlines()
    assert len(found) == len(PACKAGES)
    assert all(Path(line).is_relative_to(programs.parent) for line in found)


def test_presets_are_listed(programs: Path, tmp_path: Path) -> None:
    found = json.loads(run(programs / "rosetta", "list", "--json", "-", cwd=tmp_path))
    assert "torchvision/resnet50" in {row["name"] for row in found}


@pytest.mark.parametrize("name", [PRETRAINED[0], *map(in_zoo, PRETRAINED[1:])])
def test_bundled_weights_are_inspected(programs: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(pretrained_file(name), tmp_path / "w.safetensors")
    for source in (f"rosetta:{name}", "w.safetensors"):
        found = json.loads(
            run(programs / "rosetta", "inspect", source, "--json", "-", cwd=tmp_path)
        )
        assert found["format"] == "canonical"


def test_a_network_is_verified(programs: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    options = ("--miniature", "--check", "eval", "--framework", "torch,reference", "--json", "-")
    found = json.loads(run(programs / "rosetta", "verify", "resnet18", *options, cwd=tmp_path))
    assert found["passed"]
    assert len(found["comparisons"]) == 1


@pytest.mark.zoo
def test_bundled_weights_are_evaluated_on_bundled_images(programs: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    options = (f"rosetta:{PRETRAINED[0]}", "--framework", "torch", "--json", "-")
    (found,) = json.loads(run(programs / "rosetta", "evaluate", *options, cwd=tmp_path))
    assert found["examples"] == 10_000
    assert found["accuracy"] > 0.9
