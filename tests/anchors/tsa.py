"""A time-stamp authority for tests: OpenSSL's `ts` behind HTTP. The path says how it behaves.

python3 tsa.py FOLDER [CERTIFICATE KEY]   (with a certificate: over TLS)

FOLDER has what `openssl ts` needs, in ts.cnf. The first line on stdout is the port.
"""

import http.server
import ssl
import subprocess
import sys
import threading

FOLDER = sys.argv[1]
LOCK = threading.Lock()


def openssl(*arguments, stdin=b""):
    done = subprocess.run(["openssl", *arguments], cwd=FOLDER, input=stdin, capture_output=True, check=True)
    return done.stdout


def stamp(request, section):
    with LOCK:
        with open(f"{FOLDER}/request.tsq", "wb") as file:
            file.write(request)
        return openssl("ts", "-reply", "-config", "ts.cnf", "-section", section, "-queryfile", "request.tsq")


def other_request():
    return openssl("ts", "-query", "-digest", "ab" * 32, "-sha256", "-cert")


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        request = self.rfile.read(int(self.headers["Content-Length"]))
        media_type, status = "application/timestamp-reply", 200
        way = self.path.strip("/")
        if self.headers["Content-Type"] != "application/timestamp-query":
            status, body = 415, b""
        elif way in ("rsa", "ec"):
            body = stamp(request, way)
        elif way == "wrong-imprint":
            body = stamp(other_request(), "ec")
        elif way == "wrong-nonce":
            # The same digest, which stands at a fixed place, with another number.
            digest = request[24:56].hex()
            body = stamp(openssl("ts", "-query", "-digest", digest, "-sha256", "-cert"), "ec")
        elif way == "without-certificate":
            # The question without its last field, certReq.
            body = stamp(bytes([0x30, len(request) - 5]) + request[2:-3], "ec")
        elif way == "garbage":
            body = b"\x30\x82\xff\xff" + b"x" * 4000
        elif way == "huge":
            body = b"\x30" * (8 << 20)
        elif way == "page":
            media_type, body = "text/html", b"<html>pay first</html>"
        elif way == "moved":
            status, body = 302, b""
        else:
            status, body = 503, b"busy"
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", "/ec")
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # the client has had enough


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
