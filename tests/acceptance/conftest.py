"""What the acceptance tests share: the real manifests, when they are beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
from acceptance_scene import ROOT


@pytest.fixture(scope="session")
def shared_tree() -> Path:
    """The real openova manifests."""
    tree = ROOT.parent / "shared" / "data" / "openova-clusters"
    if not tree.is_dir():
        pytest.skip("../shared/data/openova-clusters is not here")
    return tree
