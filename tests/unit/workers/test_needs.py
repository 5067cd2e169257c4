"""Every way to spell an image, charts opened without rendering, the whole tree, and the boot-strap loop."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.adapters.oci import What
from workers.needs import Need, NotAChart, boot, listing, needs_of, needs_of_chart, read_tree, unpacked
from workers.needs import charts as charts_
from workers.needs.spellings import lines, spelled
from workers.sovereign import DEFAULT_BOOT, Boot, Gitea, Harbor, Login, Sovereign

LOGIN = Login(username="admin", password_file=Path("password"))
SOVEREIGN = Sovereign(
    fqdn="sovereign.test",
    gitea=Gitea(url="http://gitea", login=LOGIN),
    harbor=Harbor(url="http://harbor", host="harbor.sovereign.test", login=LOGIN),
)
DIGEST = "sha256:" + "a" * 64

WORDS = (
    "metadata", "spec", "template", "jobTemplate", "containers", "volumes", "image", "reference", "chart", "sourceRef",
    "values", "ref", "name", "newTag", "patches", "history", "registry", "repository", "tag", "url", "package",
)  # fmt: skip
SHAPED = ("Pod", "CronJob", "HelmRelease", "HelmRepository", "OCIRepository", "Provider", "ConfigMap", "Kustomization")


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({"image": "ghcr.io/a/b:1"}, "ghcr.io/a/b:1"),
        ({"image": f"ghcr.io/a/b:1@{DIGEST}"}, f"ghcr.io/a/b:1@{DIGEST}"),
        ({"image": "nats:2.10"}, "nats:2.10"),
        ({"image": {"registry": "mirror.gcr.io", "repository": "a/b", "tag": "0.5"}}, "mirror.gcr.io/a/b:0.5"),
        ({"image": {"repository": "a/b", "tag": "1", "digest": DIGEST}}, f"a/b:1@{DIGEST}"),
        ({"image": {"repository": "a/b", "tag": "1", "digest": DIGEST, "useDigest": False}}, "a/b:1"),
        ({"image": {"repository": "a/b", "sha": "a" * 64}}, f"a/b@{DIGEST}"),
        ({"image": {"repository": "a/b", "tag": 1.31}}, "a/b:1.31"),
        ({"image": {"repository": "a/b", "tag": ""}}, "a/b:v9"),
        ({"image": {"registry": None, "defaultRegistry": "k.io", "repository": "a/b"}}, "k.io/a/b:v9"),
        ({"image": {"name": "a/b", "tag": "1"}}, "a/b:1"),
        ({"core": {"repository": "goharbor/harbor-core", "tag": "v2"}}, "goharbor/harbor-core:v2"),
        ({"imageRepository": "a/b", "imageTag": "1"}, "a/b:1"),
        ({"image": "a/b", "tag": "1"}, "a/b:1"),
        ({"hub": "docker.io/istio", "image": "pilot", "tag": "1.2"}, "docker.io/istio/pilot:1.2"),
        ({"imageName": "ghcr.io/cloudnative-pg/postgresql:16.4"}, "ghcr.io/cloudnative-pg/postgresql:16.4"),
        ({"env": [{"name": "RELATED_IMAGE_X", "value": "quay.io/a/b:1"}]}, "quay.io/a/b:1"),
        ({"global": {"imageRegistry": "m.io"}, "image": {"registry": "d.io", "name": "a/b", "tag": 1}}, "m.io/a/b:1"),
        ({"sidecars": [{"initImage": {"repository": "a/b", "tag": "1"}}]}, "a/b:1"),
    ],
)  # fmt: skip
def test_an_image_is_found_however_it_is_spelled(values: Any, image: str) -> None:
    assert list(spelled(values, "v9").images) == [image]


@pytest.mark.parametrize(
    "values",
    [
        {"image": {"pullPolicy": "IfNotPresent"}, "imagePullSecrets": ["a/b:1"]},
        {"git": {"repository": "https://github.com/a/b", "tag": "v1"}},
        {"image": True, "backupImage": ""},
        {"registryUrl": "ghcr.io/a/b:1"},
        {"image": {"repository": "", "tag": "1"}},
    ],
)
def test_what_only_looks_like_an_image_is_none(values: Any) -> None:
    assert spelled(values, "v9").images == {}


@pytest.mark.parametrize(
    ("values", "image", "where"),
    [
        ({"images": ["x", "ghcr.io/a/b:1"]}, "ghcr.io/a/b:1", "images[1]"),
        ({"a": {"extraImages": [f"quay.io/a/b@{DIGEST}"]}}, f"quay.io/a/b@{DIGEST}", "a.extraImages[0]"),
        ({"images": {"controller": "ghcr.io/a/b:1", "x": 1}}, "ghcr.io/a/b:1", "images.controller"),
    ],
)
def test_a_plain_text_among_images_is_one_when_it_has_a_host_and_a_tag(values: Any, image: str, where: str) -> None:
    assert spelled(values).loose == {image: where}


@pytest.mark.parametrize("text", ["b:1", "a/b:1", "ghcr.io/a/b", "https://ghcr.io/a/b:1", "a.png", "ghcr.io/a b:1", ""])
def test_any_other_text_among_images_is_none(text: str) -> None:
    assert spelled({"images": [text]}).loose == {}


def test_a_plain_text_among_images_counts_where_somebody_mapped_its_host_and_is_optional() -> None:
    values = {"images": ["ghcr.io/a/b:1", "cdn.example.com/logos/b:1", "ghcr.io/A/b:1"]}
    release = {"kind": "HelmRelease", "metadata": {"name": "x"}, "spec": {"values": values}}
    chart_ = charts_.Chart({"Chart.yaml": "name: x\n", "values.yaml": json.dumps({"images": ["quay.io/a/c:1"]})})
    read = needs_of([release], "Git") + needs_of_chart(chart_, "chart x", {})
    found, notices = listing(SOVEREIGN, read.found)
    assert {str(f.reference): f.optional for f in found} == {"ghcr.io/a/b:1": True, "quay.io/a/c:1": True}
    assert notices == ()


HAND_MADE = {
    "kind": "HelmChart",
    "metadata": {"name": "c", "namespace": "f"},
    "spec": {"chart": "redis", "version": "20.1.0", "sourceRef": {"kind": "HelmRepository", "name": "hub"}},
}
HUB = {
    "kind": "HelmRepository",
    "metadata": {"name": "hub", "namespace": "f"},
    "spec": {"url": "oci://ghcr.io/charts"},
}


def test_a_chart_that_a_release_takes_from_a_helm_chart_by_hand_is_needed_with_the_releases_values() -> None:
    reference = {"kind": "HelmChart", "name": "c", "namespace": "f"}
    spec = {"chartRef": reference, "values": {"image": "ghcr.io/a/b:1"}}
    release = {"kind": "HelmRelease", "metadata": {"name": "r", "namespace": "n"}, "spec": spec}
    read = needs_of([HUB, HAND_MADE, release], "Git")
    charts = [n for n in read.found if n.what is What.CHART]
    assert {n.spelled for n in charts} == {"ghcr.io/charts/redis:20.1.0"}
    assert {n.reason: n.values for n in charts} == {
        "Git: HelmChart f/c": {}, "Git: HelmRelease n/r": spec["values"],
    }  # fmt: skip
    [notice] = needs_of([release], "live").notices
    assert "HelmChart f/c, which is read in Git only" in notice


@pytest.mark.parametrize("host", ["GHCR.io", "ghcr.io:443"])
def test_a_chart_is_copied_from_its_upstream_however_the_host_is_spelled(host: str) -> None:
    hub = {**HUB, "spec": {"url": f"oci://{host}/charts"}}
    spec = {"url": f"oci://{host}/c/p", "ref": {"tag": "1"}}
    source = {"kind": "OCIRepository", "metadata": {"name": "o"}, "spec": spec}
    found, _ = listing(SOVEREIGN, needs_of([hub, HAND_MADE, source], "Git").found)
    assert {str(f.reference) for f in found} == {"ghcr.io/charts/redis:20.1.0", "ghcr.io/c/p:1"}


def test_k3ss_own_kind_of_helm_chart_is_another() -> None:
    spec = {"chart": "traefik", "repo": "https://x", "set": {"image": "ghcr.io/a/b:1"}}
    assert {n.what for n in needs_of([{"kind": "HelmChart", "spec": spec}], "Git").found} == {What.IMAGE}


@pytest.mark.parametrize(
    ("ref", "wanted", "told"),
    [
        ({"semver": ">=6", "digest": DIGEST, "tag": "1"}, {f"ghcr.io/c/p@{DIGEST}": False}, ""),
        ({"semver": ">=6", "tag": "1"}, {"ghcr.io/c/p:6.1.0": True}, "6.1.0, which runs, is kept"),
        ({"tag": "1"}, {"ghcr.io/c/p:1": False}, ""),
    ],
)
def test_of_what_an_oci_repository_says_flux_takes_the_digest_then_the_range(
    ref: Any, wanted: dict[str, bool], told: str
) -> None:
    spec = {"url": "oci://ghcr.io/c/p", "ref": ref}
    status = {"artifact": {"revision": f"6.1.0@{DIGEST}"}}
    read = needs_of([{"kind": "OCIRepository", "metadata": {"name": "o"}, "spec": spec, "status": status}], "live")
    assert {n.spelled: n.optional for n in read.found} == wanted
    assert told in "".join(read.notices)
    assert len(read.notices) == bool(told)


def test_what_has_no_tag_and_no_version_to_stand_for_it_is_told_and_not_guessed() -> None:
    found = spelled({"image": {"repository": "a/b"}})
    assert found.images == {}
    assert found.untagged == ["image: a/b"]


def test_aliases_that_never_end_are_given_up_and_said() -> None:
    bomb: Any = ["x"]
    for _ in range(40):
        bomb = [bomb, bomb]
    assert not spelled({"a": bomb}).whole
    [notice] = needs_of([{"kind": "Thing", "metadata": {"name": "x"}, "spec": {"a": bomb}}], "Git").notices
    assert "too large" in notice


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)


@given(kind=st.sampled_from(SHAPED) | ANY, metadata=ANY, spec=ANY, more=ANY)
def test_an_object_of_any_shape_stops_nothing(kind: Any, metadata: Any, spec: Any, more: Any) -> None:
    odd = {"kind": kind, "metadata": metadata, "spec": spec, "images": more, "data": more, "status": more}
    beside = {"kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"image": "a/b:1"}]}}
    assert Need(What.IMAGE, "a/b:1", "Git: Pod x") in needs_of([odd, beside], "Git").found


def test_what_has_not_the_shape_of_its_kind_is_told() -> None:
    odd = {"kind": "Deployment", "metadata": {"name": "x"}, "spec": "text"}
    [notice] = needs_of([odd], "Git").notices
    assert notice.startswith("Git: Deployment x: has not the shape of its kind")


@given(meta=ANY, values=ANY)
def test_a_chart_of_any_shape_stops_nothing(meta: Any, values: Any) -> None:
    files = {"Chart.yaml": json.dumps({"dependencies": meta, "annotations": meta}), "values.yaml": json.dumps(values)}
    needs_of_chart(charts_.Chart(files), "chart x", {})


@pytest.mark.parametrize("place", ["top", "spec"])
def test_what_kustomize_puts_in_the_place_of_an_image_is_needed(place: str) -> None:
    patch = "- op: replace\n  path: /spec/template/spec/containers/0\n  value:\n    image: ghcr.io/a/patched:1\n"
    said = {"images": [{"name": "a/b", "newName": "ghcr.io/a/moved", "newTag": "2"}], "patches": [{"patch": patch}]}
    obj = {"kind": "Kustomization", "metadata": {"name": "k"}, **(said if place == "top" else {"spec": said})}
    assert {n.spelled for n in needs_of([obj], "Git").found} == {"ghcr.io/a/moved:2", "ghcr.io/a/patched:1"}


def test_lines_that_say_image_are_read_where_nothing_parses() -> None:
    text = '  - image: "a/b:1"  # why\n  imagePullPolicy: Always\n  initImage: {{ .Values.x }}\n  image:\n'
    assert list(lines(text)) == [(1, "a/b:1"), (3, "{{ .Values.x }}")]


# --- charts -----------------------------------------------------------------------------------------------------


def packed(files: dict[str, str | bytes], name: str = "bp-x") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=0)


CHART = """\
name: bp-x
version: 1.2.3
appVersion: v4
annotations: {artifacthub.io/images: "- {name: x, image: 'docker.io/noted/image:1'}"}
dependencies:
  - {name: redis, condition: redis.enabled}
  - {name: extra, condition: extra.enabled}
"""
VALUES = """\
image: {registry: quay.io, repository: a/main, tag: ""}
helper: {text: docker.io/a/looked-up:1}
redis: {enabled: true, image: {tag: "7"}}
extra: {enabled: false}
"""
TEMPLATE = """\
containers:
  - image: ghcr.io/a/literal:1
  - image: {{ .Values.helper.text | quote }}
  - image: "{{ .Values.image.registry }}/a/main:{{ .Values.image.tag | default .Chart.AppVersion }}"
  - image: {{ include "bp-x.image" . }}
"""
REDIS = {
    "Chart.yaml": "name: redis\nappVersion: '6'\n",
    "values.yaml": "image: {repository: docker.io/a/redis, tag: '6'}\n",
}
EXTRA = {"Chart.yaml": "name: extra\n", "values.yaml": "image: docker.io/a/extra:1\n"}


def chart() -> bytes:
    below = {f"charts/extra/{p}": text for p, text in EXTRA.items()}
    files: dict[str, str | bytes] = {"Chart.yaml": CHART, "values.yaml": VALUES, "templates/a.yaml": TEMPLATE, **below}
    return packed({**files, "charts/redis-1.0.0.tgz": packed({**REDIS}, "redis")})


def named(values: dict[str, Any] | None = None) -> tuple[dict[str, str], tuple[str, ...]]:
    needs = needs_of_chart(unpacked(chart()), "chart x", values or {})
    assert all(n.optional and n.what is What.IMAGE for n in needs.found)
    return {n.spelled: n.reason for n in needs.found}, needs.notices


def test_a_chart_names_its_defaults_its_subcharts_and_what_its_templates_look_up() -> None:
    found, notices = named()
    assert found == {
        "quay.io/a/main:v4": "chart x, default value image",
        "docker.io/noted/image:1": "chart x, Chart.yaml",
        "ghcr.io/a/literal:1": "chart x, templates/a.yaml:2",
        "docker.io/a/looked-up:1": "chart x, templates/a.yaml:3",
        "docker.io/a/redis:7": "chart x, default value redis/image",
    }
    assert notices == (
        "chart x: extra: switched off by extra.enabled, not opened",
        "chart x: 1 image lines of its templates need rendering and were not seen: templates/a.yaml:5",
    )


def test_what_the_release_sets_is_merged_as_helm_does() -> None:
    found, notices = named({"image": {"tag": "own"}, "redis": {"enabled": False}, "extra": {"enabled": True}})
    assert "quay.io/a/main:own" in found
    assert "docker.io/a/extra:1" in found
    assert not any("redis" in image for image in found)
    assert notices[0] == "chart x: redis: switched off by redis.enabled, not opened"


@pytest.mark.parametrize(
    "archive",
    [b"", b"cilium", chart()[:200], gzip.compress(b"no tar", mtime=0)],
    # Named: what gzip writes holds the second, and every process of a run must collect the same tests.
    ids=["nothing", "text", "cut", "no-tar"],
)
def test_what_is_no_chart_is_said_to_be_none(archive: bytes) -> None:
    with pytest.raises(NotAChart):
        unpacked(archive)


def test_what_of_a_chart_nobody_looked_at_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts_, "FILE", 300)
    big = "#" * 400
    parts = ("templates/a.yaml", "charts/r/templates/b.yaml", "charts/s-1.tgz", "crds/c.yaml", "charts/r/crds/d.yaml")
    meta = "name: x\nannotations:\n  images: '- image: [oops'\n"
    needs = needs_of_chart(unpacked(packed({"Chart.yaml": meta, **dict.fromkeys(parts, big)})), "chart x", {})
    unread = [n for n in needs.notices if "300 bytes" in n]
    assert [n.split()[2] for n in unread] == list(parts[:3])
    assert any(n.startswith("chart x: Chart.yaml: a list of images in it was not read: ") for n in needs.notices)


def test_an_archive_that_unpacks_without_end_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts_, "UNPACKED", 10_000)
    with pytest.raises(NotAChart, match="more than 10000 bytes"):
        unpacked(packed({"values.yaml": "a: 1\n", "templates/big.txt": b"\0" * 20_000}))
    nested = packed({**REDIS})
    for _ in range(5):
        nested = packed({"Chart.yaml": "name: x\n", "charts/x-1.tgz": nested})
    with pytest.raises(NotAChart, match="too large to look into"):
        unpacked(nested)


# --- the tree ---------------------------------------------------------------------------------------------------

WORKLOAD = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: x, namespace: n}
spec: {template: {spec: {containers: [{image: "${REGISTRY:=ghcr.io}/a/applied:1"}]}}}
"""


POD = {"kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"image": "ghcr.io/a/from-json:1"}]}}
KUSTOMIZE = "images: [{name: a/b, newName: ghcr.io/a/moved, newTag: '2'}]\n"
DATABASE = "kind: Cluster\nmetadata: {name: pg}\nspec: {imageName: ghcr.io/a/pg:16}\n"


def test_the_whole_tree_is_read_and_other_clusters_are_not(tmp_path: Path) -> None:
    files = {
        "clusters/_template/bootstrap-kit/01.yaml": WORKLOAD,
        "clusters/_template/bootstrap-kit/kustomization.yaml": KUSTOMIZE,
        "clusters/_template/infrastructure/db.yaml": DATABASE,
        "clusters/_template/infrastructure/bad.yaml": "a: {{ no yaml\n",
        "clusters/sov.test/apps/01.yaml": WORKLOAD.replace("applied", "own"),
        "clusters/other/bootstrap-kit/01.yaml": WORKLOAD.replace("applied", "foreign"),
        "platform/p/chart/Chart.yaml": "name: p\nappVersion: v1\n",
        "platform/p/chart/values.yaml": "image: {registry: mirror.gcr.io, repository: aquasec/p, tag: ''}\n",
        "platform/p/chart/templates/d.yaml": "image: {{ .Values.none }}\nimage: docker.io/a/template:1\n",
        "products/deploy.yaml": WORKLOAD.replace("applied", "lying-about"),
        "clusters/_template/bootstrap-kit/values.yaml": "web: {image: {repository: ghcr.io/a/value, tag: '3'}}\n",
        "clusters/_template/bootstrap-kit/pod.json": json.dumps(POD, indent="\t"),
        "clusters/_template/bootstrap-kit/odd.json": "no json",
        "clusters/_template/bootstrap-kit/odd.yaml": "kind: Deployment\nspec: text\n",
        "clusters/_template/bootstrap-kit/list.yaml": "kind: List\nitems: text\n",
        "clusters/_template/bootstrap-kit/latin.yaml": "kind: Pod\nmetadata: {name: caf\xe9}\n",
        ".github/workflows/ci.yaml": "jobs: {a: {container: {image: 'node:20'}}}\n",
        "docker-compose.yaml": "services: {db: {image: 'postgres:16'}}\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1")
    read = read_tree(tmp_path, "clusters/_template/bootstrap-kit", {}, ["clusters/sov.test"])
    assert {n.spelled: n.optional for n in read.found} == {
        "ghcr.io/a/applied:1": False,
        "ghcr.io/a/own:1": False,
        "ghcr.io/a/moved:2": False,
        "ghcr.io/a/from-json:1": False,
        "ghcr.io/a/value:3": True,
        "ghcr.io/a/pg:16": False,
        "ghcr.io/a/lying-about:1": True,
        "mirror.gcr.io/aquasec/p:v1": True,
        "docker.io/a/template:1": True,
    }
    reasons = {n.spelled: n.reason for n in read.found}
    assert reasons["mirror.gcr.io/aquasec/p:v1"] == "Git: chart platform/p/chart, default value image"
    for name in ("bad.yaml: not read", "odd.json: not read", "Deployment : has not the shape"):
        assert any(name in notice for notice in read.notices)
    assert any("platform/p/chart" in notice and "not seen" in notice for notice in read.notices)


def test_k3ss_volume_helper_is_found_in_its_config_map() -> None:
    data = {"helperPod.yaml": 'spec:\n  containers:\n  - image: "rancher/mirrored-library-busybox:1.36.1"\n'}
    config = {"kind": "ConfigMap", "metadata": {"name": "local-path-config"}, "data": data}
    assert [n.spelled for n in needs_of([config], "live").found] == ["rancher/mirrored-library-busybox:1.36.1"]


# --- the list ---------------------------------------------------------------------------------------------------


def test_what_one_needs_is_needed_though_others_only_name_it() -> None:
    guess, sure = (Need(What.IMAGE, "nats:2", str(optional), optional=optional) for optional in (True, False))
    assert [item.optional for item in listing(SOVEREIGN, [guess])[0]] == [True]
    assert [item.optional for item in listing(SOVEREIGN, [guess, sure])[0]] == [False]


def test_what_nobody_needs_is_left_out_by_a_pattern_aloud() -> None:
    sovereign = SOVEREIGN.model_copy(update={"not_needed": ("cgr.dev/*",)})
    found, notices = listing(sovereign, [Need(What.IMAGE, "cgr.dev/a/b:1", "chart x"), Need(What.IMAGE, "nats:2", "y")])
    assert [str(item.reference) for item in found] == ["docker.io/library/nats:2"]
    assert notices == ("chart x: cgr.dev/a/b:1 left out: not_needed names cgr.dev/*",)


# --- the boot-strap loop ----------------------------------------------------------------------------------------

SHOWN = (
    "docker.io/goharbor/harbor-core:v2", "docker.io/gitea/gitea:1", "ghcr.io/cloudnative-pg/postgresql:16",
    "docker.io/valkey/valkey:8", "docker.io/chrislusf/seaweedfs:3", "quay.io/cilium/operator-generic:v1",
    "quay.io/cilium/cilium-envoy:v1", "rancher/mirrored-coredns-coredns:1", "rancher/local-path-provisioner:v0",
    "ghcr.io/openova-io/catalyst-cutover:0.1.0",
)  # fmt: skip


def test_every_part_of_the_loop_has_its_reason_and_pause_is_there_though_no_pod_shows_it() -> None:
    needs = boot(SOVEREIGN, [Need(What.IMAGE, image, "live") for image in SHOWN], [])
    assert {n.spelled for n in needs.found} == {*SHOWN, "docker.io/rancher/mirrored-pause:3.6"}
    assert {n.reason.removeprefix("boot-strap: ").partition(";")[0] for n in needs.found} == {
        b.part for b in DEFAULT_BOOT
    }
    assert needs.notices == ()


def test_what_a_node_holds_is_taken_before_the_default() -> None:
    needs = boot(SOVEREIGN, [], ["registry.k8s.io/pause:3.10", "docker.io/library/nginx:1"])
    assert [(n.spelled, n.optional) for n in needs.found] == [("registry.k8s.io/pause:3.10", False)]


def test_a_part_of_which_nothing_is_known_is_told() -> None:
    sovereign = SOVEREIGN.model_copy(update={"boot": (Boot(part="network of Pods", names=("*/cilium/*",)),)})
    assert boot(sovereign, [], []).notices == (
        "boot-strap: network of Pods: no such image is seen (*/cilium/*); see extra_images",
    )
