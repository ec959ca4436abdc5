"""A machine with a booted systemd, which routes between an inside and an outside; and what is installed on it.

    inside 10.26.0.2  ---  eth1  machine  eth0  ---  192.0.2.2 outside
           fd26::2                                   2001:db8::2

The machine is a container on a root that is made once for each release of Debian. All that it writes is in memory and is
gone with it. The two others are network namespaces.
"""

import atexit
import contextlib
import errno
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

from certificates import Authority
from network import PATIENCE, ROOT, connect, end, listen, remove, sh, until

BINARY = pathlib.Path(
    os.environ.get("LAB_BINARY") or ROOT / "target/x86_64-unknown-linux-gnu/dist/starttls-proxy"
)
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
# Without netbase, which a small router does not have: nothing but the kernel and nft knows the names of protocols there.
PACKAGES = "systemd,systemd-sysv,dbus,nftables,iproute2"
INSIDE, INSIDE6 = "10.26.0.2", "fd26::2"
OUTSIDE, OUTSIDE6 = "192.0.2.2", "2001:db8::2"
# The name that the machine is given by its kernel, and nowhere else.
NAME = "gw.clinic.example"
# An address of the outside that a rule lets pass.
FRIEND = "192.0.2.3"
LEFTOVER = re.compile(r"stp-sd-(\d+)-(inside|outside)")
# A reset, and what an ip rule that prohibits is told by ICMP.
REFUSED = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EACCES)
# Seconds until a machine has booted. One that shares two cores with others takes longer than anything else here.
BOOT_PATIENCE = 120
UNITS = ("routing", "watch", "outbound", "inbound", "smarthost", "mx")


def root(release):
    """The root of a release, made if it is not there. What was made half is made anew."""
    made = ROOT / f"target/systemd/{release}"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        new = pathlib.Path(tempfile.mkdtemp(prefix=f"{release}-", dir=made.parent))
        print(f"making the root of {release}", flush=True)
        # In a mount namespace of its own: debootstrap leaves /proc mounted in what it makes.
        try:
            sh(["unshare", "--mount", "debootstrap", "--force-check-gpg", "--variant=minbase", f"--include={PACKAGES}", release, new, MIRROR], timeout=900)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        for package in (new / "var/cache/apt/archives").glob("*.deb"):
            package.unlink()
        new.chmod(0o755)
        new.rename(made)
    return made


class Groups:
    """Control groups of its own for a machine: else those of two machines' units of one name would be the same."""

    def __init__(self, name):
        self.path = self.top() / name
        self.path.mkdir()

    @staticmethod
    def top():
        mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        return pathlib.Path(next(mount[1] for mount in mounts if mount[2] == "cgroup2"))

    def within(self, command):
        """The command line that runs a command in there, as the same process."""
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', self.path / "cgroup.procs", *command]

    @staticmethod
    def remove(path):
        """Removes a group and those in it, except where something still runs."""
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def close(self):
        self.remove(self.path)


class Machine:
    """One booted machine; `close` ends and removes all of it."""

    def __init__(self, release):
        remove_leftovers()
        # Also if this process is told to end.
        atexit.register(self.close)
        self.name = f"stp-sd-{os.getpid()}"
        self.inside, self.outside = f"{self.name}-inside", f"{self.name}-outside"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.process = self.init = None
        self.groups = Groups(self.folder.name)
        try:
            self._boot(root(release))
            self.run("hostname", NAME)
            self._link("in", self.inside, "eth1", "10.26.0", "fd26:")
            self._link("out", self.outside, "eth0", "192.0.2", "2001:db8:")
            sh(["ip", "address", "add", f"{FRIEND}/24", "dev", "wire"], self.outside)
            # It routes, and tells each client at once that it is refused, however many they are.
            for switch in ("1 >ipv4/ip_forward", "1 >ipv6/conf/all/forwarding", "0 >ipv4/icmp_ratelimit", "0 >ipv6/icmp/ratelimit"):
                self.run("sh", "-c", f"cd /proc/sys/net && echo {switch}")
            self.authority = Authority(self.folder / "authority", "Test Root")
            own = self.authority.issue("own", ["mx.clinic.example"])
            shutil.copy(BINARY, self.path("usr/local/bin/starttls-proxy"))
            self.install()
            for name, file in (("ca.pem", self.authority.root), ("cert.pem", own.chain), ("key.pem", own.key)):
                self.write(f"etc/starttls-proxy/{name}", file.read_text())
            # No packets leave this machine and nothing asks for names.
            self.write("etc/resolv.conf", f"nameserver {OUTSIDE}\n")
        except BaseException:
            self.close()
            raise

    def _boot(self, tree):
        self.process = subprocess.Popen(
            self.groups.within([
                "setpriv", "--pdeathsig=KILL", "systemd-nspawn", "--quiet", f"--machine={self.name}", f"--directory={tree}", "--volatile=overlay", "--boot",
                "--register=no", "--keep-unit", "--private-network", "--console=pipe", f"--bind-ro={ROOT}/systemd:/clone/systemd",
                *(f"--network-veth-extra=stp{os.getpid()}{side}:{link}" for side, link in (("in", "eth1"), ("out", "eth0"))),
            ]),
            env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}, stdin=subprocess.DEVNULL,
            stdout=open(self.folder / "console.log", "wb"), stderr=subprocess.STDOUT, start_new_session=True,
        )
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        console = lambda: f"it does not boot:\n{(self.folder / 'console.log').read_text(errors='replace')}"  # noqa: E731
        until(console, lambda: self._is_booted(children), BOOT_PATIENCE)

    def _is_booted(self, children):
        if self.process.poll() is not None:
            raise AssertionError(f"it does not boot:\n{(self.folder / 'console.log').read_text(errors='replace')}")
        for pid in children.read_text().split():
            comm = ""
            # A helper of systemd-nspawn may be gone by now.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                comm = pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
            if comm == "systemd":
                self.init = pid
                return self.tries("systemctl", "is-system-running")[1].strip() in ("running", "degraded")
        return False

    def _link(self, side, netns, link, prefix, prefix6):
        """Puts the other end of one of the machine's interfaces into a namespace of its own."""
        sh(["ip", "netns", "add", netns])
        sh(["ip", "link", "set", f"stp{os.getpid()}{side}", "netns", netns, "name", "wire"])
        sh(["ip", "link", "set", "lo", "up"], netns)
        for number, command in ((1, self.run), (2, lambda *words: sh(words, netns))):
            device = "wire" if number == 2 else link
            command("ip", "address", "add", f"{prefix}.{number}/24", "dev", device)
            command("ip", "address", "add", f"{prefix6}:{number}/64", "dev", device, "nodad")
            command("ip", "link", "set", device, "up")
        for gateway in (f"{prefix}.1", f"{prefix6}:1"):
            sh(["ip", "route", "add", "default", "via", gateway], netns)

    def install(self):
        """Does what docs/install.md says, in its words; the program comes from where it was built."""
        text = (ROOT / "docs/install.md").read_text()
        _, _, section = text.partition("install the user, the rules, the units and the files for their flags:\n")
        commands = [line.strip() for line in section.partition("\n   In ")[0].splitlines() if line.strip()]
        assert len(commands) > 5, "docs/install.md does not say how the units are installed"
        self.run("sh", "-ec", "cd /clone\n" + "\n".join(commands))

    def path(self, name):
        return pathlib.Path(f"/proc/{self.init}/root", name)

    def write(self, name, text):
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def tries(self, *command):
        """Runs a command on the machine; its exit code and what it printed."""
        try:
            done = self._enter(command, 4 * PATIENCE)
        except subprocess.TimeoutExpired as late:
            jobs = self._enter(["systemctl", "list-jobs", "--full"], PATIENCE).stdout
            raise TimeoutError(f"{' '.join(command)} takes too long:\n{late.output}\n{jobs}") from None
        return done.returncode, done.stdout

    def _enter(self, command, patience):
        return subprocess.run(
            ["nsenter", "--target", self.init, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patience,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        )

    def run(self, *command):
        """Runs a command on the machine that must succeed; what it printed."""
        code, words = self.tries(*command)
        if code:
            raise RuntimeError(f"{' '.join(command)}: exit code {code}\n{words}")
        return words

    def systemctl(self, *words):
        return self.run("systemctl", *words)

    def property(self, unit, name):
        return self.run("systemctl", "show", "--property", name, "--value", f"starttls-proxy-{unit}").strip()

    def journal(self, unit, *words):
        """What a unit said, and what systemd said about it, since the last `fresh`."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--output=cat", f"--after-cursor={self.cursor}", f"--unit=starttls-proxy-{unit}", *words)

    def version(self):
        return int(re.match(r"systemd (\d+)", self.run("systemctl", "--version"))[1])

    def fresh(self):
        """Nothing of ours runs or intercepts, and all files are as they were installed."""
        units = [f"starttls-proxy-{name}.service" for name in UNITS]
        sockets = [f"starttls-proxy-{name}.socket" for name in ("outbound", "inbound", "mx")]
        self.tries("systemctl", "stop", *sockets, *units, "nftables.service", "systemd-networkd.service")
        self.run("sh", "-c", "rm -rf /etc/default/starttls-proxy-* /etc/starttls-proxy/pass.d /var/lib/starttls-proxy"
                 " /etc/systemd/system/starttls-proxy-*.d /run/starttls-proxy")
        self.write("etc/starttls-proxy/policy", "")
        self.install()
        self.run("/usr/local/lib/starttls-proxy/interception", "remove")
        self.run("nft", "flush", "ruleset")
        self.tries("systemctl", "reset-failed", *sockets, *units)
        self.run("journalctl", "--sync")
        self.cursor = self.run("journalctl", "--lines=1", "--show-cursor").rpartition("-- cursor: ")[2].strip()

    def flags(self, unit, flags):
        self.write(f"etc/default/starttls-proxy-{unit}", f'FLAGS="{flags}"\n')

    def close(self):
        if self.process:
            # Its init is told to power off; then the container ends, and with it its interfaces.
            if self.init and self.process.poll() is None:
                os.kill(int(self.init), signal.SIGRTMIN + 4)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=20)
            end(self.process)
        self.groups.close()
        for netns in (self.inside, self.outside):
            remove(netns)
        shutil.rmtree(self.folder, ignore_errors=True)


class Server:
    """Greets whoever connects to port 25 in a namespace with its name, and counts them. It does no more."""

    def __init__(self, netns, addresses, name, port=25):
        self.name, self.heard = name, 0
        self.listeners = [listen(netns, address, port) for address in addresses]
        for listener in self.listeners:
            threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def _serve(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.heard += 1
                with contextlib.suppress(OSError):
                    client.sendall(f"220 {self.name} ESMTP\r\n".encode())
                client.close()

    def close(self):
        for listener in self.listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


class MailServer(Server):
    """Takes any mail in the clear, from many clients at a time."""

    def _serve(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._take, args=(client,), daemon=True).start()

    def _take(self, client):
        with contextlib.suppress(OSError), client, client.makefile("rb") as lines:
            client.sendall(f"220 {self.name} ESMTP\r\n".encode())
            in_message = False
            for line in lines:
                if in_message and line != b".\r\n":
                    continue
                self.heard += in_message
                in_message = line[:4].upper() == b"DATA"
                client.sendall(b"354 go\r\n" if in_message else b"250 2.0.0 ok\r\n")


class Session:
    """An SMTP session of a client in a namespace."""

    def __init__(self, netns, address, port=25):
        self.socket = connect(netns, address, port)
        self.lines = self.socket.makefile("rb")
        self.name = self.hears("220")

    def hears(self, code):
        """The last line of a reply, which must have this code."""
        reply = self.lines.readline().decode()
        while reply[3:4] == "-":
            reply = self.lines.readline().decode()
        assert reply.startswith(code), f"{reply!r} instead of {code}"
        return reply

    def says(self, line, code="250"):
        self.socket.sendall(f"{line}\r\n".encode())
        return self.hears(code)

    def close(self):
        self.lines.close()
        self.socket.close()


def greeting(netns, address, port=25):
    """The name in the greeting that a client hears, or 421; `refused` if nobody lets it in."""
    try:
        with connect(netns, address, port) as client:
            words = client.makefile("rb").readline().decode().split()
            return "closed" if not words else words[1] if words[0] == "220" else words[0]
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        return "refused"


def remove_leftovers():
    """Removes namespaces, folders and control groups of runs that were killed. Their containers ended with them or hang on their own."""
    for line in sh(["ip", "netns", "list"]).splitlines():
        match = LEFTOVER.match(line)
        if match and not pathlib.Path("/proc", match[1]).exists():
            remove(match[0])
    for top in (pathlib.Path(tempfile.gettempdir()), Groups.top()):
        for folder in top.glob("stp-sd-*-*"):
            if pathlib.Path("/proc", folder.name.split("-")[2]).exists():
                continue
            if top == Groups.top():
                Groups.remove(folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)
