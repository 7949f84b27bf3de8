"""Settings: every field declared fully, checked on construction, unknown names refused."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from ptychopinn_plugin.config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
    declared,
    from_dict,
    to_dict,
    without_effect,
)
from ptychopinn_plugin.errors import ConfigError

CONFIGS = (ModelConfig, TrainingConfig, ReconstructionConfig, RuntimeConfig)
FIELDS = [(cls, f, s) for cls in CONFIGS for f, s in declared(cls)]
NUMBERS = [(cls, f, s) for cls, f, s in FIELDS if type(f.default) in (int, float)]


@pytest.mark.parametrize(('cls', 'field', 'setting'), FIELDS)
def test_every_field_tells_an_interface_what_it_needs(cls, field, setting):
    assert setting.label
    assert setting.help.endswith('.')
    if type(field.default) in (int, float):
        assert setting.low is not None
        assert setting.high is not None
    if type(field.default) is str:
        assert field.default in setting.choices


@pytest.mark.parametrize(('cls', 'field', 'setting'), NUMBERS)
def test_ranges_are_inclusive_and_enforced(cls, field, setting):
    kind = type(field.default)
    for edge in (setting.low, setting.high):
        assert getattr(cls(**{field.name: kind(edge)}), field.name) == edge
    for outside in (setting.low - 2, setting.high + 2):
        with pytest.raises(
            ConfigError, match=f'{field.name} is out of range. Expected .* Received'
        ):
            cls(**{field.name: kind(outside)})


@pytest.mark.parametrize(('cls', 'field', 'setting'), FIELDS)
@pytest.mark.parametrize('value', [None, [1], b'1', 1j])
def test_wrong_types_are_refused(cls, field, setting, value):
    with pytest.raises(ConfigError, match=f'{field.name} has the wrong type'):
        cls(**{field.name: value})


def test_settings_for_one_architecture_say_so():
    only = {f.name: s for _, f, s in FIELDS if s.architecture}
    assert set(only) == {'gridsize', 'n_filters_scale', 'probe_big', 'loss'}
    for s in only.values():
        assert s.help.startswith(f'Only for the {s.architecture}')


def test_settings_without_effect_are_those_given_for_another_architecture():
    given = {'gridsize': 2, 'n_filters_scale': 1, 'probe_big': False, 'mode': 'supervised'}
    training = TrainingConfig(epochs=3, loss='amplitude')
    found = without_effect(ModelConfig(**given), training)
    assert found == 'gridsize=2, n_filters_scale=1, probe_big=False, loss=amplitude'
    assert without_effect(ModelConfig('autoencoder', **given), training) == 'loss=amplitude'
    given['mode'] = 'pinn'
    assert without_effect(ModelConfig('autoencoder', **given), training) == ''
    assert without_effect(ModelConfig(), TrainingConfig(epochs=3, seed=1)) == ''


def test_a_bool_is_no_number_and_a_number_no_bool():
    with pytest.raises(ConfigError, match=r'epochs has the wrong type\. Expected int'):
        TrainingConfig(epochs=True)
    with pytest.raises(ConfigError, match=r'probe_big has the wrong type\. Expected bool'):
        ModelConfig(architecture='autoencoder', probe_big=1)


def test_an_integer_serves_as_a_float():
    value = TrainingConfig(gradient_clip=2).gradient_clip
    assert type(value) is float
    assert value == 2.0


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 10**400])
def test_floats_without_a_usable_value(value):
    with pytest.raises(ConfigError, match='learning_rate is out of range'):
        TrainingConfig(learning_rate=value)


def test_an_unknown_choice_names_the_choices():
    with pytest.raises(ConfigError, match=r'auto \| torch \| tensorflow.*backend=.jax'):
        RuntimeConfig(backend='jax')


def test_an_odd_pattern_size():
    with pytest.raises(ConfigError, match='pattern_size_px is odd'):
        ModelConfig(architecture='autoencoder', pattern_size_px=65)


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        TrainingConfig().epochs = 3


@pytest.mark.parametrize('cls', CONFIGS)
def test_dictionaries_go_there_and_back(cls):
    name = fields(cls)[0].name
    config = replace(cls(), seed=7) if hasattr(cls(), 'seed') else cls()
    values = json.loads(json.dumps(to_dict(config)))
    assert name in values
    assert from_dict(cls, values) == config
    assert from_dict(cls, {}) == cls()


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r'Unknown settings for RuntimeConfig.*Received: a, z'):
        from_dict(RuntimeConfig, {'z': 1, 'a': 2, 'device': 'cpu'})


def test_a_wrong_value_from_a_dictionary():
    with pytest.raises(ConfigError, match='epochs has the wrong type'):
        from_dict(TrainingConfig, {'epochs': '5'})


@pytest.mark.parametrize(
    ('cls', 'field', 'setting'), [p for p in NUMBERS if type(p[1].default) is float]
)
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_no_float_is_without_a_value(cls, field, setting, value):
    with pytest.raises(ConfigError, match=f'{field.name} is out of range'):
        cls(**{field.name: value})


@pytest.mark.parametrize(('cls', 'field', 'setting'), [p for p in FIELDS if p[2].choices])
def test_every_choice_passes_and_no_other_word(cls, field, setting):
    for choice in setting.choices:
        assert getattr(cls(**{field.name: choice}), field.name) == choice
    for other in ('', 'other', setting.choices[0].upper()):
        with pytest.raises(ConfigError, match=f'{field.name} is not one of its choices'):
            cls(**{field.name: other})
