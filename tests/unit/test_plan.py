"""What a network is: every even size fits on the pixel grid, names are canonical, the size is as published."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from math import prod

import pytest

from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.plan import FRAME_CHANNELS, HEADS, plan, stage_count, weight_shapes

SIDES = range(32, 513, 2)


def parameters(**more):
    return sum(prod(shape) for shape in weight_shapes(ModelConfig(**more)).values())


@pytest.mark.parametrize('side', SIDES)
def test_every_crop_and_pad_is_symmetric_on_whole_pixels(side):
    made = plan(ModelConfig(pattern_size_px=side))
    step = 2 ** stage_count(side)
    assert len(made.encoder) == stage_count(side)
    assert made.padded_px % step == 0
    assert side <= made.padded_px < side + step
    fine = made.padded_px // 2  # the decoders upsample one time less than the encoder pools
    assert (made.padded_px - side) % 2 == 0
    assert fine >= made.central_px
    assert (fine - made.central_px) % 2 == 0
    assert (side - made.central_px) % 2 == 0
    assert 0 <= side - 2 * made.central_px <= 2


@pytest.mark.parametrize('side', SIDES)
def test_the_deepest_map_stays_between_5_and_12_pixels(side):
    deepest = plan(ModelConfig(pattern_size_px=side)).padded_px / 2 ** stage_count(side)
    assert 5 < deepest <= 12


@pytest.mark.parametrize('gridsize', [1, 2, 3])
@pytest.mark.parametrize('framed', [True, False])
def test_channels_follow_from_layer_to_layer(gridsize, framed):
    made = plan(ModelConfig(gridsize=gridsize, probe_big=framed))
    assert set(made.decoders) == set(HEADS)
    assert made.channels == made.encoder[0][0].inputs == gridsize**2
    chain = [conv for stage in made.encoder for conv in stage]
    for decoder in made.decoders.values():
        path = chain + [conv for stage in decoder.stages for conv in stage]
        assert all(a.outputs == b.inputs for a, b in zip(path, path[1:], strict=False))
        assert decoder.head.outputs == gridsize**2
        assert decoder.head.inputs == path[-1].outputs - (FRAME_CHANNELS if framed else 0)
        assert (decoder.frame is not None) == framed
        if decoder.frame is not None:
            assert (decoder.frame.inputs, decoder.frame.outputs) == (FRAME_CHANNELS, gridsize**2)


@pytest.mark.parametrize('side', SIDES)
def test_names_are_unique_and_in_order(side):
    config = ModelConfig(pattern_size_px=side)
    names = [conv.name for conv in plan(config).convolutions()]
    assert len(set(names)) == len(names)
    expected = [f'{name}.{part}' for name in names for part in ('kernel', 'bias')]
    assert list(weight_shapes(config)) == expected


def test_names_and_layouts_of_the_smallest_network_are_pinned():
    shapes = weight_shapes(ModelConfig(pattern_size_px=32, n_filters_scale=1))
    assert shapes == {
        'encoder.0.0.kernel': (64, 1, 3, 3), 'encoder.0.0.bias': (64,),
        'encoder.0.1.kernel': (64, 64, 3, 3), 'encoder.0.1.bias': (64,),
        'encoder.1.0.kernel': (128, 64, 3, 3), 'encoder.1.0.bias': (128,),
        'encoder.1.1.kernel': (128, 128, 3, 3), 'encoder.1.1.bias': (128,),
        'amplitude.0.0.kernel': (64, 128, 3, 3), 'amplitude.0.0.bias': (64,),
        'amplitude.0.1.kernel': (64, 64, 3, 3), 'amplitude.0.1.bias': (64,),
        'amplitude.head.kernel': (1, 60, 3, 3), 'amplitude.head.bias': (1,),
        'amplitude.frame.kernel': (1, 4, 3, 3), 'amplitude.frame.bias': (1,),
        'phase.0.0.kernel': (64, 128, 3, 3), 'phase.0.0.bias': (64,),
        'phase.0.1.kernel': (64, 64, 3, 3), 'phase.0.1.bias': (64,),
        'phase.head.kernel': (1, 60, 3, 3), 'phase.head.bias': (1,),
        'phase.frame.kernel': (1, 4, 3, 3), 'phase.frame.bias': (1,),
    }  # fmt: skip


def test_a_network_of_64_pixels_has_as_many_parameters_as_published():
    assert parameters() == pytest.approx(2.25e6, rel=0.005)


def test_the_size_hardly_depends_on_the_pattern_size():
    assert 1.8e6 < parameters(pattern_size_px=32) < parameters(pattern_size_px=512) < 2.5e6


def test_the_smallest_network_keeps_a_fine_channel():
    made = plan(ModelConfig(pattern_size_px=512, n_filters_scale=1))
    assert made.decoders['phase'].head.inputs >= FRAME_CHANNELS


def test_a_plan_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        plan(ModelConfig()).side_px = 3  # type: ignore[misc]
