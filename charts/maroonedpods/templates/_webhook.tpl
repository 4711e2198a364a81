{{- /* What all three entries share. Takes (dict "root" $ "path" "/mutate"). */ -}}
{{- define "maroonedpods.webhook" -}}
admissionReviewVersions: [v1]
clientConfig:
  {{- with .root.Values.webhook }}
  caBundle: {{ required "webhook.caBundle: the PEM certificates that the API server verifies the webhook with" .caBundle | b64enc }}
  {{- if .url }}
  url: {{ .url }}{{ $.path }}
  {{- else }}
  service:
    name: {{ .service.name }}
    namespace: {{ $.root.Release.Namespace }}
    port: {{ .service.port }}
    path: {{ $.path }}
  {{- end }}
  {{- end }}
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    resources: [pods]
    operations: [CREATE]
    scope: Namespaced
# An opted-in pod that passed ungated would run on a shared node. Pods that did not opt in never match.
failurePolicy: Fail
timeoutSeconds: 5
sideEffects: None
# Another webhook may add to the pod after us; a second call from us adds nothing.
reinvocationPolicy: IfNeeded
matchPolicy: Equivalent
{{- end }}

{{- /* Namespaces no entry looks at: the cluster's and our own parts must start while the webhook is down, and
launcher pods are what VMs run in. */ -}}
{{- define "maroonedpods.excludedNamespaces" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values: {{ list "kube-system" "kubevirt" "marooned-vms" .Release.Namespace | uniq | toJson }}
{{- end }}
