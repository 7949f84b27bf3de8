"""A GPU gives what the CPU gives. Skipped where the back end finds none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import pipeline, starts
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.errors import OutOfMemoryError
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.position_correction import with_room
from ptychopinn_plugin.probe_modes import adjusted
from ptychopinn_plugin.scaling import normalised_probe

from .test_backend import CANVAS, SMALL, backend, every_architecture, train

CPU, GPU = RuntimeConfig(device='cpu'), RuntimeConfig(device='cuda')

__all__ = ['backend']


@pytest.fixture(autouse=True)
def _a_gpu(backend):
    if backend.device(RuntimeConfig()) == 'cpu':
        pytest.skip(f'{backend.name} finds no GPU')


def near(found, wanted, limit):
    return np.linalg.norm(found - wanted) < limit * np.linalg.norm(wanted)


def both(backend, scan, probe, config):
    """The last sweep on the CPU and on the GPU. From a flat object rounding decides the phases of
    what is dark at first; so they start from the true phase, weakened.
    """
    truth = scan.true_object
    weak = (np.abs(truth) * np.exp(0.7j * np.angle(truth))).astype(np.complex64)
    start = replace(starts.flat_start(scan), object=weak)
    return [list(backend.refine(scan, start, probe, config, where))[-1] for where in (CPU, GPU)]


class TestSweeps:
    # The slow phase is corrected in some of the sweeps; 120 patterns by 32 leave a short batch.
    @pytest.mark.parametrize('size', [0, 32])
    def test_known_probe(self, backend, small_scan, size):
        config = ReconstructionConfig(sweeps=4, sweep_batch_size=size)
        cpu, gpu = both(backend, small_scan, normalised_probe(small_scan), config)
        assert near(gpu.image.object, cpu.image.object, 1e-4)
        assert gpu.loss == pytest.approx(cpu.loss, rel=1e-4)

    def test_updated_modes(self, backend, small_scan):
        config = ReconstructionConfig(sweeps=4, update_probe=True, sweep_batch_size=32)
        probe = adjusted(normalised_probe(small_scan), 3)
        cpu, gpu = both(backend, small_scan, probe, config)
        assert near(gpu.image.object, cpu.image.object, 3e-3)
        assert near(gpu.probe, cpu.probe, 3e-3)

    def test_bad_pixels(self, backend, small_scan):
        bad = np.zeros((32, 32), bool)
        bad[10:13, 20], bad[16, 16] = True, True
        scan = replace(small_scan, bad_pixels=bad)
        cpu, gpu = both(backend, scan, normalised_probe(scan), ReconstructionConfig(sweeps=3))
        assert near(gpu.image.object, cpu.image.object, 1e-4)

    def test_positions(self, backend, small_scan):
        rng = np.random.default_rng(3)
        off = small_scan.positions_px + rng.normal(0, 0.5, small_scan.positions_px.shape)
        scan = replace(small_scan, positions_px=off)
        room = with_room(scan)
        truth = np.ones(room.frame.shape, np.complex64)
        at = np.rint(np.subtract(scan.frame.origin_px, room.frame.origin_px)).astype(int)
        truth[at[0] : at[0] + 90, at[1] : at[1] + 90] = scan.true_object
        scan = replace(room, true_object=truth)
        config = ReconstructionConfig(sweeps=4, correct_positions=True)
        cpu, gpu = both(backend, scan, normalised_probe(scan), config)
        assert not np.allclose(gpu.positions_px, scan.positions_px, atol=0.1)
        np.testing.assert_allclose(gpu.positions_px, cpu.positions_px, atol=0.01)

    def test_held_out_patterns(self, backend, small_scan):
        config = ReconstructionConfig(sweeps=6, held_out_stop=True)
        cpu, gpu = both(backend, small_scan, normalised_probe(small_scan), config)
        assert near(gpu.image.object, cpu.image.object, 1e-3)

    def test_prediction(self, backend, small_scan):
        image, probe = starts.flat_start(small_scan), normalised_probe(small_scan)
        (cpu, at), (gpu, there) = (
            backend.predict(small_scan, image, probe, where) for where in (CPU, GPU)
        )
        assert gpu == pytest.approx(cpu, rel=1e-5)
        assert near(there(7), at(7), 1e-5)

    def test_the_whole_way_with_the_network(self, backend, small_scan):
        scores = []
        for where in (CPU, GPU):
            found = pipeline.reconstruct(small_scan, runtime=replace(where, backend=backend.name))
            image = found.image
            scores.append(compare(image.object, small_scan.true_object, image.weight).phase_ssim)
        assert scores[1] == pytest.approx(scores[0], abs=0.002)


class TestNetworks:
    @every_architecture
    def test_it_learns_and_estimates_as_on_a_cpu(self, backend, small_scan, tmp_path, model):
        trained = train(
            backend, small_scan, tmp_path, model=model, runtime=GPU, epochs=4, learning_rate=5e-4
        )
        losses = [e.training_loss for e in trained.history]
        assert losses[-1] < losses[0]
        if model == CANVAS:
            return
        config = ReconstructionConfig()
        cpu, gpu = (backend.estimate(small_scan, trained, config, where) for where in (CPU, GPU))
        # Convolutions there take factors of ten bits.
        assert near(gpu.object, cpu.object, 1e-2)

    def test_resumed(self, backend, small_scan, tmp_path):
        begun = train(backend, small_scan, tmp_path, runtime=GPU, epochs=2)
        ended = train(backend, small_scan, tmp_path, runtime=GPU, epochs=4, resume=True)
        assert [e.number for e in ended.history] == [1, 2, 3, 4]
        assert ended.history[:2] == begun.history


def test_too_little_memory_is_told(backend, small_scan, tmp_path):
    if backend.name != 'torch':
        pytest.skip('TensorFlow takes its memory once')
    import torch

    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        with pytest.raises(OutOfMemoryError, match=r'on the GPU.*Lower the batch size'):
            train(backend, small_scan, tmp_path, model=SMALL, runtime=GPU)
        with pytest.raises(OutOfMemoryError, match=r'on the GPU.*Lower the batch size'):
            both(backend, small_scan, normalised_probe(small_scan), ReconstructionConfig(sweeps=1))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
