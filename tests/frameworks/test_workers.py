"""`shared.frameworks.registry` and `shared.frameworks.trace_worker`: which frameworks are there,
and jobs done in a process of their own.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared import CheckpointError, FrameworkError, SpecError, Trace, get_spec, miniature, processes
from shared.frameworks import registry as frameworks
from shared.frameworks import workers
from shared.frameworks.registry import (
    FRAMEWORKS,
    KERAS_BACKENDS,
    get_framework,
    installed,
    load_package,
)
from shared.frameworks.workers import TraceWorker, compiled_programs
from tests.probes import SIZE, reference_trace

SPEC = miniature(get_spec("cifar/resnet20"))


def hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    """Let modules look as if they were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in hidden else found(name, *rest),
    )


def show(monkeypatch: pytest.MonkeyPatch, *shown: str) -> None:
    """Let only these modules look as if they were installed."""
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: object() if name in shown else None
    )


def job(output: Path, **changes) -> dict:
    return {
        "spec": SPEC.to_dict(),
        "dtype": "float64",
        "seed": 0,
        "batch": 2,
        "image_size": list(SIZE),
        "weights": None,
        "images": None,
        "output": str(output),
        "durable": True,
        **changes,
    }


CACHE = "JAX_COMPILATION_CACHE_DIR"


def test_what_jax_compiles_is_kept_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = {name for name in FRAMEWORKS if CACHE in compiled_programs(FRAMEWORKS[name])}
    assert kept == {"flax", "keras:jax"}
    folder = tmp_path / "resnet-rosetta" / "xla"
    assert compiled_programs(FRAMEWORKS["flax"])[CACHE] == str(folder)
    flax = FRAMEWORKS["flax"]
    environment = {**os.environ, **compiled_programs(flax), **flax.on_cpu}
    program = "import jax; jax.jit(lambda x: x + 1)(1.0)"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert any(folder.iterdir())
    monkeypatch.setattr(workers, "XLA_CACHE_BYTES", 0)
    compiled_programs(FRAMEWORKS["flax"])
    assert not any(folder.iterdir())


def test_the_users_own_cache_of_programs_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "elsewhere")
    assert CACHE not in compiled_programs(FRAMEWORKS["flax"])


def test_without_a_folder_to_write_nothing_compiled_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the folder's place")
    assert compiled_programs(FRAMEWORKS["flax"]) == {}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_every_framework_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    show(monkeypatch, "torch", "keras", "tensorflow", "jax", "flax")
    assert get_framework(name).name == name


@pytest.mark.parametrize("first", range(len(KERAS_BACKENDS)))
def test_keras_is_the_first_backend_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    show(monkeypatch, "keras", *KERAS_BACKENDS[first:])
    framework = get_framework("keras")
    assert framework.name == f"keras:{KERAS_BACKENDS[first]}"
    assert framework.environment["KERAS_BACKEND"] == KERAS_BACKENDS[first]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("troch", "torch"),
        ("keras:tensorflw", "keras:tensorflow"),
        ("Flax", "flax"),
        ("referense", "reference"),
    ],
)
def test_unknown_name_is_told_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(FrameworkError, match=f"unknown framework '{name}'.*nearest: {hint}"):
        get_framework(name)


def test_unknown_name_is_told_all() -> None:
    with pytest.raises(FrameworkError) as error:
        get_framework("mxnet")
    assert all(name in str(error.value) for name in FRAMEWORKS)


@pytest.mark.parametrize(
    ("name", "hidden", "message"),
    [
        (
            "torch",
            ("torch",),
            "torch needs torch, which is not installed; pip install 'resnet-rosetta[torch]'",
        ),
        (
            "flax",
            ("flax", "jax"),
            "flax needs flax and jax, which are not installed; pip install 'resnet-rosetta[flax]'",
        ),
        (
            "keras:jax",
            ("jax",),
            "keras:jax needs jax, which is not installed; pip install 'resnet-rosetta[keras]'",
        ),
        (
            "keras",
            ("keras",),
            "keras needs keras, which is not installed; pip install 'resnet-rosetta[keras]'",
        ),
        (
            "keras",
            KERAS_BACKENDS,
            "keras needs tensorflow, which is not installed; pip install 'resnet-rosetta[keras]'",
        ),
    ],
)
def test_missing_framework_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, hidden: tuple[str, ...], message: str
) -> None:
    show(monkeypatch, *({"torch", "keras", "tensorflow", "jax", "flax"} - set(hidden)))
    with pytest.raises(FrameworkError) as error:
        get_framework(name)
    assert str(error.value) == message


def test_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, "torch", "keras", "jax")
    assert installed() == ["torch", "keras", "reference"]
    show(monkeypatch)
    assert installed() == ["reference"]


def test_a_worker_of_a_missing_framework_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "torch")
    monkeypatch.setattr(processes.subprocess, "Popen", None)
    with pytest.raises(FrameworkError, match="not installed"):
        TraceWorker("torch")


def test_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resnet_torch", None)
    with pytest.raises(FrameworkError, match="torch cannot be imported"):
        load_package(FRAMEWORKS["torch"])


@pytest.fixture(scope="module")
def worker() -> Iterator[TraceWorker]:
    with TraceWorker("reference") as started:
        yield started


def test_a_job_leaves_a_trace_and_a_report(worker: TraceWorker, tmp_path: Path) -> None:
    report = worker.run(job(tmp_path / "t.safetensors"))
    found, expected = Trace.load(tmp_path / "t.safetensors"), reference_trace(SPEC)
    assert report["seconds"] > 0
    assert report["peak_bytes"] > 10 << 20
    assert found.names == expected.names
    assert found.about["seed"] == "0"
    assert found.about["weights_source"] == "probe"


def test_seed_batch_and_size_reach_the_trace(worker: TraceWorker, tmp_path: Path) -> None:
    worker.run(job(tmp_path / "a.safetensors"))
    worker.run(job(tmp_path / "b.safetensors", seed=1, batch=3, image_size=[33, 40]))
    a, b = Trace.load(tmp_path / "a.safetensors"), Trace.load(tmp_path / "b.safetensors")
    assert (a.about["image_shape"], b.about["image_shape"]) == (
        f"2x{SIZE[0]}x{SIZE[1]}x3",
        "3x33x40x3",
    )
    assert a.about["weights"] != b.about["weights"]


def test_the_reference_stays_exact_on_rounded_weights(worker: TraceWorker, tmp_path: Path) -> None:
    worker.run(job(tmp_path / "t.safetensors", dtype="bfloat16"))
    found = Trace.load(tmp_path / "t.safetensors")
    assert found.dtype == "float64"
    assert found.about["weights"] != reference_trace(SPEC).about["weights"]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"spec": {"depths": [0]}}, SpecError, "depths"),
        ({"image_size": [0, 3]}, SpecError, "image size"),
        ({"weights": "/nowhere/w.safetensors"}, CheckpointError, "/nowhere/w.safetensors"),
        ({"output": "/nowhere/t.safetensors"}, CheckpointError, "cannot be written"),
        ({"dtype": "float7"}, FrameworkError, "resnet20 in reference: TypeError"),
    ],
    ids=["spec", "size", "weights", "output", "unforeseen"],
)
def test_an_error_comes_back_as_what_it_was(
    worker: TraceWorker, tmp_path: Path, changes: dict, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        worker.run({**job(tmp_path / "t.safetensors"), **changes})
    assert type(error.value) is kind
    assert list(tmp_path.iterdir()) == []
    worker.run(job(tmp_path / "t.safetensors"))  # and the worker goes on


def test_a_killed_worker_is_a_clear_error(tmp_path: Path) -> None:
    with TraceWorker("reference") as doomed:
        os.kill(doomed.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(
                FrameworkError,
                match="reference: its process was stopped by SIGKILL, probably out of",
            ):
                doomed.run(job(tmp_path / "t.safetensors"))


def test_a_worker_killed_at_work_is_a_clear_error(tmp_path: Path) -> None:
    slow = get_spec("torchvision/resnet152")
    with TraceWorker("reference") as doomed:
        doomed.run(job(tmp_path / "t.safetensors"))  # it has started
        pid = doomed.pid
        killer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(FrameworkError, match="SIGKILL"):
            doomed.run(
                job(tmp_path / "late.safetensors", spec=slow.to_dict(), image_size=[224, 224])
            )
        killer.join()
    assert not (tmp_path / "late.safetensors").exists()


def test_close_ends_the_process(tmp_path: Path) -> None:
    with TraceWorker("reference") as started:
        process = started._process
    assert process.returncode == 0


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A framework of our own: `package(code)` is its name, and `code` is run when it is
    imported.
    """

    def write(code: str) -> str:
        folder = tmp_path / "path"
        folder.mkdir()
        (folder / "strange_framework.py").write_text(
            "from shared.frameworks.reference import *\n" + textwrap.dedent(code)
        )
        (folder / "sitecustomize.py").write_text(
            "from shared.frameworks import registry as frameworks\n"
            "frameworks.FRAMEWORKS['strange'] = frameworks.Framework('strange', "
            "'strange_framework', ())\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setitem(
            FRAMEWORKS, "strange", frameworks.Framework("strange", "strange_framework", ())
        )
        return "strange"

    return write


def test_chatter_does_not_disturb_the_answers(package, tmp_path: Path) -> None:
    chatty = package(
        """
        import os, subprocess, sys
        print("import: hello")
        sys.stdout.write('{"error": "not an answer", "kind": "SpecError"}\\n')
        os.write(1, b"written past Python\\n")
        subprocess.run(["echo", "from a child"])
        print("warning", file=sys.stderr)
        """
    )
    with TraceWorker(chatty) as started:
        for k in range(2):
            assert set(started.run(job(tmp_path / f"{k}.safetensors"))) == {"seconds", "peak_bytes"}
    np.testing.assert_array_equal(
        Trace.load(tmp_path / "0.safetensors")["eval/output"], reference_trace(SPEC)["eval/output"]
    )


def test_a_process_that_ends_by_itself_says_its_last_words(package, tmp_path: Path) -> None:
    name = package(
        """
        import os, sys
        print("first words", file=sys.stderr)
        print("no licence found", file=sys.stderr, flush=True)
        os._exit(3)
        """
    )
    with (
        TraceWorker(name) as started,
        pytest.raises(FrameworkError, match="strange: its process ended with code 3: no licence"),
    ):
        started.run(job(tmp_path / "t.safetensors"))


def test_a_package_that_fails_to_import_is_an_answer(package, tmp_path: Path) -> None:
    with TraceWorker(package("import no_such_module")) as started:
        for _ in range(2):
            with pytest.raises(
                FrameworkError, match="strange cannot be imported: No module named 'no_such_module'"
            ):
                started.run(job(tmp_path / "t.safetensors"))


def test_what_a_framework_raises_is_one_line(package, tmp_path: Path) -> None:
    name = package(
        '''
        def trace(model, images, labels=None, *, checks=()):
            raise RuntimeError("""shapes do not match
            Traceback (most recent call last)""")
        '''
    )
    with TraceWorker(name) as started, pytest.raises(FrameworkError) as error:
        started.run(job(tmp_path / "t.safetensors"))
    assert str(error.value) == "cifar/resnet20 in strange: RuntimeError: shapes do not match"


def test_out_of_memory_is_said(package, tmp_path: Path) -> None:
    name = package("def trace(model, images, labels=None, *, checks=()):\n    raise MemoryError")
    with (
        TraceWorker(name) as started,
        pytest.raises(FrameworkError, match="cifar/resnet20 in strange: out of memory"),
    ):
        started.run(job(tmp_path / "t.safetensors"))


def test_modules_in_the_user_s_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "numpy", "shared"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    with TraceWorker("reference") as started:
        started.run(job(tmp_path / "t.safetensors"))
