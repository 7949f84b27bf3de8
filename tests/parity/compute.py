"""The same calculations with one back end: `python compute.py BACKEND INPUT.npz OUTPUT.npz`.

A process of its own for each framework; the arrays are compared in test_parity.py.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from importlib import import_module

import numpy as np

from ptychopinn_plugin import (
    batching,
    canvas_training,
    far_field,
    position_correction,
    slow_phase,
    sweeper,
)
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.backends.base import Model
from ptychopinn_plugin.canvas_plan import INPUTS
from ptychopinn_plugin.config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
)
from ptychopinn_plugin.network_weights import weight_shapes
from ptychopinn_plugin.plan import plan
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.starts import flat_start

RUNTIME = RuntimeConfig(device='cpu')
STEPS = 5
NETWORKS = {
    'one': ModelConfig(architecture='autoencoder', pattern_size_px=32, n_filters_scale=1),
    'groups': ModelConfig(
        architecture='autoencoder', pattern_size_px=32, n_filters_scale=1, gridsize=2
    ),
    'plain': ModelConfig(
        architecture='autoencoder', pattern_size_px=34, n_filters_scale=1, probe_big=False
    ),
}
CANVAS = ModelConfig(architecture='unrolled', mode='supervised')
TRAININGS = {
    'poisson': ('pinn', TrainingConfig(loss='poisson')),
    'amplitude': ('pinn', TrainingConfig(loss='amplitude', gradient_clip=0.01)),
    'supervised': ('supervised', TrainingConfig()),
}


class Torch:
    """What differs in spelling."""

    def __init__(self):
        import torch

        self.torch = torch

    def tensor(self, array):
        return self.torch.from_numpy(np.ascontiguousarray(array))

    def array(self, tensor):
        return tensor.detach().numpy()

    def gradient(self, function, array):
        x = self.tensor(array).requires_grad_()
        function(x).backward()
        # Of a real loss by a complex number: d/d(re) + i d/d(im) here, its conjugate elsewhere.
        return self.array(x.grad)

    def train(self, module, batches, rate):
        from ptychopinn_plugin.backends.torch.batches import tensors
        from ptychopinn_plugin.backends.torch.canvas_module import CanvasModule, canvas_tensors

        if isinstance(module, CanvasModule):
            tensors = canvas_tensors
        (optimizer,) = _optimizers(module.configure_optimizers())
        losses = []
        for batch in batches:
            optimizer.zero_grad()
            loss = module.loss(tensors(batch))
            loss.backward()
            clip = module.training_config.gradient_clip
            self.torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    def module(self, config, training):
        from ptychopinn_plugin.backends.torch.module import PatchModule

        return PatchModule(config, training)

    def canvas_module(self, config, training):
        from ptychopinn_plugin.backends.torch.canvas_module import CanvasModule

        return CanvasModule(config, training)


def _optimizers(configured):
    return [configured['optimizer'] if isinstance(configured, dict) else configured]


class TensorFlow:
    """What differs in spelling."""

    def __init__(self):
        import tensorflow as tf

        self.tf = tf

    def tensor(self, array):
        array = array.astype(np.int32) if array.dtype == np.int64 else array
        return self.tf.constant(array)

    def array(self, tensor):
        return tensor.numpy()

    def gradient(self, function, array):
        x = self.tensor(array)
        with self.tf.GradientTape() as tape:
            tape.watch(x)
            loss = function(x)
        return self.array(tape.gradient(loss, x))

    def train(self, module, batches, rate):
        return [float(module.train(*module.arguments(b), np.float32(rate))) for b in batches]

    def module(self, config, training):
        from ptychopinn_plugin.backends.tensorflow.step import PatchModule

        return PatchModule(config, training)

    def canvas_module(self, config, training):
        from ptychopinn_plugin.backends.tensorflow.step import CanvasModule

        return CanvasModule(config, training)


FRAMEWORKS = {'torch': Torch, 'tensorflow': TensorFlow}


def scan_of(given):
    return Scan(
        given['counts'],
        given['positions_px'],
        given['probe'],
        bad_pixels=given['bad_pixels'],
        true_object=given['true_object'],
    )


def uneven(scan):
    """The scan with a background, of a beam that fluctuates and fails once."""
    rng = np.random.default_rng(5)
    share = np.exp(rng.normal(0, 0.3, len(scan)))
    share[3] = 0.002
    counts = scan.counts * share[:, None, None] + 2.0
    counts = rng.poisson(counts).astype(np.uint32)
    return dataclasses.replace(scan, counts=counts, background=2.0)


def physics(name, framework, given):
    """Every function of the physics and of the losses, and gradients through them."""
    module = import_module(f'ptychopinn_plugin.backends.{name}.physics')
    losses = import_module(f'ptychopinn_plugin.backends.{name}.losses')
    t, a = framework.tensor, framework.array
    obj, probe = t(given['object']), t(given['probe'])
    corner, shift = t(given['corner_px']), t(given['shift_px'])
    allowed = (~given['bad_pixels']).astype(np.float32)
    counts, good = t(given['patterns']), t(allowed)
    side, shape = given['probe'].shape[-1], given['object'].shape
    probes = module.shift_probe(probe, shift)
    patches = module.extract(obj, corner, side)
    expected = module.diffract(patches, probes)
    out = {
        'shift_phase': a(module.shift_phase(shift, side)),
        'shift_probe': a(probes),
        'extract': a(patches),
        'merge': a(module.merge(patches, corner, shape)),
        'far_field': a(module.far_field(module.illuminate(patches, probes))),
        'diffract': a(expected),
        'patch_loss': a(
            losses.patch_loss(patches, t(given['other_patches']), module.intensity(probes))
        ),
    }
    modulus = given['patterns'].astype(np.float32)
    miss = (modulus[::-1] - modulus) * allowed
    first = (np.fft.ifftshift(v, axes=(-2, -1)) for v in (modulus, miss, allowed))
    out['ramp_sums'] = a(module.centred_ramp_sums(*map(t, first)))
    out['ramp_sums_numpy'] = slow_phase.ramp_sums(modulus, miss, allowed)
    slopes = position_correction.shift_slopes(given['probe'])
    field = np.fft.fft2(a(module.illuminate(patches, probes))).astype(np.complex64)
    sloped = module.shift_probe(t(slopes.reshape(-1, side, side)), shift)
    sloped = np.fft.fft2(a(module.illuminate(patches, sloped))).astype(np.complex64)
    waves = field, sloped.reshape(len(field), 2, *given['probe'].shape)
    out['shift_sums'] = a(module.shift_sums(*map(t, waves), t(modulus), t(miss), good))
    out['shift_sums_numpy'] = position_correction.shift_sums(*waves, modulus, miss, allowed)
    for key, loss in losses.LOSSES.items():
        out[f'{key}_loss'] = a(loss(expected, counts, good))

        def through(patches, loss=loss):
            return loss(module.diffract(patches, probes), counts, good)

        out[f'{key}_gradient'] = framework.gradient(through, given['other_patches'])
    return out


def random_weights(config):
    rng = np.random.default_rng(5)
    return {
        name: (0.7 * rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        for name, shape in weight_shapes(config).items()
    }


def networks(name, framework):
    """Outputs of the networks for the same weights and inputs."""
    network = import_module(f'ptychopinn_plugin.backends.{name}.network')
    weights = import_module(f'ptychopinn_plugin.backends.{name}.weights')
    out = {}
    for key, config in NETWORKS.items():
        made = network.Autoencoder(plan(config))
        weights.import_weights(made, random_weights(config))
        side, channels = config.pattern_size_px, config.gridsize**2
        x = np.random.default_rng(6).gamma(0.3, size=(3, channels, side, side))
        out[f'network_{key}'] = framework.array(made(framework.tensor(x.astype(np.float32))))
        back = weights.export_weights(made)
        out[f'weights_{key}'] = np.concatenate([back[k].ravel() for k in weight_shapes(config)])
    return out


def canvas(name, framework, scan):
    """The network of the canvas: its answer, and five training steps."""
    network = import_module(f'ptychopinn_plugin.backends.{name}.canvas_network')
    weights = import_module(f'ptychopinn_plugin.backends.{name}.weights')
    made = network.CanvasNetwork()
    weights.import_weights(made, random_weights(CANVAS))
    x = np.random.default_rng(6).normal(size=(2, INPUTS, 24, 16)).astype(np.float32)
    out = {'canvas_answer': framework.array(made(framework.tensor(x)))}
    back = weights.export_weights(made)
    out['canvas_weights'] = np.concatenate([back[k].ravel() for k in weight_shapes(CANVAS)])
    backend, training = registry.load(name), TrainingConfig(batch_size=4, learning_rate=1e-4)

    def refine(*given):
        return backend.refine(*given, RUNTIME)

    train_set, held = canvas_training.datasets([scan], [], CANVAS, training, refine, lambda _: None)
    out['canvas_missing'] = next(iter(held)).missing
    module = framework.canvas_module(CANVAS, training)
    start = {k: 0.3 * v for k, v in random_weights(CANVAS).items()}
    weights.import_weights(module.network, start)
    batches = []
    for train_set.epoch in range(STEPS):
        batches.append(next(iter(train_set)))
    out['canvas_losses'] = np.array(framework.train(module, batches, training.learning_rate))
    end = weights.export_weights(module.network)
    moved = [(end[k] - start[k]).ravel() for k in weight_shapes(CANVAS)]
    out['canvas_moved'] = np.concatenate(moved)
    patches = Model(NETWORKS['one'], random_weights(NETWORKS['one']))
    start = backend.estimate(scan, patches, ReconstructionConfig(), RUNTIME)
    *_, last = backend.refine(
        scan, start, normalised_probe(scan), ReconstructionConfig(sweeps=4), RUNTIME,
        Model(CANVAS, random_weights(CANVAS)),
    )  # fmt: skip
    out['canvas_corrected'] = last.image.object
    return out


def steps(name, framework, scan):
    """Five training steps from the same start on the same batches."""
    weights = import_module(f'ptychopinn_plugin.backends.{name}.weights')
    out = {}
    for key, (mode, training) in TRAININGS.items():
        for gridsize in (1, 2):
            config = dataclasses.replace(NETWORKS['one'], mode=mode, gridsize=gridsize)
            module = framework.module(config, training)
            drawn = weights.export_weights(module.network)
            out[f'drawn_{key}_{gridsize}'] = np.concatenate([w.ravel() for w in drawn.values()])
            start = random_weights(config)
            weights.import_weights(module.network, start)
            train_set, _ = batching.datasets([scan], [], config, training)
            batches = [b for b, _ in zip(train_set, range(STEPS), strict=False)]
            losses = framework.train(module, batches, training.learning_rate)
            end = weights.export_weights(module.network)
            out[f'losses_{key}_{gridsize}'] = np.array(losses)
            moved = [(end[k] - start[k]).ravel() for k in weight_shapes(config)]
            out[f'moved_{key}_{gridsize}'] = np.concatenate(moved)
    return out


def reconstruction(name, scan):
    """Estimate, sweeps and how well they explain the data."""
    backend = registry.load(name)
    config = NETWORKS['one']
    model = Model(config, random_weights(config))
    probe = normalised_probe(scan)
    estimate = backend.estimate(scan, model, ReconstructionConfig(), RUNTIME)
    out = {'estimate': estimate.object, 'estimate_weight': estimate.weight}
    for key, start, sweeps, how in (
        ('sweep', estimate, 1, {}),
        ('probe_sweep', estimate, 3, {'update_probe': True}),
        ('refined', estimate, 5, {}),
        ('moved', estimate, 5, {'correct_positions': True}),
        ('flat', flat_start(scan), 40, {}),
        ('uneven', estimate, 7, {}),
    ):
        settings = ReconstructionConfig(sweeps=sweeps, **how)
        seen = uneven(scan) if key == 'uneven' else scan
        *_, last = backend.refine(seen, start, probe, settings, RUNTIME)
        moved = position_correction.moved_scan(seen, last.positions_px, scan.frame)
        error, pattern = backend.predict(moved, last.image, last.probe, RUNTIME, last.intensities)
        out |= {
            f'{key}_object': last.image.object,
            f'{key}_probe': last.probe,
            f'{key}_loss': np.array(last.loss),
            f'{key}_positions': last.positions_px,
            f'{key}_error': np.array(error),
            f'{key}_pattern': pattern(3),
        }
    return out | on_device(name, scan, estimate, probe)


def on_device(name, scan, start, probe):
    """The steps that run on a GPU, here on the CPU."""
    refine = import_module(f'ptychopinn_plugin.backends.{name}.refine')
    out = {}
    for key, asked in (
        ('device', {}),
        ('device_probe', {'update_probe': True}),
        ('device_moved', {'correct_positions': True}),
        ('device_steady', {}),
        ('device_uneven', {}),
    ):
        # As if the first sweep had been too long: a of the denominators changes on the way.
        rises = [key == 'device_steady', *[False] * 6]
        sweeper.unsteady = lambda losses, rises=rises: rises[len(losses) - 1]
        settings = ReconstructionConfig(sweeps=7 if key == 'device_uneven' else 3, **asked)
        seen = uneven(scan) if key == 'device_uneven' else scan
        for where, whole in (('graph', True), ('memory', False)):
            if name == 'torch':
                import torch

                from ptychopinn_plugin.backends.torch.evaluate import predict

                how, given = {'whole': whole}, (torch.device('cpu'),)
                predict = partial(predict, device=given[0], **how)
            else:
                from ptychopinn_plugin.backends.tensorflow.memory import TRANSFORMS

                how, given = {'on_gpu': whole}, ()
                predict = partial(far_field.predict, TRANSFORMS)
            *_, last = refine.refine(seen, start, probe, settings, *given, **how)
            error, pattern = predict(seen, last.image, last.probe, intensities=last.intensities)
            assert (last.intensities is None) == (seen is scan)
            out |= {
                f'{key}_{where}_object': last.image.object,
                f'{key}_{where}_probe': last.probe,
                f'{key}_{where}_positions': last.positions_px,
                f'{key}_{where}_errors': np.array([error, last.loss]),
                f'{key}_{where}_pattern': pattern(3),
            }
    return out


def main(name, source, target):
    with np.load(source) as stored:
        given = {key: stored[key] for key in stored.files}
    framework, scan = FRAMEWORKS[name](), scan_of(given)
    out = physics(name, framework, given)
    out |= networks(name, framework)
    out |= canvas(name, framework, scan)
    out |= steps(name, framework, scan)
    out |= reconstruction(name, scan)
    assert not {'torch', 'tensorflow'} - {name} & set(sys.modules)
    np.savez(target, **out)


if __name__ == '__main__':
    main(*sys.argv[1:])
