"""Which back ends there are, what is missing and what to type; asked without importing a framework."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.errors import BackendUnavailableError, ConfigError

PACKAGES = {'torch': {'torch', 'lightning'}, 'tensorflow': {'tensorflow'}}
SOURCES = Path(registry.__file__).parent


@pytest.fixture
def installed(monkeypatch):
    """Return a function that lets only the given packages be found."""

    def only(*names):
        found = {*names, 'ptychopinn_plugin.backends.torch', 'ptychopinn_plugin.backends.tensorflow'}
        monkeypatch.setattr(registry, 'find_spec', lambda name: object() if name in found else None)

    return only


@pytest.mark.parametrize('name', list(PACKAGES))
def test_missing_framework_is_an_error_with_the_pip_line(installed, name):
    installed()
    with pytest.raises(BackendUnavailableError) as caught:
        registry.load(name)
    text = str(caught.value)
    assert text.startswith(f'Back end {name} is not installed. Expected packages ')
    assert all(package in text for package in PACKAGES[name])
    assert text.endswith(f"Run: pip install 'ptychopinn-plugin[{name}]'.")
    assert isinstance(caught.value, ImportError)


def test_a_named_back_end_never_falls_back_to_the_other(installed):
    installed('torch', 'lightning')
    with pytest.raises(BackendUnavailableError, match='tensorflow is not installed'):
        registry.load('tensorflow')


def test_half_a_framework_names_only_the_missing_half(installed):
    installed('torch')
    assert registry.missing('torch') == ['lightning']
    with pytest.raises(BackendUnavailableError, match=r'Received: missing lightning\.'):
        registry.load('torch')


def test_auto_takes_torch_first_and_says_so(installed, caplog):
    installed('torch', 'lightning', 'tensorflow')
    assert registry.available() == ['torch', 'tensorflow']
    with caplog.at_level(logging.INFO):
        assert registry.resolve('auto') == 'torch'
    assert 'Back end auto: taking torch' in caplog.text


def test_auto_takes_tensorflow_when_it_is_alone(installed):
    installed('tensorflow')
    assert registry.resolve('auto') == 'tensorflow'


def test_auto_without_any_names_both_pip_lines(installed):
    installed()
    with pytest.raises(BackendUnavailableError, match='No back end is installed') as caught:
        registry.load('auto')
    for name in PACKAGES:
        assert f"pip install 'ptychopinn-plugin[{name}]'" in str(caught.value)


def test_unknown_name_lists_the_choices():
    with pytest.raises(ConfigError, match=r'Unknown back end\. Expected auto \| torch \| tensorflow'):
        registry.load('jax')


def test_loads_late_and_returns_the_registered_object(toy):
    assert registry.load('toy') is toy
    assert registry.load('auto') is toy


@pytest.mark.parametrize('name', list(PACKAGES))
def test_the_extra_of_the_pip_line_exists(name):
    entry = registry.BACKENDS[name]
    assert entry.module == f'ptychopinn_plugin.backends.{name}.backend'
    pyproject = (SOURCES.parents[1] / 'pyproject.toml').read_text()
    extra = next(line for line in pyproject.splitlines() if line.startswith(f'{name} = ['))
    assert all(f'"{package}>=' in extra for package in entry.packages)
