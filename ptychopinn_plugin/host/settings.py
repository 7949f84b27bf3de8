"""The plug-in's settings in the host's registry, made from the declarations in `config`.

Group `PtychoPINNPluginTraining`, key `LearningRate`, and so on. The host saves them to its INI
file, reads them back and shows them; a run reads them when it starts.
"""

from __future__ import annotations

from dataclasses import Field
from typing import Any, TypeVar

from ptychodus.api.parameters import Parameter, ParameterGroup
from ptychodus.api.settings import SettingsRegistry

from ..config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    Setting,
    TrainingConfig,
    declared,
    from_dict,
)

PREFIX = 'PtychoPINNPlugin'
CONFIGS = (ModelConfig, TrainingConfig, ReconstructionConfig, RuntimeConfig)
# The reconstructor decides the one, the data the other.
DECIDED_ELSEWHERE = ('mode', 'pattern_size_px')

C = TypeVar('C', ModelConfig, TrainingConfig, ReconstructionConfig, RuntimeConfig)


class PluginSettings:
    """One host parameter for every declared setting."""

    def __init__(self, registry: SettingsRegistry) -> None:
        self._parameters: dict[type, dict[str, Parameter[Any]]] = {
            config: _parameters(registry.create_group(group_name(config)), config)
            for config in CONFIGS
        }

    def parameter(self, config: type, name: str) -> Parameter[Any]:
        """Return the host parameter of a setting."""
        return self._parameters[config][name]

    def read(self, config: type[C], **decided: Any) -> C:
        """Return the settings as they are now, with the `decided` fields; raises `ConfigError`."""
        values = {k: p.get_value() for k, p in self._parameters[config].items()}
        return from_dict(config, {**values, **decided})


def group_name(config: type) -> str:
    """Return the section of the host's INI file for a configuration class."""
    return PREFIX + config.__name__.removesuffix('Config')


def key_name(field: str) -> str:
    """Return the key in the host's INI file for a field."""
    return ''.join(word.capitalize() for word in field.split('_'))


def _parameters(group: ParameterGroup, config: type) -> dict[str, Parameter[Any]]:
    return {
        field.name: _create(group, field, s)
        for field, s in declared(config)
        if field.name not in DECIDED_ELSEWHERE
    }


def _create(group: ParameterGroup, field: Field[Any], s: Setting) -> Parameter[Any]:
    name = key_name(field.name)
    value: Any = field.default
    if isinstance(value, bool):
        return group.create_boolean_parameter(name, value)
    if isinstance(value, int):
        low, high = (None if v is None else int(v) for v in (s.low, s.high))
        return group.create_integer_parameter(name, value, minimum=low, maximum=high)
    if isinstance(value, float):
        return group.create_real_parameter(name, value, minimum=s.low, maximum=s.high)
    return group.create_string_parameter(name, value)
