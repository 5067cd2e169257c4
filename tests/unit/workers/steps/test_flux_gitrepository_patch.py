"""Step 5's decisions."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from schemas.results import GitMirrored
from workers.declared.changes import holds, merge_patch
from workers.declared.ignored import hides, widened
from workers.declared.repository import branch_of
from workers.errors import Stuck
from workers.sovereign import Gitea, Harbor, Login, Sovereign
from workers.steps.flux_gitrepository_patch import (
    _summary,
    credentials,
    followed,
    mark,
    marked,
    plan,
    same_repository,
)


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


def test_a_way_to_sign_in_at_a_cloud_goes_with_its_git(sovereign: Sovereign) -> None:
    """`provider: github` refuses a Secret without a GitHub App; and only `azure` and `aws` may name an account."""
    theirs = source(provider="github", serviceAccountName="git", proxySecretRef={"name": "p"})
    spec = merge_patch(plan(theirs, sovereign, "main"), theirs)["spec"]
    assert (spec["provider"], spec["serviceAccountName"], spec["proxySecretRef"]) == (None, None, None)
    generic = source(provider="generic")
    assert "provider" not in merge_patch(plan(generic, sovereign, "main"), generic)["spec"]


def test_what_a_source_fetches_besides_its_own_repository_is_told(sovereign: Sovereign) -> None:
    theirs = source(recurseSubmodules=True, include=[{"repository": {"name": "shared"}}])
    todo, _ = followed([theirs], [], sovereign, MIRRORED)
    said = _summary(1, todo, [], "main@sha1:b")
    assert "the submodules of flux-system/openova, shared, included by flux-system/openova" in said
    assert "a second run of cloud-init would undo it: flux-system/openova" in said
    theirs["metadata"]["labels"] = {"kustomize.toolkit.fluxcd.io/name": "flux-system"}
    todo, _ = followed([theirs], [], sovereign, MIRRORED)
    assert "cloud-init" not in _summary(1, todo, [], "main@sha1:b")


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


MIRRORED = GitMirrored(
    changes=0, summary="", branch="main", upstream_sha="a" * 40, local_sha="b" * 40,
    mirrored_at=datetime(2026, 4, 30, tzinfo=UTC), refs=1, refs_changed=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("ref", "branch"),
    [
        ({"branch": "org-tenants"}, "org-tenants"),
        ({}, "master"),
        ({"name": "refs/heads/x"}, "x"),
        ({"name": "refs/tags/v1"}, None),
        ({"branch": "main", "tag": "v1"}, None),
        ({"branch": "main", "commit": "a" * 40}, None),
    ],
)
def test_a_branch_is_followed_unless_something_goes_before_it(ref: dict[str, str], branch: str | None) -> None:
    assert branch_of(source(ref=ref)) == branch


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://github.com/openova-io/openova.git", True),
        ("https://user@GitHub.com/openova-io/openova/", True),
        ("ssh://git@github.com/openova-io/openova", True),
        ("git@github.com:openova-io/openova.git", True),
        ("ssh://git@github.com:22/openova-io/openova.git", True),
        ("https://github.com:443/openova-io/openova", True),
        ("https://github.com:8443/openova-io/openova", False),
        ("https://github.com/openova-io/openova-fork", False),
        ("https://mirror.github.com/openova-io/openova", False),
    ],
)
def test_one_repository_is_known_however_its_url_is_spelled(url: str, same: bool) -> None:
    assert same_repository(url, "https://github.com/openova-io/openova") is same


def named(name: str, **spec: Any) -> dict[str, Any]:
    return {**source(**spec), "metadata": {"name": name, "namespace": "flux-system", "resourceVersion": "1"}}


def test_every_source_of_the_mothership_s_repository_is_followed_and_a_third_party_s_is_named(
    sovereign: Sovereign,
) -> None:
    sources = [
        named("tenants", ref={"branch": "org-tenants"}, suspend=True),
        named("podinfo", url="https://github.com/stefanprodan/podinfo"),
        named("local-too", url="http://gitea-http.gitea.svc.cluster.local:3000/acme/own"),
        source(),
    ]
    todo, others = followed(sources, [], sovereign, MIRRORED)
    assert [(each.key[1], each.branch, each.suspended) for each in todo] == [
        ("openova", "main", False),
        ("tenants", "org-tenants", True),
    ]
    assert others == ["GitRepository flux-system/podinfo (github.com)"]


def test_a_pinned_source_follows_the_branch_only_when_that_applies_nothing_else(sovereign: Sovereign) -> None:
    pinned = source(ref={"tag": "v1"})
    with pytest.raises(Stuck, match="SourcePinned"):
        followed([pinned], [], sovereign, MIRRORED)
    pinned["status"] = {"artifact": {"revision": f"v1@sha1:{'a' * 40}"}}
    ((only,), _) = followed([pinned], [], sovereign, MIRRORED)
    assert only.branch == "main"


def test_a_source_that_a_chart_renders_is_left_to_its_values(sovereign: Sovereign) -> None:
    rendered = source()
    labels = {"helm.toolkit.fluxcd.io/name": "flux-config", "helm.toolkit.fluxcd.io/namespace": "flux-system"}
    rendered["metadata"]["labels"] = labels
    with pytest.raises(Stuck, match="RenderedByHelm"):
        followed([rendered], [], sovereign, MIRRORED)


KIT = "/*\n!/clusters/_template\n!/platform\n"


@pytest.mark.parametrize(
    ("ignore", "path", "hidden"),
    [
        (KIT, "clusters/_template/bootstrap-kit", False),
        (KIT, "clusters/sov.test", True),
        (KIT, "clusters", True),
        ("# a comment\n\n/clusters\n", "clusters/sov.test", True),
        ("*.md\n", "clusters/sov.test", False),
        ("sov.test\n", "clusters/sov.test/apps", True),
        ("/clusters/*\n!/clusters/sov.test/\n", "clusters/sov.test", False),
        ("/clusters/**/apps\n", "clusters/sov.test/x/apps", True),
        ("/a?c\n", "abc/d", True),
        ("!/a\n/a\n", "a", True),
    ],
)
def test_what_the_ignore_rules_keep_from_flux(ignore: str, path: str, hidden: bool) -> None:
    assert hides(ignore, path) is hidden
    assert not hides(widened(ignore, [path]), path)


def test_ignore_is_widened_only_where_it_hides_what_must_be_seen(sovereign: Sovereign) -> None:
    kustomization = {
        "metadata": {"name": "kit", "namespace": "flux-system"},
        "spec": {
            "path": "./clusters/_template/bootstrap-kit",
            "sourceRef": {"kind": "GitRepository", "name": "openova"},
        },
    }
    ((only,), _) = followed([source(ignore=KIT)], [kustomization], sovereign, MIRRORED)
    assert only.change.fields["spec", "ignore"] == KIT + "!/clusters/sov.test\n"
    wide = KIT + "!/clusters/sov.test\n"
    for ignore in ({"ignore": wide}, {}):
        ((only,), _) = followed([source(**ignore)], [kustomization], sovereign, MIRRORED)
        assert ("spec", "ignore") not in only.change.fields
