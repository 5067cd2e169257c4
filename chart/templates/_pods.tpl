{{/* What every Pod of ours shares. Given root, class. */}}
{{- define "cutover.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "cutover.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "cutover.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "cutover.env" -}}
- {name: CUTOVER_CONFIG, value: /etc/cutover/settings.yaml}
- {name: TMPDIR, value: /tmp}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end -}}

{{/* Mounts of settings and Secrets, each Secret in a directory of its name. */}}
{{- define "cutover.mounts" -}}
- {name: settings, mountPath: /etc/cutover/settings.yaml, subPath: settings.yaml, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- range $name := splitList "," (include "cutover.secretsOf" .) }}
- {name: secret-{{ $name }}, mountPath: /etc/cutover/secrets/{{ $name }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "cutover.volumes" -}}
- name: settings
  configMap: {name: {{ .root.Values.prefix }}-{{ .class }}-settings}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- range $name := splitList "," (include "cutover.secretsOf" .) }}
- name: secret-{{ $name }}
  secret: {secretName: {{ $name }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "cutover.probes" -}}
{{- $probes := .root.Values.probes -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: {{ $probes.periodSeconds }}
  timeoutSeconds: {{ $probes.timeoutSeconds }}
  failureThreshold: {{ $probes.failureThreshold }}
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: {{ $probes.periodSeconds }}
  timeoutSeconds: {{ $probes.timeoutSeconds }}
{{- end -}}

{{- define "cutover.placement" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
