"""Verifies a log or a proof. Written from the page docs/evidence.md alone; knows nothing of the program.

    verifier.py log KEY.pub FILE...         the size and the root that the log ends with
    verifier.py log-from N KEY.pub FILE...  the same without the files before record N
    verifier.py proof KEY.pub PROOF         the record
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
import tempfile

HEAD = re.compile(
    rb'\{"v":1,"prev":"([0-9a-f]{64})","seq":(0|[1-9][0-9]*),"at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z","event":"([a-z-]+)"'
)


def sha256(octets):
    return hashlib.sha256(octets).digest()


def node(left, right):
    return sha256(b"\x01" + left + right)


def unbase64(text):
    octets = base64.b64decode(text, validate=True)
    assert base64.b64encode(octets).decode() == text, "base64 in another form"
    return octets


class Tree:
    def __init__(self, size=0, hashes=b""):
        self.size = size
        self.range = [hashes[at : at + 32] for at in range(0, len(hashes), 32)]
        assert len(self.range) == bin(size).count("1"), "another number of hashes"

    def append(self, datum):
        carried, size = sha256(b"\x00" + datum), self.size
        while size & 1:
            carried, size = node(self.range.pop(), carried), size >> 1
        self.range.append(carried)
        self.size += 1

    def root(self):
        root = self.range[-1]
        for left in reversed(self.range[:-1]):
            root = node(left, root)
        return root


class Note:
    def __init__(self, note):
        text, lines = note.split("\n\n")
        self.text = text + "\n"
        self.origin, size, root = text.split("\n")
        self.size, self.root = int(size), unbase64(root)
        self.lines = [line.split(" ") for line in lines.splitlines()]

    def is_signed_by(self, pem):
        der = base64.b64decode("".join(open(pem).read().split("\n")[1:-2]))
        key = der[-32:]
        key_id = sha256(self.origin.encode() + b"\n\x01" + key)[:4]
        for dash, name, signature in self.lines:
            octets = unbase64(signature)
            if (dash, name, octets[:4]) == ("\u2014", self.origin, key_id):
                return openssl_verifies(pem, self.text.encode(), octets[4:])
        return False


def openssl_verifies(pem, text, signature):
    with tempfile.NamedTemporaryFile() as message, tempfile.NamedTemporaryFile() as signed:
        message.write(text), message.flush()
        signed.write(signature), signed.flush()
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", pem, "-rawin"]
        command += ["-in", message.name, "-sigfile", signed.name]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def lines_of(files):
    contents = [open(file, "rb").read().splitlines(keepends=True) for file in files]
    contents.sort(key=lambda lines: int(HEAD.match(lines[0])[2]))
    return [line for lines in contents for line in lines]


def verify_log(first, pem, files):
    lines = lines_of(files)
    tree, prev = Tree(), "0" * 64
    if first:
        prev = HEAD.match(lines[0])[1].decode()
        records = map(json.loads, lines)
        start = next(one for one in records if one.get("first") == first)
        tree = Tree(first, unbase64(start["range"]))
    checked = None
    for line in lines:
        assert line.endswith(b"\n"), "a torn line"
        line = line[:-1]
        head = HEAD.match(line)
        assert head, "no record"
        assert int(head[2]) == tree.size, f"number {head[2]} where {tree.size} must be"
        assert head[1].decode() == prev, f"the chain is broken at {tree.size}"
        if head[3] == b"checkpoint":
            note = Note(json.loads(line)["note"])
            assert note.size == tree.size, "a checkpoint of another size"
            assert note.root == tree.root(), "a checkpoint of another tree"
            # A signature costs a process, so that only the last is checked here.
            checked = note
        datum = sha256(line)
        tree.append(datum)
        prev = datum.hex()
    assert checked and checked.is_signed_by(pem), "not signed"
    print(tree.size, base64.b64encode(tree.root()).decode())


def verify_proof(pem, file):
    head, note = open(file).read().split("\n\n", 1)
    first, extra, index, *path = head.split("\n")
    assert first == "c2sp.org/tlog-proof@v1"
    record = unbase64(extra.removeprefix("extra ")).split(b"\n")[0]
    index, note = int(index.removeprefix("index ")), Note(note)
    assert int(HEAD.match(record)[2]) == index, "another record"
    at, last, hash_ = index, note.size - 1, sha256(b"\x00" + sha256(record))
    assert index < note.size
    for step in map(unbase64, path):
        assert last, "the path is too long"
        if at & 1 or at == last:
            hash_ = node(step, hash_)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            hash_ = node(hash_, step)
        at, last = at >> 1, last >> 1
    assert last == 0 and hash_ == note.root, "not in the tree"
    assert note.is_signed_by(pem), "not signed"
    print(record.decode())


match sys.argv[1:]:
    case ["log", pem, *files]:
        verify_log(0, pem, files)
    case ["log-from", first, pem, *files]:
        verify_log(int(first), pem, files)
    case ["proof", pem, file]:
        verify_proof(pem, file)
