"""Each record says what happened: to whom, by which decision, why not, and how it ended."""

import contextlib
import json

import proxy
from case import Case, Talk
from network import sh, until
from path import Edit, instead, without
from test_inbound import Inbound


def message(client, sender, *recipients):
    """One whole message; the reply to its end."""
    replies = [client.say(f"MAIL FROM:<{sender}>"), *(client.say(f"RCPT TO:<{recipient}>") for recipient in recipients)]
    assert all(reply.startswith("250") for reply in replies), replies
    assert client.say("DATA").startswith("354")
    return client.say("Subject: x\r\n\r\nx\r\n.")


class Closed(Case):
    """What these cases share: records are complete when the session's last one is there."""

    def ended(self, sessions=1):
        return until(lambda: f"the end is not recorded\n{self.explained()}",
                     lambda: len(ends := self.proxy.records("session-closed")) >= sessions and ends)


class Unwritable(Inbound):
    """What cannot be recorded is not handed over."""

    def test_a_session_that_was_open_before_brings_no_message_to_the_legacy_server(self):
        self.inbound()
        with self.connect() as client, self.connect() as other:
            client.say("EHLO client.outside.test")
            client.starttls("legacy.inside.test", self.world.authority)
            client.say("EHLO client.outside.test")
            other.say("EHLO other.outside.test")
            self.proxy.audit_log.rename(self.proxy.folder / "aside")
            sh(["chown", "root:root", self.proxy.folder])
            # If nothing has been written yet, the record of this refusal is.
            self.assertRegex(other.say("MAIL FROM:<other@outside.test>"), "^4", self.explained())
            self.logged("audit log cannot be written")
            self.assertRegex(client.say("MAIL FROM:<a@outside.test>"), "^421 4.3.0 ", self.explained())
        sh(["chown", str(proxy.NOBODY), self.proxy.folder])
        self.logged("audit log can be written again")


class SeveralMessages(Inbound, Closed):
    """In one session each message has the decision about its own sender."""

    def session(self, *senders):
        """These senders' messages in one session whose client proves to be mx.partner.test; the records of them."""
        table = self.network.folder / "records-partners"
        table.write_text("@partner.test secure match=mx.partner.test\n")
        own = self.world.authority.issue("partner-records", ["mx.partner.test"], usage="clientAuth")
        self.inbound("--client-auth", "request", "--client-ca", self.world.authority.root, "--policy", table)
        with self.connect() as client:
            client.say("EHLO mx.partner.test")
            client.starttls("legacy.inside.test", self.world.authority, own)
            client.say("EHLO mx.partner.test")
            for sender in senders:
                self.assertRegex(message(client, sender, "user@may.inside.test"), "^250 ", self.explained())
            client.say("QUIT")
        self.ended()
        records = self.proxy.records("message")
        self.assertEqual(len(records), len(senders))
        return records

    def names_the_partner(self, record):
        return "partner.test" in [decision["domain"] for decision in record["decisions"]]

    def test_a_listed_senders_decision_is_its_own_messages_only(self):
        records = self.session("a@partner.test", "b@somebody.test", "", "c@partner.test", "d@sub.somebody.test")
        self.assertEqual([self.names_the_partner(record) for record in records], [True, False, False, True, False], records)

    def test_the_order_does_not_matter(self):
        records = self.session("", "b@somebody.test", "a@partner.test", "")
        self.assertEqual([self.names_the_partner(record) for record in records], [False, False, True, False], records)


class Recipients(Closed):
    """A message's record has a decision for the domain of each recipient, and for no other."""

    def decided(self, serving, table, *messages):
        """The domains that each message's record names decisions for."""
        file = self.network.folder / f"records-{serving.mx}"
        file.write_text(table)
        self.outbound("--policy", file)
        with Talk(self.network.inside, serving.address) as client:
            client.reply()
            client.say("EHLO legacy.inside.test")
            for recipients in messages:
                self.assertRegex(message(client, "a@inside.test", *recipients), "^250 ", self.explained())
            client.say("QUIT")
        self.ended()
        return [sorted(decision["domain"] for decision in record["decisions"]) for record in self.proxy.records("message")]

    def test_address_literals_are_among_them(self):
        place = self.world.honest()
        self.addCleanup(place.serving.close)
        (domains,) = self.decided(place, f"[{place.address}] secure match={place.mx}\n", [f"user@[{place.address}]"])
        self.assertEqual([domain.strip("[]") for domain in domains], [place.address])

    def test_ipv6_address_literals_are_among_them_however_they_are_written(self):
        for spelled in ("IPv6:2001:db8::7:1", "IPv6:2001:DB8::7:1", "ipv6:2001:db8:0:0:0:0:7:1"):
            for entry in ("[2001:db8::7:1] secure match={mx}", "2001:db8::/32 verify match={mx}", "[2001:db8::7:1] encrypt"):
                with self.subTest(spelled=spelled, entry=entry):
                    place = self.world.honest(address="2001:db8::7:1")
                    try:
                        table = f"{entry.format(mx=place.mx)}\n{place.domain} secure match={place.mx}\n"
                        (domains,) = self.decided(place, table, [f"user@{place.domain}", f"user@[{spelled}]"])
                    finally:
                        place.serving.close()
                    self.assertIn(place.domain, domains)
                    self.assertTrue([domain for domain in domains if domain.lower().startswith("[ipv6:")], domains)

    def test_each_message_has_those_of_its_own_recipients(self):
        place = self.world.honest()
        self.addCleanup(place.serving.close)
        other = f"one.{place.domain}"
        table = f"{other} secure match={place.mx}\n{place.domain} secure match={place.mx}\n"
        decided = self.decided(place, table, [f"a@{place.domain}"], [f"b@{other}"], [f"c@{place.domain}", f"d@{other}"])
        self.assertEqual(decided, [[place.domain], [other], sorted([place.domain, other])])

    def test_the_name_in_the_record_is_the_one_that_the_server_heard(self):
        place = self.world.honest()
        self.addCleanup(place.serving.close)
        self.outbound()
        with Talk(self.network.inside, place.address) as client:
            client.reply()
            client.say("EHLO first.inside.test")
            client.say("EHLO second.inside.test")
            self.assertRegex(message(client, "a@inside.test", f"user@{place.domain}"), "^250 ", self.explained())
            client.say("QUIT")
        self.ended()
        heard = [line.split()[1].decode() for line in place.serving.secure if line.startswith(b"EHLO")]
        (record,) = self.proxy.records("message")
        self.assertEqual(record["session"]["hello"], heard[-1])
        self.assertEqual(heard[-1], "second.inside.test")


class Ends(Closed):
    """How a session ended."""

    def how(self, say, **offers):
        place = self.world.honest(**offers)
        self.addCleanup(place.serving.close)
        self.outbound()
        with Talk(self.network.inside, place.address) as client:
            client.reply()
            for line in ("EHLO legacy.inside.test", "MAIL FROM:<a@inside.test>", f"RCPT TO:<user@{place.domain}>"):
                self.assertRegex(client.say(line), "^250", self.explained())
            if say:
                client.say(say)
        (record,) = self.ended()
        return record["end"]

    def test_by_quit(self):
        self.assertEqual(self.how("QUIT"), "quit")

    def test_by_the_client_that_closes(self):
        self.assertEqual(self.how(None), "client-closed")

    def test_by_the_server_that_closes(self):
        self.assertEqual(self.how("RSET", closes=["RSET"]), "server-closed")


class Refused(Closed):
    """A refusal keeps its reason and domain, also where it is remembered."""

    def test_a_remembered_refusal_says_why_and_for_whom(self):
        self.outbound()
        address = self.world.hosts["expired"].v4
        self.stays("user@expired.plain.test", "421 4.7.5 ", "certificate-expired")
        with Talk(self.network.inside, address) as client:
            greeting = client.reply()
            self.assertRegex(greeting, "^421 4.7.5 .*certificate-expired")
        self.ended(2)
        refusal = self.proxy.records("refusal")[-1]
        self.assertEqual((refusal["reason"], refusal["domain"]), ("certificate-expired", "expired.plain.test"), refusal)
        self.assertRegex(greeting + json.dumps(refusal) + self.proxy.log().splitlines()[-1], "remember")

    def test_the_auditors_page_knows_of_refused_sessions(self):
        running = self.outbound()
        self.stays("user@expired.plain.test", "421 4.7.5 ", "certificate-expired")
        self.stays("user@clear.plain.test", "421 4.7.4 ", "starttls-not-supported")
        running.stop()
        html = self.network.folder / "report.html"
        sh([proxy.BINARY, "audit", "report", running.audit_log, "--html", html])
        page = html.read_text()
        self.assertNotIn("Nothing was refused", page)
        for reason in ("certificate-expired", "starttls-not-supported"):
            self.assertIn(reason, page)


class Observed(Closed):
    """Observe mode says word for word what enforcing would."""

    HOSTS = ("expired", "selfsigned", "wrongname", "unknownca", "clear", "masked", "refuses", "oldtls", "strips")

    def said(self, name, *flags):
        """All that a client is told and all that is recorded of one session; and of the decisions reason and words."""
        self.outbound(*flags)
        host = self.world.hosts[name]
        told = ""
        with Talk(self.network.inside, host.v4) as client:
            told += client.reply()
            for line in ("EHLO legacy.inside.test", "MAIL FROM:<a@inside.test>", f"RCPT TO:<user@{host.domain}>",
                         f"RCPT TO:<second@{host.domain}>", "DATA", "Subject: x\r\n\r\nx\r\n.", "QUIT"):
                reply = ""
                with contextlib.suppress(OSError):
                    reply = client.say(line)
                told += reply
                if reply[:1] not in ("2", "3"):
                    break
        self.ended()
        self.proxy.stop()
        decisions = [record["decision"] for record in self.proxy.records("verdict", "unprotected")]
        decisions = [(decision["reason"], decision["detail"]) for decision in decisions if decision["reason"]]
        return told + self.proxy.audit_log.read_text(), decisions

    def test_the_same_reasons_in_the_same_words(self):
        for name in self.HOSTS:
            with self.subTest(name):
                enforced, _ = self.said(name)
                _, observed = self.said(name, "--observe")
                self.assertTrue(observed, "nothing is recorded of what would have been refused")
                for reason, words in observed:
                    self.assertIn(reason, enforced)
                    self.assertIn(words, enforced)

    def test_a_masked_offer_is_named_in_observe_mode(self):
        self.assertIn("XXXXXXXA", str(self.said("masked", "--observe")[1]))

    def test_a_broken_handshake_is_no_missing_offer(self):
        self.outbound("--observe")
        place = self.world.on_path(Edit(cut=True))
        self.addCleanup(place.serving.close)
        sent = self.send(f"user@{place.domain}", f"second@{place.domain}")
        self.assertEqual(sent.outcome.status, "sent", sent.outcome.words)
        records = self.proxy.records("verdict", "unprotected")
        self.assertTrue(records)
        for word in ("not-supported", "not offered"):
            self.assertNotIn(word, str([(record["decision"]["reason"], record["decision"]["detail"]) for record in records]))


class Stripped(Closed):
    """The record marks replies that came in the clear as such."""

    def test_masked_and_missing_offers_are_told_apart(self):
        for edit, masked in ((instead("STARTTLS", "XXXXXXXA"), True), (without("STARTTLS"), False)):
            with self.subTest(masked=masked):
                self.outbound()
                place = self.world.on_path(Edit(words=edit))
                self.addCleanup(place.serving.close)
                sent = self.send(f"user@{place.domain}")
                self.deferred(sent)
                self.assertEqual("XXXXXXXA" in sent.outcome.words, masked)
                self.ended()
                self.assertEqual("XXXXXXXA" in self.proxy.audit_log.read_text(), masked)
                self.proxy.stop()
