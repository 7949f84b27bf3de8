"""The library that appears in Ptychodus's menu."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from ptychodus.api.reconstruct import ReconstructorLibrary
from ptychodus.api.settings import SettingsRegistry

from .link import HostLink
from .reconstructor import NeuralReconstructor
from .settings import PluginSettings

logger = logging.getLogger(__name__)

# No underscore: the host splits the algorithm's key at the first one.
NAME = 'PtychoPINN-Plugin'
MODES = {'PINN': 'pinn', 'Supervised': 'supervised'}
LOGGER_NAME = 'ptychopinn_plugin'


class PluginLibrary(ReconstructorLibrary):
    """PINN and Supervised. Building it imports no framework and starts no process."""

    def __init__(self, settings_registry: SettingsRegistry) -> None:
        super().__init__(LOGGER_NAME)
        self.settings = PluginSettings(settings_registry)
        self.link = HostLink()
        self._reconstructors = [
            NeuralReconstructor(name, mode, self.settings, self.link)
            for name, mode in MODES.items()
        ]

    @property
    def name(self) -> str:
        """The name in the host's menu and the first part of the algorithms' keys."""
        return NAME

    def __iter__(self) -> Iterator[NeuralReconstructor]:
        return iter(self._reconstructors)

    def connect(self, task_monitor: Any, task_manager: Any) -> None:
        """Take the host's stop flag, progress bar and foreground queue."""
        self.link.connect(task_monitor, task_manager)
