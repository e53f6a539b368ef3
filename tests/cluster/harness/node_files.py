"""The configuration files of a node's programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.harness.machine import Machine

DNS_DOMAIN = "cluster.local"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PROXY_METRICS_PORT = 10249

# restrict_oom_score_adj: where CAP_SYS_RESOURCE is missing, as in most containers, no score can be lowered, and every
# pod would die of it. The root is in memory that goes with the machine.
_CONTAINERD = """
version = 2
root = "/run/containerd-root"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[plugins."io.containerd.internal.v1.opt"]
  path = "/run/containerd-root/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/registries"
"""
_REGISTRY = """
[host."{registry}"]
  capabilities = ["pull", "resolve"]
"""


@dataclass(frozen=True)
class NodeFiles:
    """Each method writes a file below `folder` and gives its path."""

    folder: Path
    machine: Machine

    def containerd(self, cni_plugins: Path, pause: str, registry: str) -> Path:
        """`registry`: asked for every image, instead of the image's own."""
        addresses = {"type": "host-local", "ranges": [[{"subnet": self.machine.pods}]], "dataDir": "/run/cni"}
        bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "ipMasq": True, "hairpinMode": True}
        plugins = [
            {**bridge, "ipam": {**addresses, "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        self._write("cni/pods.conflist", json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}))
        self._write("registries/_default/hosts.toml", _REGISTRY.format(registry=registry))
        return self._write("containerd.toml", _CONTAINERD.format(folder=self.folder, plugins=cni_plugins, pause=pause))

    def kubelet(self, ca: Path, certificate: tuple[Path, Path], dns: str) -> Path:
        """`dns`: address of the cluster's DNS."""
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.machine.address,
            "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(ca)}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certificate[0]),
            "tlsPrivateKeyFile": str(certificate[1]),
            "healthzPort": 0,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "clusterDNS": [dns],
            "clusterDomain": DNS_DOMAIN,
            "resolvConf": str(self._write("resolv.conf", "options ndots:5\n")),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.machine.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            # A disk that is nearly full for other reasons is no reason to evict a test's pods.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "5s",
        }
        return self._write("kubelet.json", json.dumps(configuration))

    def proxy(self, kubeconfig: Path, mode: str, node: str) -> Path:
        configuration = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode,
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": self.machine.pods,
            "hostnameOverride": node,
            "bindAddress": self.machine.address,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": f"127.0.0.1:{PROXY_METRICS_PORT}",
            "oomScoreAdj": 0,
            # These sysctls are read-only in a network namespace.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        return self._write(f"kube-proxy-{mode}.json", json.dumps(configuration))

    def _write(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path
