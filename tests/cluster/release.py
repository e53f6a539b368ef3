"""A release of the chart."""

from __future__ import annotations

import subprocess

from tests.cluster.harness.control_plane import ControlPlane
from tests.cluster.harness.programs import program
from tests.support.chart import CHART, Json


class Release:
    """In a namespace of the test's; it serves that namespace's models."""

    def __init__(self, control_plane: ControlPlane, namespace: str, name: str = "sw") -> None:
        self._plane = control_plane
        self.namespace = namespace
        self.name = name

    def helm(self, command: str, *arguments: str) -> str:
        """What it printed. Raises AssertionError with its complaint if it fails."""
        where = ["--kubeconfig", str(self._plane.kubeconfig), "--namespace", self.namespace]
        ran = subprocess.run(
            [str(program("helm")), command, self.name, *arguments, *where], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def install(self, *arguments: str) -> str:
        """Or upgrade, as GitOps tools call it."""
        return self.helm("upgrade", "--install", str(CHART), "--set", f"config.namespaces={self.namespace}", *arguments)

    def secret(self, name: str) -> Json:
        found: Json = self._plane.api.get(f"/api/v1/namespaces/{self.namespace}/secrets/{name}")["data"]
        return found
