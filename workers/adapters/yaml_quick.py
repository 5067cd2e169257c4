"""Reading YAML that others wrote, by the megabyte: with libyaml, a hundred times as fast as the exact editor."""

from __future__ import annotations

from typing import Any

import yaml

_VALUE = "tag:yaml.org,2002:value"


def loader(base: Any) -> Any:
    """A safe loader that takes a bare `=` for the text it is, as everybody but PyYAML does (`matchType: =`)."""
    known = base.yaml_implicit_resolvers.items()
    kept = {first: [pair for pair in pairs if pair[0] != _VALUE] for first, pairs in known}
    return type(base.__name__, (base,), {"yaml_implicit_resolvers": kept})


EXACT: Any = loader(yaml.SafeLoader)
QUICK: Any = loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader))


class NotYaml(ValueError):
    """The text is no YAML; a template perhaps."""


def parsed(text: str) -> list[Any]:
    """Every document of a stream. Raises NotYaml, in one line."""
    try:
        return list(yaml.load_all(text, Loader=QUICK))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotYaml(" ".join(str(error).split())[:200]) from error
