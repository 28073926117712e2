"""`shared`: every name of its table resolves, completes, costs nothing before it is used, and does
what its example says.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import shared
from tests.cli_runner import run_python

SOURCE = Path(shared.__file__).read_text("utf-8")
# What a call makes, as opposed to what is called.
MADE = {
    "Checkpoint",
    "Comparison",
    "Conversion",
    "Diagnosis",
    "Identified",
    "Plan",
    "Recipe",
    "Verdict",
}
CALLED = [name for name in shared.__all__ if name not in MADE and not name.endswith("Error")]


@pytest.mark.parametrize("name", shared.__all__)
def test_a_name_resolves_to_the_module_that_has_it(name: str) -> None:
    found = getattr(shared, name)
    assert found.__module__ == f"shared.{shared._MODULES[name]}"
    assert found.__name__ == name
    assert inspect.getdoc(found)


def test_names_complete() -> None:
    names = dir(shared)
    assert set(shared.__all__) <= set(names)
    assert names == sorted(names)
    found = run_python("import shared; print(*dir(shared))").split()
    assert set(shared.__all__) <= set(found)  # before any is used


def test_type_checkers_see_the_same_table() -> None:
    (block,) = (node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    seen = {
        alias.name: (node.module or "").removeprefix("shared.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == shared._MODULES


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'shared' has no attribute 'verfy'"):
        shared.verfy  # noqa: B018
    from shared import errors  # a module is imported as ever

    assert errors.SpecError is shared.SpecError


def test_importing_takes_the_standard_library_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import shared; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    assert run_python(code) == "['shared']"


def test_using_a_name_imports_no_framework() -> None:
    code = (
        "import sys, shared; [getattr(shared, name) for name in shared.__all__]; "
        "print([name for name in ('torch', 'keras', 'tensorflow', 'jax', 'flax', 'rich', 'typer') "
        "if name in sys.modules])"
    )
    assert run_python(code) == "[]"


@pytest.mark.parametrize("name", CALLED)
def test_the_example_in_a_docstring(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ("verify", "identify", "compare_models"):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)  # some write a file
    found = getattr(shared, name)
    module = importlib.import_module(found.__module__)
    (test,) = doctest.DocTestFinder(recurse=False).find(found, name, globs=dict(vars(module)))
    if name == "read_weights":  # the example of `save_weights` has both
        assert "save_weights" in (found.__doc__ or "")
        return
    assert test.examples, f"{name} has no example"
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.failed == 0
