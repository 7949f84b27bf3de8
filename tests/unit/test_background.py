"""Counts that are no diffraction, against as many as were put there."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ptychopinn_plugin import learned_background, starts
from ptychopinn_plugin.background import background_of, with_background
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.far_field import predict
from ptychopinn_plugin.host_step import HostStep
from ptychopinn_plugin.learned_background import POWERS, learned
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.result import ObjectImage, Sweep
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.sweeper import refine
from ptychopinn_plugin.transforms import PLAIN

from ..conftest import seen_through


def made(specimen='photographs', probe='zone-plate', **settings):
    given = {'patterns': 300, 'object_size_px': 150, 'seed': 8, **settings}
    return simulate_scan(Simulation(specimen=specimen, probe=probe, **given))


def spoiled(scan, counts):
    """The scan with so many counts more in every pixel."""
    more = np.random.default_rng(4).poisson(counts, scan.counts.shape)
    return replace(scan, counts=(scan.counts + more).astype(np.uint32))


@pytest.mark.parametrize('specimen', ['photographs', 'lines', 'leaves', 'field'])
@pytest.mark.parametrize('probe', ['zone-plate', 'airy', 'gaussian'])
@pytest.mark.parametrize('settings', [{}, {'photons_per_frame': 2e4}, {'modes': 3}])
def test_a_clean_scan_has_none(specimen, probe, settings):
    scan = made(specimen, probe, **settings)
    assert background_of(scan) == 0
    assert with_background(scan) is scan


def test_nor_has_one_without_a_specimen():
    """Nothing varies there but photons."""
    scan = made()
    assert background_of(seen_through(scan, np.ones(scan.frame.shape))) == 0


def test_nor_one_whose_counts_are_scaled():
    scan = made()
    assert background_of(replace(scan, counts=scan.counts * np.uint32(30))) == 0


def test_nor_one_of_few_patterns():
    assert background_of(spoiled(made().take(np.arange(12)), 10)) == 0


@pytest.mark.parametrize('specimen', ['photographs', 'lines', 'leaves'])
@pytest.mark.parametrize('probe', ['zone-plate', 'airy', 'gaussian'])
@pytest.mark.parametrize(('photons', 'counts'), [(1e6, 10.0), (1e6, 30.0), (3e4, 0.7)])
def test_a_background_is_found(specimen, probe, photons, counts):
    scan = made(specimen, probe, photons_per_frame=photons)
    assert 0.75 * counts < background_of(spoiled(scan, counts)) < 1.05 * counts


def test_bad_pixels_are_not_looked_at():
    bad = np.zeros((64, 64), bool)
    bad[:10], bad[:, 31:33] = True, True
    scan = spoiled(replace(made(), bad_pixels=bad), 10.0)
    counts = scan.counts.copy()
    counts[:, bad] = 0
    assert 7.5 < background_of(replace(scan, counts=counts)) < 10.5


def test_the_beam_is_as_bright_as_without():
    scan = made()
    told = with_background(spoiled(scan, 20.0))
    assert told.background > 15
    np.testing.assert_allclose(told.signal.mean(), scan.totals.mean(), rtol=0.03)
    np.testing.assert_allclose(
        np.abs(normalised_probe(told)), np.abs(normalised_probe(scan)), rtol=0.03, atol=1e-3
    )


@pytest.mark.parametrize('settings', [{}, {'update_probe': True}, {'correct_positions': True}])
def test_the_picture_is_worth_it(settings):
    scan = made()
    dirty = spoiled(scan, 10.0)
    found = []
    for seen in (dirty, with_background(dirty)):
        start, probe = starts.best_start(seen).image, normalised_probe(seen)
        config = ReconstructionConfig(sweeps=10, **settings)
        *_, last = refine(seen, start, probe, config, lambda s: HostStep(s, PLAIN))
        found.append(compare(last.image.object, scan.true_object, last.image.weight).phase_mae_rad)
    without, with_it = found
    assert with_it < 0.5 * without


def test_predicted_patterns_have_it():
    scan = made()
    told = with_background(spoiled(scan, 20.0))
    image = ObjectImage(scan.true_object, np.ones(scan.frame.shape, np.float32))
    rows, probe = np.arange(40), told.probe
    error, pattern = predict(PLAIN, told, image, probe, rows)
    assert error < 0.7 * predict(PLAIN, replace(told, background=0.0), image, probe, rows)[0]
    assert pattern(3).min() >= 0.99 * told.background
    assert pattern(3).sum() == pytest.approx(told.totals[3], rel=0.05)


def sweeps(scan, start, probe, config, *_):
    return refine(scan, start, probe, config, lambda s: HostStep(s, PLAIN))


def taught(scan, start, refine=sweeps, **settings):
    config = ReconstructionConfig(sweeps=10, **settings)
    return learned(scan, start, config, RuntimeConfig(), SimpleNamespace(refine=refine))


def begun(scan):
    return Sweep(
        0, 10, starts.best_start(scan).image, normalised_probe(scan), 1.0, scan.positions_px,
        background=scan.background,
    )  # fmt: skip


def uneven(scan, share):
    """The scan with so many counts more, most of them in the middle."""
    x = np.arange(scan.side_px) - scan.side_px // 2
    shape = 1 / (1 + (np.hypot(x[:, None], x) / (scan.side_px / 6)) ** 2)
    return spoiled(scan, share * scan.totals.mean() * shape / shape.sum())


def phase_error(scan, start):
    *_, last = sweeps(scan, start.image, start.probe, ReconstructionConfig(sweeps=10))
    return compare(last.image.object, scan.true_object, last.image.weight).phase_mae_rad


@pytest.mark.parametrize('settings', [{}, {'update_probe': True}, {'correct_positions': True}])
@pytest.mark.parametrize('first', [0.4, 1.6])
def test_how_much_there_is_is_learned(first, settings):
    scan = learned_background.told(spoiled(made(), 10.0), first * 10.0)
    found, start = taught(scan, begun(scan), **settings)
    assert found.background == pytest.approx(10.0, rel=0.12)
    assert found.counts is scan.counts
    np.testing.assert_allclose(start.probe, normalised_probe(found), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(('specimen', 'photons'), [('leaves', 1e5), ('lines', 1e6)])
def test_an_uneven_one_costs_less_when_it_is_learned(specimen, photons):
    scan = with_background(uneven(made(specimen, 'airy', photons_per_frame=photons), 0.04))
    assert scan.background
    start = begun(scan)
    found = taught(scan, start)
    assert phase_error(*found) < 0.8 * phase_error(scan, start)


def test_a_part_around_the_middle_teaches(monkeypatch):
    monkeypatch.setattr(learned_background, 'SEEN', 100 * 64**2)
    scan, seen = with_background(spoiled(made(), 10.0)), []

    def watched(part, *given):
        seen.append(part)
        yield from sweeps(part, *given)

    found, _ = taught(scan, begun(scan), watched)
    assert [len(part) for part in seen] == [100] * len(POWERS)
    middle = np.median(scan.positions_px, axis=0)
    distance = [np.linalg.norm(s.positions_px - middle, axis=1) for s in (seen[0], scan)]
    assert distance[0].max() <= np.sort(distance[1])[99]
    assert found.background == pytest.approx(10.0, rel=0.12)
    assert len(found) == len(scan)


@pytest.mark.parametrize(('first', 'last'), [(0.1, 0.5), (0.6, 0.6)])
def test_no_more_than_half_of_all_is_learned(monkeypatch, first, last):
    """Sweeps that explain nothing would take everything for background."""
    monkeypatch.setattr(learned_background, '_excess', lambda *_: 100.0)
    scan = made()
    everything = scan.totals.mean() / scan.side_px**2
    scan = learned_background.told(scan, first * everything)
    found, _ = taught(scan, begun(scan))
    assert found.background == pytest.approx(last * everything)
