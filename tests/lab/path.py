"""Somebody on the path between gw and an outside server, who changes what is said in the clear and can do nothing once TLS
is up; and an honest server, whose offers in the clear and in TLS are each as a test wants them."""

import contextlib
import queue
import re
import socket
import struct
import threading

from hostile import Server
from network import PATIENCE, connect, listen


class Edit:
    """What is changed on the path, in the first `times` connections or in all.

    `words` gets the list of keywords of an EHLO reply and returns another one. `replies` has replies that are given in
    place of the server's, by verb, or for `greeting`; the server does not hear the command. `cut` resets both connections
    behind the first bytes of the handshake. A verb in `closes` ends the connection where its reply is due.
    """

    def __init__(self, words=None, replies=None, cut=False, closes=(), times=None):
        self.words, self.cut, self.closes, self.times = words, cut, closes, times
        self.replies = {verb: reply.encode("latin-1") for verb, reply in (replies or {}).items()}

    def applies(self, number):
        return self.times is None or number < self.times

    def local(self, verb):
        """The reply that takes the place of the server's, if there is one; `None` where the server is asked."""
        return self.replies.get(verb)

    def reply(self, verb, reply):
        if verb != "EHLO" or not self.words or not reply.startswith(b"250"):
            return reply
        first, *keywords = [line[4:].decode("latin-1") for line in reply.splitlines()]
        return ehlo(first, self.words(keywords))


def ehlo(name, keywords):
    lines = [name, *keywords]
    return "".join(f"250{'-' if n < len(lines) - 1 else ' '}{line}\r\n" for n, line in enumerate(lines)).encode("latin-1")


def without(*gone):
    """Takes keywords out, whatever stands behind them."""
    return lambda words: [word for word in words if word.split()[0].upper() not in gone]


def instead(keyword, *lines):
    """Puts these lines in the place of one keyword."""
    return lambda words: without(keyword)(words) + list(lines)


def only(*kept):
    return lambda words: [word for word in words if word.split()[0].upper() in kept]


class OnPath:
    """Listens on an outside address and connects each client to the server `behind`, an (address, port)."""

    def __init__(self, netns, address, behind, edit):
        self.netns, self.behind, self.edit = netns, behind, edit
        self.clear = []
        """Lines of clients in the clear."""
        self.connections = 0
        self.listener = listen(netns, address)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        # A plain close is not enough: a thread that waits in accept keeps the socket alive.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                client.settimeout(PATIENCE)
                number, self.connections = self.connections, self.connections + 1
                edit = self.edit if self.edit.applies(number) else Edit()
                threading.Thread(target=self._serve, args=(client, edit), daemon=True).start()

    def _serve(self, client, edit):
        with client, contextlib.suppress(OSError, ValueError, queue.Empty):
            with connect(self.netns, *self.behind) as server:
                Conversation(self, client, server, edit).run()


class Conversation:
    """One connection through the path."""

    def __init__(self, path, client, server, edit):
        self.path, self.client, self.server, self.edit = path, client, server, edit
        self.due = queue.Queue()
        """Verbs whose reply is due, in order: a verb the server was told, or (verb, reply) with the reply of the path."""
        self.due.put("greeting")
        self.starts = queue.Queue()
        """Whether the reply to STARTTLS was 220."""

    def run(self):
        threading.Thread(target=self._guarded, args=(self._back,), daemon=True).start()
        lines = self.client.makefile("rb", buffering=0)
        message = False
        while line := lines.readline(65536):
            self.path.clear.append(line)
            if message:
                message = line != b".\r\n"
                if not message:
                    self.due.put(".")
                self.server.sendall(line)
                continue
            verb = line.split()[0].upper().decode("latin-1") if line.split() else ""
            reply = self.edit.local(verb)
            if reply is not None or verb in self.edit.closes:
                self.due.put((verb, reply))
            else:
                self.server.sendall(line)
                self.due.put(verb)
            if verb == "STARTTLS" and self.starts.get(timeout=PATIENCE):
                return self._pass(self.client, self.server, self.edit.cut)
            if verb == "DATA":
                message = True
        self.server.shutdown(socket.SHUT_WR)
        return None

    def _guarded(self, what):
        try:
            what()
        except (OSError, ValueError, queue.Empty):
            pass
        finally:
            self.starts.put(False)
            with contextlib.suppress(OSError):
                self.client.shutdown(socket.SHUT_RDWR)

    def _back(self):
        """Replies, until TLS is up; then bytes."""
        lines = self.server.makefile("rb", buffering=0)
        while True:
            due = self.due.get(timeout=PATIENCE)
            verb, reply = due if isinstance(due, tuple) else (due, None)
            if verb in self.edit.closes:
                return None
            if reply is None:
                reply = b""
                while line := lines.readline(65536):
                    reply += line
                    if line[3:4] != b"-":
                        break
                reply = self.edit.local(verb) if verb == "greeting" and self.edit.local(verb) else self.edit.reply(verb, reply)
            if not reply:
                return None
            self.client.sendall(reply)
            if verb == "STARTTLS":
                self.starts.put(reply.startswith(b"220"))
                if reply.startswith(b"220"):
                    return self._pass(self.server, self.client, False)
            if verb == "QUIT":
                return None

    def _pass(self, source, target, cut):
        """Passes on TLS: bytes that mean nothing here."""
        while data := source.recv(65536):
            if cut:
                for end in (self.client, self.server):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                return
            target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class Honest(Server):
    """Says in the clear and in TLS what a test wants it to offer, and keeps to its word: what it does not offer in TLS it
    refuses for good. `answers` has replies by verb, inside TLS or in the clear; at a verb in `closes` it closes, in TLS.
    Envelopes are remembered."""

    # What each parameter of MAIL or RCPT needs (RFC 1870, 6152, 3461, 6531, 3030).
    NEEDS = {"SIZE": "SIZE", "BODY": "8BITMIME", "RET": "DSN", "ENVID": "DSN", "NOTIFY": "DSN", "ORCPT": "DSN", "SMTPUTF8": "SMTPUTF8"}
    ALL = ["PIPELINING", "SIZE 20000000", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8", "CHUNKING", "BINARYMIME"]

    def __init__(self, netns, address, certificate, clear=None, secure=None, answers=None, starttls=True, closes=()):
        clear = self.ALL if clear is None else clear
        self.offers = {True: clear if secure is None else secure, False: clear + (["STARTTLS"] if starttls else [])}
        self.answers, self.closes = answers or {}, closes
        self.envelopes = []
        """MAIL and RCPT lines in TLS, in order."""
        super().__init__(netns, address, certificate)

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        super().close()

    def command(self, client, lines, verb, line, told):
        verb, secure = verb.decode("latin-1"), told is self.secure
        if secure and verb in ("MAIL", "RCPT"):
            self.envelopes.append(line.decode("utf-8", "replace").rstrip())
        if secure and verb in self.closes:
            raise ValueError(f"closes at {verb}")
        offered = {word.split()[0] for word in self.offers[secure]}
        if verb in self.answers:
            return client.sendall(self.answers[verb].encode())
        if verb == "EHLO":
            return client.sendall(ehlo("mx.honest.test", self.offers[secure]))
        if verb in ("MAIL", "RCPT"):
            used = re.findall(r" ([A-Z0-9]+)(?:=\S*)?(?= |\r)", line.decode("utf-8", "replace"))
            if unknown := [word for word in used if self.NEEDS.get(word, word) not in offered]:
                return client.sendall(f"555 5.5.4 {unknown[0]} was not offered\r\n".encode())
        if verb == "BDAT" and "CHUNKING" not in offered:
            return client.sendall(b"500 5.5.1 what is BDAT?\r\n")
        return super().command(client, lines, verb.encode(), line, told)
