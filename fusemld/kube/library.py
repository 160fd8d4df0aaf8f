"""The parts of kubernetes-asyncio that are used here: configuration and authentication."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Final

from fusemld.model.errors import StartError

_ROOT: Final = "kubernetes_asyncio"
_CLIENT: Final = f"{_ROOT}.client"


@functools.cache
def load() -> ModuleType:
    """`kubernetes_asyncio.config`, with `kube_config` and `incluster_config` in it.

    Raises `StartError` where the extra is not installed.
    """
    try:
        return _load_without_models()
    except ImportError as error:
        raise StartError(
            f"cannot reach Kubernetes: {error}; install the extra `kubernetes` (fusemld[kubernetes])"
        ) from error


def _load_without_models() -> ModuleType:
    """The package's `__init__` imports every API and model: 1.4 s and 68 MiB. Configuration and authentication
    need none of them: 0.03 s and 4 MiB. So the two packages above are entered without being executed, and nobody
    else sees them like that.
    """
    if _ROOT in sys.modules:
        return importlib.import_module(f"{_ROOT}.config")
    try:
        _enter(_ROOT)
        client = _enter(_CLIENT)
        configuration = importlib.import_module(f"{_CLIENT}.configuration")
        vars(client).update(Configuration=configuration.Configuration, ApiClient=None)
        return importlib.import_module(f"{_ROOT}.config")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == _ROOT]:
            del sys.modules[name]


def _enter(package: str) -> ModuleType:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    return module
