"""A machine for one node: mount, network and process namespaces, held open by one process.

When that process ends, by whatever cause, everything in it ends, and with it mounts, links, addresses and rules.
Outside there are only a veth and control groups.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.cluster.harness.api import wait_until
from tests.cluster.harness.process import Process
from tests.cluster.harness.programs import program
from tests.cluster.harness.slot import Slot
from tests.support.binaries import missing

_CGROUPS = Path("/sys/fs/cgroup")
_START_S = 30.0
_CAP_SYS_ADMIN = 21

# What the kubelet wants of the kernel. It would set that for the whole machine; so it finds it set already.
_TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

# The order matters: control groups are taken into the new /sys before mounts propagate, or the umount would, too.
# $1: a folder of our own.
_INIT = """
set -eu
mkdir "$1/cgroup"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
umount -R "$1/cgroup"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/var /run/var-work
mount -t overlay -o lowerdir=/var,upperdir=/run/var,workdir=/run/var-work overlay /var
(cd "$1/tunables" && find . -type f) | while read -r name; do
    [ ! -e "/proc/sys/$name" ] || mount --bind "$1/tunables/$name" "/proc/sys/$name"
done
mount --make-rshared /
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables || true
touch "$1/held"
while :; do sleep 3600 & wait $!; done # which also reaps what is orphaned
"""


class Machine:
    """`address`: its own, reached from here. `pods`, `services`: ranges that are reached through it. `pid`: its
    first process, as seen from here.
    """

    def __init__(self, slot: Slot) -> None:
        self.name = slot.name
        self.address = f"10.89.{slot.number}.2"
        self._outside = f"10.89.{slot.number}.1"
        self.pods = f"10.90.{slot.number}.0/24"
        self.services = f"10.91.{slot.number}.0/24"
        self._folder = slot.folder / "machine"
        self._holder: Process | None = None
        self.pid = 0

    def start(self) -> None:
        """Raises RuntimeError with what was complained about, or TimeoutError and prints it."""
        self._folder.mkdir()
        for name, value in _TUNABLES.items():
            path = self._folder / "tunables" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        self._sweep()
        _make_cgroups(self.name)
        namespaces = ("--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
        command = ("unshare", *namespaces, "--", "bash", "-c", _INIT, "init", str(self._folder))
        self._holder = holder = Process("namespaces", command, self._folder / "log")

        def held() -> bool:
            holder.check()
            return (self._folder / "held").exists()

        wait_until(held, _START_S, "the namespaces are there", holder.last_words)
        self.pid = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text())
        self._connect()

    def stop(self) -> None:
        """What runs in it is ended by the kernel."""
        if self._holder:
            self._holder.kill()
            wait_until(lambda: not Path(f"/proc/{self.pid}").exists(), _START_S, f"{self.name} has ended")
        self._sweep()

    def enter_network(self, *command: str | Path) -> tuple[str | Path, ...]:
        """`command`, to be run in its network, but among this machine's files and processes."""
        return "nsenter", "-t", str(self.pid), "-n", "--", *command

    def enter(self, *command: str | Path) -> tuple[str | Path, ...]:
        """`command`, to be run in it altogether. What is started so is a child of the process that is waited for."""
        return "nsenter", "-t", str(self.pid), "-m", "-n", "-p", "--", *command

    def run(self, *command: str | Path) -> str:
        """Runs a command in it to the end. Raises AssertionError with its complaint if it fails."""
        return _run(*self.enter(*command))

    def _sweep(self) -> None:
        """Removes what is outside, also of a run that was killed."""
        if Path("/sys/class/net", self.name).exists():  # the network goes when its last connection has timed out
            _run(program("ip"), "link", "del", self.name)
        _remove_cgroups(self.name)

    def _connect(self) -> None:
        ip = program("ip")
        _run(ip, "link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        _run(ip, "addr", "add", f"{self._outside}/24", "dev", self.name)
        _run(ip, "link", "set", self.name, "up")
        self.run(ip, "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run(ip, "link", "set", "eth0", "up")
        self.run(ip, "route", "add", "default", "via", self._outside)
        for addresses in (self.pods, self.services):
            _run(ip, "route", "add", addresses, "via", self.address)


def require_machine() -> None:
    """Skips the test where namespaces cannot be made."""
    rights = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    if os.geteuid() != 0 or not int(rights.split()[1], 16) >> _CAP_SYS_ADMIN & 1:
        missing("a node needs root, with CAP_SYS_ADMIN")


def _cgroups(name: str) -> list[Path]:
    """Of each controller, where there are several hierarchies (v1), else the one."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS / name]
    return [path / name for path in _CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def _make_cgroups(name: str) -> None:
    for group in _cgroups(name):
        with suppress(OSError):  # a controller that cannot be written is one that the kubelet does not need
            group.mkdir()
        for inherited in ("cpuset.cpus", "cpuset.mems"):
            if (parent := group.parent / inherited).exists():
                (group / inherited).write_text(parent.read_text())
        controllers = group / "cgroup.controllers"
        if controllers.exists():
            (group / "cgroup.subtree_control").write_text(
                " ".join(f"+{each}" for each in controllers.read_text().split())
            )


def _remove_cgroups(name: str) -> None:
    for group in _cgroups(name):
        wait_until(partial(_is_removed, group), _START_S, f"{group} is empty")


def _is_removed(group: Path) -> bool:
    """Removes what can be removed, deepest first: not what still has an ending process in it."""
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()
    return not group.exists()


def _run(*command: str | Path) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{' '.join(map(str, command))}: {ran.stderr}"
    return ran.stdout
