"""Inbound: what a crowd, a cut line or our own trouble does to honest senders, and what strangers make us write."""

import contextlib
import re
import secrets
import socket
import ssl
import struct
import threading

import exim
import network as net
from case import Talk
from network import INSIDE, connect, until
from path import Edit
from test_inbound import Inbound


def client_hello():
    """The ClientHello with which OpenSSL begins a handshake."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="legacy.inside.test").do_handshake()
    return sent.read()


CROWD = ("192.0.2.77", "192.0.2.88")
EACH = 50
"""Connections of each of these, which is what one address may have by default; together far more than --max-handshakes."""


class Crowd(Inbound):
    """Attackers ask for all places for handshakes; honest senders still get their mail through."""

    def crowd(self, hello=b""):
        """A hundred clients that say STARTTLS, perhaps a ClientHello, and then nothing."""
        self.network.outside_address(*CROWD)
        clients = []
        for source in CROWD:
            for _ in range(EACH):
                client = connect(self.network.outside, INSIDE, 25, source)
                self.addCleanup(client.close)
                clients.append(client)
        for client in clients:
            lines = client.makefile("rb")
            self.assertRegex(lines.readline(), b"^220 ", self.explained())
            client.sendall(b"EHLO crowd.outside.test\r\n")
            self.assertIn(b"STARTTLS", self._whole(lines), "STARTTLS is not offered while there is a certificate")
            client.sendall(b"STARTTLS\r\n")
            self.assertRegex(self._whole(lines), b"^(220|421) ", self.explained())
            with contextlib.suppress(OSError):
                client.sendall(hello)

    def _whole(self, lines):
        reply = b""
        while line := lines.readline():
            reply += line
            if line[3:4] != b"-":
                break
        return reply

    def postfix_gets_through(self):
        sent = self.send("user@may.inside.test", postfix=self.world.sender)
        self.delivered(sent)
        self.never_in_the_clear(sent.marker)

    def exim_gets_through(self):
        log, marker, _ = exim_sends(self, "user@may.inside.test", "crowd")
        self.assertIn(" => user@may.inside.test", log, self.explained())
        self.never_in_the_clear(marker)

    def test_postfix_gets_through_a_crowd_that_is_silent_behind_starttls(self):
        self.inbound()
        self.crowd()
        self.postfix_gets_through()

    def test_exim_gets_through_a_crowd_that_is_silent_behind_starttls(self):
        self.inbound()
        self.crowd()
        self.exim_gets_through()

    def test_postfix_gets_through_a_crowd_that_is_silent_behind_its_client_hello(self):
        self.inbound()
        self.crowd(client_hello())
        self.postfix_gets_through()

    def test_burst_of_honest_clients_is_served_or_told_421(self):
        self.inbound("--max-sessions-per-client", "1000", "--max-handshakes", "5")
        outcomes = []

        def honest():
            try:
                outcomes.append(outcome())
            except OSError as error:
                outcomes.append(repr(error))

        def outcome():
            with Talk(self.network.outside, INSIDE) as client:
                client.reply()
                if "STARTTLS" not in client.say("EHLO burst.outside.test"):
                    return "STARTTLS is not offered"
                context = ssl.create_default_context(cafile=self.world.authority.root)
                reply = client.say("STARTTLS")
                if reply.startswith("421"):
                    return "421 closed" if client.closed() else "421 open"
                if not reply.startswith("220"):
                    return reply
                client.lines.close()
                client.socket = context.wrap_socket(client.socket, server_hostname="legacy.inside.test")
                client.lines = client.socket.makefile("rb")
                return client.say("EHLO burst.outside.test")[:3]

        threads = [threading.Thread(target=honest) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(net.PATIENCE)
        self.assertEqual(len(outcomes), 200, self.explained())
        self.assertEqual(set(outcomes) - {"250", "421 closed"}, set())
        self.assertIn("250", outcomes)


def exim_sends(case, recipient, label):
    """Exim outside with its defaults sends a mail; the log of its first try, the marker and the client."""
    client = exim.Client(case.network, f"{label}-{secrets.token_hex(3)}", case.network.outside, "exim.outside.test", smtp="")
    # Its own MAIL in the clear is not ours to keep back; the text is what must not cross.
    marker = "m" + secrets.token_hex(8)
    log = client.send(f"{label}@outside.test", [recipient], f"Subject: {marker}\n\n{marker}\n")
    case.assertNotIn(" ** ", log, case.explained())
    return log, marker, client


class CutOff(Inbound):
    """The network cuts one handshake: the sender that goes on in the clear keeps its mail, and delivers it later."""

    def line(self, edit=Edit(cut=True, times=1)):
        self.inbound()
        place = self.world.on_path(edit, (INSIDE, 25))
        self.addCleanup(place.serving.close)
        return place

    def test_exim_keeps_the_mail_and_delivers_it_at_the_retry(self):
        place = self.line()
        recipient = f"user@{place.inbound_domain}"
        log, marker, client = exim_sends(self, recipient, "cut")
        if f" => {recipient}" not in log:
            log = client.again()
        self.assertIn(f" => {recipient}", log, self.explained())
        self.world.postfix.delivered(recipient, marker)
        self.never_in_the_clear(marker)

    def test_postfix_keeps_the_mail_and_delivers_it_at_the_retry(self):
        place = self.line()
        sent = self.send(f"user@{place.inbound_domain}", postfix=self.world.sender)
        if sent.outcome.status == "deferred":
            self.again(sent)
        self.delivered(sent)
        self.never_in_the_clear(sent.marker)

    def test_line_on_which_no_handshake_succeeds_bounces_nothing(self):
        place = self.line(Edit(cut=True))
        exim_sends(self, f"user@{place.inbound_domain}", "always-cut")
        self.deferred(self.send(f"user@{place.inbound_domain}", postfix=self.world.sender))


class Started(Inbound):
    """A restart forgets the handshakes that it cut, so just after a start nobody is refused for good."""

    def test_mail_in_the_clear_is_deferred_just_after_a_start(self):
        self.inbound()
        client = self.connect()
        client.say("EHLO client.outside.test")
        self.assertRegex(client.say("MAIL FROM:<a@outside.test>"), "^4", self.explained())

    def test_exim_without_tls_keeps_its_mail_just_after_a_start(self):
        self.inbound()
        client = exim.Client(self.network, "started", self.network.outside, "exim.outside.test", smtp="hosts_avoid_tls = *")
        marker = "m" + secrets.token_hex(8)
        log = client.send(f"{marker}@outside.test", ["user@may.inside.test"], f"Subject: {marker}\n\n{marker}\n")
        self.assertNotIn(" ** ", log, self.explained())
        self.nothing_inside(marker)


class Behind(Inbound):
    """Replies to the world do not reveal the inside server's address."""

    PORT = 2701
    ADDRESSES = re.compile(r"10[.]25[.]|fd25:|2701")

    def legacy(self, session):
        listener = net.listen(self.network.inside, INSIDE, self.PORT)
        self.addCleanup(listener.close)
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    client.settimeout(net.PATIENCE)
                    with client:
                        session(client, client.makefile("rb"))

        threading.Thread(target=serve, daemon=True).start()

    def hears_nothing_of_it(self, session=None):
        """All replies that a client gets which goes as far as it can; the session may end by 421 anywhere."""
        if session:
            self.legacy(session)
        self.inbound("--upstream", f"{INSIDE}:{self.PORT}", "--hide-client-address", "--relay-probe", "off")
        with Talk(self.network.outside, net.GW_OUTSIDE, 2526) as client:
            replies = [client.reply(), client.say("EHLO client.outside.test")]
            client.starttls("legacy.inside.test", self.world.authority)
            for line in ("EHLO client.outside.test", "MAIL FROM:<a@outside.test>", "RCPT TO:<user@behind.test>", "DATA",
                         "Subject: x\r\n\r\nx\r\n.", "NOOP"):
                with contextlib.suppress(OSError):
                    replies.append(client.say(line))
                if not replies[-1] or replies[-1].startswith("421"):
                    break
        heard = "".join(replies)
        self.assertIn("421 ", heard)
        self.assertIn("the mail server behind this proxy", heard)
        self.assertIsNone(self.ADDRESSES.search(heard), heard)

    def test_while_it_is_down(self):
        self.hears_nothing_of_it()

    def test_when_it_closes_at_once(self):
        self.hears_nothing_of_it(lambda client, lines: None)

    def test_when_it_greets_with_554(self):
        self.hears_nothing_of_it(lambda client, lines: client.sendall(b"554 10.25.0.2 takes no mail\r\n"))

    def test_when_its_greeting_is_none(self):
        self.hears_nothing_of_it(lambda client, lines: client.sendall(b"SSH-2.0-x 10.25.0.2\r\n"))

    def test_when_it_refuses_ehlo(self):
        def session(client, lines):
            client.sendall(b"220 legacy\r\n")
            for _ in lines:
                client.sendall(b"550 5.7.1 not from you\r\n")

        self.hears_nothing_of_it(session)

    def closes_at(self, verb, reply=b""):
        def session(client, lines):
            client.sendall(b"220 legacy\r\n")
            for line in lines:
                if line.startswith(verb):
                    return client.sendall(reply)
                if line == b"DATA\r\n":
                    client.sendall(b"354 go on\r\n")
                    while lines.readline() not in (b".\r\n", b""):
                        pass
                    if verb == b".":
                        return client.sendall(reply)
                client.sendall(b"250 ok\r\n")
            return None

        return session

    def test_when_it_closes_at_mail(self):
        self.hears_nothing_of_it(self.closes_at(b"MAIL"))

    def test_when_it_closes_at_data(self):
        self.hears_nothing_of_it(self.closes_at(b"DATA"))

    def test_when_it_closes_behind_the_message(self):
        self.hears_nothing_of_it(self.closes_at(b"."))

    def test_when_its_reply_is_none(self):
        self.hears_nothing_of_it(self.closes_at(b"RCPT", b"what?\r\n"))


class Strangers(Inbound):
    """What a stranger makes us write is bounded."""

    AUDIT_OCTETS = 1_000_000
    """Most that eight connections make the audit log grow by in six seconds, whatever they say."""
    LOG_OCTETS = 500_000
    """The same for the log, at its ordinary level; and for 3,000 connections that are reset at once."""

    def written(self):
        return self.proxy.audit_log.stat().st_size, self.proxy.process.log.stat().st_size

    def bounded(self, before):
        audit, log = (now - then for now, then in zip(self.written(), before))
        self.assertLess(audit, self.AUDIT_OCTETS)
        self.assertLess(log, self.LOG_OCTETS)

    def flood(self, netns, address, port, command, secure=None):
        """Eight connections that say nonsense as fast as they can for six seconds, and come again when they are thrown out."""
        over = threading.Event()
        sent = []

        def stranger():
            while not over.is_set():
                with contextlib.suppress(OSError, ssl.SSLError):
                    with Talk(netns, address, port) as client:
                        client.reply()
                        client.say("EHLO stranger.test")
                        if secure:
                            client.starttls(secure, self.world.authority)
                            client.say("EHLO stranger.test")
                        client.socket.settimeout(5)
                        while not over.is_set():
                            client.raw(command * 20)
                            sent.append(20)
                            if not client.reply():
                                break

        threads = [threading.Thread(target=stranger) for _ in range(8)]
        for thread in threads:
            thread.start()
        over.wait(6)
        over.set()
        for thread in threads:
            thread.join(net.PATIENCE)
        return sum(sent)

    def test_bad_commands_in_the_clear_inbound(self):
        self.inbound(log="info")
        before = self.written()
        self.assertGreater(self.flood(self.network.outside, INSIDE, 25, b"MAIL FROM:<" + b"a" * 60 + b"@b.test>\r\n"), 100)
        self.bounded(before)

    def test_bad_commands_in_tls_inbound(self):
        self.inbound(log="info")
        before = self.written()
        self.flood(self.network.outside, INSIDE, 25, b"RCPT TO:<" + b"a" * 60 + b"\r\n", secure="legacy.inside.test")
        self.bounded(before)

    def test_senders_that_are_not_who_they_must_be_inbound(self):
        table = self.network.folder / "strangers-partners"
        table.write_text("@partner.test secure match=mx.partner.test\n")
        self.inbound("--client-auth", "request", "--client-ca", self.world.authority.root, "--policy", table, log="info")
        before = self.written()
        self.flood(self.network.outside, INSIDE, 25, b"MAIL FROM:<" + b"a" * 60 + b"@partner.test>\r\n", secure="legacy.inside.test")
        self.bounded(before)

    def test_connections_that_are_reset_at_once(self):
        self.inbound(log="info")
        before = self.written()
        reset = struct.pack("ii", 1, 0)
        for _ in range(3000):
            client = connect(self.network.outside, INSIDE)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            client.close()
        # A session that is answered now, also by 421, was accepted after all of them.
        with Talk(self.network.outside, INSIDE) as client:
            client.reply()
        self.bounded(before)

    def test_recipients_of_one_domain_are_one_verdict(self):
        self.outbound()
        place = self.world.honest()
        self.addCleanup(place.serving.close)
        with Talk(self.network.inside, place.address) as client:
            client.reply()
            client.say("EHLO legacy.inside.test")
            client.say("MAIL FROM:<a@inside.test>")
            first = client.say(f"RCPT TO:<user@{place.domain}>")
            self.assertRegex(first, "^250 ", self.explained())
            before = self.proxy.audit_log.stat().st_size
            for n in range(299):
                self.assertRegex(client.say(f"RCPT TO:<user{n}@{place.domain}>"), "^250 ")
            client.say("QUIT")
        until("the end of the session is not recorded", lambda: self.proxy.records("session-closed"))
        verdicts = self.proxy.records("verdict")
        # The first one was on disk before its recipient was answered; a second one may have the count.
        self.assertLessEqual(len(verdicts), 2)
        numbers = set(re.findall(r"[:,](\d+)", self.proxy.audit_log.read_text()))
        self.assertTrue(numbers & {"299", "300"}, "nowhere is it said how many there were")
        self.assertLess(self.proxy.audit_log.stat().st_size - before, 20_000)
