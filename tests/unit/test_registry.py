"""The table of back ends: what is missing is said with its pip line, nothing is taken silently."""

from __future__ import annotations

import logging
import sys
import types

import pytest

from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.errors import BackendUnavailableError, ConfigError


@pytest.fixture
def installed(monkeypatch):
    """Return a function that makes only these packages findable."""

    def install(*packages):
        def find(name):
            ours = name.startswith('ptychopinn_plugin.')
            return object() if ours or name in packages else None

        monkeypatch.setattr(registry, 'find_spec', find)

    return install


@pytest.mark.parametrize(
    ('packages', 'ready'),
    [
        ((), []),
        (('torch',), []),  # lightning is needed too
        (('torch', 'lightning'), ['torch']),
        (('tensorflow',), ['tensorflow']),
        (('tensorflow', 'torch', 'lightning'), ['torch', 'tensorflow']),
    ],
)
def test_available(installed, packages, ready):
    installed(*packages)
    assert registry.available() == ready


def test_auto_takes_the_first_ready_and_says_so(installed, caplog):
    installed('tensorflow', 'torch', 'lightning')
    with caplog.at_level(logging.INFO):
        assert registry.resolve('auto') == 'torch'
    assert 'auto: taking torch' in caplog.text
    installed('tensorflow')
    assert registry.resolve('auto') == 'tensorflow'


def test_auto_without_any_names_both_pip_lines(installed):
    installed()
    with pytest.raises(BackendUnavailableError, match='No back end is installed') as caught:
        registry.load('auto')
    assert "pip install 'ptychopinn-plugin[torch]'" in str(caught.value)
    assert "pip install 'ptychopinn-plugin[tensorflow]'" in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'have', 'lacking'),
    [
        ('torch', ('tensorflow',), 'torch, lightning'),
        ('torch', ('torch', 'tensorflow'), 'lightning'),
        ('tensorflow', ('torch', 'lightning'), 'tensorflow'),
    ],
)
def test_a_named_back_end_never_falls_back(installed, name, have, lacking):
    installed(*have)
    with pytest.raises(BackendUnavailableError, match=f'{name} is not installed') as caught:
        registry.load(name)
    assert f'missing {lacking}.' in str(caught.value)
    assert f"Run: pip install 'ptychopinn-plugin[{name}]'" in str(caught.value)
    assert isinstance(caught.value, ImportError)


def test_an_unknown_name():
    with pytest.raises(ConfigError, match=r'auto \| torch \| tensorflow.*Received: jax'):
        registry.load('jax')


def test_load_returns_the_backend_of_the_module(monkeypatch):
    package, module = types.ModuleType('fake'), types.ModuleType('fake.backend')
    package.__spec__ = types.SimpleNamespace(name='fake')
    module.BACKEND = object()
    monkeypatch.setitem(sys.modules, 'fake', package)
    monkeypatch.setitem(sys.modules, 'fake.backend', module)
    entry = registry.Entry('fake.backend', (), 'pip install fake')
    monkeypatch.setattr(registry, 'BACKENDS', {'fake': entry})
    assert registry.load('auto') is module.BACKEND
    assert registry.load('fake') is module.BACKEND


def test_asking_imports_no_framework(monkeypatch):
    monkeypatch.setattr(registry, 'import_module', lambda name: pytest.fail(f'imported {name}'))
    assert set(registry.available()) <= {'torch', 'tensorflow'}
