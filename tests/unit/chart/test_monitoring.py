"""What the dashboard and the alerts ask for is what `/metrics` tells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import yaml
from histories import chain, whole_run

from events.fold import fold
from workers.entrypoints.api.metrics import Exposition, Projection

CHART = Path(__file__).resolve().parents[3] / "chart"
NAME = re.compile(r"\bcutover_[a-z_]+\b")


def told() -> set[str]:
    """Every name that /metrics has while a run is at its end."""
    state = fold(chain(whole_run()))._replace(tethers=0)
    none = SimpleNamespace(count=0, lagged=0, refused=0, open=0, slow=0, stalled=0)
    feed = SimpleNamespace(state=state, live=True)
    text = Exposition(Projection(feed, none, none)).text().decode()  # type: ignore[arg-type]
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}


def test_every_alert_asks_for_metrics_that_are_told() -> None:
    rules = yaml.safe_load((CHART / "alerts/rules.yaml").read_text())
    assert len(rules) >= 5
    for rule in rules:
        asked = set(NAME.findall(rule["expr"]))
        assert asked
        assert asked <= told(), rule["alert"]


def test_every_panel_asks_for_metrics_that_are_told() -> None:
    dashboard = json.loads((CHART / "dashboards/cutover.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            asked = set(NAME.findall(target["expr"]))
            assert asked
            assert asked <= told(), panel["title"]
