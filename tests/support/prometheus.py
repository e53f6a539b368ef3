"""A real Prometheus that scrapes one exporter every second."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.binaries import prometheus_path

_START_S = 60.0
_CONFIG = """\
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: exporter
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@contextlib.contextmanager
def running_prometheus(directory: Path, exporter_port: int, web_config: str = "") -> Iterator[str]:
    """Gives its address, '127.0.0.1:<port>'. `web_config`: the contents of --web.config.file."""
    program = prometheus_path()
    (directory / "prometheus.yml").write_text(_CONFIG.format(port=exporter_port))
    (directory / "web.yml").write_text(web_config)
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={directory / 'prometheus.yml'}",
                f"--web.config.file={directory / 'web.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield _address(process, directory / "log")
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        said = log.read_text()
        found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', said)
        if found and "Server is ready to receive web requests" in said:
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"Prometheus did not start:\n{log.read_text()}")
