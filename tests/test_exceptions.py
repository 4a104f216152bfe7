"""Whoever catches `QuantizeError` catches every error that is this library's own."""

import ast
import importlib
from pathlib import Path

import pytest

from quantize import exceptions

PACKAGE = Path(exceptions.__file__).parent

# Exceptions that no caller of the library meets, each with the reason.
INTERNAL = {
    "UnableError": "a store has said that it takes no conditions with its writes; they go on without",
    "StoppedError": "ends the tasks of a run that was told to stop; the caller gets what stopped it",
    "Unfinished": "the command line's own: it becomes a message and an exit code",
}


def defined() -> list[type[BaseException]]:
    """Every exception class that a file of the package defines."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        if path.name == "__main__.py" or not names:
            continue
        module = importlib.import_module(".".join(("quantize", *path.relative_to(PACKAGE).with_suffix("").parts)))
        classes = [getattr(module, name) for name in names if hasattr(module, name)]
        found += [one for one in classes if issubclass(one, BaseException) and not issubclass(one, Warning)]
    return found


@pytest.mark.parametrize("error", defined(), ids=lambda error: error.__name__)
def test_every_error_is_a_quantize_error_or_internal(error: type[BaseException]) -> None:
    assert issubclass(error, exceptions.QuantizeError) != (error.__name__ in INTERNAL)


def test_what_is_called_internal_is_there() -> None:
    assert set(INTERNAL) <= {error.__name__ for error in defined()}


def test_refused_values_are_bad_arguments_too() -> None:
    assert issubclass(exceptions.RefusedValuesError, ValueError)
