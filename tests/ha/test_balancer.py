"""HAProxy in front of two inbound nodes, under load."""

import re

from network import sh, until
from pair import DEPLOY, OUTSIDE
from two_nodes import TwoNodes


class HAProxy(TwoNodes):
    """deploy/haproxy.cfg, as it is."""

    def test_mail_survives_the_death_of_either_node(self):
        one, two = self.pair.nodes
        for node in (one, two):
            self.pair.inbound(node)
        haproxy = self.network.spawn("balancer", ["haproxy", "-db", "-f", DEPLOY / "haproxy.cfg"], self.network.balancer)
        self.addCleanup(haproxy.terminate)
        until(
            lambda: f"HAProxy does not listen:\n{haproxy.log.read_text()}",
            lambda: sh(["ss", "-Htln", "sport = :25"], self.network.balancer).strip(),
        )
        mail = self.mail(self.pair.outside, self.pair.inside, "inside.test")
        self._through(mail, one, two)

        one.kill("proxy")
        self._through(mail, two)
        self.pair.inbound(one)
        self._through(mail, one)

        two.kill("proxy")
        self._through(mail, one)
        self.pair.inbound(two)
        self._through(mail, two)

        # Nobody is left.
        for node in (one, two):
            node.kill("proxy")
        mail.stop()
        self.each_message_is_delivered_or_queued(mail)
        for node in (one, two):
            self.pair.inbound(node)
        mail.finish()
        self.every_message_is_accounted_for(mail)
        self.both_logs_are_intact()
        # The server inside sees who the client is, through both.
        seen = self.pair.inside.log.read_text()
        self.assertIn(f"client=unknown[{OUTSIDE}]", seen)
        self.assertIsNone(re.search(r": client=\S*\[10\.25\.0\.1[12]\]", seen))

    def _through(self, mail, *nodes):
        """Waits until each of the nodes has taken more mail."""
        before = {node: len(node.messages()) for node in nodes}
        mail.more(20)
        for node in nodes:
            until(lambda: f"{node.name} gets no mail:\n{node.said('proxy')}", lambda: len(node.messages()) > before[node], 60)
