"""The worker's child with the toy back end in it; TOY_TROUBLE makes it misbehave.

crash   ends itself by a signal in the middle of the work
killed  is killed as the system does for want of memory
memory  wants too much of it
exit    leaves without a word
parent  leaves a child that holds its outputs
hang    never says anything
chatty  floods both outputs
error   raises what nobody foresaw
check   has a check of scans that fails
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import toy_backend

from ptychopinn_plugin import checks
from ptychopinn_plugin.worker import child

TROUBLE = os.environ.get('TOY_TROUBLE', '')


class Troubled(toy_backend.ToyBackend):
    """The toy, and the trouble that the environment asks for."""

    def device(self, runtime):
        trouble()
        return 'cpu'


def trouble():
    if TROUBLE == 'crash':
        print('about to die', file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    elif TROUBLE == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    elif TROUBLE == 'memory':
        np.zeros(2**60, np.uint8)
    elif TROUBLE == 'exit':
        os._exit(3)
    elif TROUBLE == 'parent':
        subprocess.Popen(['sleep', '5'])
        os._exit(3)
    elif TROUBLE == 'hang':
        while True:
            time.sleep(1)
    elif TROUBLE == 'chatty':
        for number in range(20_000):
            print(f'{number} ' + 'x' * 200)
            print(f'{number} ' + 'y' * 200, file=sys.stderr)
    elif TROUBLE == 'error':
        raise ZeroDivisionError('a bug')


def failing(sample):
    raise ZeroDivisionError('a bug ' + 'x' * 20_000)


if __name__ == '__main__':
    toy_backend.install(Troubled())
    if TROUBLE == 'check':
        checks.CHECKS = (failing,)
    child.main(Path(sys.argv[1]))
