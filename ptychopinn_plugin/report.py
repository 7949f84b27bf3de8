"""Figures for people: a reconstruction at a glance, a loss curve. PNG, PDF or SVG by the suffix,
drawn without a display.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import atomic_path
from .files import check_target
from .result import Epoch, ObjectImage, Reconstruction
from .scan import Array, Bool, Float, Scan

PathLike = str | os.PathLike[str]
Panels = dict[str, Any]  # axes by name

FIGURE_SUFFIXES = ('.png', '.pdf', '.svg')
DPI = 130
VECTOR_DPI = 300  # of the images in a PDF or SVG, which is printed or looked at closely
LIT = 0.02  # of the brightest illumination: below it an object is shown as background
WELL_LIT = 0.1  # the colours span what is seen here: the noise beyond would set them instead
PERCENTILES = (0.5, 99.5)  # colour limits, so that a few hot pixels do not set them
MARGIN_PX = 2
NAME_LENGTH = 110
MANY_POSITIONS = 4000  # that many dots would hide the image
BACKGROUND = '#cbd5e1'  # not a grey, which would pass for an amplitude
FLOOR_COUNTS = 0.5  # where the colours of a pattern begin: half a count
MARGINS = (0.045, 0.065, 0.95, 0.885, 0.28, 0.27)  # left, bottom, right, top, between the panels
STEPS = (1, 2, 5)  # a scale bar is one of these times a power of ten


def save_figure(reconstruction: Reconstruction, scan: Scan, path: PathLike) -> None:
    """Write the summary of a reconstruction: object, light, example pattern, losses.

    The phase of the start is shown too when a network made it, and the uncertainty when known. The
    images show the lit part of the object only; each phase is shifted to a weighted mean of 0, its
    ramp stays. Raises `OutputError` when the file cannot be written or has another suffix.
    """
    mosaic = _mosaic(reconstruction)
    with _figure(path, (4.35 * len(mosaic[0]), 7.6)) as figure:
        title = _title(reconstruction, scan)  # a $ in a name is no formula
        figure.suptitle(title, x=0.012, y=0.985, ha='left', fontsize=11, parse_math=False)
        figure.subplots_adjust(*MARGINS)
        axes = figure.subplot_mosaic(mosaic)
        _draw_object(axes, reconstruction, scan)
        _draw_patterns(axes, reconstruction, scan)
        _draw_losses(axes['losses'], reconstruction)


def _mosaic(reconstruction: Reconstruction) -> list[list[str]]:
    """Return the names of the panels, by rows."""
    above, below = ['amplitude', 'phase'], ['measured', 'predicted', 'losses']
    if reconstruction.start == 'network':
        above.append('start')
    if reconstruction.image.uncertainty is not None:
        above.append('uncertainty')
    above.append('weight')
    return [above, below + ['losses'] * (len(above) - len(below))]


def save_loss_curve(history: Sequence[Epoch], path: PathLike) -> None:
    """Write the losses of a training over its epochs, as `save_figure` does; raises `OutputError`.

    The best epoch is that of the lowest validation loss, of the training loss where there is none.
    """
    with _figure(path, (7.0, 4.2)) as figure:
        axes = figure.add_axes((0.12, 0.11, 0.85, 0.86))
        numbers, best = [e.number for e in history], None
        for colour, name in (('C0', 'training'), ('C1', 'validation')):
            losses = np.array([getattr(e, f'{name}_loss') for e in history], float)
            _curve(axes, numbers, losses, colour, name)
            if np.isfinite(losses).any():
                row = int(np.where(np.isfinite(losses), losses, np.inf).argmin())
                best = numbers[row], losses[row]
        if best is not None:
            label = f'best: {best[1]:.4g} in epoch {best[0]}'
            axes.plot(*best, 'o', mfc='none', mec='k', ms=11, label=label)
        _finish_curve(axes, 'epoch', 'loss')


@contextmanager
def _figure(path: PathLike, size_inches: tuple[float, float]) -> Iterator[Any]:
    """Yield a figure that becomes a file at `path`, without pyplot and its global state."""
    check_target(path, FIGURE_SUFFIXES)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, dpi=DPI)  # a layout engine would double the time
    FigureCanvasAgg(figure)
    yield figure
    kind = Path(path).suffix.lower().removeprefix('.')
    with atomic_path(path) as part:
        figure.savefig(part, format=kind, dpi=DPI if kind == 'png' else VECTOR_DPI)


def _title(reconstruction: Reconstruction, scan: Scan) -> str:
    sweeps = max(len(reconstruction.losses) - 1, 0)
    name = ''.join(c if c.isprintable() else ' ' for c in scan.name)
    return (
        f'{name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"}\n'
        f'{len(scan)} patterns of {scan.side_px}x{scan.side_px} px,  '
        f'back end {reconstruction.backend},  {reconstruction.start} start,  '
        f'{sweeps} sweep{"s" * (sweeps != 1)},  Fourier error {reconstruction.fourier_error:.3g}'
    )


def _draw_object(axes: Panels, reconstruction: Reconstruction, scan: Scan) -> None:
    image, estimate = reconstruction.image, reconstruction.estimate
    bright = _above(image.weight, WELL_LIT)
    low, high = colour_limits(image.amplitude[bright])
    colours: dict[str, Any] = {'cmap': 'gray', 'vmin': low, 'vmax': high}
    _draw_map(axes['amplitude'], image.amplitude, image, 'Amplitude', 'transmission', colours)
    phase = level_phase(image)
    low, high = colour_limits(phase[bright])
    colours = {'cmap': 'viridis', 'vmin': low, 'vmax': high}
    if high - low > 1.8 * np.pi:  # it wraps: -pi and pi must look the same
        colours = {'cmap': 'twilight', 'vmin': -np.pi, 'vmax': np.pi}
    _draw_map(axes['phase'], phase, image, 'Phase', 'rad', colours)
    if 'start' in axes:  # in the same colours, so that the two can be compared
        phase, name = level_phase(estimate), 'Phase of the network estimate'
        _draw_map(axes['start'], phase, estimate, name, 'rad', colours)
    if image.uncertainty is not None:
        _draw_uncertainty(axes['uncertainty'], image, image.uncertainty, bright)
    size = scan.geometry.known_pixel_size_m
    if size is not None:
        for name in axes.keys() & {'amplitude', 'phase', 'start'}:
            _draw_scale_bar(axes[name], size[1])
    light, name = axes['weight'], 'Illumination weight'
    _draw_map(light, image.weight, image, name, 'of the maximum', {'cmap': 'inferno', 'vmin': 0})
    if len(scan) <= MANY_POSITIONS:
        y, x = reconstruction.positions_px.T
        light.plot(x, y, '.', color='w', ms=1.5, alpha=0.6, scalex=False, scaley=False)
        light.set_title(f'{name} and positions', fontsize=10)


def _draw_uncertainty(ax: Any, image: ObjectImage, sigma: Float, bright: Bool) -> None:
    high = colour_limits(sigma[bright])[1]
    how: dict[str, Any] = {'cmap': 'magma', 'vmin': 0, 'vmax': high}
    _draw_map(ax, sigma, image, 'Uncertainty of the phase', 'rad, one sigma', how)


def level_phase(image: ObjectImage) -> Float:
    """Return the phase [rad], (H, W), after the turn that makes the weighted mean real and > 0."""
    mean = np.nansum(image.object.astype(np.complex128) * image.weight)
    phase: Float = np.angle(image.object * np.complex64(np.exp(-1j * np.angle(mean))))
    return phase


def colour_limits(values: Array) -> tuple[float, float]:
    """Return robust limits that never coincide, even when all values are equal."""
    values = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(values, PERCENTILES)) if values.size else (0, 1)
    room = max(0.5 * (0.02 - (high - low)), 0.0)
    return low - room, high + room


def _above(weight: Float, share: float) -> Bool:
    lit: Bool = weight > share * weight.max()
    return lit if lit.any() else np.ones(weight.shape, bool)


def _draw_map(ax: Any, values: Array, image: ObjectImage, name: str, unit: str, how: Any) -> None:
    """Draw `values` (H, W) of an image where it is lit, in the coordinates of the scan."""
    lit = _above(image.weight, LIT)
    top, left = np.maximum(np.argwhere(lit).min(0) - MARGIN_PX, 0)
    bottom, right = np.minimum(np.argwhere(lit).max(0) + 1 + MARGIN_PX, lit.shape)
    part = np.s_[top:bottom, left:right]
    y, x = (origin - 0.5 for origin in image.origin_px)  # edges; pixel centres are whole numbers
    extent = (x + left, x + right, y + bottom, y + top)
    _draw_image(ax, np.ma.array(values[part], mask=~lit[part]), name, unit, extent=extent, **how)


def _draw_image(ax: Any, values: Array, name: str, unit: str, **how: Any) -> None:
    from mpl_toolkits.axes_grid1 import make_axes_locatable  # type: ignore[import-untyped]

    ax.set_facecolor(BACKGROUND)
    drawn = ax.imshow(values, **how)
    ax.set_title(name, fontsize=10)
    _label(ax, 'x [px]', 'y [px]')
    beside = make_axes_locatable(ax).append_axes('right', size='5%', pad=0.07)
    ax.figure.colorbar(drawn, cax=beside).set_label(unit, fontsize=8)
    beside.tick_params(labelsize=8)


def _label(ax: Any, x: str, y: str) -> None:
    ax.locator_params(axis='x', nbins=5, integer=True)
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=8, which='both')


def scale_bar(width_m: float) -> tuple[float, str]:
    """Return the length [m] of a round scale bar of about a fifth of `width_m`, and its label."""
    aim = width_m / 5
    power = 10.0 ** np.floor(np.log10(aim))
    length = float(max(s for s in STEPS if s * power <= aim * 1.0001) * power)
    nanometres = length * 1e9
    return length, f'{nanometres:.4g} nm' if nanometres < 999.9 else f'{nanometres / 1e3:.4g} µm'


def _draw_scale_bar(ax: Any, pixel_size_m: float) -> None:
    from mpl_toolkits.axes_grid1 import anchored_artists

    left, right = ax.get_xlim()
    length_m, label = scale_bar((right - left) * pixel_size_m)
    bar = anchored_artists.AnchoredSizeBar(
        ax.transData, length_m / pixel_size_m, label, 'lower left', color='w', label_top=True,
        pad=0.4, borderpad=0.6, sep=4, size_vertical=0.012 * (right - left), fill_bar=True,
    )  # fmt: skip
    bar.patch.set(facecolor='k', alpha=0.55, linewidth=0)  # else lost on a bright object
    ax.add_artist(bar)


def _draw_patterns(axes: Panels, reconstruction: Reconstruction, scan: Scan) -> None:
    from matplotlib.colors import LogNorm

    pair = {'measured': reconstruction.measured, 'predicted': reconstruction.predicted}
    good = ~scan.bad_pixels
    peaks = [p[good & np.isfinite(p)].max(initial=0.0) for p in pair.values() if p is not None]
    for name, pattern in pair.items():
        title = f'{name.capitalize()} pattern {reconstruction.example}'
        if pattern is None:
            _say_nothing(axes[name], title)
        else:  # bad pixels are background in both, so that the two can be compared
            values = np.ma.array(np.maximum(pattern, FLOOR_COUNTS / 2), mask=~good)
            norm = LogNorm(FLOOR_COUNTS, max([10 * FLOOR_COUNTS, *peaks]))
            _draw_image(axes[name], values, title, 'counts', cmap='magma', norm=norm)


def _say_nothing(ax: Any, title: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.text(0.5, 0.5, 'not recorded', ha='center', va='center', color='0.5', transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])


def _draw_losses(ax: Any, reconstruction: Reconstruction) -> None:
    ax.set_title('Fourier error over the sweeps', fontsize=10)
    sweeps = range(1, len(reconstruction.losses))
    _curve(ax, sweeps, reconstruction.losses[1:], 'C0', 'met during the sweep')
    start, end = reconstruction.start_fourier_error, reconstruction.fourier_error
    _curve(ax, [0], [start], 'C1', f'{reconstruction.start} start: {start:.3g}', 'o')
    _curve(ax, [len(sweeps)], [end], 'C2', f'result: {end:.3g}', 'o')
    _finish_curve(ax, 'sweep', '')


def _curve(ax: Any, x: Sequence[int], y: Any, colour: str, label: str, marker: str = '.') -> None:
    y = np.array(y, float)
    y[~np.isfinite(y)] = np.nan
    if np.isfinite(y).any():
        ax.plot(x, y, color=colour, marker=marker if len(y) <= 100 else '', label=label)


def _finish_curve(ax: Any, x: str, y: str) -> None:
    if not ax.lines:
        return _say_nothing(ax, ax.get_title())
    _label(ax, x, y)
    ax.margins(y=0.1)
    ax.set_xlim(ax.dataLim.x0 - 0.5, max(ax.dataLim.x1, 1) + 0.5)
    scale_losses(ax, 6, 4)
    ax.grid(True, which='major', color='0.9', lw=0.7)
    ax.legend(fontsize=8, frameon=False)


def scale_losses(ax: Any, ticks: int, digits: int) -> None:
    """Give the drawn losses a logarithmic axis, or a linear one where some are not above zero: the
    loss of the architecture unrolled is a logarithm.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = ax.dataLim.intervaly
    if low <= 0:
        ax.yaxis.set_major_locator(MaxNLocator(ticks))
        ax.ticklabel_format(axis='y', useOffset=False)
        return
    ax.set_yscale('log')
    # Few decades need more labels than their powers of ten.
    steps = LogLocator(subs=(1.0,) if high / low > 1000 else (1.0, 2.0, 5.0))
    ax.yaxis.set_major_locator(steps if high / low >= 4 else MaxNLocator(ticks))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:.{digits}g}'))
    ax.yaxis.set_minor_formatter(NullFormatter())
