"""`shared.processes`: how children start, where their modules come from, how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from shared import processes
from shared.errors import CheckpointError, FrameworkError, SpecError
from shared.processes import Process, call, failure
from tests.cli.test_training import command as training_command
from tests.cli_runner import Rosetta
from tests.datasets.makers import write_fashion_mnist
from tests.zoo import in_zoo

ROOT = Path(__file__).parents[1]
POSING = (
    "json",
    "numpy",
    "keras",
    "h5py",
    "torch",
    "tensorstore",
    "orbax",
    "safetensors",
    "shared",
)


def run(code: str, **options) -> dict:
    """What a child prints for `code`, as JSON."""
    with Process("child", ["-c", textwrap.dedent(code)], **options) as child:
        return child.ask(None)


PATHS = "import json, os, sys; print(json.dumps({'path': sys.path, 'cwd': os.getcwd()}))"


@pytest.mark.parametrize(
    "given", ["", ":", ".", "relative/folder", "{here}/modules:", ":{here}/modules"]
)
def test_modules_never_come_from_the_user_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", given.format(here=tmp_path))
    found = run(PATHS)
    assert "" not in found["path"]
    assert all(os.path.isabs(folder) for folder in found["path"])
    assert str(tmp_path) not in (*found["path"], found["cwd"])
    assert str(ROOT) in found["path"]
    assert (f"{tmp_path}/modules" in found["path"]) == ("modules" in given)


def test_where_packages_are_installed_the_standard_library_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(processes.site, "getsitepackages", lambda: [str(ROOT)])
    assert processes._environment(None)["PYTHONPATH"] == ""


def test_the_environment_is_the_user_s_or_what_is_left_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("PYTHONINSPECT", "1")  # a child would wait for a person
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    assert run(code)["SECRET"] == "x"  # noqa: S105
    assert "PYTHONINSPECT" not in run(code)
    found = run(code, inherited=("PATH",), environment={"A": "b"})
    assert "SECRET" not in found
    assert found["A"] == "b"


# What a child does, and what is said of its death.
DEATHS = {
    "signal": ("import os; os.kill(os.getpid(), 15)", "was stopped by SIGTERM$"),
    "memory": (
        "import os; os.kill(os.getpid(), 9)",
        "was stopped by SIGKILL, probably out of memory",
    ),
    "real-time": ("import os; os.kill(os.getpid(), 40)", "was stopped by signal 40"),
    "words": (
        "import sys; sys.exit('first\\n\\nlast   words\\n')",
        "ended with code 1: last words$",
    ),
    "silent": ("raise SystemExit(3)", "ended with code 3: it said nothing"),
    "long": ("import sys; sys.exit('x' * 100_000 + '\\nend')", "ended with code 1: end$"),
    "half": ("print('{\"half\": ', end='', flush=True)", "ended with code 0: it said nothing"),
}


@pytest.mark.parametrize(("code", "says"), DEATHS.values(), ids=DEATHS)
def test_a_death_is_explained(code: str, says: str) -> None:
    with pytest.raises(FrameworkError, match=f"^child: its process {says}"):
        run(code)


def test_a_process_that_closes_its_output_and_stays_is_not_waited_for() -> None:
    with Process("child", ["-c", "import os, time; os.close(1); time.sleep(60)"]) as child:
        assert child.receive() is None
        assert child.death(seconds=0.1) == "has stopped answering"
        child.kill()


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.sys, "executable", "/nowhere/python")
    with pytest.raises(FrameworkError, match="child: its process cannot be started"):
        Process("child", ["-c", "pass"])


def test_without_a_temporary_folder_last_words_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.delattr(os, "memfd_create", raising=False)  # as on macOS
    monkeypatch.setattr(processes.tempfile, "TemporaryFile", refuse)
    with pytest.raises(FrameworkError, match="ended with code 1: it said nothing"):
        run("import sys; sys.exit('words')")


def test_windows_is_one_line(monkeypatch: pytest.MonkeyPatch, rosetta: Rosetta) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(FrameworkError, match="Linux and macOS"):
        Process("child", ["-c", "pass"])
    rosetta("list").refused("Linux and macOS", "WSL")


def double(number: int) -> list[int]:
    print("what a library says")
    return [number, 2 * number]


def fail(kind: str) -> None:
    raise {"spec": SpecError("a spec"), "bug": KeyError("x"), "memory": MemoryError()}[kind]


def hang() -> None:
    import time

    time.sleep(60)


def test_a_call_returns_what_the_function_returns() -> None:
    assert call(double, 21, name="child") == [21, 42]


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("spec", SpecError, "^a spec$"),
        ("bug", FrameworkError, "^child: KeyError: 'x'$"),
        ("memory", FrameworkError, "^child: out of memory$"),
    ],
)
def test_a_call_raises_what_the_function_raises(kind: str, error: type, says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        call(fail, kind, name="child")
    assert type(caught.value) is error


def test_a_call_that_takes_too_long() -> None:
    with pytest.raises(FrameworkError, match="child: took longer than 1 s"):
        call(hang, name="child", seconds=1)


@pytest.mark.parametrize("kind", [SpecError, CheckpointError, FrameworkError])
def test_every_error_keeps_its_kind(kind: type[Exception]) -> None:
    assert failure(kind("x"), "place") == {"kind": kind.__name__, "error": "x"}


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user is in a folder of files that pose as modules and leave a mark when imported."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name in POSING:
        (folder / f"{name}.py").write_text(
            f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\nraise SystemExit(9)\n"
        )
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", f":{os.environ.get('PYTHONPATH', '')}")  # as shells make it
    return tmp_path


def commands(folder: Path) -> dict[str, tuple[tuple[object, ...], ...]]:
    """Every command that starts a child, in small."""
    canonical, keras, orbax = folder / "w.safetensors", folder / "w.h5", folder / "w-orbax"
    mini = ("cifar/resnet20", "--miniature", "--check", "eval", "--image-size", "16")
    data = write_fashion_mnist(folder / "data", train=32, test=8)
    train = training_command(data, folder / "runs", "torch", "--set", "steps=2")
    return {
        "inspect": (("convert", canonical, keras, "--to", "keras"), ("inspect", keras)),
        "orbax": (("convert", canonical, orbax, "--to", "nnx"), ("inspect", orbax)),
        "verify": (("verify", *mini, "--framework", "torch,reference"),),
        "trace": (("trace", *mini, "--framework", "reference", "-o", folder / "t"),),
        "train": (tuple(train),),
    }


@pytest.mark.parametrize("name", ["inspect", in_zoo("orbax"), "verify", "trace", in_zoo("train")])
def test_no_command_imports_from_the_user_s_folder(
    downloaded: Path, rosetta: Rosetta, name: str
) -> None:
    from shared import get_spec, miniature, probe_weights, save_weights

    pytest.importorskip("torch")
    if name == "orbax":
        pytest.importorskip("orbax.checkpoint")
    spec = miniature(get_spec("keras/resnet50"))
    save_weights(downloaded / "w.safetensors", probe_weights(spec), spec)
    for arguments in commands(downloaded)[name]:
        result = rosetta(*arguments)
        assert result.code == 0, result
    assert not (downloaded / "imported").exists(), (downloaded / "imported").read_text()


@pytest.mark.zoo
def test_keras_describes_its_network_without_the_user_s_folder(downloaded: Path) -> None:
    from shared import get_spec
    from shared.naming.keras_applications import model_config

    pytest.importorskip("keras")
    described = json.loads(model_config(get_spec("keras/resnet50")))
    assert len(described["config"]["layers"]) > 170
    assert not (downloaded / "imported").exists()


def test_the_same_files_are_imported_by_a_plain_child(downloaded: Path) -> None:
    """That the tests above can fail."""
    done = subprocess.run([sys.executable, "-c", "import keras"], check=False)
    assert done.returncode == 9
    assert (downloaded / "imported").exists()
