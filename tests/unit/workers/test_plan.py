"""How a plan shows what would change."""

from __future__ import annotations

import pytest

from workers.plan import _diff, _pretty


@pytest.mark.parametrize("spoilt", ["{{", "no JSON at all", "\x00"])
def test_a_node_plan_that_somebody_spoilt_is_shown_and_stops_no_plan(spoilt: str) -> None:
    shown = _diff(_pretty(spoilt), _pretty('{"registry": "harbor.sov.test"}'))
    assert shown[0].startswith("@@")
    assert f"-{spoilt}" in shown
    assert '+  "registry": "harbor.sov.test"' in shown
