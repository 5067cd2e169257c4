"""Reading YAML that others wrote, by the megabyte: with libyaml, a hundred times as fast as the exact editor."""

from __future__ import annotations

from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotYaml(ValueError):
    """The text is no YAML; a template perhaps."""


def parsed(text: str) -> list[Any]:
    """Every document of a stream. Raises NotYaml, in one line."""
    try:
        return list(yaml.load_all(text, Loader=_LOADER))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotYaml(" ".join(str(error).split())[:200]) from error
