"""The chart as Helm renders it: dormant, strict, and granting no more than it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import helm_python
import nkeys
import pytest
import yaml
from chart_matrix import API, DIGEST, EMBEDDED, INGRESS, MATRIX, ROUTE, full
from grants import grants, published_by, rules

from sandbox import blueprint
from sandbox.blueprint import CHART, merged
from workers.entrypoints.classes import CLASSES
from workers.entrypoints.node_agent import containerd_at
from workers.entrypoints.settings import ConfigurationError, Settings, load

Object = dict[str, Any]
every = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
NODES = "catalyst-cutover-nodes"


@cache
def _rendered(values: str) -> list[Object]:
    return blueprint.render(json.loads(values))


def render(values: Object | None = None) -> list[Object]:
    """Rendered once for all tests, none of which changes it."""
    return _rendered(json.dumps(values or {}))


def pods(objects: list[Object]) -> list[tuple[Object, Object]]:
    """(object, Pod spec) of every workload."""
    return [(o, o["spec"]["template"]["spec"]) for o in objects if "template" in (o.get("spec") or {})]


def told(objects: list[Object]) -> dict[str, str]:
    """Class -> its settings file."""
    found = {}
    for obj in objects:
        if obj["kind"] == "ConfigMap" and "settings.yaml" in obj["data"]:
            found[obj["metadata"]["labels"]["app.kubernetes.io/component"]] = obj["data"]["settings.yaml"]
    return found


SEED = nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER)
MOUNTED = {
    "seed": SEED,
    "user.creds": b"-----BEGIN NATS USER JWT-----\ne.e.e\n-----BEGIN USER NKEY SEED-----\n" + SEED + b"\n",
}
"""By the key of the Secret: a process refuses what is no such thing."""


def loaded(text: str, place: Path) -> Settings:
    """Read as a process reads it, its Secrets mounted below `place`."""
    text = text.replace("/etc/cutover/secrets", str(place / "secrets"))
    for path in re.findall(rf'"({re.escape(str(place))}[^"]+)"', text):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(MOUNTED.get(Path(path).name, b"a-secret"))
    file = place / "settings.yaml"
    file.write_text(text)
    return load(file)


# --- what Helm says of it ---------------------------------------------------------------------------------------


@every
def test_helm_lints_and_renders_it(values: Object) -> None:
    report = helm_python.lint(CHART, full(values), strict=True)
    assert [m for m in report["messages"] if m["severity"] > 1] == []
    assert render(values)


def test_a_helm_that_is_installed_says_the_same(tmp_path: Path) -> None:
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("no helm on the PATH; the library of Helm 4 has rendered it")

    def sorted_(objects: list[Object]) -> list[str]:
        return sorted(json.dumps(o, sort_keys=True) for o in objects)

    file = tmp_path / "values.yaml"
    for name, values in MATRIX.items():
        file.write_text(yaml.safe_dump(full(values)))
        command = [helm, "template", "cutover", str(CHART), "--namespace", "catalyst-cutover", "--values", str(file)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, (name, done.stderr.decode())
        assert sorted_([obj for obj in yaml.safe_load_all(done.stdout) if obj]) == sorted_(render(values)), name


# --- dormant -----------------------------------------------------------------------------------------------------


@every
def test_installed_and_idle_it_changes_nothing(values: Object) -> None:
    objects = render(values)
    assert not {o["kind"] for o in objects} & {"Job", "CronJob", "Pod", "CustomResourceDefinition", "Secret"}
    assert not [o for o in objects if "helm.sh/hook" in (o["metadata"].get("annotations") or {})]
    assert "lookup" not in "".join(t["data"] for t in helm_python.Chart.load(CHART).templates)


@every
def test_the_status_is_nobodys_manifest(values: Object) -> None:
    """So no upgrade, rollback or drift detection of Helm or Flux ever writes it."""
    assert "self-sovereign-cutover-status" not in {o["metadata"]["name"] for o in render(values)}


def test_nothing_fires_by_itself(tmp_path: Path) -> None:
    for text in told(render()).values():
        assert not loaded(text, tmp_path).auto_fire.enabled


def test_the_log_of_an_embedded_broker_outlives_the_release() -> None:
    objects = render(EMBEDDED)
    server = next(o for o in objects if o["kind"] == "StatefulSet")
    assert server["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    config = next(o["data"]["nats.conf"] for o in objects if "nats.conf" in (o.get("data") or {}))
    assert "sync_interval: always" in config


# --- what the processes are told ------------------------------------------------------------------------------


@every
def test_every_process_can_read_what_it_is_told(values: Object, tmp_path: Path) -> None:
    objects = render(values)
    texts = told(objects)
    assert set(CLASSES) | {"node-agent"} <= set(texts)
    for name, text in texts.items():
        settings = loaded(text, tmp_path / name) if (tmp_path / name).mkdir() is None else None
        assert settings is not None
        assert settings.nats.inbox_prefix == f"_INBOX_{name}"
        assert settings.sovereign.harbor.host == "harbor.sovereign.test"


def test_the_values_are_the_models_own_defaults(tmp_path: Path) -> None:
    given = loaded(told(render())["supply"], tmp_path)
    login = given.sovereign.gitea.login
    least = Settings.model_validate(
        {
            "nats": {"url": given.nats.url, "user": "supply", "password_file": given.nats.password_file},
            "sovereign": {
                "fqdn": "sovereign.test",
                "gitea": {"url": given.sovereign.gitea.url, "login": login},
                "harbor": {
                    "url": given.sovereign.harbor.url, "host": given.sovereign.harbor.host,
                    "login": given.sovereign.harbor.login,
                },
            },
        }
    )  # fmt: skip
    # Ours by intent: three replicas of the log, a digest for the image, and where Secrets may be read.
    nodes = least.sovereign.nodes.model_copy(update={"image": given.sovereign.nodes.image})
    ours = {"nodes": nodes, "secret_namespaces": given.sovereign.secret_namespaces}
    assert given.sovereign == least.sovereign.model_copy(update=ours)
    broker = least.nats.model_copy(update={"replicas": 3, "inbox_prefix": "_INBOX_supply"})
    assert given.nats == broker
    assert (given.pace, given.status, given.auto_fire) == (least.pace, least.status, least.auto_fire)


def test_a_secret_is_mounted_only_where_it_is_used() -> None:
    objects = render(MATRIX["with-logins-upstream"])
    mounted = {
        o["metadata"]["labels"]["app.kubernetes.io/component"]: {
            v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v
        }
        for o, spec in pods(objects)
    }
    local = {"cutover-gitea", "cutover-harbor"}
    assert mounted["supply"] == {*local, "cutover-ghcr", "cutover-nats-supply"}
    assert mounted["pivot"] == {*local, "cutover-nats-pivot"}
    assert mounted["proof"] == {*local, "cutover-nats-proof"}
    assert mounted["control"] == {*local, "cutover-ghcr", "cutover-nats-control"}
    assert mounted["node-agent"] == {"cutover-nats-node-agent"}


OUTSIDE = {"0.0.0.0/0", "::/0"}


def goes_outside(objects: list[Object]) -> set[str]:
    """Classes whose policy lets them out on 443."""
    found = set()
    for policy in objects:
        if policy["kind"] not in ("NetworkPolicy", "CiliumNetworkPolicy"):
            continue
        for rule in policy["spec"].get("egress") or ():
            blocks = {to["ipBlock"]["cidr"] for to in rule.get("to", ()) if "ipBlock" in to}
            ports = {port["port"] for port in rule.get("ports", ())}
            if "world" in rule.get("toEntities", ()) or (blocks & OUTSIDE and {443, 80} & ports):
                found.add(policy["metadata"]["labels"]["app.kubernetes.io/component"])
    return found


@pytest.mark.parametrize("policies", ["kubernetes", "cilium"])
@pytest.mark.parametrize("outside", [["supply", "control", "api"], ["supply"], []])
def test_whoever_may_look_upstream_has_the_way_and_the_logins_and_nobody_else_has_either(
    policies: str, outside: list[str]
) -> None:
    network = {"network": {"policies": policies, "outside": outside}}
    objects = render(merged(merged(MATRIX["with-logins-upstream"], API), network))
    assert goes_outside(objects) == set(outside)
    mounted = {
        o["metadata"]["labels"]["app.kubernetes.io/component"]
        for o, spec in pods(objects)
        if "cutover-ghcr" in {v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
    }
    assert mounted == set(outside)


def test_who_makes_the_plan_may_look_upstream_as_it_comes() -> None:
    """The console's Start asks for the preflight, and a preflight that sees nothing refuses every cutover."""
    assert goes_outside(render(API)) == {"supply", "control", "api"}


NOTED = re.compile(r"^  (\S+)/(\S+)/(\S+)$", re.M)


@every
def test_the_notes_of_the_installation_name_every_secret_that_it_waits_for(values: Object) -> None:
    objects, waited = render(values), set()
    for obj, spec in pods(objects):
        home = obj["metadata"]["namespace"]
        for container in spec["containers"]:
            refs = [v["valueFrom"].get("secretKeyRef") for v in container["env"] if "valueFrom" in v]
            waited |= {(home, ref["name"], ref["key"]) for ref in refs if ref}
        text = next((t for name, t in told(objects).items() if name == component(obj)), "")
        waited |= {
            (home, *found)
            for found in re.findall(r"/etc/cutover/secrets/([^/\"]+)/([^/\"]+)", text)
            if found[0] in {v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
        }
        waited |= {(home, each["name"], ".dockerconfigjson") for each in spec.get("imagePullSecrets") or ()}
    assert set(NOTED.findall(blueprint.notes(values))) == waited


def component(obj: Object) -> str:
    return str(obj["metadata"]["labels"]["app.kubernetes.io/component"])


def test_a_secret_that_lacks_its_key_is_named_at_the_start_of_whoever_reads_it(tmp_path: Path) -> None:
    """Each class as its Pod starts it, with nothing mounted."""
    for name, text in told(render(API)).items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigurationError) as refusal:
            load(tmp_path / name)
        assert f"nats.password_file: /etc/cutover/secrets/cutover-nats-{name}/password" in str(refusal.value)
        assert f"Secret cutover-nats-{name} has no key password" in str(refusal.value)
        local = "sovereign.gitea.login.password_file: /etc/cutover/secrets/cutover-gitea/token: Secret cutover-gitea"
        assert (f"{local} has no key token" in str(refusal.value)) is (name != "node-agent")


@every
def test_no_secret_is_written_anywhere(values: Object) -> None:
    text = json.dumps(render(values))
    assert not re.search(r'"password": "(?!\$)', text)
    assert "BEGIN" not in text


def test_every_label_is_one_whatever_flux_makes_of_the_version(tmp_path: Path) -> None:
    """helm-controller appends `+<digest>` to the version of a chart that comes from an OCIRepository."""
    shutil.copytree(CHART, tmp_path / "chart")
    about = tmp_path / "chart" / "Chart.yaml"
    about.write_text(re.sub(r"^((?:app)?[vV]ersion: \"?[0-9.]+)", r"\1+9f86d081884c", about.read_text(), flags=re.M))
    files = helm_python.Chart.load(tmp_path / "chart").render(full(EMBEDDED), name="cutover", namespace="cutover")
    label = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
    found = [
        (obj["kind"], value)
        for name, text in files.items() if not name.endswith("NOTES.txt")
        for obj in yaml.safe_load_all(text) if obj
        for value in obj["metadata"].get("labels", {}).values()
    ]  # fmt: skip
    assert [each for each in found if not label.fullmatch(each[1])] == []
    assert any("_9f86d081884c" in value for _, value in found)


def test_what_a_lifter_lifts_with_outlives_the_release() -> None:
    """Uninstalled in the midst of a hold, the Job beside the block is what is left to lift it."""
    kept = {"helm.sh/resource-policy": "keep"}
    whose = {
        (o["kind"], o["metadata"].get("annotations") == kept) for o in render() if "lifter" in o["metadata"]["name"]
    }
    assert whose == {
        (kind, True) for kind in ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    }


def test_an_api_behind_ciliums_own_gateway_lets_it_in() -> None:
    """Its traffic is `reserved:ingress`, of no namespace."""

    def heard(values: Object) -> list[Any]:
        (policy,) = (
            o for o in render(values) if o["kind"] == "CiliumNetworkPolicy" and o["metadata"]["name"] == "cutover-api"
        )
        return [rule["fromEntities"] for rule in policy["spec"]["ingress"] if "fromEntities" in rule]

    api = merged(API, {"network": {"policies": "cilium"}})
    assert heard(api) == [["host"]]
    for way in ({"httpRoute": ROUTE}, {"ingress": INGRESS}):
        assert heard(merged(api, {"api": way})) == [["host"], ["ingress"]]


def test_a_broker_of_its_own_goes_where_the_workers_go() -> None:
    where = {"tolerations": [{"operator": "Exists"}], "nodeSelector": {"a": "b"}, "priorityClassName": "high"}
    placed = [spec for obj, spec in pods(render(merged(EMBEDDED, where))) if obj["kind"] != "DaemonSet"]
    assert len(placed) == 5
    assert all({name: spec.get(name) for name in where} == where for spec in placed)


# --- least privilege, as laws ----------------------------------------------------------------------------------


@every
def test_no_grant_is_a_wildcard_and_none_makes_more_of_itself(values: Object) -> None:
    for grant in grants(render(values)):
        assert "*" not in (grant.verb, grant.group, grant.resource, grant.name), grant
        assert not {grant.verb} & {"escalate", "bind", "impersonate", "deletecollection"}, grant
        assert grant.resource not in ("roles", "clusterroles", "rolebindings", "clusterrolebindings"), grant


@every
def test_secrets_are_read_in_named_namespaces_only(values: Object) -> None:
    assert [g for g in grants(render(values)) if g.resource == "secrets" and not g.namespace] == []


@every
def test_nothing_is_granted_twice(values: Object) -> None:
    """Else taking one of them away would take nothing away."""
    found = grants(render(values))
    for one in found:
        wider = [
            other
            for other in found
            if other != one
            and (other.account, other.verb, other.group) == (one.account, one.verb, one.group)
            and other.resource == one.resource
            and other.namespace in ("", one.namespace)
            and other.name in ("", one.name)
        ]
        assert wider == [], one


@every
def test_create_is_never_bound_to_a_name(values: Object) -> None:
    assert [rule for _, _, rule in rules(render(values)) if "create" in rule["verbs"] and "resourceNames" in rule] == []


@every
def test_an_account_is_used_by_its_own_class_only(values: Object) -> None:
    users: dict[str, list[str]] = {}
    for obj, spec in pods(render(values)):
        users.setdefault(spec["serviceAccountName"], []).append(obj["metadata"]["name"])
    assert all(len(names) == 1 for names in users.values()), users


@every
def test_what_may_be_asked_of_the_broker_has_no_more_stars_than_names_that_it_makes_up(values: Object) -> None:
    stream = "CATALYST_CUTOVER"
    made_up = {f"$JS.API.CONSUMER.{verb}.{stream}.*" for verb in ("MSG.NEXT", "DELETE")}
    read = re.compile(re.escape(f"$JS.API.CONSUMER.CREATE.{stream}.*.catalyst.cutover.") + r"([a-z]+|node\.\*|>)")
    objects = render(values)
    config = next((o["data"]["users.conf"] for o in objects if "users.conf" in (o.get("data") or {})), "")
    for user, (allow, deny) in published_by(config).items():
        for subject in allow:
            if subject in made_up:
                # Where any name may be asked for, those of others are denied.
                prefix = subject.removesuffix("*")
                others = {f"step-{n}" for n in range(1, 9)} | {"admission", "registrar"}
                own = {a.split(".")[3] for a in allow if a.startswith("$JS.ACK.")}
                if "DELETE" in subject:
                    own = set()
                assert {f"{prefix}{name}" for name in others - own} <= set(deny), (user, subject)
            elif seen := read.fullmatch(subject):
                # Everybody's consumers, one's own too: making one anew would change it.
                durables = [*(f"step-{n}" for n in range(1, 9)), "admission", "registrar"]
                assert {f"$JS.API.CONSUMER.CREATE.{stream}.{name}.>" for name in durables} <= set(deny), user
                assert seen[1] != ">" or user in ("api", "operator"), user
            else:
                free = ("$JS.ACK.", "catalyst.cutover.node.", "catalyst.cutover.step.*")
                assert not re.search(r"[*>]", subject) or subject.startswith(free), (user, subject)


# --- Pod Security ------------------------------------------------------------------------------------------------

KINDS = {"configMap", "emptyDir", "secret", "projected", "downwardAPI", "persistentVolumeClaim"}


def forbidden(spec: Object) -> list[str]:
    """What Pod Security `restricted` has against a Pod (pod-security-admission, policy/)."""
    wrong = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    wrong += [v["name"] for v in spec.get("volumes") or () if not set(v) - {"name"} <= KINDS]
    shared = spec.get("securityContext") or {}
    for container in [*(spec.get("initContainers") or ()), *spec["containers"]]:
        own = container.get("securityContext") or {}
        both = {**shared, **own}
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            wrong.append("privileges")
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            wrong.append("root")
        if (both.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
            wrong.append("seccomp")
        capabilities = own.get("capabilities") or {}
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            wrong.append("capabilities")
        if any(p.get("hostPort") for p in container.get("ports") or ()):
            wrong.append("hostPort")
    return wrong


@every
def test_all_but_the_node_agents_are_restricted(values: Object) -> None:
    found = pods(render(values))
    assert [o["metadata"]["name"] for o, spec in found if o["metadata"]["namespace"] != NODES and forbidden(spec)] == []
    assert {o["kind"] for o, _ in found if o["metadata"]["namespace"] == NODES} == {"DaemonSet"}


@every
def test_every_image_is_named_by_its_digest_and_every_root_is_read_only(values: Object) -> None:
    for obj, spec in pods(render(values)):
        for container in spec["containers"]:
            assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"]), obj["metadata"]["name"]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["requests"]["memory"]
            assert container["livenessProbe"]["httpGet"]["path"].startswith("/healthz")


def test_the_node_agent_has_two_host_paths_and_one_power() -> None:
    agent = next(spec for obj, spec in pods(render()) if obj["kind"] == "DaemonSet")
    paths = [v["hostPath"]["path"] for v in agent["volumes"] if "hostPath" in v]
    assert paths == ["/etc/rancher/k3s", "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"]
    context = agent["containers"][0]["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert (context["privileged"], agent.get("hostPID")) == (False, None)


def agent_of(values: Object | None = None) -> Object:
    return next(spec for obj, spec in pods(render(values)) if obj["kind"] == "DaemonSet")


def test_the_node_agent_answers_the_kubelet_on_loopback_and_asks_the_clusters_dns() -> None:
    agent = agent_of()
    container = agent["containers"][0]
    port = json.loads(told(render())["node-agent"])["health"]
    assert port["host"] == "127.0.0.1"
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"host": "127.0.0.1", "path": path, "port": port["port"]}
    # In the node's own network the cluster's names resolve only so.
    assert (agent["hostNetwork"], agent["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


def test_the_node_agent_finds_the_nodes_files_wherever_the_node_has_them() -> None:
    agent = agent_of({"nodeAgent": {"registriesDir": "/opt/k3s", "certsDir": "/srv/k3s/agent/etc/containerd/certs.d"}})
    paths = {v["name"]: v["hostPath"]["path"] for v in agent["volumes"] if "hostPath" in v}
    assert paths == {"registries": "/opt/k3s", "certs": "/srv/k3s/agent/etc/containerd/certs.d"}
    root = Path(next(a for f, a in pairwise(agent["containers"][0]["args"]) if f == "--host-root"))
    mounted = {m["name"]: m["mountPath"] for m in agent["containers"][0]["volumeMounts"]}
    sought = containerd_at(root)
    assert (mounted["registries"], mounted["certs"]) == (str(sought.k3s), str(sought.certs))


def test_the_node_agent_may_come_from_local_harbor_and_stays_the_same_to_the_byte() -> None:
    local = "harbor.sovereign.test/proxy-ghcr/openova-io/catalyst-cutover"
    objects = render({"nodeAgent": {"image": {"repository": local}}})
    named = {o["kind"]: spec["containers"][0]["image"] for o, spec in pods(objects)}
    assert named["DaemonSet"] == f"{local}@{DIGEST}"
    assert named["Deployment"] == f"ghcr.io/openova-io/catalyst-cutover@{DIGEST}"


@pytest.mark.parametrize(("kind", "resource"), [("Secret", "secrets"), ("ConfigMap", "configmaps")])
def test_what_shows_the_handover_may_be_looked_at_by_whoever_admits_and_by_name_only(kind: str, resource: str) -> None:
    values = full({"settings": {"handover": {"kind": kind, "namespace": "catalyst", "name": "sealed"}}})
    found = [g for g in grants(render(values)) if g.namespace == "catalyst" and g.name == "sealed"]
    # Supply is asked by whoever publishes the first step's trigger by hand.
    assert {(g.account.rpartition("-")[2], g.verb, g.resource) for g in found} == {
        (name, "get", resource) for name in ("control", "supply")
    }
