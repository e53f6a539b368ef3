"""Shell: the command `spillway`."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from controller import __version__
from controller.adapters.envoy_process import EnvoyError
from controller.adapters.files import ManifestError
from controller.adapters.host import StartError
from controller.demo import flags as demo_flags
from controller.main import RunOptions, run
from controller.metrics import Source
from controller.settings import MetricInformer, Settings, SettingsError, load
from controller.show import show_status
from controller.simulate import flags as simulate_flags
from controller.simulate.app import run_simulate
from controller.telemetry import configure_logging
from controller.validate import render, validate

LISTEN = "127.0.0.1:8080"
XDS = "127.0.0.1:18000"
ADMIN = "127.0.0.1:18001"
ENVOY_ADMIN = "127.0.0.1:9901"
METRICS = ":8080"
PROBES = ":8081"
SIMULATED = Settings(metric_informer=MetricInformer(type=Source.PROMETHEUS))
"""What a simulation takes for granted that is given no config file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand. Returns the exit status: 0, 1 for a problem found, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    commands = {
        "run": _run,
        "controller": _controller,
        "restore": _restore,
        "validate": _validate,
        "status": _status,
        "simulate": _simulate,
        "demo": _demo,
    }
    return commands[options.command](options)


def address(text: str) -> tuple[str, int]:
    """'host:port', '[v6]:port' or ':port' (all addresses) as (host, port)."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return host.strip("[]") or "0.0.0.0", int(port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spillway", description="Overflow control for self-hosted models.")
    parser.add_argument("--version", action="version", version=f"spillway {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands.add_parser("run", help="serve the models of a directory of manifests, without a cluster"))
    _add_controller(commands.add_parser("controller", help="serve the models of a Kubernetes cluster"))
    _add_restore(commands.add_parser("restore", help="put every Service back as it was before it was taken over"))
    check = commands.add_parser("validate", help="find every problem in a directory of manifests")
    check.add_argument("directory", type=Path, metavar="DIR")
    check.add_argument("--config", type=Path, help="config.yaml or config.json, as `run` has it")
    status = commands.add_parser("status", help="show what a running controller does")
    status.add_argument("--admin", default=ADMIN, help="address of the controller (default: %(default)s)")
    status.add_argument("--output", choices=("table", "json"), default="table")
    simulated = commands.add_parser("simulate", help="what a ModelDeployment would have done on a recorded load")
    simulate_flags.add_arguments(simulated)
    demo_flags.add_arguments(commands.add_parser("demo", help="an overflow, live, on this machine"))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    kinds = "ModelDeployment, Policy, Service, EndpointSlice, Secret"
    add("directory", type=Path, metavar="DIR", help=f"manifests: {kinds}")
    add("--config", type=Path, help="config.yaml or config.json")
    add("--listen", type=address, default=LISTEN, metavar="HOST:PORT", help=f"where callers come in ({LISTEN})")
    add("--xds", type=address, default=XDS, metavar="HOST:PORT", help=f"xDS for gateways ({XDS})")
    add("--admin", type=address, default=ADMIN, metavar="HOST:PORT", help=f"status, metrics and health ({ADMIN})")
    add("--envoy-admin", type=address, default=ENVOY_ADMIN, metavar="HOST:PORT", help=f"Envoy's own ({ENVOY_ADMIN})")
    add("--no-envoy", action="store_true", help="serve xDS only; start the gateway yourself")
    add("--access-log", default="/dev/stdout", metavar="FILE", help="Envoy's access log, JSON lines (standard output)")
    add("--state-dir", type=Path, help="what survives a restart (default: below $XDG_STATE_HOME, by DIR)")
    add("--ready-file", type=Path, help="written with the addresses, as JSON, once traffic is served")
    add("--drain-seconds", type=float, default=10.0, help="time for requests in flight when stopping (%(default)s)")
    _add_logging(parser)


def _add_controller(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", type=Path, help="config.yaml or config.json")
    add("--kubeconfig", type=Path, help="how to reach the cluster (default: the pod's own account, or as kubectl does)")
    add("--xds", type=address, default=":18000", metavar="HOST:PORT", help="xDS for gateways (%(default)s)")
    add("--admin", type=address, default=ADMIN, metavar="HOST:PORT", help=f"status, metrics and health ({ADMIN})")
    add("--ready-file", type=Path, help="written with the addresses, as JSON, once gateways can connect")
    identity = os.environ.get("POD_NAME") or socket.gethostname()
    add("--identity", default=identity, help="this replica's name: $POD_NAME, or the host's")
    _add_logging(parser)


def _add_restore(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--all", action="store_true", required=True, help="all Services; running controllers stand back for a minute")
    add("--config", type=Path, help="the controllers' config.yaml or config.json (default: all namespaces)")
    add("--kubeconfig", type=Path, help="how to reach the cluster (default: the pod's own account, or as kubectl does)")
    add("--namespace", help="the controllers' own (default: wherever one has led)")


def _add_logging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    default = "text" if sys.stderr.isatty() else "json"
    parser.add_argument("--log-format", choices=("text", "json"), default=default)


def _run(options: argparse.Namespace) -> int:
    configure_logging(options.log_level, options.log_format)
    run_options = RunOptions(
        directory=options.directory,
        state_directory=options.state_dir or _state_directory(options.directory),
        listen=options.listen,
        xds=options.xds,
        admin=options.admin,
        envoy_admin=options.envoy_admin,
        start_envoy=not options.no_envoy,
        access_log=options.access_log,
        ready_file=options.ready_file,
        drain_s=options.drain_seconds,
    )
    try:
        asyncio.run(run(run_options, _settings(options.config)))
    except (SettingsError, ManifestError, StartError, EnvoyError) as error:
        return _fail(str(error))
    return 0


def _controller(options: argparse.Namespace) -> int:
    # Without a cluster nobody needs what talks to one.
    from controller.cluster import ControllerOptions
    from controller.cluster import run as run_controller

    configure_logging(options.log_level, options.log_format)
    try:
        settings = _settings(options.config)
        controller_options = ControllerOptions(
            kubeconfig=options.kubeconfig,
            xds=options.xds,
            admin=options.admin,
            metrics=_setting_address("metricsAddr", settings.metrics_addr or METRICS),
            probe=_setting_address("probeAddr", settings.probe_addr or PROBES),
            identity=options.identity,
            ready_file=options.ready_file,
        )
        asyncio.run(run_controller(controller_options, settings))
    except (SettingsError, StartError) as error:
        return _fail(str(error))
    return 0


def _restore(options: argparse.Namespace) -> int:
    from controller.restore import RestoreError, RestoreOptions, restore

    try:
        settings = _settings(options.config) if options.config else Settings(namespaces="", reference_namespaces=("*",))
        restore_options = RestoreOptions(options.kubeconfig, options.namespace, settings)
        is_restored = asyncio.run(restore(restore_options, say=print))
    except (SettingsError, RestoreError) as error:
        return _fail(str(error))
    return 0 if is_restored else 1


def _setting_address(name: str, text: str) -> tuple[str, int]:
    try:
        return address(text)
    except argparse.ArgumentTypeError as error:
        raise SettingsError(f"{name}: {error}") from None


def _settings(file: Path | None) -> Settings:
    """From a file, if there is one, and the environment. What has no meaning there is named on standard error."""
    try:
        text = file.read_text() if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: {_words_of(error)}") from None
    loaded = load(str(file or ""), text, os.environ)
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return loaded.settings


def _state_directory(directory: Path) -> Path:
    """One for each directory of manifests, so that a restart finds its own."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    resolved = directory.resolve()
    return base / "spillway" / f"{resolved.name}-{hashlib.sha256(bytes(resolved)).hexdigest()[:8]}"


def _validate(options: argparse.Namespace) -> int:
    try:
        problems = validate(options.directory, _settings(options.config))
    except (SettingsError, ManifestError) as error:
        return _fail(str(error))
    text, status = render(problems)
    print(text)
    return status


def _status(options: argparse.Namespace) -> int:
    try:
        with urllib.request.urlopen(f"http://{options.admin}/status", timeout=5) as response:
            status = json.load(response)
    except (urllib.error.URLError, OSError, ValueError) as error:
        words = _words_of(error)
        return _fail(f"no controller answers at {options.admin}: {words}; its address is printed at start, see --admin")
    if options.output == "json":
        print(json.dumps(status, indent=2))
    else:
        print(show_status(status))
    return 0


def _simulate(options: argparse.Namespace) -> int:
    try:
        settings = _settings(options.config) if options.config else SIMULATED
    except SettingsError as error:
        return _fail(str(error), 2)
    return run_simulate(options, settings)


def _demo(options: argparse.Namespace) -> int:
    try:
        from controller.demo.app import run_demo
    except ImportError as error:
        return _fail(f"the demo needs more packages ({error.name}): install Spillway with its extra 'demo'")
    return run_demo(options)


def _words_of(error: Exception) -> object:
    """The system's own words, if there are any."""
    cause = getattr(error, "reason", error)
    return getattr(cause, "strerror", None) or cause


def _fail(message: str, status: int = 1) -> int:
    print(f"spillway: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
