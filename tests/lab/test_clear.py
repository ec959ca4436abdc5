"""Outbound: what an outside server, or somebody on the path, says in the clear makes no real server give up a mail."""

import base64
import json
import secrets

import exim
import proxy
from case import Case, Talk
from network import GW, INSIDE, log_lines, until
from path import Edit, instead, only, without

EIGHT_BIT = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
UMLAUTS = "Grüße aus Köln\n"
# Mail as Postfix sends it: what must be asked of the server for it.
PLAIN = {}
LARGE = {"text": "much text\n" * 300}
INTERNATIONAL = {"local": "-ü", "subject": " Grüße", "header": EIGHT_BIT, "text": UMLAUTS}
BITS = {"header": EIGHT_BIT, "text": UMLAUTS, "flags": ("-B", "8BITMIME")}
NOTIFIED = {"flags": ("-N", "success,failure,delay", "-R", "hdrs", "-V", "envid-1")}
EVERYTHING = INTERNATIONAL | NOTIFIED


def adds(*lines):
    return lambda words: words + list(lines)


def lower(words):
    return [word.lower() for word in words]


# Edits of the EHLO reply behind which STARTTLS is still to be had: the mail is delivered, at once.
WORDS = {
    "size_1": (instead("SIZE", "SIZE 1"), LARGE),
    "size_1000": (instead("SIZE", "SIZE 1000"), LARGE),
    "size_0": (instead("SIZE", "SIZE 0"), LARGE),
    "size_without_a_number": (instead("SIZE", "SIZE"), LARGE),
    "size_that_is_no_number": (instead("SIZE", "SIZE -1", "SIZE 1x", "SIZE 99999999999999999999999999"), LARGE),
    "size_twice": (lambda words: ["SIZE 1", "size 2", *words, "SIZE 3"], LARGE),
    "size_removed": (without("SIZE"), LARGE),
    "smtputf8_removed": (without("SMTPUTF8"), INTERNATIONAL),
    "8bitmime_removed": (without("8BITMIME"), BITS),
    "8bitmime_removed_from_international_mail": (without("8BITMIME"), INTERNATIONAL),
    "dsn_removed": (without("DSN"), NOTIFIED),
    "pipelining_removed": (without("PIPELINING"), PLAIN),
    "pipelining_twice": (adds("PIPELINING", "PIPELINING"), PLAIN),
    "chunking_and_binarymime_added": (adds("CHUNKING", "BINARYMIME"), BITS),
    "enhancedstatuscodes_removed": (without("ENHANCEDSTATUSCODES"), PLAIN),
    "auth_added": (adds("AUTH PLAIN LOGIN", "AUTH=LOGIN"), PLAIN),
    "unknown_keywords_added": (adds("XFOO 1", "X-EXPS NTLM", "XCLIENT NAME", "REQUIRETLS", "BURL imap", "PIPECONNECT"), PLAIN),
    "deliverby_with_a_long_minimum": (adds("DELIVERBY 99999", "MT-PRIORITY MIXER", "NO-SOLICITING", "FUTURERELEASE 9 9"), PLAIN),
    "everything_removed_but_starttls": (only("STARTTLS"), EVERYTHING),
    "everything_in_lower_case": (lower, EVERYTHING),
}
LIMITS = {
    "limits_rcptmax_1": adds("LIMITS RCPTMAX=1 MAILMAX=1 RCPTDOMAINMAX=1"),
    "limits_mailmax_0": adds("LIMITS MAILMAX=0 RCPTMAX=0"),
}
# Edits behind which there is no TLS to be had, or no session at all: the mail stays.
BROKEN = {
    "greeting_554": Edit(replies={"greeting": "554 5.7.1 go away\r\n"}),
    "greeting_521": Edit(replies={"greeting": "521 5.3.2 takes no mail\r\n"}),
    "greeting_421": Edit(replies={"greeting": "421 4.7.0 too many connections\r\n"}),
    "greeting_354": Edit(replies={"greeting": "354 go on\r\n"}),
    "greeting_that_is_none": Edit(replies={"greeting": "SSH-2.0-OpenSSH_9.2\r\n"}),
    "greeting_without_end": Edit(replies={"greeting": "220-x\r\n550 5.0.0 y\r\n"}),
    "greeting_and_a_reply_that_nobody_asked_for": Edit(replies={"greeting": "220 x\r\n552 5.3.4 too large\r\n"}),
    "ehlo_550": Edit(replies={"EHLO": "550 5.7.1 Helo name rejected\r\n"}),
    "ehlo_502": Edit(replies={"EHLO": "502 5.5.2 what?\r\n", "HELO": "250 x\r\n"}),
    "ehlo_552": Edit(replies={"EHLO": "552 5.3.4 too large\r\n", "HELO": "552 5.3.4 too large\r\n"}),
    "ehlo_450": Edit(replies={"EHLO": "450 4.7.1 greylisted\r\n"}),
    "ehlo_421": Edit(replies={"EHLO": "421 4.3.2 closing\r\n"}),
    "ehlo_closed": Edit(closes=["EHLO"]),
    "starttls_454": Edit(replies={"STARTTLS": "454 4.7.0 certificate being renewed\r\n"}),
    "starttls_502": Edit(replies={"STARTTLS": "502 5.5.1 what?\r\n"}),
    "starttls_554": Edit(replies={"STARTTLS": "554 5.7.3 unable to initialise security\r\n"}),
    "starttls_closed": Edit(closes=["STARTTLS"]),
    "starttls_masked": Edit(words=instead("STARTTLS", "XXXXXXXA")),
    "starttls_removed": Edit(words=without("STARTTLS")),
    "everything_removed": Edit(words=only()),
    "handshake_cut": Edit(cut=True),
}


class Postfix(Case):
    """Real Postfix inside keeps or delivers its mail under every edit of the clear dialogue; a real Postfix is outside."""

    def under(self, edit, mail, users=("user",)):
        self.outbound()
        place = self.world.on_path(edit)
        self.addCleanup(place.serving.close)
        sent = self.send(*(f"{user}@{place.domain}" for user in users), **mail)
        self.assertGreater(place.serving.connections, 0, "nobody has met the path")
        self.not_outside(sent.marker)
        return sent

    def arrives_under(self, edit, mail, users=("user",)):
        sent = self.under(edit, mail, users)
        self.delivered(sent)
        for recipient in sent.recipients:
            received = self.world.outside.delivered(recipient, sent.marker).decode()
            self.assertTrue(received.endswith(f"marker {sent.marker}\n{mail.get('text', '')}"), received)


class Exim(Case):
    """The same with Exim inside, which asks for other things than Postfix."""

    def under(self, edit):
        self.outbound()
        place = self.world.on_path(edit)
        self.addCleanup(place.serving.close)
        client = exim.Client(self.network, place.domain, self.network.inside, "legacy.inside.test")
        marker = "m" + secrets.token_hex(8)
        text = f"Subject: {marker}\n{EIGHT_BIT}\n{marker}\n{UMLAUTS}"
        log = client.send(f"{marker}@inside.test", [f"user@{place.domain}"], text)
        self.not_outside(marker)
        self.assertNotIn(" ** ", log, self.explained())
        return log, place, marker

    def arrives_under(self, edit):
        log, place, marker = self.under(edit)
        self.assertIn(f" => user@{place.domain}", log, self.explained())
        self.world.outside.delivered(f"user@{place.domain}", marker)


def _tests():
    """A test for each edit."""
    def arrives(words, mail, users=("user",)):
        return lambda self: self.arrives_under(Edit(words=words), mail, users)

    def stays(edit):
        return lambda self: self.deferred(self.under(edit, EVERYTHING))

    def exim_arrives(words):
        return lambda self: self.arrives_under(Edit(words=words))

    def exim_stays(edit):
        return lambda self: self.assertIn(" == ", self.under(edit)[0])

    for name, (words, mail) in WORDS.items():
        setattr(Postfix, f"test_{name}", arrives(words, mail))
    for name, words in LIMITS.items():
        setattr(Postfix, f"test_{name}", arrives(words, PLAIN, ("one", "two", "three")))
    for name, edit in BROKEN.items():
        setattr(Postfix, f"test_{name}", stays(edit))
    for name in ("size_1", "8bitmime_removed", "everything_removed_but_starttls", "chunking_and_binarymime_added"):
        setattr(Exim, f"test_{name}", exim_arrives(WORDS[name][0]))
    for name in LIMITS:
        setattr(Exim, f"test_{name}", exim_arrives(LIMITS[name]))
    for name in ("greeting_554", "ehlo_550", "ehlo_502", "starttls_554", "starttls_removed"):
        setattr(Exim, f"test_{name}", exim_stays(BROKEN[name]))


_tests()


class Observing(Case):
    """Observe mode holds nothing that would flow without it: real Postfix delivers, in the clear where there is no other way."""

    def arrives_under(self, edit, *flags):
        place = self.world.on_path(edit)
        self.addCleanup(place.serving.close)
        self.outbound(*(flags or ("--observe",)))
        sent = self.send(f"user@{place.domain}")
        self.delivered(sent)
        self.world.outside.delivered(f"user@{place.domain}", sent.marker)

    def test_server_that_knows_helo_only(self):
        self.arrives_under(BROKEN["ehlo_502"])

    def test_server_that_knows_helo_only_by_an_entry(self):
        table = self.network.folder / "helo-only"
        table.write_text("203.0.113.0/24 none until=2099-12-31 reason=test\n")
        self.arrives_under(BROKEN["ehlo_502"], "--policy", table)

    def test_server_that_answers_starttls_with_421(self):
        self.arrives_under(Edit(replies={"STARTTLS": "421 4.7.0 not now\r\n"}))

    def test_server_that_closes_at_starttls(self):
        self.arrives_under(BROKEN["starttls_closed"])


class Lacks(Case):
    """The server lacks inside TLS what was offered in the clear."""

    def server(self, *lacking, **offers):
        self.outbound()
        place = self.world.honest(secure=[w for w in self.ALL if w.split()[0] not in lacking], **{"clear": self.ALL} | offers)
        self.addCleanup(place.serving.close)
        return place

    ALL = ["PIPELINING", "SIZE 20000000", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8", "CHUNKING", "BINARYMIME"]

    def at_the_retry(self, mail, *lacking):
        """The first try is deferred, and the second one does not use the extension."""
        place = self.server(*lacking)
        sent = self.send(f"user@{place.domain}", **mail)
        self.deferred(sent)
        self.assertRegex(sent.outcome.words, r"said: 4\d\d ")
        self.assertEqual(place.serving.messages, [])
        self.delivered(self.again(sent))
        self.never_in_the_clear(sent.marker)
        self.assertEqual(len(place.serving.messages), 1)
        return place.serving.envelopes

    def test_what_nobody_used_costs_nothing(self):
        # DSN is not among them: Postfix says ORCPT wherever that is offered.
        place = self.server("CHUNKING", "BINARYMIME", "SMTPUTF8", "8BITMIME")
        self.delivered(self.send(f"user@{place.domain}"))

    def test_what_we_bridge_ourselves_costs_nothing(self):
        place = self.server("PIPELINING", "ENHANCEDSTATUSCODES")
        self.delivered(self.send(f"user@{place.domain}", **EVERYTHING))

    def test_dsn_that_was_used_is_not_at_the_retry(self):
        self.assertNotRegex(" ".join(self.at_the_retry(NOTIFIED, "DSN")[-2:]), "NOTIFY|ORCPT|RET|ENVID")

    def test_8bitmime_that_was_used_is_never_a_reason_to_bounce(self):
        # Postfix concludes 8BITMIME from SMTPUTF8, which is always shown, so that its mail stays where it is.
        for lacking in (["8BITMIME"], ["8BITMIME", "SMTPUTF8"]):
            with self.subTest(lacking):
                place = self.server(*lacking)
                sent = self.send(f"user@{place.domain}", **BITS)
                for retry in (lambda: sent, lambda: self.again(sent)):
                    self.deferred(retry())
                    self.assertIn("8BITMIME", sent.outcome.words)
                self.assertEqual(place.serving.messages, [])

    def test_size_that_was_used_is_not_at_the_retry(self):
        self.assertNotIn("SIZE", " ".join(self.at_the_retry(PLAIN, "SIZE")[-2:]))

    def test_all_that_was_used_is_not_at_a_retry(self):
        # One retry is enough: what is missing is known from one reply.
        self.at_the_retry(NOTIFIED, "SIZE", "DSN")

    def test_chunks_that_exim_may_not_send_are_a_message_by_data_at_the_retry(self):
        place = self.server("CHUNKING", "BINARYMIME")
        client = exim.Client(self.network, "lacks", self.network.inside, "legacy.inside.test")
        marker = "m" + secrets.token_hex(8)
        log = client.send(f"{marker}@inside.test", [f"user@{place.domain}"], f"Subject: {marker}\n\n{marker}\n" + "x\n" * 50_000)
        self.assertIn(" == ", log, self.explained())
        self.assertNotIn(" ** ", log, self.explained())
        log = client.again()
        self.assertIn(f" => user@{place.domain}", log, self.explained())
        self.assertFalse([line for line in place.serving.secure if line.startswith(b"BDAT")])
        self.assertIn(b"\r\n" + marker.encode() + b"\r\n", place.serving.messages[-1])
        self.never_in_the_clear(marker)

    def test_smtputf8_that_an_authenticated_server_lacks_bounces_as_it_would_without_us(self):
        place = self.server("SMTPUTF8")
        sent = self.send(f"user@{place.domain}", **INTERNATIONAL)
        self.assertEqual(sent.outcome.status, "bounced", sent.outcome.words + self.explained())
        self.assertIn("5.6.7", sent.outcome.words)
        # The answer is not carried over to the next sender: each mail gets the server's own answer.
        self.delivered(self.send(f"user@{place.domain}"))

    def test_smtputf8_that_a_server_lacks_which_proved_nothing_defers(self):
        place = self.world.honest(secure=[word for word in self.ALL if word != "SMTPUTF8"])
        self.addCleanup(place.serving.close)
        table = self.network.folder / "encrypt-only"
        table.write_text(f"{place.domain} encrypt\n")
        self.outbound("--policy", table)
        self.deferred(self.send(f"user@{place.domain}", **INTERNATIONAL))

    def test_size_inside_tls_is_the_servers_own_to_decide(self):
        place = self.server(answers={"MAIL": "552 5.3.4 too large\r\n"})
        sent = self.send(f"user@{place.domain}", **LARGE)
        self.assertEqual(sent.outcome.status, "bounced", sent.outcome.words + self.explained())
        self.assertIn("552 5.3.4", sent.outcome.words)


class HeldMail(Case):
    """The server refuses MAIL. Only a client to which the server may answer gets that answer."""

    def replies_to(self, address, *recipients):
        with Talk(self.network.inside, address) as client:
            client.reply()
            client.say("EHLO legacy.inside.test")
            self.assertRegex(client.say("MAIL FROM:<a@inside.test>"), "^250 ", self.explained())
            return [client.say(f"RCPT TO:<{recipient}>") for recipient in recipients]

    def test_recipient_of_another_domain_is_judged_before_it_is_answered(self):
        self.outbound()
        pinned = self.world.honest(answers={"MAIL": "550 5.7.1 no mail from you\r\n"})
        self.addCleanup(pinned.serving.close)
        x, y, z = self.replies_to(pinned.address, f"x@{pinned.domain}", "y@good.plain.test", f"z@{pinned.domain}")
        self.assertRegex(x, "^550 5.7.1 no mail from you", self.explained())
        self.assertRegex(y, "^451 4.7.5 good.plain.test: ", self.explained())
        self.assertRegex(z, "^550 5.7.1 no mail from you", self.explained())

    def test_recipient_of_a_strict_domain_is_not_refused_by_what_was_said_in_the_clear(self):
        for starttls in (False, True):
            for level in ("none", "may"):
                with self.subTest(level=level, starttls=starttls):
                    clear = self.world.honest(answers={"MAIL": "550 5.7.1 no mail from you\r\n"}, starttls=starttls)
                    self.addCleanup(clear.serving.close)
                    table = self.network.folder / f"clear-{clear.domain}"
                    table.write_text(f'{clear.domain} {level} until=2099-12-31 reason="test"\n'
                                     f"good.plain.test secure match={clear.mx}\n")
                    self.outbound("--policy", table)
                    try:
                        a, b = self.replies_to(clear.address, f"a@{clear.domain}", "b@good.plain.test")
                    finally:
                        self.proxy.stop()
                    self.assertRegex(a, "^550 5.7.1 no mail from you", self.explained())
                    if level == "none" or not starttls:
                        self.assertRegex(b, "^4", self.explained())


class Passwords(Case):
    """AUTH does not cross the outside link in the clear, in any mode."""

    def setUp(self):
        super().setUp()
        self.secret = base64.b64encode(b"\0scanner\0" + secrets.token_hex(12).encode()).decode()

    def submission(self, edit, *flags, table=None):
        place = self.world.place()
        inner = self.world.honest(clear=["PIPELINING", "8BITMIME", "AUTH PLAIN LOGIN"], answers={"AUTH": "235 2.7.0 in\r\n"})
        place.serving = self.world.path_to(inner, place, edit)
        self.addCleanup(inner.serving.close)
        self.addCleanup(place.serving.close)
        if table:
            file = self.network.folder / f"table-{place.domain}"
            file.write_text(f'[{place.mx}] {table} until=2099-12-31 reason="test"\n')
            flags = (*flags, "--policy", file)
        self.smart_host(f"{place.mx}:25", *flags)
        return place, inner

    def is_kept_back(self, edit, *flags, **options):
        place, inner = self.submission(edit, *flags, **options)
        with Talk(self.network.inside, GW, proxy.OUTBOUND, source=INSIDE) as client:
            client.reply()
            client.say("EHLO legacy.inside.test")
            self.assertRegex(client.say(f"AUTH PLAIN {self.secret}"), "^454 ", self.explained())
            self.assertRegex(client.say("MAIL FROM:<a@inside.test>"), "^4", self.explained())
        self.assertTrue(self.world.inner.has(self.secret), "the capture inside did not see it: it is broken")
        self.not_outside(self.secret)
        self.assertEqual([line for line in place.serving.clear + inner.serving.clear if b"AUTH" in line], [])

    STRIPPED, BROKEN_ONCE = Edit(words=without("STARTTLS")), Edit(cut=True)

    def test_starttls_stripped_in_observe_mode(self):
        self.is_kept_back(self.STRIPPED, "--observe")

    def test_handshake_broken_in_observe_mode(self):
        self.is_kept_back(self.BROKEN_ONCE, "--observe")

    def test_starttls_refused_in_observe_mode(self):
        self.is_kept_back(Edit(replies={"STARTTLS": "454 4.7.0 not now\r\n"}), "--observe")

    def test_starttls_stripped_under_may(self):
        self.is_kept_back(self.STRIPPED, table="may")

    def test_handshake_broken_under_may(self):
        self.is_kept_back(self.BROKEN_ONCE, table="may")

    def test_entry_none(self):
        self.is_kept_back(Edit(), table="none")

    def passes_in_tls(self, *flags):
        self.submission(Edit(), *flags)
        with Talk(self.network.inside, GW, proxy.OUTBOUND, source=INSIDE) as client:
            client.reply()
            self.assertRegex(client.say("EHLO legacy.inside.test"), "250[ -]AUTH PLAIN LOGIN", self.explained())
            self.assertRegex(client.say(f"AUTH PLAIN {self.secret}"), "^235 ", self.explained())
        self.not_outside(self.secret)

    def test_in_tls_it_passes(self):
        self.passes_in_tls()

    def test_in_tls_it_passes_in_observe_mode(self):
        self.passes_in_tls("--observe")


class Told(Case):
    """Why the other side refused is told: its code in the reply, its words in log and record, each escaped and short."""

    def told(self, edit, code, words, reason):
        self.outbound()
        place = self.world.on_path(edit)
        self.addCleanup(place.serving.close)
        sent = self.send(f"user@{place.domain}")
        self.deferred(sent)
        self.assertRegex(sent.outcome.words, rf" 421 .*\b{code}\b", self.explained())
        self.assertNotIn(words, sent.outcome.words)
        for what in (words, reason):
            until(f"no record has {what!r}", lambda: [
                line for line in log_lines(self.proxy.audit_log) if what in str(json.loads(line))])
        log = self.proxy.log()
        self.assertIn(words, log)
        self.assertIn(reason, log)
        return log

    def test_greeting_of_a_block_list(self):
        self.told(Edit(replies={"greeting": "554 5.7.1 Blocked by RBL, see http://x\r\n"}), "554 5[.]7[.]1",
                  "Blocked by RBL, see http://x", "greeting-refused")

    def test_greeting_of_a_busy_server(self):
        self.told(Edit(replies={"greeting": "421 too many connections\r\n"}), "421", "too many connections", "greeting-refused")

    def test_refused_ehlo(self):
        self.told(Edit(replies={"EHLO": "550 5.7.1 Helo name rejected\r\n"}), "550 5[.]7[.]1", "Helo name rejected", "ehlo-refused")

    def test_refused_starttls(self):
        self.told(Edit(replies={"STARTTLS": "454 4.7.0 certificate being renewed\r\n"}), "454 4[.]7[.]0",
                  "certificate being renewed", "starttls-refused")

    def test_words_that_would_forge_a_log_are_escaped_and_cut(self):
        forged = "554-5.7.1 first\x1b[2J\x9b\r\n554 5.7.1 \"second\" " + "z" * 1500 + "\r\n"
        log = self.told(Edit(replies={"greeting": forged}), "554 5[.]7[.]1", "first", "greeting-refused")
        raw = self.proxy.process.log.read_bytes() + self.proxy.audit_log.read_bytes()
        self.assertNotIn(b"\x1b", raw)
        self.assertNotIn(b"\x9b", raw.replace("\u009b".encode(), b"\x9b"))
        self.assertNotIn("z" * 1200, log)


class Twice(Case):
    """A single failure of a server does not count as a fault of the host."""

    def one_hiccup(self, edit):
        self.outbound()
        place = self.world.on_path(edit)
        self.addCleanup(place.serving.close)
        sent = self.send(f"user@{place.domain}")
        if sent.outcome.status == "deferred":
            self.again(sent)
        self.delivered(sent)
        self.never_in_the_clear(sent.marker)
        self.world.outside.delivered(f"user@{place.domain}", sent.marker)

    def test_starttls_answered_with_454_once(self):
        self.one_hiccup(Edit(replies={"STARTTLS": "454 4.7.0 not now\r\n"}, times=1))

    def test_ehlo_reply_without_starttls_once(self):
        self.one_hiccup(Edit(words=without("STARTTLS"), times=1))

    def test_greeting_421_once(self):
        self.one_hiccup(Edit(replies={"greeting": "421 4.7.0 too many connections\r\n"}, times=1))

    def test_ehlo_answered_with_450_once(self):
        self.one_hiccup(Edit(replies={"EHLO": "450 4.7.1 not now\r\n"}, times=1))
