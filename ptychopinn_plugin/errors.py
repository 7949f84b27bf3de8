"""Every error this package raises on purpose. Each is also the builtin a caller would expect."""

from __future__ import annotations

LOWER = 'Lower the batch size, take fewer patterns, or close what else uses that memory'
LONGEST = 2000  # letters of a part of a message; a file can have names of any length


class PluginError(Exception):
    """Base of all errors raised on purpose; `str(error)` is one line fit for a status bar."""


class DataError(PluginError, ValueError):
    """A scan (file or arrays) is malformed or cannot be what it claims to be."""


class DataFileMissingError(DataError, FileNotFoundError):
    """A file that should be read is not there."""

    def __str__(self) -> str:
        # OSError would print the errno pair; the message alone is what the user needs.
        return str(self.args[0]) if self.args else ''


class ConfigError(PluginError, ValueError):
    """A setting has a value it cannot have."""


class ModelFileError(PluginError, ValueError):
    """A model file is damaged, foreign, unsafe or does not fit the data."""


class BackendUnavailableError(PluginError, ImportError):
    """A back end was asked for whose framework is not installed."""


class TrainingError(PluginError, RuntimeError):
    """Training cannot go on (for example, the loss is not finite)."""


class WorkerError(PluginError, RuntimeError):
    """The process that computes died, or failed in a way that nobody foresaw."""


class OutOfMemoryError(PluginError, MemoryError):
    """The memory of the machine or of its GPU is too small for what was asked."""


class OutputError(PluginError, OSError):
    """A result could not be written."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ''


def require(
    ok: object,
    kind: type[PluginError],
    wrong: str,
    *,
    expected: str = '',
    received: str = '',
    cure: str = '',
) -> None:
    """Raise `kind` with the composed message unless `ok`."""
    if not ok:
        raise kind(explain(wrong, expected=expected, received=received, cure=cure))


def explain(wrong: str, *, expected: str = '', received: str = '', cure: str = '') -> str:
    """Compose the one-line message every error carries: what, expected, received, what to do."""
    parts = [_cut(wrong).rstrip('.') + '.']
    if expected:
        parts.append(f'Expected {_cut(expected).rstrip(".")}.')
    if received:
        parts.append(f'Received: {_cut(received).rstrip(".")}.')
    if cure:
        parts.append(cure.rstrip('.') + '.')
    return printable(' '.join(' '.join(parts).split()))


def printable(text: str) -> str:
    """Return text, that of files included, as one line that steers no terminal."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def out_of_memory(error: BaseException, where: str = 'cpu') -> OutOfMemoryError:
    """Return the error that says what to lower; `where` is the device that had too little."""
    gpu = where != 'cpu'
    return OutOfMemoryError(
        explain(
            f'There is too little memory{" on the GPU" if gpu else ""}',
            received=str(error).strip().partition('\n')[0] or type(error).__name__,
            cure=LOWER + (', or choose device cpu' if gpu else ''),
        )
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f'{text[:LONGEST]} ...'
