{{- /* Rules that several NetworkPolicies share. */ -}}

{{- /* Addresses as peers. */ -}}
{{- define "maroonedpods.apiServerPeers" -}}
{{- range .Values.networkPolicies.apiServer.cidrs }}
- ipBlock:
    cidr: {{ . }}
{{- end }}
{{- end }}

{{- /* Egress to the API server. A policy is evaluated before or after the Service's address is translated,
depending on the network engine, hence addresses and ports of both. The chart does not look the addresses up: if
the control plane's addresses changed later, such a policy would cut it off without a visible cause. */ -}}
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
