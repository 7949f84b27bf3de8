"""A real Ptychodus with the plug-in in it, and scans as its own files."""

from __future__ import annotations

import logging

import pytest

from ptychopinn_plugin.files import save_scan
from ptychopinn_plugin.host import attach

PINN, SUPERVISED = 'ptychopinn-plugin_pinn', 'ptychopinn-plugin_supervised'


@pytest.fixture(scope='session', autouse=True)
def no_inotify():
    """Ptychodus never closes the inotify instance of a `ModelCore`; a user has 128 of them."""
    import watchdog.observers
    from watchdog.observers.polling import PollingObserver

    original = watchdog.observers.Observer
    watchdog.observers.Observer = PollingObserver
    yield
    watchdog.observers.Observer = original


@pytest.fixture(scope='session')
def host_folder(tmp_path_factory, small_scan):
    """A folder with diffraction.h5 and product.h5 of the small scan."""
    folder = tmp_path_factory.mktemp('host')
    save_scan(small_scan, folder)
    return folder


@pytest.fixture
def core():
    """A running `ModelCore`, without the GUI."""
    from ptychodus.model import ModelCore

    assert attach()
    with ModelCore(log_level=logging.WARNING) as model:
        yield model


@pytest.fixture
def loaded(core, host_folder):
    """The small scan, opened in the host: (core, handle of the product)."""
    workflow = core.workflow_api
    diffraction = workflow.load_assembled_diffraction_data(host_folder / 'diffraction.h5')
    return core, workflow.load_product(host_folder / 'product.h5', diffraction=diffraction)


def set_value(core, group, key, value):
    """Change a setting of the plug-in as the host's GUI does."""
    core.settings_registry[f'PtychoPINNPlugin{group}'].parameters()[key].set_value(value)
