"""The hook that Ptychodus finds: installed as `ptychodus/plugins/ptychopinn_plugin_hook.py`.

Ptychodus imports every module of that folder when it starts and calls `register_plugins`. Whatever
goes wrong here is one line in its log: any exception would keep it from starting.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger('ptychopinn_plugin')


def register_plugins(registry: Any) -> None:
    """Attach PtychoPINN-Plugin to the Ptychodus that is starting."""
    try:
        from ptychopinn_plugin.host.attachment import attach
    except ModuleNotFoundError as error:
        if error.name == 'ptychopinn_plugin':
            cure = f'Install ptychopinn-plugin, or remove {__file__}'
        else:
            cure = 'Run: pip install --upgrade ptychopinn-plugin'
        logger.warning('PtychoPINN-Plugin is not there: %s. %s.', error, cure)
        return
    except Exception as error:  # noqa: BLE001 - Ptychodus must start
        logger.warning(
            'PtychoPINN-Plugin does not load: %s: %s. Run: ptychopinn-plugin doctor.',
            type(error).__name__,
            error,
        )
        return
    attach(registry)
