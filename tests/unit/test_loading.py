"""TensorFlow's greeting is dropped, and nothing else. Runs without TensorFlow."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

FILE = Path(find_spec('ptychopinn_plugin').origin).parent / 'backends/tensorflow/loading.py'


def run(body):
    script = f"""
        import os, sys, runpy, threading
        without_greeting = runpy.run_path({str(FILE)!r})['without_greeting']
        {body}
        os.write(2, b'after|')
        print(threading.active_count())
    """
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(script)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.strip(), done.stderr


def test_only_the_greeting_is_dropped():
    written = (
        'W: All log messages before absl::InitializeLog()\\nI: oneDNN custom operations are on.'
    )
    threads, told = run(
        f"with without_greeting(): os.write(2, b'one\\n{written} Off: 0\\ntwo\\nno end of line')"
    )
    assert told == 'one\ntwo\nno end of lineafter|'
    assert threads == '1'


def test_what_python_writes_passes_too():
    _, told = run("with without_greeting(): print('told', file=sys.stderr)")
    assert told == 'told\nafter|'


def test_an_exception_passes_and_gives_the_descriptor_back():
    _, told = run(
        """
        try:
            with without_greeting():
                os.write(2, b'why\\n')
                raise ImportError('broken')
        except ImportError as error:
            print(error, file=sys.stderr, flush=True)
    """.replace('\n        ', '\n' + ' ' * 8).strip()
    )
    assert told == 'why\nbroken\nafter|'


def test_a_closed_descriptor_is_no_error():
    threads, told = run(
        'os.close(2)\n        sys.stderr = None\n        with without_greeting(): pass\n'
        "        os.open('/dev/null', os.O_WRONLY)"
    )
    assert (threads, told) == ('1', '')
