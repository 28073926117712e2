"""Weights by name, from a server on this machine and from caches on this disk.

Nothing leaves the machine.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from shared import CheckpointError, SpecError, get_spec, probe_weights, save_weights
from shared.formats import sources
from shared.formats.checkpoint import open_checkpoint
from shared.formats.convert import convert

SPEC = get_spec("torchvision/resnet18", depths=(1, 1, 1, 1), widths=(16, 24, 32, 40), num_classes=3)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(address, folder) of a server of files."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/", folder
        running.shutdown()
        thread.join()


@pytest.fixture
def canonical(tmp_path: Path) -> Path:
    path = tmp_path / "canonical.safetensors"
    save_weights(path, probe_weights(SPEC), SPEC)
    return path


def test_a_path_is_a_path(canonical: Path) -> None:
    assert sources.fetch(str(canonical)).path == canonical


@pytest.fixture
def torchvision_file(
    server: tuple[str, Path], canonical: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A checkpoint on the server, under the name that its hash gives it."""
    pytest.importorskip("torch")
    address, folder = server
    convert(open_checkpoint(canonical), folder / "a.pth", "torchvision")
    start = hashlib.sha256((folder / "a.pth").read_bytes()).hexdigest()[:8]
    file = (folder / "a.pth").rename(folder / f"resnet18-{start}.pth")
    monkeypatch.setattr(sources, "TORCHVISION_URL", address)
    monkeypatch.setitem(sources.TORCHVISION, "resnet18", {"IMAGENET1K_V1": start})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    return file


def test_torchvision_downloads_once(torchvision_file: Path) -> None:
    for _ in range(2):  # the second time from the cache: the server has it no longer
        found = sources.fetch("torchvision:IMAGENET1K_V1", "resnet18")
        assert found.format == "torchvision"
        assert open_checkpoint(found.path).spec.depths == (1, 1, 1, 1)
        torchvision_file.unlink(missing_ok=True)
    assert sources.fetch("torchvision:DEFAULT", "torchvision/resnet18").path == found.path


def test_a_download_that_does_not_match_its_hash_is_refused(torchvision_file: Path) -> None:
    torchvision_file.write_bytes(torchvision_file.read_bytes()[:-1] + b"\1")
    with pytest.raises(CheckpointError, match="invalid hash value"):
        sources.fetch("torchvision:IMAGENET1K_V1", "resnet18")


def test_without_a_network(torchvision_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TORCHVISION_URL", "http://127.0.0.1:9/")
    with pytest.raises(CheckpointError, match="cannot be fetched") as error:
        sources.fetch("torchvision:IMAGENET1K_V1", "resnet18")
    assert "\n" not in str(error.value)
    assert "is there a network?" in str(error.value)


@pytest.mark.parametrize("good", [True, False])
def test_keras(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: bool
) -> None:
    pytest.importorskip("keras")
    address, folder = server
    spec = get_spec("keras/resnet50", depths=(1, 1, 1, 1), num_classes=3)
    save_weights(tmp_path / "a.safetensors", probe_weights(spec), spec)
    name = f"resnet50_{'a' if good else 'b'}"  # keras' cache is one for the whole test run
    convert(
        open_checkpoint(tmp_path / "a.safetensors"),
        folder / f"{name}_weights_tf_dim_ordering_tf_kernels.h5",
    )
    md5 = hashlib.md5(
        (folder / f"{name}_weights_tf_dim_ordering_tf_kernels.h5").read_bytes()
    ).hexdigest()
    monkeypatch.setattr(sources, "KERAS_URL", address)
    monkeypatch.setattr(sources, "_model", lambda *arguments: name)
    monkeypatch.setitem(sources.KERAS, name, (md5 if good else "0" * 32, ""))
    if good:
        assert (
            open_checkpoint(sources.fetch("keras:imagenet", "resnet50").path).format.name
            == "keras-applications"
        )
    else:
        with pytest.raises(CheckpointError, match="hash"):
            sources.fetch("keras:imagenet", "resnet50")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as huggingface_hub keeps it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    cache = tmp_path / "hub"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = cache / "models--somebody--small-resnet" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_a_repository_of_the_hub(hub_cache: Path, canonical: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(canonical), tmp_path / "folder", "huggingface")
    for file in (tmp_path / "folder").iterdir():
        file.rename(hub_cache / file.name)
    for name in ("hf:somebody/small-resnet", f"hf:somebody/small-resnet@{hub_cache.name}"):
        found = open_checkpoint(sources.fetch(name).path)
        assert (found.format.name, found.spec.depths) == ("huggingface", (1, 1, 1, 1))
    config = json.loads((hub_cache / "config.json").read_text())
    assert config["layer_type"] == "basic"


def test_a_file_of_the_hub(hub_cache: Path) -> None:
    save_file(probe_weights(SPEC), hub_cache / "ours.safetensors")
    found = open_checkpoint(sources.fetch("hf:somebody/small-resnet/ours.safetensors").path)
    assert found.format.name == "canonical"


class FakeHub:
    """A hub with one repository, from which a folder takes what the patterns allow."""

    def __init__(self, folder: Path, files: tuple[str, ...]):
        self.folder, self.files = folder, files
        self.fetched: set[str] = set()

    def snapshot_download(
        self, repository: str, revision: str | None, allow_patterns: list[str]
    ) -> str:
        self.folder.mkdir(exist_ok=True)
        for name in self.files:
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                self.fetched.add(name)
                (self.folder / name).touch()
        return str(self.folder)


ONE, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
SHARD = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("files", "fetched"),
    [
        ((ONE, PICKLE), {ONE}),
        ((ONE, INDEX, SHARD, PICKLE), {ONE}),
        ((INDEX, SHARD, PICKLE), {INDEX, SHARD}),
        ((PICKLE,), {PICKLE}),
        ((), set()),
    ],
    ids=["both", "everything", "shards", "pickle", "nothing"],
)
@pytest.mark.parametrize("config", [True, False], ids=["config", "no-config"])
def test_weights_are_fetched_once(
    files: tuple[str, ...],
    fetched: set[str],
    config: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Safetensors if there are any, else the pickle; never the same weights twice."""
    about = ("config.json",) if config else ()
    hub = FakeHub(tmp_path / "snapshot", (*about, *files, "README.md"))
    monkeypatch.setattr(sources, "_library", lambda *_: hub)
    found = sources.fetch("hf:somebody/resnet").path
    assert hub.fetched == fetched | set(about)
    alone = not config and len(fetched) == 1
    assert found == (hub.folder / next(iter(fetched)) if alone else hub.folder)


def test_a_repository_that_is_not_there(hub_cache: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        sources.fetch("hf:somebody/else")


@pytest.mark.parametrize(
    ("name", "preset", "said"),
    [
        ("torchvision:IMAGENET1K_V1", None, "say which one with --preset"),
        ("torchvision:IMAGENET1K_V3", "resnet50", "it has IMAGENET1K_V1, IMAGENET1K_V2"),
        (
            "torchvision:IMAGENET1K_V1",
            "keras/resnet50",
            "torchvision has no weights for keras/resnet50",
        ),
        ("keras:imagenet", "resnet18", "unknown preset 'keras/resnet18'"),
        ("keras:cifar", "resnet50", "imagenet and imagenet-notop"),
        ("hf:resnet50", None, "hf:OWNER/NAME"),
        ("hf:a/", None, "hf:OWNER/NAME"),
    ],
)
def test_names_that_do_not_exist(name: str, preset: str | None, said: str) -> None:
    with pytest.raises(SpecError, match=said.replace("(", r"\(")):
        sources.fetch(name, preset)
