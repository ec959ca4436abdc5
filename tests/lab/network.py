"""Network namespaces in a row, inside - gw - outside, one more beyond a narrow link, and what runs in them.

    inside 10.25.0.2  ---  gwi  gw  gwo  ---  192.0.2.0/24 outside  --1280--  beyond 198.51.100.2
           fd25::2                            2001:db8::/64                          2001:db8:1::2

The names carry this process's id. What an earlier run left behind, because it was killed, is removed at the start:
namespaces of processes that are no more, and what runs in them. Nothing else on the host is touched.
"""

import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

INSIDE, INSIDE6 = "10.25.0.2", "fd25::2"
GW, GW6 = "10.25.0.1", "fd25::1"
GW_OUTSIDE, GW_OUTSIDE6 = "192.0.2.1", "2001:db8::1"
OUTSIDE, OUTSIDE6 = "192.0.2.2", "2001:db8::2"
BEYOND, BEYOND6 = "198.51.100.2", "2001:db8:1::2"
RESOLVER = GW

USERS = {"Debian-exim": 64901, "opensmtpd": 64902, "opensmtpq": 64903}

PATIENCE = 30
"""Seconds after which what was waited for will not come. No test passes by waiting this long."""

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = re.compile(r"stp-lab-(\d+)-(\w+)")
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def sh(command, netns=None, **options):
    """Runs a command to its end and returns its output; raises with that output if it fails."""
    if netns:
        command = ["ip", "netns", "exec", netns, *command]
    options = {"timeout": PATIENCE, "text": True, "stdin": subprocess.DEVNULL} | options
    if "input" in options:
        del options["stdin"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def until(what, condition, patience=PATIENCE):
    """Waits until the condition holds and returns its value; raises saying what did not happen."""
    deadline = time.monotonic() + patience
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"in {patience} s: {what() if callable(what) else what}")
        time.sleep(0.02)


def log_lines(log):
    """The whole lines of an audit log, with those of its files that midnight (UTC) put aside meanwhile."""
    files = [*sorted(log.parent.glob(f"{log.name}.2*")), log]
    return [line for file in files for line in file.read_text().rpartition("\n")[0].splitlines()]


class Network:
    """The namespaces, a temporary folder, and the processes in them; `close` ends and removes all of it."""

    PARTS = ("inside", "gw", "outside", "beyond")

    def __init__(self):
        remove_leftovers()
        self.processes = []
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"stp-lab-{os.getpid()}-"))
        self.folder.chmod(0o755)
        self.namespaces = [f"stp-lab-{os.getpid()}-{part}" for part in self.PARTS]
        for part, netns in zip(self.PARTS, self.namespaces):
            setattr(self, part, netns)
        try:
            self._add_namespaces()
            self._build()
        except BaseException:
            self.close()
            raise

    def _add_namespaces(self):
        for netns in self.namespaces:
            sh(["ip", "netns", "add", netns])
            sh(["ip", "link", "set", "lo", "up"], netns)
            etc = pathlib.Path("/etc/netns", netns)
            etc.mkdir(parents=True)
            # Laid over /etc/resolv.conf of whatever runs in the namespace; trust-ad lets Postfix see the AD bit.
            (etc / "resolv.conf").write_text(f"nameserver {RESOLVER}\noptions trust-ad timeout:5\n")
            (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
            # Users for packages that are only unpacked.
            for file, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")):
                more = "".join(line.format(*user) for user in USERS.items())
                (etc / file).write_text(pathlib.Path("/etc", file).read_text() + more)

    def _build(self):
        self._link((self.gw, "gwi", GW, GW6), (self.inside, "wire", INSIDE, INSIDE6))
        self._link((self.gw, "gwo", GW_OUTSIDE, GW_OUTSIDE6), (self.outside, "wire", OUTSIDE, OUTSIDE6))
        self._link((self.outside, "narrow", "198.51.100.1", "2001:db8:1::1"), (self.beyond, "wire", BEYOND, BEYOND6))
        for netns, *gateways in (
            (self.inside, GW, GW6),
            (self.gw, OUTSIDE, OUTSIDE6),
            (self.outside, GW_OUTSIDE, GW_OUTSIDE6),
            (self.beyond, "198.51.100.1", "2001:db8:1::1"),
        ):
            for gateway in gateways:
                sh(["ip", "route", "add", "default", "via", gateway], netns)
        # Both ends think that the link takes 1500 octets, so that only ICMP tells a sender that it takes 1280.
        for prefix in ("198.51.100.0/24", "2001:db8:1::/64"):
            sh(["ip", "route", "replace", prefix, "dev", "narrow", "mtu", "lock", "1280"], self.outside)
        for netns in (self.gw, self.outside):
            for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                sh(["sh", "-c", f"echo 1 >/proc/sys/net/{switch}"], netns)

    def _link(self, one, other):
        """Links two namespaces; each end is (namespace, interface, IPv4 address, IPv6 address)."""
        sh(["ip", "link", "add", one[1], "netns", one[0], "type", "veth", "peer", "name", other[1], "netns", other[0]])
        for netns, link, address, address6 in (one, other):
            sh(["ip", "addr", "add", f"{address}/24", "dev", link], netns)
            sh(["ip", "addr", "add", f"{address6}/64", "dev", link, "nodad"], netns)
            sh(["ip", "link", "set", link, "up"], netns)

    def outside_address(self, *addresses):
        """Gives the outside host these addresses to listen on, too."""
        for address in addresses:
            command = ["ip", "addr", "replace", address + ("/64" if ":" in address else "/24"), "dev", "wire"]
            # A deprecated address is not chosen as a source.
            sh(command + (["nodad", "preferred_lft", "0"] if ":" in address else []), self.outside)

    def spawn(self, name, command, netns, **options):
        """Starts a program that stays; its output goes to NAME.log in the temporary folder."""
        log = open(self.folder / f"{name}.log", "ab")
        process = subprocess.Popen(
            ["ip", "netns", "exec", netns, *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **options,
        )
        log.close()
        process.log = self.folder / f"{name}.log"
        self.processes.append(process)
        return process

    def listening(self, netns, port, address=None):
        """Waits for a listener, without connecting to it."""
        match = f"sport = :{port}" + (f" and src = [{address}]" if address else "")
        until(f"no listener on port {port} in {netns}", lambda: sh(["ss", "-Htln", match], netns).strip())

    def close(self):
        for process in self.processes:
            end(process)
        for netns in self.namespaces:
            remove(netns)
        if "LAB_KEEP" in os.environ:
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def end(process):
    """Ends a program and its children. One that has ended already is left alone: its number may be another's by now."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)
            return


def remove(netns):
    """Removes a namespace and ends all processes in it, also those that this process did not start."""
    if not pathlib.Path("/run/netns", netns).exists():
        return
    for pid in sh(["ip", "netns", "pids", netns]).split():
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    sh(["ip", "netns", "delete", netns])
    shutil.rmtree(pathlib.Path("/etc/netns", netns), ignore_errors=True)


def remove_leftovers():
    """Removes namespaces and folders of runs that were killed."""
    for line in sh(["ip", "netns", "list"]).splitlines():
        match = NAME.match(line)
        if match and not pathlib.Path("/proc", match[1]).exists():
            remove(match[0])
    for place in (tempfile.gettempdir(), "/run"):
        for folder in pathlib.Path(place).glob("stp-lab-*-*"):
            if not pathlib.Path("/proc", folder.name.split("-")[2]).exists():
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def within(netns):
    """Sockets that are made in this block belong to the namespace, also after it."""
    with open(f"/proc/self/task/{threading.get_native_id()}/ns/net") as home, open(f"/run/netns/{netns}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if libc.setns(home.fileno(), CLONE_NEWNET):
                os._exit(70)  # a test in the wrong network must not go on


def listen(netns, address, port=25):
    """A listening TCP socket in a namespace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with within(netns):
        listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    listener.listen(16)
    return listener


def connect(netns, address, port=25, source=None):
    """A connected TCP socket in a namespace."""
    with within(netns):
        return socket.create_connection((address, port), timeout=PATIENCE, source_address=source and (source, 0))
