"""safetensors files as archives: any names, any metadata, one tensor in memory at a time."""

from __future__ import annotations

from pathlib import Path

from shared.formats.containers import spans
from shared.formats.containers.archive import Archive, Entry
from shared.weights.files import TensorFile
from shared.weights.tensor_writer import write_safetensors

# Of a file that anybody may have made.
MAX_HEADER = spans.MAX_JSON  # bytes; some 40,000 tensors
MAX_NAME = 512  # characters
MAX_ENTRIES = 1 << 15  # more take longer than a header may


def read(path: Path) -> Archive:
    """The tensors and the metadata of a safetensors file. Raises `CheckpointError`."""
    spans.file_size(path)
    file = TensorFile(path, MAX_HEADER)
    fail = spans.failing(path, "a safetensors file")
    if len(file.names) > MAX_ENTRIES:
        raise fail(f"it has {len(file.names)} tensors; {MAX_ENTRIES} at most are read")
    return Archive(
        "safetensors", {name: _entry(file, name, fail) for name in file.names}, file.metadata
    )


def _entry(file: TensorFile, name: str, fail: spans.Fail) -> Entry:
    """The tensor, which does not keep the file open."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise fail(f"it has a tensor named {spans.shown(name)}")
    begin, end = file.place(name)
    shape = spans.checked_shape(name, file.shape(name), fail)
    return spans.span_entry(
        [spans.Span(file.path, begin, end - begin)], shape, file.dtype(name), file.path
    )


def write(path: Path, archive: Archive) -> None:
    """Write a safetensors file, its header in the archive's order. Raises `CheckpointError`."""
    values = zip(archive.entries, spans.checked_values(path, archive.entries), strict=True)
    write_safetensors(path, archive.entries, archive.metadata, values, MAX_HEADER)
