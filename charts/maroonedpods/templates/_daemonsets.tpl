{{- /* DaemonSets that would create a pod for each marooned node, as a JSON array of {namespace, name, terms}: they
tolerate every taint of both effects that such a node carries, and no node affinity of theirs names the label of
marooned nodes. Empty if helm does not query the cluster (helm template). */ -}}
{{- define "maroonedpods.everywhereDaemonSets" -}}
{{- $found := list }}
{{- range (lookup "apps/v1" "DaemonSet" "" "").items }}
  {{- $spec := .spec.template.spec }}
  {{- $effects := dict }}
  {{- range $spec.tolerations }}
    {{- if and (eq (.operator | default "Equal") "Exists") (not .key) }}
      {{- range (.effect | default "NoSchedule,NoExecute" | splitList ",") }}
        {{- $_ := set $effects . true }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- $affinity := dig "affinity" "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" list $spec }}
  {{- $aware := contains "maroonedpods.node-restriction.kubernetes.io/marooned" (toJson $affinity) }}
  {{- if and (hasKey $effects "NoSchedule") (hasKey $effects "NoExecute") (not $aware) }}
    {{- $found = append $found (dict "namespace" .metadata.namespace "name" .metadata.name "terms" (not (empty $affinity))) }}
  {{- end }}
{{- end }}
{{- $found | toJson }}
{{- end }}
