"""Probes moved by sums of waves: the oracle moves every one by the shift theorem."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptychopinn_plugin import reference
from ptychopinn_plugin.shifted_probe import LARGEST_DEGREE, TOLERANCE, ShiftedProbe
from ptychopinn_plugin.simulate import probes

KINDS = ('zone-plate', 'airy', 'gaussian')
HALF = st.floats(-0.5, 0.5, width=32)


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def probe(kind='airy', side=32, modes=2):
    return probes.make_probe(kind, side, modes).astype(np.complex64)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('side', [32, 33])
@given(y=HALF, x=HALF)
def test_moves_as_the_shift_theorem(kind, side, y, x):
    given_, shift = probe(kind, side), np.array([[y, x], [-x, y]], np.float32)
    made = ShiftedProbe(given_)
    found = made.moved(made.coefficients(shift))
    # The mean shift of the frequency -1/2 has no sign of its own; the oracle gives it one.
    assert distance(found, reference.shift_probe(given_, shift)) < 3 * TOLERANCE


def test_is_as_exact_as_it_says_in_the_corner():
    corners = np.array([[0.5, 0.5], [0.5, -0.5], [-0.5, 0.5], [-0.5, -0.5]], np.float32)
    for kind in KINDS:
        given_ = probe(kind, 64, 1)
        made = ShiftedProbe(given_)
        found = made.moved(made.coefficients(corners))
        assert distance(found, reference.shift_probe(given_, corners)) < 1.5 * TOLERANCE


def test_a_finer_probe_takes_more_waves():
    rng = np.random.default_rng(1)
    rough = rng.normal(size=(1, 32, 32)) + 1j * rng.normal(size=(1, 32, 32))
    assert ShiftedProbe(probe(modes=1)).degree < ShiftedProbe(rough).degree <= LARGEST_DEGREE


@pytest.mark.parametrize('signed', [False, True])
def test_gathering_is_the_adjoint_of_moving(signed):
    rng = np.random.default_rng(2)
    given_ = probe()
    made = ShiftedProbe(given_, signed=signed)
    coefficients = made.coefficients(rng.uniform(-0.5, 0.5, (5, 2)).astype(np.float32))
    shape = (5, *given_.shape)
    waves = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    a = np.vdot(waves, made.moved(coefficients))
    b = np.vdot(made.gathered(coefficients, waves), given_)
    assert abs(a - b) < 1e-4 * np.linalg.norm(waves) * np.linalg.norm(given_)


def test_signs_multiply_what_is_moved():
    sign = (-1) ** np.indices((32, 32)).sum(0)
    plain, signed = ShiftedProbe(probe()), ShiftedProbe(probe(), signed=True)
    coefficients = plain.coefficients(np.array([[0.3, -0.1]], np.float32))
    assert distance(signed.moved(coefficients), sign * plain.moved(coefficients)) < 1e-5


def test_another_probe_takes_its_place():
    made = ShiftedProbe(probe())
    made.replace(probe()[::-1])
    shift = np.array([[0.2, 0.4]], np.float32)
    found = made.moved(made.coefficients(shift))
    assert distance(found, reference.shift_probe(probe()[::-1], shift)) < 3 * TOLERANCE
