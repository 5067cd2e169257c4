"""Step 7's decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workers.declared.changes import Named, merge_patch
from workers.errors import Stuck
from workers.sovereign import CatalystApi, Configured, Gitea, Harbor, Login, Sovereign
from workers.steps.catalyst_api_env_patch import later, living, maker, plan, ready, rolled_out, values, variable

LOGIN = Login(username="u", password_file=Path("/absent"))
SOVEREIGN = Sovereign(
    fqdn="sov.test",
    gitea=Gitea(url="http://127.0.0.1:1", login=LOGIN),
    harbor=Harbor(url="http://127.0.0.1:2", host="harbor.sov.test", login=LOGIN),
)
URL = "http://gitea-http.gitea.svc.cluster.local:3000/openova/openova"
NAME = "CATALYST_GITOPS_REPO_URL"
ENTRY = ("spec", "template", "spec", "containers", Named("catalyst-api"), "env", Named(NAME))


def pod(*env: dict[str, Any], container: str = "catalyst-api") -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": container, "env": list(env)}]}}


def deployment(**status: int) -> dict[str, Any]:
    return {
        "metadata": {"name": "catalyst-api", "generation": 3},
        "spec": {"replicas": 2, "template": pod({"name": "OTHER"}, {"name": NAME, "value": "x"})},
        "status": {"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, **status},
    }


def test_the_value_is_said_in_the_release_that_makes_the_deployment() -> None:
    change = plan(SOVEREIGN, deployment(), {"spec": {}})
    assert str(change) == "HelmRelease flux-system/bp-catalyst-platform"
    assert change.fields == {("spec", "values", "catalystApi", "gitopsRepoUrl"): URL}


def test_without_a_release_it_is_said_in_the_deployment_itself() -> None:
    change = plan(SOVEREIGN, deployment(), None)
    assert str(change) == "Deployment catalyst-system/catalyst-api"
    assert change.fields == {(*ENTRY, "value"): URL}
    assert change.absent == ((*ENTRY, "valueFrom"),)


def test_a_variable_that_nobody_sets_is_added_where_nobody_declares_the_deployment() -> None:
    """Its code would fall back to upstream's address (field lessons E7, B7.9)."""
    bare = deployment()
    bare["spec"]["template"] = pod({"name": "OTHER"})
    bare["metadata"]["resourceVersion"] = "4"  # type: ignore[index]
    (container,) = merge_patch(plan(SOVEREIGN, bare, None), bare)["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "OTHER"}, {"name": NAME, "value": URL}]


def test_where_git_declares_the_deployment_the_variable_must_stand_in_its_manifest() -> None:
    bare = deployment()
    bare["spec"]["template"] = pod({"name": "OTHER"})
    bare["metadata"]["labels"] = {"kustomize.toolkit.fluxcd.io/name": "apps"}  # type: ignore[index]
    with pytest.raises(Stuck, match=r"VariableAbsent.*CATALYST_GITOPS_REPO_URL"):
        plan(SOVEREIGN, bare, None)


def test_a_deployment_without_the_container_is_left_to_a_person() -> None:
    bare = deployment()
    bare["spec"]["template"] = pod(container="x")
    with pytest.raises(Stuck, match="ContainerAbsent"):
        plan(SOVEREIGN, bare, None)


def test_what_a_config_map_said_after_the_pod_had_started_is_not_what_its_process_has() -> None:
    entry = {"manager": "helm", "time": "2026-04-30T10:00:05Z", "fieldsV1": {"f:data": {"f:url": {}}}}
    config = {"metadata": {"managedFields": [entry]}, "data": {"url": URL}}
    assert later(config, "url", {"status": {"startTime": "2026-04-30T10:00:00Z"}})
    assert not later(config, "url", {"status": {"startTime": "2026-04-30T10:00:09Z"}})
    assert not later(config, "other", {"status": {"startTime": "2026-04-30T10:00:00Z"}})
    assert not later(None, "url", {"status": {"startTime": "2026-04-30T10:00:00Z"}})


@pytest.mark.parametrize(
    "status",
    [{"observedGeneration": 2}, {"updatedReplicas": 1}, {"availableReplicas": 1}, {"replicas": 3}],
)
def test_a_rollout_is_over_only_when_nothing_old_is_left(status: dict[str, int]) -> None:
    assert rolled_out(deployment())
    assert not rolled_out(deployment(**status))
    assert not rolled_out(None)


def test_a_deployment_scaled_to_nothing_proves_nothing() -> None:
    idle = deployment(replicas=0, updatedReplicas=0, availableReplicas=0)
    idle["spec"]["replicas"] = 0
    assert not rolled_out(idle)


def test_of_two_entries_the_process_gets_the_last() -> None:
    found = variable(pod({"name": NAME, "value": "a"}, {"name": NAME, "value": "b"}), CatalystApi())
    assert found is not None
    assert found["value"] == "b"
    assert variable(pod(), CatalystApi()) is None
    assert variable(pod({"name": NAME}, container="sidecar"), CatalystApi()) is None


def test_pods_that_finished_or_are_on_their_way_out_do_not_count() -> None:
    going = {"metadata": {"name": "a", "deletionTimestamp": "2026-04-30T10:00:00Z"}}
    done = {"metadata": {"name": "b"}, "status": {"phase": "Failed"}}
    up = {"metadata": {"name": "c"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert living([going, done, up]) == [up]
    assert ready(up)
    assert not ready(done)


def test_further_values_are_said_where_each_is_rendered_and_read_where_each_is_used() -> None:
    issuer = Configured(
        variable="CATALYST_PIN_ISSUER",
        value="https://console.{fqdn}",
        value_path=("catalystApi", "issuerHost"),
        release_value="console.{fqdn}",
    )
    more = SOVEREIGN.model_copy(update={"catalyst_api": CatalystApi(further=(issuer,))})
    assert plan(more, deployment(), {"spec": {}}).fields == {
        ("spec", "values", "catalystApi", "gitopsRepoUrl"): URL,
        ("spec", "values", "catalystApi", "issuerHost"): "console.sov.test",
    }
    assert values(more) == {NAME: URL, "CATALYST_PIN_ISSUER": "https://console.sov.test"}
    bare = {(*path[:-1], "value"): v for path, v in plan(more, deployment(), None).fields.items()}
    assert bare == {
        (*ENTRY, "value"): URL,
        (*ENTRY[:-1], Named("CATALYST_PIN_ISSUER"), "value"): "https://console.sov.test",
    }


def test_flux_s_own_labels_tell_which_release_makes_the_deployment() -> None:
    assert maker(deployment(), SOVEREIGN.catalyst_api) == ("flux-system", "bp-catalyst-platform")
    labelled = deployment()
    labelled["metadata"]["labels"] = {  # type: ignore[index]
        "helm.toolkit.fluxcd.io/name": "platform",
        "helm.toolkit.fluxcd.io/namespace": "ops",
    }
    assert str(plan(SOVEREIGN, labelled, {"spec": {}})) == "HelmRelease ops/platform"
