"""The contract of a `ReconstructorLibrary`: LB-1 to LB-5."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys

from ptychodus.api.reconstruct import Reconstructor, ReconstructorLibrary

BUILT_IN = ('ptychopinn', 'ptychopinn-torch', 'pty-chi', 'ptychonn', 'ptychofm')
HEAVY = ('torch', 'tensorflow', 'keras', 'lightning', 'pytorch_lightning', 'jax', 'PyQt5')

PROBE = """
import psutil, sys, threading
print([[m for m in {heavy!r} if m in sys.modules],
       [t.name for t in threading.enumerate() if t is not threading.main_thread()],
       [str(p.pid) for p in psutil.Process().children(recursive=True)]])
"""


class ReconstructorLibraryContract:
    """Derive a test class and say how your library is made."""

    # Python that makes the library, run in a process of its own by LB-5.
    library_code: str = ''

    def make_library(self) -> ReconstructorLibrary:
        """Return a new library."""
        raise NotImplementedError

    def test_lb1_its_name_makes_a_key(self) -> None:
        """LB-1: the name is not empty, has no `_` (the host splits the algorithm's key at the first
        one) and is not that of a library that comes with the host.
        """
        name = self.make_library().name
        assert isinstance(name, str), f'name is {name!r}'
        assert name.strip() == name != '', f'name is {name!r}'
        assert '_' not in name, f'name {name!r} has an underscore'
        assert name.casefold() not in BUILT_IN, f'{name!r} comes with the host'

    def test_lb2_it_yields_the_same_reconstructors_each_time(self) -> None:
        """LB-2: iterating yields reconstructors, at least one, and the same ones again: the host
        iterates more than once.
        """
        library = self.make_library()
        first, second = list(library), list(library)
        assert first, 'it holds no reconstructor'
        wrong = [r for r in first if not isinstance(r, Reconstructor)]
        assert not wrong, f'not a Reconstructor: {wrong}'
        assert len(first) == len(second), 'a second iteration yields other reconstructors'
        same = all(a is b for a, b in zip(first, second, strict=True))
        assert same, 'a second iteration yields other reconstructors'

    def test_lb3_its_keys_are_distinct(self) -> None:
        """LB-3: the keys, `library_reconstructor` in lower case, are distinct (of equal keys the
        last one wins) and split into the two names again.
        """
        library = self.make_library()
        names = [r.name for r in library]
        keys = [f'{library.name.casefold()}_{name.casefold()}' for name in names]
        assert all(names), f'a reconstructor has no name: {names}'
        assert len(set(keys)) == len(keys), f'equal keys: {keys}'
        parts = [tuple(key.split('_', maxsplit=1)) for key in keys]
        wanted = [(library.name.casefold(), name.casefold()) for name in names]
        assert parts == wanted, f'keys do not split into the names: {parts}'

    def test_lb4_its_log_level_can_be_set(self) -> None:
        """LB-4: it has a logger of its own, not the root, and `set_log_level` sets its level and
        survives an unknown one.
        """
        library = self.make_library()
        logger = library.get_logger()
        assert isinstance(logger, logging.Logger), f'get_logger returns {logger!r}'
        assert logger is not logging.getLogger(), 'its logger is the root logger'
        before = logger.level
        try:
            for level in library.log_levels():
                library.set_log_level(level)
                assert library.get_log_level() == level, f'the level cannot be set to {level}'
                assert logger.level == getattr(logging, level), f'{level} does not reach the logger'
            library.set_log_level('no such level')
        finally:
            logger.setLevel(before)

    def test_lb5_building_it_is_light(self) -> None:
        """LB-5: building it imports no framework and no Qt and starts neither thread nor process:
        it is built at every start of the host, also for users of other algorithms.
        """
        assert self.library_code, 'Say how the library is made: library_code'
        ran = subprocess.run(
            [sys.executable, '-c', self.library_code + PROBE.format(heavy=HEAVY)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, f'It cannot be built:\n{ran.stderr}'
        modules, threads, processes = ast.literal_eval(ran.stdout.splitlines()[-1])
        assert not modules, f'building it imports {modules}'
        assert not threads, f'building it starts threads {threads}'
        assert not processes, f'building it starts processes {processes}'
