"""The shipped contracts over our library, and over somebody else's reconstructor."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path

import pytest
from ptychodus.api.settings import SettingsRegistry
from ptychodus.api.simulate.diffraction import generate_diffraction_data

from ptychopinn_plugin.config import ModelConfig, ReconstructionConfig, TrainingConfig
from ptychopinn_plugin.host import attach
from ptychopinn_plugin.host.attachment import library_of
from ptychopinn_plugin.host.library import PluginLibrary
from ptychopinn_plugin.testing import (
    EXAMPLES,
    HostContract,
    ReconstructorContract,
    ReconstructorLibraryContract,
    TrainableReconstructorContract,
)

from .conftest import PINN
from .epie import Epie, EpieLibrary

EPIE_FILE = Path(__file__).with_name('epie.py')


class EpieContract(TrainableReconstructorContract):
    logger_name = 'epie'
    kind = Epie

    def make_reconstructor(self):
        return self.kind()


class TestEpie(EpieContract):
    """The suite serves others."""


@pytest.mark.parametrize('kind', list(EXAMPLES))
def test_the_examples_are_what_the_host_would_simulate(kind):
    """The host's own forward model explains the patterns to the Poisson noise."""
    example = EXAMPLES[kind]()
    counts, mask = example.parameters.diffraction_patterns, example.parameters.bad_pixels
    expected = generate_diffraction_data(example.solved().product).get_patterns()
    counts, expected = counts[:, ~mask], expected[:, ~mask]
    expected = expected * (counts.sum() / expected.sum())
    bright = expected > 1
    noise = ((counts - expected)[bright] ** 2 / expected[bright]).mean()
    assert 0.95 < noise < 1.05
    assert EXAMPLES[kind]().truth.tolist() == example.truth.tolist()


class TestEpieLibrary(ReconstructorLibraryContract):
    library_code = f"""
import sys
sys.path.insert(0, {str(EPIE_FILE.parent)!r})
from epie import EpieLibrary
EpieLibrary()
"""

    def make_library(self):
        return EpieLibrary()


class EpieHostContract(HostContract):
    algorithm = 'toys_epie'
    kind = Epie

    @contextmanager
    def open_core(self):
        from ptychodus.model import ModelCore

        with ModelCore(log_level=logging.WARNING) as core:
            # A library of one's own has its way in; here only the suite is tested.
            algorithms = core.processing_core.processing_api._algorithm_parameter
            made = self.kind()
            made.step = 0.7
            algorithms._reconstructor_map[self.algorithm] = made
            yield core


class TestEpieInTheHost(EpieHostContract):
    """A foreign algorithm in a running Ptychodus."""


class TestLibrary(ReconstructorLibraryContract):
    library_code = """
from ptychodus.api.settings import SettingsRegistry
from ptychodus.api.simulate.diffraction import generate_diffraction_data
from ptychopinn_plugin.host.library import PluginLibrary
PluginLibrary(SettingsRegistry())
"""

    def make_library(self):
        return PluginLibrary(SettingsRegistry())


def ours(name, start, *, sweeps=5):
    """Return our reconstructor of a name in a library of its own, with a short training."""
    library = PluginLibrary(SettingsRegistry())
    settings = library.settings
    settings.parameter(ReconstructionConfig, 'start').set_value(start)
    settings.parameter(ModelConfig, 'architecture').set_value('autoencoder')
    settings.parameter(ReconstructionConfig, 'sweeps').set_value(sweeps)
    settings.parameter(TrainingConfig, 'epochs').set_value(2)
    return next(r for r in library if r.name == name)


class OurContract(TrainableReconstructorContract):
    logger_name = 'ptychopinn_plugin'
    mode = 'PINN'

    def make_reconstructor(self):
        return ours(self.mode, 'network')


class TestPinnOnTorch(OurContract):
    """The real thing on a tiny scan."""


class SupervisedContract(OurContract):
    mode = 'Supervised'


class FlatContract(ReconstructorContract):
    logger_name = 'ptychopinn_plugin'

    def make_reconstructor(self):
        return ours('PINN', 'flat', sweeps=10)


def clause_of(contract, name):
    """Return the test method of a clause."""
    (found,) = (m for m in dir(contract) if m.startswith(f'test_{name}_'))
    return getattr(contract, found)


@pytest.mark.parametrize('clause', ['tc7', 'tc8', 'tc9', 'rc7', 'rc16'])
def test_supervised_on_torch(clause):
    """The modes differ in what is trained alone."""
    clause_of(SupervisedContract(), clause)()


@pytest.mark.parametrize('clause', ['rc4', 'rc7', 'rc16'])
def test_flat_start_on_torch(clause):
    clause_of(FlatContract(), clause)()


@pytest.mark.usefixtures('toy_child')
class TestPinnOnToy(OurContract):
    claims_quality = False


@pytest.mark.usefixtures('toy_child')
class TestSupervisedOnToy(SupervisedContract):
    """From a flat object where there is no model."""

    claims_quality = False
    needs_model = False

    def make_reconstructor(self):
        return ours(self.mode, 'auto')


@pytest.mark.usefixtures('toy_child')
class TestPinnInTheHost(HostContract):
    algorithm = PINN

    def open_core(self):
        assert attach()
        return super().open_core()

    def reconstructor_in(self, core):
        return next(iter(library_of(core.processing_core.processing_api)))
