"""Which projects must exist, and how an existing one may be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.adapters.harbor import Project
from workers.adapters.oci import Reference, literal_projects
from workers.sovereign import DEFAULT_UPSTREAMS, Gitea, Harbor, Login, Mode, Sovereign
from workers.steps.harbor_projects import Wish, differences, plan

LOGIN = Login(username="admin", password_file=Path("password"))
SOVEREIGN = Sovereign(
    fqdn="sovereign.test",
    gitea=Gitea(url="http://gitea", login=LOGIN),
    harbor=Harbor(url="http://harbor", host="harbor.sovereign.test", login=LOGIN),
)
HOSTED = Project("p", public=True, registry_id=None, retention_id=None)
PROXY = Project("p", public=True, registry_id=3, retention_id=None)
QUAY = DEFAULT_UPSTREAMS[4].model_copy(update={"mode": Mode.PROXY})


def test_every_upstream_and_the_charts_have_a_project() -> None:
    names = [w.name for w in plan(SOVEREIGN, [])]
    assert sorted(names) == sorted({u.project for u in DEFAULT_UPSTREAMS} | {"openova-io"})
    assert all(w.proxy_of is None for w in plan(SOVEREIGN, []))


def test_a_project_that_a_reference_to_the_mothership_names_exists_here_too() -> None:
    references = [Reference.parse("harbor.openova.io/proxy-dockerhub/alpine/k8s:1"), Reference.parse("nats")]
    assert literal_projects(SOVEREIGN, references) == {"proxy-dockerhub"}
    assert Wish("proxy-dockerhub") in plan(SOVEREIGN, ["proxy-dockerhub"])


def test_an_upstream_in_proxy_mode_wishes_for_a_proxy_even_when_a_reference_names_its_project() -> None:
    sovereign = SOVEREIGN.model_copy(update={"upstreams": (QUAY,)})
    assert Wish("proxy-quay", QUAY) in plan(sovereign, ["proxy-quay"])


@pytest.mark.parametrize(
    ("wish", "found", "registry_id", "wrong"),
    [
        (Wish("p"), HOSTED, None, []),
        (Wish("p", QUAY), PROXY, 3, []),
        (Wish("p"), PROXY, None, ["it is a proxy of registry 3"]),
        (Wish("p", QUAY), HOSTED, 3, ["it is hosted"]),
        (Wish("p", QUAY), PROXY, 4, ["it is a proxy of registry 3, not 4"]),
        (Wish("p"), Project("p", False, 3, None), None, ["it is private", "it is a proxy of registry 3"]),
    ],
)
def test_every_way_in_which_a_project_is_other_than_wished_is_said(
    wish: Wish, found: Project, registry_id: int | None, wrong: list[str]
) -> None:
    assert differences(wish, found, registry_id) == wrong
