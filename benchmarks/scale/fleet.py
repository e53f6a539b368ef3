"""Manifests of many models, as their users would have written them: a ModelDeployment, a Service and an EndpointSlice
each, all in one file.

Models are spread over twenty namespaces. Those of a namespace share a remote, as the teams of a company would, and its
API key is a Secret there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

NAMESPACES = 20
MODELS_IN_A_LIST = 1_000

_MODEL = """\
apiVersion: deployment.beamlit.com/v1alpha1
kind: ModelDeployment
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    app.kubernetes.io/name: {name}
spec:
  model: {name}
  environment: production
  modelSourceRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {name}
  serviceRef:
    name: {name}
    targetPort: 80
  offloadingConfig:
    remoteBackend:
      host: {remote_host}
      scheme: http
      pathPrefix: /$workspace/$model
      authConfig:
        type: apiKey
        apiKeyConfig:
          secretRef: {{name: overflow, key: token}}
    metrics:
    - type: External
      external:
        metric:
          name: vllm:num_requests_waiting
          selector:
            matchLabels:
              model_name: {name}
        target:
          type: Value
          value: "4"
    behavior: {behavior}
    localLimit:
      maxConcurrentRequestsPerReplica: 16
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}
spec:
  selector:
    app.kubernetes.io/name: {name}
  ports:
  - name: http
    port: 80
    targetPort: http
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-7xk2p
  namespace: {namespace}
  labels:
    kubernetes.io/service-name: {name}
addressType: IPv4
ports:
- name: http
  port: {local_port}
  protocol: TCP
endpoints:
- addresses: ["{local_address}"]
  conditions: {{ready: true, serving: true, terminating: false}}
  nodeName: node-{node}
"""

_SECRET = """\
apiVersion: v1
kind: Secret
metadata:
  name: overflow
  namespace: {namespace}
type: Opaque
stringData:
  token: key-of-{namespace}
"""


@dataclass(frozen=True, slots=True)
class Fleet:
    """`local` and `remote`: (address, port) of what serves all models. `behavior`: of all of them, in YAML."""

    size: int
    local: tuple[str, int] = ("127.0.0.1", 9)
    remote: tuple[str, int] = ("127.0.0.1", 9)
    behavior: str = "{percentage: 50, strategy: Proportional}"

    @property
    def keys(self) -> list[str]:
        """'<namespace>/<name>' of every model."""
        return [f"{_namespace(number)}/{_name(number)}" for number in range(self.size)]

    @property
    def hosts(self) -> list[str]:
        """A Host that leads to each model, in the order of `keys`."""
        return [f"{_name(number)}.{_namespace(number)}" for number in range(self.size)]

    @property
    def credentials(self) -> list[str]:
        """What the remotes' secrets are called in xDS."""
        return [f"apikey/{_namespace(number)}/overflow/token" for number in range(min(NAMESPACES, self.size))]

    def write_yaml(self, directory: Path) -> None:
        """One file for each model, and one with the Secrets."""
        directory.mkdir(parents=True)
        for number in range(self.size):
            (directory / f"{_name(number)}.yaml").write_text(self._text(number))
        (directory / "secrets.yaml").write_text(_secrets())

    def write_json(self, directory: Path) -> None:
        """The same as `kubectl get -o json` gives it: Lists, here of a thousand models each."""
        directory.mkdir(parents=True)
        for start in range(0, self.size, MODELS_IN_A_LIST):
            numbers = range(start, min(start + MODELS_IN_A_LIST, self.size))
            _write_list(directory / f"models-{start:05}.json", (each for n in numbers for each in self._objects(n)))
        _write_list(directory / "secrets.json", yaml.load_all(_secrets(), yaml.CSafeLoader))

    def _text(self, number: int) -> str:
        return _MODEL.format(
            name=_name(number),
            namespace=_namespace(number),
            remote_host=f"{self.remote[0]}:{self.remote[1]}",
            behavior=self.behavior,
            local_address=self.local[0],
            local_port=self.local[1],
            node=number % 500,
        )

    def _objects(self, number: int) -> Iterator[dict[str, Any]]:
        """With what an API server adds to each object."""
        for obj in yaml.load_all(self._text(number), yaml.CSafeLoader):
            obj["metadata"] |= {
                "uid": f"5f1c0a52-7c1e-4a0e-9d1c-{number:012}",
                "resourceVersion": str(1_000 + number),
                "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            }
            yield obj


def _name(number: int) -> str:
    return f"model-{number:05}"


def _namespace(number: int) -> str:
    return f"team-{number % NAMESPACES:02}"


def _secrets() -> str:
    return "---\n".join(_SECRET.format(namespace=_namespace(number)) for number in range(NAMESPACES))


def _write_list(path: Path, objects: Iterator[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
