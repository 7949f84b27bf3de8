"""Which format a file has, and the calls that do not care."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..apart import apart, size_of
from ..errors import DataError, DataFileMissingError, explain, require
from ..result import Reconstruction
from ..scan import Geometry, Scan
from .counts import check_kind
from .cxi import load_cxi, save_cxi
from .hdf5 import load_pair, load_training, save_training
from .npz import load_npz, save_npz
from .pair import DIFFRACTION_FILE, PRODUCT_FILE, product_beside, save_pair
from .paths import Source, check_target, existing_file, kind_of
from .product import save_product, save_reconstruction_npz
from .safe_hdf5 import has, open_hdf5

WRITERS = {'.npz': save_npz, '.h5': save_training, '.hdf5': save_training, '.cxi': save_cxi}
SCAN_SUFFIXES = tuple(WRITERS)
RESULT_SUFFIXES = ('.npz', '.h5', '.hdf5')


def load_scan(
    path: Source,
    *,
    diffraction: str = 'auto',
    probe_key: str | None = None,
    product: Source | None = None,
) -> Scan:
    """Return the scan of a file, or of a folder with the host's diffraction and product files.

    `diffraction` says what the numbers are ('auto', 'counts', 'amplitude'); `probe_key` names
    another array of an NPZ file as the probe; `product` is the host's product file for patterns
    without positions (DC-1).
    Raises `DataError`, or `DataFileMissingError`, in one line.
    """
    check_kind(diffraction)
    file, name = file_of(Path(path))
    if kind_of(file) == 'npz':
        return _load(file, name, diffraction, probe_key, product)
    other = file.parent / PRODUCT_FILE if product is None else Path(product)
    return apart(
        lambda: _load(file, name, diffraction, probe_key, product),
        size_of(file, other),
        name=file.name,
        files=(file,),
    )


def _load(
    file: Path, name: str, diffraction: str, probe_key: str | None, product: Source | None
) -> Scan:
    kind = file_format(file)
    _check_options(file, kind, probe_key, product)
    if kind == 'npz':
        return load_npz(file, diffraction=diffraction, probe_key=probe_key)
    if kind == 'training':
        return load_training(file, diffraction=diffraction)
    if kind == 'cxi':
        other = None if product is None else Path(product)
        return load_cxi(file, diffraction=diffraction, product=other)
    other = product_beside(file) if product is None else Path(product)
    return load_pair(file, other, diffraction=diffraction, name=name)


def scan_sources(path: Source, product: Source | None = None) -> list[Path]:
    """Return the files that `load_scan` reads: two where patterns have their positions elsewhere.

    Raises `DataFileMissingError` as it does.
    """
    file, _ = file_of(Path(path))
    if product is not None:
        return [file, Path(product)]
    beside = file.parent / PRODUCT_FILE
    paired = beside.exists() and file_format(file) == 'diffraction'
    return [file, beside] if paired else [file]


def scan_targets(path: Source) -> list[Path]:
    """Return the files that `save_scan` writes: two in a folder."""
    file = Path(path)
    if os.path.isdir(file):
        return [file / DIFFRACTION_FILE, file / PRODUCT_FILE]
    return [file]


def save_scan(scan: Scan, path: Source, *, packed: bool = True) -> None:
    """Write a scan in the format of the suffix: .npz, .h5 (the host's training format) or .cxi; to
    a folder, as the host's diffraction and product files.

    `packed=False` writes a larger NPZ file in a sixth of the time; the others pack fast enough.
    """
    file = Path(path)
    if os.path.isdir(file):
        save_pair(scan, file)
        return
    check_target(file, SCAN_SUFFIXES)
    writer = WRITERS[file.suffix.lower()]
    if scan.geometry.nominal and scan.geometry.known_pixel_size_m is None:
        # These formats can leave out what nobody knows, and cannot say that it is made up.
        scan = replace(scan, geometry=Geometry())
    if writer is save_npz:
        save_npz(scan, file, packed=packed)
    else:
        writer(scan, file)


def save_result(
    path: Source, scan: Scan, reconstruction: Reconstruction, *, name: str = '', comments: str = ''
) -> None:
    """Write a result: .npz as plain arrays, .h5 as a product that the host opens."""
    file = Path(path)
    check_target(file, RESULT_SUFFIXES)
    if file.suffix.lower() == '.npz':
        save_reconstruction_npz(file, reconstruction)
    else:
        save_product(file, scan, reconstruction, name=name, comments=comments)


def file_of(path: Path) -> tuple[Path, str]:
    """Return the file to open, and the folder's name where a folder was given."""
    if not os.path.isdir(path):  # unlike Path.is_dir it never raises
        return existing_file(path), ''
    file = path / DIFFRACTION_FILE
    if not file.exists():
        raise DataFileMissingError(
            explain(
                f'The folder {path} holds no {DIFFRACTION_FILE}',
                cure=f'Give a file, or a folder with {DIFFRACTION_FILE} and {PRODUCT_FILE}',
            )
        )
    return existing_file(file), path.resolve().name


def file_format(file: Path) -> str:
    """Return 'npz', 'cxi', 'training', 'diffraction', 'product', or '' for none of them."""
    kind = kind_of(file)
    if kind != 'hdf5':
        return kind
    return apart(lambda: _hdf5_format(file), size_of(file), name=file.name)


def _hdf5_format(file: Path) -> str:
    with open_hdf5(file) as h5:
        if has(h5, 'entry_1'):
            return 'cxi'
        if has(h5, 'patterns'):
            return 'training' if has(h5, 'probe_position_x_px') else 'diffraction'
        if has(h5, 'probe_position_x_m'):
            return 'product'
        raise DataError(
            explain(
                'The HDF5 file holds no scan',
                expected='patterns and indexes (Ptychodus), or entry_1 (CXI)',
                received=f'keys={", ".join(list(h5)[:12]) or "none"}',
                cure='Open it in Ptychodus and save diffraction and product, or write an NPZ',
            )
        )


def _check_options(file: Path, kind: str, probe_key: str | None, product: Source | None) -> None:
    require(
        kind,
        DataError,
        f'{file.name}: The format is unknown',
        expected='an NPZ, Ptychodus HDF5 or CXI file',
        received=f'suffix={file.suffix or "none"} and unknown first bytes',
        cure='Convert the file to NPZ',
    )
    require(
        kind != 'product',
        DataError,
        f'{file.name}: The file is a product and holds no patterns',
        expected=f'a {DIFFRACTION_FILE}',
        cure=f'Give {DIFFRACTION_FILE} and name this file with --product',
    )
    require(
        kind == 'npz' or probe_key is None,
        DataError,
        f'{file.name}: A probe key can be chosen in NPZ files only',
        received=f'probe_key={probe_key}',
    )
    require(
        kind in ('diffraction', 'cxi') or product is None,
        DataError,
        f'{file.name}: The file has its own positions and probe',
        expected='a product only with diffraction.h5 or CXI',
        received=f'product={product}',
    )
