{{/* Uninstalled in the midst of a hold, all of ours loses its rights at once: the lifter must keep what it lifts with. */}}
{{- define "cutover.kept" -}}
{{- if eq . "lifter" }}annotations: {helm.sh/resource-policy: keep}{{ end -}}
{{- end -}}

{{/* A Role or ClusterRole and its binding. Given root, class, name, namespace (empty: the cluster), rules. */}}
{{- define "cutover.grant" -}}
{{- $prefix := .root.Values.prefix -}}
{{- $kind := ternary "Role" "ClusterRole" (ne .namespace "") -}}
{{- $home := ternary (include "cutover.nodesNamespace" .root) .root.Release.Namespace (has .class (list "node-agent" "lifter")) -}}
{{- $account := printf "%s-%s" $prefix .class -}}
{{- if eq .class "lifter" -}}{{- $account = .root.Values.settings.sovereign.proof.lifter_account -}}{{- end -}}
{{- $name := printf "%s-%s" $prefix .name -}}
{{- if eq .namespace "" -}}{{- $name = printf "%s-%s" $name .root.Release.Namespace -}}{{- end -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "cutover.labels" . | nindent 4 }}
  {{- include "cutover.kept" .class | nindent 2 }}
rules: {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "cutover.labels" . | nindent 4 }}
  {{- include "cutover.kept" .class | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ $kind }}, name: {{ $name }}}
subjects:
  - {kind: ServiceAccount, name: {{ $account }}, namespace: {{ $home }}}
{{ end -}}

{{/* What an audit reads: everything that may name the mothership, Secrets apart. */}}
{{- define "cutover.rules.audit" -}}
- {apiGroups: [""], resources: [configmaps, nodes, pods], verbs: [list]}
- {apiGroups: [apps], resources: [daemonsets, deployments, statefulsets], verbs: [list]}
- {apiGroups: [batch], resources: [cronjobs, jobs], verbs: [list]}
- {apiGroups: [source.toolkit.fluxcd.io], resources: [buckets, gitrepositories, helmrepositories, ocirepositories], verbs: [list]}
- {apiGroups: [kustomize.toolkit.fluxcd.io], resources: [kustomizations], verbs: [list]}
- {apiGroups: [image.toolkit.fluxcd.io], resources: [imagerepositories], verbs: [list]}
- {apiGroups: [pkg.crossplane.io], resources: [configurations, functions, providers], verbs: [list]}
- {apiGroups: [helm.cattle.io], resources: [helmcharts], verbs: [list]}
- {apiGroups: [upgrade.cattle.io], resources: [plans], verbs: [list]}
{{- end -}}

{{- define "cutover.rules.supply" -}}
{{ include "cutover.rules.audit" . }}
- {apiGroups: [postgresql.cnpg.io], resources: [clusters], verbs: [list]}
- {apiGroups: [helm.toolkit.fluxcd.io], resources: [helmreleases], verbs: [list]}
{{- end -}}

{{- define "cutover.rules.pivot" -}}
- {apiGroups: [""], resources: [nodes], verbs: [list]}
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
- {apiGroups: [""], resources: [namespaces], resourceNames: [{{ include "cutover.nodesNamespace" . }}], verbs: [get]}
- {apiGroups: [""], resources: [serviceaccounts], verbs: [list]}
- {apiGroups: [apps], resources: [daemonsets, deployments, statefulsets], verbs: [list]}
- {apiGroups: [batch], resources: [cronjobs, jobs], verbs: [list]}
- {apiGroups: [source.toolkit.fluxcd.io], resources: [gitrepositories, helmcharts], verbs: [list, watch]}
- {apiGroups: [source.toolkit.fluxcd.io], resources: [helmrepositories], verbs: [list]}
- {apiGroups: [source.toolkit.fluxcd.io], resources: [ocirepositories], verbs: [list, watch]}
- {apiGroups: [kustomize.toolkit.fluxcd.io], resources: [kustomizations], verbs: [list, watch]}
- {apiGroups: [helm.toolkit.fluxcd.io], resources: [helmreleases], verbs: [list, watch]}
- {apiGroups: [pkg.crossplane.io], resources: [configurations, functions, providers], verbs: [get, list, watch, patch]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], resourceNames: [imageconfigs.pkg.crossplane.io], verbs: [get]}
- {apiGroups: [pkg.crossplane.io], resources: [imageconfigs], verbs: [get, create, patch]}
{{- end -}}

{{/* Flux's objects, in the namespaces where they live. */}}
{{- define "cutover.rules.pivotFlux" -}}
- {apiGroups: [source.toolkit.fluxcd.io], resources: [gitrepositories, helmrepositories, ocirepositories], verbs: [get, patch]}
- {apiGroups: [source.toolkit.fluxcd.io], resources: [helmcharts], verbs: [create, delete]}
- {apiGroups: [kustomize.toolkit.fluxcd.io], resources: [kustomizations], verbs: [patch]}
- {apiGroups: [helm.toolkit.fluxcd.io], resources: [helmreleases], verbs: [get, patch]}
- {apiGroups: [""], resources: [secrets], verbs: [create, get, patch]}
{{- end -}}

{{- define "cutover.rules.proof" -}}
{{ include "cutover.rules.audit" . }}
- {apiGroups: [""], resources: [pods], verbs: [watch]}
- {apiGroups: [source.toolkit.fluxcd.io], resources: [gitrepositories, helmrepositories, ocirepositories], verbs: [watch]}
- {apiGroups: [source.toolkit.fluxcd.io], resources: [helmcharts], verbs: [list, watch]}
- {apiGroups: [kustomize.toolkit.fluxcd.io], resources: [kustomizations], verbs: [watch]}
- {apiGroups: [helm.toolkit.fluxcd.io], resources: [helmreleases], verbs: [list, watch]}
- {apiGroups: [pkg.crossplane.io], resources: [configurations, functions, providers], verbs: [watch]}
- {apiGroups: [cilium.io], resources: [ciliumnetworkpolicies], verbs: [list]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], resourceNames: [ciliumclusterwidenetworkpolicies.cilium.io], verbs: [get]}
{{ include "cutover.rules.standing" . }}
{{- range .Values.rbac.means }}
{{- if eq . "NetworkPolicy" }}
- {apiGroups: [""], resources: [namespaces], verbs: [list]}
{{- end }}
{{- $where := include "cutover.means" . }}
- {{ printf "{%s, verbs: [create, watch]}" $where }}
- {{ printf "{%s, resourceNames: [%s], verbs: [get, patch]}" $where $.Values.settings.sovereign.proof.policy }}
{{- end }}
{{- end -}}

{{/* To see and to take away what a block put up. */}}
{{- define "cutover.rules.standing" -}}
- {apiGroups: [cilium.io], resources: [ciliumclusterwidenetworkpolicies], verbs: [list]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list]}
- {apiGroups: [policy.networking.k8s.io], resources: [clusternetworkpolicies], verbs: [list]}
{{- range .Values.rbac.means }}
- {{ printf "{%s, resourceNames: [%s], verbs: [delete]}" (include "cutover.means" .) $.Values.settings.sovereign.proof.policy }}
{{- end }}
{{- end -}}

{{- define "cutover.means" -}}
{{- if eq . "CiliumClusterwideNetworkPolicy" -}}
apiGroups: [cilium.io], resources: [ciliumclusterwidenetworkpolicies]
{{- else if eq . "ClusterNetworkPolicy" -}}
apiGroups: [policy.networking.k8s.io], resources: [clusternetworkpolicies]
{{- else -}}
apiGroups: [networking.k8s.io], resources: [networkpolicies]
{{- end -}}
{{- end -}}

{{- define "cutover.rules.control" -}}
{{ include "cutover.rules.audit" . }}
{{ include "cutover.rules.plan" . }}
- {apiGroups: [""], resources: [nodes], verbs: [watch]}
- {apiGroups: [apps], resources: [daemonsets, deployments, statefulsets], verbs: [watch]}
- {apiGroups: [batch], resources: [cronjobs], verbs: [watch]}
- {apiGroups: [source.toolkit.fluxcd.io], resources: [buckets, gitrepositories, helmrepositories, ocirepositories], verbs: [watch]}
- {apiGroups: [image.toolkit.fluxcd.io], resources: [imagerepositories], verbs: [watch]}
- {apiGroups: [pkg.crossplane.io], resources: [configurations, functions, providers], verbs: [watch]}
- {apiGroups: [helm.cattle.io], resources: [helmcharts], verbs: [watch]}
- {apiGroups: [upgrade.cattle.io], resources: [plans], verbs: [watch]}
{{- end -}}

{{/* What a plan lists beyond an audit: what runs, and who made it. */}}
{{- define "cutover.rules.plan" -}}
- {apiGroups: [postgresql.cnpg.io], resources: [clusters], verbs: [list]}
- {apiGroups: [source.toolkit.fluxcd.io], resources: [helmcharts], verbs: [list]}
- {apiGroups: [helm.toolkit.fluxcd.io], resources: [helmreleases], verbs: [list]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], resourceNames: [imageconfigs.pkg.crossplane.io], verbs: [get]}
{{- end -}}

{{/* The API shows the plan and the audit, so it reads what they read; who asks is found out by TokenReview. */}}
{{- define "cutover.rules.api" -}}
{{ include "cutover.rules.audit" . }}
{{ include "cutover.rules.plan" . }}
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
{{- end -}}
