"""Hostile servers: each does one thing wrong, and remembers what it got in the clear and in TLS."""

import contextlib
import socket
import ssl
import threading

from network import PATIENCE, connect, listen


class Server:
    """A server on one address, in threads of this process. Subclasses change what they do wrong."""

    keywords = ["PIPELINING", "SIZE 20000000", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "STARTTLS"]

    def __init__(self, netns, address, certificate):
        self.netns, self.address = netns, address
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate.chain, certificate.key)
        self.clear, self.secure, self.messages, self.halves, self.clients = [], [], [], [], []
        """Lines told in the clear; in TLS; the bytes of messages; of those that had no end; who connected."""
        self.listener = listen(netns, address)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, peer = self.listener.accept()
                client.settimeout(PATIENCE)
                self.clients.append(peer[0])
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, contextlib.suppress(OSError, ValueError):
            self.session(client)

    def close(self):
        self.listener.close()

    def session(self, client):
        client.sendall(b"220 mx.hostile.test ESMTP\r\n")
        self.converse(client, client.makefile("rb"), self.clear)

    def converse(self, client, lines, told):
        while line := lines.readline(65536):
            told.append(line)
            verb = line.split()[0].upper() if line.split() else b""
            if verb == b"STARTTLS" and told is self.clear:
                return self.starttls(client)
            if verb == b"QUIT":
                return client.sendall(b"221 2.0.0 bye\r\n")
            self.command(client, lines, verb, line, told)
        return None

    def command(self, client, lines, verb, line, told):
        if verb == b"EHLO":
            keywords = [word for word in self.keywords if word != "STARTTLS" or told is self.clear]
            replies = ["mx.hostile.test", *keywords]
            text = "".join(f"250{'-' if n < len(replies) - 1 else ' '}{word}\r\n" for n, word in enumerate(replies))
            client.sendall(text.encode())
        elif verb == b"DATA":
            client.sendall(b"354 go on\r\n")
            message = b""
            while (line := lines.readline()) != b".\r\n":
                if not line:
                    return self.halves.append(message)
                message += line
            self.messages.append(message)
            client.sendall(self.accepted(message))
        elif verb == b"BDAT":
            message = lines.read(int(line.split()[1]))
            self.messages.append(message)
            client.sendall(self.accepted(message))
        else:
            client.sendall(b"250 2.0.0 ok\r\n")
        return None

    def accepted(self, message):
        return b"250 2.0.0 taken\r\n"

    def starttls(self, client):
        client.sendall(b"220 2.0.0 go ahead\r\n")
        self.handshake(client)

    def handshake(self, client):
        with self.tls.wrap_socket(client, server_side=True) as secure:
            self.secure.append(f"{secure.version()}\n".encode())
            self.converse(secure, secure.makefile("rb"), self.secure)


class Sink(Server):
    """Does nothing wrong; keeps each message's bytes as they came, dot-stuffed, without the final dot."""


class NoStartTls(Server):
    """A server that would take mail in the clear."""

    keywords = [word for word in Server.keywords if word != "STARTTLS"]


class Masked(Server):
    """Behind a firewall that inspects SMTP and overwrites what it does not like."""

    keywords = [word if word != "STARTTLS" else "XXXXXXXA" for word in Server.keywords]


class Refuses(Server):
    """A server that offers STARTTLS and then refuses it with 454."""

    def starttls(self, client):
        client.sendall(b"454 4.3.0 TLS not available due to local problem\r\n")
        self.converse(client, client.makefile("rb"), self.clear)


class Injects(Server):
    """Somebody on the path adds replies to the 220, in the clear, that a careless client reads as said in TLS."""

    def starttls(self, client):
        client.sendall(b"220 2.0.0 go ahead\r\n250-mx.hostile.test\r\n250 SMTPUTF8\r\n550 5.1.1 no such user\r\n")
        self.handshake(client)


class OldTls(Server):
    """A server that knows no TLS version above 1.0."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.tls.set_ciphers("ALL:@SECLEVEL=0")
        self.tls.minimum_version = self.tls.maximum_version = ssl.TLSVersion.TLSv1


class Bounces(Server):
    """Somebody on the path refuses the sender for good, in the clear, so that the mail bounces."""

    keywords = NoStartTls.keywords

    def session(self, client):
        client.sendall(b"554 5.7.1 you are not welcome\r\n")
        client.recv(1)


class Strips(Server):
    """On the path to a server that has STARTTLS: takes it out of the EHLO reply, passes all else, and reads along."""

    def __init__(self, netns, address, certificate, behind):
        self.behind = behind
        super().__init__(netns, address, certificate)

    def session(self, client):
        with connect(self.netns, self.behind) as server:
            threading.Thread(target=self.back, args=(server, client), daemon=True).start()
            for line in client.makefile("rb"):
                self.clear.append(line)
                server.sendall(line)

    def back(self, server, client):
        with contextlib.suppress(OSError):
            for line in server.makefile("rb"):
                client.sendall(line.replace(b"STARTTLS", b"ETRN    "))
            client.shutdown(socket.SHUT_RDWR)
