"""How sweeps go, decided once for every back end: step sizes, momentum, regularisation, batches.

Steps beyond a whole one find the picture and then keep the noise of the patterns they saw last;
steps that shrink over the second half of the sweeps average over all of them. Where patterns hardly
overlap (`light`) there is little to average and far to go: there only the last quarter settles, and
a network looks at the object on the way. Between sweeps the object is pushed on along its last
change. Numbers and measurements: benchmarks/RESEARCH.md.

A root of counts is biased where counts are few: most of those pixels read zero, and to follow each
zero all the way down loses what the rare photons say. The gradient of the Poisson likelihood goes
half of the way, -1/2 of the field, and so do the settling sweeps.

A small regularisation finds the picture soonest, for it steps as far in dim light as in bright;
what it leaves there is noise, which the last sweeps, with a larger one, average away, if losses
that hardly fall say that what there is has been found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from .grouping import Rows
from .light import Light
from .scan import Complex, Double, Float, Scan

# Object and probe answer the same misses: where a batch covers the object their steps add up, and
# sweeps diverge where they are more than two whole ones. By how many patterns of a batch a place
# may be seen before an unknown probe takes less than its step, by how much less with every pattern
# more, and the least; and by how many at all: even with a known probe sweeps of few photons diverge
# beyond.
APART, FALLING, LEAST_FOLLOWING, MOST_SEEN = 0.5, 0.3, 0.1, 3.0
# The more where a beam has no edge, and slow waves are the last to come, and photons are not so few
# that it piles up noise instead, nor patterns that see a place: photons in the beam, per pixel and
# pattern, and patterns.
MOMENTUM, MOMENTUM_PHOTONS, MOMENTUM_VIEWS = (0.5, 0.65), (50.0, 300.0), (2.0, 4.0)
MOMENTUM_SHARE = 0.9  # of the sweeps; the last ones settle
FULL_PACE, SMALLEST_PACE = 1.25, 0.1
# Of how many sweeps one settles, and the last step times their number.
SETTLING, SETTLING_SPARSE = (2, 2.0), (4, 4.0)
# Dim light is damped when more than such a share of the settling is over and a loss is more than
# such a share of the one before, if at least so many sweeps settle: fewer average little.
DAMPING, DAMPING_SPARSE, LEAST_DAMPED = (0.5, 0.9), (0.0, 0.95), 3
POISSON_FALL = 0.5
REGULARISATION = (0.1, 0.5)  # of many and of few photons
# Where a loss is so many times the least before it, steps in dim light were too long, as under
# Gaussian beams and many photons: a of the sweeps from there on.
RISE, STEADY = 1.03, 0.35
SOFTNESS = 2.3, 2.8  # of a beam: from here to there it loses its edge
BRIGHT_PHOTONS = 1000.0  # under the beam, per pixel and pattern: the least for the former
LARGEST_BATCH = 32  # what stays in a CPU's cache
# Smaller batches take more steps a sweep: where sweeps are few, they get further.
FEW_SWEEPS, BATCH_OF_FEW = 8, 24
LEAST_BATCHES = 12  # of a sweep, where patterns are few
# A GPU takes its time for a batch whatever its size, and the picture is the same: patterns, pixels.
LARGEST_ON_GPU, MOST_PIXELS_ON_GPU = 256, 2**21
# After these a network, where there is one, adds what it expects of an object, if the scan is
# sparse and enough of its sweeps follow; after the last it takes off noise. Oftener it would push
# the object away from what the patterns say.
NETWORK_SWEEPS, NETWORK_SHARE = (1, 4, 9), 0.5
TOLD_SWEEPS = 4  # of these; later a wrong probe and counts that fluctuate tell as much
FIRST_MOVE = 2  # after this sweep there is an object that tells where patterns belong
FIRST_SCALED = 4  # and after this one by how much the beam was brighter in each
NETWORK_LAST = 0.8
# With fewer sweeps than these over bright patterns (`BRIGHT_PHOTONS`), one more gains more in the
# time of a look.
HURRIED_SWEEPS = 10
# Amplitudes and denominators are kept between sweeps while they fit. To fill new memory takes as
# long as to make amplitudes a few times: so many sweeps pay for it.
CACHE_BYTES, KEEPING_SWEEPS = 1 << 30, 4

# Held-out patterns, where they decide: their share, their least and largest number, from which
# sweep they are asked, also where positions or intensities of the others are found meanwhile and
# theirs are not, and the share of all that they gained below which a sweep gains nothing.
HELD_SHARE, LEAST_HELD, MOST_HELD = 0.05, 8, 256
FIRST_ASKED, FIRST_ASKED_CORRECTED = 4, 8
GAINS_NOTHING = 0.002


@dataclass(frozen=True)
class SweepPlan:
    """One sweep.

    pace      the share of a full step it takes
    fall      the largest share of its modulus that a pixel of the far field may lose in a step
    correct   whether the slow phase is corrected after it
    momentum  by what share of its last change the object is pushed on before the next
    network   the share of its answer by which a network, where there is one, corrects the object
    told      whether counts tell what the amplitude feigns of the slow phase
    move      whether the positions are corrected after it
    intensities  whether the patterns are scaled to the beam's intensity after it
    renew     whether the denominators of a probe that changes are made anew
    damp      with a last loss above such a share of the one before, steps in dim light are damped
              from this sweep on, by the a of `STEADY`; see `little_left`
    """

    pace: float
    fall: float
    correct: bool
    momentum: float
    network: float
    told: bool = False
    move: bool = False
    intensities: bool = False
    renew: bool = True
    damp: float = math.inf


def plan_sweep(
    number: int,
    total: int,
    *,
    sparse: bool = False,
    slow_phase: bool = True,
    correct_positions: bool = False,
    correct_intensities: bool = True,
    momentum: float = MOMENTUM[0],
) -> SweepPlan:
    """Return the plan of sweep `number` (from 1) of `total`, of a scan whose patterns hardly
    overlap (`sparse`) or do, with the `momentum` for its beam.
    """
    of, sweeps = SETTLING_SPARSE if sparse else SETTLING
    share, fallen = DAMPING_SPARSE if sparse else DAMPING
    settling = total // of
    gone = max(0, number - total + settling) / max(1, settling)
    last = min(1.0, max(SMALLEST_PACE, sweeps / total))
    moving = 1 < number < total and number <= MOMENTUM_SHARE * total
    looked_at = sparse and number in NETWORK_SWEEPS and number <= NETWORK_SHARE * total
    return SweepPlan(
        pace=FULL_PACE - (FULL_PACE - last) * gone,
        fall=POISSON_FALL if gone else 1.0,
        correct=slow_phase and due(number),
        told=number <= TOLD_SWEEPS,
        momentum=momentum if moving else 0.0,
        network=NETWORK_LAST if number == total else float(looked_at),
        move=correct_positions and FIRST_MOVE <= number < total,
        intensities=correct_intensities and FIRST_SCALED <= number < total,
        renew=number & (number - 1) == 0,
        damp=fallen if settling >= LEAST_DAMPED and gone > share else math.inf,
    )


def held_out(patterns: int, seed: int) -> Rows | None:
    """Return the rows that are held out of `patterns`, or None where they are too few."""
    count = min(MOST_HELD, max(LEAST_HELD, round(HELD_SHARE * patterns)))
    if patterns < 4 * LEAST_HELD:
        return None
    return np.sort(np.random.default_rng([seed, 11]).permutation(patterns)[:count])


def settled(errors: Sequence[float], *, corrected: bool = False) -> bool:
    """Return whether the held-out patterns, whose errors after every sweep so far are given, gained
    next to nothing by the last; `corrected` where the other patterns are moved or scaled.
    """
    if len(errors) < (FIRST_ASKED_CORRECTED if corrected else FIRST_ASKED):
        return False
    return errors[-2] - errors[-1] < GAINS_NOTHING * (errors[0] - min(errors))


def unsteady(losses: Sequence[float]) -> bool:
    """Return whether the last of the losses of the sweeps so far, or since a network looked, is
    worse than the least.
    """
    return losses[-1] > RISE * min(losses)


def little_left(losses: Sequence[float], share: float) -> bool:
    """Return whether the last of the losses of the sweeps so far, or since a network looked, is
    more than this share of the one before, so that what there is has been found.
    """
    return len(losses) > 1 and losses[-1] > share * losses[-2]


def due(number: int) -> bool:
    """Return whether the slow phase is corrected after sweep `number`: 1, 2, 3, 4, 6, 8, 12, 16,
    24, ...
    """
    while number and number % 2 == 0:
        number //= 2
    return number in (1, 3)


def regularisation(probe: Complex) -> float:
    """Return a of the sweeps' denominator for a probe (P, N, N) whose power is in photons.

    A small a makes fast steps where there is little light: noisy ones where photons are few, and
    ever wilder ones under a beam without an edge, neither in the object nor on the detector.
    """
    low, high = REGULARISATION
    share = float(np.clip(low * BRIGHT_PHOTONS / _photons(probe), low, high))
    return max(share, STEADY * edgeless(probe))


def momentum_for(probe: Complex, light: Light) -> float:
    """Return the momentum of the sweeps for a probe (P, N, N) whose power is in photons."""
    bright = np.interp(np.log(_photons(probe)), np.log(MOMENTUM_PHOTONS), (0, 1))
    seen = np.interp(light.middle_views, MOMENTUM_VIEWS, (0, 1))
    least, most = MOMENTUM
    return least + (most - least) * edgeless(probe) * float(bright * seen)


def hurried(sweeps: int, probe: Complex) -> bool:
    """Return whether so few sweeps with a probe (P, N, N) whose power is in photons are better off
    without a network.
    """
    return sweeps < HURRIED_SWEEPS and _photons(probe) > BRIGHT_PHOTONS


def _photons(probe: Complex) -> float:
    """Return the photons per pixel in the beam of a probe (P, N, N)."""
    power = (np.abs(probe) ** 2).sum(0).astype(np.float64)
    return float((power**2).sum() / power.sum())


def edgeless(probe: Complex) -> float:
    """Return 0 for a probe (P, N, N) with an edge, in the object or on the detector, and 1 for one
    without.
    """
    beams = ((np.abs(wave) ** 2).sum(0) for wave in (probe, fft.fft2(probe)))
    return float(np.interp(min(map(softness, beams)), SOFTNESS, (0, 1)))


def following(light: Light, share: float) -> float:
    """Return which share of its step an unknown probe takes, for batches of such a share of all
    patterns.
    """
    seen = share * light.middle_views
    return max(LEAST_FOLLOWING, 1 - FALLING * max(0.0, seen - APART))


def softness(power: Float | Double) -> float:
    """Return how many pixels of a beam (N, N) hold 90 % of its power over how many hold half of it:
    1.8 of a disc, 3.3 of a Gaussian.
    """
    falling = np.cumsum(np.sort(power.ravel())[::-1])
    most, half = np.searchsorted(falling, [0.9 * falling[-1], 0.5 * falling[-1]]) + 1
    return float(most / half)


def batch_size(scan: Scan, sweeps: int, light: Light, *, on_gpu: bool = False) -> int:
    """Return a batch size that keeps its patterns apart, for so many sweeps."""
    largest = BATCH_OF_FEW if sweeps <= FEW_SWEEPS else LARGEST_BATCH
    if on_gpu:
        largest = max(LARGEST_BATCH, min(LARGEST_ON_GPU, MOST_PIXELS_ON_GPU // scan.side_px**2))
    most = int(MOST_SEEN * len(scan) / light.middle_views)
    return max(4, min(largest, len(scan) // LEAST_BATCHES, most))
