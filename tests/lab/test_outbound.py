"""Outbound: a real Postfix without TLS sends through TPROXY to real and to hostile servers."""

import hashlib
import pathlib
import secrets

import exim
import proxy
from case import Case, Talk
from network import BEYOND, GW, INSIDE, sh, until


class Control(Case):
    """Without the proxy and its rules mail does cross in the clear, and the capture finds it."""

    def setUp(self):
        super().setUp()
        proxy.closed(self.network)
        self.addCleanup(proxy.routing, self.network, "tproxy")

    def test_without_the_proxy_the_capture_finds_the_mail_outside(self):
        sent = self.send("user@sink.plain.test")
        self.assertEqual(sent.outcome.status, "sent", sent.outcome.words)
        self.assertTrue(self.world.inner.has(sent.marker))
        self.assertTrue(self.world.outer.has(f"marker {sent.marker}"))
        self.assertTrue(self.world.outer.has(f"MAIL FROM:<{sent.sender}>"))


class Delivers(Case):
    """Mail that must arrive does so over TLS and unchanged."""

    def test_mail_arrives_over_tls_1_3_from_the_senders_own_address(self):
        self.outbound()
        received = self.arrives("user@good.plain.test")
        self.assertIn("from legacy.inside.test (unknown [10.25.0.2])", received)
        self.assertIn("(using TLSv1.3 with cipher ", received)

    def test_mail_arrives_by_ipv6_from_the_senders_own_address(self):
        self.outbound()
        received = self.arrives("user@good6.plain.test")
        self.assertIn("from legacy.inside.test (unknown [IPv6:fd25::2])", received)
        self.assertIn("(using TLSv1.3 with cipher ", received)

    def test_exim_takes_mail(self):
        self.outbound()
        sent = self.send("user@exim.plain.test")
        self.assertEqual(sent.outcome.status, "sent", sent.outcome.words)
        self.never_in_the_clear(sent.marker)
        received = self.world.hosts["exim"].serving.delivered(sent.marker).decode()
        self.assertIn("[10.25.0.2]", received)
        self.assertIn("TLS1.3", received)

    def test_first_mx_without_starttls_is_passed_over(self):
        self.outbound()
        self.arrives("user@fallback.plain.test")
        self.told_nothing("clear")

    def test_first_mx_with_a_bad_certificate_is_passed_over(self):
        self.outbound()
        self.arrives("user@fallbackcertificate.plain.test")

    def test_first_mx_without_starttls_on_two_addresses_is_passed_over(self):
        self.outbound()
        self.arrives("user@fallbackdual.plain.test")
        self.told_nothing("deaf")

    def test_bad_certificate_is_remembered_so_that_a_retry_reaches_the_second_mx(self):
        self.outbound()
        recipient = "user@fallbackdualcertificate.plain.test"
        # Both sessions that Postfix allows for one delivery go to the two addresses of the first host.
        sent = self.send(recipient)
        if sent.outcome.status == "deferred":
            self.world.postfix.retry(sent.outcome.queue_id)
            until(
                lambda: f"not sent at the retry: {self.world.postfix.log_tail()}\n{self.explained()}",
                lambda: self.world.postfix.outcome(sent.sender, [recipient]).status == "sent",
            )
        self.never_in_the_clear(sent.marker)
        self.world.outside.delivered(recipient, sent.marker)

    def test_four_megabytes_arrive_byte_for_byte(self):
        sink = self.world.hosts["sink"].serving[0]
        sink.messages.clear()
        self.outbound()
        text = "".join(f".{secrets.token_hex(350)}\n" if n % 3 else f"{secrets.token_urlsafe(500)}\n" for n in range(6000))
        self.assertGreater(len(text), 4_000_000)
        sent = self.send("user@sink.plain.test", text=text)
        self.assertEqual(sent.outcome.status, "sent", sent.outcome.words)
        self.never_in_the_clear(sent.marker)
        (message,) = sink.messages
        body = message.partition(b"\r\n\r\n")[2]
        expected = f"marker {sent.marker}\n{text}".replace("\n.", "\n..").replace("\n", "\r\n").encode()
        self.assertTrue(body == expected, "the text has changed on the way")
        (record,) = self.proxy.records("message")
        self.assertEqual(record["octets"], len(message))
        self.assertEqual(record["sha256"], hashlib.sha256(message).hexdigest())

    def test_large_mail_passes_a_narrow_link_because_the_proxy_hears_of_it(self):
        self.outbound()
        for name in ("narrow", "narrow6"):
            with self.subTest(name):
                sent = self.send(f"user@{name}.plain.test", text="much text\n" * 20_000)
                self.assertEqual(sent.outcome.status, "sent", sent.outcome.words)
                self.never_in_the_clear(sent.marker)
        # What gw has learned about an IPv6 path belongs to the sender's address, which is not gw's own, and is not shown.
        route = sh(["ip", "route", "get", BEYOND], self.network.gw)
        self.assertIn(" mtu 1280", route, "gw has not learned that the link is narrow")

    def test_exim_sends_in_chunks(self):
        sink = self.world.hosts["sink"].serving[0]
        for told in (sink.messages, sink.clear, sink.secure):
            told.clear()
        self.outbound()
        client = exim.Client(self.network, "inside", self.network.inside, "legacy.inside.test")
        marker = "m" + secrets.token_hex(8)
        text = "".join(f".{secrets.token_hex(30)}\n" for _ in range(5000))
        log = client.send(f"{marker}@inside.test", ["user@sink.plain.test"], f"Subject: {marker}\n\n{text}")
        self.assertIn(" => user@sink.plain.test", log, self.explained())
        self.never_in_the_clear(marker)
        self.assertTrue(any(line.startswith(b"BDAT ") for line in sink.secure), sink.secure[:9])
        self.assertEqual(sink.clear and {line.split()[0] for line in sink.clear} - {b"EHLO", b"STARTTLS"}, set())
        body = b"".join(sink.messages).partition(b"\r\n\r\n")[2]
        self.assertTrue(body == text.replace("\n", "\r\n").encode(), "the text has changed on the way")

    def test_three_messages_share_a_connection(self):
        running = self.outbound()
        before = self.world.outside.log.read_text().count(" disconnect from unknown[10.25.0.2]")
        for _ in range(3):
            self.arrives("user@three.plain.test")
        running.stop()  # ends the connection that Postfix keeps open
        log = until("Postfix outside logs the end", lambda: self._ends(before + 1))
        self.assertIn("mail=3 rcpt=3 data=3", log)

    def _ends(self, count):
        ends = [line for line in self.world.outside.log.read_text().splitlines() if " disconnect from unknown[10.25.0.2]" in line]
        return ends[-1] if len(ends) >= count else None


class Refuses(Case):
    """Mail that must not arrive stays in the queue, with the reason in the queue viewer."""

    def setUp(self):
        super().setUp()
        self.outbound()

    def test_expired_certificate(self):
        self.stays("user@expired.plain.test", "421 4.7.5 expired.plain.test: mx.expired.plain.test[", "certificate-expired")

    def test_certificate_that_is_not_yet_valid(self):
        self.stays("user@notyet.plain.test", "421 4.7.5 ", "certificate-expired")

    def test_self_signed_certificate(self):
        self.stays("user@selfsigned.plain.test", "421 4.7.5 ", "certificate-not-trusted")

    def test_certificate_for_another_name(self):
        self.stays(
            "user@wrongname.plain.test", "421 4.7.5 ", "certificate-host-mismatch", "mx.somebody-else.test"
        )

    def test_certificate_of_an_unknown_authority(self):
        self.stays("user@unknownca.plain.test", "421 4.7.5 ", "certificate-not-trusted")

    def test_exim_with_a_certificate_of_an_unknown_authority(self):
        self.stays("user@eximbad.plain.test", "421 4.7.5 ", "certificate-not-trusted")

    def test_postfix_without_starttls(self):
        self.stays("user@nostarttls.plain.test", "421 4.7.4 ", "starttls-not-supported")

    def test_server_that_would_take_mail_in_the_clear(self):
        self.stays("user@clear.plain.test", "421 4.7.4 ", "starttls-not-supported")
        self.told_nothing("clear")

    def test_starttls_masked_by_a_firewall_is_said_to_be_masked(self):
        self.stays("user@masked.plain.test", "421 4.7.4 ", "starttls-not-supported", "XXXXXXXA")
        self.told_nothing("masked")

    def test_starttls_stripped_on_the_path(self):
        self.stays("user@strips.plain.test", "421 4.7.4 ", "starttls-not-supported")
        self.assertEqual([l for l in self.world.hosts["strips"].serving[0].clear if l.split()[0] not in (b"EHLO", b"QUIT")], [])

    def test_starttls_answered_with_454(self):
        self.stays("user@refuses.plain.test", "421 ", "starttls-refused", "454")
        self.told_nothing("refuses")

    def test_replies_injected_behind_the_220(self):
        self.stays("user@injects.plain.test", "421 4.7.5 ")
        self.told_nothing("injects")

    def test_server_that_knows_only_tls_1_0_is_named_as_such(self):
        self.stays("user@oldtls.plain.test", "421 4.7.5 ", "validation-failure", "TLS version")
        self.told_nothing("oldtls")

    def test_refusal_in_the_clear_does_not_bounce_mail(self):
        self.stays("user@bounces.plain.test", "421 ")

    def test_second_try_is_refused_in_the_greeting(self):
        self.stays("user@expired.plain.test", "421 4.7.5 ", "certificate-expired")
        with Talk(self.network.inside, self.world.hosts["expired"].v4) as client:
            self.assertRegex(client.reply(), "^421 4.7.5 .*certificate-expired")
            self.assertTrue(client.closed())

    def test_recipient_of_a_domain_that_the_server_may_not_have_is_refused_alone(self):
        sent = self.send("user@one.plain.test", "user@two.plain.test")
        one, two = (sent.outcome.statuses[f"user@{name}.plain.test"] for name in ("one", "two"))
        self.assertEqual(one[0], "sent", one[1] + self.explained())
        self.assertEqual(two[0], "deferred", two[1] + self.explained())
        self.assertRegex(two[1], "451 4.7.5 two.plain.test: ")
        self.never_in_the_clear(sent.marker)
        self.world.outside.delivered("user@one.plain.test", sent.marker)
        self.assertEqual(self.world.outside.all_delivered("user@two.plain.test", sent.marker), [])

    def test_unknown_recipient_bounces_with_the_servers_own_words(self):
        sent = self.send("unknown@good.plain.test")
        self.assertEqual(sent.outcome.status, "bounced", sent.outcome.words + self.explained())
        self.assertIn("said: 550 5.1.1 <unknown@good.plain.test>: Recipient address rejected: User unknown", sent.outcome.words)
        self.never_in_the_clear(sent.marker)


class Rejects(Case):
    """With --refuse-with reject, what authenticated facts have decided bounces, and nothing else does."""

    def setUp(self):
        super().setUp()
        self.outbound("--refuse-with", "reject")

    def test_missing_starttls_still_defers(self):
        self.stays("user@clear.plain.test", "421 4.7.4 ")

    def test_good_mail_still_arrives(self):
        self.arrives("user@good.plain.test")


class Observes(Case):
    """With --observe all mail flows, and what would have been refused is recorded."""

    def setUp(self):
        super().setUp()
        self.outbound("--observe")

    def test_expired_certificate_passes_in_tls(self):
        received = self.arrives("user@expired.plain.test")
        self.assertIn("(using TLSv1.3 with cipher ", received)
        self.assertIn("certificate-expired", str(self.proxy.records("verdict", "unprotected")))

    def test_server_without_starttls_gets_the_mail_in_the_clear(self):
        sent = self.send("user@nostarttls.plain.test")
        self.assertEqual(sent.outcome.status, "sent", sent.outcome.words + self.explained())
        self.assertTrue(self.world.outer.has(sent.marker))
        self.assertIn("starttls-not-supported", str(self.proxy.records("verdict", "unprotected")))
        # The record has the verdict that enforcing would have given, and says that TLS was missing.
        (record,) = self.proxy.records("message")
        self.assertEqual((record["verdict"], record["tls"], record["outcome"]), ("refused", None, "accepted"))


class Stopped(Case):
    """Where no proxy runs, nothing passes."""

    def test_while_it_is_not_there_nothing_passes(self):
        self.stays("user@good.plain.test", "Connection refused")

    def test_killed_between_two_mails_nothing_passes(self):
        self.outbound()
        self.arrives("user@good.plain.test")
        self.proxy.kill()
        self.stays("user@good.plain.test", "Connection refused")

    def test_killed_in_the_midst_of_a_message_nothing_more_passes(self):
        sink = self.world.hosts["sink"].serving[0]
        sink.messages.clear()
        sink.halves.clear()
        running = self.outbound()
        with Talk(self.network.inside, self.world.hosts["sink"].v4) as client:
            client.reply()
            for line in ("EHLO legacy.inside.test", "MAIL FROM:<a@inside.test>", "RCPT TO:<b@sink.plain.test>"):
                self.assertRegex(client.say(line), "^250", self.explained())
            self.assertRegex(client.say("DATA"), "^354")
            client.raw(b"Subject: half\r\n\r\n")
            running.kill()
            self.assertTrue(client.closed())
        # The server was in the middle of the message, and never got its end.
        until("the server does not see the connection end", lambda: sink.halves)
        self.assertEqual(sink.messages, [])


class Privileges(Case):
    """The proxy runs as an unprivileged user with one capability."""

    def test_it_has_one_capability_and_no_root(self):
        running = self.outbound()
        status = pathlib.Path(f"/proc/{self._pid(running)}/status").read_text()
        self.assertRegex(status, r"Uid:\s+65534\s+65534\s+65534\s+65534\n")
        self.assertRegex(status, r"CapEff:\s+0000000000002000\n")
        self.arrives("user@good.plain.test")

    def _pid(self, running):
        (pid,) = [pid for pid in sh(["ip", "netns", "pids", self.network.gw]).split()
                  if pathlib.Path(f"/proc/{pid}/exe").resolve() == proxy.BINARY.resolve()]
        return pid


class Redirect(Case):
    """The same by REDIRECT, where the server sees gw's address."""

    intercept = "redirect"

    def test_mail_arrives_over_tls_without_any_capability(self):
        self.outbound(capability="-all")
        received = self.arrives("user@good.plain.test")
        self.assertIn("from legacy.inside.test (unknown [192.0.2.1])", received)
        self.assertIn("(using TLSv1.3 with cipher ", received)

    def test_mail_arrives_by_ipv6(self):
        self.outbound()
        self.assertIn("(unknown [IPv6:2001:db8::1])", self.arrives("user@good6.plain.test"))

    def test_expired_certificate_is_refused(self):
        self.outbound()
        self.stays("user@expired.plain.test", "421 4.7.5 ", "certificate-expired")

    def test_while_it_is_not_there_nothing_passes(self):
        sent = self.send("user@good.plain.test")
        self.assertEqual(sent.outcome.status, "deferred")
        self.assertIn("Connection refused", sent.outcome.words)
        self.assertFalse(self.world.outer.has(sent.marker))


class SmartHost(Case):
    """--upstream: nothing is intercepted, TLS comes up at EHLO."""

    def test_mail_to_any_domain_goes_to_the_verified_smart_host(self):
        self.smart_host("mx.good.plain.test:25")
        with Talk(self.network.inside, GW, proxy.OUTBOUND, source=INSIDE) as client:
            client.reply()
            self.assertRegex(client.say("EHLO legacy.inside.test"), "^250")
            self.assertRegex(client.say("MAIL FROM:<a@inside.test>"), "^250")
            self.assertRegex(client.say("RCPT TO:<user@expired.plain.test>"), "^250", self.explained())
            client.say("DATA")
            self.assertRegex(client.say("Subject: by smart host\r\n\r\nmarker by-smart-host\r\n."), "^250")
            client.say("QUIT")
        self.assertFalse(self.world.outer.has("marker by-smart-host"))
        self.world.outside.delivered("user@expired.plain.test", "by-smart-host")

    def test_smart_host_with_a_bad_certificate_is_refused_at_ehlo(self):
        self.smart_host("mx.expired.plain.test:25")
        with Talk(self.network.inside, GW, proxy.OUTBOUND) as client:
            client.reply()
            self.assertRegex(client.say("EHLO legacy.inside.test"), "^421 4.7.5 .*certificate-expired", self.explained())
            self.assertTrue(client.closed())


class Check(Case):
    """`check` says what mail would get, and sends none."""

    def check(self, *domains):
        command = [
            proxy.BINARY, "check", "--resolver", f"{GW}:53", "--dnssec-anchor", self.world.names.anchor,
            "--ca-file", self.world.authority.root, "--no-mta-sts", *domains,
        ]
        return sh(["sh", "-c", '"$@"; echo "exit code $?"', "sh", *map(str, command)], self.network.gw)

    def test_good_domain_passes(self):
        said = self.check("good.plain.test")
        self.assertIn("mx.good.plain.test", said)
        self.assertIn("exit code 0", said)

    def test_bad_domain_is_named_with_its_reason(self):
        said = self.check("good.plain.test", "expired.plain.test", "clear.plain.test")
        self.assertIn("certificate-expired", said)
        self.assertIn("starttls-not-supported", said)
        self.assertIn("exit code 1", said)


class Evidence(Case):
    """The records of real mail hold together."""

    def test_audit_log_of_real_mail_verifies(self):
        running = self.outbound()
        self.arrives("user@good.plain.test")
        self.stays("user@expired.plain.test")
        running.stop()
        said = sh([proxy.BINARY, "audit", "verify", running.audit_log])
        self.assertIn("intact", said)
        (record,) = running.records("message")
        self.assertEqual(record["tls"]["version"], "TLSv1.3")
        self.assertEqual(record["outcome"], "accepted")
        self.assertEqual(record["peer"]["certificate"]["names"], ["mx.good.plain.test"])
        verdicts = [verdict["decision"] for verdict in running.records("verdict")]
        self.assertEqual([verdict["reason"] for verdict in verdicts], [None, "certificate-expired"])
