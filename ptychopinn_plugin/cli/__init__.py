"""The command line: `ptychopinn-plugin COMMAND`. Exit codes: 0 done, 1 it failed or was
interrupted, 2 it was asked wrongly, 3 `check` found something to warn about.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, PluginError, out_of_memory
from .flags import build_parser
from .progress import PrintableLines, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = build_parser().parse_args(argv)
    level = logging.DEBUG if args.debug else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableLines())
    # Only we tell what we do: torch, for one, has statistics to tell at an interrupt.
    logging.basicConfig(level=logging.DEBUG if args.debug else logging.WARNING, handlers=[handler])
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
    code: int = args.code(report)
    return _print_json(args, report) or code


def _failed(args: argparse.Namespace, message: str, code: int) -> int:
    if args.debug:
        for line in traceback.format_exc().splitlines():
            say(line)
    say(f'error: {message}')
    return _print_json(args, {'error': message}) or code


def _print_json(args: argparse.Namespace, report: dict[str, Any]) -> int:
    """Print the report where `--json` asks for it; return 1 when nobody can read it."""
    if not args.json:
        return 0
    try:
        print(json.dumps(report), flush=True)
    except OSError as error:  # a pipe whose reader has gone, a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left over
        say(f'error: The report cannot be written to standard output: {error.strerror}')
        return 1
    return 0
