{{- /* What all pods of the chart have in common. */ -}}

{{- /* Pod-level settings. Takes (dict "root" $ "program" .Values.webhook). */ -}}
{{- define "maroonedpods.pod" -}}
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with .program.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .program.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
# No user or group id: the images name an unprivileged one, and OpenShift assigns its own.
securityContext:
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- /* Container-level settings. Takes (dict "root" $ "program" .Values.webhook). */ -}}
{{- define "maroonedpods.container" -}}
image: {{ include "maroonedpods.image" (dict "root" .root "image" .program.image) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
resources: {{ toJson .program.resources }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  readOnlyRootFilesystem: true
{{- end }}

{{- /* What pods of a Deployment add: they take precedence over ordinary workloads (a hook's pod cannot: before an
upgrade, the PriorityClass may not exist yet), and spread over nodes and zones if the cluster has room. Takes (dict "root" $ "component" "webhook"
"program" .Values.webhook). */ -}}
{{- define "maroonedpods.replica" -}}
{{- with .root.Values.priorityClass.name -}}
priorityClassName: {{ . }}
{{ end -}}
affinity:
  {{- with .program.affinity }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "maroonedpods.selectorLabels" . | nindent 14 }}
  {{- end }}
topologySpreadConstraints:
  - topologyKey: topology.kubernetes.io/zone
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    # Separately for each rollout: otherwise pods that are about to be deleted would count.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "maroonedpods.selectorLabels" . | nindent 8 }}
{{- end }}

{{- /* Annotations of a helm hook. Takes (dict "on" "pre-delete" "weight" 0). A failed hook stays until the
next run, so that users can inspect it; helm itself shows its output (4.0 and later). */ -}}
{{- define "maroonedpods.hook" -}}
helm.sh/hook: {{ .on }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
helm.sh/hook-output-log-policy: hook-failed,hook-succeeded
{{- end }}
