"""Whether patterns, probe and geometry belong together: the place and the size of the bright field
in the mean pattern against the probe's far field, the probe in its window, lengths among each
other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import map_coordinates

from ..centring import OFF_CENTRE_PX, off_centre_px
from ..geometry import pixel_size_m
from ..scan import Double
from .finding import NOTE, WARNING, Finding
from .sample import Sample

# All measured, on clean scans and spoiled ones: benchmarks/checks.py.
FAR_OFF_CENTRE_PX = 3.0
SHIFTED = 0.25  # of N: further off it is no misalignment
SCALES = np.exp(np.linspace(np.log(0.5), np.log(2), 57))
NARROW, WIDE = 0.94, 1.25  # of the measured bright field over the probe's: a clean scan lies within
SHARP = 0.05  # gain in correlation that makes a smaller factor count
SHARP_WIDE = 1.1
FRAME = 16  # the outer N/16 pixels on each side of a window
WRAPPED = 0.05  # share of the light there
NARROWEST_PX = 2.5
LENGTHS_AGREE = 0.01
AXES = 'yx'
HC_EV_M = 1.239841984e-6


def centre(sample: Sample) -> Iterator[Finding]:
    """Find a zero frequency that is not at [N // 2, N // 2]."""
    y, x = off_centre_px(sample.mean, sample.far, sample.good)
    away = float(np.hypot(y, x))
    if away < OFF_CENTRE_PX:
        return
    saw = (
        f"The bright field lies (y, x) = ({y:+.1f}, {x:+.1f}) px from the probe's far field, that "
        f'is from the zero frequency at [N//2, N//2]'
    )
    if max(abs(y), abs(x)) > SHIFTED * sample.side:
        yield Finding(
            'centre', WARNING, f'{saw}: the patterns look FFT-shifted',
            'With the zero frequency in a corner nothing that comes out is the object',
            'Apply np.fft.fftshift over the last two axes of the patterns',
        )  # fmt: skip
        return
    ramp = 2 * np.pi * away / sample.side
    yield Finding(
        'centre', WARNING if away >= FAR_OFF_CENTRE_PX else NOTE, saw,
        f'It becomes a phase ramp of {ramp:.2g} rad/px on the object, which a wedge-shaped '
        f'specimen or a tilted probe also shows',
        'Move the crop centre of the patterns by as much, or let --update-probe take the ramp',
    )  # fmt: skip


def bright_field(sample: Sample) -> Iterator[Finding]:
    """Find a bright field of another size than the probe's."""
    factor, gain = bright_field_scale(sample)
    if not (factor < NARROW or factor > WIDE or (factor > SHARP_WIDE and gain > SHARP)):
        return
    yield Finding(
        'bright field',
        WARNING if factor < NARROW or gain > SHARP else NOTE,
        f"The bright field of the patterns is {factor:.2f} times as wide as the probe's far field",
        'The distance, the detector pixel, the wavelength or the size of the probe guess is wrong '
        'by about that factor; a strong, finely structured specimen also widens it',
        'Check energy, distance and detector pixel size (after binning), and the probe guess; '
        '--update-probe corrects small differences',
    )


def bright_field_scale(sample: Sample) -> tuple[float, float]:
    """Return the factor on the probe's far field that fits the mean pattern best, and by how much
    the correlation grows.
    """
    y0, x0 = off_centre_px(sample.mean, sample.far, sample.good)
    n, seen = sample.side, sample.mean * sample.good
    axis = np.arange(n, dtype=np.float64) - n // 2
    # Half of the resolution is enough where N is large, and a quarter of the work.
    stride = max(1, n // 64)
    y, x = np.meshgrid(axis[::stride], axis[::stride], indexing='ij')
    seen, good = seen[::stride, ::stride], sample.good[::stride, ::stride]
    fits = []
    for factor in SCALES:
        at = [(y - y0) / factor + n // 2, (x - x0) / factor + n // 2]
        probe = map_coordinates(sample.far, at, order=1) * good
        fits.append((probe * seen).sum() / max(np.sqrt((probe**2).sum() * (seen**2).sum()), 1e-300))
    best = int(np.argmax(fits))
    return float(SCALES[best]), float(fits[best] - fits[len(SCALES) // 2])


def window(sample: Sample) -> Iterator[Finding]:
    """Find a probe that does not fit its window, in space or in frequency."""
    if sample.diameter_px < NARROWEST_PX:
        yield Finding(
            'probe width', WARNING,
            f'80 % of the probe lie within {sample.diameter_px:.1f} px',
            'Such a probe sees no neighbouring pixels, so that nothing ties the patterns together',
            'Check the pixel size of the probe guess and its units',
        )  # fmt: skip
    share = frame_share(sample.power)
    if share > WRAPPED and frame_share(np.fft.fftshift(sample.power)) < WRAPPED:
        yield Finding(
            'probe width', WARNING,
            f'The probe is bright in the corners of its {sample.side} px window and dark in the '
            'middle: it looks FFT-shifted',
            'Positions are those of the middle of the probe, and what leaves its window on one '
            'side comes in again on the other',
            'Apply np.fft.fftshift over the last two axes of the probe',
        )  # fmt: skip
    elif share > WRAPPED:
        yield Finding(
            'probe width', WARNING,
            f'{share:.0%} of the probe lie in the outer 1/{FRAME} of its {sample.side} px window',
            'What leaves the window on one side comes in again on the other: the patterns are '
            'undersampled for a probe this wide',
            'Check the pixel size of the probe guess; else crop less of the detector or bin less',
        )  # fmt: skip
    share = frame_share(sample.far)
    if share > WRAPPED:
        yield Finding(
            'probe curvature', WARNING,
            f"{share:.0%} of the probe's far field lie in the outer 1/{FRAME} of the detector",
            'The curvature of the probe guess is too strong for its pixels, or the detector cuts '
            'the beam off',
            'Check the defocus and the pixel size of the probe guess; take a larger detector area',
        )  # fmt: skip


def frame_share(power: Double) -> float:
    """Return the share of `power` (N, N) in the outer N / 16 pixels."""
    width = max(1, len(power) // FRAME)
    inside = power[width:-width, width:-width].sum()
    return float(1 - inside / power.sum()) if power.sum() > 0 else 0.0


def lengths(sample: Sample) -> Iterator[Finding]:
    """Find lengths that contradict each other."""
    g = sample.scan.geometry
    known = g.photon_energy_eV and g.detector_distance_m and g.detector_pixel_size_m
    if not known or g.pixel_size_m is None:
        return
    assert g.photon_energy_eV
    assert g.detector_distance_m
    assert g.detector_pixel_size_m
    due = pixel_size_m(
        g.photon_energy_eV, abs(g.detector_distance_m), g.detector_pixel_size_m, sample.side
    )
    ratios = np.array(g.pixel_size_m) / np.array(due)
    axis = int(np.abs(np.log(ratios)).argmax())
    if abs(ratios[axis] - 1) > LENGTHS_AGREE:
        one_axis = abs(ratios[0] / ratios[1] - 1) > LENGTHS_AGREE
        yield Finding(
            'lengths', WARNING,
            f'The object pixel is {g.pixel_size_m[axis] * 1e9:.4g} nm'
            f'{f" in {AXES[axis]}" if one_axis else ""}, but wavelength x distance / '
            f'(N x detector pixel) is {due[axis] * 1e9:.4g} nm: a factor of {ratios[axis]:.4g}',
            'Positions in metres become wrong pixels, and the probe has the wrong size',
            'Check the energy [eV], the distance [m], the detector pixel [m] and whether patterns '
            'were cropped or binned after the object pixel was set',
        )  # fmt: skip


def near_field(sample: Sample) -> Iterator[Finding]:
    """Find data for which the far-field model does not hold."""
    g = sample.scan.geometry
    saw, level = [], NOTE
    if g.near_field:
        saw, level = ['The product declares near-field data'], WARNING
    if g.photon_energy_eV and g.detector_distance_m and g.pixel_size_m:
        z_m = abs(g.detector_distance_m) * HC_EV_M / g.photon_energy_eV  # times the wavelength
        pixel_m = max(g.pixel_size_m)
        fresnel = (sample.diameter_px * pixel_m) ** 2 / z_m
        aliased = sample.side * pixel_m**2 / z_m
        if aliased > 1:
            level = WARNING
            saw.append(
                f'The object pixel is {aliased:.3g} times as large as that of the detector, so '
                f'that the curvature of the wave between them is not sampled'
            )
        if fresnel > 1:
            saw.append(
                f'The Fresnel number of the {sample.diameter_px:.0f} px probe is {fresnel:.3g}'
            )
    if saw:
        yield Finding(
            'near field', level, '; '.join(saw),
            'Every pattern is taken for the Fourier transform of the exit wave: the far field',
            'Check distance and energy; near-field data need another algorithm',
        )  # fmt: skip
