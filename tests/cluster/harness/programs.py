"""The programs of a test cluster: which versions, where they are found, and how they are built when they are nowhere.

`python -m tests.cluster.harness.programs` builds what is missing, with progress; so do the cluster's tests, once.
A program is looked for in the folder that $SPILLWAY_KUBE_BIN names, on PATH, and in .cache/cluster, where it is built
from the Go modules pinned in modules/. Only the pinned minor version is taken: another one answers differently.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.support.binaries import CACHE, missing

MODULES = Path(__file__).parent / "modules"
_FOLDER = CACHE / "cluster"
_DEBIAN = CACHE / "debian"
_GO = Path("/usr/local/go/bin/go")
_CLIENT_GO = "k8s.io/client-go/pkg/version"
_HELM = "helm.sh/helm/v3"
_METRICS_SERVER = "sigs.k8s.io/metrics-server"


@dataclass(frozen=True)
class Program:
    """`module`: its folder in modules/. `required`: the Go module there that has this program's version. `package`:
    what Go builds, seen from that folder. `stamp`: the variables that hold its version. `version_arguments`: make it
    print its version; without them any version is taken.
    """

    name: str
    module: str
    required: str
    package: str
    stamp: tuple[str, ...] = ()
    version_arguments: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """As pinned: '1.33.13'."""
        pins = (MODULES / self.module / "go.mod").read_text()
        if pinned := re.search(rf"^(?:require |\t){re.escape(self.required)} v(\S+)", pins, re.MULTILINE):
            return pinned[1]
        raise LookupError(f"modules/{self.module}/go.mod does not require {self.required}")

    @property
    def built(self) -> Path:
        """Where a build of this version goes."""
        return _FOLDER / f"{self.module}-{self.version}" / self.name


def _kubernetes(name: str, *version_arguments: str) -> Program:
    required = "k8s.io/kubernetes"
    stamp = (f"{_CLIENT_GO}.gitVersion", "k8s.io/component-base/version.gitVersion")
    return Program(name, "kubernetes", required, f"{required}/cmd/{name}", stamp, version_arguments or ("--version",))


def _alone(name: str, required: str, package: str, stamp: str = "", *version_arguments: str) -> Program:
    return Program(name, name, required, package, (stamp,) if stamp else (), version_arguments)


PROGRAMS: Mapping[str, Program] = {
    program.name: program
    for program in (
        _kubernetes("kube-apiserver"),  # compiles most of what the next five need
        _kubernetes("kube-controller-manager"),
        _kubernetes("kubectl", "version", "--client"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        _alone("helm", _HELM, f"{_HELM}/cmd/helm", f"{_HELM}/internal/version.version", "version"),
        _alone("metrics-server", _METRICS_SERVER, f"{_METRICS_SERVER}/cmd/metrics-server", f"{_CLIENT_GO}.gitVersion"),
        _alone("coredns", "github.com/coredns/coredns", "."),
    )
}
DEBIAN_PROGRAMS = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "iptables": "iptables",
    "nft": "nftables",
}


def program(name: str) -> Path:
    """Where it is. Skips the test, saying what to do, where it is not; fails it in CI."""
    if name in PROGRAMS:
        path, remedy = found(PROGRAMS[name]), "name a folder that has it in SPILLWAY_KUBE_BIN, or install Go and"
    else:
        path, remedy = _debian(name), f"install Debian's {DEBIAN_PROGRAMS[name]}, or"
    if path is None:
        missing(f"{name} is not here: {remedy} run `make cluster-tools`")
    return path


def found(wanted: Program) -> Path | None:
    """None: nowhere. Raises UsageError for a folder in $SPILLWAY_KUBE_BIN that has another version."""
    if named := os.environ.get("SPILLWAY_KUBE_BIN"):
        path = Path(named) / wanted.name
        if path.exists():
            if not _is_of_version(path, wanted):
                raise pytest.UsageError(f"SPILLWAY_KUBE_BIN: {path} is not of the minor version of {wanted.version}")
            return path
    on_path = shutil.which(wanted.name)
    if on_path and _is_of_version(Path(on_path), wanted):
        return Path(on_path)
    return wanted.built if wanted.built.exists() else None


def cni_plugins() -> Path:
    """The folder of Debian's containernetworking-plugins. Skips the test where it is not; fails it in CI."""
    folders = (Path("/usr/lib/cni"), _DEBIAN / "usr/lib/cni")
    folder = next((each for each in folders if (each / "bridge").exists()), None)
    if folder is None:
        missing("no CNI plugins: install Debian's containernetworking-plugins, or run `make cluster-tools`")
    return folder


def build_missing() -> None:
    """Builds what is nowhere, where there is Go; one run at a time. Raises CalledProcessError."""
    if all(found(each) for each in PROGRAMS.values()):
        return
    if not (compiler := go()):
        _say("Go is not here to build Kubernetes with. Tests that need it are skipped.")
        return
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = [each for each in PROGRAMS.values() if not found(each)]
        for number, each in enumerate(wanted, 1):
            _say(f"Building {each.name} {each.version} ({number} of {len(wanted)}; kept in {_FOLDER.name})")
            start_s = time.monotonic()
            _build(compiler, each)
            _say(f"  took {time.monotonic() - start_s:.0f} s")


def _build(compiler: Path, wanted: Program) -> None:
    wanted.built.parent.mkdir(parents=True, exist_ok=True)
    partial = wanted.built.with_suffix(".partial")
    flags = ["-s", "-w", *(f"-X={variable}=v{wanted.version}" for variable in wanted.stamp)]
    command: Sequence[str | Path] = [
        *(compiler, "build", "-mod=readonly", "-trimpath", "-buildvcs=false"),
        *("-ldflags", " ".join(flags), "-o", partial, wanted.package),
    ]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    subprocess.run(command, cwd=MODULES / wanted.module, env=environment, stdout=sys.stderr, check=True)
    partial.rename(wanted.built)


def go() -> Path | None:
    """The compiler."""
    on_path = shutil.which("go")
    return Path(on_path) if on_path else _GO if _GO.exists() else None


@cache
def _is_of_version(path: Path, wanted: Program) -> bool:
    """Whether a program says that it is of the pinned minor version."""
    if not wanted.version_arguments:
        return True
    try:
        ran = subprocess.run([path, *wanted.version_arguments], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return False
    minor = wanted.version.rpartition(".")[0]
    return re.search(rf"\bv?{re.escape(minor)}\.\d+(?![\w.-])", ran.stdout) is not None


def _debian(name: str) -> Path | None:
    if on_path := shutil.which(name):
        return Path(on_path)
    unpacked = (_DEBIAN / folder / name for folder in ("usr/bin", "usr/sbin"))
    return next((path for path in unpacked if path.exists()), None)


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    build_missing()
