"""The OAuth2 issuer of the demo, as tests use it."""

from __future__ import annotations

import ssl

import trustme

from controller.demo.issuer import Answer, Grant, Issuer

CLIENT_ID = "client"
CLIENT_SECRET = "s3cret-of-the-client"


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """A TLS server context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


__all__ = ["CLIENT_ID", "CLIENT_SECRET", "Answer", "Grant", "Issuer", "server_context"]
