"""Results in and out: the host's product file and our own NPZ.

A product places everything in metres: `x_m = centre_x_m + (x_px - (W - 1) / 2) * pixel_width_m`, y
likewise, with the object array's own pixels. Where the scan does not know its pixel size, the
product is written with a pixel of one metre: no length in it is then physical, but every position
falls on the same pixel. Energy and distance are zero where not known: the host reads zero so; NaN
breaks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..apart import apart, size_of
from ..atomic import atomic_path
from ..errors import DataError, explain, printable, require
from ..geometry import pixel_size_m
from ..result import ObjectImage, Reconstruction
from ..scan import Array, Complex, Double, Geometry, Scan
from .frames import ORIGIN, middle_px, pair_of, single_layer
from .new_hdf5 import new_hdf5
from .paths import Source, existing_file
from .safe_hdf5 import attribute, dataset_at, has, open_hdf5, positive, read

UNKNOWN_PIXEL_M = 1.0
NOMINAL = 'Nominal geometry'  # how the comments of such a product begin
WEIGHT_KEY = 'ptychopinn_plugin_weight'
TRUE_OBJECT_KEY = 'ptychopinn_plugin_true_object'
# The host's names since 1.7, and before.
ENERGY_KEYS = ('photon_energy_eV', 'probe_energy_eV')
ZEROS = (
    'exposure_time_s', 'mass_attenuation_m2_per_kg', 'mass_attenuation_m2_kg',
    'tomography_angle_deg', 'focus_object_distance_m', 'tilt_angle_deg',
)  # fmt: skip
Pair = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Product:
    """What a product file of the host holds, as far as we use it. Pairs are (y, x).

    object (H, W), probe (P, N, N), position_index (K,), positions_m (K, 2)
    """

    object: Complex
    probe: Complex
    position_index: Array
    positions_m: Double
    pixel_size_m: Pair
    object_centre_m: Pair
    detector_distance_m: float | None
    photon_energy_eV: float | None

    losses: tuple[float, ...] = ()
    origin_px: Pair = ORIGIN
    true_object: Complex | None = None
    near_field: bool = False
    nominal: str = ''

    @property
    def geometry(self) -> Geometry:
        """The physical scales; the stand-in pixel of one metre reads as unknown."""
        known = UNKNOWN_PIXEL_M not in self.pixel_size_m
        return Geometry(
            pixel_size_m=self.pixel_size_m if known else None,
            object_centre_m=self.object_centre_m if known else None,
            detector_distance_m=self.detector_distance_m,
            photon_energy_eV=self.photon_energy_eV,
            near_field=self.near_field,
            nominal=self.nominal,
        )

    @property
    def place_m(self) -> tuple[Pair, Pair] | None:
        """The size of a pixel and the position of `object[0, 0]` [m], None where the file does not
        know them. Nominal ones are alike in all products of a scan.
        """
        size = self.geometry.pixel_size_m
        if size is None:
            return None
        half = (np.asarray(self.object.shape, np.float64) - 1) / 2
        y, x = (np.asarray(self.object_centre_m) - half * np.asarray(size)).tolist()
        return size, (y, x)

    def pixels(self, positions_m: Double) -> Double:
        """Return positions (K, 2) in pixels of the object array."""
        middle = (np.asarray(self.object.shape, np.float64) - 1) / 2
        centre, pixel = np.asarray(self.object_centre_m), np.asarray(self.pixel_size_m)
        return np.asarray((positions_m - centre) / pixel + middle, np.float64)


def load_product(path: Source) -> Product:
    """Return a product file of the host (DC-9); a multi-layer object is refused."""
    file = existing_file(path)
    return apart(lambda: _load(file), size_of(file), name=file.name, kinds=[Product])


def _load(file: Path) -> Product:
    with open_hdf5(file) as h5:
        obj, probe = dataset_at(h5, 'object'), read(h5, 'probe')
        size = _pair(obj, 'pixel_height_m', 'pixel_width_m')
        require(
            min(size) > 0,
            DataError,
            'The object has no usable pixel size',
            expected='pixel sizes above zero',
            received=f'pixel_height_m={size[0]}, pixel_width_m={size[1]}',
        )
        origin = obj.attrs.get('origin_px')
        return Product(
            object=single_layer(obj[()]),
            probe=first_probe(probe),
            position_index=read(h5, 'probe_position_indexes'),
            positions_m=_positions_m(h5),
            pixel_size_m=size,
            object_centre_m=_pair(obj, 'center_y_m', 'center_x_m'),
            detector_distance_m=positive(attribute(h5, 'detector_object_distance_m')),
            photon_energy_eV=_energy(h5),
            true_object=_true_object(h5),
            losses=tuple(read(h5, 'loss_values').tolist()) if has(h5, 'loss_values') else (),
            origin_px=pair_of(None if origin is None else np.asarray(origin), 'origin_px'),
            near_field=not np.all(h5.attrs.get('far_field', True)),
            nominal=_nominal(h5.attrs.get('comments')),
        )


def save_product(
    path: Source, scan: Scan, reconstruction: Reconstruction, *, name: str = '', comments: str = ''
) -> None:
    """Write a reconstruction as a product file that the host opens (DC-9)."""

    with new_hdf5(path) as h5:
        write_product(
            h5, scan, reconstruction.image, reconstruction.probe, name or scan.name,
            reconstruction.positions_px,
        )  # fmt: skip
        h5.attrs['comments'] = comments or scan.geometry.nominal
        h5[WEIGHT_KEY] = reconstruction.image.weight.astype(np.float32)
        del h5['loss_epochs'], h5['loss_values']
        h5['loss_epochs'] = np.arange(len(reconstruction.losses))
        h5['loss_values'] = np.asarray(reconstruction.losses, np.float64)


def write_product(
    h5: Any, scan: Scan, image: ObjectImage, probe: Complex, name: str, positions_px: Double
) -> None:
    """Write everything that the host reads of a product, without losses."""
    size = scan_pixel_size_m(scan) or (UNKNOWN_PIXEL_M, UNKNOWN_PIXEL_M)
    _write_metadata(h5, scan, probe, name)
    positions_m = metres(scan, positions_px, size)
    h5['probe_position_indexes'] = scan.scan_index
    h5['probe_position_x_m'] = positions_m[:, 1]
    h5['probe_position_y_m'] = positions_m[:, 0]
    h5['probe'] = probe[None].astype(np.complex64)
    h5['object'] = image.object[None].astype(np.complex64)
    centre = metres(scan, middle_px(image.frame), size)
    for key in ('probe', 'object'):
        h5[key].attrs['pixel_height_m'], h5[key].attrs['pixel_width_m'] = size
    h5['object'].attrs['center_y_m'], h5['object'].attrs['center_x_m'] = centre.tolist()
    # Ours alone: where object[0, 0] lies in the scan's pixels. The host passes over it.
    h5['object'].attrs['origin_px'] = np.asarray(image.origin_px, np.float64)
    h5['object_layer_spacing_m'] = np.zeros(0)
    h5['loss_epochs'] = np.zeros(0, np.int64)
    h5['loss_values'] = np.zeros(0)


def save_reconstruction_npz(path: Source, reconstruction: Reconstruction) -> None:
    """Write a reconstruction as plain arrays (DC-13)."""
    image = reconstruction.image
    more: dict[str, Any] = {} if image.uncertainty is None else {'uncertainty': image.uncertainty}
    if reconstruction.half_scan_frc50 is not None:
        more['half_scan_frc50'] = np.float64(reconstruction.half_scan_frc50)
    with atomic_path(path) as part, open(part, 'wb') as stream:
        np.savez_compressed(
            stream,
            object=image.object.astype(np.complex64),
            weight=image.weight.astype(np.float32),
            probe=reconstruction.probe.astype(np.complex64),
            origin_px=np.asarray(image.origin_px, np.float64),
            positions_px=reconstruction.positions_px,
            losses=np.asarray(reconstruction.losses, np.float64),
            fourier_error=np.float64(reconstruction.fourier_error),
            start_fourier_error=np.float64(reconstruction.start_fourier_error),
            backend=np.array(reconstruction.backend),
            start=np.array(reconstruction.start),
            **more,
        )


def scan_pixel_size_m(scan: Scan) -> Pair | None:
    """Return the scan's object pixel (y, x) [m], from the far field where it is not given."""
    g = scan.geometry
    if g.pixel_size_m is not None:
        return g.pixel_size_m
    if g.photon_energy_eV and g.detector_distance_m and g.detector_pixel_size_m:
        return pixel_size_m(
            g.photon_energy_eV, g.detector_distance_m, g.detector_pixel_size_m, scan.side_px
        )
    return None


def metres(scan: Scan, positions_px: Double, size_m: Pair) -> Double:
    """Return positions of the scan in metres; pixel (0, 0) is 0 m where no centre is known."""
    if scan.geometry.object_centre_m is None:
        return np.asarray(positions_px * np.asarray(size_m), np.float64)
    centre = np.asarray(scan.geometry.object_centre_m)
    return np.asarray(
        centre + (positions_px - middle_px(scan.frame)) * np.asarray(size_m), np.float64
    )


def _write_metadata(h5: Any, scan: Scan, probe: Complex, name: str) -> None:
    geometry = scan.geometry
    # A file's name may be no text: HDF5 takes none that is not.
    h5.attrs['name'], h5.attrs['comments'] = printable(name), geometry.nominal
    h5.attrs['detector_object_distance_m'] = float(geometry.detector_distance_m or 0.0)
    for key in ENERGY_KEYS:
        h5.attrs[key] = float(geometry.photon_energy_eV or 0.0)
    h5.attrs['probe_photon_count'] = float((np.abs(probe) ** 2).sum(dtype=np.float64))
    for key in ZEROS:
        h5.attrs[key] = 0.0
    h5.attrs['far_field'] = True


def first_probe(stored: Array) -> Array:
    """Return a stored probe as (N, N) or (P, N, N); refuse one of another rank."""
    require(
        stored.ndim in (2, 3, 4),
        DataError,
        'The probe has the wrong rank',
        expected='(N, N), (modes, N, N) or (bases, modes, N, N)',
        received=f'probe.shape={stored.shape}',
    )
    # Position-dependent probes: the first of the base set is the mean illumination.
    return stored[0] if stored.ndim == 4 and len(stored) else stored


def _positions_m(h5: Any) -> Double:
    x, y = read(h5, 'probe_position_x_m'), read(h5, 'probe_position_y_m')
    index = dataset_at(h5, 'probe_position_indexes')
    require(
        x.ndim == 1 and x.shape == y.shape == index.shape and index.dtype.kind in 'ui',
        DataError,
        'The probe positions are not three lists of the same length',
        expected='indexes (integers), x_m and y_m of shape (positions,)',
        received=f'indexes.shape={index.shape}, x_m.shape={x.shape}, y_m.shape={y.shape}',
    )
    return np.stack([y, x], 1).astype(np.float64)


def _energy(h5: Any) -> float | None:
    return next((e for e in (positive(attribute(h5, k)) for k in ENERGY_KEYS) if e), None)


def _nominal(comments: Any) -> str:
    # The comments outlive the host, which drops what it does not know when it writes its own.
    first = comments.partition('\n')[0] if isinstance(comments, str) else ''
    return first if first.startswith(NOMINAL) else ''


def _true_object(h5: Any) -> Complex | None:
    if not has(h5, TRUE_OBJECT_KEY):
        return None
    return single_layer(read(h5, TRUE_OBJECT_KEY), 'The true object')


def _pair(holder: Any, y_key: str, x_key: str) -> Pair:
    y, x = attribute(holder, y_key), attribute(holder, x_key)
    if y is None or x is None:
        missing = y_key if y is None else x_key
        raise DataError(explain(f'The attribute {missing} of the object is missing'))
    return y, x
