"""Fresh Debian roots, and a whole system booted from one by systemd-nspawn, between the lab's two networks."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

import machine
from network import PATIENCE, ROOT, sh, until

COPIES = ROOT / "target/roots"
# Seconds. Packages are fetched from a mirror.
FETCHING = 900
# What the package itself must ask for.
MISSING = ["nftables", "iproute2"]


class Fresh:
    """A copy of the small Debian that the tests of the units use, too, for one test."""

    def __init__(self, suite):
        self.suite = suite
        base = machine.root(suite)
        COPIES.mkdir(parents=True, exist_ok=True)
        self.path = COPIES / f"{suite}.{os.getpid()}"
        sh(["cp", "-a", base, self.path], timeout=FETCHING)
        shutil.copy("/etc/resolv.conf", self.path / "etc/resolv.conf")
        # Packages that a test fetches are fetched once.
        self.archives = COPIES / f"{suite}.archives"
        (self.archives / "partial").mkdir(parents=True, exist_ok=True)
        self.run("dpkg", "--purge", *MISSING)

    def put(self, source, to, mode=0o644):
        """Copies a file of the host into the root."""
        to = self.path / to.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, to)
        to.chmod(mode)

    def run(self, *command):
        """Runs a command in the root, with the host's network; nothing of the root is running."""
        return sh(["chroot", self.path, *command], timeout=FETCHING, env=environment())

    def apt(self, *arguments):
        """apt-get in the root, with packages from a mirror."""
        archives = self.path / "var/cache/apt/archives"
        archives.mkdir(parents=True, exist_ok=True)
        sh(["mount", "--bind", self.archives, archives])
        try:
            # What the mirror's clock says does not matter here.
            return self.run("apt-get", "-y", "-q", "--no-install-recommends", "-o", "Acquire::Check-Date=false",
                            "-o", "Dpkg::Use-Pty=0", "-o", "APT::Sandbox::User=root", *arguments)
        finally:
            sh(["umount", archives])

    def close(self):
        shutil.rmtree(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if "LAB_KEEP" in os.environ:
            print(f"kept: {self.path}")
        else:
            self.close()


def environment():
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


class Machine:
    """The root, booted: its own init and services, in the lab's namespace `gw` between inside and outside."""

    def __init__(self, network, root):
        self.root, self.init = root, None
        (root.path / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
        log = open(network.folder / f"console-{root.suite}.log", "ab")
        self.console = pathlib.Path(log.name)
        name = f"stp-{root.suite}-{os.getpid()}"
        self.groups = machine.Groups(name)
        self.nspawn = subprocess.Popen(
            self.groups.within([
                "systemd-nspawn", "--quiet", f"--machine={name}", f"--directory={root.path}",
                "--register=no", "--keep-unit", f"--network-namespace-path=/run/netns/{network.gw}",
                "--capability=CAP_NET_ADMIN", "--resolv-conf=off", "--timezone=off", "--console=pipe", "--boot",
            ]),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        log.close()
        try:
            self.init = until(self._told, self._init, machine.BOOT_PATIENCE)
            # `degraded` is a system that has booted: some unit of Debian's cannot run in a container.
            until(self._told, self._booted, machine.BOOT_PATIENCE)
        except BaseException:
            self.close()
            raise

    def _told(self):
        said = self.console.read_text(errors="replace")[-3000:]
        running = self.answer("systemctl", "list-jobs") if self.init else ""
        return f"{self.root.suite} did not boot:\n{said}\n{running}"

    def _init(self):
        if self.nspawn.poll() is not None:
            raise AssertionError(self._told())
        # Before it starts init, systemd-nspawn has other children; init is process 1 of its own namespace.
        for child in pathlib.Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError):
                status = pathlib.Path(f"/proc/{child}/status").read_text()
                if re.search(r"^NSpid:.*\t1$", status, re.M) and "Name:\tsystemd\n" in status:
                    return child
        return None

    def _booted(self):
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self.run("test", "-S", "/run/systemd/private")
            return self.answer("systemctl", "is-system-running") in ("running", "degraded")

    def run(self, *command, **options):
        """Runs a command in the running system, and returns its output."""
        return sh(["nsenter", f"--target={self.init}", "--all", "--", "/usr/bin/env", "-i",
                   *(f"{key}={value}" for key, value in environment().items()), *command], **options)

    def answer(self, *command):
        """The output of a command that may fail, without the end of the line."""
        try:
            return self.run(*command).strip()
        except RuntimeError as error:
            return str(error).partition("\n")[2].strip()

    def write(self, path, text):
        path = self.root.path / path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def journal(self, lines=60):
        return self.answer("journalctl", "--no-pager", "-n", str(lines))

    def close(self):
        if self.nspawn.poll() is None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    self.nspawn.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.nspawn.wait(timeout=PATIENCE)
                    break
        self.groups.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
