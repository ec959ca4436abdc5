"""What the cases share: one world, a proxy for each test, mail with a marker, and the two ways it may end."""

import secrets
import ssl
import unittest

import proxy
from network import connect, until
from world import world


class Sent:
    """A mail and what became of it."""

    tries = 1

    def __init__(self, marker, sender, message, outcome, postfix, recipients):
        self.marker, self.sender, self.message, self.outcome = marker, sender, message, outcome
        self.postfix, self.recipients = postfix, recipients


class Case(unittest.TestCase):
    """A test in the lab."""

    intercept = "tproxy"
    proxy = None

    def setUp(self):
        self.world = world()
        self.network = self.world.network
        proxy.routing(self.network, self.intercept)

    def inbound(self, *flags, **options):
        """Starts the proxy for this test: inbound, intercepting unless flags name an upstream."""
        return self.running(lambda: proxy.inbound(self.world, *flags, **options))

    def outbound(self, *flags, **options):
        """Starts the proxy for this test."""
        return self.running(lambda: proxy.outbound(self.world, *flags, **{"intercept": self.intercept} | options))

    def smart_host(self, upstream, *flags):
        """Starts the proxy for this test."""
        return self.running(lambda: proxy.smart_host(self.world, upstream, *flags))

    def running(self, start):
        """Starts this proxy in place of one that the test had before; it ends with the test."""
        if self.proxy:
            self.proxy.stop()
        self.proxy = start()
        self.addCleanup(self._stop, self.proxy)
        return self.proxy

    def _stop(self, running):
        running.stop()
        code = running.process.returncode
        self.assertIn(code, (0, -9, -15), f"the proxy ended with exit code {code}:\n{running.log()}")
        self.assertNotIn("panicked", running.log())

    def send(self, *recipients, text="", header="", local="", subject="", flags=(), postfix=None):
        """Sends a mail from the legacy server and waits for what becomes of it. `header` has further lines of the header,
        `local` and `subject` are put behind the marker in the sender's local part and the subject, `flags` are sendmail's."""
        marker = "m" + secrets.token_hex(8)
        sender = f"{marker}{local}@inside.test"
        message = f"From: <{sender}>\nTo: <{recipients[0]}>\nSubject: {marker}{subject}\n{header}\nmarker {marker}\n{text}"
        postfix = postfix or self.world.postfix
        self.addCleanup(lambda: [postfix.drop(queue_id) for queue_id in postfix.queued(sender)])
        postfix.send(sender, recipients, message, *flags)
        try:
            outcome = postfix.outcome(sender, recipients)
        except TimeoutError as late:
            self.fail(f"{late}\n{self.explained()}")
        return Sent(marker, sender, message, outcome, postfix, recipients)

    def again(self, sent):
        """Tries a deferred mail again, now, and waits for what becomes of it."""
        sent.tries += 1
        sent.postfix.retry(sent.outcome.queue_id)
        try:
            sent.outcome = sent.postfix.outcome(sent.sender, sent.recipients, tries=sent.tries)
        except TimeoutError as late:
            self.fail(f"{late}\n{self.explained()}")
        return sent

    def kept_or_delivered(self, sent):
        """Nobody is told that the mail cannot be delivered."""
        for recipient, (status, words) in sent.outcome.statuses.items():
            self.assertIn(status, ("sent", "deferred"), f"{recipient}: {words}\n{self.explained()}")
        self.assertNotIn("non-delivery notification", "\n".join(sent.outcome.lines))

    def delivered(self, sent):
        """The mail arrived with its last try, and nobody is told otherwise."""
        self.kept_or_delivered(sent)
        self.assertEqual(sent.outcome.status, "sent", f"{sent.outcome.words}\n{self.explained()}")

    def deferred(self, sent):
        self.kept_or_delivered(sent)
        self.assertEqual(sent.outcome.status, "deferred", f"{sent.outcome.words}\n{self.explained()}")

    def explained(self):
        """The proxy's log, for the words of a failure."""
        return self.proxy.log()[-6000:] if self.proxy else "no proxy"

    def never_in_the_clear(self, marker):
        """The marker crossed the inner leg, and not the outer one."""
        self.assertTrue(self.world.inner.has(marker), "the capture inside did not see the mail: it is broken")
        self.not_outside(marker)

    def not_outside(self, marker):
        """The marker did not cross the outer leg in the clear. A control case shows that the capture would have seen it."""
        self.assertFalse(self.world.outer.has(marker), f"the mail crossed the outer leg in the clear\n{self.explained()}")

    def arrives(self, recipient, text=""):
        """Sends a mail that must arrive at the outside Postfix, and returns it as delivered."""
        sent = self.send(recipient, text=text)
        self.assertEqual(sent.outcome.status, "sent", f"{sent.outcome.words}\n{self.explained()}")
        self.never_in_the_clear(sent.marker)
        return self.world.outside.delivered(recipient, sent.marker).decode()

    def logged(self, words):
        """Waits until a log line has these words: a thread of its own writes them."""
        until(lambda: f"{words!r} is not logged\n{self.proxy.log()}", lambda: words in self.proxy.log())

    def stays(self, recipient, *words):
        """Sends a mail that must stay in the queue, where the queue viewer shows these words."""
        sent = self.send(recipient)
        self.assertEqual(sent.outcome.status, "deferred", f"{sent.outcome.words}\n{self.explained()}")
        queue = " ".join(self.world.postfix.queue().split())
        for word in words:
            self.assertIn(word, sent.outcome.words, self.explained())
            self.assertIn(word, queue)
        self.not_outside(sent.marker)
        self.assertEqual(self.world.outside.all_delivered(recipient, sent.marker), [])
        return sent

    def told_nothing(self, name):
        """A hostile server heard EHLO, STARTTLS, QUIT and no more, and in TLS nothing of the mail."""
        for server in self.world.hosts[name].serving:
            self.assertTrue(server.clear, "nobody has talked to it")
            for line in server.clear:
                self.assertIn(line.split()[0].upper(), (b"EHLO", b"STARTTLS", b"QUIT"), server.clear)
            self.assertEqual(server.messages, [])


class Talk:
    """A client that speaks line by line."""

    def __init__(self, netns, address, port=25, source=None):
        self.socket = connect(netns, address, port, source)
        self.lines = self.socket.makefile("rb")

    def reply(self):
        """One whole reply; empty if the connection is closed."""
        reply = ""
        try:
            while line := self.lines.readline().decode(errors="replace"):
                reply += line
                if line[3:4] != "-":
                    break
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
        return reply

    def say(self, line):
        """Says a line and returns the reply."""
        self.raw(line.encode() + b"\r\n")
        return self.reply()

    def starttls(self, name, authority=None, certificate=None):
        """Sends STARTTLS and does the handshake with a server of this name. Later commands go inside TLS."""
        assert self.say("STARTTLS").startswith("220")
        context = ssl.create_default_context(cafile=authority and authority.root)
        context.check_hostname, context.verify_mode = bool(authority), ssl.CERT_REQUIRED if authority else ssl.CERT_NONE
        if certificate:
            context.load_cert_chain(certificate.chain, certificate.key)
        self.lines.close()
        self.socket = context.wrap_socket(self.socket, server_hostname=name)
        self.lines = self.socket.makefile("rb")

    def raw(self, data):
        self.socket.sendall(data)

    def closed(self):
        """Whether the other end has closed without sending anything more."""
        try:
            return self.lines.read(1) == b""
        except (ConnectionResetError, ssl.SSLError):
            return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lines.close()
        self.socket.close()
