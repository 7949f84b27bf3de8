"""What the network of the canvas is trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin.backends.base import StopTraining
from ptychopinn_plugin.canvas import Canvas, unfold
from ptychopinn_plugin.canvas_training import (
    SWEEPS,
    Batches,
    batch,
    datasets,
    example,
    examples,
)
from ptychopinn_plugin.config import ModelConfig, TrainingConfig
from ptychopinn_plugin.errors import DataError, TrainingError
from ptychopinn_plugin.light import light_of
from ptychopinn_plugin.result import Sweep
from ptychopinn_plugin.scaling import normalised_probe, normalised_truth

from ..conftest import counting

NOISE = 0.05
MODEL = ModelConfig(architecture='unrolled', mode='supervised')


def refine(scan, start, probe, config):
    """Walk to the true object with noise of the scan's own."""
    rng = np.random.default_rng(len(scan) + int(scan.totals[0]))
    truth = normalised_truth(scan, probe)
    for number in range(1, config.sweeps + 1):
        noise = rng.normal(size=(2, *truth.shape)) * NOISE
        object_ = (truth + noise[0] + 1j * noise[1]).astype(np.complex64)
        yield Sweep(
            number, config.sweeps, replace(start, object=object_), probe, 0.01, scan.positions_px
        )


def test_supervised_what_is_missing_leads_to_the_truth(small_scan):
    """The answer that is asked for, given, makes the object the true one where there is light."""
    probe = normalised_probe(small_scan)
    truth = normalised_truth(small_scan, probe)
    *_, before, last = refine(small_scan, _start(small_scan), probe, _config(5))
    canvas = Canvas(small_scan, light_of(small_scan, probe))
    made = example(small_scan, last, before.image.object, truth)
    lit = canvas.trust == 1
    view = canvas.view(last.image.object, before.image.object, loss=0.01, pace=0.4, number=5)
    found, truth = last.image.object[canvas.part], truth[canvas.part]
    better = found + (made.missing[0] + 1j * made.missing[1]) * view.unit
    error = [np.abs(o - truth)[lit].mean() for o in (found, better)]
    assert error[1] < 0.2 * error[0]


def test_pinn_needs_no_known_object_and_takes_the_other_half(small_scan):
    seen = []

    def watched(scan, start, probe, config):
        seen.append(len(scan))
        known = replace(scan, true_object=small_scan.true_object)
        yield from refine(known, start, probe, config)

    blind = replace(small_scan, true_object=None, object_guess=None)
    made = examples(blind, 'pinn', watched)
    assert len(made) == 2 * len(SWEEPS)
    assert set(seen) == {60}
    # The noise of both halves, real and imaginary part alike: nothing else is between them.
    left = [(e.missing * np.abs(e.view.unit)) ** 2 * e.trust for e in made]
    noise = np.mean([v.sum() / (2 * e.trust.sum()) for v, e in zip(left, made, strict=True)])
    assert noise == pytest.approx(2 * NOISE**2, rel=0.2)


def test_only_the_last_two_sweeps_of_a_run_stay_in_memory(small_scan):
    counted, counts = counting(refine)
    examples(small_scan, 'supervised', counted)
    assert len(counts) == sum(SWEEPS)
    assert max(counts) <= 5  # those of the run before, and one that is being made


def test_a_scan_too_small_to_be_halved_is_refused(small_scan):
    with pytest.raises(DataError, match='too few patterns'):
        examples(small_scan.take(np.arange(20)), 'pinn', refine)


def test_no_known_object_is_refused_in_supervised_mode(small_scan):
    with pytest.raises(DataError, match='supervised training needs a known object'):
        examples(replace(small_scan, true_object=None, object_guess=None), 'supervised', refine)


def test_turning_an_example_is_turning_its_scan(small_scan):
    made = examples(small_scan, 'supervised', refine)[0]
    turned = made.turned(1, True, False)
    np.testing.assert_array_equal(turned.trust, np.rot90(made.trust)[::-1])
    np.testing.assert_array_equal(turned.missing, np.rot90(made.missing, 1, (1, 2))[:, ::-1])
    conjugated = made.turned(0, False, True)
    np.testing.assert_array_equal(conjugated.view.fine[0::2], made.view.fine[0::2])
    np.testing.assert_array_equal(conjugated.view.fine[1::2], -made.view.fine[1::2])
    np.testing.assert_array_equal(conjugated.missing[1], -made.missing[1])


def test_batches_are_drawn_from_seed_and_epoch(small_scan):
    made = examples(small_scan, 'supervised', refine)

    def inputs(seed, epoch):
        drawn = Batches(made, 3, seed)
        drawn.epoch = epoch
        return np.concatenate([b.inputs for b in drawn])

    np.testing.assert_array_equal(inputs(0, 0), inputs(0, 0))
    assert (inputs(0, 0) != inputs(0, 1)).any()
    assert (inputs(0, 0) != inputs(1, 0)).any()


def test_a_band_is_held_out_and_never_trained_on(small_scan):
    training = TrainingConfig(validation_fraction=0.25, batch_size=4)
    train_set, held = datasets([small_scan], [], MODEL, training, refine, lambda share: None)
    whole = examples(small_scan, 'supervised', refine)
    for part, band, e in zip(train_set.examples, held.examples, whole, strict=True):
        assert part.shape[0] + band.shape[0] == e.shape[0]
        np.testing.assert_array_equal(band.trust, e.trust[part.shape[0] :])
        share = band.trust.sum() / e.trust.sum()
        assert 0.2 < share < 0.45
    assert [len(b) for b in held] == [1] * len(whole)


def test_validation_scans_are_taken_whole(small_scan):
    training = TrainingConfig(validation_fraction=0.25)
    other = small_scan.take(np.arange(100))
    train_set, held = datasets([small_scan], [other], MODEL, training, refine, lambda share: None)
    assert len(train_set.examples) == len(held.examples) == len(SWEEPS)
    assert train_set.examples[0].shape == examples(small_scan, 'supervised', refine)[0].shape


def test_what_is_filled_up_does_not_count(small_scan):
    made = examples(small_scan, 'supervised', refine)[0].crop(0, 0, (20, 21))
    trust = unfold(batch([made]).trust[0])
    assert trust.shape == (2, 24, 24)
    assert not trust[:, 20:].any()
    assert not trust[:, :, 21:].any()


def test_the_training_can_be_stopped_while_its_canvases_are_made(small_scan):
    calls = []

    def stop(share):
        calls.append(share)
        raise StopTraining('Stopped')

    with pytest.raises(TrainingError, match='before the first epoch'):
        datasets([small_scan], [], MODEL, TrainingConfig(), refine, stop)
    assert calls == [0.0]


def _config(sweeps):
    from ptychopinn_plugin.config import ReconstructionConfig

    return ReconstructionConfig(sweeps=sweeps)


def _start(scan):
    from ptychopinn_plugin.starts import flat_start

    return flat_start(scan)
