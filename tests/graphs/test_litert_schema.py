"""Our reader of LiteRT's files beside the one that FlatBuffers has generated from the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

from shared.formats.containers import spans
from shared.graphs.files import litert_schema
from shared.graphs.files.litert_model import Model, parse
from tests.formats.litert_files import number, packed
from tests.graphs.litert_operators import ONE, saved

# What the schema calls the options that have a shorter name here.
LONGER = {
    **{"activation": "FusedActivationFunction", "num_split": "NumSplits"},
    **{f"dilation_{side}": f"Dilation{side.upper()}Factor" for side in "wh"},
    **{"filter_w": "FilterWidth", "filter_h": "FilterHeight"},
}


def named(enumeration: Any) -> dict[int, str]:
    return {v: k for k, v in vars(enumeration).items() if isinstance(v, int)}


OPTIONS = named(schema.BuiltinOptions)


def test_the_same_names() -> None:
    for ours, theirs in (
        (litert_schema.OPERATORS, schema.BuiltinOperator),
        (litert_schema.TYPES, schema.TensorType),
        (litert_schema.ENUMS["activation"], schema.ActivationFunctionType),
        (litert_schema.ENUMS["padding"], schema.Padding),
        (litert_schema.ENUMS["mode"], schema.MirrorPadMode),
    ):
        assert dict(enumerate(ours)) == named(theirs)


def told(table: Any, key: str) -> Any:
    """An option, by the generated reader."""
    name = LONGER.get(key) or "".join(part.capitalize() for part in key.split("_"))
    return getattr(table, name)


@pytest.mark.parametrize("name", litert_schema.OPTIONS)
def test_the_same_options(name: str) -> None:
    """Each at its place, alone and with its default."""
    which, fields = litert_schema.OPTIONS[name]
    kind = getattr(schema, OPTIONS[which])
    for key, (place, form, default) in fields.items():
        if form == "[i]":
            table = kind.GetRootAs(packed({place: np.asarray([3, -1], "<i4")}), 0)
            words = "".join(part.capitalize() for part in key.split("_"))
            assert getattr(table, f"{words}AsNumpy")().tolist() == [3, -1]
            continue
        table = kind.GetRootAs(packed({place: number(1, form)}), 0)
        assert told(table, key)() == 1
        assert [told(table, other)() for other in fields if other != key] == [
            fields[other][2] for other in fields if other != key
        ]
        assert told(kind.GetRootAs(packed({}), 0), key)() == default


def read(path: Path) -> Model:
    with path.open("rb") as file:
        return parse(file, spans.failing(path, "a LiteRT model"))


@pytest.mark.parametrize("name", ONE)
def test_the_same_file(name: str, tmp_path: Path) -> None:
    assert_read_alike(saved(ONE[name], tmp_path / "net.tflite"))


def assert_read_alike(path: Path) -> None:
    """Every tensor and operator of the first subgraph, by both readers."""
    data, ours = path.read_bytes(), read(path)
    model = schema.Model.GetRootAs(data, 0)
    main = model.Subgraphs(0)
    assert main.InputsAsNumpy().tolist() == ours.inputs
    assert main.OutputsAsNumpy().tolist() == ours.outputs
    assert (main.TensorsLength(), main.OperatorsLength()) == (
        len(ours.tensors),
        len(ours.operators),
    )
    for k, tensor in enumerate(ours.tensors):
        theirs = main.Tensors(k)
        shape = theirs.ShapeAsNumpy().tolist() if theirs.ShapeLength() else []
        free = theirs.ShapeSignatureAsNumpy().tolist() if theirs.ShapeSignatureLength() else shape
        assert (theirs.Name().decode(), shape, free) == (
            tensor.name,
            list(tensor.shape),
            list(tensor.free),
        )
        assert litert_schema.TYPES[theirs.Type()] == tensor.type
        buffer = model.Buffers(theirs.Buffer())
        values = buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""
        assert data[tensor.start : tensor.start + tensor.nbytes] == values
    for k, operator in enumerate(ours.operators):
        theirs = main.Operators(k)
        code = model.OperatorCodes(theirs.OpcodeIndex())
        number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        assert litert_schema.OPERATORS[number] == operator.type
        assert theirs.InputsAsNumpy().tolist() == operator.inputs
        assert theirs.OutputsAsNumpy().tolist() == operator.outputs
        assert_options_alike(operator.type, operator.options, theirs)


def assert_options_alike(name: str, options: dict[str, Any], theirs: Any) -> None:
    which, fields = litert_schema.OPTIONS.get(name, (0, {}))
    if theirs.BuiltinOptionsType() != which:
        return
    table = getattr(schema, OPTIONS[which])() if which else None
    for key, (_, form, _) in fields.items():
        raw = theirs.BuiltinOptions()
        table.Init(raw.Bytes, raw.Pos)
        if form != "[i]":
            known, value = litert_schema.ENUMS.get(key), told(table, key)()
            assert options[key] == (value if known is None else known[value])
