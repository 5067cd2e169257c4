"""Charts as the mothership publishes them: small, deterministic, and rendered with the simplest of templates.

Only `{{ .Values.a.b }}`, `{{ .Release.Name }}` and `{{ .Release.Namespace }}` are understood; that is all that
these charts use.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from sandbox.catalogue import API_IMAGE, CHARTS, CUTOVER_IMAGE, Chart

Object = dict[str, Any]

CATALYST_API = "bp-catalyst-platform"
NODE_AGENT = "bp-self-sovereign-cutover"
AGENT_NAMESPACE = "catalyst-cutover-nodes"
REGISTRIES_DIR = "/etc/rancher/k3s"
CERTS_DIR = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"

_DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {short}
  namespace: {{{{ .Release.Namespace }}}}
  labels: {{app: {short}, app.kubernetes.io/instance: {{{{ .Release.Name }}}}}}
spec:
  replicas: 1
  selector:
    matchLabels: {{app: {short}}}
  template:
    metadata:
      labels: {{app: {short}}}
    spec:
      containers:
        - name: {short}
          image: {{{{ .Values.image }}}}
          imagePullPolicy: IfNotPresent
"""

_CATALYST_API = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: catalyst-api
  namespace: {{ .Release.Namespace }}
  labels: {app: catalyst-api, app.kubernetes.io/instance: {{ .Release.Name }}}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector:
    matchLabels: {app: catalyst-api}
  template:
    metadata:
      labels: {app: catalyst-api}
    spec:
      containers:
        - name: catalyst-api
          image: {{ .Values.image }}
          imagePullPolicy: IfNotPresent
          ports:
            - {name: http, containerPort: 8080, protocol: TCP}
          env:
            - name: PORT
              value: "8080"
            - name: CATALYST_GITOPS_REPO_URL
              value: "{{ .Values.catalystApi.gitopsRepoUrl }}"
"""

_AGENT = """\
apiVersion: v1
kind: Namespace
metadata:
  name: catalyst-cutover-nodes
  labels: {pod-security.kubernetes.io/enforce: privileged}
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: cutover-node-agent
  namespace: catalyst-cutover-nodes
  labels: {app: cutover-node-agent, app.kubernetes.io/instance: {{ .Release.Name }}}
spec:
  selector:
    matchLabels: {app: cutover-node-agent}
  template:
    metadata:
      labels: {app: cutover-node-agent}
    spec:
      priorityClassName: system-node-critical
      tolerations:
        - {operator: Exists}
      containers:
        - name: node-agent
          image: {{ .Values.image }}
          imagePullPolicy: IfNotPresent
          command: [cutover]
          args: [node-agent]
          env:
            - name: NODE_NAME
              valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
          volumeMounts:
            - {name: registries, mountPath: /host/etc/rancher/k3s}
            - {name: certs, mountPath: /host/var/lib/rancher/k3s/agent/etc/containerd/certs.d}
      volumes:
        - name: registries
          hostPath: {path: /etc/rancher/k3s, type: DirectoryOrCreate}
        - name: certs
          hostPath: {path: /var/lib/rancher/k3s/agent/etc/containerd/certs.d, type: DirectoryOrCreate}
"""


@dataclass(frozen=True)
class Bundle:
    """A chart as it is read back from its archive."""

    name: str
    version: str
    values: Object
    templates: tuple[str, ...]


def short(name: str) -> str:
    """What the chart's workload is called: the name without the mothership's prefix."""
    return name.removeprefix("bp-")


def templates(chart: Chart) -> dict[str, str]:
    """File name below `templates/` -> its text."""
    if chart.name == CATALYST_API:
        return {"api-deployment.yaml": _CATALYST_API}
    if chart.name == NODE_AGENT:
        return {"node-agent.yaml": _AGENT}
    return {"deployment.yaml": _DEPLOYMENT.format(short=short(chart.name))}


def archive(chart: Chart, override: Mapping[str, str] | None = None) -> bytes:
    """The chart's tgz, byte for byte the same each time. `override` replaces templates (staged failures)."""
    meta = {"apiVersion": "v2", "name": chart.name, "version": chart.version, "type": "application"}
    files = {"Chart.yaml": _dump(meta), "values.yaml": _dump(chart.values)}
    files |= {f"templates/{name}": text for name, text in (override or templates(chart)).items()}
    return _tgz({f"{chart.name}/{name}": text.encode() for name, text in files.items()})


def unpack(tgz: bytes) -> Bundle:
    """Read a chart archive. Raises ValueError when it is not one."""
    try:
        with tarfile.open(fileobj=io.BytesIO(tgz), mode="r:gz") as tar:
            files = {m.name.partition("/")[2]: _text(tar, m) for m in tar.getmembers() if m.isfile()}
        meta = yaml.safe_load(files["Chart.yaml"])
        values = yaml.safe_load(files.get("values.yaml", "")) or {}
        rendered = tuple(files[name] for name in sorted(files) if name.startswith("templates/"))
        return Bundle(str(meta["name"]), str(meta["version"]), values, rendered)
    except (tarfile.TarError, EOFError, OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"not a chart archive: {type(error).__name__}") from error


def render(chart: Bundle, values: Mapping[str, Any], release: str, namespace: str) -> list[Object]:
    """The objects of a release, `values` merged over the chart's own. Raises KeyError on a missing value."""
    scope = {
        "Values": merge(chart.values, values),
        "Release": {"Name": release, "Namespace": namespace},
        "Chart": {"Name": chart.name, "Version": chart.version},
    }
    texts = (_EXPRESSION.sub(lambda m: str(_lookup(scope, m.group(1))), text) for text in chart.templates)
    return [o for text in texts for o in yaml.load_all(text, Loader=_Loader) if o]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Object:
    """Helm's coalescing: maps merge, everything else is replaced, null removes."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def known(pairs: Iterable[tuple[str, str]]) -> Iterator[Chart]:
    """The catalogue, and a chart for every (name, version) of a given tree that the catalogue lacks."""
    yield from CHARTS
    seen = {(c.name, c.version) for c in CHARTS}
    for name, version in pairs:
        if (name, version) not in seen:
            seen.add((name, version))
            yield stand_in(name, version)


def stand_in(name: str, version: str) -> Chart:
    """A chart that the catalogue does not know: another version of a known one, or a generic one."""
    relative = next((c for c in CHARTS if c.name == name), None)
    if relative is not None:
        return Chart(name, version, relative.namespace, relative.values)
    ordinary = [c for c in CHARTS if c.values["image"] not in {API_IMAGE, CUTOVER_IMAGE}]
    pick = hashlib.sha256(name.encode()).digest()[0] % len(ordinary)
    return Chart(name, version, short(name), {"image": ordinary[pick].values["image"]})


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_EXPRESSION = re.compile(r"\{\{-?\s*\.([A-Za-z0-9_.]+)\s*-?\}\}")


def _lookup(scope: Mapping[str, Any], path: str) -> Any:
    found: Any = scope
    for key in path.split("."):
        if not isinstance(found, Mapping) or key not in found:
            raise KeyError(path)
        found = found[key]
    return found


def _dump(value: Object) -> str:
    return yaml.safe_dump(value, sort_keys=True)


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    return file.read().decode() if file else ""


def _tgz(files: Mapping[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            tar.addfile(entry, io.BytesIO(files[name]))
    return gzip.compress(raw.getvalue(), mtime=0)
