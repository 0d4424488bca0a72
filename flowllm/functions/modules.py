"""Modules of Python files that steps name, and of what is beside them.

Each folder is a package of its own with a name that nothing else has, so that two folders, and two runs, never share a
module: `import helper` in a step's file means `helper.py` beside it, as in a script, and imports everywhere else in the
process are what they were. `sys.path` is left alone.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import linecache
import os
import sys
import types
from collections.abc import Mapping, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    BuiltinImporter,
    ExtensionFileLoader,
    FileFinder,
    FrozenImporter,
    ModuleSpec,
    SourceFileLoader,
)
from typing import Any

from flowllm.core.fingerprint import digest

PREFIX = "flowllm_steps_"
"""Of the names of these packages."""
_open: dict[str, _Folder] = {}
"""Folders in use, by the names of their packages."""


class StepModules:
    """The modules of one run's step files."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """`files` is path to text: what is executed is what the run's snapshot holds; what it lacks is on disk."""
        self._files = files
        self._folders: dict[str, _Folder] = {}

    def load(self, path: str) -> types.ModuleType:
        """The module of a file, executed once. Raises whatever its code raises."""
        return self._folder(os.path.dirname(path)).load(path)  # noqa: PTH120 - the path as it is in the snapshot

    def clean(self, text: str) -> str:
        """A text with modules called as they are in the user's code."""
        for folder in self._folders.values():
            text = text.replace(f"{folder.name}.", "")
        return text

    def close(self) -> None:
        """Forget them all; what is still executed of them goes on."""
        while self._folders:
            self._folders.popitem()[1].close()

    def _folder(self, path: str) -> _Folder:
        if path not in self._folders:
            self._folders[path] = _Folder(path, self._files)
        return self._folders[path]


class _Folder:
    """One folder as a package."""

    def __init__(self, path: str, files: Mapping[str, str]) -> None:
        self.path = path
        self._files = files
        self._finders: dict[str, FileFinder] = {}
        stem = f"{PREFIX}{digest(path)[:8]}"
        numbered = (stem if number == 1 else f"{stem}_{number}" for number in range(1, len(_open) + 2))
        self.name = next(name for name in numbered if name not in _open)
        self.builtins = {**builtins.__dict__, "__import__": self._import}
        self._importlib = _importlib_of(self)
        _open[self.name] = self
        if _Finder not in sys.meta_path:
            sys.meta_path.insert(0, _Finder)
        sys.modules[self.name] = self._package()

    def close(self) -> None:
        del _open[self.name]
        for name in [name for name in sys.modules if name.partition(".")[0] == self.name]:
            file = getattr(sys.modules.pop(name, None), "__file__", None)
            linecache.cache.pop(file or "", None)
        if not _open and _Finder in sys.meta_path:
            sys.meta_path.remove(_Finder)

    def load(self, path: str) -> types.ModuleType:
        """The module of a file in the folder."""
        stem, ending = os.path.splitext(os.path.basename(path))  # noqa: PTH119, PTH122 - text only
        plain = ending == ".py" and stem.isidentifier()
        name = f"{self.name}.{stem if plain else f'file_{digest(path)[:8]}'}"
        found = sys.modules.get(name)
        if found is not None:
            return found
        spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, path, self))
        assert spec is not None  # noqa: S101 - there is a loader
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            _execute(module, spec)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return module

    def spec(self, full_name: str) -> ModuleSpec | None:
        """Where a module of this package is, None if there is none."""
        *around, tail = full_name.split(".")[1:]
        folder = os.path.join(self.path, *around)  # noqa: PTH118 - the path as it is in the snapshot
        for path in (os.path.join(folder, tail, "__init__.py"), os.path.join(folder, f"{tail}.py")):  # noqa: PTH118
            if path in self._files:
                return importlib.util.spec_from_file_location(full_name, path, loader=_Loader(full_name, path, self))
        return self._finder(folder).find_spec(full_name)

    def text(self, path: str) -> str | None:
        """What the snapshot has of a file."""
        return self._files.get(path)

    def import_module(self, name: str, package: str | None = None) -> types.ModuleType:
        """`importlib.import_module` as code of the folder sees it."""
        own = not name.startswith(".") and self._owns(name.partition(".")[0])
        return importlib.import_module(f"{self.name}.{name}" if own else name, package)

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - as Python calls it
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        """`__import__` for code of the folder."""
        top = name.partition(".")[0]
        if level or not self._owns(top):
            module = builtins.__import__(name, globals, locals, fromlist or (), level)
            return self._importlib if module is importlib else module
        full = f"{self.name}.{name}"
        if fromlist:
            return builtins.__import__(full, globals, locals, fromlist, 0)
        importlib.import_module(full)
        return sys.modules[f"{self.name}.{top}"]

    def _owns(self, top: str) -> bool:
        """A module of that name is the folder's own: not one that is part of the interpreter, nor flowllm; a folder
        without code is one only if there is no other module of that name."""
        full = f"{self.name}.{top}"
        if full in sys.modules:
            return True
        if top == "flowllm" or BuiltinImporter.find_spec(top) or FrozenImporter.find_spec(top):
            return False
        spec = self.spec(full)
        if spec is None or spec.loader is not None:
            return spec is not None
        try:
            return importlib.util.find_spec(top) is None
        except (ImportError, ValueError):
            return False

    def _finder(self, folder: str) -> FileFinder:
        if folder not in self._finders:

            def loader(name: str, path: str) -> _Loader:
                return _Loader(name, path, self)

            kinds: Any = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (loader, SOURCE_SUFFIXES))
            self._finders[folder] = FileFinder(folder, *kinds)
        return self._finders[folder]

    def _package(self) -> types.ModuleType:
        """The package itself. What stands in its `__init__.py` is executed once somebody looks for it."""
        package = types.ModuleType(self.name)
        spec = ModuleSpec(self.name, None, is_package=True)
        spec.submodule_search_locations = [self.path]
        package.__spec__, package.__path__, package.__package__ = spec, [self.path], self.name
        start = os.path.join(self.path, "__init__.py")  # noqa: PTH118 - the path as it is in the snapshot

        def look_up(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            del package.__dict__["__getattr__"]
            loader = _Loader(self.name, start, self)
            package.__file__ = start
            loader.exec_module(package)
            return getattr(package, name)

        if start in self._files or os.path.isfile(start):  # noqa: PTH113
            package.__dict__["__getattr__"] = look_up
        return package


class _Loader(SourceFileLoader):
    """Executes a file of a folder, as it is in the snapshot or, where that lacks it, on disk."""

    def __init__(self, name: str, path: str, folder: _Folder) -> None:
        super().__init__(name, path)
        self._folder = folder

    def get_source(self, fullname: str) -> str:
        """The text of the file."""
        text = self._folder.text(self.path)
        return super().get_source(fullname) or "" if text is None else text

    def get_code(self, fullname: str) -> types.CodeType:  # noqa: ARG002
        """Compiled anew: a file may change twice within what its time stamp tells apart."""
        text = self._folder.text(self.path)
        if text is not None:  # tracebacks and `inspect` show what is executed, not what the file may hold by now
            lines = text.splitlines(keepends=True)
            linecache.cache[self.path] = (len(text), None, lines, self.path)
        source = self.get_data(self.path) if text is None else text
        return compile(source, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: types.ModuleType) -> None:
        """With imports as code of the folder sees them."""
        module.__dict__["__builtins__"] = self._folder.builtins
        super().exec_module(module)


class _Finder:
    """Finds the modules of the folders that are in use."""

    @classmethod
    def find_spec(cls, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """As `importlib` asks for it."""
        if not name.startswith(PREFIX):
            return None
        folder = _open.get(name.partition(".")[0])
        return None if folder is None or folder.name == name else folder.spec(name)


def _execute(module: types.ModuleType, spec: ModuleSpec) -> None:
    assert spec.loader is not None  # noqa: S101 - it is one of ours
    spec.loader.exec_module(module)


def _importlib_of(folder: _Folder) -> types.ModuleType:
    """`importlib`, but for what it finds in the folder."""

    class _Importlib(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(importlib, name)

    module = _Importlib("importlib", importlib.__doc__)
    module.__dict__["import_module"] = folder.import_module
    return module
