"""The figures: they are whole files with everything on them, and odd results still draw."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin import files, report
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.geometry import relative_illumination
from ptychopinn_plugin.result import Epoch, ObjectImage, Reconstruction
from ptychopinn_plugin.scan import Frame, Geometry, Scan

N = 32


@pytest.fixture(scope='module')
def scan():
    y, x = np.mgrid[:N, :N] - (N - 1) / 2
    probe = np.exp(-(x**2 + y**2) / 30).astype(np.complex64)
    rng = np.random.default_rng(0)
    positions = rng.uniform(N / 2 + 9, N / 2 + 50, (60, 2))
    counts = rng.poisson(1 + 500 * np.abs(probe), (60, N, N)).astype(np.uint16)
    return Scan(counts, positions, probe, frame=Frame((100, 110), (2.0, 3.0)), name=r'sample $\7$')


@pytest.fixture(scope='module')
def result(scan):
    y, x = np.mgrid[:100, :110]
    object_ = ((1 - 0.3 * (np.sin(x / 9) > 0.5)) * np.exp(2j + 0.5j * np.cos(y / 7))).astype(
        np.complex64
    )
    image = ObjectImage(object_, relative_illumination(scan, scan.probe), (2.0, 3.0))
    pattern = scan.counts[3].astype(np.float32)
    return Reconstruction(
        image, scan.probe, (0.3, 0.2, 0.1), 0.05, 0.3, image, 'torch', 'network',
        scan.positions_px,
        example=3, measured=pattern, predicted=0.9 * pattern,
    )  # fmt: skip


@contextmanager
def recorded():
    """Yield the list of the figures that are drawn meanwhile."""
    from matplotlib.figure import Figure

    made = []
    kept = Figure.__init__

    def init(self, *args, **kwargs):
        kept(self, *args, **kwargs)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, '__init__', init)
        yield made


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.setattr(report, 'DPI', 40)  # what is on them matters here, not the pixels
    with recorded() as made:
        yield made


@pytest.fixture(scope='module')
def summary(scan, result, tmp_path_factory):
    """The figure of the plain result and its file; drawing one takes half a second."""
    path = tmp_path_factory.mktemp('summary') / 'out.png'
    with recorded() as made:
        report.save_figure(result, scan, path)
    return made[0], path


def pixels(path):
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b'\x89PNG\r\n\x1a\n')
    return imread(path)[..., :3]


def panel(figure, title):
    return next(ax for ax in figure.axes if ax.get_title().startswith(title))


def bars(figure):
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    return [a for ax in figure.axes for a in ax.artists if isinstance(a, AnchoredSizeBar)]


def texts(figure):
    return [t.get_text() for ax in figure.axes for t in ax.texts]


def labels(figure, title):
    return [t.get_text() for t in panel(figure, title).get_legend().get_texts()]


def test_the_summary_shows_everything(summary):
    figure, path = summary
    image = pixels(path)
    assert min(image.shape[:2]) > 700
    assert image.std() > 0.1
    for title in (
        'Amplitude',
        'Phase',
        'Phase of the network estimate',
        'Illumination',
        'Measured pattern 3',
        'Predicted pattern 3',
        'Fourier error',
    ):
        assert panel(figure, title)
    units = {ax.get_ylabel() for ax in figure.axes}
    assert {'transmission', 'rad', 'of the maximum', 'counts'} <= units
    assert figure.get_suptitle() == (
        'sample $\\7$\n60 patterns of 32x32 px,  back end torch,  network start,  '
        '2 sweeps,  Fourier error 0.05'
    )
    assert [p.name for p in path.parent.iterdir()] == ['out.png']


def test_only_the_lit_part_is_shown_and_the_dark_is_masked(result, summary):
    drawn = panel(summary[0], 'Amplitude').images[0]
    lit = np.argwhere(result.weight > report.LIT)
    assert drawn.get_array().shape == tuple(np.ptp(lit, 0) + 1 + 2 * report.MARGIN_PX)
    assert drawn.get_array().mask[0].all()
    assert drawn.get_array().count() == len(lit)
    left, _, _, top = drawn.get_extent()
    first = lit.min(0) - report.MARGIN_PX + [2, 3]  # scan coordinates begin at the frame's origin
    assert (top, left) == tuple(first - 0.5)


def test_the_phase_is_levelled_and_nothing_else(result, summary):
    level = np.exp(1j * report.level_phase(result.image))
    mean = (level * result.amplitude * result.weight).sum()
    assert np.angle(mean) == pytest.approx(0, abs=1e-5)
    ramp = np.exp(1j * np.arange(110) / 20)
    ramped = replace(result.image, object=(result.image.object * ramp).astype(np.complex64))
    both = np.exp(1j * report.level_phase(ramped))
    assert np.ptp(np.angle(both * level.conj() / ramp)) == pytest.approx(0, abs=1e-5)
    low, high = panel(summary[0], 'Phase').images[0].get_clim()
    assert -0.6 < low < -0.4 < 0.4 < high < 0.6


def test_a_wrapped_phase_gets_a_cyclic_colour_map_and_hot_pixels_do_not_count(
    scan, result, figures, tmp_path
):
    object_ = result.image.object * np.exp(1j * np.arange(110) / 5).astype(np.complex64)
    object_[50, 50] = 1e6
    image = replace(result.image, object=object_)
    report.save_figure(replace(result, image=image), scan, tmp_path / 'out.png')
    amplitude, phase = (panel(figures[0], name).images[0] for name in ('Amplitude', 'Phase'))
    assert amplitude.get_clim()[1] < 1.1
    assert phase.get_cmap().name == 'twilight'
    assert phase.get_clim() == (-np.pi, np.pi)


def test_both_patterns_share_their_colours_and_bad_pixels_are_masked(
    scan, result, figures, tmp_path
):
    bad = np.zeros((N, N), bool)
    bad[4, 5] = True
    hot = result.predicted.copy()
    hot[4, 5], hot[6, 7] = 1e9, np.inf
    report.save_figure(
        replace(result, predicted=hot), replace(scan, bad_pixels=bad), tmp_path / 'out.png'
    )
    one, other = (
        panel(figures[0], f'{name} pattern').images[0] for name in ('Measured', 'Predicted')
    )
    assert one.get_clim() == other.get_clim() == (report.FLOOR_COUNTS, result.measured.max())
    assert type(one.norm).__name__ == 'LogNorm'
    for drawn in (one, other):
        masked = np.ma.getmaskarray(drawn.get_array())
        masked[6, 7] = False  # matplotlib may mask what is not finite
        np.testing.assert_array_equal(masked, bad)


def test_the_scale_bar_has_the_length_it_says(scan, result, figures, tmp_path):
    known = replace(scan, geometry=Geometry(pixel_size_m=(10e-9, 20e-9)))
    report.save_figure(result, known, tmp_path / 'out.png')
    found = bars(figures[0])
    assert len(found) == 3  # on amplitude and both phases
    for bar in found:
        (stroke,) = bar.size_bar.get_children()
        assert stroke.get_width() * 20e-9 == pytest.approx(200e-9)
        assert bar.txt_label.get_text() == '200 nm'


def test_a_nominal_pixel_size_gives_no_scale_bar(scan, result, figures, tmp_path):
    files.save_scan(scan, tmp_path)
    read = files.load_scan(tmp_path)
    assert read.geometry.pixel_size_m is not None
    report.save_figure(result, read, tmp_path / 'out.png')
    assert bars(figures[0]) == []
    files.save_result(tmp_path / 'result.h5', read, result)
    assert files.load_product(tmp_path / 'result.h5').geometry == replace(
        read.geometry, detector_pixel_size_m=None
    )


def test_without_a_pixel_size_there_is_no_scale_bar(summary):
    assert bars(summary[0]) == []
    assert texts(summary[0]) == []


@pytest.mark.parametrize(
    ('width_m', 'length_m', 'label'),
    [
        (6e-6, 1e-6, '1 µm'), (4.9e-6, 500e-9, '500 nm'), (1e-7, 2e-8, '20 nm'),
        (2.6e-5, 5e-6, '5 µm'), (5e-6, 1e-6, '1 µm'), (2.5e-6, 5e-7, '500 nm'),
        (1.2e-2, 2e-3, '2000 µm'), (1e-9, 2e-10, '0.2 nm'),
    ],
)  # fmt: skip
def test_scale_bars_are_round(width_m, length_m, label):
    length, text = report.scale_bar(width_m)
    assert length == pytest.approx(length_m)
    assert text == label


def test_the_loss_panel_shows_start_sweeps_and_result(summary):
    ax = panel(summary[0], 'Fourier error')
    assert ax.get_yscale() == 'log'
    sweeps, start, end = ax.lines
    assert [*sweeps.get_xdata()] == [1, 2]
    assert [*sweeps.get_ydata()] == [0.2, 0.1]
    assert (start.get_xdata()[0], start.get_ydata()[0]) == (0, 0.3)
    assert (end.get_xdata()[0], end.get_ydata()[0]) == (2, 0.05)
    assert labels(summary[0], 'Fourier error')[1:] == ['network start: 0.3', 'result: 0.05']


def test_the_network_estimate_is_shown_in_the_colours_of_the_result(
    scan, result, figures, tmp_path
):
    estimate = replace(result.image, object=(result.image.object**2).astype(np.complex64))
    report.save_figure(replace(result, estimate=estimate), scan, tmp_path / 'out.png')
    phase, start = (
        panel(figures[0], name).images[0] for name in ('Phase', 'Phase of the network estimate')
    )
    assert start.get_clim() == phase.get_clim()
    assert start.get_array().std() == pytest.approx(2 * phase.get_array().std(), rel=0.05)


def test_a_flat_start_is_not_worth_a_panel(scan, result, figures, tmp_path):
    report.save_figure(replace(result, start='flat'), scan, tmp_path / 'out.png')
    titles = [ax.get_title() for ax in figures[0].axes if ax.get_title()]
    assert len(titles) == 6
    assert not any('estimate' in title for title in titles)
    assert labels(figures[0], 'Fourier error')[1] == 'flat start: 0.3'


def test_the_noise_where_little_light_fell_does_not_set_the_colours(
    scan, result, figures, tmp_path
):
    dim = (result.weight > report.LIT) & (result.weight < report.WELL_LIT)
    assert dim.sum() > 0.05 * (result.weight > report.LIT).sum()
    noisy = replace(result.image, object=np.where(dim, np.complex64(9), result.image.object))
    report.save_figure(replace(result, image=noisy), scan, tmp_path / 'out.png')
    drawn = panel(figures[0], 'Amplitude').images[0]
    assert drawn.get_array().max() == 9
    assert drawn.get_clim()[1] < 1.1


def test_a_single_nan_does_not_blank_the_phase(result):
    object_ = result.image.object.copy()
    object_[50, 50] = nan
    phase = report.level_phase(replace(result.image, object=object_))
    assert np.isnan(phase).sum() == 1
    np.testing.assert_allclose(phase[:40], report.level_phase(result.image)[:40], atol=0.01)


DARK = ObjectImage(np.ones((100, 110), np.complex64), np.zeros((100, 110), np.float32))
NOTHING = ObjectImage(np.zeros((100, 110), np.complex64), np.ones((100, 110), np.float32))
BROKEN = ObjectImage(np.full((100, 110), nan, np.complex64), np.ones((100, 110), np.float32))
ZERO = np.zeros((N, N), np.float32)


@pytest.mark.parametrize(
    'odd',
    [
        {'measured': None, 'predicted': None, 'losses': (0.3,), 'fourier_error': 0.3,
         'image': DARK},
        {'predicted': None, 'losses': (), 'fourier_error': nan, 'start_fourier_error': nan,
         'image': NOTHING},
        {'measured': ZERO, 'predicted': ZERO, 'losses': (0.0, 0.0), 'fourier_error': 0.0,
         'start_fourier_error': 0.0},
        {'predicted': np.full((N, N), nan, np.float32), 'start': 'flat'},
        {'losses': (0.3, nan), 'fourier_error': nan, 'image': BROKEN},
    ],
    ids=['unlit', 'empty', 'zero', 'no prediction', 'not finite'],
)  # fmt: skip
@pytest.mark.filterwarnings('error')
def test_odd_results_still_draw(scan, result, figures, tmp_path, odd):
    report.save_figure(replace(result, **odd), scan, tmp_path / 'out.png')
    assert pixels(tmp_path / 'out.png').std() > 0.05


def test_missing_patterns_are_said_to_be_missing_and_a_long_name_stays_on_the_page(
    scan, result, figures, tmp_path
):
    scan = replace(scan, name='a\nlong name ' * 40)
    report.save_figure(replace(result, measured=None), scan, tmp_path / 'out.png')
    assert texts(figures[0]) == ['not recorded']
    first, second = figures[0].get_suptitle().split('\n')
    assert len(first) == 110
    assert first.endswith('…')
    assert second.startswith('60 patterns')


def history(count, validation=True):
    return [
        Epoch(i, count, 1 / i, 1.1 / i + 0.02 * (i > 5) * i if validation else nan, 1e-3, 1.0)
        for i in range(1, count + 1)
    ]


def test_the_loss_curve_marks_the_best_epoch(figures, tmp_path):
    report.save_loss_curve(history(9), tmp_path / 'loss.png')
    assert pixels(tmp_path / 'loss.png').std() > 0.02
    (ax,) = figures[0].axes
    assert ax.get_yscale() == 'log'
    assert [line.get_label() for line in ax.lines] == [
        'training', 'validation', 'best: 0.22 in epoch 5',
    ]  # fmt: skip
    assert [*ax.lines[0].get_ydata()] == [1 / i for i in range(1, 10)]
    assert (*ax.lines[2].get_xdata(), *ax.lines[2].get_ydata()) == pytest.approx((5, 0.22))


def test_without_validation_the_best_epoch_is_that_of_the_training(figures, tmp_path):
    report.save_loss_curve(history(4, validation=False), tmp_path / 'loss.png')
    (ax,) = figures[0].axes
    assert [line.get_label() for line in ax.lines] == ['training', 'best: 0.25 in epoch 4']


def test_an_epoch_without_validation_is_a_gap_and_never_the_best(figures, tmp_path):
    epochs = history(4)
    epochs[2] = replace(epochs[2], validation_loss=nan)
    epochs[3] = replace(epochs[3], validation_loss=9.0)
    report.save_loss_curve(epochs, tmp_path / 'loss.png')
    (ax,) = figures[0].axes
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [1.1, 0.55, nan, 9.0])
    assert ax.lines[2].get_label() == 'best: 0.55 in epoch 2'


@pytest.mark.parametrize(
    ('training', 'validation', 'scale'),
    [
        ((-0.1, -0.3), (-0.2, -0.25), 'linear'),
        ((0.1, -0.3), (0.2, 0.1), 'linear'),
        ((0.0, 0.0), (nan, nan), 'linear'),
        ((0.3, 0.1), (0.2, nan), 'log'),
    ],
)
@pytest.mark.filterwarnings('error')
def test_losses_of_either_sign_are_drawn(figures, tmp_path, training, validation, scale):
    """A logarithmic axis has no place for those of the architecture unrolled, below zero."""
    losses = list(zip(training, validation, strict=True))
    epochs = [Epoch(n, 2, *pair, 1e-3, 1.0) for n, pair in enumerate(losses, 1)]
    report.save_loss_curve(epochs, tmp_path / 'loss.png')
    (ax,) = figures[0].axes
    curves = [v for v in (training, validation) if np.isfinite(v).any()]
    for line, values in zip(ax.lines, curves, strict=False):
        np.testing.assert_array_equal(line.get_ydata(), values)
    names = ['training', 'validation'][: len(curves)]
    assert [text.get_text() for text in ax.get_legend().get_texts()][:-1] == names
    low, high = ax.get_ylim()
    assert low < np.nanmin(curves) <= np.nanmax(curves) < high
    assert ax.get_yscale() == scale
    ticks = ax.get_yticks()
    shown = ax.yaxis.get_major_formatter().format_ticks(ticks)
    assert [float(t.replace('\N{MINUS SIGN}', '-')) for t in shown] == pytest.approx(ticks)


def test_the_best_of_losses_below_zero_is_the_lowest(figures, tmp_path):
    epochs = [Epoch(n, 3, -0.1, v, 1e-3, 1.0) for n, v in enumerate((-0.1, -0.4, -0.3), 1)]
    report.save_loss_curve(epochs, tmp_path / 'loss.png')
    assert figures[0].axes[0].lines[2].get_label() == 'best: -0.4 in epoch 2'


def test_one_loss_gets_an_axis_of_whole_sweeps(scan, result, figures, tmp_path):
    report.save_figure(replace(result, losses=(0.3,)), scan, tmp_path / 'out.png')
    ax = panel(figures[0], 'Fourier error')
    assert [line.get_label() for line in ax.lines] == ['network start: 0.3', 'result: 0.05']
    assert all(tick == int(tick) for tick in ax.get_xticks())
    assert ax.get_xlim() == (-0.5, 1.5)


@pytest.mark.parametrize('epochs', [[], history(1), history(3, validation=False), history(500)])
@pytest.mark.filterwarnings('error')
def test_any_history_draws(figures, tmp_path, epochs):
    report.save_loss_curve(epochs, tmp_path / 'loss.png')
    assert pixels(tmp_path / 'loss.png').std() > 0.01
    if not epochs:
        assert texts(figures[0]) == ['not recorded']


def test_a_figure_that_cannot_be_written_is_an_output_error(scan, result, tmp_path):
    with pytest.raises(OutputError, match=r'Cannot write .*nowhere'):
        report.save_figure(result, scan, tmp_path / 'nowhere' / 'out.png')
    with pytest.raises(OutputError, match='The output is a folder'):
        report.save_loss_curve(history(2), tmp_path)


@pytest.mark.parametrize(
    ('name', 'begins'), [('out.png', b'\x89PNG'), ('out.PDF', b'%PDF-'), ('out.svg', b'<?xml')]
)
def test_the_suffix_says_what_is_written(figures, tmp_path, name, begins):
    report.save_loss_curve(history(2), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize('name', ['out.xyz', 'out', 'out.npz'])
def test_no_figure_goes_under_another_suffix(figures, tmp_path, name):
    with pytest.raises(OutputError, match=r'suffix is unknown\. Expected \.png, \.pdf, \.svg'):
        report.save_loss_curve(history(2), tmp_path / name)
    assert not figures
    assert not list(tmp_path.iterdir())


def test_images_of_a_vector_figure_are_pixels_of_their_own(scan, result, tmp_path):
    """Not as many shapes as an image has pixels, and finer than on a screen."""
    report.save_figure(result, scan, tmp_path / 'out.svg')
    text = (tmp_path / 'out.svg').read_text()
    assert text.count('<image') >= 6
    assert text.count('<path') < 3000
    assert (tmp_path / 'out.svg').stat().st_size < 3e6


def test_a_failure_leaves_the_old_figure(scan, result, tmp_path, monkeypatch):
    target = tmp_path / 'out.png'
    target.write_bytes(b'old')
    monkeypatch.setattr(report, '_draw_losses', lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.save_figure(result, scan, target)
    assert target.read_bytes() == b'old'
    assert [p.name for p in tmp_path.iterdir()] == ['out.png']


def test_pyplot_is_never_loaded():
    code = (
        'import sys, tempfile, pathlib; from ptychopinn_plugin.report import save_loss_curve; '
        'at = pathlib.Path(tempfile.mkdtemp()); '
        '[save_loss_curve([], at / f"loss.{kind}") for kind in ("png", "pdf", "svg")]; '
        'sys.exit("matplotlib.pyplot" in sys.modules)'
    )
    assert (
        subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parents[2]).returncode == 0
    )
