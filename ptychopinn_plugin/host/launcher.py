"""`ptychopinn-ptychodus`: Ptychodus with the plug-in, where the hook does not reach."""

from __future__ import annotations

import sys


def main() -> int:
    """Attach the plug-in and run Ptychodus with the given arguments."""
    from .attachment import attach

    if not attach():
        print('error: PtychoPINN-Plugin could not be attached. Run: ptychopinn-plugin doctor')
        return 1
    from ptychodus.__main__ import main as ptychodus_main

    return int(ptychodus_main())


if __name__ == '__main__':
    sys.exit(main())
