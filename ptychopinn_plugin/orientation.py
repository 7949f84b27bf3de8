"""Which way round the patterns lie: a few sweeps for each of their eight flips and swaps.

Diffraction patterns whose axes do not match those of the positions still reconstruct something, at
a high error. Only the right orientation fits, so the check compares the errors of all eight.

What it cannot tell: patterns turned by 180 degrees are explained as well by the complex conjugates
of object and probe. `partner` names the orientation that fits equally under the conjugate probe;
which of the two is right depends on the sign of the defocus in the probe guess.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from . import pipeline
from .backends import registry
from .config import ReconstructionConfig, RuntimeConfig
from .errors import ConfigError, require
from .scan import Array, Scan, frame_around
from .starts import SAMPLE
from .trials import unheard

SWEEPS = 6
PATTERNS = 192
MARGIN = 1.0
"""The gap below the other errors must be this many times their own range for a clear answer.

Right answers on simulated and real scans of structure show 1.1 to 11, wrong ones at most 0.85.
"""
SMALLEST_GAP = 0.05
"""And it must be this share of the best error. Wrong answers stay below: noise alone passes the
margin once in 30 scans, but its gaps are 1 % of the error, 4.6 % at 11 photons per pattern.
"""
FLOORS, UNEXPLAINED, FEWEST_SWEEPS = 2.0, 0.01, 5


@dataclass(frozen=True)
class Orientation:
    """A turn of patterns: axes swapped first where `swap`, then flipped along y and x."""

    swap: bool = False
    flip_y: bool = False
    flip_x: bool = False

    @property
    def name(self) -> str:
        """The stable name, for example 'swap axes, flip y'."""
        flips = ' and '.join(axis for axis, on in (('y', self.flip_y), ('x', self.flip_x)) if on)
        parts = ['swap axes'] * self.swap + [f'flip {flips}'] * bool(flips)
        return ', '.join(parts) or 'as loaded'

    def __call__(self, patterns: Array) -> Array:
        """Return patterns (..., N, N) turned; zero frequency stays at [N // 2, N // 2].

        A flip takes frequency k to -k. The axis is even, so after reversing it is rolled by one;
        the frequency -N/2, which has no positive twin, stays where it is.
        """
        if self.swap:
            patterns = np.swapaxes(patterns, -2, -1)
        for on, axis in ((self.flip_y, -2), (self.flip_x, -1)):
            if on:
                patterns = np.roll(np.flip(patterns, axis), 1, axis)
        return patterns


AS_LOADED = Orientation().name
TURNS: Mapping[str, Orientation] = {
    turn.name: turn for turn in (Orientation(*on) for on in product((False, True), repeat=3))
}


def orientations() -> tuple[str, ...]:
    """Return the names of the eight orientations, 'as loaded' first."""
    return tuple(TURNS)


def partner(name: str) -> str:
    """Return the orientation 180 degrees from `name`: it fits as well under the conjugate probe."""
    turn = _turn(name)
    return replace(turn, flip_y=not turn.flip_y, flip_x=not turn.flip_x).name


def reoriented(scan: Scan, name: str) -> Scan:
    """Return the scan with counts (M, N, N) and bad pixels (N, N) turned; the rest is kept.

    Raises `ConfigError` when no orientation has that name.
    """
    turn = _turn(name)
    return replace(scan, counts=turn(scan.counts), bad_pixels=turn(scan.bad_pixels))


def _turn(name: str) -> Orientation:
    require(
        name in TURNS,
        ConfigError,
        'There is no such orientation',
        expected=' | '.join(TURNS),
        received=name,
    )
    return TURNS[name]


@dataclass(frozen=True)
class Judgement:
    """How well each orientation explains the patterns.

    errors    fourier_error by name of the orientation, after the sweeps
    patterns  how many patterns were looked at
    floor     fourier_error that photon noise alone leaves there

    Seven wrong orientations miss by about the same, and the right one stands apart from them at
    any level of noise, so the measure is the gap against the range of those above it, not a ratio
    of errors: that would ask for more where noise fills both.
    """

    errors: Mapping[str, float]
    patterns: int
    floor: float

    @property
    def best(self) -> str:
        """The name with the smallest error, whether or not that is `clear`."""
        return self.ranking[0]

    @property
    def ranking(self) -> tuple[str, ...]:
        """The names, the smallest error first."""
        return tuple(sorted(self.errors, key=lambda name: self.errors[name]))

    @property
    def candidates(self) -> tuple[str, ...]:
        """The names that may be right, best first: one when clear, two, or all of them."""
        count = next((n for n in (1, 2) if self._stands_apart(n)), len(self.errors))
        return self.ranking[:count]

    @property
    def clear(self) -> bool:
        """Whether only one orientation may be right."""
        return len(self.candidates) == 1

    def _stands_apart(self, count: int) -> bool:
        """Return whether the best `count` lie below the others by a gap that means something."""
        ranked = [self.errors[name] for name in self.ranking]
        gap, spread = ranked[count] - ranked[count - 1], ranked[-1] - ranked[count]
        return gap > MARGIN * spread and gap > SMALLEST_GAP * ranked[count - 1]


def judge(
    scan: Scan,
    *,
    runtime: RuntimeConfig | None = None,
    sweeps: int = SWEEPS,
    patterns: int = PATTERNS,
    on_orientation: Callable[[str, float], None] = lambda name, error: None,
) -> Judgement:
    """Reconstruct a compact part of the scan in each orientation and compare the errors.

    At most `patterns` neighbours are taken and `sweeps` are run from the flat object. The sweeps
    improve the probe too: a poor or mirrored probe guess would otherwise hide the right answer.
    `on_orientation` sees each name and its fourier_error. Raises as `pipeline.reconstruct` does.
    """
    require(sweeps > 0, ConfigError, 'The check needs sweeps', received=f'sweeps={sweeps}')
    require(patterns > 0, ConfigError, 'The check needs patterns', received=f'patterns={patterns}')
    runtime = runtime or RuntimeConfig()
    backend, part = registry.load(runtime.backend), compact_part(scan, patterns)
    config = ReconstructionConfig(
        'flat', sweeps=sweeps, update_probe=True, correct_intensities=False,
        correct_background=False,
    )  # fmt: skip
    errors: dict[str, float] = {}
    for name in orientations():
        turned = reoriented(part, name)
        steps = pipeline.iterate(turned, backend=backend, reconstruction=config, runtime=runtime)
        with unheard():
            last = deque(steps, maxlen=1)[0]
        errors[name], _ = backend.predict(turned, last.image, last.probe, runtime)
        on_orientation(name, errors[name])
    return Judgement(errors, len(part), noise_floor(part))


def compact_part(scan: Scan, patterns: int) -> Scan:
    """Return the `patterns` patterns nearest to the middle of the scan, in the frame they need."""
    away = np.linalg.norm(scan.positions_px - np.median(scan.positions_px, axis=0), axis=1)
    rows = np.sort(np.argsort(away, kind='stable')[:patterns])
    frame = frame_around(scan.positions_px[rows], scan.side_px)
    return replace(scan.take(rows), frame=frame, object_guess=None, true_object=None)


def noise_floor(scan: Scan) -> float:
    """Return the fourier_error that photon noise leaves under a perfect object and probe.

    The square of sqrt(n) - sqrt(l), of a Poisson count n of mean l, is 1/4 on average where l is
    large. Taking 1 for n = 1 and 1/4 for any n above has the right average within a tenth for
    l >= 1 and is low by up to half in darker pixels. Counts that are not photons give no true
    floor: a scale below one makes it too high. At most `starts.SAMPLE` patterns are read.
    """
    rows = np.linspace(0, len(scan) - 1, min(len(scan), SAMPLE)).astype(int)
    counts = scan.patterns(rows)[:, ~scan.bad_pixels].astype(np.float64)
    noise = np.where(counts < 1.5, counts, 0.25)
    return float(noise.sum() / max(counts.sum(), 1.0))


def suspicious(fourier_error: float, floor: float, sweeps: int) -> bool:
    """Return whether an error after `sweeps` is too high for noise and ordinary imperfections.

    Six sweeps over simulated and real scans end within 0.01 of the floor when all is right (0.02 at
    1000 photons per pattern), unless there is background or the probe guess is poor, and 0.014 or
    more above it when turned. Two floors, because `noise_floor` is low by up to half in dark
    pixels. Below some 10 000 photons per pattern noise may hide a wrong orientation from this rule.
    Before `FEWEST_SWEEPS` any error may still fall.
    """
    return sweeps >= FEWEST_SWEEPS and fourier_error > FLOORS * floor + UNEXPLAINED


def advice(found: Judgement) -> tuple[str, ...]:
    """Return what to tell the user, line by line."""
    if not found.clear:
        return _advice_unclear(found)
    if found.best == AS_LOADED:
        return ('The patterns fit the positions as loaded. There is nothing to do.',)
    turn = _turn(found.best)
    lines = [
        f'The patterns fit the positions after: {found.best}.',
        f'In Ptychodus, toggle for the diffraction data: {_host_switches(turn)}. In a file: '
        f'{_code(turn)}.',
    ]
    if turn.flip_y or turn.flip_x:
        lines.append(
            'Reversing an even axis moves the zero frequency by one pixel: the roll in the code '
            'moves it back; in Ptychodus raise the crop centre by one pixel along that axis.'
        )
    lines.append(
        f'With the complex conjugate of the probe (the other sign of its defocus) '
        f'"{partner(found.best)}" fits as well; trust the one that agrees with your set-up.'
    )
    return tuple(lines)


def _advice_unclear(found: Judgement) -> tuple[str, ...]:
    if len(found.candidates) == len(found.errors):
        return (
            'Unclear: no orientation stands apart from the others.',
            'Try more --patterns and --sweeps, a better probe, or a scan of more structure and '
            'photons; wrong positions (units, scale) give this picture too.',
        )
    first, second = found.candidates
    why = (
        'They differ by 180 degrees: a probe without phase cannot tell them apart.'
        if second == partner(first)
        else 'A specimen that looks the same both ways does this; scan one that does not.'
    )
    return (f'Unclear between "{first}" and "{second}".', why)


def _host_switches(turn: Orientation) -> str:
    """Return the host's switches: it flips before it transposes, we swap first."""
    vertical, horizontal = turn.flip_y, turn.flip_x
    if turn.swap:
        vertical, horizontal = horizontal, vertical
    named = (
        ('Flip Horizontal', horizontal), ('Flip Vertical', vertical), ('Transpose', turn.swap),
    )  # fmt: skip
    return ', '.join(name for name, on in named if on)


def _code(turn: Orientation) -> str:
    """Return NumPy code that turns patterns (M, N, N) named a."""
    text = 'a'
    if turn.swap:
        text = f'np.swapaxes({text}, 1, 2)'
    for on, axis in ((turn.flip_y, 1), (turn.flip_x, 2)):
        if on:
            text = f'np.roll(np.flip({text}, {axis}), 1, {axis})'
    return text
