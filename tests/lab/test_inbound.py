"""Inbound: real senders outside reach the legacy server through TPROXY, in TLS or not at all."""

import re
import secrets
import socket
import ssl
import threading
import time

import exim
import haproxy
import network as net
import postfix
from case import Case, Talk
from network import INSIDE, sh, until


class Inbound(Case):
    """What these cases share."""

    def comes_in(self, recipient):
        """Postfix outside sends a mail that must reach the legacy server; returns it as delivered, and the outcome."""
        sent = self.send(recipient, postfix=self.world.sender)
        self.assertEqual(sent.outcome.status, "sent", f"{sent.outcome.words}\n{self.explained()}")
        self.never_in_the_clear(sent.marker)
        return self.world.postfix.delivered(recipient, sent.marker).decode(), sent

    def connect(self, source="192.0.2.2", to=INSIDE):
        """A client outside that has read the greeting."""
        client = Talk(self.network.outside, to, source=source)
        self.addCleanup(client.__exit__)
        self.assertRegex(client.reply(), "^220 ", self.explained())
        return client

    def nothing_inside(self, marker):
        """The marker did cross the outer leg, and nothing of it the inner one."""
        self.assertTrue(self.world.outer.has(marker), "the capture outside did not see it: it is broken")
        self.assertFalse(self.world.inner.has(marker), f"it reached the inner leg\n{self.explained()}")


class Senders(Inbound):
    """A sender that insists on a verified server accepts the proxy, and the legacy server sees the sender's address."""

    def test_postfix_secure_over_ipv4(self):
        self.inbound()
        received, sent = self.comes_in("user@inside.test")
        self.assertIn("from sender.outside.test (unknown [192.0.2.2])", received)
        self.assertIn("Verified TLS connection established to legacy.inside.test[10.25.0.2]:25: TLSv1.3", self.world.sender.log_tail())

    def test_postfix_over_ipv6(self):
        self.inbound()
        received, _ = self.comes_in("user@v6.inside.test")
        self.assertIn("from sender.outside.test (unknown [IPv6:2001:db8::2])", received)

    def test_postfix_dane_only_with_our_published_key(self):
        self.inbound()
        self.comes_in("user@dane.inside.test")
        self.assertIn("Verified TLS connection established to legacy.inside.test", self.world.sender.log_tail())

    def test_exim_in_chunks(self):
        self.inbound()
        client = exim.Client(
            self.network, "outside", self.network.outside, "exim.outside.test",
            smtp=f"hosts_require_tls = *\n  tls_verify_certificates = {self.world.authority.root}\n"
            "  tls_verify_hosts = *\n  tls_verify_cert_hostnames = *",
        )
        marker = "m" + secrets.token_hex(8)
        text = "".join(f".{secrets.token_hex(30)}\n" for _ in range(3000))
        log = client.send(f"{marker}@outside.test", ["user@inside.test"], f"Subject: {marker}\n\n{text}")
        self.assertRegex(log, r" => user@inside.test .* X=TLS1.3:\S+ CV=(yes|dane) .* K ", self.explained())
        self.never_in_the_clear(marker)
        delivered = self.world.postfix.delivered("user@inside.test", marker).decode()
        self.assertEqual(delivered.partition("\n\n")[2], text)
        self.assertIn("(unknown [192.0.2.2])", delivered)

    def test_opensmtpd(self):
        self.inbound()
        marker = "m" + secrets.token_hex(8)
        self.world.opensmtpd.send(f"{marker}@outside.test", "user@inside.test", f"Subject: {marker}\r\n\r\n{marker}\r\n")
        delivered = self.world.postfix.delivered("user@inside.test", marker).decode()
        self.assertIn("from opensmtpd.outside.test (unknown [192.0.2.2])", delivered)
        self.assertIn('server-cert-check result="success"', self.world.opensmtpd.log())
        self.never_in_the_clear(marker)

    def test_swaks(self):
        self.inbound()
        marker = "m" + secrets.token_hex(8)
        said = sh(
            ["swaks", "--server", INSIDE, "--from", f"{marker}@outside.test", "--to", "user@inside.test", "--tls", "--body", marker],
            self.network.outside,
        )
        self.assertIn("=== TLS started with cipher TLSv1.3", said)
        self.world.postfix.delivered("user@inside.test", marker)
        self.never_in_the_clear(marker)

    def test_openssl_s_client(self):
        self.inbound()
        said = sh(
            ["openssl", "s_client", "-starttls", "smtp", "-connect", f"{INSIDE}:25", "-servername", "legacy.inside.test",
             "-CAfile", self.world.authority.root, "-verify_return_error", "-crlf", "-quiet", "-ign_eof"],
            self.network.outside, input="EHLO s-client.outside.test\nQUIT\n",
        )
        self.assertIn("250-legacy.inside.test", said)
        self.assertNotIn("250-STARTTLS", said)
        self.assertRegex(said, "221 ")

    def test_unknown_recipient_is_refused_in_the_servers_own_words(self):
        self.inbound()
        sent = self.send("unknown@inside.test", postfix=self.world.sender)
        self.assertEqual(sent.outcome.status, "bounced", sent.outcome.words + self.explained())
        self.assertIn("550 5.1.1 <unknown@inside.test>: Recipient address rejected: User unknown", sent.outcome.words)


class Cleartext(Inbound):
    """Without STARTTLS nothing gets in. Just after a start the refusal is 4yz, since what a restart cut is forgotten."""

    def test_mail_without_tls_is_refused_and_nothing_of_it_reaches_the_inside(self):
        self.inbound()
        marker = "m" + secrets.token_hex(8)
        command = ["swaks", "--server", INSIDE, "--from", f"{marker}@outside.test", "--to", "user@inside.test", "--body", marker]
        said = sh(["sh", "-c", '"$@" || echo "exit code $?"', "sh", *command], self.network.outside)
        self.assertRegex(said, r"\n<\*\* 4\d\d ")
        self.assertIn("exit code", said)
        self.nothing_inside(marker)

    def test_before_tls_the_legacy_server_is_not_even_connected_to(self):
        connected = self.world.postfix.log.read_text().count(" connect from ")
        self.inbound("--relay-probe", "off")
        client = self.connect()
        self.assertRegex(client.say("EHLO client.outside.test"), "250[ -]STARTTLS")
        for line in ("NOOP", "RSET", "HELO client.outside.test", "HELP"):
            self.assertRegex(client.say(line), "^2", line)
        self.assertRegex(client.say("MAIL FROM:<a@outside.test>"), "^4")
        for line in ("VRFY root", "AUTH PLAIN AGEAYg==", "XCLIENT ADDR=127.0.0.1"):
            self.assertRegex(client.say(line), "^[45]", line)
        self.assertRegex(client.say("QUIT"), "^221 ")
        self.assertTrue(client.closed())
        self.assertEqual(self.world.postfix.log.read_text().count(" connect from "), connected)

    def test_commands_behind_starttls_in_one_segment_end_the_session(self):
        self.inbound()
        marker = "m" + secrets.token_hex(8)
        client = self.connect()
        client.say("EHLO client.outside.test")
        client.raw(f"STARTTLS\r\nMAIL FROM:<{marker}@outside.test>\r\n".encode())
        self.assertRegex(client.reply(), "^554 5.5.0 ")
        self.assertTrue(client.closed())
        self.nothing_inside(marker)

    def test_commands_between_starttls_and_the_handshake_end_the_session(self):
        self.inbound()
        marker = "m" + secrets.token_hex(8)
        client = self.connect()
        client.say("EHLO client.outside.test")
        self.assertRegex(client.say("STARTTLS"), "^220 ")
        client.raw(f"MAIL FROM:<{marker}@outside.test>\r\n".encode())
        self.assertNotRegex(client.reply(), "^[23]")
        self.nothing_inside(marker)

    def is_recorded_as_unprotected(self):
        """Waits for the record, because no client waits for it."""
        until(lambda: f"no record of it\n{self.explained()}", lambda: len(self.proxy.records("unprotected")) == 1)

    def test_exempt_client_may_speak_in_the_clear_and_it_is_recorded(self):
        self.inbound("--exempt", "192.0.2.77/32")
        self.network.outside_address("192.0.2.77")
        client = self.connect(source="192.0.2.77")
        client.say("EHLO scanner.outside.test")
        self.assertRegex(client.say("MAIL FROM:<scanner@outside.test>"), "^250", self.explained())
        self.assertRegex(client.say("RCPT TO:<user@inside.test>"), "^250")
        client.say("QUIT")
        self.is_recorded_as_unprotected()
        other = self.connect()
        other.say("EHLO scanner.outside.test")
        self.assertRegex(other.say("MAIL FROM:<scanner@outside.test>"), "^4")

    def test_observe_lets_plaintext_pass_and_records_it(self):
        self.inbound("--observe")
        client = self.connect()
        self.assertRegex(client.say("EHLO client.outside.test"), "250[ -]STARTTLS")
        self.assertRegex(client.say("MAIL FROM:<a@outside.test>"), "^250", self.explained())
        client.say("QUIT")
        self.is_recorded_as_unprotected()


class Certificates(Inbound):
    """Which certificate is shown, and whose is demanded."""

    POLICY = "@partner.test secure match=mx.partner.test\n"

    def shown(self, *flags):
        """The certificate that openssl s_client is shown."""
        said = sh(["openssl", "s_client", "-starttls", "smtp", "-connect", f"{INSIDE}:25", *flags], self.network.outside)
        return re.search("subject=CN = (.*)", said)[1]

    def test_name_in_sni_chooses_the_certificate_and_the_first_serves_where_none_fits(self):
        self.inbound("--cert", self.world.second.chain, "--key", self.world.second.key)
        self.assertEqual(self.shown("-servername", "second.inside.test"), "second.inside.test")
        self.assertEqual(self.shown("-servername", "legacy.inside.test"), "legacy.inside.test")
        self.assertEqual(self.shown("-servername", "nobody.inside.test"), "legacy.inside.test")
        self.assertEqual(self.shown("-noservername"), "legacy.inside.test")

    def with_certificate(self, certificate, *flags, sender="a@partner.test", policy=POLICY):
        """What MAIL from the partner gets over TLS with this client certificate; `None` where the handshake fails."""
        table = self.network.folder / "partners"
        table.write_text(policy)
        self.inbound("--client-auth", "request", "--client-ca", self.world.authority.root, "--policy", table, *flags)
        client = self.connect()
        client.say("EHLO mx.partner.test")
        try:
            client.starttls("legacy.inside.test", self.world.authority, certificate)
            client.say("EHLO mx.partner.test")
            return client.say(f"MAIL FROM:<{sender}>")
        except (ssl.SSLError, OSError) as error:
            return f"handshake: {error}"

    def test_partner_with_its_certificate_may_send(self):
        own = self.world.authority.issue("partner", ["mx.partner.test"], usage="clientAuth")
        self.assertRegex(self.with_certificate(own), "^250 ", self.explained())

    def test_partners_mail_from_another_host_is_refused(self):
        other = self.world.authority.issue("not-partner", ["mx.somebody.test"], usage="clientAuth")
        self.assertRegex(self.with_certificate(other), "^550 5.7.1 .*partner.test", self.explained())

    def test_partners_mail_without_certificate_is_refused(self):
        self.assertRegex(self.with_certificate(None), "^5[35]0 5.7.[01] .*partner.test", self.explained())

    def test_partners_mail_with_an_expired_certificate_is_refused(self):
        expired = self.world.authority.issue("expired-partner", ["mx.partner.test"], days=(-30, -1), usage="clientAuth")
        # The handshake does not prove that the clock of this host is right, so the mail waits with its sender.
        self.assertRegex(self.with_certificate(expired), "^451 4.7.1 .*certificate-expired", self.explained())
        self.proxy.stop()
        by_address = self.with_certificate(expired, policy="[192.0.2.2] secure match=mx.partner.test\n")
        self.assertRegex(by_address, "^4.*certificate-expired", self.explained())

    def test_partners_mail_with_a_certificate_of_an_unknown_authority_is_refused(self):
        forged = self.world.stranger.issue("forged-partner", ["mx.partner.test"], usage="clientAuth")
        self.assertNotRegex(self.with_certificate(forged), "^2", self.explained())

    def test_certificate_for_servers_only_is_taken_on_request_only(self):
        server = self.world.authority.issue("server-partner", ["mx.partner.test"], usage="serverAuth")
        self.assertNotRegex(self.with_certificate(server), "^2", self.explained())
        self.proxy.stop()
        self.assertRegex(self.with_certificate(server, "--accept-server-eku"), "^250 ", self.explained())

    def test_mail_of_others_needs_no_certificate(self):
        self.assertRegex(self.with_certificate(None, sender="a@somebody.test"), "^250 ", self.explained())


class InFront(Inbound):
    """HAProxy with PROXY v2 in front, and a PROXY header to the legacy server behind."""

    @classmethod
    def setUpClass(cls):
        cls.haproxy = None

    def start(self):
        self.inbound(
            "--upstream", f"{INSIDE}:{postfix.PROXY_PROTOCOL}", "--accept-proxy", "192.0.2.0/24", "--send-proxy", "v2",
        )
        type(self).haproxy = self.haproxy or haproxy.HAProxy(self.network)
        until(lambda: f"HAProxy says {self.haproxy.health()}\n{self.explained()}", lambda: self.haproxy.health() in ("UP L7OK", "UP L6OK"))

    def test_its_health_check_finds_the_proxy_and_clients_are_seen_through_both(self):
        self.start()
        self.network.outside_address("192.0.2.88")
        marker = "m" + secrets.token_hex(8)
        with Talk(self.network.outside, haproxy.ADDRESS, source="192.0.2.88") as client:
            self.assertRegex(client.reply(), "^220 ", self.explained())
            client.say("EHLO client.outside.test")
            client.starttls("legacy.inside.test", self.world.authority)
            client.say("EHLO client.outside.test")
            client.say(f"MAIL FROM:<{marker}@outside.test>")
            self.assertRegex(client.say("RCPT TO:<user@inside.test>"), "^250 ", self.explained())
            client.say("DATA")
            self.assertRegex(client.say(f"Subject: x\r\n\r\n{marker}\r\n."), "^250 ")
            client.say("QUIT")
        self.assertIn("(unknown [192.0.2.88])", self.world.postfix.delivered("user@inside.test", marker).decode())

    def test_proxy_header_of_a_client_that_is_not_listed_is_not_believed(self):
        self.inbound(
            "--upstream", f"{INSIDE}:{postfix.PROXY_PROTOCOL}", "--accept-proxy", "198.51.100.0/24", "--send-proxy", "v1",
        )
        with Talk(self.network.outside, net.GW_OUTSIDE, 2526) as client:
            self.assertRegex(client.reply(), "^220 ", self.explained())
            self.assertRegex(client.say("PROXY TCP4 203.0.113.1 192.0.2.1 25 25"), "^[45]")


class Behind(Inbound):
    """The legacy server fails, and the mail stays with the sender."""

    PORT = 2700

    def legacy(self, session):
        """A server inside that does this with each connection, given the socket and the number of the connection."""
        listener = net.listen(self.network.inside, INSIDE, self.PORT)
        # A plain close is not enough: a thread that waits in accept keeps the socket alive.
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)

        def serve():
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return listener.close()
                client.settimeout(net.PATIENCE)
                with client:
                    session(client, client.makefile("rb"))

        threading.Thread(target=serve, daemon=True).start()
        self.inbound("--upstream", f"{INSIDE}:{self.PORT}", "--hide-client-address", "--relay-probe", "off")

    def stays_outside(self, *words):
        """Postfix outside sends to the proxy's own port, and keeps the mail."""
        sent = self.send("user@behind.test", postfix=self.world.sender)
        self.assertEqual(sent.outcome.status, "deferred", f"{sent.outcome.words}\n{self.explained()}")
        for word in words:
            self.assertIn(word, sent.outcome.words)
        return sent

    def test_while_it_is_down_the_sender_is_told_421_and_keeps_the_mail(self):
        self.inbound("--upstream", f"{INSIDE}:{self.PORT}", "--hide-client-address", "--relay-probe", "off")
        self.stays_outside("421 4.4.1 ")

    def test_while_it_says_421_the_sender_keeps_the_mail(self):
        self.legacy(lambda client, lines: client.sendall(b"421 4.3.2 legacy is busy\r\n"))
        self.stays_outside("421 ")

    def test_when_it_closes_in_the_midst_of_a_message_the_sender_keeps_the_mail(self):
        def session(client, lines):
            client.sendall(b"220 legacy\r\n")
            for line in lines:
                if line == b"DATA\r\n":
                    client.sendall(b"354 go on\r\n")
                    lines.readline()
                    return
                client.sendall(b"250 ok\r\n")

        self.legacy(session)
        self.stays_outside("")
        (record,) = until("the message is not recorded", lambda: self.proxy.records("message"))
        self.assertEqual(record["outcome"], "unknown")

    def test_when_it_is_slow_the_mail_arrives(self):
        taken = []

        def session(client, lines):
            time.sleep(1)
            client.sendall(b"220 legacy\r\n")
            for line in lines:
                time.sleep(0.2)
                if line == b"DATA\r\n":
                    client.sendall(b"354 go on\r\n")
                    while (text := lines.readline()) not in (b".\r\n", b""):
                        taken.append(text)
                client.sendall(b"250 ok\r\n")

        self.legacy(session)
        sent = self.send("user@behind.test", postfix=self.world.sender)
        self.assertEqual(sent.outcome.status, "sent", sent.outcome.words + self.explained())
        self.assertIn(f"marker {sent.marker}\r\n".encode(), taken)

    def test_open_relay_behind_us_is_warned_about_at_the_start(self):
        running = self.inbound("--upstream", f"{INSIDE}:{postfix.OPEN_RELAY}", "--hide-client-address")
        until(lambda: f"no warning:\n{running.log()}", lambda: re.search("OPEN RELAY: ", running.log()))
