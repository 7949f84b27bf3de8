"""Every setting: its default passes, anything else that it cannot be is refused with its name and its range."""

from __future__ import annotations

import json
from dataclasses import MISSING, FrozenInstanceError, fields
from math import inf, nan

import pytest

from ptychopinn_plugin.config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
    declared,
    from_dict,
    to_dict,
)
from ptychopinn_plugin.errors import ConfigError

CONFIGS = (ModelConfig, TrainingConfig, ReconstructionConfig, RuntimeConfig)
FIELDS = [pytest.param(c, f, s, id=f'{c.__name__}.{f.name}') for c in CONFIGS for f, s in declared(c)]
NUMBERS = [p for p in FIELDS if p.values[2].low is not None]
CHOICES = [p for p in FIELDS if p.values[2].choices]


def refusal(cls, name, value):
    with pytest.raises(ConfigError) as caught:
        cls(**{name: value})
    return str(caught.value)


@pytest.mark.parametrize('cls', CONFIGS)
def test_defaults_pass_and_cannot_be_changed(cls):
    config = cls()
    with pytest.raises(FrozenInstanceError):
        setattr(config, fields(cls)[0].name, fields(cls)[0].default)


@pytest.mark.parametrize(('cls', 'field', 'setting'), FIELDS)
def test_every_field_is_declared_for_a_person(cls, field, setting):
    assert field.default is not MISSING
    assert setting.label
    assert setting.help.endswith('.')
    kind = type(field.default)
    assert kind in (bool, int, float, str)
    assert (setting.low is not None and setting.high is not None) == (kind in (int, float))
    assert bool(setting.choices) == (kind is str)


@pytest.mark.parametrize(('cls', 'field', 'setting'), FIELDS)
def test_a_wrong_type_is_refused(cls, field, setting):
    kind = type(field.default)
    wrong = {bool: [1, 'yes', None], str: [1, None, True], int: [1.0, '1', None, True],
             float: ['1', None, True, 1j]}[kind]  # fmt: skip
    for value in wrong:
        text = refusal(cls, field.name, value)
        assert text.startswith(f'{field.name} has the wrong type. Expected {kind.__name__}.')
        assert f'Received: {field.name}={value!r}' in text


@pytest.mark.parametrize(('cls', 'field', 'setting'), NUMBERS)
def test_the_ends_of_a_range_pass_and_what_lies_beyond_does_not(cls, field, setting):
    kind = type(field.default)
    beyond = [setting.low - 1, setting.high + 1]
    if kind is float:
        beyond += [nan, inf, -inf]
    for end in (setting.low, setting.high):
        assert getattr(cls(**{field.name: kind(end)}), field.name) == end
    for value in beyond:
        text = refusal(cls, field.name, kind(value))
        assert text.startswith(f'{field.name} is out of range. Expected {setting.low} <= ')
        assert f'{field.name}={kind(value)!r}' in text


@pytest.mark.parametrize(('cls', 'field', 'setting'), CHOICES)
def test_every_choice_passes_and_no_other_word(cls, field, setting):
    for choice in setting.choices:
        assert getattr(cls(**{field.name: choice}), field.name) == choice
    for other in ('', 'other', setting.choices[0].upper()):
        text = refusal(cls, field.name, other)
        assert text.startswith(f'{field.name} is not one of its choices.')
        assert all(choice in text for choice in setting.choices)


def test_whole_numbers_are_floats_where_a_float_is_meant():
    value = TrainingConfig(learning_rate=1).learning_rate
    assert value == 1.0
    assert type(value) is float


def test_an_odd_pattern_size_is_refused():
    assert refusal(ModelConfig, 'pattern_size_px', 65) == (
        'pattern_size_px is odd. Expected an even number. Received: pattern_size_px=65.'
    )


@pytest.mark.parametrize('cls', CONFIGS)
def test_through_json_and_back(cls):
    values = {}
    for field, setting in declared(cls):
        if setting.choices:
            values[field.name] = setting.choices[-1]
        elif setting.low is not None:
            values[field.name] = type(field.default)(setting.high)
        else:
            values[field.name] = not field.default
    config = cls(**values)
    assert config != cls()
    assert from_dict(cls, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize('cls', CONFIGS)
def test_unknown_names_are_refused_and_missing_ones_take_defaults(cls):
    assert from_dict(cls, {}) == cls()
    with pytest.raises(ConfigError) as caught:
        from_dict(cls, {'sedd': 1, 'banana': 2})
    text = str(caught.value)
    assert text.startswith(f'Unknown settings for {cls.__name__}. Expected ')
    assert text.endswith('Received: banana, sedd.')


def test_flags_of_one_command_do_not_collide():
    flags = [
        setting.flag or field.name
        for cls in (ReconstructionConfig, RuntimeConfig, ModelConfig, TrainingConfig)
        for field, setting in declared(cls)
    ]
    assert len(set(flags)) == len(flags)
