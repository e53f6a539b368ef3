{{- define "spillway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "spillway.gateway" -}}
{{ include "spillway.fullname" . }}-gateway
{{- end -}}

{{- /* Who this is. (list $ "controller") */ -}}
{{- define "spillway.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ $.Chart.Name }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "spillway.labels" -}}
{{- $ := index . 0 -}}
{{ include "spillway.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version }}
{{- end -}}

{{- define "spillway.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "spillway.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* Namespaces as JSON: those of the models, and those that models refer to; empty: all. */ -}}
{{- define "spillway.modelNamespaces" -}}
{{- $namespaces := list -}}
{{- /* Not given is the controller's own default, and something else than "". */ -}}
{{- range splitList "," (ternary "default" .Values.config.namespaces (kindIs "invalid" .Values.config.namespaces)) -}}
{{- $namespaces = append $namespaces (trim .) -}}
{{- end -}}
{{- compact $namespaces | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- define "spillway.referenceNamespaces" -}}
{{- $models := include "spillway.modelNamespaces" . | fromJsonArray -}}
{{- $others := concat (.Values.config.referenceNamespaces | default list) (.Values.allowedNamespaces | default list) -}}
{{- if or (empty $models) (has "*" $others) -}}
[]
{{- else -}}
{{- concat $models $others | uniq | sortAlpha | toJson -}}
{{- end -}}
{{- end -}}

{{- /* Where the gateway's Service is: the chart's own, else as config says. */ -}}
{{- define "spillway.gatewayService" -}}
{{- $given := ternary dict (.Values.config.proxyService | default dict) .Values.installBeamlitGateway -}}
{{- $own := dict "namespace" .Release.Namespace "name" (include "spillway.gateway" .) "port" 8080 -}}
{{- merge (deepCopy $given) $own | toJson -}}
{{- end -}}

{{- define "spillway.controllerCertificate" -}}
{{ .Values.xds.controllerCertificate | default (printf "%s-controller-xds" (include "spillway.fullname" .)) }}
{{- end -}}

{{- define "spillway.gatewayCertificate" -}}
{{ .Values.xds.gatewayCertificate | default (printf "%s-gateway-xds" (include "spillway.fullname" .)) }}
{{- end -}}

{{- /* The port of an address such as ":8080". (list address default) */ -}}
{{- define "spillway.port" -}}
{{ with index . 0 }}{{ regexFind "[0-9]+$" . }}{{ else }}{{ index . 1 }}{{ end }}
{{- end -}}

{{- /* Where Pods run: on different nodes and zones, unless the values say otherwise. (list $ component values) */ -}}
{{- define "spillway.scheduling" -}}
{{- $values := index . 2 -}}
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "spillway.selector" (list (index $ 0) (index $ 1)) | nindent 6 }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $values $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "spillway.disruption" }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "spillway.fullname" (index . 0) }}-{{ index . 1 }}
  labels:
    {{- include "spillway.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "spillway.selector" . | nindent 6 }}
{{- end }}
