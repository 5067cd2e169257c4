"""What Git declares: read as Flux applies it, judged by the same rules as what is live."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.audit.finding import Severity
from workers.audit.in_git import declared_below, follows
from workers.audit.rules import Judge
from workers.declared.files import Root
from workers.sovereign import Gitea, Harbor, Login, Sovereign

LOGIN = Login(username="u", password_file=Path("/nowhere"))
SOVEREIGN = Sovereign(
    fqdn="sovereign.test",
    gitea=Gitea(url="http://gitea:3000", login=LOGIN),
    harbor=Harbor(url="http://harbor", host="harbor.sovereign.test", login=LOGIN),
    accepted_hosts=("charts.partner.example",),
)
REPOSITORY = """
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmRepository
metadata: {name: %s, namespace: flux-system}
spec: {type: oci, url: "%s"}
"""


def found(tmp_path: Path, *roots: Root) -> list[str]:
    judge = Judge.of(SOVEREIGN, None, False)
    return sorted(f"{f.severity} {f.tether} {f.place} {f.owner}" for f in declared_below(tmp_path, roots, judge))


def test_only_what_a_kustomization_applies_is_read_and_every_document_of_it(tmp_path: Path) -> None:
    (tmp_path / "applied").mkdir()
    (tmp_path / "other").mkdir()
    local = REPOSITORY % ("bp-local", "oci://harbor.sovereign.test/openova-io")
    theirs = REPOSITORY % ("bp-theirs", "oci://ghcr.io/openova-io")
    (tmp_path / "applied" / "two.yaml").write_text(f"{local}---{theirs}")
    (tmp_path / "other" / "not.yaml").write_text(theirs)
    assert found(tmp_path, Root("applied")) == ["tether 3 Git HelmRepository flux-system/bp-theirs applied/two.yaml"]
    assert found(tmp_path) == []


def test_a_variable_is_filled_in_as_flux_does(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(REPOSITORY % ("bp-x", "oci://${HOST}/openova-io"))
    assert found(tmp_path, Root(".", substitute={"HOST": "harbor.sovereign.test"})) == []
    assert len(found(tmp_path, Root(".", substitute={"HOST": "ghcr.io"}))) == 1


def test_a_third_party_leads_outside_unless_the_owner_accepts_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(REPOSITORY % ("third", "oci://charts.other.example/x"))
    (tmp_path / "b.yaml").write_text(REPOSITORY % ("partner", "oci://charts.partner.example/x"))
    assert found(tmp_path, Root(".")) == [
        "external 3 Git HelmRepository flux-system/third a.yaml",
        "notice 3 Git HelmRepository flux-system/partner b.yaml",
    ]
    (external, _) = declared_below(tmp_path, (Root("."),), Judge.of(SOVEREIGN, None, False))
    assert "sovereign.accepted_hosts" in external.cut_by


def test_the_mothership_cannot_be_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(REPOSITORY % ("bp-x", "oci://ghcr.io/openova-io"))
    accepting = SOVEREIGN.model_copy(update={"accepted_hosts": ("ghcr.io",)})
    (finding,) = declared_below(tmp_path, (Root("."),), Judge.of(accepting, None, False))
    assert finding.severity is Severity.TETHER


def test_a_source_is_found_however_it_is_spelled(tmp_path: Path) -> None:
    spec = '"apiVersion": "source.toolkit.fluxcd.io/v1", "spec": {"url": "oci://ghcr.io/openova-io", "type": "oci"}'
    (tmp_path / "json.yaml").write_text('{"kind": "HelmRepository", "metadata": {"name": "in-json"}, ' + spec + "}")
    (tmp_path / "list.yaml").write_text(
        "apiVersion: v1\nkind: List\nitems:\n- kind: HelmRepository\n  metadata: {name: in-list}\n"
        '  spec: {url: "oci://ghcr.io/openova-io"}\n- 7\n'
    )
    assert found(tmp_path, Root(".")) == [
        "tether 3 Git HelmRepository in-json json.yaml",
        "tether 3 Git HelmRepository in-list list.yaml",
    ]


def test_what_kustomize_would_fetch_by_itself_is_found(tmp_path: Path) -> None:
    (tmp_path / "github.com").mkdir()
    (tmp_path / "github.com" / "here.yaml").write_text("a: b\n")
    (tmp_path / "kustomization.yaml").write_text(
        """
resources:
- https://github.com/openova-io/openova//base?ref=main
- git@github.com:openova-io/openova
- gitlab.example.org/team/base?ref=v1
- https://raw.example.net:8443/one.yaml
- http://gitea-http.gitea.svc.cluster.local:3000/openova/openova//x
- github.com/here.yaml
- ../outside.yaml
- missing.yaml
- v1.2/missing
- http://203.0.113.7:8080/x.yaml
components: [charts.partner.example/kit]
"""
    )
    judge = Judge.of(SOVEREIGN, None, False)
    seen = {(f.severity, f.field, f.host) for f in declared_below(tmp_path, (Root("."),), judge)}
    assert seen == {
        (Severity.TETHER, "resources", "github.com"),
        (Severity.EXTERNAL, "resources", "gitlab.example.org"),
        (Severity.EXTERNAL, "resources", "raw.example.net:8443"),
        (Severity.EXTERNAL, "resources", "203.0.113.7:8080"),
        (Severity.NOTICE, "components", "charts.partner.example"),
    }


def test_a_manifest_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: HelmRepository\nspec: {url: [\n")
    assert [line.split()[0] for line in found(tmp_path, Root("."))] == ["unreadable"]


@pytest.mark.parametrize(
    "text",
    [
        "kind: HelmRepository\nmetadata: x\n",
        "kind: HelmRepository\nmetadata: [a]\n",
        "kind: Provider\nmetadata: {name: a}\nspec: [a]\n",
        "kind: Plan\nmetadata: {name: a}\nspec: hello\n",
        "kind: GitRepository\nmetadata: {name: a}\nspec: {url: https://gitea.sovereign.test/a, proxySecretRef: s}\n",
        "kind: HelmRepository\nmetadata: {name: a, at: !!timestamp never}\n",
    ],
)
def test_a_manifest_of_another_shape_is_a_finding_and_hides_no_other(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"kind: [odd]\n---\n{text}")
    (tmp_path / "b.yaml").write_text(REPOSITORY % ("bp-x", "oci://ghcr.io/openova-io"))
    assert [line.split()[0] for line in found(tmp_path, Root("."))] == ["tether", "unreadable"]


@pytest.mark.parametrize(
    "listed", ["resources: 5", f"resources: [{'x' * 300}/]", "components: [a.yaml, {a: b}]\nbases: 7", "resources: ["]
)
def test_a_kustomization_of_another_shape_is_a_finding_and_hides_no_other(tmp_path: Path, listed: str) -> None:
    for place in ("odd", "well"):
        (tmp_path / place).mkdir()
    (tmp_path / "odd" / "kustomization.yaml").write_text(f"{listed}\n")
    (tmp_path / "well" / "b.yaml").write_text(REPOSITORY % ("bp-x", "oci://ghcr.io/openova-io"))
    seen = found(tmp_path, Root("odd"), Root("well"))
    assert [line.split()[0] for line in seen] == ["tether", "unreadable"]


def test_a_kustomization_of_another_source_is_not_ours() -> None:
    ours = {"metadata": {"name": "k", "namespace": "flux-system"}, "spec": {}}
    assert not follows(ours, SOVEREIGN)
    ours["spec"] = {"sourceRef": {"kind": "GitRepository", "name": "openova"}}
    assert follows(ours, SOVEREIGN)
    ours["metadata"]["namespace"] = "tenant"
    assert not follows(ours, SOVEREIGN)
