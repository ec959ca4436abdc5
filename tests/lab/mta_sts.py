"""MTA-STS (RFC 8461) outside: the TXT records, and one HTTPS server that is the policy host of each domain."""

import http.server
import ssl
import threading

from names import Zone
from network import listen

ADDRESS, NOBODY_THERE = "192.0.2.60", "192.0.2.61"
# Each of these hosts accepts connections and sends nothing.
SILENT = [f"192.0.2.{number}" for number in range(62, 65)]
# Domains stssilent0, stssilent1, ... whose policy hosts are there.
SILENT_DOMAINS = 20

# Domain under plain.test, mode, which MX host the policy lists.
POLICIES = {
    "stsright": ("enforce", "mx.stsright.plain.test"),
    "stsother": ("enforce", "*.elsewhere.test"),
    "stsselfsigned": ("enforce", "mx.stsselfsigned.plain.test"),
    "ststesting": ("testing", "mx.elsewhere.test"),
    "stsdown": ("enforce", "mx.elsewhere.test"),
    "stswrong": ("enforce", "mx.elsewhere.test"),
    "stscached": ("enforce", "mx.elsewhere.test"),
}


def records():
    """For plain.test: each domain says that it has a policy, and where it is."""
    return "".join(
        f'_mta-sts.{name} TXT "v=STSv1; id=1"\nmta-sts.{name} A {NOBODY_THERE if name == "stsdown" else ADDRESS}\n'
        for name in POLICIES if name != "stscached"
    ) + f"mta-sts.stscached A {ADDRESS}\n" + "".join(
        f'stssilent{number} MX 10 mx.good\n_mta-sts.stssilent{number} TXT "v=STSv1; id=1"\n'
        + "".join(f"mta-sts.stssilent{number} A {address}\n" for address in SILENT)
        for number in range(SILENT_DOMAINS)
    )


def zones():
    """A separate zone for the records that a test changes."""
    return [Zone("_mta-sts.stscached.plain.test.", '@ TXT "v=STSv1; id=1"\n')]


class PolicyHosts:
    """The HTTPS server. `asked` has the names of the hosts that were asked for their policy."""

    def __init__(self, network, authority):
        network.outside_address(ADDRESS, NOBODY_THERE, *SILENT)
        self.silent = [listen(network.outside, address, 443) for address in SILENT]
        self.asked = []
        contexts = {}
        for name in POLICIES:
            host = f"mta-sts.{name}.plain.test"
            certificate = authority.issue(host, [host if name != "stswrong" else "mta-sts.elsewhere.test"])
            contexts[host] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            contexts[host].load_cert_chain(certificate.chain, certificate.key)

        def choose(socket, name, _):
            socket.context = contexts.get(name, socket.context)

        entrance = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        entrance.load_cert_chain(certificate.chain, certificate.key)
        entrance.sni_callback = choose
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.headers["Host"])
                policy = POLICIES.get((self.headers["Host"] or "").split(".")[1])
                if self.path != "/.well-known/mta-sts.txt" or not policy:
                    return self.send_error(404)
                text = f"version: STSv1\r\nmode: {policy[0]}\r\nmx: {policy[1]}\r\nmax_age: 86400\r\n".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                return self.wfile.write(text)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self):
                client, peer = super().get_request()
                client.settimeout(10)
                return client, peer

            def finish_request(self, request, client_address):
                try:
                    with entrance.wrap_socket(request, server_side=True) as secure:
                        super().finish_request(secure, client_address)
                except OSError:
                    pass  # a client that does not like the certificate

        self.server = Server((ADDRESS, 443), Handler, bind_and_activate=False)
        self.server.socket.close()
        self.server.socket = listen(network.outside, ADDRESS, 443)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
