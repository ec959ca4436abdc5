"""What a mail server that speaks STARTTLS itself would deliver is delivered: odd names, long addresses, loose spelling."""

import contextlib
import secrets

import exim
import proxy
from case import Case, Talk
from network import GW, INSIDE
from path import Edit
from test_inbound import Inbound

# A return path as mailing lists, SRS and Exchange's IMCEAEX write it: RFC 5321 §4.5.3.1 asks nobody to limit it to 64.
LONG = "-" + "bounce=" * 5 + "y" * (70 - 17 - 36)
VERY_LONG = "-" + "x" * 150
SPELLINGS = [
    ("MAIL FROM:<{}>", "RCPT TO:<{}>"),
    ("MAIL FROM: <{}>", "RCPT TO: <{}>"),
    ("MAIL FROM:  <{}>", "RCPT TO:  <{}>"),
    ("MAIL FROM:\t<{}>", "RCPT TO:\t<{}>"),
    ("MAIL FROM: \t <{}>", "RCPT TO:\t\t<{}>"),
    ("mail from:<{}>  ", "rcpt to:<{}> \t"),
    ("MAIL FROM:{}", "RCPT TO:{}"),
    ("MAIL FROM: {}", "RCPT TO: {}"),
]
# EHLO names of devices. The world must not see names of the second kind.
ODD_NAMES = ["scanner_01", "printer(2)", "host#1", "it's-mine", "a/b", "~x", "a,b", "-x", "a..b", "[10.0.0.5", "*", "localhost."]
SPOKEN_NAMES = ["HP LaserJet 4", "büro", "scan\tner"]


class Outbound(Case):
    """From the legacy server to the world."""

    def test_long_local_parts_of_senders_and_recipients(self):
        self.outbound()
        for local in (LONG, VERY_LONG):
            with self.subTest(len(local)):
                place = self.world.on_path(Edit())
                self.addCleanup(place.serving.close)
                sent = self.send(f"user{local}@{place.domain}", local=local)
                self.delivered(sent)
                self.assertGreaterEqual(len(sent.sender.partition("@")[0]), 70)
                self.world.outside.delivered(f"user{local}@{place.domain}", sent.marker)

    def test_long_local_parts_from_exim(self):
        self.outbound()
        client = exim.Client(self.network, "native", self.network.inside, "legacy.inside.test")
        marker = "m" + secrets.token_hex(8)
        log = client.send(f"{marker}{LONG}@inside.test", [f"user{LONG}@good.plain.test"], f"Subject: {marker}\n\n{marker}\n")
        self.assertIn(" => ", log, self.explained())
        self.world.outside.delivered(f"user{LONG}@good.plain.test", marker)

    def talk(self, hello, mail, rcpt):
        """One message to a server that remembers what it heard; returns that server."""
        place = self.world.honest()
        self.addCleanup(place.serving.close)
        with Talk(self.network.inside, place.address) as client:
            client.reply()
            self.assertRegex(client.say(hello), "^250", hello + self.explained())
            self.assertRegex(client.say(mail.format("a@inside.test")), "^250 ", mail + self.explained())
            self.assertRegex(client.say(rcpt.format(f"user@{place.domain}")), "^250 ", rcpt + self.explained())
            self.assertRegex(client.say("DATA"), "^354", self.explained())
            self.assertRegex(client.say("Subject: x\r\n\r\nx\r\n."), "^250 ", self.explained())
            client.say("QUIT")
        return place

    def test_loose_spelling_of_paths_passes_as_it_is(self):
        self.outbound()
        for mail, rcpt in SPELLINGS:
            with self.subTest(mail):
                place = self.talk("EHLO legacy.inside.test", mail, rcpt)
                heard = [line.rstrip() for line in place.serving.envelopes]
                self.assertEqual(heard, [mail.format("a@inside.test").rstrip(), rcpt.format(f"user@{place.domain}").rstrip()])

    def test_odd_names_of_clients_pass_as_they_are(self):
        self.outbound()
        for name in ODD_NAMES:
            with self.subTest(name):
                place = self.talk(f"EHLO {name}", *SPELLINGS[0])
                for told in (place.serving.clear, place.serving.secure):
                    self.assertIn(f"EHLO {name}\r\n".encode(), told)

    def test_names_that_are_not_for_the_world_become_our_own(self):
        self.outbound("--add-received")
        for name in SPOKEN_NAMES:
            for verb in ("EHLO", "HELO"):
                with self.subTest(name=name, verb=verb):
                    place = self.talk(f"{verb} {name}", *SPELLINGS[0])
                    serving = place.serving
                    for told in (serving.clear, serving.secure):
                        self.assertIn(b"EHLO gw.inside.test\r\n", told)
                    heard = b"".join(serving.clear + serving.secure + serving.messages)
                    self.assertNotIn(name.encode(), heard)
        # The records contain the name as it came, but escaped.
        self.assertIn("LaserJet", self.proxy.audit_log.read_text())

    def test_recipients_that_cannot_be_read_are_refused_one_by_one(self):
        self.outbound()
        place = self.world.honest()
        self.addCleanup(place.serving.close)
        with Talk(self.network.inside, place.address) as client:
            client.reply()
            client.say("EHLO legacy.inside.test")
            client.say("MAIL FROM:<a@inside.test>")
            self.assertRegex(client.say(f"RCPT TO:<first@{place.domain}>"), "^250 ", self.explained())
            for n in range(40):
                self.assertRegex(client.say(f"RCPT TO:<us er{n}@@{place.domain}>"), "^5", self.explained())
            self.assertRegex(client.say(f"RCPT TO:<last@{place.domain}>"), "^250 ", self.explained())

    def test_long_initial_response_of_auth(self):
        place = self.world.honest(clear=["AUTH XOAUTH2", "8BITMIME"], answers={"AUTH": "235 2.7.0 in\r\n"})
        self.addCleanup(place.serving.close)
        self.smart_host(f"{place.mx}:25")
        # RFC 4954 §4: 12,288 octets in all.
        for length in (2_000, 4_000, 12_288 - len("AUTH XOAUTH2 \r\n")):
            with self.subTest(length), Talk(self.network.inside, GW, proxy.OUTBOUND, source=INSIDE) as client:
                client.reply()
                self.assertRegex(client.say("EHLO legacy.inside.test"), "250[ -]AUTH XOAUTH2", self.explained())
                self.assertRegex(client.say("AUTH XOAUTH2 " + "A" * length), "^235 ", self.explained())
                self.assertIn(b"AUTH XOAUTH2 " + b"A" * length + b"\r\n", place.serving.secure)


class FromTheWorld(Inbound):
    """From the world to the legacy server, a real Postfix."""

    def test_long_local_parts_of_senders_and_recipients(self):
        self.inbound()
        for local in (LONG, VERY_LONG):
            with self.subTest(len(local)):
                sent = self.send(f"user{local}@may.inside.test", local=local, postfix=self.world.sender)
                self.delivered(sent)
                self.world.postfix.delivered(f"user{local}@may.inside.test", sent.marker)

    def message(self, hello, mail, rcpt):
        marker = "m" + secrets.token_hex(8)
        client = self.connect()
        with contextlib.closing(client.socket):
            self.assertRegex(client.say(hello), "^250", hello + self.explained())
            client.starttls("legacy.inside.test")
            self.assertRegex(client.say(hello), "^250", hello + self.explained())
            self.assertRegex(client.say(mail.format(f"{marker}@outside.test")), "^250 ", mail + self.explained())
            self.assertRegex(client.say(rcpt.format("user@may.inside.test")), "^250 ", rcpt + self.explained())
            client.say("DATA")
            self.assertRegex(client.say(f"Subject: x\r\n\r\n{marker}\r\n."), "^250 ", self.explained())
        return self.world.postfix.delivered("user@may.inside.test", marker).decode("utf-8", "replace")

    def as_without_us(self, hello, mail, rcpt):
        """What the legacy server itself takes comes through us, too."""
        with Talk(self.network.gw, INSIDE) as client:
            client.reply()
            for line in (hello, mail.format("a@outside.test"), rcpt.format("user@may.inside.test")):
                self.assertRegex(client.say(line), "^250", f"the legacy server does not take {line}: the test is wrong")
        self.message(hello, mail, rcpt)

    def test_loose_spelling_of_paths(self):
        self.inbound()
        for mail, rcpt in SPELLINGS:
            with self.subTest(mail):
                self.as_without_us("EHLO client.outside.test", mail, rcpt)

    def test_odd_names_of_clients_are_for_the_server_to_judge(self):
        self.inbound()
        for name in ODD_NAMES + SPOKEN_NAMES:
            with self.subTest(name):
                self.as_without_us(f"EHLO {name}", *SPELLINGS[0])

    def test_odd_names_stand_in_no_received_line_of_ours(self):
        self.inbound("--add-received")
        for name in SPOKEN_NAMES:
            with self.subTest(name):
                parts = self.message(f"EHLO {name}", *SPELLINGS[0]).split("Received:")
                (ours,) = [part for part in parts if "(starttls-proxy)" in part]
                self.assertNotIn(name, ours)
