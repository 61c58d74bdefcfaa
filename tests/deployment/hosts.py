"""Hosts that share nothing but the wire: each has a root, a user and a network of its own.

They are namespaces of this machine, which root can make. ``/usr``, Python and the project are
mounted read-only; ``/etc/hqde-fl``, ``/var/lib/hqde-fl``, ``/srv/data`` and the home directory are
folders of the one host.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROJECT = Path(__file__).parents[2]
HOME = "/home/operator"
FOLDERS = {"etc": "/etc/hqde-fl", "state": "/var/lib/hqde-fl", "data": "/srv/data", "home": HOME}
"""Name of a folder of a host outside -> its path on the host."""

_ENTER = r"""
set -e
root=$1 files=$2 uid=$3 directory=$4; shift 4
mount -t tmpfs -o mode=755 tmpfs "$root"
readonly_bind() {
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
    mount -o remount,ro,bind "$root$1"
}
readonly_bind /usr
for link in bin sbin lib lib64; do [ -e "/$link" ] && ln -s "usr/$link" "$root/$link"; done
for path in $HOST_PATHS; do readonly_bind "$path"; done
mkdir -p "$root/dev" "$root/proc" "$root/etc" "$root/opt/hqde-fl"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mkdir -p "$root/tmp"; chmod 1777 "$root/tmp"
cp /etc/nsswitch.conf /etc/ld.so.cache "$root/etc/"
echo "127.0.0.1 localhost" > "$root/etc/hosts"
echo "operator:x:$uid:$uid::/home/operator:/bin/sh" > "$root/etc/passwd"
echo "operator:x:$uid:" > "$root/etc/group"
ln -s "$VENV" "$root/opt/hqde-fl/venv"
bind() { mkdir -p "$root$2"; mount --bind "$files/$1" "$root$2"; }
bind etc /etc/hqde-fl; bind state /var/lib/hqde-fl; bind data /srv/data; bind home /home/operator
exec chroot "$root" /usr/bin/setpriv --reuid "$uid" --regid "$uid" --clear-groups \
    --no-new-privs --bounding-set=-all --inh-caps=-all \
    /usr/bin/env -i sh -c 'cd "$0" && exec "$@"' "$directory" "$@"
"""


def can_make_hosts() -> bool:
    """Return True if this process may make namespaces, and has the programs for it."""
    programs = ("ip", "unshare", "setpriv", "chroot", "mount")
    if os.geteuid() != 0 or not all(map(shutil.which, programs)):
        return False
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], check=False)
    return tried.returncode == 0


@dataclass
class Host:
    """A host with an address on the wire.

    Parameters
    ----------
    path : Path
        A new directory for its folders and its root.
    namespace : str
        The name of its network namespace.
    address : str
        Its address.
    uid : int
        Its only user.
    """

    path: Path
    namespace: str
    address: str
    uid: int
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.path / "root").mkdir(parents=True)
        for name in FOLDERS:
            folder = self.path / name
            folder.mkdir(mode=0o700)
            os.chown(folder, self.uid, self.uid)

    def outside(self, path: str) -> Path:
        """Return where a path of the host is for this process."""
        for name, inside in FOLDERS.items():
            if path == inside or path.startswith(f"{inside}/"):
                return self.path / name / path[len(inside) :].lstrip("/")
        raise ValueError(path)

    def write(self, path: str, content: bytes | str) -> None:
        """Write a file of the host's user."""
        target = self.outside(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        for each in (target, *target.parents):
            if self.path in each.parents:
                os.chown(each, self.uid, self.uid)

    def read(self, path: str) -> bytes:
        return self.outside(path).read_bytes()

    def command(
        self, arguments: Sequence[str], variables: Sequence[str] = (), directory: str = HOME
    ) -> list[str]:
        """Return the command line that runs a program on the host as its user."""
        environment = [
            "PATH=/opt/hqde-fl/venv/bin:/usr/bin:/bin",
            f"HOME={HOME}",
            "USER=operator",
            "FLWR_TELEMETRY_ENABLED=0",
            "FLWR_DISABLE_UPDATE_CHECK=1",
            *variables,
        ]
        enter = [str(self.path / "root"), str(self.path), str(self.uid), directory]
        return [
            *("ip", "netns", "exec", self.namespace),
            *("unshare", "--mount", "--propagation", "private", "--pid", "--fork"),
            *("--kill-child", "sh", "-c", _ENTER, "enter", *enter, "env", *environment),
            *arguments,
        ]

    def shell(self, line: str, *, fails: bool = False) -> str:
        """Run a line of the documentation in a shell; return what it prints."""
        done = subprocess.run(
            self.command(["sh", "-c", line]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_paths(),
            check=False,
        )
        assert (done.returncode != 0) == fails, (line, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def start(
        self, arguments: Sequence[str], variables: Sequence[str] = (), directory: str = HOME
    ) -> subprocess.Popen[str]:
        """Start a program; its output goes to the file ``NUMBER.log`` of the host."""
        log = self.path / f"{len(self.running)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.command(arguments, variables, directory),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=_paths(),
                text=True,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def start_unit(self, path: str) -> subprocess.Popen[str]:
        """Start what the ExecStart of a systemd unit says, in the environment that it says."""
        unit = self.read(path).decode()
        variables = re.findall(r"^Environment=(.*)$", unit, re.MULTILINE)
        for file in re.findall(r"^EnvironmentFile=(.*)$", unit, re.MULTILINE):
            lines = self.read(file).decode().splitlines()
            variables += [line for line in lines if "=" in line and not line.startswith("#")]
        values = dict(variable.split("=", 1) for variable in variables)
        (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
        words = [re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], w) for w in shlex.split(line)]
        (directory,) = re.findall(r"^WorkingDirectory=(.*)$", unit, re.MULTILINE)
        return self.start(words, variables, directory)

    def log(self, number: int = 0) -> str:
        return (self.path / f"{number}.log").read_text(errors="replace")

    def end(self) -> None:
        """End all programs that were started."""
        for process in self.running:
            with suppress(psutil.Error):
                # The first process of its namespace, with which all others there end. It does not
                # end with ``unshare`` by itself, as it has changed its user.
                for first in psutil.Process(process.pid).children():
                    first.kill()
            process.kill()
        for process in self.running:
            process.wait()
        self.running.clear()


@contextmanager
def network(path: Path, names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """Connect hosts by a bridge in a namespace of its own; end and remove all at the end."""
    prefix = f"hq{os.getpid()}"
    wire = f"{prefix}-wire"
    made: list[str] = []
    hosts: dict[str, Host] = {}

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    try:
        ip("netns", "add", wire)
        made.append(wire)
        ip("-n", wire, "link", "add", "bridge", "type", "bridge")
        ip("-n", wire, "link", "set", "bridge", "up")
        for number, name in enumerate(names, 1):
            namespace, address = f"{prefix}-{name}", f"10.77.0.{number}"
            ip("netns", "add", namespace)
            made.append(namespace)
            ip("-n", wire, "link", "add", name, "type", "veth", "peer", "eth0", "netns", namespace)
            ip("-n", wire, "link", "set", name, "master", "bridge", "up")
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            ip("-n", namespace, "link", "set", "lo", "up")
            hosts[name] = Host(path / name, namespace, address, 4100 + number)
        yield hosts
    finally:
        for host in hosts.values():
            host.end()
        for namespace in reversed(made):
            subprocess.run(["ip", "netns", "del", namespace], check=False)


def _paths() -> dict[str, str]:
    """Return the environment in which a host is entered: what it shares with this machine."""
    shared = dict.fromkeys([sys.base_prefix, sys.prefix, str(PROJECT)])
    outer = [p for p in shared if not any(Path(q) in Path(p).parents for q in (*shared, "/usr"))]
    return {**os.environ, "HOST_PATHS": " ".join(outer), "VENV": sys.prefix}
