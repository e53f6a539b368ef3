"""A container registry of one folder, read-only: `python -m tests.cluster.harness.registry BLOBS TAGS PORT`.

containerd asks it for every image whatever its registry, so manifests that name public images run as they are written,
also with `imagePullPolicy: Always`.
"""

from __future__ import annotations

import re
import shutil
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.cluster.harness.image_store import MANIFEST, ImageStore

_REQUEST = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[\w:.-]+)(?:\?.*)?")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: ImageStore

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        asked = _REQUEST.fullmatch(self.path)
        digest = self._digest(asked["name"], asked["reference"]) if asked else ""
        path = self.store.path(digest)
        if not asked or not digest or not path.is_file():
            self.send_response(HTTPStatus.NOT_FOUND)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", MANIFEST if asked["kind"] == "manifests" else "application/octet-stream")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if with_body:
            with path.open("rb") as content:
                shutil.copyfileobj(content, self.wfile, 1 << 20)

    def _digest(self, name: str, reference: str) -> str:
        """Of what a tag or a digest names; empty: unknown."""
        if reference.startswith("sha256:"):
            return reference
        tag = self.store.tags / name / reference
        return tag.read_text() if tag.is_file() else ""


if __name__ == "__main__":
    blobs, tags, port = sys.argv[1:]
    Handler.store = ImageStore(Path(blobs), Path(tags))
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
