"""Where containerd 1.7 looks for an image, by the files on the node."""

from __future__ import annotations

from pathlib import Path

from sandbox.nodes import provision
from sandbox.puller import Image, directories, endpoints, parse_hosts
from schemas.nodes import Mirror, NodePlan

PLAN = NodePlan(
    registry="harbor.sovereign.test",
    mirrors=(
        Mirror(host="ghcr.io", endpoint="https://harbor.sovereign.test/v2/proxy-ghcr"),
        Mirror(host="docker.io", endpoint="https://harbor.sovereign.test/v2/proxy-docker"),
        Mirror(host="harbor.openova.io", endpoint="https://harbor.sovereign.test/v2"),
    ),
)


def bases(certs: Path, host: str) -> list[str]:
    return [e.base for e in endpoints(certs, host, lambda line: None)]


def test_short_names_are_docker_hubs() -> None:
    assert str(Image.parse("postgres:16")) == "docker.io/library/postgres:16"
    assert str(Image.parse("bitnami/redis")) == "docker.io/bitnami/redis:latest"
    digest = "sha256:" + "a" * 64
    assert Image.parse(f"ghcr.io/x/y:1@{digest}").reference == digest
    assert Image.parse("localhost:5000/x").host == "localhost:5000"


def test_a_port_has_its_own_directory_which_is_looked_for_first() -> None:
    assert directories("harbor:5000") == ("harbor_5000_", "harbor:5000", "_default")


def test_without_a_file_the_original_registry_answers(tmp_path: Path) -> None:
    assert bases(tmp_path, "docker.io") == ["https://registry-1.docker.io/v2"]


def test_an_empty_directory_hides_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('server = "https://local"\n[host."https://local"]\n')
    assert bases(tmp_path, "ghcr.io") == ["https://local/v2", "https://local/v2"]
    (tmp_path / "ghcr.io").mkdir()
    assert bases(tmp_path, "ghcr.io") == ["https://ghcr.io/v2"]


def test_a_missing_server_means_the_original_registry_comes_last() -> None:
    assert [e.base for e in parse_hosts('[host."https://local"]\n', "ghcr.io")] == [
        "https://local/v2",
        "https://ghcr.io/v2",
    ]


def test_a_file_without_a_host_table_is_logged_and_the_pull_goes_upstream(tmp_path: Path) -> None:
    (tmp_path / "ghcr.io").mkdir()
    for text in ('server = "https://local"\n', "this is no TOML ["):
        (tmp_path / "ghcr.io" / "hosts.toml").write_text(text)
        said: list[str] = []
        found = endpoints(tmp_path, "ghcr.io", said.append)
        assert [e.base for e in found] == ["https://ghcr.io/v2"]
        assert "decoding hosts.toml failed" in said[0]


def test_a_fresh_node_goes_through_the_mothership_and_then_upstream(tmp_path: Path) -> None:
    node = provision(tmp_path, ("n1",))[0]
    first, last = endpoints(node.containerd.certs, "docker.io", node.say)
    assert (first.base, last.base) == ("https://harbor.openova.io/v2", "https://registry-1.docker.io/v2")
    assert first.repository("library/postgres") == "proxy-dockerhub/library/postgres"


def test_a_pivoted_node_knows_local_harbor_only(tmp_path: Path) -> None:
    node = provision(tmp_path, ("n1",))[0]
    assert node.containerd.write(PLAN) > 0
    for mirror in PLAN.mirrors:
        assert set(bases(node.containerd.certs, mirror.host)) == {mirror.endpoint}
    assert set(bases(node.containerd.certs, "harbor.sovereign.test")) == {"https://harbor.sovereign.test/v2"}
    assert node.containerd.write(PLAN) == 0
