"""The certificates and kubeconfig files of a test cluster."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

import trustme


@dataclass
class Authority:
    """A certificate authority that writes what it issues below `folder`, as NAME.crt and NAME.key."""

    folder: Path
    name: str = "ca"
    ca: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.ca.cert_pem.write_to_path(self.certificate)

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.crt"

    def issue(self, name: str, *hosts: str, user: str = "", group: str | None = None) -> tuple[Path, Path]:
        """Certificate and key files for a server at `hosts`, or a client that Kubernetes knows as `user`."""
        # Go refuses a certificate whose list of names is empty, so a client's has one that nobody uses.
        issued = self.ca.issue_cert(*(hosts or ["client.invalid"]), common_name=user or name, organization_name=group)
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(key)
        return certificate, key


def signing_key(folder: Path) -> Path:
    """A key for service-account tokens; Kubernetes takes the public half from the same file."""
    path = folder / "service-accounts.key"
    path.touch(mode=0o600)
    trustme.CA().private_key_pem.write_to_path(path)
    return path


def write_kubeconfig(path: Path, server: str, ca: Path, user: dict[str, str]) -> Path:
    """`user`: a user entry of the file, as `certificate_user` makes one."""
    cluster = {"server": server, "certificate-authority-data": _encoded(ca)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "tests", "user": user}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        "current-context": "tests",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


def certificate_user(certificate: Path, key: Path) -> dict[str, str]:
    return {"client-certificate-data": _encoded(certificate), "client-key-data": _encoded(key)}


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
