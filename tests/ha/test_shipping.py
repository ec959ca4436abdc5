"""The logs of two nodes on a third machine, by rsyslog over RELP inside TLS, while mail keeps coming."""

import os
import pathlib
import signal
import smtplib

from network import PATIENCE, connect, end, sh, until
from pair import DEPLOY, HELD_INSIDE, HELD_OUTSIDE, INSIDE, shipped
from two_nodes import TwoNodes

RECIPIENTS = 300


class Rsyslog(TwoNodes):
    """deploy/rsyslog-node.conf and deploy/rsyslog-collector.conf."""

    def setUp(self):
        super().setUp()
        self.folder = self.one.folder.parent
        for netns in (self.one.netns, self.two.netns):
            hosts = pathlib.Path("/etc/netns", netns, "hosts")
            hosts.write_text(f"127.0.0.1 localhost\n{INSIDE} collector.example\n")

    def certificate(self, folder, name, file):
        issued = self.pair.authority.issue(f"ship-{name}", [f"{name}.example"])
        (folder / f"{file}.pem").write_text(issued.chain.read_text())
        (folder / f"{file}.key").write_text(issued.key.read_text())

    def rsyslog(self, name, netns, file, *changes):
        """Starts rsyslog with a shipped file, in the way of Debian's rsyslog.conf: with a work directory."""
        folder = self.folder / f"rsyslog-{name}"
        if not folder.exists():
            folder.mkdir()
            (folder / "ca.pem").write_text(self.pair.authority.root.read_text())
            self.certificate(folder, name, "collector" if name == "collector" else "node")
        included = shipped(file, folder, ("/etc/starttls-proxy/ship", folder), *changes)
        main = folder / "rsyslog.conf"
        main.write_text(f'global(workDirectory="{folder}" localHostname="{name}.example")\ninclude(file="{included}")\n')
        running = self.network.spawn(f"rsyslog-{name}", ["rsyslogd", "-n", "-i", "NONE", "-f", main], netns)
        self.addCleanup(end, running)
        return running

    def collector(self):
        running = self.rsyslog("collector", self.network.inside, "rsyslog-collector.conf", (
            "/usr/local/lib/starttls-proxy/keep-records /var/log/starttls-proxy", f"{DEPLOY}/keep-records {self.folder}/copies",
        ))
        until(
            lambda: f"the collector does not listen:\n{running.log.read_text()}",
            lambda: sh(["ss", "-Htln", "sport = :2514"], self.network.inside).strip(),
        )
        return running

    def copy(self, node):
        return self.folder / f"copies/{node.name}.example/outbound.jsonl"

    def written(self, node):
        """All octets of a node's log, the rotated file first."""
        return b"".join(file.read_bytes() for file in sorted(node.folder.glob("audit.jsonl.2*")) + [node.audit_log])

    def copied(self, node):
        copy = self.copy(node)
        return copy.read_bytes() if copy.exists() else b""

    def routes(self, node):
        """The mail goes through this node from now on."""
        for other in self.pair.nodes:
            verb = "replace" if other is node else "del"
            for address, leg in ((HELD_INSIDE, "eth1"), (HELD_OUTSIDE, "eth0")):
                if other is node or other.holds(address):
                    sh(["ip", "addr", verb, f"{address}/24", "dev", leg], other.netns)
        self.addCleanup(self._release, node)
        for netns in (self.network.inside, self.network.outside):
            sh(["ip", "neigh", "flush", "all"], netns)

    def _release(self, node):
        for address, leg in ((HELD_INSIDE, "eth1"), (HELD_OUTSIDE, "eth0")):
            if node.holds(address):
                sh(["ip", "addr", "del", f"{address}/24", "dev", leg], node.netns)

    def long_record(self):
        """A message whose record is longer than what rsyslog takes by itself (8 KiB)."""
        recipients = [f"{'long-name-' * 4}{n}@outside.test" for n in range(RECIPIENTS)]
        client = smtplib.SMTP()
        client.sock = connect(self.network.inside, "127.0.0.1")
        client.getreply()
        client.sendmail("many@load.test", recipients, "Subject: many\r\n\r\nto many\r\n")
        client.quit()
        return lambda: any(len(record["recipients"]) == RECIPIENTS for record in self.one.messages())

    def test_the_copy_is_the_log_octet_for_octet_and_verifies(self):
        for node in self.pair.nodes:
            self.pair.outbound(node)
            self.rsyslog(node.name, node.netns, "rsyslog-node.conf", ("/var/lib/starttls-proxy/outbound/audit.jsonl", node.audit_log))
        collector = self.collector()
        self.routes(self.one)
        mail = self.mail(self.pair.inside, self.pair.outside, "outside.test")
        mail.more(20)
        until(lambda: "the record of the long message is not there", self.long_record())

        # The collector has no power any more, and what is written meanwhile comes later.
        until("nothing was copied", lambda: len(self.copied(self.one)) > 10000)
        os.killpg(collector.pid, signal.SIGKILL)
        collector.wait()
        mail.more(20)
        # The log is rotated: the proxy goes on in a new file.
        self.one.audit_log.rename(self.one.audit_log.with_name("audit.jsonl.20261128.000000000000"))
        mail.more(20)
        until("no new file", self.one.audit_log.exists)
        self.routes(self.two)
        mail.more(20)
        self.collector()

        mail.finish()
        for node in self.pair.nodes:
            # In good order, so that its last record is there.
            running = node.programs.pop("proxy")
            os.killpg(running.pid, signal.SIGTERM)
            running.wait(PATIENCE)
        for node in self.pair.nodes:
            size = len(self.written(node))
            until(
                lambda: f"{node.name}: {len(self.copied(node))} of {size} octets were copied",
                lambda: len(self.copied(node)) >= size,
            )
            # Compared line by line: a failure names the first record that is another.
            copied, written = self.copied(node).splitlines(True), self.written(node).splitlines(True)
            for number, (here, there) in enumerate(zip(copied, written)):
                self.assertEqual(here, there, f"record {number} of {node.name}")
            self.assertEqual(len(copied), len(written))
        keys = [word for node in self.pair.nodes for word in ("--key", f"{node.key}.pub")]
        copies = [self.copy(node) for node in self.pair.nodes]
        code, said = self.audit("verify", *keys, *copies)
        self.assertEqual(code, 0, said)
        self.assertIn("2 logs, all intact", said)
        self.assertEqual(said.count("stopped in good order"), 2, said)
        code, shown = self.audit("show", "--address", "user@outside.test", *copies)
        self.assertEqual(code, 0, shown[-2000:])
        self.assertIn("one.example/outbound.jsonl: ", shown)
        self.assertIn("two.example/outbound.jsonl: ", shown)
