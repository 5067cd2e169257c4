"""Where Secrets are looked for, and which ones in use nobody looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.credentials import overlooked, places
from workers.sovereign import Gitea, Harbor, Login, Sovereign

LOGIN = Login(username="u", password_file=Path("/nowhere"))


def sovereign(*namespaces: str) -> Sovereign:
    return Sovereign(
        fqdn="sovereign.test",
        gitea=Gitea(url="http://gitea", login=LOGIN),
        harbor=Harbor(url="http://harbor", host="harbor.sovereign.test", login=LOGIN),
        secret_namespaces=namespaces,
    )


def pod(namespace: str, secret: str) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = {"imagePullSecrets": [{"name": secret}]}
    return {"metadata": {"name": "p", "namespace": namespace}, "spec": spec}, spec


def test_without_a_list_every_namespace_is_looked_into() -> None:
    assert places(sovereign()) == (None,)
    assert overlooked(sovereign(), [pod("tenant", "pull")], []) == []


def test_with_a_list_nothing_else_is_looked_into_and_what_is_used_there_is_told() -> None:
    told = sovereign("flux-system", "flux-system", "catalyst-system")
    assert places(told) == ("flux-system", "catalyst-system")
    source = {"metadata": {"name": "s", "namespace": "tenant"}, "spec": {"secretRef": {"name": "ghcr-pull"}}}
    found = overlooked(told, [pod("tenant", "pull"), pod("flux-system", "ghcr-pull")], [source])
    assert found == ["tenant/ghcr-pull", "tenant/pull"]
