"""TensorFlow's checkpoints: what TensorFlow and Keras wrote is read, and what lies is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import CheckpointError
from shared.formats.containers.protobuf import Source
from shared.formats.containers.registry import read_archive
from shared.formats.containers.tensorflow import snappy
from shared.formats.containers.tensorflow.crc32c import crc32c, masked
from shared.formats.containers.tensorflow.object_graph import shown_names
from tests.formats import tensorflow_files as made
from tests.formats.hostile import assert_same, cheaply, is_refused, mutations, values

RNG = np.random.default_rng(0)
ARRAYS = {
    "net/conv/weights": RNG.standard_normal((3, 3, 2, 4)).astype("float32"),
    "net/conv/BatchNorm/gamma": RNG.standard_normal(4).astype("float32"),
    "net/conv/BatchNorm/moving_mean": RNG.standard_normal(4).astype("float32"),
    "net/logits/biases": RNG.standard_normal(5).astype("float16"),
    "global_step": np.array(7, "int64"),
}


def fail(what: str) -> CheckpointError:
    return CheckpointError(what)


# What TensorFlow writes.


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints that TensorFlow and Keras wrote."""
    tf = pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another backend")
    folder = tmp_path_factory.mktemp("tensorflow")
    names = list(ARRAYS)
    tensors = [tf.constant(array) for array in ARRAYS.values()]
    texts = {"names": names, "slices": [""] * len(names)}
    (folder / "one").mkdir()
    tf.raw_ops.SaveV2(
        prefix=str(folder / "one" / "model.ckpt-7"),
        tensor_names=[*names, "words"],
        shape_and_slices=[*texts["slices"], ""],
        tensors=[*tensors, tf.constant(["a", "bc"])],
    )
    tf.raw_ops.Save(filename=str(folder / "old.ckpt"), tensor_names=names, data=tensors)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(folder / "two" / "ckpt"))
    model.export(str(folder / "exported"), verbose=False)
    tf.saved_model.save(model, str(folder / "saved"))
    np.savez(folder / "model.npz", **{v.path: np.array(v) for v in model.variables})
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "one/model.ckpt-7",
        "one/model.ckpt-7.index",
        "one/model.ckpt-7.data-00000-of-00001",
        "one",
        "old.ckpt",
    ],
)
def test_named_variables(written: Path, name: str) -> None:
    found = read_archive(written / name)
    assert found.container == "tf-checkpoint"
    assert_same(values(found), ARRAYS)
    assert ("words" in found.metadata) == ("one" in name)


@pytest.mark.parametrize("name", ["two", "two/ckpt-1", "exported", "saved"])
def test_objects_have_their_variables_names(written: Path, name: str) -> None:
    """Whatever path leads to a variable, and however often it is there."""
    found = values(read_archive(written / name))
    with np.load(written / "model.npz") as file:
        expected = dict(file)
    assert len(expected) == 8
    beside = set(found) - set(expected)
    assert_same({n: found[n] for n in found if n not in beside}, expected)
    assert all(n.startswith("optimizer/") or n == "save_counter" for n in beside)
    assert any("momentum" in n for n in beside) == (name not in ("exported",))


def test_variables_of_one_name_keep_their_paths(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")

    class Net(tf.Module):
        def __init__(self) -> None:
            self.parts = [tf.Variable(tf.zeros(2), name="a"), tf.Variable(tf.zeros(2), name="a")]

    tf.train.Checkpoint(net=Net()).write(str(tmp_path / "ckpt"))
    assert sorted(read_archive(tmp_path / "ckpt").entries) == ["net/parts/0", "net/parts/1"]


def object_graph(*variables: tuple[str, str]) -> Source:
    """Of (key, the variable's own name)."""
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    nodes = [
        made.field(1, made.field(2, made.field(2, name) + made.field(3, key + suffix)))
        for key, name in variables
    ]
    return Source(b"".join(nodes), fail)


KERAS = "model/layer_with_weights-0"
CASES: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "counted layers": ([(f"{KERAS}/kernel", "conv1/kernel")], ["conv1/kernel"]),
    "attributes": (
        [("net/blocks/0/c1/kernel", "block/conv2d/kernel"), ("net/fc/_kernel", "dense/kernel")],
        ["net/blocks/0/c1/kernel", "net/fc/kernel"],
    ),
    "two models": (
        [(f"{KERAS}/kernel", "conv/kernel"), (f"x{KERAS}/kernel", "conv/kernel")],
        ["model/conv/kernel", "xmodel/conv/kernel"],
    ),
    "no names": ([(f"{KERAS}/kernel", "")], [f"{KERAS}/kernel"]),
    "an optimizer": (
        [
            ("optimizer/_trainable_variables/0", "conv/kernel"),
            ("optimizer/_variables/2", "adam/conv_kernel_momentum"),
            (f"{KERAS}/kernel/.OPTIMIZER_SLOT/optimizer/m", "Adam/conv/kernel/m"),
        ],
        ["conv/kernel", "optimizer/adam/conv_kernel_momentum", "optimizer/Adam/conv/kernel/m"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_names_of_objects(case: str) -> None:
    variables, names = CASES[case]
    keys = [f"{key}/.ATTRIBUTES/VARIABLE_VALUE" for key, _ in variables]
    found = shown_names(keys, object_graph(*variables), lambda a, b: False)
    assert found == dict(zip(keys, names, strict=True))


# What is made by hand.


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "model.ckpt.index"


def test_by_hand(index: Path) -> None:
    made.write(index, ARRAYS)
    assert_same(values(read_archive(index)), ARRAYS)


def test_whichever_of_its_files_is_given(index: Path, tmp_path: Path) -> None:
    made.write(index, ARRAYS)
    (tmp_path / "model.ckpt.meta").write_bytes(b"")
    for name in ("model.ckpt", "model.ckpt.meta", "model.ckpt.data-00000-of-00001"):
        assert len(read_archive(tmp_path / name).entries) == len(ARRAYS)


def test_several_data_files(index: Path, tmp_path: Path) -> None:
    a, b = (ARRAYS[name] for name in ("net/conv/weights", "net/conv/BatchNorm/gamma"))
    items = [(b"", made.header(2)), (b"a", made.entry(a, 0)), (b"b", made.entry(b, 4, shard=1))]
    index.write_bytes(made.table(items))
    (tmp_path / "model.ckpt.data-00000-of-00002").write_bytes(a.tobytes())
    (tmp_path / "model.ckpt.data-00001-of-00002").write_bytes(b"skip" + b.tobytes())
    assert_same(values(read_archive(index)), {"a": a, "b": b})
    (tmp_path / "model.ckpt.data-00001-of-00002").unlink()
    with pytest.raises(CheckpointError, match=r"00001-of-00002.*not beside it"):
        read_archive(index)


def test_many_blocks_of_snappy(index: Path) -> None:
    arrays = {f"v{i:04}": np.full(2, i, "float32") for i in range(200)}
    items = made.items_of(arrays)
    parts = [items[i : i + 60] for i in range(0, len(items), 60)]
    closed = [made.closed(made.literal(made.block(part)), 1) for part in parts]
    starts = np.cumsum([0, *map(len, closed)]).tolist()
    places = [
        (part[-1][0], made.varint(start) + made.varint(len(data) - 5))
        for part, start, data in zip(parts, starts[:-1], closed, strict=True)
    ]
    made.write(index, arrays, made.assembled(closed, made.block(places)))
    assert_same(values(read_archive(index)), arrays)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ('model_checkpoint_path: "/home/them/b.ckpt"\n', None),
        ('model_checkpoint_path: "../../etc/passwd"\n', "holds 2 checkpoints"),
        (None, "holds 2 checkpoints; give one of 'a.ckpt', 'b.ckpt'"),
    ],
)
def test_which_of_a_folder(tmp_path: Path, state: str | None, words: str | None) -> None:
    one = {"x": np.ones(3, "float32")}
    made.write(tmp_path / "a.ckpt.index", one)
    made.write(tmp_path / "b.ckpt.index", {"y": one["x"]})
    if state:
        (tmp_path / "checkpoint").write_text(state)
    if words:
        with pytest.raises(CheckpointError, match=words):
            read_archive(tmp_path)
    else:
        assert list(read_archive(tmp_path).entries) == ["y"]


def test_one_file_of_old(tmp_path: Path) -> None:
    arrays = {name: array for name, array in ARRAYS.items() if array.dtype == np.float32}
    path = tmp_path / "resnet_v1_50.ckpt"
    path.write_bytes(made.old(arrays))
    assert_same(values(read_archive(path)), arrays)


# What lies.


def lying(name: str = "net/conv/weights", **changes: Any) -> bytes:
    return made.table(made.items_of(ARRAYS, {name: changes}))


LIES: dict[str, tuple[bytes, str]] = {
    "checksum": (lying(crc=1), "match its checksum"),
    "beyond": (lying(offset=1 << 40), "ends at byte"),
    "overlap": (lying(offset=8), "overlap"),
    "shape": (lying(shape=(3, 3, 2, 5)), "does not follow from its shape"),
    "negative": (lying(shape=(3, 3, -2, 4)), "impossible shape"),
    "rank": (lying(shape=(1,) * 65), "64 dimensions"),
    "unknown rank": (lying(shape=made.field(3, 1)), "unknown number"),
    "dtype": (lying(dtype=8), "complex64"),
    "quantised": (lying(dtype=11), "quantised"),
    "shard": (lying(shard=3), "data file 3 of 1"),
    "sliced": (lying(more=made.field(7, b"")), "in slices"),
    "twice": (lying(more=made.field(5, 288)), "twice"),
    "big-endian": (made.table([(b"", made.header(1, made.field(2, 1)))]), "big-endian"),
    "no shards": (made.table([(b"", b"")]), "0 data files"),
    "many shards": (made.table([(b"", made.header(1 << 40))]), "data files"),
    "no header": (made.table(made.items_of(ARRAYS)[1:]), "no header"),
    "empty": (made.table([]), "empty"),
    "order": (made.table([(b"", made.header()), (b"b", b""), (b"a", b"")]), "not in order"),
    "kind": (made.table([(b"", made.header())], 7), "unknown kind 7"),
    "block checksum": (made.table([(b"", made.header())], crc=5), "match its checksum"),
    "footer": (b"x" * 40 + made.table([])[-8:], "table"),
    "name": (made.table([(b"", made.header()), (b"\0a\xff", b"")]), "slices"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(index: Path, name: str) -> None:
    data, words = LIES[name]
    made.write(index, ARRAYS, data)
    with cheaply(), pytest.raises(CheckpointError, match=words):
        values(read_archive(index))


def _old_lies() -> Iterator[tuple[str, bytes, str]]:
    arrays = {"a": np.ones((2, 3), "float32"), "b": np.ones(4, "float32")}
    yield "values", made.old(arrays, a={"values": b"abcd"}), "do not follow"
    yield "another", made.old(arrays, a={"name": "b"}), "another tensor"
    yield "slice", made.old(arrays, a={"slice": made.field(1, made.field(1, 1))}), "in slices"
    yield "huge", made.old(arrays, a={"shape": (1 << 20, 1 << 10)}), "announces"


@pytest.mark.parametrize(("name", "data", "words"), list(_old_lies()))
def test_old_lies_are_refused(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(data)
    with cheaply(), pytest.raises(CheckpointError, match=words):
        values(read_archive(path))


def test_a_data_file_that_is_a_link(index: Path, tmp_path: Path) -> None:
    made.write(index, ARRAYS)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    (tmp_path / "elsewhere").mkdir()
    shutil.move(data, tmp_path / "elsewhere" / "secret")
    data.symlink_to(tmp_path / "elsewhere" / "secret")
    with pytest.raises(CheckpointError, match="link that leads out"):
        read_archive(index)


@pytest.mark.parametrize("part", ["index", "old"])
def test_mutations_and_truncations(tmp_path: Path, part: str) -> None:
    arrays = {name: array for name, array in ARRAYS.items() if array.dtype == np.float32}
    index = made.write(tmp_path / "model.ckpt.index", arrays)
    path = index if part == "index" else tmp_path / "old.ckpt"
    data = index.read_bytes() if part == "index" else made.old(arrays)
    refused = 0
    with cheaply():
        for mutant in mutations(data, 200):
            path.write_bytes(mutant)
            refused += is_refused(read_archive, path)
        for size in range(0, len(data), 7):
            path.write_bytes(data[:size])
            assert is_refused(read_archive, path), size
    assert refused > 150


# What it is made of.


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 5000, 16385, (4 << 20) + 5])
def test_checksums_are_those_of_the_definition(size: int) -> None:
    table = []
    for state in range(256):
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
        table.append(state)
    data, state = RNG.bytes(size), 0xFFFFFFFF
    for byte in data:
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
    assert crc32c(data) == state ^ 0xFFFFFFFF
    assert masked(0) == 0xA282EAD8


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (b"\x05\x10hello", b"hello"),
        (b"\x0a\x00a\x15\x01", b"a" * 10),
        (b"\x0b\x00a\x26\x01\x00", b"a" * 11),
        (b"\x0b\x00a\x27\x01\x00\x00\x00", b"a" * 11),
        (b"\x06\x08abc\x09\x03", None),  # one byte less than announced
        (b"\x06\x08abcx\x03", None),  # from before its start
        (b"\x04\x08abcdef", None),  # longer than announced
        (b"\x05\xf0", None),  # ends within a length
        (b"\xff\xff\xff\xff\xff", None),
        (b"\xff\xff\xff\x0f\x00a", None),  # 33 MB from two bytes
    ],
)
def test_snappy(packed: bytes, plain: bytes | None) -> None:
    if plain is None:
        with pytest.raises(CheckpointError):
            snappy.decompress(memoryview(packed), fail)
    else:
        assert snappy.decompress(memoryview(packed), fail) == plain
