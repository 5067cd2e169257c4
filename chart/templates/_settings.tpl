{{/* A part of the settings as the file spells it: x_secret {name, key} becomes x_file, its mounted path. JSON in v. */}}
{{- define "cutover.filed" -}}
{{- $out := . -}}
{{- if kindIs "map" . -}}
  {{- $out = dict -}}
  {{- range $key, $value := . -}}
    {{- if kindIs "invalid" $value -}}
    {{- else if and (kindIs "map" $value) (hasSuffix "_secret" $key) -}}
      {{- $path := printf "/etc/cutover/secrets/%s/%s" $value.name $value.key -}}
      {{- $_ := set $out (printf "%s_file" (trimSuffix "_secret" $key)) $path -}}
    {{- else -}}
      {{- $_ := set $out $key (include "cutover.filed" $value | fromJson).v -}}
    {{- end -}}
  {{- end -}}
{{- else if kindIs "slice" . -}}
  {{- $out = list -}}
  {{- range . -}}
    {{- $out = append $out (include "cutover.filed" . | fromJson).v -}}
  {{- end -}}
{{- end -}}
{{- dict "v" $out | toJson -}}
{{- end -}}

{{/* Secrets named in a part of the settings: a JSON map of name/key to true in v. */}}
{{- define "cutover.secretsIn" -}}
{{- $found := dict -}}
{{- if kindIs "map" . -}}
  {{- range $key, $value := . -}}
    {{- if and (kindIs "map" $value) (hasSuffix "_secret" $key) -}}
      {{- $_ := set $found (printf "%s/%s" $value.name $value.key) true -}}
    {{- else -}}
      {{- $found = merge $found (include "cutover.secretsIn" $value | fromJson).v -}}
    {{- end -}}
  {{- end -}}
{{- else if kindIs "slice" . -}}
  {{- range . -}}
    {{- $found = merge $found (include "cutover.secretsIn" . | fromJson).v -}}
  {{- end -}}
{{- end -}}
{{- dict "v" $found | toJson -}}
{{- end -}}

{{/* What one class is told: no more than it needs. Given root and class; JSON, in the words of values.yaml. */}}
{{- define "cutover.told" -}}
{{- $root := .root -}}
{{- $class := .class -}}
{{- $told := deepCopy $root.Values.settings -}}
{{- $sovereign := $told.sovereign -}}
{{- $_ := set $sovereign "fqdn" $root.Values.global.sovereignFQDN -}}
{{- if not $sovereign.harbor.host -}}
  {{- $_ := set $sovereign.harbor "host" (printf "harbor.%s" $root.Values.global.sovereignFQDN) -}}
{{- end -}}
{{- $_ := set $sovereign.nodes "image" (include "cutover.image" $root) -}}
{{- $_ := set $told.nats "inbox_prefix" (printf "_INBOX_%s" $class) -}}
{{- if $root.Values.broker.embedded.enabled -}}
  {{- $_ := set $told.nats "url" (printf "nats://%s-nats.%s.svc:4222" $root.Values.prefix $root.Release.Namespace) -}}
  {{- $_ := set $told.nats "replicas" 1 -}}
{{- end -}}
{{- $secret := index $root.Values.broker.secrets $class -}}
{{- if eq $root.Values.broker.login "password" -}}
  {{- $_ := set $told.nats "user" $class -}}
  {{- $_ := set $told.nats "password_secret" (dict "name" $secret "key" "password") -}}
{{- else if eq $root.Values.broker.login "nkey" -}}
  {{- $_ := set $told.nats "nkey_seed_secret" (dict "name" $secret "key" "seed") -}}
{{- else -}}
  {{- $_ := set $told.nats "credentials_secret" (dict "name" $secret "key" "user.creds") -}}
{{- end -}}
{{- $_ := set $told "workspace" "/var/lib/cutover" -}}
{{- if not (has $class $root.Values.network.outside) -}}
  {{- /* Logins upstream are for those who copy from there, or look before a cutover begins. */ -}}
  {{- $_ := unset $sovereign.upstream_git "login" -}}
  {{- $_ := unset $sovereign "mothership_login" -}}
  {{- range $sovereign.upstreams -}}
    {{- $_ := unset . "login" -}}
  {{- end -}}
{{- end -}}
{{- if ne $class "api" -}}
  {{- $_ := unset $told "api" -}}
{{- else -}}
  {{- $_ := set $told "api" (merge (dict "host" "0.0.0.0" "port" (int $root.Values.api.port)) (default dict $told.api)) -}}
{{- end -}}
{{- $port := ternary $root.Values.nodeAgent.healthPort $root.Values.probes.port (eq $class "node-agent") -}}
{{- if ne $class "api" -}}
  {{- $host := ternary "127.0.0.1" "0.0.0.0" (eq $class "node-agent") -}}
  {{- $_ := set $told "health" (dict "host" $host "port" (int $port)) -}}
{{- end -}}
{{- if eq $class "node-agent" -}}
  {{- $login := "login.password_file" -}}
  {{- $_ := set $told "withheld" (list (printf "sovereign.gitea.%s" $login) (printf "sovereign.harbor.%s" $login)) -}}
{{- end -}}
{{- toJson $told -}}
{{- end -}}

{{/* Name and key of each of the class's Secrets, as a comma-separated list of name/key in order. */}}
{{- define "cutover.secretKeysOf" -}}
{{- $told := include "cutover.told" . | fromJson -}}
{{- if eq .class "node-agent" -}}
  {{- $_ := unset $told.sovereign.gitea "login" -}}
  {{- $_ := unset $told.sovereign.harbor "login" -}}
{{- end -}}
{{- keys (include "cutover.secretsIn" $told | fromJson).v | sortAlpha | join "," -}}
{{- end -}}

{{/* The class's Secrets, as a comma-separated list in order. */}}
{{- define "cutover.secretsOf" -}}
{{- $names := list -}}
{{- range splitList "," (include "cutover.secretKeysOf" .) -}}
  {{- $names = append $names (splitList "/" . | first) -}}
{{- end -}}
{{- $names | uniq | sortAlpha | join "," -}}
{{- end -}}
