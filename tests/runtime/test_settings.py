"""The settings of a job are the same wherever they are spelled: in signatures, types and the command line."""

import inspect
from dataclasses import MISSING, fields
from typing import Any, Unpack, get_type_hints

import click
import numpy as np
import pytest
from zarr.storage import MemoryStore

from quantize import open_int4, plan, quantize_part, quantize_to_zarr
from quantize.cli import commands
from quantize.numerics import names
from quantize.numerics.scales import Rule
from quantize.runtime.settings import PRESET, Settings, SettingsGiven
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
    by_source = {"name", "nan_policy"}  # what they are by default depends on whether the source is one array
    assert {name: given[name] for name in DEFAULTS} == {**DEFAULTS, **dict.fromkeys(by_source)}
    of_a_run = {"overwrite", "verify", "durable", "strict", "part"} if command is commands.run else set()
    assert set(options) - set(DEFAULTS) == {
        *("source", "store", "as_json", "scheduler"),
        *("select", "keep", "drop", "rules"),
        *of_a_run,
    }
    choices = {name: one.type.choices for name, one in options.items() if isinstance(one.type, click.Choice)}
    assert choices == {
        "preset": names.PRESETS,
        "scale_method": names.SCALE_METHODS,
        "nan_policy": (*names.NAN_POLICIES, "auto"),
        "compressors": ("auto", "none", *names.COMPRESSORS),
    }


def test_every_name_is_taken_and_no_other() -> None:
    for method in names.SCALE_METHODS:
        for policy in names.NAN_POLICIES:
            assert Rule.of(method, nan_policy=policy).method.name == method
    assert tuple(OPTIONS) == names.COMPRESSORS
    assert tuple(PRESET) == names.PRESETS
    for arguments in (
        {"preset": "other"},
        {"scale_method": "other"},
        {"nan_policy": "other"},
        {"compressors": "other"},
    ):
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


# Presets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "shape", "blocks"),
    [
        ("weights", (40,), (32,)),
        ("weights", (3, 40, 64), (1, 1, 32)),
        ("embeddings", (40,), (32,)),
        ("embeddings", (40, 64), (32, 1)),
        ("field", (40,), (32,)),
        ("field", (3, 40, 64), (1, 4, 8)),
    ],
)
def test_a_preset_is_what_it_stands_for(preset: Any, shape: tuple[int, ...], blocks: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    store, plain = MemoryStore(), MemoryStore()
    array = quantize_to_zarr(values, store, preset=preset)
    quantize_to_zarr(values, plain, scale_method="mse", blocks=blocks)
    assert array.metadata.rule.to_json() == open_int4(plain).metadata.rule.to_json()
    assert {key: value.to_bytes() for key, value in store._store_dict.items()} == {
        key: value.to_bytes() for key, value in plain._store_dict.items()
    }
    (note,) = plan(values, MemoryStore(), preset=preset).notes
    assert note.startswith(f"preset {preset} stands for scale_method='mse' and blocks={blocks}: ")


@pytest.mark.parametrize(
    ("given", "method", "axis", "blocks"),
    [
        ({"scale_method": "minmax"}, "minmax", None, (1, 32)),
        ({"axis": 0}, "mse", 0, None),
        ({"blocks": (2, 16)}, "mse", None, (2, 16)),
        ({"axis": 1, "scale_method": "percentile", "percentile": 99}, "percentile", 1, None),
        ({"axis": 0, "scale_method": "absmax"}, "absmax", 0, None),
    ],
)
def test_what_is_given_beside_a_preset_wins(given: Any, method: str, axis: Any, blocks: Any) -> None:
    rule = plan(np.ones((40, 64), np.float32), MemoryStore(), preset="weights", **given).rule
    assert (rule.method.name, rule.granularity.axis, rule.granularity.blocks) == (method, axis, blocks)


def test_a_range_beside_a_preset_is_refused() -> None:
    for given in ({"value_range": (0, 1)}, {"percentile": 99.0}):
        with pytest.raises(ValueError, match=f"preset='field' stands for scale_method='mse'.*{next(iter(given))} says"):
            plan(VALUES, MemoryStore(), preset="field", **given)  # type: ignore[arg-type]
