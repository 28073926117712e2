"""Orbax folders: what Orbax writes and restores, training state left out, damage refused, nothing
read outside.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import CheckpointError, FrameworkError
from shared.formats.containers.archive import MAX_ELEMENTS
from shared.formats.containers.orbax_folder import open_entries, read, write
from shared.formats.containers.registry import read_archive
from tests.formats.hostile import archive_of, arrays, assert_same, is_refused, mutations, values
from tests.zoo import rest_in_zoo

pytest.importorskip("orbax.checkpoint")

# Every case in one process: importing JAX takes longer than all of them.
SAVE = """
import sys
import jax.numpy as jnp, numpy as np, orbax.checkpoint as ocp
from flax import nnx
root = sys.argv[1]
params = {"conv": {"kernel": np.arange(6, dtype="float32").reshape(2, 3)}}
stats = {"bn": {"mean": np.arange(3, dtype="float32")}}
optimizer = [{"trace": params}, None]
state = {"params": params, "batch_stats": stats, "step": jnp.array(7), "opt_state": optimizer}
module = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
module["kernel"].value = jnp.arange(6.0).reshape(2, 3)
with ocp.StandardCheckpointer() as c:
    c.save(f"{root}/linen", {"params": params, "batch_stats": stats})
    c.save(f"{root}/state", state)
    c.save(f"{root}/nnx", module)
    half = {"a": jnp.arange(3, dtype=jnp.bfloat16), "b": np.arange(2, dtype="float16")}
    c.save(f"{root}/half", {"model": half})
with ocp.PyTreeCheckpointer(use_ocdbt=False) as c:
    c.save(f"{root}/zarr", {"params": params, "step": 7})
with ocp.PyTreeCheckpointer(use_zarr3=True) as c:
    c.save(f"{root}/zarr3", {"params": params, "step": 7})
with ocp.CheckpointManager(f"{root}/manager") as manager:
    manager.save(3, args=ocp.args.StandardSave({"params": params}))
with ocp.CheckpointManager(f"{root}/items") as manager:
    weights, other = ocp.args.StandardSave({"net": [stats, params]}), ocp.args.JsonSave({"a": 1})
    manager.save(3, args=ocp.args.Composite(weights=weights, about=other))
"""
RESTORE = """
import sys
import numpy as np, orbax.checkpoint as ocp
with ocp.StandardCheckpointer() as c:
    tree = c.restore(sys.argv[1])
flat = lambda t, p="": {k: v for n, x in t.items() for k, v in (flat(x, p + n + "/") if isinstance(x, dict) else {p + n: x}).items()}
np.savez(sys.argv[2], **{name: np.asarray(value) for name, value in flat(tree).items()})
"""  # noqa: E501


def run(script: str, *arguments: Path) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        check=True,
        env=environment,
        capture_output=True,
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("orbax")
    run(SAVE, root)
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint."""
    return Path(shutil.copytree(made / "linen", tmp_path / "linen"))


KERNEL = np.arange(6, dtype="float32").reshape(2, 3)
MEAN = np.arange(3, dtype="float32")
LINEN = {"params/conv/kernel": KERNEL, "batch_stats/bn/mean": MEAN}
CASES: dict[str, tuple[dict[str, np.ndarray], dict[str, str], tuple[str, ...]]] = {
    "linen": (LINEN, {}, ()),
    "state": (LINEN | {"opt_state/0/trace/conv/kernel": KERNEL}, {"step": "7"}, ()),
    "zarr": ({"params/conv/kernel": KERNEL}, {"step": "7"}, ()),
    "zarr3": ({"params/conv/kernel": KERNEL}, {"step": "7"}, ()),
    "manager/3": ({"params/conv/kernel": KERNEL}, {}, ("item 'default'",)),
    "manager": ({"params/conv/kernel": KERNEL}, {}, ("item 'default'",)),
    "items": ({"net/0/bn/mean": MEAN, "net/1/conv/kernel": KERNEL}, {}, ("item 'weights'",)),
    "nnx": ({"kernel": KERNEL, "bias": np.zeros(3, "float32")}, {}, ("suffix '/value'",)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_orbax_writes_is_read(made: Path, name: str) -> None:
    expected, metadata, stripped_prefixes = CASES[name]
    archive = read(made / name)
    assert archive.container == "orbax"
    assert_same(values(archive), expected)
    assert (archive.metadata, archive.stripped_prefixes) == (metadata, stripped_prefixes)


def test_which_step_and_which_tree(made: Path, tmp_path: Path) -> None:
    assert read_archive(made / "items").container == "orbax"
    root = tmp_path / "many"
    for step in (3, 12):
        shutil.copytree(made / "items" / "3", root / str(step))
    with pytest.raises(CheckpointError, match="holds 2 steps; give the folder of one: '3', '12'"):
        read(root)
    shutil.copytree(root / "3" / "weights", root / "3" / "again")
    with pytest.raises(CheckpointError, match=r"holds 2 trees.*'again', 'weights'"):
        read(root / "3")
    assert len(read(root / "3" / "again").entries) == 2


def test_half_precision_and_a_level_for_all(made: Path) -> None:
    archive = read(made / "half")
    assert {name: (e.dtype.name, e.load().tolist()) for name, e in archive.entries.items()} == {
        "a": ("bfloat16", [0, 1, 2]),
        "b": ("float16", [0, 1]),
    }
    assert archive.stripped_prefixes == ("prefix 'model/'",)


def test_orbax_restores_what_is_written(tmp_path: Path) -> None:
    tensors = {f"params/{n}": a for n, a in arrays().items() if n != "head/empty"}
    write(tmp_path / "o", archive_of(tensors))
    run(RESTORE, tmp_path / "o", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as found:
        assert_same({name: found[name] for name in found.files}, tensors)
    assert_same(values(read(tmp_path / "o")), tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o", "x.npz"]


def put_metadata(folder: Path, **changes: Any) -> None:
    found = json.loads((folder / "_METADATA").read_text())
    (folder / "_METADATA").write_text(json.dumps(found | changes))


def leaf(*keys: Any, kind: Any = "np.ndarray", skip: bool = False) -> dict[str, Any]:
    return {
        "x": {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": kind, "skip_deserialize": skip},
        }
    }


BAD = {
    "no-table": ({"tree_metadata": []}, "no table"),
    "no-keys": ({"tree_metadata": leaf()}, "impossible keys"),
    "no-type": ({"tree_metadata": {"x": {"key_metadata": []}}}, "without key or type"),
    "key-is-a-list": ({"tree_metadata": leaf(["a"])}, "impossible keys"),
    "too-deep": ({"tree_metadata": leaf(*"a" * 64)}, "impossible keys"),
    "too-long": ({"tree_metadata": leaf("a" * 600)}, "too long"),
    "absent": ({"tree_metadata": leaf("absent")}, "cannot be read"),
    "traversal": ({"tree_metadata": leaf("../../secret"), "use_ocdbt": False}, "looks like a path"),
    "absolute": ({"tree_metadata": leaf("/etc"), "use_ocdbt": False}, "looks like a path"),
    "dots": ({"tree_metadata": leaf(".."), "use_ocdbt": False}, "looks like a path"),
    "many": ({"tree_metadata": {f"{n}": 1 for n in range(140_000)}}, "at most"),
}


# Each in a child process, which takes a while to start: the short run has a few, and below, without
# a child, all of them.
@pytest.mark.parametrize("name", rest_in_zoo(BAD, ("no-keys", "absent", "traversal")))
def test_bad_metadata(folder: Path, name: str) -> None:
    changes, message = BAD[name]
    put_metadata(folder, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        values(read(folder))
    assert str(caught.value).count(str(folder)) == 1 or message == "cannot be read"
    assert "\n" not in str(caught.value)


NO_JSON = (b"", b"{", b"[" * 100_000, b'{"a": 1, "a": 2}', b'{"a": NaN}', b" " * (5 << 20))


@pytest.mark.parametrize("data", rest_in_zoo(NO_JSON, NO_JSON[3:4]))
def test_metadata_that_is_no_json(folder: Path, data: bytes) -> None:
    (folder / "_METADATA").write_bytes(data)
    with pytest.raises(CheckpointError, match="_METADATA: "):
        read(folder)


@pytest.mark.parametrize("name", [name for name in BAD if name != "absent"])
def test_bad_metadata_here(folder: Path, name: str) -> None:
    changes, message = BAD[name]
    put_metadata(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        open_entries(folder)


@pytest.mark.parametrize("data", NO_JSON)
def test_metadata_that_is_no_json_here(folder: Path, data: bytes) -> None:
    (folder / "_METADATA").write_bytes(data)
    with pytest.raises(CheckpointError, match="_METADATA: "):
        open_entries(folder)


def test_truncations_and_mutants_of_the_database(folder: Path) -> None:
    """In a child process each, and therefore few."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name == "d"]
    files = [*[path for path in files if "process" not in str(path)], folder / "manifest.ocdbt"]
    for seed, file in enumerate((files[0], files[-1])):
        good, refused = file.read_bytes(), 0
        for data in (good[: len(good) // 2], *mutations(good, 1, seed)):
            file.write_bytes(data)
            refused += is_refused(read, folder)
        file.write_bytes(good)
        assert refused >= 1
    assert_same(values(read(folder)), LINEN)


def test_mutants_of_the_metadata_raise_only_what_the_child_sends(folder: Path) -> None:
    """Here without the child, which turns any `Exception` into an answer."""
    outcomes = set()
    for data in mutations((folder / "_METADATA").read_bytes()):
        (folder / "_METADATA").write_bytes(data)
        try:
            open_entries(folder)
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
        except ValueError:  # TensorStore's: no such array
            outcomes.add("absent")
    assert {"refused", "absent"} <= outcomes


def zarr_array(folder: Path, **changes: Any) -> None:
    path = folder / "params.conv.kernel" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_bombs(made: Path, tmp_path: Path) -> None:
    bombs: list[tuple[dict[str, Any], str]] = [
        ({"shape": [1 << 15, 1 << 15], "chunks": [1, 1]}, "times as many"),
        ({"shape": [MAX_ELEMENTS, 2]}, "impossible shape"),
        ({"shape": [1 << 50, 1]}, "impossible shape"),
        (
            {"shape": [2, 3], "chunks": [1 << 20, 1 << 20]},
            "params/conv/kernel|cannot be read|reader",
        ),
        ({"dtype": "|O"}, "cannot be read"),
        ({"dtype": "<U4"}, "cannot be read"),
    ]
    for position, (changes, message) in enumerate(bombs):
        folder = Path(shutil.copytree(made / "zarr", tmp_path / f"{position}"))
        zarr_array(folder, **changes)
        with pytest.raises(CheckpointError, match=message):
            values(read(folder))


@pytest.mark.parametrize("name", ["linen", "zarr"])
def test_a_missing_chunk_is_not_zeros(made: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(made / name, tmp_path / name))
    if name == "zarr":
        (folder / "params.conv.kernel" / "0.0").unlink()
    else:
        shutil.rmtree(folder / "d")
    with pytest.raises(CheckpointError):
        values(read(folder))


@pytest.mark.parametrize("target", ["file", "folder"])
def test_no_link_leads_out(folder: Path, target: str) -> None:
    moved = folder / ("manifest.ocdbt" if target == "file" else "d")
    moved.rename(folder.parent / "elsewhere")
    moved.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(CheckpointError, match="is a link"):
        read(folder)


def test_a_pipe_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(CheckpointError, match="no file"):
        read(folder)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no _METADATA"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path / "absent")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="goes through"):
        write(tmp_path / "o", archive_of({"a": np.zeros(1), "a/b": np.zeros(1)}))
    (tmp_path / "there").mkdir()
    with pytest.raises(CheckpointError, match="Orbax: ValueError: Destination"):
        write(tmp_path / "there", archive_of({"a": np.zeros(1)}))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_hint_when_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for call in (lambda: read(tmp_path), lambda: write(tmp_path / "o", archive_of(arrays()))):
        with pytest.raises(FrameworkError, match=r"resnet-rosetta\[flax\]"):
            call()
