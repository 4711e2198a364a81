{{- /* The pod of a hook, which runs the reconciler's image once. Takes (dict "root" $ "account" … "args" list), and
"env", YAML, if the hook needs more than its namespace. */ -}}
{{- define "maroonedpods.hookPod" -}}
{{- $context := dict "root" .root "program" .root.Values.reconciler -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: true
restartPolicy: Never
{{ include "maroonedpods.pod" $context }}
containers:
  - name: {{ first .args }}
    {{- include "maroonedpods.container" $context | nindent 4 }}
    args:
      {{- toYaml .args | nindent 6 }}
      # Users read the log in helm's output.
      - --log-format=text
      - --log-level={{ .root.Values.log.level }}
    env:
      - name: MAROONEDPODS_NAMESPACE
        valueFrom:
          fieldRef:
            fieldPath: metadata.namespace
      {{- with .env }}
      {{- . | nindent 6 }}
      {{- end }}
{{- end }}

{{- /* The Job of a hook. Takes (dict "root" $ "on" "pre-delete" "account" … "args" list). It has its account's name, and
Kubernetes does not retry it: the program itself waits while the API server is unreachable, and a refusal is final. */ -}}
{{- define "maroonedpods.hookJob" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .account }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "maroonedpods.labels" (dict "root" .root "component" "hook") | nindent 4 }}
  annotations:
    {{- include "maroonedpods.hook" (dict "on" .on "weight" 0) | nindent 4 }}
spec:
  backoffLimit: 0
  template:
    metadata:
      labels:
        {{- include "maroonedpods.selectorLabels" (dict "root" .root "component" "hook") | nindent 8 }}
    spec:
      {{- include "maroonedpods.hookPod" . | nindent 6 }}
{{- end }}

{{- /* Account, role and binding of a hook; helm creates them before its Job and deletes them after it. Takes (dict "root" $ "on"
"pre-delete" "account" … "rules" "YAML"). */ -}}
{{- define "maroonedpods.hookRights" -}}
{{- $labels := include "maroonedpods.labels" (dict "root" .root "component" "hook") }}
{{- $annotations := include "maroonedpods.hook" (dict "on" .on "weight" -10) }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .account }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- $annotations | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .account }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- $annotations | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .account }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- $annotations | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .account }}
subjects:
  - kind: ServiceAccount
    name: {{ .account }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}
