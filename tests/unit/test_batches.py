"""What a training step sees."""

from __future__ import annotations

import numpy as np
import pytest

from ptychopinn_plugin import batching
from ptychopinn_plugin.batching import Batches, source


def corners(dataset):
    return [b.corner_px.tolist() for b in dataset]


@pytest.mark.parametrize('channels', [1, 4])
def test_every_pattern_leads_a_group_once(small_scan, channels):
    dataset = Batches([source(small_scan)], channels, 16, seed=0)
    seen = list(dataset)
    assert len(seen) == len(dataset)
    first = np.concatenate([b.corner_px[::channels] for b in seen])
    everything = source(small_scan).corner_px
    assert sorted(map(tuple, first)) == sorted(map(tuple, everything))


def test_epochs_differ_and_repeat(small_scan):
    dataset = Batches([source(small_scan)], 1, 16, seed=0)
    zero = corners(dataset)
    dataset.epoch = 1
    one = corners(dataset)
    dataset.epoch = 0
    assert zero != one
    assert corners(dataset) == zero


def test_fixed_batches_do_not_change(small_scan):
    dataset = Batches([source(small_scan)], 1, 16, seed=0, fixed=True)
    assert corners(dataset) == corners(dataset)


def test_batch_holds_what_the_scan_holds(small_scan):
    made = source(small_scan)
    groups = np.array([[3, 5], [7, 1]])
    part = batching.batch(made, groups)
    assert part.inputs.shape == (2, 2, 32, 32)
    rows = groups.reshape(-1)
    np.testing.assert_array_equal(part.counts, small_scan.counts[rows])
    np.testing.assert_allclose(
        part.inputs.reshape(4, 32, 32) ** 2 / made.scale**2, part.counts, rtol=1e-5
    )
    np.testing.assert_array_equal(part.corner_px, made.corner_px[rows])


def test_training_sees_new_batches_every_epoch(small_scan, tmp_path, monkeypatch):
    """The number of the epoch reaches the data; without it every epoch repeats the first."""
    from ptychopinn_plugin.backends import registry
    from ptychopinn_plugin.config import ModelConfig, RuntimeConfig, TrainingConfig

    seen = []
    original = Batches.__iter__

    def watch(self):
        for made in original(self):
            if not self.fixed:
                seen.append((self.epoch, made.corner_px.tolist()))
            yield made

    monkeypatch.setattr(Batches, '__iter__', watch)
    registry.load('torch').train(
        [small_scan], [],
        ModelConfig(architecture='autoencoder', pattern_size_px=32, n_filters_scale=1),
        TrainingConfig(epochs=3, batch_size=32), RuntimeConfig(device='cpu'), tmp_path,
        lambda _: None, lambda _: None,
    )  # fmt: skip
    epochs = {number: [c for n, c in seen if n == number] for number, _ in seen}
    assert sorted(epochs) == [0, 1, 2]
    assert epochs[0] != epochs[1] != epochs[2]
