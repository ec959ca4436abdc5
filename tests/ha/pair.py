"""Two nodes side by side, between the mail server and the world. Each leg is one network, as with a switch.

                       eth1 10.25.0.11  one  eth0 192.0.2.11
    inside 10.25.0.2   eth1 10.25.0.12  two  eth0 192.0.2.12   outside 192.0.2.2
                       held 10.25.0.1        held 192.0.2.1    balancer 192.0.2.10

These are the addresses and interfaces of the files in deploy/, so that the tests use those files as they are.
"""

import atexit
import functools
import json
import os
import pathlib
import shutil
import signal

import certificates
import postfix
import proxy
from network import ROOT, Network, end, log_lines, sh, until

INSIDE, OUTSIDE, BALANCER = "10.25.0.2", "192.0.2.2", "192.0.2.10"
HELD_INSIDE, HELD_OUTSIDE = "10.25.0.1", "192.0.2.1"
DEPLOY = ROOT / "deploy"
METRICS = 9100
LOST = "2s"
"""After this time the senders try again what was deferred."""


class PairNetwork(Network):
    """The namespaces and the two networks."""

    PARTS = ("inside", "one", "two", "balancer", "outside")

    def _build(self):
        for netns in self.namespaces:
            # Nobody asks the DNS for anything that a test needs; whoever asks is told so at once.
            pathlib.Path("/etc/netns", netns, "resolv.conf").write_text("nameserver 127.0.0.1\n")
        for netns, bridge, address, leg in (
            (self.inside, "lan", INSIDE, "eth1"), (self.outside, "wan", OUTSIDE, "eth0"),
        ):
            sh(["ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0"], netns)
            sh(["ip", "addr", "add", f"{address}/24", "dev", bridge], netns)
            sh(["ip", "link", "set", bridge, "up"], netns)
            for number, node in ((11, "one"), (12, "two"), (10, "balancer")):
                there = getattr(self, node)
                if (node, leg) == ("balancer", "eth1"):
                    continue
                sh(["ip", "link", "add", leg, "netns", there, "type", "veth", "peer", "name", node, "netns", netns])
                sh(["ip", "link", "set", node, "master", bridge, "up"], netns)
                sh(["ip", "addr", "add", f"{address.rpartition('.')[0]}.{number}/24", "dev", leg], there)
                sh(["ip", "link", "set", leg, "up"], there)
        sh(["ip", "route", "add", "default", "via", HELD_INSIDE], self.inside)
        sh(["ip", "route", "add", "10.25.0.0/24", "via", HELD_OUTSIDE], self.outside)
        for netns in (self.one, self.two):
            sh(["ip", "route", "add", "default", "via", OUTSIDE], netns)
            sh(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], netns)


class Node:
    """One of the two machines, with the proxy and what else runs on it."""

    def __init__(self, pair, name):
        self.pair, self.name, self.netns = pair, name, getattr(pair.network, name)
        self.gw = self.netns
        """The name under which the lab's `routing` finds it."""
        self.programs = {}
        self.routed = False

    def begin(self, folder):
        """Begins a test: a new log, a new key."""
        self.folder = self.pair.network.folder / folder / self.name
        self.folder.mkdir(parents=True)
        shutil.chown(self.folder, proxy.NOBODY, proxy.NOBODY)
        self.key = self.folder / "audit.key"
        sh([proxy.BINARY, "audit", "keygen", "--out", self.key])
        shutil.chown(self.key, proxy.NOBODY, proxy.NOBODY)
        self.audit_log = self.folder / "audit.jsonl"

    def spawn(self, program, command, **options):
        name = f"{self.folder.parent.name}-{program}-{self.name}"
        self.programs[program] = self.pair.network.spawn(name, command, self.netns, **options)
        return self.programs[program]

    def start(self, direction, *flags):
        """Starts the proxy, as its unit does: no root, one capability. It goes on with its log."""
        port = proxy.OUTBOUND if direction == "outbound" else proxy.INBOUND
        running = self.spawn("proxy", [
            "setpriv", "--reuid", proxy.NOBODY, "--regid", proxy.NOBODY, "--clear-groups", "--no-new-privs",
            f"--inh-caps={proxy.CAPABILITY}", f"--ambient-caps={proxy.CAPABILITY}", f"--bounding-set={proxy.CAPABILITY}",
            proxy.BINARY, direction, "--listen", f"[::]:{port}", "--hostname", f"{self.name}.gw.test",
            "--audit-log", self.audit_log, "--audit-key", self.key, "--metrics", f"127.0.0.1:{METRICS}",
            "--drain-timeout", "1", *flags,
        ], env={"RUST_LOG": "debug", "PATH": os.environ["PATH"]})

        def listening():
            assert running.poll() is None, f"exit code {running.returncode}:\n{self.said('proxy')}"
            return sh(["ss", "-Htln", f"sport = :{port}"], self.netns).strip()

        until(lambda: f"{self.name} does not listen:\n{self.said('proxy')}", listening)

    def kill(self, program):
        """Ends it as a crash would: it can say nothing more to anybody."""
        running = self.programs.pop(program)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()

    def lose(self):
        """The machine loses its power: its programs and its links are gone at once."""
        for link in ("eth0", "eth1"):
            sh(["ip", "link", "set", link, "down"], self.netns)
        for program in list(self.programs):
            self.kill(program)

    def said(self, program):
        log = self.pair.network.folder / f"{self.folder.parent.name}-{program}-{self.name}.log"
        return log.read_text(errors="replace")[-4000:] if log.exists() else "nothing"

    def holds(self, address):
        return f" {address}/" in sh(["ip", "-4", "-o", "addr", "show"], self.netns)

    def stop(self):
        for running in self.programs.values():
            end(running)
        self.programs = {}
        for link in ("eth0", "eth1"):
            sh(["ip", "link", "set", link, "up"], self.netns)
        sh(["ip", "route", "replace", "default", "via", OUTSIDE], self.netns)

    def messages(self):
        """The records of messages that the other side has accepted."""
        records = (json.loads(line) for line in log_lines(self.audit_log) if '"event":"message"' in line)
        return [record for record in records if record["outcome"] == "accepted"]


class Pair:
    """The network, the nodes and the mail servers on both sides; built once."""

    def __init__(self):
        self.network = PairNetwork()
        atexit.register(self.network.close)
        self.nodes = [Node(self, "one"), Node(self, "two")]
        folder = self.network.folder / "certificates"
        folder.mkdir()
        self.authority = certificates.Authority(folder / "trusted", "Authority of the two nodes")
        self.of_outside = self.authority.issue("outside", ["mx.outside.test"])
        self.of_inside = self.authority.issue("inside", ["mx.inside.test"])
        self.inside = self._inside()
        self.outside = self._outside()
        self.policy = self.network.folder / "policy"
        self.policy.write_text(f"[{OUTSIDE}] secure match=mx.outside.test\n")

    def _sending(self, relay):
        """A server that sends all mail to one host, and tries again soon."""
        return {
            "relayhost": f"[{relay}]", "minimal_backoff_time": LOST, "maximal_backoff_time": LOST, "queue_run_delay": "1s",
            "transport_retry_time": "1s", "in_flow_delay": "0", "smtp_connect_timeout": "3s", "smtp_helo_timeout": "10s",
            "smtp_mail_timeout": "10s", "smtp_rcpt_timeout": "10s", "smtp_data_init_timeout": "10s",
            "smtp_data_xfer_timeout": "10s", "smtp_data_done_timeout": "10s",
            "default_destination_recipient_limit": "1000",
            # One host that fails does not stop the rest of the queue.
            "default_destination_concurrency_failed_cohort_limit": "0",
        }

    def _inside(self):
        network = self.network
        return postfix.Postfix(network, "inside", network.inside, {
            "myhostname": "legacy.inside.test", "mynetworks": "127.0.0.0/8", "smtp_tls_security_level": "",
        } | self._sending(OUTSIDE) | postfix.RECEIVING | postfix._mailboxes(network, "inside", "/inside\\.test$/ yes\n"), "".join((
            "127.0.0.1:25 inet n - n - - smtpd\n",
            f"{INSIDE}:{postfix.PROXY_PROTOCOL} inet n - n - - smtpd\n  -o smtpd_upstream_proxy_protocol=haproxy\n",
        )))

    def _outside(self):
        network = self.network
        policy = network.folder / "tls-policy"
        policy.write_text(f"[{BALANCER}] secure match=mx.inside.test\n")
        chain = f"{self.of_outside.key},{self.of_outside.chain}"
        return postfix.Postfix(network, "outside", network.outside, {
            "myhostname": "mx.outside.test", "mynetworks": "127.0.0.0/8", "smtp_tls_security_level": "secure",
            "smtp_tls_policy_maps": f"texthash:{policy}", "smtp_tls_CAfile": self.authority.root,
        } | self._sending(BALANCER) | postfix.RECEIVING | postfix._mailboxes(network, "outside", "/outside\\.test$/ yes\n"), "".join((
            "127.0.0.1:25 inet n - n - - smtpd\n",
            f"{OUTSIDE}:25 inet n - n - - smtpd\n  -o smtpd_tls_security_level=may -o smtpd_tls_chain_files={chain}\n",
        )))

    def outbound(self, node):
        """Starts the proxy of a node: intercepting, for the mail that the server inside sends."""
        if not node.routed:
            # Once, as at boot. Loading it anew begins with no rules at all, and mail would pass in the clear.
            proxy.routing(node, "tproxy", "eth1", "eth0")
            node.routed = True
        node.start(
            "outbound", "--intercept", "tproxy", "--keep-client-address", "--policy", self.policy,
            "--no-dane", "--no-mta-sts", "--ca-file", self.authority.root,
        )

    def inbound(self, node):
        """Starts the proxy of a node: behind HAProxy, in front of the server inside."""
        node.start(
            "inbound", "--upstream", f"{INSIDE}:{postfix.PROXY_PROTOCOL}", "--accept-proxy", f"{BALANCER}/32",
            "--send-proxy", "v2", "--cert", self.of_inside.chain, "--key", self.of_inside.key,
        )


def shipped(name, folder, *changes):
    """A file of deploy/, with these texts put in place of others; each must be in it."""
    text = (DEPLOY / name).read_text()
    for old, new in changes:
        assert old in text, f"{old} is not in deploy/{name}"
        text = text.replace(old, str(new))
    file = pathlib.Path(folder, name)
    file.write_text(text)
    return file


@functools.cache
def _build():
    try:
        return Pair()
    except Exception as error:  # each test says it, none tries again
        return error


def pair():
    """The one pair; the first to ask has it built."""
    if isinstance(_build(), Exception):
        raise RuntimeError("the two nodes could not be built") from _build()
    return _build()
