{{/* How a user proves who it is; the secret itself comes from the broker's environment. */}}
{{- define "cutover.natsWho" -}}
{{- $variable := printf "$CUTOVER_NATS_%s" (. | upper | replace "-" "_") -}}
{{- $variable -}}
{{- end -}}

{{/*
Users of the broker, one for each class, one grant a line. What a class may publish is the facts it tells and the
API calls that its own consumers take. Throwaway readers have random names, so those calls hold a *, and all durables
are denied by name: whoever could make a consumer of such a name would change it. Where they are made stands what they
read. Acknowledgements carry the message's place behind the name.
*/}}
{{- define "cutover.natsUsers" -}}
{{- $stream := .Values.settings.nats.stream -}}
{{- $durables := list "admission" "registrar" "step-1" "step-2" "step-3" "step-4" "step-5" "step-6" "step-7" "step-8" -}}
{{- $own := dict
  "supply" (list "step-1" "step-2" "step-3")
  "pivot" (list "step-4" "step-5" "step-6" "step-7")
  "proof" (list "step-8")
  "control" (list "admission" "registrar")
  "api" list
  "operator" list -}}
{{- $tells := dict
  "supply" (list "journal" "rejected" "step.1" "step.2" "step.3" "step.4")
  "pivot" (list "journal" "rejected" "step.5" "step.6" "step.7" "step.8")
  "proof" (list "journal" "rejected")
  "control" (list "journal" "rejected" "step.1")
  "api" (list "requested" "cancel" "login" "step.*")
  "operator" (list "requested" "cancel" "step.*") -}}
{{- $reads := dict
  "supply" (list "journal" "node.*")
  "pivot" (list "journal" "node.*")
  "proof" (list "journal" "node.*")
  "control" (list "journal" "node.*" "cancel" "login")
  "api" (list ">")
  "operator" (list ">") -}}
users: [
{{- range $class := splitList "," (printf "%s,operator" (include "cutover.classes" $)) }}
  {
    {{- if eq $.Values.broker.login "nkey" }}
    nkey: {{ include "cutover.natsWho" $class }}
    {{- else }}
    user: {{ $class }}
    password: {{ include "cutover.natsWho" $class }}
    {{- end }}
    permissions: {
      publish: {
        allow: [
          {{- range index $tells $class }}
          "catalyst.cutover.{{ . }}"
          {{- end }}
          "$JS.API.STREAM.INFO.{{ $stream }}"
          "$JS.API.STREAM.MSG.GET.{{ $stream }}"
          {{- if eq $class "control" }}
          "$JS.API.STREAM.CREATE.{{ $stream }}"
          {{- if $.Values.broker.grow }}
          "$JS.API.STREAM.UPDATE.{{ $stream }}"
          {{- end }}
          {{- end }}
          {{- /* Control makes them all; the others look at their own. */}}
          {{- range (ternary $durables (index $own $class) (eq $class "control")) }}
          "$JS.API.CONSUMER.INFO.{{ $stream }}.{{ . }}"
          {{- if eq $class "control" }}
          "$JS.API.CONSUMER.DURABLE.CREATE.{{ $stream }}.{{ . }}"
          {{- end }}
          {{- end }}
          {{- range index $reads $class }}
          "$JS.API.CONSUMER.CREATE.{{ $stream }}.*.catalyst.cutover.{{ . }}"
          {{- end }}
          "$JS.API.CONSUMER.MSG.NEXT.{{ $stream }}.*"
          "$JS.API.CONSUMER.DELETE.{{ $stream }}.*"
          {{- range index $own $class }}
          "$JS.ACK.{{ $stream }}.{{ . }}.>"
          {{- end }}
        ]
        deny: [
          {{- range $durables }}
          {{- if not (has . (index $own $class)) }}
          "$JS.API.CONSUMER.MSG.NEXT.{{ $stream }}.{{ . }}"
          {{- end }}
          "$JS.API.CONSUMER.CREATE.{{ $stream }}.{{ . }}.>"
          "$JS.API.CONSUMER.DELETE.{{ $stream }}.{{ . }}"
          {{- end }}
        ]
      }
      subscribe: {
        allow: [
          "_INBOX_{{ $class }}.>"
          {{- /* As plain `nats sub` hears it: it may read all of that already. */}}
          {{- if eq $class "operator" }}
          "catalyst.cutover.>"
          {{- end }}
        ]
      }
    }
  }
{{- end }}
  {
    {{- if eq $.Values.broker.login "nkey" }}
    nkey: {{ include "cutover.natsWho" "node-agent" }}
    {{- else }}
    user: node-agent
    password: {{ include "cutover.natsWho" "node-agent" }}
    {{- end }}
    permissions: {
      publish: {
        allow: [
          "catalyst.cutover.node.*"
        ]
      }
      subscribe: {
        allow: [
          "_INBOX_node-agent.>"
        ]
      }
    }
  }
]
{{- end -}}
