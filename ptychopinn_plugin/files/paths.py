"""Files before they are opened: is there one, what is it, and whose fault is an error."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

from ..atomic import behind
from ..errors import DataError, DataFileMissingError, OutputError, explain, require

Source = str | os.PathLike[str]

HDF5_MAGIC = b'\x89HDF\r\n\x1a\n'
ZIP_MAGIC = b'PK'


def existing_file(path: Source, cure: str = 'Check the path') -> Path:
    """Return the path of a file that is there and is not empty; raise `DataError` otherwise."""
    file = Path(path)
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataFileMissingError(explain(f'{file} does not exist', cure=cure)) from error
    except OSError as error:
        raise DataError(
            explain(f'{file.name}: The file cannot be read', received=error.strerror or str(error))
        ) from error
    # A pipe or a device would block for ever where a file is read from its end.
    require(
        stat.S_ISREG(status.st_mode),
        DataError,
        f'{file} is a folder or no plain file',
        expected='a file',
        cure=cure,
    )
    require(status.st_size > 0, DataError, f'{file.name}: The file is empty', cure=cure)
    return file


def check_target(path: Source | None, suffixes: Collection[str] = ()) -> None:
    """Raise `OutputError` before slow work whose result could not be written; None is no target."""
    if path is None:
        return
    file = Path(path)
    folder = behind(file).parent
    require(
        not os.path.isdir(file),
        OutputError,
        'The output is a folder',
        expected='a file name',
        received=str(file),
    )
    require(
        os.access(folder, os.W_OK | os.X_OK),
        OutputError,
        f'Cannot write {file}',
        expected='an existing, writable folder',
        received=str(folder),
        cure='Choose another output',
    )
    require(
        not suffixes or any(_ends_with(file.name.lower(), suffix) for suffix in suffixes),
        OutputError,
        f'{file.name}: The suffix is unknown',
        expected=', '.join(suffixes),
        received=f'suffix={file.suffix or "none"}',
    )


def _ends_with(name: str, suffix: str) -> bool:
    return name.endswith(suffix) and name != suffix  # `.npz` alone is a hidden file


def check_distinct(targets: Iterable[Source | None], inputs: Iterable[Source] = ()) -> None:
    """Raise `OutputError` where a target is an input, or two targets are one, whatever they are
    called: writing replaces the file, and a measurement cannot be made again.
    """
    outputs = [Path(target) for target in targets if target is not None]
    sources = [Path(source) for source in inputs]
    for output in outputs:
        for source in sources:
            require(
                not _same(output, source),
                OutputError,
                f'The output {output} is an input and would be replaced',
                expected='a file that nothing is read from',
                received=f'input={source}',
                cure='Choose another output',
            )
    for one, other in combinations(outputs, 2):
        require(
            not _same(one, other),
            OutputError,
            'Two outputs are the same file',
            expected='a file for each',
            received=f'{one} and {other}',
            cure='Choose another output',
        )


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there, or cannot be reached
        return os.path.realpath(one) == os.path.realpath(other)


def kind_of(file: Path) -> str:
    """Return 'npz', 'hdf5' or '' by the first bytes of the file, whatever its suffix is."""
    with blame(file), open(file, 'rb') as stream:
        head = stream.read(len(HDF5_MAGIC))
    if head.startswith(ZIP_MAGIC):
        return 'npz'
    return 'hdf5' if head == HDF5_MAGIC else ''


@contextmanager
def blame(file: Path) -> Iterator[None]:
    """Put the file's name before the text of every `DataError`; an `OSError` becomes one."""
    try:
        yield
    except (DataFileMissingError, OutputError):
        raise
    except DataError as error:
        raise DataError(f'{file.name}: {error}') from error
    except OSError as error:
        raise DataError(
            explain(f'{file.name}: The file cannot be read', received=error.strerror or str(error))
        ) from error
