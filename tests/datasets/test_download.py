"""Downloads, from a server on this machine that does as it is told."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shared.datasets import DATASETS, cifar, download, find_dataset, open_split, places
from shared.datasets.catalogue import Dataset, RemoteFile
from shared.errors import DatasetError
from tests.datasets import makers

ARCHIVE = makers.archive(makers.cifar_files(binary=False), cifar.FOLDERS[0])


class Server:
    """Serves `files` by path. `cut`: bytes after which it hangs up; `extra`: bytes that follow."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.extra = b""
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                if self.path not in owner.files:
                    self.send_error(404)
                    return
                data = owner.files[self.path] + owner.extra
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: owner.cut])

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def remote(name: str, data: bytes, *urls: str, sha256: str | None = None) -> RemoteFile:
    return RemoteFile(name, urls, len(data), sha256 or hashlib.sha256(data).hexdigest())


def offer(monkeypatch: pytest.MonkeyPatch, dataset: str, *files: RemoteFile) -> Dataset:
    """The dataset with these files, which hold what was published as far as anybody knows."""
    contents = {
        n: f"md5:{hashlib.md5(d).hexdigest()}" for n, d in makers.cifar_files(binary=False).items()
    }
    changed = dataclasses.replace(DATASETS[dataset], files=files, contents=contents)
    monkeypatch.setitem(DATASETS, dataset, changed)
    monkeypatch.setattr(cifar, "DATASET", changed)
    return changed


def failure(home: Path) -> str:
    """The message of a download that fails, in one line; and nothing is left behind."""
    with pytest.raises(DatasetError) as error:
        find_dataset("cifar10")
    assert not [path for path in home.rglob("*") if path.is_file()]
    message = str(error.value)
    assert "\n" not in message
    return message


def test_success(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a.tar.gz"] = ARCHIVE
    offer(
        monkeypatch, "cifar10", remote("cifar-10-python.tar.gz", ARCHIVE, f"{server.url}a.tar.gz")
    )
    told: list[tuple[str, int, int]] = []
    found = find_dataset("cifar10", progress=lambda *state: told.append(state))
    assert found == home / ".cache/resnet-rosetta/datasets/cifar10/cifar-10-python.tar.gz"
    assert found.read_bytes() == ARCHIVE
    assert told[-1] == ("cifar-10-python.tar.gz", len(ARCHIVE), len(ARCHIVE))
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
    assert [path for path in home.rglob("*") if path.is_file()] == [found]
    assert open_split("cifar10", "train").published
    assert find_dataset("cifar10") == found
    assert server.asked == ["/a.tar.gz"]


def test_to_the_variable_s_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a"] = ARCHIVE
    offer(monkeypatch, "cifar10", remote("cifar-10-python.tar.gz", ARCHIVE, f"{server.url}a"))
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "data"))
    assert find_dataset("cifar10") == tmp_path / "data/cifar10/cifar-10-python.tar.gz"


def test_only_what_is_missing(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{name}.gz": gzip.compress(name.encode()) for name in places.IDX_NAMES}
    server.files = {f"/{name}": data for name, data in files.items()}
    offer(
        monkeypatch,
        "fashion-mnist",
        *(remote(name, data, f"{server.url}{name}") for name, data in files.items()),
    )
    folder = home / ".cache/resnet-rosetta/datasets/fashion-mnist"
    makers.write_files(folder, dict(list(files.items())[:2]))
    assert find_dataset("fashion-mnist") == folder
    assert server.asked == [f"/{name}" for name in list(files)[2:]]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_the_second_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/b"] = ARCHIVE
    offer(
        monkeypatch,
        "cifar10",
        remote("cifar-10-python.tar.gz", ARCHIVE, f"{server.url}a", f"{server.url}b"),
    )
    assert find_dataset("cifar10").read_bytes() == ARCHIVE
    assert server.asked == ["/a", "/b"]


def test_a_wrong_hash(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a"] = ARCHIVE
    offer(
        monkeypatch,
        "cifar10",
        remote("cifar-10-python.tar.gz", ARCHIVE, f"{server.url}a", sha256="0" * 64),
    )
    message = failure(home)
    assert message.startswith(
        f"{server.url}a: is not the file that was published; expected SHA-256 {'0' * 64}, found "
    )
    assert hashlib.sha256(ARCHIVE).hexdigest() in message


@pytest.mark.parametrize("cut", [0, 1000, len(ARCHIVE) - 1])
def test_cut_short(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    server.files["/a"], server.cut = ARCHIVE, cut
    offer(monkeypatch, "cifar10", remote("cifar-10-python.tar.gz", ARCHIVE, f"{server.url}a"))
    message = failure(home)
    assert (
        f"expected {len(ARCHIVE):,} bytes, found {cut:,}" in message or "IncompleteRead" in message
    )


def test_a_server_that_does_not_stop(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a"], server.extra = ARCHIVE, b"\0" * (4 << 20)
    offer(monkeypatch, "cifar10", remote("cifar-10-python.tar.gz", ARCHIVE, f"{server.url}a"))
    read: list[int] = []
    monkeypatch.setattr(download, "_CHUNK", 1 << 12)
    with pytest.raises(
        DatasetError, match=f"expected {len(ARCHIVE):,} bytes, found more than {len(ARCHIVE):,}"
    ):
        find_dataset("cifar10", progress=lambda name, done, total: read.append(done))
    assert len(read) < len(ARCHIVE) / (1 << 12) + 3
    failure(home)


def test_not_found(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(
        monkeypatch,
        "cifar10",
        remote("cifar-10-python.tar.gz", ARCHIVE, f"{server.url}a", f"{server.url}b"),
    )
    message = failure(home)
    assert message.startswith(
        f"{server.url}a: cannot be fetched (HTTP Error 404: Not Found); is there a network?"
    )
    assert "nor from 1 more" in message


def test_nobody_listens(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets this port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
        offer(monkeypatch, "cifar10", remote("cifar-10-python.tar.gz", ARCHIVE, url))
        message = failure(home)
    assert message.startswith(f"{url}: cannot be fetched (")
    assert "Connection refused" in message
    assert "is there a network?" in message


def test_nothing_is_fetched_unasked(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a"] = ARCHIVE
    offer(monkeypatch, "cifar10", remote("cifar-10-python.tar.gz", ARCHIVE, f"{server.url}a"))
    with pytest.raises(DatasetError, match="CIFAR-10 is not on this machine"):
        open_split("cifar10", "test", download=False)
    assert not server.asked


def test_a_disk_that_cannot_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a"] = ARCHIVE
    offer(monkeypatch, "cifar10", remote("cifar-10-python.tar.gz", ARCHIVE, f"{server.url}a"))
    (tmp_path / "cifar10").write_bytes(b"in the way")
    monkeypatch.setenv(places.VARIABLE, str(tmp_path))
    with pytest.raises(DatasetError, match="cifar10: cannot be made"):
        find_dataset("cifar10")
    (tmp_path / "cifar10").unlink()
    (tmp_path / "cifar10" / "cifar-10-python.tar.gz").mkdir(parents=True)
    with pytest.raises(DatasetError, match="is a folder"):
        find_dataset("cifar10")


def test_the_bar_is_drawn_on_standard_error(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import sys

    server.files["/a"] = ARCHIVE
    offer(monkeypatch, "cifar10", remote("cifar-10-python.tar.gz", ARCHIVE, f"{server.url}a"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    find_dataset("cifar10")
    written = capsys.readouterr()
    assert "cifar-10-python.tar.gz" in written.err
    assert not written.out
