"""A small scan for everybody, and a back end of NumPy alone that drives pipeline and command line
in seconds.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_backend

from ptychopinn_plugin import reference
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.geometry import windows
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.worker import client

TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / 'shared'


def seen_through(scan, object_):
    """The scan as it were of another object (H, W): its counts drawn anew."""
    at, probe = windows(scan), normalised_probe(scan)
    patches = reference.extract(object_, at.corner_px, scan.side_px)
    expected = reference.diffract(patches, reference.shift_probe(probe, at.shift_px))
    counts = np.random.default_rng(1).poisson(expected).astype(np.uint32)
    return replace(scan, counts=counts, true_object=object_.astype(np.complex64))


def fluctuating(scan, by, seed=0):
    """The scan as a beam of which a share is lost now and then would have seen it, and the beam's
    relative intensities (M,): `by` is the standard deviation of their logarithm.
    """
    rng = np.random.default_rng(seed)
    share = np.exp(rng.normal(0, by, len(scan)))
    share /= share.max()
    counts = rng.binomial(scan.counts.astype(np.int64), share[:, None, None])
    return replace(scan, counts=counts.astype(np.uint32)), share / np.exp(np.log(share).mean())


def counting(refine):
    """Return `refine` and the list of how many of its sweeps were in memory after each of them."""
    sweeps, counts = weakref.WeakSet(), []

    def counted(*args):
        for sweep in refine(*args):
            sweeps.add(sweep)
            counts.append(len(sweeps))
            yield sweep

    return counted, counts


@pytest.fixture
def toy(monkeypatch):
    """Register the toy back end as the one that `auto` takes."""
    backend = toy_backend.ToyBackend()
    monkeypatch.setattr(registry, 'BACKENDS', {'toy': toy_backend.entry(backend)})
    yield backend
    for name in ('toy_package', 'toy_package.backend'):
        sys.modules.pop(name)


@pytest.fixture
def toy_child(monkeypatch):
    """Let child processes compute with the toy back end."""
    command = (sys.executable, str(TESTS / 'toy_child.py'))
    monkeypatch.setattr(client, 'COMMAND', command)


@pytest.fixture(scope='session')
def small_scan():
    """120 patterns of 32x32 on a small object, 1e6 photons per frame."""
    return simulate_scan(
        Simulation(pattern_size_px=32, object_size_px=90, patterns=120, specimen='leaves', seed=3)
    )


@contextmanager
def room(size_bytes):
    """Let no file grow beyond a size, as on a disk that is full."""
    resource = pytest.importorskip('resource')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
