"""Hostile inputs from valid ones: bytes, and the structures of zip, NPY, HDF5 and JSON."""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zipfile
from hashlib import sha256
from typing import Any

import h5py
import numpy as np

from .seeds import pack, unpack

NUMBERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 32767, 65535, 2**20, 2**31 - 1, 2**31,
           2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
HDF5_SIGNATURES = (b'\x89HDF', b'TREE', b'SNOD', b'HEAP', b'GCOL', b'OHDR', b'OCHK', b'FRHP',
                   b'FHDB', b'FHIB', b'FSHD', b'BTHD', b'BTLF', b'BTIN', b'FAHD', b'FADB', b'EAHD',
                   b'EAIB', b'EADB', b'SMTB')  # fmt: skip
SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**70, -(2**70), 10**400, 0.0, -0.0, 1e308, 5e-324,
    -1.5, '', 'x', 'nan', '../../x', '\0', '\ud800', 'x' * 5000, [], {}, [[]], {'': 0}, [0, 0],
    [1e308, -1e308], ['a'] * 3,
)  # fmt: skip
DTYPES = ('u1', 'i2', '<u4', '>i8', 'u8', 'f2', '<f4', '>f8', 'f16', 'c8', 'c16', 'b', 'S3', 'U2',
          'V4', 'M8[s]', 'm8[D]', 'c32')  # fmt: skip
SHAPES = ((), (0,), (1,), (2,), (6,), (6, 2), (6, 3), (6, 8, 8), (8, 8), (20, 24), (1, 20, 24),
          (1, 2, 8, 8), (0, 8, 8), (2, 2, 2, 2, 2), (6, 9, 9), (6, 8, 10))  # fmt: skip
OUTSIDE = 'outside.h5'  # a pipe where the inputs lie: who opens it hangs


def mutate(reader: str, data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return a hostile input from `data`; `other` is another input of the same reader."""
    if rng.random() < 0.02:
        return raw(data, other, rng)
    return _HOW[reader](data, other, rng)


def raw(data: bytes, other: bytes, rng: random.Random, times: int = 0) -> bytes:
    """Change bytes without regard to what they mean."""
    made = bytearray(data)
    for _ in range(times or rng.choice((1, 1, 1, 2, 4, 12))):
        if not made:
            return bytes(other)
        at, kind = rng.randrange(len(made)), rng.randrange(8)
        if kind == 0:
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            made[at] = rng.randrange(256)
        elif kind in (2, 3):
            _put_number(made, at, rng)
        elif kind == 4:
            del made[at : at + rng.choice((1, 2, 4, 8, 64, 512))]
        elif kind == 5:
            end = min(len(made), at + rng.choice((1, 4, 8, 64, 512)))
            made[at:at] = made[at:end]
        elif kind == 6 and other:
            start = rng.randrange(len(other))
            size = rng.choice((4, 8, 32, 256, 4096))
            made[at : at + size] = other[start : start + size]
        elif rng.random() < 0.3:
            del made[at:]
    return bytes(made)


def _put_number(made: bytearray, at: int, rng: random.Random) -> None:
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice((*NUMBERS, len(made), len(made) - 8, at, rng.getrandbits(16)))
    order = '>' if rng.random() < 0.1 else '<'
    code = {1: 'B', 2: 'H', 4: 'I', 8: 'Q'}[width]
    packed = struct.pack(order + code, number % (1 << 8 * width))
    made[at : at + width] = packed[: len(made) - at]


# --- HDF5 -----------------------------------------------------------------------------------------


# HDF5 files made by h5py alone: a damaged one could kill the process that makes the inputs.
_sound: set[int] = set()


def trust(data: bytes) -> None:
    """Note that the HDF5 files in a valid input can be opened here."""
    members = {**_members(data), **unpack(data)}
    _sound.update(hash(d) for d in (data, *members.values()))
    for name, part in members.items():
        if name.endswith('.zip'):
            trust(part)


def hdf5(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change an HDF5 file: mostly its records, which are a small part of it."""
    kind = rng.random()
    if kind < 0.25 and hash(data) in _sound:
        try:
            made_anew = rebuilt(data, rng)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError):
            return raw(data, other, rng)  # two changes that do not go together
        _sound.add(hash(made_anew))
        return made_anew
    made = bytearray(data)
    places = records(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if not places or kind > 0.95:
            return raw(data, other, rng)
        at = min(rng.choice(places) + rng.randrange(96), len(made) - 1)
        if rng.random() < 0.5:
            _put_number(made, at, rng)
        else:
            made[at] = rng.choice(
                (0, 1, made[at] ^ (1 << rng.randrange(8)), 255, rng.randrange(256))
            )
    return bytes(made)


def records(data: bytes) -> list[int]:
    """Return where the records of an HDF5 file begin, old object headers among them."""
    found = []
    for signature in HDF5_SIGNATURES:
        at = data.find(signature)
        while at >= 0:
            found.append(at)
            at = data.find(signature, at + 1)
    at = data.find(b'\x01\x00')  # version 1 of an object header has no signature
    while at >= 0:
        if at % 8 == 0:
            found.append(at)
        at = data.find(b'\x01\x00', at + 1)
    return found


def rebuilt(data: bytes, rng: random.Random) -> bytes:
    """Return a sound HDF5 file with a few objects replaced by hostile ones."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, 'r+') as h5:
        names: list[str] = []
        h5.visit(names.append)
        for _ in range(rng.choice((1, 1, 2))):
            hard = [n for n in names if isinstance(h5.get(n, getlink=True), h5py.HardLink)]
            name = rng.choice(hard)
            item = h5[name]
            if rng.random() < 0.35:
                _attribute(item if rng.random() < 0.7 else h5, rng)
            else:
                _dataset(h5, name, item, rng)
    return buffer.getvalue()


def _array(rng: random.Random, shape: tuple[int, ...] | None = None) -> np.ndarray:
    dtype = np.dtype(rng.choice(DTYPES))
    shape = rng.choice(SHAPES) if shape is None else shape
    values = np.zeros(shape, dtype)
    if dtype.kind in 'iufc':
        fill = rng.choice((0, 1, 100, 255, -1, 0.5, 1e30, 1e300, float('nan'), float('inf')))
        with np.errstate(all='ignore'), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            values[...] = np.full(shape, fill).astype(dtype)
    return values


def _attribute(item: Any, rng: random.Random) -> None:
    key = rng.choice((*item.attrs, 'origin_px', 'far_field', 'pixel_height_m', 'center_x_m',
                      'detector_pixel_width_m', 'photon_energy_eV'))  # fmt: skip
    kind = rng.randrange(8)
    if kind == 0:
        value: Any = _array(rng)
        if value.dtype.kind in 'UMm':
            value = 'text'
    elif kind == 1:
        item.attrs.create(key, ['a', 'bc'], dtype=h5py.string_dtype())
        return
    elif kind == 2:
        vlen = np.empty(2, object)
        vlen[:] = [np.arange(3), np.arange(2)]
        item.attrs.create(key, vlen, dtype=h5py.vlen_dtype(np.int32))
        return
    elif kind == 3:
        value = h5py.Empty('f4')
    elif kind == 4:
        item.attrs.create(key, item.ref, dtype=h5py.ref_dtype)
        return
    elif kind == 5:
        item.attrs.pop(key, None)
        return
    elif kind == 6:
        value = np.zeros(2, [('a', 'f4'), ('b', 'i4')])
    else:
        value = rng.choice((0.0, -1.0, 1e-320, 1e308, float('nan'), float('inf'), 2**60, True, 'x'))
    item.attrs[key] = value


def _dataset(h5: Any, name: str, item: Any, rng: random.Random) -> None:
    shape = item.shape if isinstance(item, h5py.Dataset) and item.shape is not None else (3,)
    plain = isinstance(item, h5py.Dataset) and item.dtype.kind in 'uifcb' and item.size
    plain = plain and item.size < 10**6 and not item.is_virtual and not item.external
    stored = item[()] if plain else None
    kind = rng.randrange(16)
    del h5[name]
    if kind == 0:
        h5[name] = h5py.SoftLink(
            rng.choice(('/' + name, '/nowhere', '/', name + '/x', '/patterns'))
        )
    elif kind == 1:
        h5[name] = h5py.ExternalLink(OUTSIDE, '/' + name)
    elif kind == 2:
        h5.create_dataset(name, shape or (3,), 'f4', external=[(OUTSIDE, 0, 10**6)])
    elif kind == 3:
        layout = h5py.VirtualLayout(shape or (3,), 'f4')
        layout[...] = h5py.VirtualSource(rng.choice((OUTSIDE, '.')), '/object', shape or (3,))
        h5.create_virtual_dataset(name, layout)
    elif kind == 4:
        h5.create_dataset(name, data=['a', 'b'], dtype=h5py.string_dtype())
    elif kind == 5:
        h5.create_dataset(name, (3,), dtype=rng.choice((h5py.ref_dtype, h5py.regionref_dtype)))
    elif kind == 6:
        h5.create_dataset(name, (6,), dtype=h5py.vlen_dtype(np.int32))
    elif kind == 7:
        h5[name] = h5py.Empty('f4')
    elif kind == 8:
        h5.create_group(name)
    elif kind == 9:
        h5[name] = np.dtype('f4')
    elif kind == 10:  # nothing behind it
        huge = rng.choice(((10**9, 8, 8), (2**20, 2**20), (6, 2**15, 2**15), (2**40,), (10**5,) * 3,
                           (6, 700, 700)))  # fmt: skip
        h5.create_dataset(name, huge, 'u4', chunks=tuple(min(n, 64) for n in huge),
                          fillvalue=rng.choice((0, 7)))  # fmt: skip
    elif kind == 11:  # a bomb
        h5.create_dataset(name, data=np.zeros((64, 256, 256), rng.choice(('u1', 'f4'))),
                          compression='gzip', compression_opts=9)  # fmt: skip
    elif kind == 12 and stored is not None and shape:
        h5.create_dataset(name, data=stored, chunks=True, maxshape=(None,) * len(shape),
                          compression=rng.choice(('gzip', 'lzf', None)), shuffle=True,
                          fletcher32=rng.random() < 0.5)  # fmt: skip
    elif kind == 13 and stored is not None:
        h5[name] = _array(rng, stored.shape) if rng.random() < 0.5 else stored.astype('>f8')
    elif kind == 14:
        h5[name] = np.zeros(3, [('a', 'f4'), ('b', 'i4', 2)])
    else:
        value = _array(rng)
        h5[name] = value if value.dtype.kind not in 'UMm' else np.zeros(3)


# --- zip and NPY ----------------------------------------------------------------------------------


def npz(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change an NPZ file: its arrays, their headers, or the zip around them."""
    members = _members(data)
    if not members or rng.random() < 0.2:
        return zip_records(data, rng) if rng.random() < 0.7 else raw(data, other, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice([*members])
        kind = rng.random()
        if kind < 0.4:
            members[name] = npy(members[name], rng)
        elif kind < 0.7:
            stream = io.BytesIO()
            value = np.array(rng.choice((None, {}, [1, 'a'])), object)
            value = value if rng.random() < 0.1 else _array(rng)
            np.save(stream, value, allow_pickle=True)
            members[name] = stream.getvalue()
        elif kind < 0.8:
            members[name] = raw(members[name], members[rng.choice([*members])], rng)
        elif kind < 0.9:
            members[rng.choice(('object.npy', 'true_object.npy', 'diffraction.npy', 'x', 'a\0b.npy',
                                '../x.npy', 'scan_index.npy', 'weight.npy', 'origin_px.npy',
                                'xcoords.npy'))] = members[name]  # fmt: skip
        else:
            del members[name]
            if not members:
                break
    return zipped([*members.items()], rng)


def npy(data: bytes, rng: random.Random) -> bytes:
    """Change the header of an NPY file."""
    if len(data) < 12 or data[:6] != b'\x93NUMPY':
        return data
    wide = data[6] != 1
    size = struct.unpack_from('<I' if wide else '<H', data, 8)[0]
    start = 12 if wide else 10
    header, body = data[start : start + size].decode('latin1'), data[start + size :]
    kind = rng.randrange(7)
    shape = rng.choice(('(10**9,)', '(1000000000, 8, 8)', '(-1,)', '(6,)', '()', '(0, 8, 8)', '6',
                        '(9223372036854775807, 2)', '(6, 8.0)', '(6,) * 9', '(' * 300, 'None',
                        '(' + '1, ' * 70 + ')', '(True, 6)', '(6, 8, 8, 1)'))  # fmt: skip
    descr = rng.choice((*(repr(d) for d in DTYPES), "'O'", "'|O8'", "[('a', '<f4')]", "'<f4', (2,)",
                        "'(2,3)f4'", 'None', "'S2147483647'", "'V0'", "'S0'", "''", "'U0'", '1',
                        "[('a', 'O')]", "'f4,O'"))  # fmt: skip
    if kind == 0:
        header = _between(header, "'shape': ", ', }', shape)
    elif kind == 1:
        header = _between(header, "'descr': ", ", 'fortran", descr)
    elif kind == 2:
        header = header.replace("'fortran_order': False", rng.choice((
            "'fortran_order': True", "'fortran_order': 1", "'fortran': 0", "'x': __import__('os')",
        )))  # fmt: skip
    elif kind == 3:
        header = rng.choice(('', '{', '{}', '[1]', '\0' * 50, '-' * 3000, '1' * 5000 + ' ' * 99,
                             '{"a":' * 200, "b'\\x", '"""', '\\', "{'descr': '<f4'}"))  # fmt: skip
    elif kind == 4:
        header = raw(header.encode('latin1'), b'{[(', rng).decode('latin1')
    elif kind == 5:
        return data[:6] + bytes([rng.randrange(6), rng.randrange(3)]) + data[8:]
    else:
        body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.5 else body * 2
    text = header.encode('latin1')
    length = len(text) if rng.random() < 0.9 else rng.choice(NUMBERS)
    packed = struct.pack('<I', length % 2**32) if wide else struct.pack('<H', length % 2**16)
    return data[:8] + packed + text + body


def _between(text: str, before: str, after: str, new: str) -> str:
    start = text.find(before)
    end = text.find(after, start + len(before))
    return text if start < 0 or end < 0 else text[: start + len(before)] + new + text[end:]


def _members(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            return {i.filename: z.read(i) for i in z.infolist() if i.file_size < 2**20}
    except Exception:  # noqa: BLE001 - the input is damaged by now; its bytes will be changed
        return {}


def zipped(members: list[tuple[str, bytes]], rng: random.Random) -> bytes:
    """Return members in a sound zip, oddly packed now and then, then perhaps with bad records."""
    buffer = io.BytesIO()
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    if rng.random() < 0.1:
        packing = rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    if members and rng.random() < 0.05:
        members = [*members, rng.choice(members)]
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, 'w', packing) as z:
        warnings.simplefilter('ignore')
        for name, data in members:
            z.writestr(name, data)
    made = buffer.getvalue()
    return zip_records(made, rng) if rng.random() < 0.15 else made


def zip_records(data: bytes, rng: random.Random) -> bytes:
    """Change fields of the local headers, the directory or the end of a zip."""
    made = bytearray(data)
    places = []
    for signature, size in ((b'PK\1\2', 46), (b'PK\3\4', 30), (b'PK\5\6', 22)):
        at = data.find(signature)
        while at >= 0:
            places.append((at, size))
            at = data.find(signature, at + 1)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if places:
            at, size = rng.choice(places)
            spot = at + rng.randrange(4, size + 8)
            if spot < len(made):
                _put_number(made, spot, rng)
    return bytes(made)


# --- JSON -----------------------------------------------------------------------------------------


def json_text(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change a JSON text: its values, or now and then its letters."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return raw(other, data, rng)
    if rng.random() < 0.15:
        return raw(data, other, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        values = _value(values, rng)
    try:
        return json.dumps(values).encode()
    except (ValueError, RecursionError):
        return data


def _value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice([*value])
        kind = rng.random()
        if kind < 0.8:
            return {**value, key: _value(value[key], rng)}
        if kind < 0.9:
            return {k: v for k, v in value.items() if k != key}
        return {**value, rng.choice(('', 'evil', '__class__', key + ' ', key.upper())): value[key]}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _value(value[at], rng), *value[at + 1 :]]
    return rng.choice((*SCALARS, float('nan'), float('inf'), [value], {'a': value}, str(value)))


# --- the readers ----------------------------------------------------------------------------------


def model(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change a model file: a member with checksums that fit, its manifest, or the zip."""
    members = _members(data)
    if len(members) < 3 or rng.random() < 0.1:
        return zip_records(data, rng) if rng.random() < 0.6 else raw(data, other, rng)
    name = rng.choice(('weights.h5', 'weights.h5', 'config.json', 'manifest.json', 'zip'))
    if name in members:
        change = hdf5 if name == 'weights.h5' else json_text
        members[name] = change(members[name], _members(other).get(name, b''), rng)
        if name == 'weights.h5' and rng.random() < 0.05:
            members[name] = bytes(2**22)
    else:
        extra = rng.choice(('../../evil', '/etc/passwd', 'C:\\evil', 'model.pkl', 'config.json',
                            'weights.h5', 'manifest.json', 'a' * 60000, 'a\0b'))  # fmt: skip
        pairs = [*members.items(), (extra, b'x')]
        rng.shuffle(pairs)
        return zipped(pairs, rng)
    if name != 'manifest.json' and rng.random() < 0.95:
        noted = json.loads(members['manifest.json']) if _is_json(members['manifest.json']) else {}
        if isinstance(noted, dict):
            noted['members'] = {
                n: {'sha256': sha256(d).hexdigest(), 'size': len(d)}
                for n, d in members.items() if n != 'manifest.json'
            }  # fmt: skip
            members['manifest.json'] = json.dumps(noted).encode()
    return zipped([*members.items()], rng)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def parts(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change one file of several, each as what it is; or leave one out, or swap two."""
    members, others = unpack(data), unpack(other)
    if not members:
        return other
    name = rng.choice([*members])
    if rng.random() < 0.4:
        name = next((n for n in ('job.json', 'line') if n in members), name)
    kind = rng.random()
    if kind < 0.03:
        del members[name]
    elif kind < 0.06:
        members[name] = members[rng.choice([*members])]
    elif kind < 0.1 and name in others:
        members[name] = others[name]
    else:
        members[name] = _part(name, members[name], others.get(name, b''), rng)
    return pack({n: d for n, d in members.items() if len(n.encode()) < 256})


def _part(name: str, data: bytes, other: bytes, rng: random.Random) -> bytes:
    if name.endswith('.npy'):
        return npy(data, rng) if rng.random() < 0.8 else raw(data, other, rng)
    if name.endswith('.zip'):
        return model(data, other, rng)
    if name.endswith('.h5'):
        return hdf5(data, other, rng)
    return json_text(data, other or data, rng)


_HOW = {
    'npz': npz, 'probe': npz, 'hdf5': hdf5, 'cxi': hdf5, 'product': hdf5, 'pair': parts,
    'model': model, 'settings': json_text, 'message': parts, 'job': parts,
}  # fmt: skip
