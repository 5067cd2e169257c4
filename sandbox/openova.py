"""The mothership's repository, as a bare Git repository: generated, cloned, or made from a plain tree.

What is generated is the same to the byte every time: fixed authors and dates, one `git fast-import`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

from sandbox.openova_slots import TEMPLATE, manifests
from workers.adapters.yaml_edit import documents

BRANCH = "main"
STAMP = 1_777_507_200  # 2026-04-30T00:00:00Z
_WHO = "OpenOva <platform@openova.invalid>"

_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
}

_AROUND: dict[str, str] = {
    "README.md": "# openova\n\nCharts, blueprints and the manifests of every Sovereign.\n",
    ".gitattributes": "*.sh text eol=lf\n*.png binary\n",
    "platform/README.md": "# Platform\n\nOne directory a Blueprint, its wrapper chart inside.\n",
    "products/catalyst/README.md": "# Catalyst\n\nThe control plane of a Sovereign.\n",
}


def generate(directory: Path) -> Path:
    """`directory/openova.git`: 38 slots, three tags, a second branch, and refs of pull requests."""
    later = {f"{TEMPLATE}/README.md": "Applied by Flux; the Sovereign's name is substituted.\n"}
    proposal = {"docs/proposal.md": "# A proposal\n\nNobody has merged this yet.\n"}
    commits = (
        _Commit("refs/heads/main", "Begin", {"README.md": _AROUND["README.md"]}, 0),
        _Commit("refs/heads/main", "Blueprints and the bootstrap-kit", {**_AROUND, **manifests()}, 1),
        _Commit("refs/heads/main", "Say who applies the template", later, 2),
        _Commit("refs/heads/next", "Try a change before it is merged", {"docs/next.md": "# Next\n"}, 3, ":2"),
        _Commit("refs/pull/1/head", "A proposal", proposal, 4, ":2"),
        _Commit("refs/pull/2/head", "Another proposal", {"docs/other.md": "# Other\n"}, 5, ":3"),
        _Commit("refs/pull/2/merge", "Merge 2 into main", {"docs/merged.md": "# Merged\n"}, 6, ":6"),
    )
    tags = (
        b"reset refs/tags/v0.1.0\nfrom :1\n\n",
        _annotated("v1.0.0", ":2"),
        _annotated("v1.1.0", ":3"),
    )
    return _import(directory / "openova.git", commits, tags)


def from_tree(tree: Path, directory: Path) -> Path:
    """`directory/openova.git` whose `clusters/_template` is the given directory, or its `_template`."""
    template = _template(tree)
    files = {
        f"{TEMPLATE}/{path.relative_to(template).as_posix()}": path.read_bytes()
        for path in sorted(template.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(template).parts
    }
    first = _Commit("refs/heads/main", "The tree as it was given", {**_AROUND, **files}, 0)
    return _import(directory / "openova.git", (first,), ())


def from_repository(source: str | Path, directory: Path) -> Path:
    """`directory/openova.git`, a full copy of any repository, its `refs/pull` included."""
    target = directory / "openova.git"
    _git("clone", "--quiet", "--mirror", "--no-hardlinks", "--", str(source), str(target))
    # A copy serves on its own: where it came from shall not stand in it.
    _git("remote", "remove", "origin", at=target)
    return target


def export(repository: Path, directory: Path, revision: str = "HEAD") -> Path:
    """The files of one revision, written below `directory`."""
    archive = _git("archive", "--format=tar", revision, at=repository)
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=BytesIO(archive)) as packed:
        packed.extractall(directory, filter="data")
    return directory


def commit(repository: Path, branch: str, files: Mapping[str, str], message: str, *, base: str | None = None) -> None:
    """One more commit on a branch of a bare repository; a branch that is not there begins at `base`."""
    ref = f"refs/heads/{branch}"
    known = _git("for-each-ref", "--format=%(objectname)", ref, at=repository).decode().strip()
    parent = known or head(repository, base or BRANCH)
    stream = _Commit(ref, message, files, 100, parent).stream()
    _git("fast-import", "--quiet", "--done", at=repository, stdin=stream + b"done\n")


def head(repository: Path, branch: str = BRANCH) -> str:
    """The commit that a branch stands at."""
    return _git("rev-parse", f"refs/heads/{branch}", at=repository).decode().strip()


def slots(tree: Path) -> tuple[str, ...]:
    """Files of the bootstrap-kit, in the order in which its kustomization lists them."""
    kit = _template(tree) / "bootstrap-kit"
    listed = next(iter(documents((kit / "kustomization.yaml").read_text(encoding="utf-8"))), {})
    return tuple(str(name) for name in listed.get("resources", ()))


def charts_in(tree: Path) -> tuple[tuple[str, str], ...]:
    """Every (chart, version) that a HelmRelease below `tree` pins, once each, in order of the files."""
    found: dict[tuple[str, str], None] = {}
    for path in sorted(_template(tree).rglob("*.yaml")):
        for document in documents(path.read_text(encoding="utf-8")):
            if document.get("kind") == "HelmRelease":
                spec = document.get("spec", {}).get("chart", {}).get("spec", {})
                if "chart" in spec:
                    found[(str(spec["chart"]), str(spec.get("version", "*")))] = None
    return tuple(found)


def _template(tree: Path) -> Path:
    """The directory with `bootstrap-kit` in it: the tree itself, its `_template`, or a repository's."""
    for candidate in (tree, tree / "_template", tree / TEMPLATE):
        if (candidate / "bootstrap-kit").is_dir():
            return candidate
    raise FileNotFoundError(f"{tree}: no bootstrap-kit here, in _template, nor in {TEMPLATE}")


class _Commit:
    """One commit on one ref, as `git fast-import` reads it."""

    def __init__(self, ref: str, message: str, files: Mapping[str, str | bytes], number: int, parent: str = "") -> None:
        self.ref, self.message, self.files, self.number, self.parent = ref, message, files, number, parent

    def stream(self) -> bytes:
        when = f"{_WHO} {STAMP + 3600 * self.number} +0000"
        lines = [f"commit {self.ref}\nmark :{self.number + 1}\nauthor {when}\ncommitter {when}\n".encode()]
        lines.append(_data(self.message.encode() + b"\n"))
        if self.parent:
            lines.append(f"from {self.parent}\n".encode())
        for path, content in sorted(self.files.items()):
            raw = content.encode() if isinstance(content, str) else content
            lines += [f"M 100644 inline {path}\n".encode(), _data(raw)]
        return b"".join(lines) + b"\n"


def _annotated(name: str, mark: str) -> bytes:
    head_lines = f"tag {name}\nfrom {mark}\ntagger {_WHO} {STAMP} +0000\n".encode()
    return head_lines + _data(f"Release {name}\n".encode())


def _data(content: bytes) -> bytes:
    return b"data %d\n%b\n" % (len(content), content)


def _import(target: Path, commits: Iterable[_Commit], tags: Iterable[bytes]) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    _git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(target))
    stream = b"".join(commit.stream() for commit in commits) + b"".join(tags)
    _git("fast-import", "--quiet", "--done", at=target, stdin=stream + b"done\n")
    return target


def _git(*arguments: str, at: Path | None = None, stdin: bytes = b"") -> bytes:
    place = ["-C", str(at)] if at else []
    done = subprocess.run(
        ["git", *place, *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, **_ENVIRONMENT},
    )
    if done.returncode:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
