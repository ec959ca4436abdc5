"""The lab's world without its proxy: the legacy server inside, servers and a sender outside, and their DNS."""

import collections
import re
import secrets

import certificates
import postfix
from capture import Capture
from names import SERVER, Names, Zone
from network import INSIDE, PATIENCE, Network, until

MX = "192.0.2.101"


class World:
    """Real mail servers on both sides of where the package is installed."""

    def __init__(self):
        self.network = network = Network()
        try:
            network.outside_address(MX)
            folder = network.folder / "certificates"
            folder.mkdir()
            self.authority = certificates.Authority(folder / "trusted", "Authority")
            self.own = self.authority.issue("legacy", ["legacy.inside.test"])
            mx = self.authority.issue("good", ["mx.good.plain.test"])
            nameserver = f"ns.test. A {SERVER}\n"
            self.names = Names(network, [
                Zone(".", nameserver, signed=True),
                Zone("test.", nameserver, signed=True),
                Zone("plain.test.", f"good MX 10 mx.good\nmx.good A {MX}\n"),
                Zone("inside.test.", f"@ MX 10 legacy\nlegacy A {INSIDE}\n", signed=True),
            ])
            self.outside = postfix.outside(network, {MX: mx})
            self.inside = postfix.inside(network)
            self.sender = postfix.sender(network, self.authority)
            self.wire = Capture(network, "gwo", "192.0.2.2")
        except BaseException:
            network.close()
            raise

    def outbound(self):
        """Sends a mail to the world; returns its marker at once."""
        return self._send(self.inside, "user@good.plain.test")

    def inbound(self):
        """Sends a mail from the world; returns its marker at once."""
        return self._send(self.sender, "user@inside.test")

    def _send(self, server, recipient):
        marker = "m" + secrets.token_hex(8)
        sender = f"{marker}@{'inside' if server is self.inside else 'outside'}.test"
        server.send(sender, [recipient], f"From: <{sender}>\nTo: <{recipient}>\nSubject: {marker}\n\nmarker {marker}\n")
        return marker

    def out(self, patience=PATIENCE):
        """A mail goes out and arrives; nobody on the wire outside can read it."""
        marker = self.outbound()
        received = self.outside.delivered("user@good.plain.test", marker, patience).decode()
        assert "from legacy.inside.test (unknown [10.25.0.2])" in received, received
        assert "(using TLSv1.3 with cipher " in received, received
        assert not self.wire.has(marker), "the mail crossed the wire outside in the clear"

    def into(self, patience=PATIENCE):
        """A mail comes in."""
        marker = self.inbound()
        received = self.inside.delivered("user@inside.test", marker, patience).decode()
        assert "from sender.outside.test (unknown [192.0.2.2])" in received, received
        assert not self.wire.has(marker), "the mail crossed the wire outside in the clear"

    def arrives_once(self, outbound, inbound):
        """Each of these mails arrives, at the latest at its retry, and none twice."""
        for server, at, recipient, markers in (
            (self.inside, self.outside, "user@good.plain.test", outbound),
            (self.sender, self.inside, "user@inside.test", inbound),
        ):
            def settled(server=server, at=at):
                server.flush()
                # The receiver answers before it delivers. Once the sender has nothing more, nothing more comes.
                return server.empty() and at.empty()
            until(lambda: f"still queued:\n{server.queue()}\n{at.queue()}\n{server.log_tail()}", settled, 3 * PATIENCE)
            # There are thousands: each file is read once.
            arrived = b"".join(at.all_delivered(recipient, "\nmarker m"))
            copies = collections.Counter(found.decode() for found in re.findall(rb"^marker (m[0-9a-f]{16})$", arrived, re.M))
            wrong = {marker: copies[marker] for marker in markers if copies[marker] != 1}
            assert not wrong, f"copies that arrived, where it was not one: {wrong}"

    def close(self):
        self.network.close()
