"""The program under test in gw, as it is meant to run: the shipped nft rules and routes, no root, one capability."""

import json
import os
import pathlib
import shutil

from network import ROOT, RESOLVER, end, log_lines, sh, until

BINARY = pathlib.Path(
    os.environ.get("LAB_BINARY") or ROOT / "target/x86_64-unknown-linux-gnu/dist/starttls-proxy"
)
OUTBOUND, INBOUND = 2525, 2526
NOBODY = 65534
CAPABILITY = "-all,+net_raw"


def routing(network, intercept, inside="gwi", outside="gwo"):
    """Puts on both locks of port 25, as starttls-proxy-routing.service does, with systemd/{intercept}.nft."""
    closed(network)
    environment = {
        "INSIDE": inside, "OUTSIDE": outside, "OUTBOUND_PORT": str(OUTBOUND), "INBOUND_PORT": str(INBOUND),
        "RULES": str(ROOT / f"systemd/{intercept}.nft"),
    }
    interception(network, "up", environment)


def closed(network):
    """No rules at all: gw forwards everything, as a router without the proxy does."""
    interception(network, "remove", {})


def interception(network, verb, environment):
    environment = {"RUNTIME_DIRECTORY": str(network.folder / "interception"), "PATH": os.environ["PATH"]} | environment
    (network.folder / "interception").mkdir(exist_ok=True)
    sh([ROOT / "systemd/interception", verb], network.gw, env=environment)


class Proxy:
    """One running `starttls-proxy outbound` or `inbound`."""

    number = 0

    def __init__(self, world, command, *flags, capability=CAPABILITY, log="debug"):
        Proxy.number += 1
        self.network = world.network
        self.folder = self.network.folder / f"proxy-{Proxy.number}"
        self.folder.mkdir()
        shutil.chown(self.folder, NOBODY, NOBODY)
        self.audit_log = self.folder / "audit.jsonl"
        self.port = OUTBOUND if command == "outbound" else INBOUND
        self.process = self.network.spawn(
            f"proxy-{Proxy.number}",
            ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs",
             f"--inh-caps={capability}", f"--ambient-caps={capability}", f"--bounding-set={capability}",
             BINARY, command, "--listen", f"[::]:{self.port}", "--audit-log", self.audit_log, *flags],
            self.network.gw,
            env={"RUST_LOG": log, "PATH": os.environ["PATH"]},
        )
        try:
            until(lambda: f"{command} is not listening:\n{self.log()}", self._listening)
        except TimeoutError:
            self.stop()
            raise

    def _listening(self):
        if self.process.poll() is not None:
            raise AssertionError(f"exit code {self.process.returncode}:\n{self.log()}")
        return sh(["ss", "-Htln", f"sport = :{self.port}"], self.network.gw).strip()

    def log(self):
        return self.process.log.read_text(errors="replace")

    def records(self, *events):
        """The records of these events in the audit log."""
        records = [json.loads(line) for line in log_lines(self.audit_log)]
        return [record for record in records if record["event"] in events]

    def kill(self):
        """Kills the process as the kernel would, so that it cannot log or reply."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        end(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def outbound(world, *flags, intercept="tproxy", resolver=f"{RESOLVER}:53", **options):
    """Outbound, with the lab's resolver, root key and authority."""
    return Proxy(
        world, "outbound", "--intercept", intercept, "--resolver", resolver, "--dnssec-anchor", world.names.anchor,
        "--ca-file", world.authority.root, "--hostname", "gw.inside.test", "--mta-sts-private",
        *(["--keep-client-address"] if intercept == "tproxy" else []), *flags, **options,
    )


def smart_host(world, upstream, *flags):
    """Outbound to one fixed server; nothing is intercepted."""
    return Proxy(
        world, "outbound", "--upstream", upstream, "--resolver", f"{RESOLVER}:53", "--dnssec-anchor", world.names.anchor,
        "--ca-file", world.authority.root, "--hostname", "gw.inside.test", *flags,
    )


def inbound(world, *flags, **options):
    """Inbound to the legacy server, with its certificate; intercepting unless flags name an upstream."""
    where = [] if "--upstream" in flags else ["--intercept", "tproxy", "--keep-client-address"]
    return Proxy(
        world, "inbound", "--cert", world.own.chain, "--key", world.own.key, "--hostname", "legacy.inside.test",
        *where, *flags, **options,
    )
