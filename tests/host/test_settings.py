"""Every declared setting in the host's registry and INI file, and the library around them. ST-."""

from __future__ import annotations

import configparser

import pytest
from ptychodus.api.settings import SettingsRegistry

from ptychopinn_plugin.config import RuntimeConfig, TrainingConfig, declared
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.host import PluginLibrary
from ptychopinn_plugin.host.settings import (
    CONFIGS,
    DECIDED_ELSEWHERE,
    PluginSettings,
    group_name,
    key_name,
)

BUILT_IN = {'pty-chi', 'ptychonn', 'ptychopinn', 'ptychopinn-torch', 'ptychofm', 'ptycho-fm'}


def other_value(field, setting):
    """Return a legal value that is not the default."""
    if isinstance(field.default, bool):
        return not field.default
    if setting.choices:
        return next((c for c in setting.choices if c != field.default), field.default)
    if isinstance(field.default, int):
        return field.default + 1 if field.default + 1 <= setting.high else field.default - 1
    return field.default / 2


def test_every_declared_setting_is_there_with_its_default_and_range():
    registry = SettingsRegistry()
    PluginSettings(registry)
    for config in CONFIGS:
        parameters = registry[group_name(config)].parameters()
        wanted = {key_name(f.name): (f, s) for f, s in declared(config)
                  if f.name not in DECIDED_ELSEWHERE}  # fmt: skip
        assert set(parameters) == set(wanted)
        for key, (field, setting) in wanted.items():
            assert parameters[key].get_value() == field.default
            if type(field.default) in (int, float):
                assert parameters[key].get_minimum() == setting.low
                assert parameters[key].get_maximum() == setting.high


def test_names_in_the_file_are_those_of_the_specification():
    assert group_name(TrainingConfig) == 'PtychoPINNPluginTraining'
    assert key_name('n_filters_scale') == 'NFiltersScale'
    assert key_name('epochs') == 'Epochs'


def test_settings_go_through_the_hosts_ini_file(tmp_path):
    registry = SettingsRegistry()
    settings = PluginSettings(registry)
    changed = {}
    for config in CONFIGS:
        for field, setting in declared(config):
            if field.name not in DECIDED_ELSEWHERE:
                changed[config, field.name] = other_value(field, setting)
                settings.parameter(config, field.name).set_value(changed[config, field.name])
    registry.save_settings(tmp_path / 'settings.ini')
    again = SettingsRegistry()
    back = PluginSettings(again)
    again.open_settings(tmp_path / 'settings.ini')
    for (config, name), value in changed.items():
        assert back.parameter(config, name).get_value() == value
    for config in CONFIGS:
        read = back.read(config)
        for (owner, name), value in changed.items():
            if owner is config:
                assert getattr(read, name) == pytest.approx(value)


def test_a_file_of_another_ptychodus_keeps_the_defaults(tmp_path):
    (tmp_path / 'settings.ini').write_text('[Processing]\nAlgorithm = none_none\n')
    registry = SettingsRegistry()
    settings = PluginSettings(registry)
    registry.open_settings(tmp_path / 'settings.ini')
    assert settings.read(TrainingConfig) == TrainingConfig()


def test_a_choice_that_is_none_is_refused_when_it_is_read(tmp_path):
    (tmp_path / 'settings.ini').write_text('[PtychoPINNPluginRuntime]\nBackend = jax\n')
    registry = SettingsRegistry()
    settings = PluginSettings(registry)
    registry.open_settings(tmp_path / 'settings.ini')
    with pytest.raises(ConfigError, match=r'auto \| torch \| tensorflow.*jax'):
        settings.read(RuntimeConfig)


def test_saved_files_are_plain_ini(tmp_path):
    registry = SettingsRegistry()
    PluginSettings(registry)
    registry.save_settings(tmp_path / 'settings.ini')
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(tmp_path / 'settings.ini')
    assert parser['PtychoPINNPluginRuntime']['backend'] == 'auto'
    assert parser['PtychoPINNPluginReconstruction']['UpdateProbe'] == 'False'


def test_the_library_has_a_name_of_its_own_and_two_reconstructors():
    library = PluginLibrary(SettingsRegistry())
    assert '_' not in library.name
    assert library.name.casefold() not in BUILT_IN
    assert [r.name for r in library] == ['PINN', 'Supervised']
    assert [r.mode for r in library] == ['pinn', 'supervised']
    assert library.get_logger().name == 'ptychopinn_plugin'


def test_the_model_line_says_what_is_loaded(tmp_path):
    from dataclasses import replace

    import numpy as np

    from ptychopinn_plugin import pretrained
    from ptychopinn_plugin.archive import save_model
    from ptychopinn_plugin.backends.base import Model
    from ptychopinn_plugin.config import ModelConfig
    from ptychopinn_plugin.host.model_card import ModelCard
    from ptychopinn_plugin.network_weights import weight_shapes

    card = ModelCard()
    assert card.summary() == 'No model is loaded.'
    config = replace(ModelConfig(), architecture='autoencoder', pattern_size_px=32)
    weights = {k: np.zeros(s, np.float32) for k, s in weight_shapes(config).items()}
    scans = ['a', 'b', 'c', 'd']
    model = Model(config, weights, TrainingConfig(), (), 'torch', {'scans': scans})
    save_model(model, tmp_path / 'model.h5.zip')
    card.read(tmp_path / 'model.h5.zip')
    assert card.summary().startswith(
        'autoencoder, pinn, N=32, gridsize 1; 0 epochs with torch on a, b, c and 1 more, 20'
    )
    card.read(pretrained.FILE)
    assert card.summary().startswith('unrolled, supervised; 0 epochs with torch')
