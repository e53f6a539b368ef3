"""An authority, and the certificates of a control plane and of its gateways."""

from __future__ import annotations

from pathlib import Path

import trustme


def write(directory: Path) -> None:
    """Leaves ca.pem, server.pem and server.key, and client.pem with its key there."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    server, client = authority.issue_cert("xds.test"), authority.issue_cert("gateway.test")
    for number, blob in enumerate(server.cert_chain_pems):
        blob.write_to_path(str(directory / "server.pem"), append=number > 0)
    server.private_key_pem.write_to_path(str(directory / "server.key"))
    client.private_key_and_cert_chain_pem.write_to_path(str(directory / "client.pem"))
