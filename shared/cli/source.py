"""`rosetta source`: a network as one stand-alone file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.cli.options import Preset, Settings, check_outputs, make_console, spec_of, write_text


def source(
    preset: Preset,
    framework: Annotated[
        str, typer.Option("--framework", help="torch, keras or flax.", metavar="NAME")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; standard output unless given.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Write a network as one stand-alone file, as a maintainer of the framework would: explicit
    numbers, stock layers, no import of ours. Canonical weights load into it."""
    from shared.source.write import source as write

    check_outputs(output)
    text = write(spec_of(preset, settings), framework)
    if output is None or str(output) == "-":
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        lines = f"{len(text.splitlines())} lines"
        make_console(stderr=True).print(f"✓ {output}: {lines}", highlight=False, soft_wrap=True)
