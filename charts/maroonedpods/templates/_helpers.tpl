{{- /* Recommended labels of every object. Takes (dict "root" $ "component" "webhook"); no component for what
serves both programs. */ -}}
{{- define "maroonedpods.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: maroonedpods
{{ include "maroonedpods.selectorLabels" . }}
{{- end }}

{{- /* Labels that pods are selected by. A Deployment's selector can never change, so neither can these. */ -}}
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

{{- /* Namespaces whose pods are never marooned: the cluster's and our own parts must start while the webhook is
down, and launcher pods are what VMs run in. */ -}}
{{- define "maroonedpods.excludedNamespaces" -}}
{{ concat (list "kube-system" "marooned-vms" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toJson }}
{{- end }}

{{- /* How the reconciler treats the webhook's certificates. Outside the cluster, and with cert-manager, they are
somebody else's. */ -}}
{{- define "maroonedpods.certsArgs" -}}
{{- if and (eq .Values.certs.mode "builtin") (not .Values.webhook.external.url) -}}
- --certs=builtin
- --certs-lifetime={{ .Values.certs.lifetime }}
- --certs-renew-before={{ .Values.certs.renewBefore }}
{{- else -}}
- --certs=none
{{- end }}
{{- end }}
