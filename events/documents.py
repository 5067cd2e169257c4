"""JSON Schema of every event and the AsyncAPI 3 document, generated from the models. `python -m events.documents`.

`--check` writes nothing and exits 1 when a file is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from events import subjects
from events.flow import STEPS
from events.types import FACTS, INPUTS, KINDS, schema_of, type_of

ROOT = Path(__file__).resolve().parents[1] / "schemas"


def json_schema(kind: str) -> dict[str, Any]:
    """JSON Schema 2020-12 of a kind's data."""
    body = KINDS[kind].model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": schema_of(kind), **body}


def asyncapi() -> dict[str, Any]:
    """Channels, messages and operations, AsyncAPI 3.0."""
    messages = {kind: _message(kind) for kind in KINDS}
    channels = {
        "requested": _channel(subjects.REQUESTED, ["requested"], "Input: someone asks for a cutover."),
        "cancel": _channel(subjects.CANCEL, ["cancel"], "Input: stop at the next safe point."),
        "login": _channel(subjects.LOGIN, ["login"], "Input: someone has logged in; may arm auto-fire."),
        "node": _channel(f"{subjects.ROOT}.node.{{node}}", ["node.reported"], "Input: one node's pivot result."),
        "step": _channel(f"{subjects.ROOT}.step.{{number}}", ["step.trigger"], "Trigger: do one step."),
        "journal": _channel(subjects.JOURNAL, list(FACTS), "Facts, appended by compare-and-set only."),
        "rejected": _channel(subjects.REJECTED, ["rejected"], "What was not acted upon, and why."),
    }
    channels["node"]["parameters"] = {"node": {"description": "The node's name, dots as underscores."}}
    channels["step"]["parameters"] = {
        "number": {"enum": [str(step.number) for step in STEPS], "description": "Place of the step in the run."}
    }
    operations = {
        name: {"action": "receive" if name in ("requested", "cancel", "login", "node") else "send",
               "channel": {"$ref": f"#/channels/{name}"}}
        for name in channels
    }  # fmt: skip
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "catalyst-cutover", "version": "1.0.0",
                 "description": "The auditable log of a Sovereign's cutover."},
        "defaultContentType": "application/cloudevents+json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
        "x-jetstream": {"stream": subjects.STREAM, "subjects": [subjects.ALL]},
    }  # fmt: skip


def _message(kind: str) -> dict[str, Any]:
    direction = "input" if kind in INPUTS else "fact"
    return {
        "name": kind,
        "title": type_of(kind),
        "summary": (KINDS[kind].__doc__ or "").strip().splitlines()[0],
        "contentType": "application/cloudevents+json",
        "tags": [{"name": direction}],
        "payload": {"$ref": f"./json/{kind}.json"},
    }


def _channel(address: str, kinds: list[str], description: str) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "messages": {kind: {"$ref": f"#/components/messages/{kind}"} for kind in kinds},
    }


def files() -> dict[Path, str]:
    """Every generated file with its content."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    out = {ROOT / "json" / f"{kind}.json": orjson.dumps(json_schema(kind), option=option).decode() for kind in KINDS}
    text = StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(asyncapi(), text)
    return {**out, ROOT / "asyncapi.yaml": text.getvalue()}


def stale() -> list[Path]:
    """Files that are missing or differ from what the models say."""
    return [path for path, text in files().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` only look."""
    old = stale()
    if "--check" in arguments:
        for path in old:
            print(f"stale: {path.relative_to(ROOT.parent)}; run `make schemas`")
        return 1 if old else 0
    (ROOT / "json").mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
