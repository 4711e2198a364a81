{{- /* The binding that puts a policy in force. Takes (dict "root" $ "name" "maroonedpods-binding"), and "keep" for a policy that
outlives the release. */ -}}
{{- define "maroonedpods.guardBinding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "maroonedpods.labels" (dict "root" .root) | nindent 4 }}
  {{- if .keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
spec:
  policyName: {{ .name }}
  validationActions: {{ splitList "," .root.Values.guards.mode | toJson }}
{{- end }}

{{- /* The one user who lifts gates and creates VMs. Administrators are not exempt: in an emergency they delete the
policy's binding, which the audit log shows. */ -}}
{{- define "maroonedpods.reconcilerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:maroonedpods-reconciler
{{- end }}

{{- /* A marooned node's exact name: other nodes' names may have the same prefix. */ -}}
{{- define "maroonedpods.nodeName" -}}
marooned-[0-9a-f-]{36}
{{- end }}

{{- /* A pod that the reconciler pinned to its own node, bound or about to be. */ -}}
{{- define "maroonedpods.isLifted" -}}
'maroonedpods.node-restriction.kubernetes.io/pod-uid' in oldObject.spec.?nodeSelector.orValue({})
{{- end }}

{{- define "maroonedpods.isPreemption" -}}
c.type == 'DisruptionTarget' && c.?reason.orValue('') == 'PreemptionByScheduler'
{{- end }}

{{- /* The update of a lifted pod's status by which a scheduler announces that it will delete the pod to make room. */ -}}
{{- define "maroonedpods.preempts" -}}
{{ include "maroonedpods.isLifted" . }} &&
object.status.?conditions.orValue([]).exists(c, {{ include "maroonedpods.isPreemption" . }}) &&
!oldObject.status.?conditions.orValue([]).exists(c, {{ include "maroonedpods.isPreemption" . }})
{{- end }}

{{- /* The kubelet of a marooned node made the request, that is: whoever is root in that guest. */ -}}
{{- define "maroonedpods.byAGuest" -}}
request.userInfo.username.matches('^system:node:{{ include "maroonedpods.nodeName" . }}$')
{{- end }}

{{- /* No finalizers and labels except those that other clients set: a kubelet sends these along when it updates an object. */ -}}
{{- define "maroonedpods.unmarked" -}}
object.metadata.?finalizers.orValue([]) ==
(request.operation == 'UPDATE' ? oldObject.metadata.?finalizers.orValue([]) : []) &&
object.metadata.?labels.orValue({}) ==
(request.operation == 'UPDATE' ? oldObject.metadata.?labels.orValue({}) : {})
{{- end }}

{{- /* The guest's Node is the only owner, or there is none. */ -}}
{{- define "maroonedpods.ofItsNode" -}}
object.metadata.?ownerReferences.orValue([])
.all(o, o.kind == 'Node' && request.userInfo.username == 'system:node:' + o.name)
{{- end }}
