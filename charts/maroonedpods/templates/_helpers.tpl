{{- /* Recommended labels of every object. Takes (dict "root" $ "component" "webhook"); no component for objects
that serve both programs. */ -}}
{{- define "maroonedpods.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: maroonedpods
{{ include "maroonedpods.selectorLabels" . }}
{{- end }}

{{- /* Labels that select pods. A Deployment's selector can never change, so neither can these. */ -}}
{{- define "maroonedpods.selectorLabels" -}}
app.kubernetes.io/name: maroonedpods
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- /* Takes (dict "root" $ "image" .Values.webhook.image). */ -}}
{{- define "maroonedpods.image" -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end }}
{{- .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* Namespaces whose pods are never marooned: the cluster's own components and MaroonedPods must start while
the webhook is down, and VMs run in launcher pods. */ -}}
{{- define "maroonedpods.excludedNamespaces" -}}
{{ concat (list "kube-system" "marooned-vms" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toJson }}
{{- end }}

{{- /* How the reconciler treats the webhook's certificates. It leaves them alone if the webhook runs
outside the cluster, or with cert-manager. */ -}}
{{- define "maroonedpods.certsArgs" -}}
{{- if and (eq .Values.certs.mode "builtin") (not .Values.webhook.external.url) -}}
- --certs=builtin
- --certs-lifetime={{ .Values.certs.lifetime }}
- --certs-renew-before={{ .Values.certs.renewBefore }}
{{- else -}}
- --certs=none
{{- end }}
{{- end }}
