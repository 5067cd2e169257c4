{{- define "cutover.image" -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- end -}}

{{- define "cutover.selector" -}}
app.kubernetes.io/name: catalyst-cutover
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .class }}
{{- end -}}

{{- define "cutover.labels" -}}
{{ include "cutover.selector" . }}
app.kubernetes.io/part-of: catalyst-cutover
app.kubernetes.io/version: {{ .root.Chart.AppVersion | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- /* helm-controller appends `+<digest>` to the version of a chart from an OCIRepository: no label's character. */}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
{{- end -}}

{{/* Classes with a Deployment. */}}
{{- define "cutover.classes" -}}
supply,pivot,proof,control{{ if .Values.api.enabled }},api{{ end }}
{{- end -}}

{{- define "cutover.nodesNamespace" -}}
{{ .Values.settings.sovereign.nodes.namespace }}
{{- end -}}

{{/* Which policies for our own Pods: cilium, kubernetes or none. */}}
{{- define "cutover.policies" -}}
{{- if ne .Values.network.policies "auto" -}}
{{ .Values.network.policies }}
{{- else if .Capabilities.APIVersions.Has "cilium.io/v2" -}}
cilium
{{- else -}}
kubernetes
{{- end -}}
{{- end -}}
