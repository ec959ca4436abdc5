"""A smart host that wants a login, before a legacy server that cannot log in; and who may use the proxy."""

import base64
import functools
import os
import secrets
import shutil
import signal

import proxy
from case import Case, Talk
from network import GW, GW_OUTSIDE, INSIDE, OUTSIDE, sh, until
from submission import BOTH, LOGIN_ONLY, PASSWORD, USER, Submission, Tokens
from world import world

RECIPIENT = "user@login.plain.test"
"""The legacy server sends mail for this domain to the proxy, as its relay."""


@functools.cache
def submission():
    """The Postfix, built once, and its place."""
    place = world().place()
    return Submission(world().network, place, world().of_places), place


class Login(Case):
    """Mail of a client that cannot log in arrives by a login of the proxy."""

    def setUp(self):
        super().setUp()
        self.folder = self.network.folder / f"login-{secrets.token_hex(4)}"
        self.folder.mkdir()
        shutil.chown(self.folder, proxy.NOBODY, proxy.NOBODY)
        self.secrets = []

    def private(self, name, text):
        """A file that only the proxy can read, written in one step."""
        new = self.folder / f"{name}.new"
        new.write_text(text)
        new.chmod(0o600)
        shutil.chown(new, proxy.NOBODY, proxy.NOBODY)
        os.replace(new, self.folder / name)
        return self.folder / name

    def password(self, password):
        self.secrets.append(password)
        return self.private("auth", f"user = {USER}\npassword = {password}\n")

    def token(self, token):
        self.secrets.append(token)
        self.private("token", token + "\n")

    def logging_in(self, upstream, auth, *flags):
        return self.smart_host(upstream, "--allow-client", "10.25.0.0/24", "--upstream-auth", auth, *flags)

    def told_nobody(self):
        """Neither the proxy's log nor its records nor the sender's queue has a secret, in the clear or in base64."""
        told = self.proxy.log() + self.proxy.audit_log.read_text() + self.world.postfix.queue() + self.world.postfix.log.read_text()
        for secret in self.secrets:
            plain = f"\0{USER}\0{secret}"
            token = f"user={USER}\x01auth=Bearer {secret}\x01\x01"
            self.assertNotIn(secret, told)
            for text in (secret, plain, token):
                self.assertNotIn(base64.b64encode(text.encode()).decode(), told)

    def reload(self):
        self.proxy.process.send_signal(signal.SIGHUP)
        until(lambda: f"no reload: {self.proxy.log()}", lambda: "reloaded; sessions" in self.proxy.log())

    def test_password_by_plain_and_by_login(self):
        mta, place = submission()
        for port, mechanism in ((BOTH, "PLAIN"), (LOGIN_ONLY, "LOGIN")):
            with self.subTest(mechanism):
                self.logging_in(f"{place.mx}:{port}", self.password(PASSWORD))
                sent = self.send(RECIPIENT)
                self.delivered(sent)
                received = mta.delivered(RECIPIENT, sent.marker).decode()
                self.assertIn(f"(Authenticated sender: {USER}", received)
                self.assertIn("(using TLSv1.3 with cipher ", received)
                self.assertIn(f"login=accepted user={USER} mechanism={mechanism}", self.proxy.log())
                (record,) = self.proxy.records("message")
                self.assertEqual(record["authenticated_as"], USER)
                self.never_in_the_clear(sent.marker)
                self.told_nobody()

    def test_without_the_login_the_server_takes_no_mail(self):
        """The control: it is the login that makes the mail pass."""
        _, place = submission()
        self.smart_host(f"{place.mx}:{BOTH}")
        sent = self.send(RECIPIENT)
        self.assertEqual(sent.outcome.status, "bounced", sent.outcome.words)

    def test_wrong_password_defers_until_the_file_is_corrected_and_read_again(self):
        mta, place = submission()
        self.logging_in(f"{place.mx}:{BOTH}", self.password("wrong-fish"))
        sent = self.send(RECIPIENT)
        self.deferred(sent)
        self.assertIn("421 4.7.8", sent.outcome.words)
        self.assertIn("login was refused with 535 5.7.8", sent.outcome.words)
        (heard,) = until("the refusal is recorded", lambda: self.proxy.records("heard"))
        self.assertEqual((heard["stage"], heard["text"]), ("login", "535 5.7.8"))
        # The same password is not tried again at once: that locks accounts.
        self.deferred(self.again(sent))
        self.assertIn("refused a short while ago", sent.outcome.words)
        self.password(PASSWORD)
        self.reload()
        self.delivered(self.again(sent))
        mta.delivered(RECIPIENT, sent.marker)
        self.told_nobody()

    def test_token_is_read_again_for_each_login(self):
        place = self.world.place()
        place.serving = Tokens(self.network.outside, place.address, self.world.of_places, "fresh-token-2")
        self.addCleanup(place.serving.close)
        self.token("stale-token-1")
        auth = self.private("auth", f"user = {USER}\ntoken-file = {self.folder / 'token'}\n")
        self.logging_in(f"{place.mx}:25", auth)
        sent = self.send(RECIPIENT)
        self.deferred(sent)
        self.assertIn("login was refused with 535 5.7.8", sent.outcome.words)
        self.token("fresh-token-2")
        self.delivered(self.again(sent))
        self.assertIn(sent.marker.encode(), b"".join(place.serving.messages))
        self.assertIn(f"login=accepted user={USER} mechanism=XOAUTH2", self.proxy.log())
        self.told_nobody()

    def test_a_server_that_has_not_proved_who_it_is_hears_no_secret(self):
        place = self.world.honest(secure=["AUTH PLAIN LOGIN"])
        self.addCleanup(place.serving.close)
        place.serving.tls.load_cert_chain(self.world.hosts["unknownca"].certificate.chain, self.world.hosts["unknownca"].certificate.key)
        self.logging_in(f"{place.mx}:25", self.password(PASSWORD))
        sent = self.send(RECIPIENT)
        self.deferred(sent)
        self.assertEqual([line for line in place.serving.clear + place.serving.secure if b"AUTH" in line], [])

    def test_check_shows_whether_the_login_works(self):
        _, place = submission()
        for password, code, words in ((PASSWORD, 0, f"accepted as {USER}, by PLAIN"), ("wrong-fish", 1, f"not accepted as {USER}")):
            with self.subTest(password):
                auth = self.password(password)
                printed = sh(
                    ["sh", "-c", '"$@"; echo "exit code $?"', "sh", proxy.BINARY, "check", "--upstream", f"{place.mx}:{BOTH}",
                     "--upstream-auth", auth, "--ca-file", self.world.authority.root, "--resolver", "10.25.0.1:53", "--no-dane"],
                    self.network.gw,
                )
                self.assertIn(words, printed)
                self.assertIn(f"exit code {code}\n", printed)
                self.assertNotIn(password, printed)
        self.assertIn("login, inside TLS: \"535 5.7.8\"", printed)


class Clients(Case):
    """Who may use the smart host."""

    def greeted(self, netns, address, source):
        with Talk(netns, address, proxy.OUTBOUND, source=source) as client:
            return client.reply()

    def test_a_stranger_gets_421_and_nothing_goes_out(self):
        place = self.world.honest()
        self.addCleanup(place.serving.close)
        self.smart_host(f"{place.mx}:25")
        with Talk(self.network.outside, GW_OUTSIDE, proxy.OUTBOUND, source=OUTSIDE) as stranger:
            self.assertEqual(stranger.reply(), f"421 4.7.1 {OUTSIDE} may not send mail through this proxy (--allow-client)\r\n")
            self.assertTrue(stranger.closed())
        self.assertIn(f"turned away client={OUTSIDE}:", self.proxy.log())
        self.assertIn("why=allow-client", self.proxy.log())
        self.assertEqual(place.serving.clients, [])
        # The default lets the inside in.
        self.assertRegex(self.greeted(self.network.inside, GW, INSIDE), "^220 ")

    def test_named_prefixes_take_the_place_of_the_default(self):
        place = self.world.honest()
        self.addCleanup(place.serving.close)
        self.smart_host(f"{place.mx}:25", "--allow-client", f"{OUTSIDE}/32")
        self.assertRegex(self.greeted(self.network.outside, GW_OUTSIDE, OUTSIDE), "^220 ")
        self.assertRegex(self.greeted(self.network.inside, GW, INSIDE), "^421 4.7.1 ")
