"""The images that the tests' pods run, made of what this machine has: no registry is asked, nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cluster.harness.image_store import OPEN_TO_ALL, Blob, Files, ImageStore
from tests.cluster.harness.programs import go, program
from tests.support.binaries import CACHE, envoy_path, missing

CONTROLLER = "localhost/spillway-controller:test"
GATEWAY = "localhost/spillway-gateway:test"
MODEL_SERVER = "localhost/model-server:test"
PAUSE = "localhost/pause:test"
HPA_EXAMPLE = "registry.k8s.io/hpa-example"
COREDNS = "localhost/coredns:test"
METRICS_SERVER = "localhost/metrics-server:test"

_ROOT = Path(__file__).parents[3]
_MODEL_SERVER_SOURCE = Path(__file__).parent / "model_server"
_NOBODY = "65532:65532"
_BURN = "20ms"  # about what a request costs hpa-example
_UNUSED = re.compile(r"(test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|site-packages|config-[^/]+)/")
_SCRATCH: Files = {
    f"/{OPEN_TO_ALL}/.keep": b"",
    "/etc/passwd": b"nobody:x:65532:65532::/:\n",
    "/etc/group": b"nobody:x:65532:\n",
}


def make_all(tags: Path) -> ImageStore:
    """Makes what is new, and names all. Skips the test for want of a program."""
    store = ImageStore(CACHE / "images", tags)
    scratch = store.layer(_SCRATCH)
    layers = [
        scratch,
        *(store.layer(files, _libraries) for files in (_python(), _dependencies())),
        store.layer(_code()),
    ]
    store.image(
        *_name(CONTROLLER),
        layers,
        Entrypoint=[os.path.realpath(sys.executable), "-m", "controller"],
        Env=["PYTHONPATH=/app:/app/site-packages", "PYTHONDONTWRITEBYTECODE=1"],
        WorkingDir="/app",
        User=_NOBODY,
    )
    gateway = store.layer({"/usr/local/bin/envoy": envoy_path()}, _libraries)
    store.image(*_name(GATEWAY), [scratch, gateway], Entrypoint=["/usr/local/bin/envoy"], User=_NOBODY)
    server = _static(store, model_server())
    store.image(*_name(MODEL_SERVER), [scratch, server], Entrypoint=["/model-server"], Cmd=["serve"])
    store.image(*_name(PAUSE), [scratch, server], Entrypoint=["/model-server", "pause"])
    store.image(
        *_name(HPA_EXAMPLE), [scratch, server], Entrypoint=["/model-server", "serve", "-listen=:80", f"-burn={_BURN}"]
    )
    for name, image in (("coredns", COREDNS), ("metrics-server", METRICS_SERVER)):
        store.image(*_name(image), [scratch, _static(store, program(name))], Entrypoint=[f"/{name}"])
    store.prune()
    return store


def model_server() -> Path:
    """The program in the model server's image, built when its source is new."""
    digest = hashlib.sha256((_MODEL_SERVER_SOURCE / "main.go").read_bytes()).hexdigest()[:12]
    built = CACHE / "cluster" / f"model-server-{digest}" / "model-server"
    if not built.exists():
        compiler = go()
        if compiler is None:
            missing("Go is not here; without it there is no image of a model server")
        built.parent.mkdir(parents=True, exist_ok=True)
        partial = built.with_suffix(f".{os.getpid()}")
        command: list[str | Path] = [
            compiler,
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags=-s -w",
            "-o",
            partial,
            ".",
        ]
        subprocess.run(command, cwd=_MODEL_SERVER_SOURCE, env={**os.environ, "CGO_ENABLED": "0"}, check=True)
        partial.rename(built)
    return built


def _name(image: str) -> tuple[str, str]:
    """As the registry is asked for it: without the host, with a tag."""
    name, _, tag = image.partition("/")[2].partition(":")
    return name, tag or "latest"


def _static(store: ImageStore, path: Path) -> Blob:
    return store.layer({f"/{path.name}": path})


def _python() -> Files:
    """This interpreter and its standard library, at the paths they have here."""
    executable = Path(os.path.realpath(sys.executable))
    library = Path(sysconfig.get_path("stdlib"))
    files = {str(path): path for path in _files(library) if not _UNUSED.match(path.relative_to(library).as_posix())}
    return {**files, str(executable): executable}


def _dependencies() -> Files:
    """What the installed product requires, extras apart."""
    files: dict[str, Path | bytes] = {}
    for distribution in _required("spillway", {}).values():
        for each in distribution.files or ():
            path = Path(str(distribution.locate_file(each)))
            if not each.parts[0].startswith("..") and path.is_file():
                files[f"/app/site-packages/{each}"] = path
    return files


def _required(
    name: str, found: dict[str, importlib.metadata.Distribution]
) -> dict[str, importlib.metadata.Distribution]:
    """Adds the distributions that one requires, and all that those do."""
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        key = canonicalize_name(requirement.name)
        if key not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[key] = importlib.metadata.distribution(key)
            _required(key, found)
    return found


def _code() -> Files:
    """As the wheel has it."""
    packages = {
        f"/app/{path.relative_to(_ROOT)}": path
        for name in ("controller", "protos", "xds")
        for path in _files(_ROOT / name)
    }
    return {**packages, **{f"/app/controller/bootstrap/{path.name}": path for path in _files(_ROOT / "envoy")}}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")


def _libraries(files: Files) -> Files:
    """The shared libraries that programs among these load, at the paths where the loader finds them."""
    paths = [path for path in files.values() if isinstance(path, Path)]
    binaries = [path for path in paths if ".so" in path.suffixes or os.access(path, os.X_OK)]
    listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    return {name: Path(name) for name in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(", listed, re.MULTILINE)}
