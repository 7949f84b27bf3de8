"""The network plan: any even size, symmetric crops, unique names."""

from __future__ import annotations

from math import prod

import pytest

from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.network_weights import weight_shapes
from ptychopinn_plugin.plan import plan, stage_count

SIDES = range(32, 513, 2)


def sizes(made):
    """Return the sides of both decoder paths as a back end gets them: deepest map, fine, frame."""
    deepest = made.padded_px // 2 ** len(made.encoder)
    fine = deepest * 2 ** len(made.decoders['amplitude'].stages)
    return deepest, fine, 2 * fine


@pytest.mark.parametrize('side', SIDES)
def test_every_even_size_has_symmetric_pads_and_crops(side):
    made = plan(ModelConfig(architecture='autoencoder', pattern_size_px=side))
    _deepest, fine, frame = sizes(made)
    pad = made.padded_px - side
    assert 0 <= pad < 2 ** len(made.encoder)
    assert made.padded_px % 2 ** len(made.encoder) == 0
    # An odd difference would move the patch centre by half a pixel.
    for difference in (pad, fine - made.central_px, frame - side, side - made.central_px):
        assert difference >= 0
        assert difference % 2 == 0
    assert abs(made.central_px - side / 2) <= 1


@pytest.mark.parametrize('side', SIDES)
def test_the_deepest_map_is_about_as_large_for_every_size(side):
    assert 4 <= sizes(plan(ModelConfig(architecture='autoencoder', pattern_size_px=side)))[0] <= 12


def test_stages_grow_with_the_size():
    counts = [stage_count(side) for side in SIDES]
    assert counts == sorted(counts)
    assert (stage_count(64), stage_count(128), stage_count(256)) == (3, 4, 5)


@pytest.mark.parametrize('side', [32, 34, 64, 100, 128, 254, 512])
@pytest.mark.parametrize('gridsize', [1, 2, 4])
@pytest.mark.parametrize('framed', [True, False])
def test_names_are_unique_and_channels_chain(side, gridsize, framed):
    config = ModelConfig(
        architecture='autoencoder', pattern_size_px=side, gridsize=gridsize, probe_big=framed
    )
    made = plan(config)
    names = [c.name for c in made.convolutions()]
    assert len(set(names)) == len(names)
    width = made.channels
    for first, second in made.encoder:
        assert (first.inputs, second.inputs) == (width, first.outputs)
        width = second.outputs
    for decoder in made.decoders.values():
        inner = width
        for first, second in decoder.stages:
            assert (first.inputs, second.inputs) == (inner, first.outputs)
            inner = second.outputs
        assert decoder.head.inputs == inner - (4 if framed else 0)
        assert decoder.head.outputs == gridsize**2
        assert (decoder.frame is not None) == framed


def test_weights_follow_the_convolutions():
    config = ModelConfig(architecture='autoencoder', gridsize=2)
    shapes = weight_shapes(config)
    convolutions = plan(config).convolutions()
    assert len(shapes) == 2 * len(convolutions)
    for conv in convolutions:
        assert shapes[f'{conv.name}.kernel'] == (conv.outputs, conv.inputs, 3, 3)
        assert shapes[f'{conv.name}.bias'] == (conv.outputs,)
    assert shapes['encoder.0.0.kernel'][1] == 4


def test_the_published_size():
    """2.25 M parameters at N = 64."""
    shapes = weight_shapes(ModelConfig(architecture='autoencoder', pattern_size_px=64))
    assert sum(map(prod, shapes.values())) == pytest.approx(2.25e6, rel=0.005)


def test_the_filter_scale_multiplies():
    one, two = (
        plan(ModelConfig(architecture='autoencoder', n_filters_scale=k)).encoder for k in (1, 2)
    )
    assert [s[0].outputs * 2 for s in one] == [s[0].outputs for s in two]


@pytest.mark.parametrize('side', SIDES)
def test_the_narrowest_stage_keeps_channels_for_both_paths(side):
    made = plan(ModelConfig(architecture='autoencoder', pattern_size_px=side, n_filters_scale=1))
    assert min(d.head.inputs for d in made.decoders.values()) >= 4
