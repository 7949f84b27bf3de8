"""What a network is, decided once as frozen data that each back end interprets; canonical weight
names and shapes.

The `autoencoder` is PtychoPINN as published (doi:10.1038/s41598-023-48351-7): C channels of
normalised amplitudes; encoder stages of two 3x3 convolutions with ReLU and a 2x2 max-pool; two
decoders (amplitude, phase) whose stages are two 3x3 convolutions with ReLU and a 2x nearest
upsampling; a sigmoid and a pi * tanh head on the central half of each patch, and an outer frame
predicted at low resolution from four reserved channels.

Any even N: the input is zero-padded symmetrically to a multiple of 2**stages, and both decoder
paths are cropped symmetrically to `central_px` and N, so that all of them share the patch centre (N
- 1) / 2.

Canonical layouts: convolution kernels (out, in, rows, columns), biases (out,), all float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import ModelConfig

DEEPEST_FILTERS = 128
FRAME_CHANNELS = 4
HEADS = ('amplitude', 'phase')


@dataclass(frozen=True)
class Conv:
    """One 'same' convolution with bias: canonical name, input and output channels, side of the
    kernel, and by how much its first weights differ in size from Glorot's.
    """

    name: str
    inputs: int
    outputs: int
    size: int = 3
    gain: float = 1.0


@dataclass(frozen=True)
class Decoder:
    """Stages of two convolutions and an upsampling, then the heads of one quantity.

    `frame` is the convolution of the reserved channels that gives the outer frame, or None.
    """

    stages: tuple[tuple[Conv, Conv], ...]
    head: Conv
    frame: Conv | None


@dataclass(frozen=True)
class Plan:
    """The whole network.

    padded_px   input side after zero padding, a multiple of 2 ** (number of encoder stages)
    central_px  side of the finely predicted centre of each patch
    """

    channels: int
    side_px: int
    padded_px: int
    central_px: int
    encoder: tuple[tuple[Conv, Conv], ...]
    decoders: dict[str, Decoder]

    def convolutions(self) -> list[Conv]:
        """Return every convolution in canonical order."""
        found = [conv for stage in self.encoder for conv in stage]
        for decoder in self.decoders.values():
            found += [conv for stage in decoder.stages for conv in stage] + [decoder.head]
            if decoder.frame is not None:
                found.append(decoder.frame)
        return found


def plan(config: ModelConfig) -> Plan:
    """Return the plan of a network."""
    side, channels = config.pattern_size_px, config.gridsize**2
    stages = stage_count(side)
    step = 2**stages
    filters = [
        DEEPEST_FILTERS * config.n_filters_scale // 2 ** (stages - 1 - i) for i in range(stages)
    ]
    filters = [max(f, FRAME_CHANNELS * 2) for f in filters]
    return Plan(
        channels=channels,
        side_px=side,
        padded_px=-(-side // step) * step,
        central_px=side // 4 * 2,
        encoder=_stages('encoder', channels, filters),
        decoders={
            head: _decoder(head, filters[-1], filters[-2::-1], channels, config.probe_big)
            for head in HEADS
        },
    )


def stage_count(side_px: int) -> int:
    """Return the number of encoder stages: the deepest feature map is about 8 pixels a side."""
    stages = 2
    while side_px / 2 ** (stages + 1) > 5.5:
        stages += 1
    return stages


def _stages(name: str, inputs: int, filters: list[int]) -> tuple[tuple[Conv, Conv], ...]:
    made = []
    for i, f in enumerate(filters):
        made.append((Conv(f'{name}.{i}.0', inputs, f), Conv(f'{name}.{i}.1', f, f)))
        inputs = f
    return tuple(made)


def _decoder(name: str, inputs: int, filters: list[int], channels: int, framed: bool) -> Decoder:
    last = filters[-1]
    fine = last - FRAME_CHANNELS if framed else last
    return Decoder(
        stages=_stages(name, inputs, filters),
        head=Conv(f'{name}.head', fine, channels),
        frame=Conv(f'{name}.frame', FRAME_CHANNELS, channels) if framed else None,
    )
