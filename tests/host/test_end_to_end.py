"""The whole way with a real back end: scripting, batch, command line, each in processes of its own.

What a user runs: an unpatched Ptychodus beside the installed plug-in. Clauses EE-.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin import metrics
from ptychopinn_plugin.files import load_object, save_scan
from ptychopinn_plugin.scan import Geometry
from ptychopinn_plugin.simulate import Simulation, simulate_scan

from ..backends_under_test import BACKENDS
from ..conftest import SHARED
from .conftest import PINN

pytestmark = pytest.mark.slow
STAR = SHARED / 'data' / 'siemens_star_velociprobe.npz'
PIXEL_M = (7e-9, 9e-9)
CENTRE_M = (3e-6, -5e-6)


def run(*argv, code=0):
    done = subprocess.run(
        [sys.executable, *map(str, argv)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def script(body):
    """Run `body` with a `ModelCore` called core; no framework may be in the host afterwards."""
    lines = [
        'import json, sys, logging',
        'from pathlib import Path',
        'from ptychodus.model import ModelCore',
        'def value(group, key, v):',
        "    core.settings_registry['PtychoPINNPlugin' + group].parameters()[key].set_value(v)",
        'def main():',
        '    global core',
        '    with ModelCore(log_level=logging.INFO) as core:',
        '        flow, api = core.workflow_api, core.processing_core.processing_api',
        textwrap.indent(textwrap.dedent(body), '        '),
        "    heavy = {'torch', 'lightning', 'tensorflow', 'keras', 'PyQt5'}",
        '    assert not heavy & set(sys.modules)',
        "if __name__ == '__main__':",
        '    main()',
    ]
    return run('-c', '\n'.join(lines))


@pytest.fixture(scope='module')
def truth():
    """A scan with pixels that are not square and an object that is not about the origin."""
    import dataclasses

    scan = simulate_scan(
        Simulation(pattern_size_px=64, object_size_px=160, patterns=300, specimen='leaves', seed=11)
    )
    return dataclasses.replace(scan, geometry=Geometry(PIXEL_M, CENTRE_M, None, 0.8, 9000.0))


@pytest.fixture(scope='module')
def folder(truth, tmp_path_factory):
    made = tmp_path_factory.mktemp('end') / 'in'
    made.mkdir()
    save_scan(truth, made)
    return made


@pytest.fixture(scope='module', params=BACKENDS)
def trained(request, folder, tmp_path_factory):
    """Train through the host's scripting API and save; return (back end, model file)."""
    out = tmp_path_factory.mktemp(request.param)
    script(f"""
        d = flow.load_assembled_diffraction_data(Path({str(folder)!r}) / 'diffraction.h5')
        p = flow.load_product(Path({str(folder)!r}) / 'product.h5', diffraction=d)
        value('Runtime', 'Backend', {request.param!r})
        value('Training', 'Epochs', 2)
        value('Model', 'NFiltersScale', 1)
        p.train_reconstructor_local(
            Path({str(folder)!r}), Path({str(out)!r}), algorithm={PINN!r}, block=True)
        api.save_model_to_file(Path({str(out)!r}) / 'saved.h5.zip')
    """)
    assert {'model.h5.zip', 'training_loss.png', 'saved.h5.zip'} <= {p.name for p in out.iterdir()}
    return request.param, out / 'saved.h5.zip'


@pytest.fixture(scope='module')
def product(trained, folder, tmp_path_factory):
    """Load the model in a fresh process, reconstruct and save; return the product file."""
    backend, model = trained
    file = tmp_path_factory.mktemp('product') / 'result.h5'
    script(f"""
        d = flow.load_assembled_diffraction_data(Path({str(folder)!r}) / 'diffraction.h5')
        p = flow.load_product(Path({str(folder)!r}) / 'product.h5', diffraction=d)
        value('Runtime', 'Backend', {backend!r})
        api.load_model_from_file(Path({str(model)!r}), algorithm={PINN!r})
        out = p.reconstruct_local(block=True)
        out.save_product(Path({str(file)!r}))
    """)
    return file


def test_the_picture_is_right(product, truth):
    image = load_object(product)
    score = metrics.compare(image.object, truth.true_object, image.weight)
    assert score.phase_ssim >= 0.90


def test_the_object_lies_in_the_right_place(product, truth):
    """By the host's own coordinates, to half a pixel, and neither mirrored nor transposed."""
    from ptychodus.api.io import load_product
    from skimage.registration import phase_cross_correlation

    obj = load_product(product).object_
    geometry = obj.get_geometry()
    found = np.angle(obj.get_layer(0))[30:-30, 30:-30]
    known = np.angle(truth.true_object)[30:-30, 30:-30]
    shift, _, _ = phase_cross_correlation(known, found, upsample_factor=20)
    height, width = truth.true_object.shape
    # The known object's first pixel, in metres, by the definition of the scan's geometry.
    known_y = CENTRE_M[0] - (height - 1) / 2 * PIXEL_M[0]
    known_x = CENTRE_M[1] - (width - 1) / 2 * PIXEL_M[1]
    first_y = geometry.minimum_y_m + geometry.pixel_height_m / 2
    first_x = geometry.minimum_x_m + geometry.pixel_width_m / 2
    off_y = (first_y - known_y) / PIXEL_M[0] - shift[0]
    off_x = (first_x - known_x) / PIXEL_M[1] - shift[1]
    assert abs(off_y) < 0.5
    assert abs(off_x) < 0.5
    flips = (known[::-1], known[:, ::-1], known[::-1, ::-1], known.T)
    fits = [abs(np.corrcoef(found.ravel(), k.ravel())[0, 1]) for k in (known, *flips)]
    assert fits[0] > 2 * max(fits[1:])


def test_the_command_line_gives_the_same_picture(product, trained, folder, tmp_path):
    backend, model = trained
    run('-m', 'ptychopinn_plugin', 'reconstruct', folder, '--model', model,
        '--backend', backend, '--output', tmp_path / 'cli.h5')  # fmt: skip
    from ptychodus.api.io import load_product

    ours, hosts = load_product(tmp_path / 'cli.h5'), load_product(product)
    a, b = ours.object_.get_array(), hosts.object_.get_array()
    assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()
    a, b = ours.probes.get_array(), hosts.probes.get_array()
    assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()
    np.testing.assert_allclose(
        [v.value for v in ours.losses], [v.value for v in hosts.losses], rtol=1e-5
    )
    mine, theirs = ours.object_.get_center(), hosts.object_.get_center()
    assert (mine.y_m, mine.x_m) == pytest.approx((theirs.y_m, theirs.x_m), abs=1e-12)


SETTINGS = """[Processing]
Algorithm = {algorithm}

[PtychoPINNPluginTraining]
Epochs = 1

[PtychoPINNPluginModel]
NFiltersScale = 1

[PtychoPINNPluginReconstruction]
Sweeps = {sweeps}
"""


def test_batch_train_and_batch_reconstruct(folder, truth, tmp_path):
    work = tmp_path / 'in'
    shutil.copytree(folder, work)
    (work / 'settings.ini').write_text(SETTINGS.format(algorithm=PINN, sweeps=8))
    run('-m', 'ptychodus', '-b', 'train', '-i', work, '-o', tmp_path / 'out')
    assert (tmp_path / 'out' / 'model.h5.zip').is_file()
    shutil.copy(tmp_path / 'out' / 'model.h5.zip', work)
    text = run('-m', 'ptychodus', '-b', 'reconstruct', '-i', work, '-o', tmp_path / 'out2')
    assert 'Model: unrolled, pinn' in text
    names = sorted(p.name for p in (tmp_path / 'out2').iterdir())
    assert names == [f'product.{n:06d}.h5' for n in range(9)]
    image = load_object(tmp_path / 'out2' / 'product.000008.h5')
    assert metrics.compare(image.object, truth.true_object, image.weight).phase_ssim >= 0.90


def test_wrong_batch_input_fails_with_a_clear_line(folder, tmp_path):
    work = tmp_path / 'in'
    shutil.copytree(folder, work)
    (work / 'settings.ini').write_text(
        SETTINGS.format(algorithm=PINN, sweeps=2) + 'Start = network\n'
    )
    failed = subprocess.run(
        [sys.executable, '-m', 'ptychodus', '-b', 'reconstruct', '-i', work, '-o', tmp_path / 'o'],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert failed.returncode != 0
    assert 'There is no model for the network start' in failed.stdout
    (work / 'train_data.npz').write_bytes(b'PK\3\4 rubbish')
    failed = subprocess.run(
        [sys.executable, '-m', 'ptychodus', '-b', 'train', '-i', work, '-o', tmp_path / 'o'],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert failed.returncode != 0
    assert 'train_data.npz: The file is damaged or not an NPZ file' in failed.stdout
    assert not (tmp_path / 'o' / 'model.h5.zip').exists()


@pytest.mark.skipif(not STAR.exists(), reason='the reference data is not here')
def test_the_real_star_through_the_host(tmp_path):
    """Its energy and distance are not known: any consistent values do."""
    run('-m', 'ptychopinn_plugin', 'convert', STAR, tmp_path / 'in',
        '--probe-key', 'reference_probe')  # fmt: skip
    script(f"""
        d = flow.load_assembled_diffraction_data(Path({str(tmp_path / 'in')!r}) / 'diffraction.h5')
        p = flow.load_product(Path({str(tmp_path / 'in')!r}) / 'product.h5', diffraction=d)
        value('Reconstruction', 'Sweeps', 20)
        out = p.reconstruct_local(algorithm={PINN!r}, block=True)
        losses = [v.value for v in out.get_product().losses]
        Path({str(tmp_path / 'losses.json')!r}).write_text(json.dumps(losses))
    """)
    losses = json.loads((tmp_path / 'losses.json').read_text())
    assert len(losses) == 21
    assert losses[-1] <= 0.0115  # the mean met during the sweep: a little above the result's


def test_the_installed_commands_are_there():
    for name in ('ptychopinn-plugin', 'ptychopinn-ptychodus'):
        assert (Path(sys.executable).parent / name).exists()
