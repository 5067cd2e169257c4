"""How a string is written as a YAML scalar, so that every reader takes it for that string."""

from __future__ import annotations

import re

_PLAIN_BLOCK = re.compile(r"[A-Za-z/_$][A-Za-z0-9_./:@+$}{~=-]*(?<!:)|\d+\.\d+\.\d+(?:[-+][A-Za-z0-9_.+-]+)?")
_PLAIN_FLOW = re.compile(r"[A-Za-z/_$][A-Za-z0-9_./@+$~=-]*")
_NOT_STRINGS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Words that YAML 1.1, which Kubernetes reads, takes for something else."""


def scalar(value: str, style: str | None, flow: bool) -> str:
    """The string as a scalar: in its old quotes, bare where that is beyond doubt, else in double quotes."""
    printable = value.isprintable() and value != ""
    if style == "'" and printable:
        return "'" + value.replace("'", "''") + "'"
    if style != '"':
        plain = _PLAIN_FLOW if flow else _PLAIN_BLOCK
        if plain.fullmatch(value) and value.lower() not in _NOT_STRINGS:
            return value
    return '"' + "".join(_escaped(character) for character in value) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    named = {0x0A: "\\n", 0x09: "\\t", 0x0D: "\\r"}
    if code in named:
        return named[code]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
