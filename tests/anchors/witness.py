"""A witness for tests, written from C2SP's tlog-witness, tlog-cosignature and RFC 6962. The first part of the path says how it behaves.

python3 witness.py FOLDER NAME ORIGIN LOG.pub

Keys and signatures are those of `openssl`. The first line on stdout is the port, the second the verifier key.
"""

import base64
import hashlib
import http.server
import subprocess
import sys
import time

FOLDER, NAME, ORIGIN, LOG_KEY = sys.argv[1:]
# The size and root of the last checkpoint that was signed.
STATE = (0, hashlib.sha256().digest())


def openssl(*arguments):
    done = subprocess.run(["openssl", *arguments], cwd=FOLDER, capture_output=True)
    return done.returncode, done.stdout


def public_octets(file):
    """The 32 octets at the end of an Ed25519 SubjectPublicKeyInfo."""
    _, der = openssl("pkey", "-pubin", "-in", file, "-outform", "DER")
    return der[-32:]


def key_id(name, kind, key):
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + key).digest()[:4]


def put(name, content):
    with open(f"{FOLDER}/{name}", "wb") as file:
        file.write(content)


def sign(text):
    put("w.text", text)
    code, signature = openssl("pkeyutl", "-sign", "-inkey", "w.key", "-rawin", "-in", "w.text")
    assert code == 0
    return signature


def is_signed(text, signature):
    put("w.text", text)
    put("w.signature", signature)
    command = ["pkeyutl", "-verify", "-pubin", "-inkey", LOG_KEY, "-rawin", "-in", "w.text", "-sigfile", "w.signature"]
    return openssl(*command)[0] == 0


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def old_and_new(old, size, proof, known):
    """RFC 6962 section 2.1.2, read backwards: the two roots that the proof makes, for `known` as the root of the old tree."""

    def walk(old, size, is_whole):
        """The roots of the part that the old tree has, and of the whole."""
        if old == size:
            if is_whole:
                return known, known
            last = proof.pop()
            return last, last
        half = 1
        while half * 2 < size:
            half *= 2
        if old <= half:
            right = proof.pop()
            before, now = walk(old, half, is_whole)
            return before, node(now, right)
        left = proof.pop()
        before, now = walk(old - half, size - half, False)
        return node(left, before), node(left, now)

    # The proof has the innermost first, so that it is taken from its end.
    roots = walk(old, size, True)
    return roots if not proof else (None, None)


def answer(body):
    global STATE
    head, _, note = body.partition("\n\n")
    lines = head.split("\n")
    old = int(lines[0].removeprefix("old "))
    proof = [base64.b64decode(line, validate=True) for line in lines[1:]]
    text, _, signatures = note.partition("\n\n")
    text += "\n"
    origin, size, root = text.split("\n")[:3]
    size, root = int(size), base64.b64decode(root, validate=True)
    if origin != ORIGIN:
        return 404, "text/plain", "unknown log\n"
    log_key = public_octets(LOG_KEY)
    mine = [line.split(" ") for line in signatures.splitlines()]
    blobs = [base64.b64decode(blob) for dash, name, blob in mine if dash == "\u2014" and name == ORIGIN]
    if not any(blob[:4] == key_id(ORIGIN, 1, log_key) and is_signed(text.encode(), blob[4:]) for blob in blobs):
        return 403, "text/plain", "unknown key\n"
    if old > size:
        return 400, "text/plain", "\n"
    if old != STATE[0]:
        return 409, "text/x.tlog.size", f"{STATE[0]}\n"
    if old == size and root != STATE[1]:
        return 409, "text/plain", "\n"
    if old == 0 and proof:
        return 422, "text/plain", "\n"
    if 0 < old < size:
        try:
            before, now = old_and_new(old, size, proof, STATE[1])
        except IndexError:
            return 422, "text/plain", "\n"
        if before != STATE[1] or now != root:
            return 422, "text/plain", "\n"
    STATE = (size, root)
    now = int(time.time())
    signature = sign(f"cosignature/v1\ntime {now}\n{text}".encode())
    key = key_id(NAME, 4, public_octets("w.pub"))
    blob = base64.b64encode(key + now.to_bytes(8, "big") + signature).decode()
    return 200, "text/plain", f"\u2014 {NAME} {blob}\n"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/honest/add-checkpoint":
            status, media_type, text = answer(body.decode())
        elif self.path == "/liar/add-checkpoint":
            blob = base64.b64encode(bytes(76)).decode()
            status, media_type, text = 200, "text/plain", f"\u2014 {NAME} {blob}\n"
        elif self.path == "/confused/add-checkpoint":
            status, media_type, text = 409, "text/x.tlog.size", "0\n"
        elif self.path == "/ahead/add-checkpoint":
            status, media_type, text = 409, "text/x.tlog.size", "1000000\n"
        else:
            status, media_type, text = 404, "text/plain", "?\n"
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


openssl("genpkey", "-algorithm", "ed25519", "-out", "w.key")
openssl("pkey", "-in", "w.key", "-pubout", "-out", "w.pub")
own = public_octets("w.pub")
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
typed = base64.b64encode(b"\x04" + own).decode()
print(f"{NAME}+{key_id(NAME, 4, own).hex()}+{typed}", flush=True)
server.serve_forever()
