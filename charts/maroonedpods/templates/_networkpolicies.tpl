{{- /* Rules that several NetworkPolicies share. */ -}}

{{- /* Addresses as peers. */ -}}
{{- define "maroonedpods.apiServerPeers" -}}
{{- range .Values.networkPolicies.apiServer.cidrs }}
- ipBlock:
    cidr: {{ . }}
{{- end }}
{{- end }}

{{- /* Egress to the API server. A policy is evaluated before or after the Service's address is translated,
depending on the network engine, hence addresses and ports of both. Not looked up from the cluster: a control
plane whose addresses change later would be cut off by a policy that nobody remembers writing. */ -}}
{{- define "maroonedpods.toApiServer" -}}
- ports:
    {{- range .Values.networkPolicies.apiServer.ports }}
    - port: {{ . }}
    {{- end }}
  {{- with include "maroonedpods.apiServerPeers" . }}
  to:
    {{- . | trim | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "maroonedpods.fromMonitoring" -}}
{{- with .Values.networkPolicies.monitoring -}}
- ports:
    - port: metrics
  from:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}
