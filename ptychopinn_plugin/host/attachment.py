"""How the library gets into a Ptychodus that knows nothing of it.

Ptychodus builds its list of libraries in `ModelCore.__init__` and offers no slot. Here the *name*
`ProcessingCore` in `ptychodus.model.core` is replaced by a subclass that appends ours to the list
it is given, found by type because its place moved between releases; the GUI's
`ProcessingController` likewise, after its module is imported. A Ptychodus with a slot
(docs/upstream-slot.md) is used through it.

Nothing here raises: without the plug-in, Ptychodus must start as ever.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

logger = logging.getLogger('ptychopinn_plugin')

MODEL_MODULE, CONTROLLER_MODULE = 'ptychodus.model.core', 'ptychodus.controller.core'
SLOT = 'register_reconstructor_library'
VIEW_FACTORY = 'ptychopinn_plugin.host.panel:PanelFactory'
MARK = '_ptychopinn_plugin'
DOCTOR = 'Run: ptychopinn-plugin doctor'

# The library of each host, by its processing API: the GUI is handed nothing else of the model.
_libraries: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def attach(registry: Any = None) -> bool:
    """Attach the plug-in to Ptychodus; tell whether it is attached now. May be called again.

    `registry` is the host's `PluginRegistry` where the hook is called with one. Scripts for a
    Ptychodus that the hook does not reach call it, without, before they build a `ModelCore`.
    """
    try:
        if hasattr(registry, SLOT):
            from .library import NAME, PluginLibrary

            registry.register_reconstructor_library(
                PluginLibrary, name=NAME, view_controller_factory=VIEW_FACTORY
            )
            return True
        if registry is None:
            __import__(MODEL_MODULE)
        elif MODEL_MODULE not in sys.modules:  # a command that has no reconstructors
            return False
        _subclass(sys.modules[MODEL_MODULE], 'ProcessingCore', _processing_core)
        _after_import(CONTROLLER_MODULE, _patch_controller)
    except Exception as error:  # noqa: BLE001 - Ptychodus must start
        _tell('cannot be attached', error)
        return False
    return True


def is_attached() -> bool:
    """Tell whether the next `ModelCore` will have the plug-in."""
    core = getattr(sys.modules.get(MODEL_MODULE), 'ProcessingCore', None)
    return hasattr(core, MARK)


def library_of(processing_api: Any) -> Any:
    """Return the `PluginLibrary` of a host by its processing API, None where it has none."""
    return _libraries.get(processing_api)


def _subclass(module: ModuleType, name: str, derive: Callable[[Any], type]) -> None:
    original = getattr(module, name)
    if not hasattr(original, MARK):
        derived = derive(original)
        derived.__name__, derived.__qualname__ = original.__name__, original.__qualname__
        derived.__module__ = original.__module__
        setattr(derived, MARK, True)
        setattr(module, name, derived)


def _processing_core(base: Any) -> type:
    class ProcessingCore(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            library = None
            try:
                library, args, kwargs = _with_library(args, kwargs)
            except Exception as error:  # noqa: BLE001 - Ptychodus must start
                _tell('cannot be built', error)
            super().__init__(*args, **kwargs)
            if library is not None:
                _connect(library, self, (*args, *kwargs.values()))

    return ProcessingCore


def _with_library(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return our library and the arguments with it appended to the list of libraries."""
    from ptychodus.api.reconstruct import ReconstructorLibrary
    from ptychodus.api.settings import SettingsRegistry

    from .library import PluginLibrary

    settings = _one_of(SettingsRegistry, (*args, *kwargs.values()))
    library = PluginLibrary(settings)
    args, kwargs = _appended(args, kwargs, ReconstructorLibrary, library)
    return library, args, kwargs


def _appended(
    args: tuple[Any, ...], kwargs: dict[str, Any], kind: type, item: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with `item` appended to the one list of objects of `kind`."""
    found = [v for v in (*args, *kwargs.values()) if _is_list_of(kind, v)]
    if len(found) != 1:
        raise TypeError(f'expected one list of {kind.__name__}, received {len(found)}')
    longer = [*found[0], item]
    return (
        tuple(longer if v is found[0] else v for v in args),
        {k: longer if v is found[0] else v for k, v in kwargs.items()},
    )


def _is_list_of(kind: type, value: Any) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return False
    return len(value) > 0 and all(isinstance(v, kind) for v in value)


def _one_of(kind: type, values: Sequence[Any]) -> Any:
    found = [v for v in values if isinstance(v, kind)]
    if len(found) != 1:
        raise TypeError(f'expected one {kind.__name__}, received {len(found)}')
    return found[0]


def _connect(library: Any, core: Any, values: Sequence[Any]) -> None:
    """Lend the host's stop flag, progress bar and foreground queue to the library."""
    try:
        tasks = [v for v in values if hasattr(v, 'put_foreground_task')]
        library.connect(core.processing_api.task_monitor, tasks[0] if tasks else None)
        _libraries[core.processing_api] = library
    except Exception as error:  # noqa: BLE001 - Ptychodus must start
        _tell('works, but Stop and its panel do not', error)


def _patch_controller(module: ModuleType) -> None:
    _subclass(module, 'ProcessingController', _processing_controller)


def _processing_controller(base: Any) -> type:
    class ProcessingController(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            library = None
            try:
                library, args, kwargs = _with_panel(args, kwargs)
            except Exception as error:  # noqa: BLE001 - Ptychodus must start
                _tell('has no panel', error)
            super().__init__(*args, **kwargs)
            if library is not None:
                _watch(library, self)

    return ProcessingController


def _with_panel(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    from ptychodus.controller.data import FileDialogFactory
    from ptychodus.controller.processing import ReconstructorViewControllerFactory

    from .panel import PanelFactory

    values = (*args, *kwargs.values())
    libraries = [_libraries[v] for v in values if _known(v)]
    if not libraries:
        return None, args, kwargs
    factory = PanelFactory(libraries[0], _one_of(FileDialogFactory, values))
    args, kwargs = _appended(args, kwargs, ReconstructorViewControllerFactory, factory)
    return libraries[0], args, kwargs


def _known(value: Any) -> bool:
    try:
        return value in _libraries
    except TypeError:  # not hashable, or no weak reference to it
        return False


def _watch(library: Any, controller: Any) -> None:
    try:
        from .panel import InferButton

        # Kept by the controller: observers are all that holds it otherwise.
        controller._ptychopinn_plugin_infer = InferButton(library, controller)
    except Exception as error:  # noqa: BLE001 - Ptychodus must start
        _tell('works, but Infer may stay grey after a training', error)


def _tell(what: str, error: Exception) -> None:
    logger.warning('PtychoPINN-Plugin %s: %s: %s. %s.', what, type(error).__name__, error, DOCTOR)
    logger.debug('Details', exc_info=error)


def _after_import(name: str, action: Callable[[ModuleType], None]) -> None:
    """Run `action` on a module as soon as it is imported; now, if it is."""
    if name in sys.modules:
        action(sys.modules[name])
    elif not any(isinstance(f, _Watcher) and f.name == name for f in sys.meta_path):
        sys.meta_path.insert(0, _Watcher(name, action))


class _Watcher(MetaPathFinder):
    """Find one module as everybody else would, and act after it has run. Once."""

    def __init__(self, name: str, action: Callable[[ModuleType], None]) -> None:
        self.name, self._action = name, action

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Acting(spec.loader, self._action)
        return spec


class _Acting(Loader):
    def __init__(self, loader: Any, action: Callable[[ModuleType], None]) -> None:
        self._loader, self._action = loader, action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        try:
            self._action(module)
        except Exception as error:  # noqa: BLE001 - Ptychodus must start
            _tell('has no panel', error)
