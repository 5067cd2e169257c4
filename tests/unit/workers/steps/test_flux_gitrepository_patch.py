"""Step 5's decisions."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from workers.declared.changes import holds, merge_patch
from workers.errors import Stuck
from workers.sovereign import Gitea, Harbor, Login, Sovereign
from workers.steps.flux_gitrepository_patch import credentials, mark, marked, plan


@pytest.fixture
def sovereign(tmp_path: Path) -> Sovereign:
    (tmp_path / "password").write_text("hunter2\n")
    login = Login(username="gitea_admin", password_file=tmp_path / "password")
    return Sovereign(
        fqdn="sov.test",
        gitea=Gitea(url="http://127.0.0.1:1", login=login),
        harbor=Harbor(url="http://127.0.0.1:2", host="harbor.sov.test", login=login),
    )


def source(**spec: Any) -> dict[str, Any]:
    return {
        "kind": "GitRepository",
        "metadata": {"name": "openova", "namespace": "flux-system", "resourceVersion": "9"},
        "spec": {"url": "https://github.com/openova-io/openova", "ref": {"branch": "main"}, **spec},
    }


def test_url_branch_and_credentials_go_in_one_patch_and_a_pinned_tag_goes_away(sovereign: Sovereign) -> None:
    pinned = source(ref={"tag": "v1"}, proxySecretRef={"name": "p"})
    assert merge_patch(plan(pinned, sovereign, "main"), pinned) == {
        "metadata": {"resourceVersion": "9"},
        "spec": {
            "url": "http://gitea-http.gitea.svc.cluster.local:3000/openova/openova",
            "ref": {"branch": "main", "tag": None, "semver": None, "name": None, "commit": None},
            "secretRef": {"name": "cutover-gitea-auth"},
            "proxySecretRef": None,
        },
    }


def test_a_source_that_is_right_needs_no_patch(sovereign: Sovereign) -> None:
    right = source(
        url="http://gitea-http.gitea.svc.cluster.local:3000/openova/openova", secretRef={"name": "cutover-gitea-auth"}
    )
    assert holds(plan(right, sovereign, "main"), right)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [({"suspend": True}, "SourceSuspended"), ({"verify": {"mode": "HEAD"}}, "SourceVerifiesSignatures")],
)
def test_a_source_that_could_not_follow_is_left_to_a_person(
    sovereign: Sovereign, spec: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Stuck, match=reason):
        plan(source(**spec), sovereign, "main")


def test_the_credentials_are_in_the_secret_and_nowhere_in_the_change(sovereign: Sovereign) -> None:
    data = credentials(sovereign)["data"]
    assert {key: base64.b64decode(value).decode() for key, value in data.items()} == {
        "username": "gitea_admin",
        "password": "hunter2",
    }
    assert "hunter2" not in repr(plan(source(), sovereign, "main"))


def test_the_mark_of_an_earlier_run_counts_and_that_of_another_sovereign_does_not(sovereign: Sovereign) -> None:
    assert marked(mark(sovereign, "run-1"), sovereign)
    assert not marked(mark(sovereign.model_copy(update={"fqdn": "other.test"}), "run-1"), sovereign)
    assert not marked(None, sovereign)
