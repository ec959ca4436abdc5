"""What the tests with two nodes share: the account of all mail, and the evidence of both nodes."""

import os
import pathlib
import subprocess
import tempfile
import unittest

import load
import proxy
from network import until
from pair import pair


class TwoNodes(unittest.TestCase):
    """A test with two nodes that have nothing in common but their configuration."""

    def setUp(self):
        self.pair = pair()
        self.network = self.pair.network
        self.one, self.two = self.pair.nodes
        for node in self.pair.nodes:
            node.begin(self.id().rpartition(".")[2][5:25])
            self.addCleanup(node.stop)
        # Root's alone, as a place for scripts must be; /tmp is not.
        self.private = tempfile.TemporaryDirectory(dir="/run", prefix=f"stp-lab-{os.getpid()}-")
        self.addCleanup(self.private.cleanup)

    def mail(self, sender, receiver, domain):
        """Mail that keeps coming until the test is over."""
        running = load.Load(sender, receiver, domain)
        self.addCleanup(running.stopped.set)
        return running

    def audit(self, *arguments):
        """Runs `starttls-proxy audit`; returns the exit code and what it said."""
        done = subprocess.run(
            [proxy.BINARY, "audit", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        )
        return done.returncode, done.stdout

    def every_message_is_accounted_for(self, mail):
        """Each message was acknowledged to its sender once, has arrived, and is in the records of the node that it went through.

        A node that dies between the receiver's reply and its own leaves the sender without an answer. The sender then sends the
        message again (RFC 5321 section 4.5.3.2), so a few may arrive twice, as without a proxy. None may be lost."""
        arrived, told = mail.arrived(), mail.told()
        lost = [marker for marker in mail.handed if not arrived[marker]]
        self.assertEqual(lost, [], "these did not arrive")
        for marker in mail.handed:
            self.assertEqual(told[marker].count("sent"), 1, f"{marker}: {told[marker]}")
            self.assertLessEqual(set(told[marker]), {"sent", "deferred"}, marker)
        records = [record["sender"].split("@")[0] for node in self.pair.nodes for record in node.messages()]
        missing = [marker for marker in mail.handed if marker not in set(records)]
        self.assertEqual(missing, [], "these have no record")
        again = sum(number - 1 for number in arrived.values())
        retried = sum("deferred" in tries for tries in told.values())
        octets = sum(node.audit_log.stat().st_size for node in self.pair.nodes) // max(len(records), 1)
        print(
            f"    {len(mail.handed)} messages, {retried} of them deferred on the way, {again} arrived twice; "
            f"{octets} octets of log a message", flush=True,
        )
        # The proxy never sends by itself: each time that a message arrived is one try of its sender.
        more = {marker: (number, told[marker]) for marker, number in arrived.items() if number > len(told[marker])}
        self.assertEqual(more, {}, "these arrived more often than they were sent")
        shares = [len(node.messages()) for node in self.pair.nodes]
        self.assertTrue(all(shares), f"one node did nothing: {shares}")

    def each_message_is_delivered_or_queued(self, mail):
        """At this moment, with no node alive: what its sender was told is accepted has arrived, and the sender has all else."""

        def neither():
            queued = {entry["sender"].split("@")[0] for entry in mail.sender._entries()}
            # Read after the queue: what has left it since is in the log.
            arrived, told = mail.arrived(), mail.told()
            return [marker for marker in mail.handed if marker not in queued and not ("sent" in told[marker] and arrived[marker])]

        until(lambda: f"neither delivered nor queued: {neither()}", lambda: not neither())
        self.assertFalse(mail.sender.empty(mail.run), "there must be mail that waits")

    def both_logs_are_intact(self):
        files = [node.audit_log for node in self.pair.nodes]
        keys = [word for node in self.pair.nodes for word in ("--key", f"{node.key}.pub")]
        code, said = self.audit("verify", *keys, *files)
        self.assertEqual(code, 0, said)
        self.assertIn("2 logs, all intact", said)
        page = pathlib.Path(self.private.name, "report.html")
        code, said = self.audit("report", *keys, "--html", page, *files)
        self.assertEqual(code, 0, said)
