"""The adapter, watched: where each request is made, of what shape, and which of its methods and arguments are used."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from workers.adapters import cluster as adapter
from workers.adapters import cluster_reading, cluster_wire
from workers.adapters.cluster import Cluster

ROOMS = frozenset(str(room.__file__) for room in (adapter, cluster_reading, cluster_wire))
"""The adapter's files."""


class Watched(Cluster):
    """The adapter, with a note of each request: where it was made, and its shape."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.shapes: set[str] = set()
        self.lines: set[tuple[str, int]] = set()
        self.before: Callable[[str, dict[str, str]], Awaitable[None]] | None = None
        """Called with path and query, which it may change, before a request goes out."""

    async def _send(self, method: str, path: str, query: Any, body: Any, content_type: str, limits: Any) -> Any:
        query = dict(query)
        self.shapes.add(shape(method, query, content_type))
        frame = sys._getframe()
        while frame := frame.f_back:  # type: ignore[assignment]
            if (name := frame.f_code.co_filename) in ROOMS:
                self.lines.add((name, frame.f_lineno))
        if self.before:
            await self.before(path, query)
        return await super()._send(method, path, query, body, content_type, limits)


def shape(method: str, query: dict[str, str], content_type: str) -> str:
    """A request without the names in it: verb, what it says in its query, and in which words its body is."""
    free = {"fieldManager", "limit", "continue", "labelSelector", "fieldSelector", "resourceVersion", "timeoutSeconds"}
    said = "&".join(key if key in free else f"{key}={query[key]}" for key in sorted(query))
    spoken = "" if method in ("GET", "DELETE") else f" {content_type}"
    return f"{method} {said}{spoken}".replace("  ", " ").strip()


def _public() -> dict[str, Any]:
    """Its own methods, and those that it has from the rooms it is made of."""
    return {n: f for n, f in inspect.getmembers(Cluster, inspect.isfunction) if not n.startswith("_")}


def arguments() -> set[tuple[str, str]]:
    return {(name, argument) for name, f in _public().items() for argument in inspect.signature(f).parameters}


def noting_arguments(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """From now on, which arguments of which public methods the contracts give."""
    used: set[tuple[str, str]] = set()
    for name, method in _public().items():

        def noted(*args: Any, _name: str = name, _method: Any = method, **more: Any) -> Any:
            bound = inspect.signature(_method).bind(*args, **more)
            if "self" in bound.arguments and isinstance(bound.arguments["self"], Watched):
                used.update((_name, argument) for argument in bound.arguments)
            return _method(*args, **more)

        monkeypatch.setattr(Cluster, name, noted)
    return used


def places_that_send() -> set[tuple[str, int]]:
    """Lines of the adapter on which a request is made, by any of its ways to the wire."""
    ways = ("_call", "_send", "_write", "_list")
    return {
        (file, node.lineno)
        for file in ROOMS
        for node in ast.walk(ast.parse(Path(file).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ways
    }
