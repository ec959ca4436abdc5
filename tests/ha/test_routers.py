"""Two routers that intercept outbound mail, with keepalived, under load."""

from network import sh, until
from pair import HELD_INSIDE, HELD_OUTSIDE, shipped
from two_nodes import TwoNodes


class Keepalived(TwoNodes):
    """deploy/keepalived.conf and deploy/check-proxy."""

    def start(self, node):
        """Starts keepalived with the shipped file, which is the same on both."""
        private = self.private.name
        check = shipped("check-proxy", private)
        check.chmod(0o755)
        configuration = shipped("keepalived.conf", private, ("/usr/local/lib/starttls-proxy/check-proxy", check))
        node.spawn("keepalived", [
            "keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", configuration,
            "--pid", f"{private}/{node.name}.pid", "--vrrp_pid", f"{private}/{node.name}-vrrp.pid",
        ])

    def held(self, node, but_not=()):
        """Waits until the node, and nobody else, holds both addresses."""
        others = [other for other in self.pair.nodes if other is not node and other not in but_not]

        def moved():
            return all(node.holds(address) for address in (HELD_INSIDE, HELD_OUTSIDE)) and not any(
                other.holds(HELD_INSIDE) or other.holds(HELD_OUTSIDE) for other in others
            )

        said = lambda: "".join(f"\n{other.name}: {other.said('keepalived')}" for other in self.pair.nodes)
        until(lambda: f"{node.name} does not hold the addresses:{said()}", moved)

    def test_mail_survives_a_dead_proxy_and_a_dead_router(self):
        one, two = self.pair.nodes
        for node in (one, two):
            self.pair.outbound(node)
        self.start(one)
        self.held(one)
        self.start(two)
        until("two does not wait", lambda: "Entering BACKUP STATE" in two.said("keepalived"))
        mail = self.mail(self.pair.inside, self.pair.outside, "outside.test")
        mail.more(40)

        one.kill("proxy")
        self.held(two)
        mail.more(40)

        # It comes back, and does not take the addresses again.
        self.pair.outbound(one)
        until(lambda: one.said("keepalived"), lambda: one.said("keepalived").count("Entering BACKUP STATE") > 1)
        self.assertTrue(two.holds(HELD_INSIDE))

        two.lose()
        # What is switched off has an address still, and nobody can reach it there.
        self.held(one, but_not=[two])
        mail.more(40)

        # Nobody is left.
        one.kill("proxy")
        mail.stop()
        self.each_message_is_delivered_or_queued(mail)
        self.pair.outbound(one)
        mail.finish()
        for node in (one, two):
            for words in ("Unknown keyword", "SECURITY VIOLATION", "Unsafe permissions"):
                self.assertNotIn(words, (self.network.folder / f"{node.folder.parent.name}-keepalived-{node.name}.log").read_text())
        self.every_message_is_accounted_for(mail)
        self.both_logs_are_intact()

    def test_the_check_fails_where_nobody_answers(self):
        check = shipped("check-proxy", self.private.name)
        check.chmod(0o755)
        with self.assertRaises(RuntimeError):
            sh([check, "9100"], self.one.netns)
        self.pair.outbound(self.one)
        sh([check, "9100"], self.one.netns)
