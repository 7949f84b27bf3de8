"""The command line: `ptychopinn-plugin COMMAND`. Exit codes: 0 done, 1 it failed or was
interrupted, 2 it was asked wrongly, 3 `check` found something to warn about.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Sequence

from ..errors import ConfigError, PluginError, out_of_memory
from .flags import build_parser
from .progress import PrintableLines, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = build_parser().parse_args(argv)
    level = logging.DEBUG if args.debug else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableLines())
    logging.basicConfig(level=level, handlers=[handler])
    for name in ('matplotlib', 'PIL', 'h5py'):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger('ptychopinn_plugin').setLevel(level)
    try:
        report = args.run(args)
    except KeyboardInterrupt as error:  # a command may say what is left of its work
        return _failed(args, str(error) or 'Interrupted', 1)
    except PluginError as error:
        return _failed(args, str(error), 2 if isinstance(error, ConfigError) else 1)
    except MemoryError as error:
        return _failed(args, str(out_of_memory(error)), 1)
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line for the user, no traceback
        return _failed(args, f'Unexpected {type(error).__name__}: {error} (--debug shows where)', 1)
    if args.json:
        print(json.dumps(report), flush=True)
    code: int = args.code(report)
    return code


def _failed(args: object, message: str, code: int) -> int:
    if getattr(args, 'debug', False):
        for line in traceback.format_exc().splitlines():
            say(line)
    say(f'error: {message}')
    if getattr(args, 'json', False):
        print(json.dumps({'error': message}), flush=True)
    return code
