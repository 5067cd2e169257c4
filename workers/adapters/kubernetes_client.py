"""kubernetes-asyncio without its 1,400 generated models and APIs, which nothing here uses.

Importing the package whole takes 35 MiB of every process and 0.4 s of every command (measured in 36.1.0), because its
`__init__` modules import everything. So these stay unexecuted, and only the transport and the configuration load.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType


def _bare(name: str) -> ModuleType:
    """The package as a place in which its submodules are found, its own code not run."""
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = module_from_spec(spec)
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)
    return module


if "kubernetes_asyncio" not in sys.modules:
    _bare("kubernetes_asyncio")
    _client = _bare("kubernetes_asyncio.client")
    _bare("kubernetes_asyncio.client.models")
    from kubernetes_asyncio.client.api_client import ApiClient
    from kubernetes_asyncio.client.configuration import Configuration

    # What `kubernetes_asyncio.config` asks the package for.
    _client.ApiClient, _client.Configuration = ApiClient, Configuration  # type: ignore[attr-defined]

from kubernetes_asyncio import config  # noqa: E402  only now can it be found
from kubernetes_asyncio.client.api_client import ApiClient  # noqa: E402
from kubernetes_asyncio.client.configuration import Configuration  # noqa: E402

__all__ = ["ApiClient", "Configuration", "config"]
