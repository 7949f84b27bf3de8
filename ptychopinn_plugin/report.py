"""Figures for people: the result of a reconstruction at a glance, and a loss curve. PNG, drawn without a display."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .atomic import atomic_path
from .result import Epoch, ObjectImage, Reconstruction
from .scan import Array, Bool, Complex, Float, Scan

PathLike = str | os.PathLike[str]

DPI = 130
LIT = 0.02  # of the brightest illumination: below it an object is shown as background
PERCENTILES = (0.5, 99.5)  # colour limits, so that a few hot pixels do not set them
MARGIN_PX = 2
BACKGROUND = '0.85'
FLOOR_COUNTS = 0.5  # where the colours of a pattern begin: half a count
NM_PER_M = 1e9
STEPS = (1, 2, 5)  # a scale bar is one of these times a power of ten


def save_figure(reconstruction: Reconstruction, scan: Scan, path: PathLike) -> None:
    """Write the summary of a reconstruction as PNG: object, light, example pattern, losses.

    The images show the lit part of the object only; the phase is shifted to a weighted mean of 0, its ramp
    stays. Raises `OutputError` when the file cannot be written.
    """
    with _figure(path, (13.0, 7.6)) as figure:
        figure.suptitle(_title(reconstruction, scan), x=0.012, ha='left', fontsize=12)
        axes = figure.subplots(2, 3)
        _draw_object(axes[0], reconstruction.image, scan)
        _draw_patterns(axes[1, :2], reconstruction, scan)
        _draw_losses(axes[1, 2], reconstruction)


def save_loss_curve(history: Sequence[Epoch], path: PathLike) -> None:
    """Write the losses of a training over its epochs as PNG; raises `OutputError`."""
    with _figure(path, (7.0, 4.2)) as figure:
        axes = figure.subplots()
        numbers = [e.number for e in history]
        _curve(axes, numbers, [e.training_loss for e in history], 'C0', 'training')
        validation = np.array([e.validation_loss for e in history], float)
        if np.isfinite(validation).any():
            _curve(axes, numbers, validation, 'C1', 'validation')
            best = int(np.nanargmin(np.where(np.isfinite(validation), validation, np.nan)))
            axes.plot(
                numbers[best], validation[best], 'o', mfc='none', mec='C1', ms=11,
                label=f'best: {validation[best]:.4g} in epoch {numbers[best]}',
            )  # fmt: skip
        _finish_curve(axes, 'epoch', 'loss')


@contextmanager
def _figure(path: PathLike, size_inches: tuple[float, float]) -> Iterator[Any]:
    """Yield a figure that becomes a PNG at `path`; pyplot and its global state are never touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, dpi=DPI, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    yield figure
    with atomic_path(path) as part:
        canvas.print_png(str(part))


def _title(reconstruction: Reconstruction, scan: Scan) -> str:
    sweeps = len(reconstruction.losses) - 1
    return (
        f'{scan.name}:  {len(scan)} patterns of {scan.side_px}×{scan.side_px} px,  '
        f'{reconstruction.backend},  {reconstruction.start} start,  {sweeps} sweep{"s" * (sweeps != 1)},  '
        f'fourier_error {reconstruction.fourier_error:.3g}'
    )


def _draw_object(axes: Array, image: ObjectImage, scan: Scan) -> None:
    lit = _lit(image.weight)
    rows, columns = _bounds(lit)
    shown = lit[rows, columns]
    levelled = level_phase(image.object, image.weight)[rows, columns]
    extent = _extent(rows, columns, image.origin_px)
    amplitude, phase = np.abs(levelled), np.angle(levelled)
    for ax, values, name, unit, colours in (
        (axes[0], amplitude, 'Amplitude', 'transmission', 'gray'),
        (axes[1], phase, 'Phase', 'rad', 'viridis'),
    ):
        low, high = colour_limits(values[shown])
        _draw_image(
            ax, np.ma.array(values, mask=~shown), name, unit,
            cmap=colours, vmin=low, vmax=high, extent=extent,
        )  # fmt: skip
        if scan.geometry.pixel_size_m is not None:
            _draw_scale_bar(ax, scan.geometry.pixel_size_m)
    _draw_image(
        axes[2], image.weight[rows, columns], 'Illumination weight', 'of the maximum',
        cmap='inferno', vmin=0, vmax=1, extent=extent,
    )  # fmt: skip
    spot = scan.positions_px
    axes[2].plot(spot[:, 1], spot[:, 0], '.', color='w', ms=1.5, alpha=0.6, scalex=False, scaley=False)


def level_phase(object_: Complex, weight: Float) -> Complex:
    """Return the object turned by one constant phase, so that its weighted mean is real and positive."""
    mean = (object_.astype(np.complex128) * weight).sum()
    turned: Complex = (object_ * np.exp(-1j * np.angle(mean))).astype(np.complex64)
    return turned


def colour_limits(values: Array) -> tuple[float, float]:
    """Return robust limits that never coincide, even when all values are equal."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, PERCENTILES))
    room = max(0.5 * (0.02 - (high - low)), 0.0)
    return low - room, high + room


def _lit(weight: Float) -> Bool:
    lit: Bool = weight > LIT * weight.max()
    return lit if lit.any() else np.ones(weight.shape, bool)


def _bounds(lit: Bool) -> tuple[slice, slice]:
    """Return the rows and columns of the lit part, with a small margin."""
    slices = []
    for axis in (1, 0):
        index = np.flatnonzero(lit.any(axis))
        start = max(int(index[0]) - MARGIN_PX, 0)
        slices.append(slice(start, min(int(index[-1]) + 1 + MARGIN_PX, lit.shape[1 - axis])))
    return slices[0], slices[1]


def _extent(
    rows: slice, columns: slice, origin_px: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return left, right, bottom, top in the scan's coordinates; pixel centres have whole numbers."""
    y, x = origin_px
    return (x + columns.start - 0.5, x + columns.stop - 0.5, y + rows.stop - 0.5, y + rows.start - 0.5)


def _draw_image(ax: Any, values: Array, name: str, unit: str, **how: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_facecolor(BACKGROUND)
    drawn = ax.imshow(values, interpolation='nearest', **how)
    ax.set_title(name, fontsize=10)
    ax.tick_params(labelsize=8)
    ax.set_xlabel('x [px]', fontsize=8)
    ax.set_ylabel('y [px]', fontsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.02)
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def scale_bar(width_m: float) -> tuple[float, str]:
    """Return the length [m] of a round scale bar of about a fifth of `width_m`, and its label."""
    aim = width_m / 5
    power = 10.0 ** np.floor(np.log10(aim))
    length = float(max(s for s in STEPS if s * power <= aim * 1.0001) * power)
    nanometres = length * NM_PER_M
    for factor, unit in ((1e6, 'mm'), (1e3, 'µm')):
        if nanometres >= factor * 0.9999:
            return length, f'{nanometres / factor:.3g} {unit}'
    return length, f'{nanometres:.3g} nm'


def _draw_scale_bar(ax: Any, pixel_size_m: tuple[float, float]) -> None:
    from matplotlib.patheffects import withStroke

    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    length_m, label = scale_bar(abs(right - left) * pixel_size_m[1])
    length, height = length_m / pixel_size_m[1], abs(top - bottom)
    x, y = left + 0.05 * abs(right - left), bottom - 0.06 * height
    outline = withStroke(linewidth=5, foreground='k')
    ax.plot(
        [x, x + length], [y, y], color='w', lw=3, solid_capstyle='butt', gid='scale-bar',
        path_effects=[outline], scalex=False, scaley=False,
    )  # fmt: skip
    ax.text(
        x + length / 2, y - 0.025 * height, label, color='w', ha='center', va='bottom', fontsize=9,
        path_effects=[withStroke(linewidth=2.5, foreground='k')],
    )  # fmt: skip


def _draw_patterns(axes: Array, reconstruction: Reconstruction, scan: Scan) -> None:
    from matplotlib.colors import LogNorm

    pair = (reconstruction.measured, reconstruction.predicted)
    known = [p for p in pair if p is not None]
    brightest = max((float(np.nanmax(p)) for p in known), default=1.0)
    for ax, pattern, name in zip(axes, pair, ('Measured', 'Predicted'), strict=True):
        title = f'{name} pattern {reconstruction.example}'
        if pattern is None:
            _say_nothing(ax, title)
            continue
        # Bad pixels are background in both, so that the two can be compared.
        values = np.ma.array(np.maximum(pattern, FLOOR_COUNTS / 1e3), mask=scan.bad_pixels)
        norm = LogNorm(FLOOR_COUNTS, max(brightest, 10 * FLOOR_COUNTS))
        _draw_image(ax, values, title, 'counts', cmap='magma', norm=norm)


def _say_nothing(ax: Any, title: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.text(0.5, 0.5, 'not recorded', ha='center', va='center', color='0.5', transform=ax.transAxes)
    ax.set_xticks([])
    ax.set_yticks([])


def _draw_losses(ax: Any, reconstruction: Reconstruction) -> None:
    losses = reconstruction.losses
    ax.set_title('Error over the sweeps', fontsize=10)
    _curve(ax, range(1, len(losses)), losses[1:], 'C0', 'met during the sweep')
    start, last = reconstruction.start_fourier_error, len(losses) - 1
    for x, value, colour, name in (
        (0, start, 'C1', f'{reconstruction.start} start'),
        (last, reconstruction.fourier_error, 'C2', 'result'),
    ):
        if np.isfinite(value) and value > 0:
            ax.plot(x, value, 'o', color=colour, ms=7, label=f'{name}: {value:.3g}', zorder=3)
    _finish_curve(ax, 'sweep', 'fourier error')


def _curve(ax: Any, x: Sequence[int], y: Any, colour: str, label: str) -> None:
    values = np.asarray(y, float)
    if np.isfinite(values).any():
        marker = '.' if len(values) <= 100 else ''
        ax.plot(x, np.where(values > 0, values, np.nan), color=colour, marker=marker, label=label)


def _finish_curve(ax: Any, x: str, y: str) -> None:
    from matplotlib.ticker import LogFormatter, MaxNLocator, NullFormatter

    drawn = [line for line in ax.lines if np.isfinite(np.asarray(line.get_ydata(), float)).any()]
    if not drawn:
        _say_nothing(ax, ax.get_title())
        return
    ax.set_yscale('log')
    low, high = ax.get_ylim()
    narrow = high < 10 * low
    ax.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    ax.yaxis.set_minor_formatter(
        LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)) if narrow else NullFormatter()
    )
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8, which='both')
    ax.grid(True, which='both', color='0.9', lw=0.7)
    ax.set_axisbelow(True)
    ax.legend(fontsize=8, frameon=False)
