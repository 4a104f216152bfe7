"""The settings of a job are the same wherever they are spelled: in signatures, types and the command line."""

import inspect
from dataclasses import MISSING, fields
from typing import Any, Unpack, get_type_hints

import click
import numpy as np
import pytest
from zarr.storage import MemoryStore

from quantize import plan, quantize_part, quantize_to_zarr
from quantize.cli import commands
from quantize.numerics import names
from quantize.numerics.scales import Rule
from quantize.runtime.settings import Settings, SettingsGiven
from quantize.store.codec import OPTIONS

OF_A_RUN = {"overwrite", "verify", "durable", "progress"}  # keyword arguments that are no settings of the job
DEFAULTS = {field.name: field.default for field in fields(Settings)}
VALUES = np.arange(12, dtype=np.float32)


def test_the_signature_and_the_types_are_those_of_the_settings() -> None:
    parameters = inspect.signature(quantize_to_zarr).parameters.values()
    spelled = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in OF_A_RUN}
    assert list(spelled.items()) == list(DEFAULTS.items())
    assert MISSING not in spelled.values()
    hints = get_type_hints(Settings)
    assert get_type_hints(SettingsGiven) == hints
    assert {name: get_type_hints(quantize_to_zarr)[name] for name in hints} == hints
    for function in (plan, quantize_part):
        assert get_type_hints(function)["settings"] == Unpack[SettingsGiven]


@pytest.mark.parametrize("function", [plan, quantize_to_zarr, quantize_part])
def test_the_documentation_names_every_setting(function: Any) -> None:
    text = inspect.getdoc(quantize_to_zarr if function is quantize_part else function) or ""
    said = text.split("Parameters\n---")[1].split("Returns\n---")[0]
    assert [name for name in DEFAULTS if name not in said] == []


@pytest.mark.parametrize("command", [commands.plan, commands.run], ids=lambda command: command.name)
def test_the_options_are_the_settings(command: click.Command) -> None:
    options = {one.name: one for one in command.params}
    given = command.make_context(command.name, ["SRC", "DST"]).params
    assert [name for name in options if name in DEFAULTS] == list(DEFAULTS)
    assert {name: given[name] for name in DEFAULTS} == DEFAULTS
    of_a_run = {"overwrite", "verify", "durable", "strict", "part"} if command is commands.run else set()
    assert set(options) - set(DEFAULTS) == {"source", "store", "as_json", "scheduler", *of_a_run}
    choices = {name: one.type.choices for name, one in options.items() if isinstance(one.type, click.Choice)}
    assert choices == {
        "scale_method": names.SCALE_METHODS,
        "nan_policy": names.NAN_POLICIES,
        "compressors": ("auto", "none", *names.COMPRESSORS),
    }


def test_every_name_is_taken_and_no_other() -> None:
    for method in names.SCALE_METHODS:
        for policy in names.NAN_POLICIES:
            assert Rule.of(method, nan_policy=policy).method.name == method
    assert tuple(OPTIONS) == names.COMPRESSORS
    for arguments in ({"scale_method": "other"}, {"nan_policy": "other"}, {"compressors": "other"}):
        with pytest.raises(ValueError, match="other"):
            plan(VALUES, MemoryStore(), **arguments)  # type: ignore[arg-type]


def call(function: Any, **settings: Any) -> None:
    function(VALUES, MemoryStore(), *((1, 2) if function is quantize_part else ()), **settings)


@pytest.mark.parametrize("function", [plan, quantize_part], ids=lambda function: function.__name__)
@pytest.mark.parametrize(
    ("typo", "nearest"),
    [("chunk", "chunks"), ("scale_metod", "scale_method"), ("compressor", "compressors"), ("nan_polcy", "nan_policy")],
)
def test_a_typo_is_refused_with_the_nearest_setting(function: Any, typo: str, nearest: str) -> None:
    message = f"{function.__name__}() got an unexpected keyword argument '{typo}': did you mean '{nearest}'?"
    with pytest.raises(TypeError) as refusal:
        call(function, **{typo: 1})
    assert str(refusal.value) == message


def test_what_is_near_nothing_is_refused_too_and_a_part_has_more_arguments() -> None:
    for function in (plan, quantize_part):
        with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'zzz'$"):
            call(function, zzz=1)
    with pytest.raises(TypeError, match=r"'verfy': did you mean 'verify'\?"):
        call(quantize_part, verfy=True)
    with pytest.raises(TypeError, match="positional"):
        Settings("data")  # type: ignore[misc]
