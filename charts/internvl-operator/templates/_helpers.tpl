{{- define "internvl-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "internvl-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "internvl-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "internvl-operator.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "internvl-operator.selector" -}}
app.kubernetes.io/name: {{ include "internvl-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "internvl-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "internvl-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "internvl-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "internvl-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "internvl-operator.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "internvl-operator.progressService" -}}
{{- printf "%s-progress" (include "internvl-operator.fullname" .) }}
{{- end }}

{{- define "internvl-operator.progressUrl" -}}
{{- default (printf "https://%s.%s.svc:%v" (include "internvl-operator.progressService" .) .Release.Namespace .Values.progress.port) .Values.progress.publicUrl }}
{{- end }}

{{- define "internvl-operator.tlsSecret" -}}
{{- default (printf "%s-progress-tls" (include "internvl-operator.fullname" .)) .Values.progress.tls.existingSecret }}
{{- end }}

{{- define "internvl-operator.allNamespaces" -}}
{{- if has "*" .Values.watchNamespaces }}true{{ end }}
{{- end }}

{{- /* JSON list of the namespaces served; empty where it is all of them. */}}
{{- define "internvl-operator.namespaces" -}}
{{- if include "internvl-operator.allNamespaces" . }}
{{- list | toJson }}
{{- else }}
{{- default (list .Release.Namespace) .Values.watchNamespaces | uniq | toJson }}
{{- end }}
{{- end }}

{{- /* The operator's settings file. */}}
{{- define "internvl-operator.settings" -}}
watchNamespaces: {{ include "internvl-operator.namespaces" . }}
reconcile:
  fallbackSeconds: {{ .Values.reconcile.fallbackSeconds }}
  progressSeconds: {{ .Values.progress.intervalSeconds }}
  concurrentPasses: {{ .Values.reconcile.concurrentPasses }}
trainer:
  image: {{ .Values.trainer.image | quote }}
  podTemplate: {{- .Values.trainer.podTemplate | toYaml | nindent 4 }}
progress:
  {{- if .Values.progress.enabled }}
  publicUrl: {{ include "internvl-operator.progressUrl" . | quote }}
  certificateFile: /etc/internvl-operator/tls/tls.crt
  keyFile: /etc/internvl-operator/tls/tls.key
  caFile: /etc/internvl-operator/tls/ca.crt
  {{- else }}
  publicUrl: ""
  {{- end }}
  port: 8443
  reportSeconds: {{ .Values.progress.intervalSeconds }}
health:
  port: 8080
gate:
  fullDigestBytes: {{ .Values.gate.fullDigestBytes | int64 }}
  threads: {{ .Values.gate.threads }}
logging: {{- .Values.logging | toYaml | nindent 2 }}
{{- end }}

{{- /* What the operator does in each namespace that it serves. Adding a verb here needs a reason in the code. */}}
{{- define "internvl-operator.rules" -}}
- apiGroups: [training.internvl.dev]
  resources: [internvltrainings]
  verbs: [get, list, watch]
- apiGroups: [training.internvl.dev]
  resources: [internvltrainings/status]
  verbs: [update]
# Owning children with blockOwnerDeletion needs it where the API server enforces owner permissions.
- apiGroups: [training.internvl.dev]
  resources: [internvltrainings/finalizers]
  verbs: [update]
- apiGroups: [kubeflow.org]
  resources: [pytorchjobs]
  verbs: [get, list, watch, create, delete]
# The Job that indexes a stage's data.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# Created for each job, and read: the certificates of a run's object store (spec.storage.caConfigMap).
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- if .Values.rbac.readSecrets }}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
{{- end }}
{{- end }}
