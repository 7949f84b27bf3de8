"""The contract of `backends.base.Backend`, over every back end that this job claims."""

from __future__ import annotations

import gc
import signal
import weakref
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ptychopinn_plugin import apart, canvas, files, mapped, starts, sweep_plan, sweeper
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.backends.base import Model, StopTraining
from ptychopinn_plugin.config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
)
from ptychopinn_plugin.errors import (
    BackendUnavailableError,
    ConfigError,
    DataError,
    ModelFileError,
    OutOfMemoryError,
    TrainingError,
)
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.network_weights import weight_shapes
from ptychopinn_plugin.position_correction import with_room
from ptychopinn_plugin.probe_modes import adjusted
from ptychopinn_plugin.result import ObjectImage
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.simulate.probes import focused
from ptychopinn_plugin.slow_phase import mean_ramp, plane
from ptychopinn_plugin.sweep_plan import NETWORK_LAST, held_out

from ..backends_under_test import BACKENDS
from ..conftest import fluctuating, room, seen_through

RUNTIME = RuntimeConfig(device='cpu')
SMALL = ModelConfig(architecture='autoencoder', pattern_size_px=32, n_filters_scale=1)
CANVAS = ModelConfig(architecture='unrolled')
every_architecture = pytest.mark.parametrize('model', [SMALL, CANVAS], ids=lambda m: m.architecture)


def nothing(_):
    pass


@pytest.fixture(params=BACKENDS)
def backend(request):
    return registry.load(request.param)


def train(backend, scan, folder, *, model=SMALL, on_epoch=nothing, on_step=nothing, **more):
    settings = {'epochs': 3, 'batch_size': 16, 'learning_rate': 2e-3}
    resume, initial = more.pop('resume', False), more.pop('initial', None)
    validation, runtime = more.pop('validation', []), more.pop('runtime', RUNTIME)
    training = TrainingConfig(**{**settings, **more})
    return backend.train(
        [scan], validation, model, training, runtime, folder, on_epoch, on_step,
        resume=resume, initial=initial,
    )  # fmt: skip


@pytest.fixture
def scans_alike(small_scan, tmp_path, monkeypatch):
    """The small scan twice: in memory, and on the disk as a large one is."""
    files.save_scan(small_scan, tmp_path / 'scan.h5')
    in_memory = files.load_scan(tmp_path / 'scan.h5')
    monkeypatch.setattr(mapped, 'LARGE_BYTES', 1000)
    monkeypatch.setattr(apart, 'MAY_BE_LARGE', 0)
    on_disk = files.load_scan(tmp_path / 'scan.h5')
    assert mapped.place_of(in_memory.counts) is None
    assert mapped.place_of(on_disk.counts) is not None
    return in_memory, on_disk


def too_much():
    np.zeros(2**60, np.uint8)


def too_much_of_torch():
    import torch

    torch.zeros(2**58, dtype=torch.uint8)


def too_much_of_tensorflow():
    import tensorflow as tf

    tf.zeros((2**20, 2**24))


TOO_MUCH = {'torch': too_much_of_torch, 'tensorflow': too_much_of_tensorflow}


def loss_curve(model):
    return [e.training_loss for e in model.history]


class TestTraining:
    @pytest.mark.parametrize('mode', ['pinn', 'supervised'])
    @pytest.mark.parametrize('gridsize', [1, 2])
    def test_loss_falls(self, backend, small_scan, tmp_path, mode, gridsize):
        model = replace(SMALL, mode=mode, gridsize=gridsize)
        trained = train(backend, small_scan, tmp_path, model=model, epochs=4)
        first, *_, last = trained.history
        # Patches have no absolute phase in their pattern: supervised training falls slowly.
        factor = 0.8 if mode == 'pinn' else 0.95
        assert last.training_loss < factor * first.training_loss
        # In pinn mode the first epoch may reach what so few held-out patterns can tell; it began
        # higher.
        before = 0.8 * first.training_loss if mode == 'pinn' else first.validation_loss
        assert last.validation_loss < before
        assert [e.number for e in trained.history] == [1, 2, 3, 4]
        assert trained.writer == backend.name

    def test_amplitude_loss_trains(self, backend, small_scan, tmp_path):
        trained = train(backend, small_scan, tmp_path, loss='amplitude')
        assert loss_curve(trained)[-1] < loss_curve(trained)[0]

    @pytest.mark.parametrize('mode', ['pinn', 'supervised'])
    def test_the_network_of_the_canvas_learns(self, backend, small_scan, tmp_path, mode):
        """Its loss is the logarithm of the share of what is missing that is left."""
        dim = simulate_scan(
            Simulation(pattern_size_px=32, object_size_px=90, patterns=120, specimen='leaves',
                       seed=3, photons_per_frame=3e3)
        )  # fmt: skip
        model = replace(CANVAS, mode=mode)
        trained = train(backend, dim, tmp_path, model=model, epochs=80, batch_size=4, patience=0)
        least = 0.1 if mode == 'pinn' else 0.03  # half scans have twice the noise to take off
        assert loss_curve(trained)[-1] < loss_curve(trained)[0] - least
        assert min(e.validation_loss for e in trained.history) < -least / 2

    @every_architecture
    def test_weights_are_canonical(self, backend, small_scan, tmp_path, model):
        trained = train(backend, small_scan, tmp_path, model=model, epochs=1)
        shapes = {k: v.shape for k, v in trained.weights.items()}
        assert shapes == weight_shapes(model)
        assert all(v.dtype == np.float32 for v in trained.weights.values())

    @every_architecture
    def test_same_seed_same_losses(self, backend, small_scan, tmp_path, model):
        a = train(backend, small_scan, tmp_path / 'a', model=model, epochs=2)
        b = train(backend, small_scan, tmp_path / 'b', model=model, epochs=2)
        other = train(backend, small_scan, tmp_path / 'c', model=model, epochs=2, seed=1)
        assert loss_curve(a) == loss_curve(b)
        assert loss_curve(a) != loss_curve(other)
        assert all((a.weights[k] == b.weights[k]).all() for k in a.weights)

    @every_architecture
    def test_resume_continues_to_the_same_losses(self, backend, small_scan, tmp_path, model):
        class Cut(Exception):
            pass

        def cut(epoch):
            if epoch.number == 2:
                raise Cut

        whole = train(backend, small_scan, tmp_path / 'whole', model=model, epochs=4)
        with pytest.raises(Cut):
            train(backend, small_scan, tmp_path / 'cut', model=model, epochs=4, on_epoch=cut)
        seen = []
        resumed = train(
            backend, small_scan, tmp_path / 'cut', model=model, epochs=4, resume=True,
            on_epoch=seen.append,
        )  # fmt: skip
        assert seen[0].number > 1, 'it began anew'
        np.testing.assert_allclose(loss_curve(resumed), loss_curve(whole), rtol=1e-6)

    def test_resume_without_checkpoint_is_refused(self, backend, small_scan, tmp_path):
        with pytest.raises(ConfigError, match=r'no training of .* to resume'):
            train(backend, small_scan, tmp_path, resume=True)

    def test_starts_from_a_model(self, backend, small_scan, tmp_path):
        first = train(backend, small_scan, tmp_path / 'a')
        second = train(backend, small_scan, tmp_path / 'b', epochs=1, initial=first)
        assert loss_curve(second)[0] < loss_curve(first)[0] * 0.9

    def test_best_model_is_returned_not_the_last(self, backend, small_scan, tmp_path):
        trained = train(
            backend, small_scan, tmp_path, epochs=6, learning_rate=0.03, schedule='constant'
        )
        losses = [e.validation_loss for e in trained.history]
        assert trained.summary['best_epoch'] == 1 + int(np.argmin(losses))

    def test_early_stopping(self, backend, small_scan, tmp_path):
        trained = train(
            backend, small_scan, tmp_path, epochs=40, learning_rate=0.05, patience=1,
            schedule='constant',
        )  # fmt: skip
        assert len(trained.history) < 40
        assert trained.summary['ended'] == 'no longer improving'

    def test_plateau_lowers_the_learning_rate(self, backend, small_scan, tmp_path):
        trained = train(
            backend, small_scan, tmp_path, epochs=8, learning_rate=0.05, schedule='plateau',
            patience=0,
        )  # fmt: skip
        rates = [e.learning_rate for e in trained.history]
        assert rates[0] == pytest.approx(0.05)
        assert rates[-1] < 0.05

    def test_exception_of_a_callback_passes_through(self, backend, small_scan, tmp_path):
        def fail(_):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train(backend, small_scan, tmp_path, on_step=fail)

    def test_stop_keeps_the_best_model_so_far(self, backend, small_scan, tmp_path):
        shares = []

        def stop(share):
            shares.append(share)
            if share > 0.5:
                raise StopTraining

        trained = train(backend, small_scan, tmp_path, epochs=4, on_step=stop)
        assert len(trained.history) == 2
        assert shares == sorted(shares)
        assert shares[-1] < 0.6

    @every_architecture
    def test_stop_before_the_first_epoch_is_an_error(self, backend, small_scan, tmp_path, model):
        def stop(_):
            raise StopTraining

        with pytest.raises(TrainingError, match='before the first epoch'):
            train(backend, small_scan, tmp_path, model=model, on_step=stop)

    def test_loss_that_is_not_finite_stops(self, backend, small_scan, tmp_path):
        bad = {k: np.full(s, np.inf, np.float32) for k, s in weight_shapes(SMALL).items()}
        with pytest.raises(TrainingError, match='not finite'):
            train(backend, small_scan, tmp_path, initial=Model(SMALL, bad))

    def test_a_gpu_that_is_not_there_is_told(self, backend, small_scan, tmp_path):
        if backend.device(RuntimeConfig()) != 'cpu':
            pytest.skip('there is one')
        runtime = RuntimeConfig(device='cuda')
        with pytest.raises(BackendUnavailableError, match='Choose device cpu or auto'):
            backend.device(runtime)
        with pytest.raises(BackendUnavailableError, match='No CUDA device'):
            train(backend, small_scan, tmp_path, runtime=runtime)
        probe, config = normalised_probe(small_scan), ReconstructionConfig(sweeps=1)
        start = starts.flat_start(small_scan)
        with pytest.raises(BackendUnavailableError, match='No CUDA device'):
            list(backend.refine(small_scan, start, probe, config, runtime))

    @every_architecture
    def test_a_scan_on_the_disk_trains_the_same(self, backend, scans_alike, tmp_path, model):
        in_memory, on_disk = (
            loss_curve(train(backend, s, tmp_path / str(n), model=model, epochs=2))
            for n, s in enumerate(scans_alike)
        )
        assert in_memory == on_disk

    @pytest.mark.parametrize('whose', ['framework', 'numpy'])
    def test_too_little_memory_says_what_to_lower(self, backend, small_scan, tmp_path, whose):
        def take(_):
            (too_much if whose == 'numpy' else TOO_MUCH[backend.name])()

        with pytest.raises(OutOfMemoryError, match='Lower the batch size'):
            train(backend, small_scan, tmp_path, on_step=take)

    @every_architecture
    def test_a_full_disk_keeps_the_best_model_so_far(self, backend, small_scan, tmp_path, model):
        with ExitStack() as stack:

            def fill(epoch):
                if epoch.number == 2:
                    stack.enter_context(room(100))

            trained = train(
                backend, small_scan, tmp_path, model=model, epochs=4, on_epoch=fill
            )  # fmt: skip
        assert len(trained.history) in (2, 3)  # the third may be done before it is written
        assert trained.summary['ended'].startswith('Cannot write')

    def test_interrupt_passes_and_ctrl_c_still_works(self, backend, small_scan, tmp_path):
        before = signal.getsignal(signal.SIGINT)

        def interrupt(_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(backend, small_scan, tmp_path, on_step=interrupt)
        assert signal.getsignal(signal.SIGINT) is before

    def test_refused_training_leaves_the_earlier_one(self, backend, small_scan, tmp_path):
        def content():
            return {p.name: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}

        train(backend, small_scan, tmp_path, epochs=1)
        earlier = content()
        supervised = replace(SMALL, mode='supervised')
        with pytest.raises(DataError):
            train(backend, replace(small_scan, true_object=None), tmp_path, model=supervised)
        assert earlier
        assert content() == earlier

    def test_supervised_needs_a_known_object(self, backend, small_scan, tmp_path):
        unknown = replace(small_scan, true_object=None)
        with pytest.raises(DataError, match='needs a known object'):
            train(backend, unknown, tmp_path, model=replace(SMALL, mode='supervised'))

    def test_validation_scan_is_used(self, backend, small_scan, tmp_path):
        other = simulate_scan(
            Simulation(pattern_size_px=32, object_size_px=90, patterns=40, seed=9)
        )
        a = train(backend, small_scan, tmp_path / 'a', epochs=1, validation=[other])
        b = train(backend, small_scan, tmp_path / 'b', epochs=1, validation=[small_scan])
        assert a.history[0].training_loss == b.history[0].training_loss
        assert a.history[0].validation_loss != b.history[0].validation_loss

    @pytest.mark.parametrize('side', [34, 50, 96])
    def test_any_even_size_trains(self, backend, tmp_path, side):
        scan = simulate_scan(
            Simulation(pattern_size_px=side, object_size_px=side + 40, patterns=24, seed=5)
        )
        model = ModelConfig(architecture='autoencoder', pattern_size_px=side, n_filters_scale=1)
        trained = train(backend, scan, tmp_path, model=model, epochs=1)
        image = backend.estimate(scan, trained, ReconstructionConfig(), RUNTIME)
        assert image.object.shape == scan.frame.shape
        assert np.isfinite(image.object).all()


class TestEstimate:
    def test_frame_and_types(self, backend, small_scan):
        image = backend.estimate(small_scan, fresh(SMALL), ReconstructionConfig(), RUNTIME)
        assert image.object.dtype == np.complex64
        assert image.weight.dtype == np.float32
        assert image.weight.max() == pytest.approx(1)
        assert image.frame == small_scan.frame

    @pytest.mark.parametrize('gridsize', [1, 2])
    def test_constant_network_gives_a_constant_object(self, backend, small_scan, gridsize):
        """Patches land where they belong whatever the grouping: zero weights predict 0.5
        everywhere.
        """
        model = replace(SMALL, gridsize=gridsize)
        zero = {k: np.zeros(s, np.float32) for k, s in weight_shapes(model).items()}
        image = backend.estimate(small_scan, Model(model, zero), ReconstructionConfig(), RUNTIME)
        np.testing.assert_allclose(image.object[image.weight > 1e-4], 0.5, atol=1e-5)

    def test_order_of_the_patterns_does_not_matter(self, backend, small_scan):
        """No patch is mixed with one of another position."""
        shuffled = small_scan.take(np.random.default_rng(0).permutation(len(small_scan)))
        a, b = (
            backend.estimate(s, fresh(SMALL), ReconstructionConfig(), RUNTIME)
            for s in (small_scan, shuffled)
        )
        np.testing.assert_allclose(a.object, b.object, atol=2e-5)

    def test_patch_stands_at_its_own_position(self, backend, small_scan):
        """One pattern's estimate lights exactly its own window."""
        image = backend.estimate(
            small_scan.take(np.array([7])), fresh(SMALL), ReconstructionConfig(), RUNTIME
        )
        y, x = np.unravel_index(image.weight.argmax(), image.weight.shape)
        expected = small_scan.positions_px[7]
        assert abs(y - expected[0]) < 6
        assert abs(x - expected[1]) < 6

    def test_weights_of_another_shape_are_refused(self, backend, small_scan):
        model = fresh(SMALL)
        name = next(iter(model.weights))
        model.weights[name] = np.zeros((1, 1), np.float32)
        with pytest.raises(ModelFileError, match='does not fit the network'):
            backend.estimate(small_scan, model, ReconstructionConfig(), RUNTIME)


class TestRefine:
    def refine(self, backend, scan, **settings):
        config = ReconstructionConfig(**{'sweeps': 12, **settings})
        start = starts.flat_start(scan)
        probe = normalised_probe(scan)
        return start, list(backend.refine(scan, start, probe, config, RUNTIME))

    def test_a_scan_on_the_disk_gives_the_same(self, backend, scans_alike):
        results = []
        for scan in scans_alike:
            start, sweeps = self.refine(backend, scan, sweeps=3, held_out_stop=True)
            error, pattern = backend.predict(scan, sweeps[-1].image, sweeps[-1].probe, RUNTIME)
            results.append([start.object, sweeps[-1].image.object, error, pattern(7)])
        for a, b in zip(*results, strict=True):
            assert np.array_equal(a, b)

    def test_finds_the_object(self, backend, small_scan):
        _, sweeps = self.refine(backend, small_scan)
        assert [s.number for s in sweeps] == list(range(1, 13))
        assert sweeps[-1].loss < 0.1 * sweeps[0].loss
        score = compare(sweeps[-1].image.object, small_scan.true_object, sweeps[-1].image.weight)
        assert score.phase_ssim > 0.9

    def test_slow_phase_waves_go_soon(self, backend):
        """A phase that varies by 4 rad over 200 pixels, which sweeps alone hardly move."""
        scan = simulate_scan(Simulation(patterns=500, object_size_px=256, seed=5))
        y, x = np.mgrid[:256, :256]
        scan = seen_through(scan, scan.true_object * np.exp(2j * np.cos(np.pi * (x + y / 2) / 200)))
        miss = {}
        for slow_phase in (False, True):
            _, sweeps = self.refine(backend, scan, sweeps=5, slow_phase=slow_phase)
            image = sweeps[-1].image
            miss[slow_phase] = compare(image.object, scan.true_object, image.weight).phase_mae_rad
        assert miss[True] < 0.25 * miss[False]

    def test_counts_tell_amplitudes_from_phases_under_a_curved_beam(self, backend, monkeypatch):
        """Its patterns move by both; the start is flat, so that only sweeps tell them apart."""
        settings = Simulation(
            probe='gaussian', patterns=250, object_size_px=256, pattern_size_px=128, seed=9
        )
        scan = simulate_scan(settings)
        miss = []
        for told in (sweep_plan.TOLD_SWEEPS, 0):
            monkeypatch.setattr(sweep_plan, 'TOLD_SWEEPS', told)
            _, sweeps = self.refine(backend, scan, sweeps=6)
            image = sweeps[-1].image
            miss.append(compare(image.object, scan.true_object, image.weight).phase_mae_rad)
        assert miss[0] < 0.9 * miss[1]

    def test_more_momentum_finds_slow_waves_sooner_without_an_edge(self, backend, monkeypatch):
        scan = simulate_scan(
            Simulation(specimen='lines', probe='gaussian', patterns=400, object_size_px=200, seed=8)
        )
        miss = []
        for most in (sweep_plan.MOMENTUM[1], sweep_plan.MOMENTUM[0]):
            monkeypatch.setattr(sweep_plan, 'MOMENTUM', (sweep_plan.MOMENTUM[0], most))
            _, sweeps = self.refine(backend, scan, sweeps=10)
            image = sweeps[-1].image
            miss.append(compare(image.object, scan.true_object, image.weight).phase_mae_rad)
        assert miss[0] < 0.95 * miss[1]

    def test_a_beam_that_fills_the_window_keeps_its_slow_phase(self, backend):
        """Its patterns do not tell where they move: believed, they gave 0.25."""
        scan = simulate_scan(Simulation(specimen='lines', patterns=150, object_size_px=224, seed=6))
        wide = focused(scan.side_px, 0.3, 0.0, 1.2)[None].astype(np.complex64)
        scan = seen_through(replace(scan, probe=wide), scan.true_object)
        _, sweeps = self.refine(backend, scan, sweeps=10)
        image = sweeps[-1].image
        assert compare(image.object, scan.true_object, image.weight).phase_ssim > 0.95

    @pytest.mark.parametrize('saturated', [False, True], ids=['as measured', 'saturated'])
    def test_the_last_sweeps_average_what_dim_light_says(self, backend, saturated, monkeypatch):
        """Noise, and what no object explains."""
        scan = simulate_scan(Simulation(patterns=700, object_size_px=200, seed=78))
        most = np.quantile(scan.counts, 0.99 if saturated else 1.0).astype(scan.counts.dtype)
        scan = replace(scan, counts=np.minimum(scan.counts, most))
        found = []
        for least in (sweep_plan.LEAST_DAMPED, 99):
            monkeypatch.setattr(sweep_plan, 'LEAST_DAMPED', least)
            _, sweeps = self.refine(backend, scan, sweeps=10)
            image = sweeps[-1].image
            found.append(compare(image.object, scan.true_object, image.weight))
        assert found[0].phase_mae_rad < 0.95 * found[1].phase_mae_rad
        if saturated:
            assert found[0].phase_ssim > found[1].phase_ssim + 0.003

    @pytest.mark.parametrize('found', [True, False])
    def test_dim_light_is_not_damped_before_losses_stand_still(
        self, backend, small_scan, found, monkeypatch
    ):
        monkeypatch.setattr(sweeper, 'regularisation', lambda probe: 0.1)
        damped = []
        regularise = sweeper.Sweeper.regularise

        def watched(self, share):
            damped.append(share)
            regularise(self, share)

        monkeypatch.setattr(sweeper.Sweeper, 'regularise', watched)
        for kind in ('DAMPING', 'DAMPING_SPARSE'):
            monkeypatch.setattr(sweep_plan, kind, (0.5, 0.0 if found else 9.0))
        self.refine(backend, small_scan, sweeps=12)
        assert damped.count(sweep_plan.STEADY) == found

    @pytest.mark.parametrize('known', [True, False], ids=['at once', 'by the losses'])
    def test_a_smooth_beam_with_many_photons_stays_steady(self, backend, known, monkeypatch):
        """Steps that suit other beams tear the object apart: 0.67 after 20 sweeps."""
        if not known:
            monkeypatch.setattr(sweeper, 'regularisation', lambda probe: 0.1)
        scan = simulate_scan(
            Simulation(
                specimen='leaves', probe='gaussian', patterns=700, object_size_px=200,
                photons_per_frame=1e6, seed=78,
            )
        )  # fmt: skip
        _, sweeps = self.refine(backend, scan, sweeps=20)
        image = sweeps[-1].image
        assert compare(image.object, scan.true_object, image.weight).phase_ssim > 0.88
        if known:
            losses = [s.loss for s in sweeps]
            assert losses == sorted(losses, reverse=True)

    def test_losses_before_a_network_looked_are_not_compared_with(
        self, backend, small_scan, monkeypatch
    ):
        compared = []
        monkeypatch.setattr(sweeper, 'unsteady', lambda losses: compared.append(len(losses)))
        scan = small_scan.take(np.arange(0, len(small_scan), 5))  # hardly overlapping
        start, probe = starts.flat_start(scan), normalised_probe(scan)
        silent = {k: np.zeros(s, np.float32) for k, s in weight_shapes(CANVAS).items()}
        config = ReconstructionConfig(sweeps=10)
        list(backend.refine(scan, start, probe, config, RUNTIME, Model(CANVAS, silent)))
        # It looks after sweeps 1 and 4.
        assert compared == [1, 1, 2, 3, 1, 2, 3, 4, 5, 6]

    def test_stops_when_held_out_patterns_gain_nothing(self, backend, small_scan):
        _, sweeps = self.refine(backend, small_scan, sweeps=100, held_out_stop=True)
        last = sweeps[-1]
        assert 8 <= last.number == last.total < 100
        assert [s.total for s in sweeps[:-1]].count(last.total) >= last.total // 2 - 1
        _, planned = self.refine(backend, small_scan, sweeps=last.number)
        assert last.loss < 1.2 * planned[-1].loss

    def test_held_out_patterns_are_swept_in_the_end(self, backend, small_scan):
        """Wrong ones change nothing before the sweeps settle, and everything after."""
        held = held_out(len(small_scan), 0)
        counts = small_scan.counts.copy()
        counts[held] = counts[held][:, ::-1]
        wrong = replace(small_scan, counts=counts)
        _, right = self.refine(backend, small_scan, sweeps=6, held_out_stop=True)
        _, found = self.refine(backend, wrong, sweeps=6, held_out_stop=True)
        assert (found[2].image.object == right[2].image.object).all()
        assert (found[3].image.object != right[3].image.object).any()

    def test_a_network_corrects_the_object_after_the_planned_sweeps_only(self, backend, small_scan):
        dim = replace(small_scan, counts=small_scan.counts // 20)
        start, probe = starts.flat_start(dim), normalised_probe(dim)
        silent = {k: np.zeros(s, np.float32) for k, s in weight_shapes(CANVAS).items()}
        loud = silent | {'last.bias': np.full_like(silent['last.bias'], 0.01)}

        def objects(weights, sweeps):
            network = None if weights is None else Model(CANVAS, weights)
            config = ReconstructionConfig(sweeps=sweeps, slow_phase=False)
            found = backend.refine(dim, start, probe, config, RUNTIME, network)
            return [s.image.object for s in found]

        without, with_silent = objects(None, 4), objects(silent, 4)
        np.testing.assert_array_equal(with_silent, without)
        lit = start.weight > 0.3
        # After the last sweep the whole answer is there; before that the sweeps undo a part of it.
        assert (np.abs(objects(loud, 1)[0] - objects(None, 1)[0])[lit] > 1e-5).all()
        assert (objects(loud, 4)[0] != without[0]).any()

    @pytest.mark.parametrize('dimmer', [1, 20])
    def test_few_sweeps_over_bright_patterns_do_without_a_network(
        self, backend, small_scan, monkeypatch, dimmer
    ):
        scan = replace(small_scan, counts=small_scan.counts // dimmer)
        start, probe = starts.flat_start(scan), normalised_probe(scan)
        silent = {k: np.zeros(s, np.float32) for k, s in weight_shapes(CANVAS).items()}
        shares = []

        def corrected(canvas, run, object_, last, *, share, **state):
            shares.append(share)
            return object_

        monkeypatch.setattr(canvas.Canvas, 'corrected', corrected)
        for sweeps, early in ((1, []), (2, [1.0]), (4, [1.0]), (9, [1.0, 1.0]), (10, [1.0, 1.0])):
            shares.clear()
            config = ReconstructionConfig(sweeps=sweeps)
            list(backend.refine(scan, start, probe, config, RUNTIME, Model(CANVAS, silent)))
            assert shares == ([] if dimmer == 1 and sweeps < 10 else [*early, NETWORK_LAST])

    @pytest.mark.parametrize('sweeps', [2, 50], ids=['to the end', 'stopped'])
    def test_its_memory_is_free_at_the_end(self, backend, small_scan, monkeypatch, sweeps):
        """Not only when Python happens to look for cycles: a script runs many."""
        steps = []

        class Watched(sweeper.Sweeper):
            def __init__(self, *args, **more):
                super().__init__(*args, **more)
                steps.append(weakref.ref(self.step))

        monkeypatch.setattr(sweeper, 'Sweeper', Watched)
        gc.disable()
        try:
            start, probe = starts.flat_start(small_scan), normalised_probe(small_scan)
            config = ReconstructionConfig(sweeps=sweeps)
            run = backend.refine(small_scan, start, probe, config, RUNTIME)
            assert len([next(run), next(run)]) == 2
            assert steps[0]() is not None
            if sweeps == 2:
                assert next(run, None) is None
            else:
                run.close()
            assert steps[0]() is None
        finally:
            gc.enable()

    def test_inputs_are_untouched(self, backend, small_scan):
        start = starts.flat_start(small_scan)
        probe = normalised_probe(small_scan)
        before = start.object.copy(), probe.copy()
        list(
            backend.refine(
                small_scan, start, probe, ReconstructionConfig(sweeps=1, update_probe=True), RUNTIME
            )
        )
        assert (start.object == before[0]).all()
        assert (probe == before[1]).all()

    def test_results_of_earlier_sweeps_stay(self, backend, small_scan):
        _, sweeps = self.refine(backend, small_scan, sweeps=2)
        assert (sweeps[0].image.object != sweeps[1].image.object).any()

    def test_repeats(self, backend, small_scan):
        _, a = self.refine(backend, small_scan, sweeps=3)
        _, b = self.refine(backend, small_scan, sweeps=3)
        assert (a[-1].image.object == b[-1].image.object).all()

    def test_reads_as_transmission_whatever_the_probe_scale(self, backend, small_scan):
        """PH-5: about the true amplitude, for a probe that is a thousand times too strong."""
        scaled = replace(small_scan, probe=small_scan.probe * 1000)
        _, sweeps = self.refine(backend, scaled)
        lit = sweeps[-1].image.weight > 0.3
        ratio = np.abs(sweeps[-1].image.object[lit]).mean() / np.abs(scaled.true_object[lit]).mean()
        assert ratio == pytest.approx(1, abs=0.15)

    def test_bad_pixels_do_no_harm(self, backend, small_scan):
        """PH-4."""
        bad = np.zeros((32, 32), bool)
        bad[10:13, 16] = bad[16, 20:22] = True
        counts = small_scan.counts.astype(np.float32)
        counts[:, bad] = 1e9
        masked = replace(small_scan, counts=counts, bad_pixels=bad)
        _, sweeps = self.refine(backend, masked)
        score = compare(sweeps[-1].image.object, masked.true_object, sweeps[-1].image.weight)
        assert score.phase_ssim > 0.85

    def test_modes(self, backend):
        """PH-3."""
        scan = simulate_scan(
            Simulation(pattern_size_px=32, object_size_px=90, patterns=150, modes=3, seed=4)
        )
        _, sweeps = self.refine(backend, scan)
        single = replace(scan, probe=scan.probe[:1])
        _, worse = self.refine(backend, single)
        assert sweeps[-1].loss < 0.2 * worse[-1].loss

    def test_probe_update_mends_a_wrong_probe(self, backend, small_scan):
        wrong = small_scan.probe * np.exp(-(np.linspace(-1, 1, 32) ** 2) * 2).astype(np.float32)
        scan = replace(small_scan, probe=wrong)
        _, fixed = self.refine(backend, scan, sweeps=25)
        _, updated = self.refine(backend, scan, sweeps=25, update_probe=True)
        assert updated[-1].loss < 0.5 * fixed[-1].loss
        power = (np.abs(updated[-1].probe) ** 2).sum() / (np.abs(normalised_probe(scan)) ** 2).sum()
        assert power == pytest.approx(1, rel=1e-3)

    def test_a_crowded_scan_of_an_unknown_probe_converges(self, backend):
        """Every batch covers the object: whole steps of object and probe would add up to 2.5."""
        scan = simulate_scan(
            Simulation(
                pattern_size_px=32, object_size_px=54, scan='jitter', step_px=1.5, seed=11,
                specimen='field', photons_per_frame=1e6,
            )
        )  # fmt: skip
        scores = []
        for update in (False, True):
            _, sweeps = self.refine(backend, scan, sweeps=20, update_probe=update)
            losses = [s.loss for s in sweeps]
            assert all(b < 1.1 * a for a, b in pairwise(losses))
            image = sweeps[-1].image
            scores.append(compare(image.object, scan.true_object, image.weight).phase_ssim)
        assert scores[1] > scores[0] - 0.01 > 0.97

    def test_an_unknown_probe_takes_the_ramp(self, backend, small_scan):
        """PH-12: a beam beside the detector's middle tilts the probe, not the object."""
        tilted = replace(small_scan, probe=small_scan.probe * plane((32, 32), (0.1, -0.15)))
        *_, last = backend.refine(
            tilted, starts.gradient_start(tilted), normalised_probe(tilted),
            ReconstructionConfig(sweeps=20, update_probe=True), RUNTIME,
        )  # fmt: skip
        found = mean_ramp(last.image.object, last.image.weight)
        np.testing.assert_allclose(found, 0, atol=1e-3)
        score = compare(last.image.object, small_scan.true_object, last.image.weight)
        assert score.phase_ssim > 0.9

    def test_modes_are_found_from_one(self, backend):
        scan = simulate_scan(
            Simulation(pattern_size_px=32, object_size_px=90, patterns=150, modes=2, seed=4)
        )
        start, probe = starts.flat_start(scan), normalised_probe(scan)[:1]
        config = ReconstructionConfig(sweeps=30, update_probe=True)
        losses = {}
        for modes in (1, 2):
            given = adjusted(probe, modes)
            *_, last = backend.refine(scan, start, given, config, RUNTIME)
            losses[modes] = last.loss
        assert losses[2] < 0.3 * losses[1]
        first, second = last.probe.reshape(2, -1)
        assert np.linalg.norm(first) > np.linalg.norm(second) > 0
        assert abs(np.vdot(first, second)) < 1e-3 * np.vdot(first, first).real

    @pytest.mark.parametrize('settings', [{}, {'modes': 2, 'bad_fraction': 0.02}])
    @pytest.mark.parametrize('update_probe', [False, True])
    def test_mismeasured_positions_are_corrected(self, backend, settings, update_probe):
        """PH-17: also at the rim, and without carrying the probe off."""
        scan = simulate_scan(
            Simulation(pattern_size_px=32, object_size_px=90, patterns=200, seed=3, **settings)
        )
        off = np.random.default_rng(0).normal(0, 0.7, (len(scan), 2))
        wrong = replace(with_room(scan), positions_px=scan.positions_px + off)
        _, without = self.refine(backend, wrong, sweeps=15)
        _, sweeps = self.refine(
            backend, wrong, sweeps=15, correct_positions=True, update_probe=update_probe
        )
        left = sweeps[-1].positions_px - scan.positions_px
        np.testing.assert_allclose(left.mean(0), off.mean(0), atol=1e-9)
        left = np.hypot(*(left - left.mean(0)).T)
        assert np.median(left) < 0.1
        assert sweeps[-1].loss < 0.5 * without[-1].loss
        assert (sweeps[-1].positions_px == sweeps[-2].positions_px).all()  # as the object saw them
        probe = sweeps[-1].probe
        shift = centre(probe) - centre(normalised_probe(scan))
        np.testing.assert_allclose(shift, 0, atol=0.2)

    def test_right_positions_stay(self, backend, small_scan):
        scan = with_room(small_scan)
        _, without = self.refine(backend, scan)
        _, sweeps = self.refine(backend, scan, correct_positions=True)
        assert np.abs(sweeps[-1].positions_px - scan.positions_px).max() < 0.02
        assert sweeps[-1].loss < 1.02 * without[-1].loss

    def test_positions_are_the_scans_own_when_they_are_not_corrected(self, backend, small_scan):
        _, sweeps = self.refine(backend, small_scan, sweeps=3)
        assert all((s.positions_px == small_scan.positions_px).all() for s in sweeps)

    def test_the_beam_is_followed_in_the_sweeps(self, backend, small_scan):
        uneven, intensities = fluctuating(small_scan, 0.15)
        _, sweeps = self.refine(backend, uneven, sweeps=12)
        assert [s.intensities is None for s in sweeps] == [True] * 3 + [False] * 9
        assert np.log(sweeps[-1].intensities / intensities).std() < 0.06

    def test_flipped_positions_fit_worse(self, backend, small_scan):
        flipped = small_scan.positions_px.copy()
        flipped[:, 0] = flipped[:, 0].min() + flipped[:, 0].max() - flipped[:, 0]
        _, right = self.refine(backend, small_scan)
        _, wrong = self.refine(backend, replace(small_scan, positions_px=flipped))
        assert wrong[-1].loss > 3 * right[-1].loss


class TestManners:
    def test_floating_point_state_is_given_back(self, backend, small_scan):
        """Denormals are flushed inside a call only: the caller's arithmetic stays IEEE."""
        start, probe = starts.flat_start(small_scan), normalised_probe(small_scan)
        config = ReconstructionConfig(sweeps=2)
        for _ in backend.refine(small_scan, start, probe, config, RUNTIME):
            assert np.float32(1e-40) * np.float32(1) != 0
        backend.predict(small_scan, start, probe, RUNTIME)
        assert np.float32(1e-40) * np.float32(1) != 0


class TestPredict:
    def test_truth_explains_the_patterns_to_the_noise(self, backend, small_scan):
        """PH-7: the floor is (lit pixels) / 4 / (counts per frame)."""
        image = ObjectImage(small_scan.true_object, np.ones(small_scan.frame.shape, np.float32))
        error, pattern = backend.predict(small_scan, image, small_scan.probe, RUNTIME)
        assert error < 32 * 32 / 4 / small_scan.totals.mean() * 1.2
        measured = small_scan.counts[5].astype(float)
        assert np.corrcoef(measured.ravel(), pattern(5).ravel())[0, 1] > 0.99

    def test_a_beam_that_fluctuates_is_allowed_for(self, backend, small_scan):
        uneven, intensities = fluctuating(small_scan, 0.3)
        image = ObjectImage(small_scan.true_object, np.ones(small_scan.frame.shape, np.float32))
        probe = small_scan.probe * np.sqrt(uneven.totals.mean() / small_scan.totals.mean())
        even, _ = backend.predict(uneven, image, probe, RUNTIME)
        error, pattern = backend.predict(uneven, image, probe, RUNTIME, intensities)
        assert error < 0.2 * even
        for row in (intensities.argmin(), intensities.argmax()):
            assert pattern(row).sum() == pytest.approx(uneven.totals[row], rel=0.05)

    def test_flat_object_does_not(self, backend, small_scan):
        image = starts.flat_start(small_scan)
        error, _ = backend.predict(small_scan, image, normalised_probe(small_scan), RUNTIME)
        assert error > 0.02


def centre(probe):
    """Return the centre of mass (y, x) [px] of the light of a probe (P, N, N)."""
    power = (np.abs(probe) ** 2).sum(0)
    axis = np.arange(len(power))
    return np.array([power.sum(1) @ axis, power.sum(0) @ axis]) / power.sum()


def fresh(config):
    """Return a network with small random weights."""
    rng = np.random.default_rng(0)
    shapes = weight_shapes(config)
    weights = {k: rng.normal(0, 0.05, s).astype(np.float32) for k, s in shapes.items()}
    return Model(config, weights)
