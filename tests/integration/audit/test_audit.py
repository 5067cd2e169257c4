"""One Sovereign in a box: what ties it before the cutover, what is planned, what is left after, and what comes back."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio
import yaml
from acceptance_scene import Scene, exported, in_one_task, scene

from events.envelope import data_of, read
from events.flow import SLUGS
from events.picture import picture
from events.subjects import JOURNAL
from schemas.events import Audited, StepSucceeded
from workers.adapters.cluster import Cluster
from workers.audit.finding import Audit, Severity
from workers.audit.survey import audit
from workers.entrypoints import wiring
from workers.entrypoints.settings import Settings, load
from workers.node_log import NodeLog

pytestmark = pytest.mark.asyncio(loop_scope="module")
HELM = "/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system/helmrepositories/bp-loki"
MERGE = "application/merge-patch+json"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sovereign(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    directory = tmp_path_factory.mktemp("audited")
    opened, close = await in_one_task(lambda: scene(directory, workers=1, lease=30.0, ack_wait=30.0))
    yield opened
    await close()


async def looked(settings: Settings) -> Audit:
    async with wiring.cluster(settings) as cluster, wiring.world(settings, cluster, NodeLog(settings.nats)) as world:
        return await audit(world)


def as_user(scene_: Scene, user: str) -> Settings:
    """The same settings with another identity at the API server."""
    kubeconfig = scene_.box.kube.kubeconfig(scene_.box.directory / f"kubeconfig-{user.rpartition(':')[2]}", user)
    document = yaml.safe_load(scene_.settings_file.read_text())
    document["kubernetes"] = {"kubeconfig": str(kubeconfig)}
    file = scene_.box.directory / "settings-other.yaml"
    file.write_text(yaml.safe_dump(document))
    return load(file)


async def everything(scene_: Scene) -> dict[str, Any]:
    """What must not move: every object's version, every ref of Gitea, what was asked of Harbor beyond reading."""
    async with Cluster.open(kubeconfig=scene_.box.kubeconfig, field_manager="test") as cluster:
        from workers.audit.survey import SOURCES, WORKLOADS
        from workers.needs import LIVE

        kinds = {*SOURCES, *WORKLOADS, *LIVE}
        objects = {
            f"{kind.kind} {o['metadata'].get('namespace')}/{o['metadata']['name']}": o["metadata"]["generation"]
            for kind in kinds
            if await cluster.served(kind)
            for o in await cluster.list(kind)
            if "generation" in o["metadata"]
        }
        code, secrets = await scene_.box.kube.local.request("GET", "/api/v1/secrets")
        assert code == 200
        objects |= {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in secrets["items"]}
    writes = [s for s in scene_.box.harbor.faults.seen if s.method not in ("GET", "HEAD")]
    gitea = {str(p): p.stat().st_mtime_ns for p in (scene_.box.directory / "gitea").rglob("*")}
    return {"objects": objects, "harbor": len(writes), "gitea": gitea, "log": await scene_.head()}


async def facts(scene_: Scene, after: int) -> AsyncIterator[Audited]:
    """Audits in the journal above a sequence, as they come."""
    async for entry in scene_.stream.read(JOURNAL, after, live=True):
        data = data_of(read(entry.raw))
        if isinstance(data, Audited):
            yield data


async def next_audit(scene_: Scene, after: int, clean: bool) -> Audited:
    with anyio.fail_after(60):
        async for fact in facts(scene_, after):
            if fact.clean is clean:
                return fact
    raise AssertionError("the log ended")


# --- before -----------------------------------------------------------------------------------------------------


async def test_a_fresh_sovereign_hangs_by_all_eight(sovereign: Scene) -> None:
    found = await looked(sovereign.settings)
    assert {f.tether for f in found.findings} >= {1, 2, 3, 4, 5, 6, 7, 8}
    assert all(found.left(number) for number in range(1, 8))
    assert not found.unreadable
    assert len(found.left(2)) == 3, "one for each node"
    assert all(f.severity is Severity.NOTICE for f in found.findings if f.tether == 8), "used once, holds nothing"


async def test_the_command_says_so_in_every_form_and_in_its_exit_code(sovereign: Scene, tmp_path: Path) -> None:
    said = await sovereign.type("audit", "--output", "json", "--report", str(tmp_path / "tethers.md"))
    assert said.code == 1, said.text
    document = json.loads(said.text)
    assert not document["clean"]
    assert all(document["tethers"][str(number)] for number in range(1, 8))
    text = (tmp_path / "tethers.md").read_text()
    assert "# Tether audit of sovereign.test" in text
    assert "| 5 | Secret flux-system/ghcr-pull | auths[ghcr.io] | ghcr.io |" in text
    table = await sovereign.type("audit")
    assert table.code == 1
    assert "bp-loki" in table.text
    assert "helmrepo-patches" in table.text


async def test_no_report_holds_a_credential(sovereign: Scene, tmp_path: Path) -> None:
    said = await sovereign.type("audit", "--output", "json", "--report", str(tmp_path / "tethers.md"))
    written = said.text + (tmp_path / "tethers.md").read_text()
    for file in (sovereign.box.directory / "secrets").iterdir():
        assert file.read_text().strip() not in written


planned: list[int] = []
"""Bytes that the plan said would be moved."""


async def test_a_plan_names_what_every_step_would_change_and_changes_nothing(sovereign: Scene) -> None:
    before = await everything(sovereign)
    said = await sovereign.type("plan", "--output", "json")
    assert said.code == 0, said.text
    assert await everything(sovereign) == before
    steps = {step["step"]: step for step in json.loads(said.text)}
    assert tuple(steps) == SLUGS
    assert all(steps[slug]["changes"] for slug in SLUGS[:-1])
    assert not any(step["trouble"] for step in steps.values())
    charts = {change["what"]: change["diff"] for change in steps["helmrepo-patches"]["changes"]}
    assert "+ spec.url: oci://harbor.sovereign.test/openova-io" in charts["HelmRepository flux-system/bp-loki"]
    assert any(what.startswith("Git clusters/_template/bootstrap-kit/") for what in charts)
    assert charts["Secret flux-system/ghcr-pull"] == ["- login at ghcr.io", "- login at harbor.openova.io"]
    copies = {change["what"]: change["diff"] for change in steps["harbor-prewarm"]["changes"]}
    size = re.fullmatch(
        r"  (\d+) bytes, (\d+) of them in no other, (\d+) not here yet", copies["proxy-docker/library/postgres:16.6"][1]
    )
    assert size is not None
    whole, unique, missing = map(int, size.groups())
    assert whole > missing >= unique > 0, "manifests are in the whole alone"
    assert all("bytes" in diff[1] for diff in copies.values())
    (note,) = [note for note in steps["harbor-prewarm"]["notes"] if "bytes to move" in note]
    planned.append(int(note.split()[0]))


async def test_a_plan_tells_of_a_project_of_the_wrong_kind_before_anything_is_touched(sovereign: Scene) -> None:
    await sovereign.box.fail("harbor-projects")
    try:
        said = await sovereign.type("plan", "--no-diff")
    finally:
        await sovereign.box.heal()
    assert said.code == 1
    assert "!" in said.text


async def test_who_may_not_look_is_told_so_and_passes_nothing(sovereign: Scene) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    await sovereign.box.kube.local.request("POST", "/api/v1/namespaces/default/serviceaccounts", account)
    found = await looked(as_user(sovereign, "system:serviceaccount:default:nobody"))
    assert not found.clean
    assert {f.kind for f in found.unreadable} >= {"GitRepository", "HelmRepository", "Secret", "Node", "Deployment"}
    file = sovereign.box.directory / "settings-other.yaml"
    from acceptance_scene import typed

    said = await typed("--config", str(file), "audit")
    assert said.code == 3, said.text
    assert "could not be read" in said.text


# --- after ------------------------------------------------------------------------------------------------------


async def test_after_the_cutover_one_to_seven_are_gone_and_the_log_says_so(sovereign: Scene) -> None:
    before = await sovereign.head()
    said = await sovereign.type("request", "--watch")
    assert said.code == 0, said.text
    found = await looked(sovereign.settings)
    assert [str(f) for f in found.counting] == []
    assert (await sovereign.type("audit")).code == 0
    assert (await next_audit(sovereign, before, clean=True)).findings == ()
    done = [data_of(read(entry.raw)) for entry in await sovereign.entries(JOURNAL)]
    (copied,) = [d.result for d in done if isinstance(d, StepSucceeded) and d.step == "harbor-prewarm"]
    assert copied["bytes_moved"] >= planned[0] > 0, "charts bring images that no plan can know"


async def test_a_week_later_hosted_projects_hold_everything_and_what_one_loses_is_found(sovereign: Scene) -> None:
    harbor = sovereign.box.harbor
    harbor.midnight()
    harbor.clock.skip(timedelta(days=8))
    harbor.midnight()
    assert (await sovereign.type("audit")).code == 0
    repository, tag = "proxy-docker/library/postgres", "16.6"
    digest = harbor.store.tags(repository)[tag]
    harbor.store.untag(repository, tag)
    try:
        said = await sovereign.type("audit", "--output", "json")
    finally:
        harbor.store.tag(repository, tag, digest)
    assert said.code == 1
    [found] = [f for f in json.loads(said.text)["findings"] if f["severity"] != "notice"]
    assert (found["kind"], found["name"]) == ("Harbor artifact", f"{repository}:{tag}")
    assert "gitea-postgres" in found["owner"], "who needs it"


async def test_a_complete_cutover_is_certified_and_the_certificate_checks_offline(
    sovereign: Scene, tmp_path: Path
) -> None:
    files = {name: tmp_path / name for name in ("certificate.json", "log.jsonl", "certificate.pub")}
    certificate, log, key = (str(file) for file in files.values())
    said = await sovereign.type("certificate", "--out", certificate, "--log", log, "--key-out", key)
    assert said.code == 0, said.text
    assert "rehearsal" in said.text
    from acceptance_scene import typed

    check = ("verify", "--certificate", certificate, "--log", log, "--key", key)
    assert (await typed(*check)).code == 0
    assert "valid" in (await typed(*check)).text
    again = await sovereign.type("certificate", "--key-out", str(tmp_path / "again.pub"))
    assert again.code == 0
    assert (tmp_path / "again.pub").read_text() == files["certificate.pub"].read_text(), "the key is made once"
    entries = exported(files["log.jsonl"])
    files["log.jsonl"].write_bytes(b"".join(files["log.jsonl"].read_bytes().splitlines(keepends=True)[:-1]))
    assert len(exported(files["log.jsonl"])) == len(entries) - 1
    assert (await typed(*check)).code == 4


async def test_a_source_that_leads_upstream_again_is_in_the_journal_and_so_is_its_return(sovereign: Scene) -> None:
    kube, before = sovereign.box.kube.local, await sovereign.head()
    kustomization = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations/bootstrap-kit"
    await kube.request("PATCH", kustomization, {"spec": {"suspend": True}}, content_type=MERGE)
    upstream = {"spec": {"url": "oci://ghcr.io/openova-io"}}
    code, _ = await kube.request("PATCH", HELM, upstream, content_type=MERGE)
    assert code == 200
    fact = await next_audit(sovereign, before, clean=False)
    [finding] = fact.findings
    assert (finding["kind"], finding["name"], finding["host"]) == ("HelmRepository", "bp-loki", "ghcr.io")
    shown = picture(await sovereign.state())
    assert (shown["tethersFound"], shown["cutoverComplete"]) == ("1", "true"), "what was shown that day stays shown"
    since = await sovereign.head()
    local = {"spec": {"url": "oci://harbor.sovereign.test/openova-io"}}
    await kube.request("PATCH", HELM, local, content_type=MERGE)
    await next_audit(sovereign, since, clean=True)
    assert picture(await sovereign.state())["tethersFound"] == "0"
    await kube.request("PATCH", kustomization, {"spec": {"suspend": False}}, content_type=MERGE)


async def test_a_node_that_joined_and_never_answered_is_not_known(sovereign: Scene) -> None:
    kube = sovereign.box.kube.local
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "late-1"}}
    code, _ = await kube.request("POST", "/api/v1/nodes", node)
    assert code == 201
    try:
        found = await looked(sovereign.settings)
        [silent] = found.unreadable
        assert (silent.tether, silent.name) == (2, "late-1")
        assert (await sovereign.type("audit")).code == 3
    finally:
        await kube.request("DELETE", "/api/v1/nodes/late-1")


async def test_a_flux_without_its_sources_is_not_known(sovereign: Scene) -> None:
    """The API group is served, the kind is not: its CRD went away. Last, for nothing works after it."""
    crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/ocirepositories.source.toolkit.fluxcd.io"
    code, _ = await sovereign.box.kube.local.request("DELETE", crd)
    assert code == 200
    found = await looked(sovereign.settings)
    assert "OCIRepository" in {f.kind for f in found.unreadable}


async def test_a_broker_that_is_away_leaves_the_nodes_unknown(sovereign: Scene) -> None:
    document = yaml.safe_load(sovereign.settings_file.read_text())
    document["nats"] = {**document["nats"], "url": "nats://127.0.0.1:9"}
    file = sovereign.box.directory / "settings-no-broker.yaml"
    file.write_text(yaml.safe_dump(document))
    found = await looked(load(file))
    assert any(f.tether == 2 and "LogUnavailable" in f.host for f in found.unreadable)
