#!/usr/bin/env python3
"""A stranger's verifier of the audit log, written from docs/evidence.md alone.

It knows nothing of the program. It needs Python's standard library and the openssl command.

    stranger.py log [--from N] [--key KEY]... [--first-key KEY]... [--witness KEY]...
                    [--anchor SIZE:HASH]... [--since NOTE]... FILE...
    stranger.py proof --key KEY [--witness KEY]... FILE

    stranger.py log KEY.pub FILE...         the same as log --key KEY.pub FILE...
    stranger.py log-from N KEY.pub FILE...  the same as log --from N --key KEY.pub FILE...
    stranger.py proof KEY.pub FILE          the same as proof --key KEY.pub FILE

The output is the size and the root that the log ends with, or the record that the proof proves. What else there is to say
goes to standard error.

KEY is a public key as PEM, or a verifier key NAME+ID+KEY. HASH is the hash of the last record in hex, or the root in base64.
Exit code 0: intact. 1: not intact, with the record's number and the reason. 2: wrong usage.
"""

import base64
import binascii
import collections
import datetime
import functools
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zlib

ZERO = bytes(32)
ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")
EPOCH_TYPE = b"\xffstarttls-proxy/epoch/v1"
HEADER = re.compile(
    rb'\{"v":1,"prev":"([0-9a-f]{64})","seq":(0|[1-9][0-9]*),'
    rb'"at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z","event":"([a-z-]+)"[,}]'
)
NUMBER = re.compile(r"0|[1-9][0-9]*")
MAX_UNSIGNED = 1000
MAX_DEPTH = 127
ML_DSA_EVERY = datetime.timedelta(hours=1, seconds=10)


class Usage(Exception):
    pass


class Damage(Exception):
    """What is wrong, and at which record (None: at the record that is being looked at)."""

    def __init__(self, reason, record=None):
        super().__init__(reason)
        self.reason = reason
        self.record = record


def sha(data):
    return hashlib.sha256(data).digest()


def leaf(datum):
    return sha(b"\x00" + datum)


def node(left, right):
    return sha(b"\x01" + left + right)


def gunzip(data):
    """One whole stream; what does not begin like one is taken as it is."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    stream = zlib.decompressobj(wbits=31)
    try:
        octets = stream.decompress(data, 1 << 26)
    except zlib.error:
        raise Damage("what should be gzip is none")
    if not stream.eof or stream.unused_data:
        raise Damage("the gzip stream does not end where it should")
    return octets


def unbase64(text, what="base64"):
    """Only the canonical form with padding is good."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Damage(f"{what} is not base64")
    if base64.b64encode(data).decode() != text:
        raise Damage(f"{what} is not canonical base64")
    return data


# Signatures


class Openssl:
    """Ed25519 and time-stamps by the openssl command."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="stranger.")

    def put(self, name, data):
        path = os.path.join(self.directory.name, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def good(self, public, message, signature):
        key = self.put("key.der", ED25519_SPKI + public)
        text = self.put("text", message)
        sig = self.put("signature", signature)
        ran = subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", key]
            + ["-rawin", "-in", text, "-sigfile", sig],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )
        return ran.returncode == 0

    def token(self, der):
        """The digest that a time-stamp is of, as hex, and its time. The certificate in it must have signed it."""
        signed = subprocess.run(
            ["openssl", "cms", "-verify", "-inform", "DER", "-noverify", "-in", self.put("token.der", der)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )
        if signed.returncode:
            raise Damage("the token is not signed by the certificate in it")
        ran = subprocess.run(
            ["openssl", "ts", "-reply", "-token_in", "-token_out", "-in", self.put("token.der", der), "-text"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        )
        out = ran.stdout.decode("utf-8", "replace")
        algorithm = re.search(r"^Hash Algorithm: (.*)$", out, re.M)
        dump = re.search(r"^Message data:\n((?: +[0-9a-f]+ - .*\n)+)", out, re.M)
        time = re.search(r"^Time stamp: (.*) GMT$", out, re.M)
        if ran.returncode or not (algorithm and dump and time):
            raise Damage("the token is no time-stamp token")
        if algorithm.group(1) != "sha256":
            raise Damage("the token's digest is not SHA-256")
        digest = ""
        for line in dump.group(1).splitlines():
            digest += re.sub(r"[ -]", "", line.split(" - ", 1)[1][:47])
        text = re.sub(r"\.\d+", "", time.group(1))
        when = datetime.datetime.strptime(" ".join(text.split()), "%b %d %H:%M:%S %Y")
        return digest, when


class Key:
    """A public key of Ed25519. `name` is None for a PEM, which has none."""

    def __init__(self, name, kind, public):
        self.name, self.kind, self.public = name, kind, public

    def id(self, name=None):
        return sha((name or self.name).encode() + b"\n" + self.kind + self.public)[:4]

    @staticmethod
    def verifier(text):
        parts = text.split("+", 2)
        if len(parts) != 3 or not parts[0] or not re.fullmatch("[0-9a-f]{8}", parts[1]):
            raise Damage(f"{text!r} is no verifier key")
        data = unbase64(parts[2], "the verifier key")
        kind, public = data[:-32], data[-32:]
        if kind not in (b"\x01", b"\x04", EPOCH_TYPE) or len(public) != 32:
            raise Damage(f"{text!r} is of an unknown kind")
        key = Key(parts[0], kind, public)
        if key.id().hex() != parts[1]:
            raise Damage(f"{text!r} has a wrong id")
        return key

    @staticmethod
    def given(text):
        """A key of the command line: a file with PEM, or a verifier key."""
        try:
            if os.path.exists(text):
                with open(text, encoding="ascii") as file:
                    pem = file.read()
                if "BEGIN" not in pem:
                    return Key.verifier(pem.strip())
                found = re.search(r"-----BEGIN PUBLIC KEY-----\s(.*?)-----END PUBLIC KEY-----", pem, re.S)
                der = base64.b64decode(found.group(1)) if found else b""
                if len(der) != 44 or not der.startswith(ED25519_SPKI):
                    raise Usage(f"{text}: no public key of Ed25519")
                return Key(None, b"\x01", der[-32:])
            return Key.verifier(text)
        except (Damage, OSError, ValueError) as error:
            raise Usage(f"{text}: {error}")


class Note:
    """A checkpoint: name, size, root, text, and signature lines as (key name, octets)."""

    def __init__(self, note):
        text, empty, tail = note.partition("\n\n")
        self.text = (text + "\n").encode()
        lines = text.split("\n")
        if not empty or len(lines) != 3 or not lines[0]:
            raise Damage("the note does not have three lines and an empty one")
        self.name = lines[0]
        if not NUMBER.fullmatch(lines[1]):
            raise Damage("the note's size is no number")
        self.size = int(lines[1])
        self.root = unbase64(lines[2], "the note's root")
        if len(self.root) != 32:
            raise Damage("the note's root is not a hash")
        self.signatures = []
        if tail and not tail.endswith("\n"):
            raise Damage("the note does not end with LF")
        for line in tail.split("\n")[:-1]:
            self.signatures.append(signature_line(line))

    def signed_by(self, openssl, key, name):
        """Whether a line of this name and key is good."""
        lines = [data for line_name, data in self.signatures if line_name == name and data[:4] == key.id(name)]
        return any(len(data) == 68 and openssl.good(key.public, self.text, data[4:]) for data in lines)


def signature_line(line):
    found = re.fullmatch(r"— ([^ +]+) ([^ ]+)", line)
    if not found:
        raise Damage(f"{line!r} is no signature line")
    data = unbase64(found.group(2), "a signature")
    if len(data) < 5:
        raise Damage("a signature is too short")
    return found.group(1), data


# Records


def once(pairs):
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a field stands twice")
    return made


def constant(text):
    raise ValueError(f"{text} is not JSON")


def finite(text):
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large")
    return number


def check_depth(value, depth=1):
    if isinstance(value, (dict, list)):
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deep")
        for inner in value.values() if isinstance(value, dict) else value:
            check_depth(inner, depth + 1)


class Record:
    def __init__(self, line):
        found = HEADER.match(line)
        if not found:
            raise Damage("the line does not begin as a record does")
        self.prev = bytes.fromhex(found.group(1).decode())
        self.seq = int(found.group(2))
        self.header = line[: found.end() - 1]
        try:
            self.fields = json.loads(
                line.decode("utf-8"), object_pairs_hook=once, parse_constant=constant, parse_float=finite
            )
            check_depth(self.fields)
            json.dumps(self.fields, ensure_ascii=False).encode("utf-8")  # Half a character is none.
        except (ValueError, RecursionError) as error:
            raise Damage(f"the line is no record: {error}")
        if re.search(rb"\s", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", line)):
            raise Damage("the line has white space outside strings")
        self.event = self.fields["event"]
        self.hash = sha(line)

    def get(self, field, kind):
        value = self.fields.get(field)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Damage(f"{self.event} has no {field}, or one of a wrong kind")
        return value

    def found(self):
        """What a log-cut says was found: the number of records, and the hash of the last."""
        if self.event != "log-cut":
            return None
        if not re.fullmatch("[0-9a-f]{64}", self.get("found_hash", str)):
            raise Damage("found_hash is no hash")
        return self.get("found", int), bytes.fromhex(self.get("found_hash", str))

    def range(self):
        first = self.get("first", int)
        data = unbase64(self.get("range", str), "the range")
        if first < 0 or len(data) != 32 * bin(first).count("1"):
            raise Damage(f"the range has not as many hashes as {first} records need")
        return first, [data[i : i + 32] for i in range(0, len(data), 32)]


class Tree:
    def __init__(self, size=0, hashes=()):
        self.size, self.hashes = size, list(hashes or ())

    def append(self, record_hash):
        new, size = leaf(record_hash), self.size
        while size & 1:
            new = node(self.hashes.pop(), new)
            size >>= 1
        self.hashes.append(new)
        self.size += 1

    def root(self):
        if not self.hashes:
            return sha(b"")
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node(left, root)
        return root

    def subtrees(self):
        """Each hash by the records that it stands over."""
        made, start = {}, 0
        bits = [bit for bit in reversed(range(self.size.bit_length())) if self.size >> bit & 1]
        for bit, value in zip(bits, self.hashes):
            made[start, start + (1 << bit)] = value
            start += 1 << bit
        return made


def read_lines(path):
    """The lines of a file with their LFs, unpacked if need be."""
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
            if magic == b"\x28\xb5\x2f\xfd":
                raise Usage(f"{path}: unpack zstd first")
            file.seek(0)
            if magic[:2] == b"\x1f\x8b":
                with gzip.open(file) as unpacked:
                    yield from unpacked
            else:
                yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Damage(f"{path} cannot be unpacked: {error}")
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}")


def first_seq(path):
    """Number of a file's first line. If that line is bad, the next good line tells. None: no line is good."""
    try:
        for number, line in enumerate(read_lines(path)):
            found = HEADER.match(line)
            if found:
                return max(0, int(found.group(2)) - number)
    except Damage:
        pass
    return None


class Log:
    def __init__(self, openssl, options):
        self.openssl = openssl
        self.keys, self.first_keys, self.witnesses = options["key"], options["first-key"], options["witness"]
        self.anchors = list(options["anchor"])
        self.since = []
        for path in options["since"]:
            self.since.append(self.read_since(path))
        self.begin = options["from"]
        self.faults = []
        self.head, self.tree = ZERO, Tree()
        self.number = 0  # of the line, over all files
        self.starts = []  # number of the line, event, first, range and what was found of each record that has a range
        self.begun = None  # size and range where the file begins, or what is behind a gap
        self.not_here = []  # ranges of numbers whose records are known to be missing
        self.ml_dsa = None  # when the last signature by ML-DSA was made, True: the next checkpoint has one, None: unknown
        self.ml_dsa_made, self.ml_dsa_missing = 0, 0
        self.ranges = collections.OrderedDict()
        self.opened = None  # fields of the last log-opened
        self.key = None
        self.keyed_at = None  # number of the first log-opened with a key
        self.keyless = None  # number of the first checkpoint without a signature in a log that had no key yet
        self.signed = 0
        self.epoch = None  # public key that signs the next checkpoint, with its name
        self.chain = "none"  # none, known, or unknown
        self.lost = False  # the next log-opened may begin another chain
        self.held = False  # a first key was met
        self.followed = False  # a checkpoint was good by it, or by one that follows it
        self.met = set()
        self.checkpoints, self.unsigned = 0, 0
        self.texts = {}
        self.torn = None

    def read_since(self, path):
        try:
            with open(path, encoding="utf-8", newline="") as file:
                note = Note(file.read())
            keys = [key for key in self.keys if key.kind == b"\x01"]
            if self.keys and not any(note.signed_by(self.openssl, key, note.name) for key in keys):
                raise Damage("no signature of the key")
        except (OSError, ValueError, Damage) as error:
            raise Usage(f"{path}: {error}")
        return note

    # What was kept elsewhere

    def compare(self):
        size, root = self.tree.size, None
        for anchor in self.anchors:
            if anchor[0] == size:
                root = root or self.tree.root()
                anchor[2] = True
                if anchor[1] not in (self.head.hex(), base64.b64encode(root).decode()):
                    raise Damage(f"the anchor of {size} records is of another log", max(0, size - 1))
        for note in self.since:
            if note.size == size:
                if note.root != self.tree.root():
                    raise Damage(f"the checkpoint of {size} records is of another log", max(0, size - 1))
                note.met = True

    # The chain

    def run(self, files):
        known = [(first_seq(path), path) for path in files]
        order = sorted((pair for pair in known if pair[0] is not None), key=lambda pair: pair[0])
        order += [pair for pair in known if pair[0] is None]
        order = self.behind(order)
        try:
            self.find_starts(order)
            if self.begin:
                start = next(self.starts_behind(self.begin, ("log-continued", "log-cut")), None)
                self.chain = "unknown"
                self.tree = start[0] if start else Tree(self.begin)
                self.not_here.append((0, self.begin))
                if start is None:
                    raise Damage(f"nothing says what stood before record {self.begin}")
            else:
                self.compare()
            for path in order:
                self.begun = self.tree.size, list(self.tree.hashes)
                for line in read_lines(path):
                    if self.torn or not line.endswith(b"\n") or b"\x00" in line:
                        self.torn_line(line, path)
                    else:
                        self.line(line[:-1])
                    self.number += 1
            self.end()
        except Damage as damage:
            where = self.tree.size if damage.record is None else damage.record
            self.faults.append((where, damage.reason))

    def behind(self, order):
        """The files from the one on that begins with the record that --from names."""
        older = [seq for seq, _ in order if seq is not None and seq < self.begin]
        if older and not any(seq == self.begin for seq, _ in order):
            raise Usage(f"--from {self.begin}: no file begins with that record, the one before it begins with {older[-1]}")
        return [path for seq, path in order if seq is None or seq >= self.begin]

    def find_starts(self, order):
        """A range may stand behind records that were on their way, a checkpoint among them. So all are found beforehand."""
        number = 0
        for path in order:
            try:
                for line in read_lines(path):
                    found = HEADER.match(line)
                    if found and found.group(3) in (b"log-continued", b"log-cut"):
                        try:
                            record = Record(line.rstrip(b"\n"))
                            first, hashes = record.range()
                            self.starts.append((number, record.event, first, hashes, record.found()))
                        except Damage:
                            pass  # It is told where the line's turn comes.
                    number += 1
            except Damage:
                pass

    def starts_behind(self, first, events):
        """What the records there or further on say of the tree before record number `first`, and of what was found."""
        for number, event, at, hashes, found in self.starts:
            if number >= self.number and at == first and event in events:
                yield Tree(first, hashes), found

    def torn_line(self, line, path):
        """Neither the line that a crash tore counts nor what is behind it. But no checkpoint or other file can follow."""
        if not self.torn:
            self.torn = self.tree.size, path
            return
        found = HEADER.match(line) if line.endswith(b"\n") else None
        if path != self.torn[1] or found and found.group(3) == b"checkpoint":
            raise Damage(f"a torn line in {self.torn[1]}, and more behind it", self.torn[0])

    def line(self, line):
        record = Record(line)
        if self.begin and self.begin == self.tree.size == record.seq and not self.ranges:
            # What stood before is not here. Its hash is taken on trust until an anchor or a signature vouches for it.
            self.head = record.prev
            self.compare()
        if record.seq != self.tree.size or record.prev != self.head:
            self.gap(record)
        if record.event in ("log-continued", "log-cut"):
            self.range_known(record)
        if record.event == "checkpoint":
            self.checkpoint(record, line)
        elif record.event == "log-opened":
            self.log_opened(record)
        elif record.event == "key-lost":
            self.lost = True
        elif record.event in ("stamp", "cosigned"):
            self.vouched(record)
        elif record.event == "not-anchored":
            record.get("wanted", str), record.get("size", int), record.get("error", str)
        elif record.event == "log-recovered":
            record.get("lost", int)
        elif record.event == "log-brought-back":
            record.get("since", str)
        self.unsigned = 0 if record.event == "checkpoint" else self.unsigned + 1
        if self.unsigned > MAX_UNSIGNED and (self.key or self.keys):
            raise Damage(f"more than {MAX_UNSIGNED} records without a checkpoint")
        self.append(record.hash)

    def append(self, record_hash):
        self.head = record_hash
        self.ranges[self.tree.size] = list(self.tree.hashes)
        if len(self.ranges) > 20 * MAX_UNSIGNED:
            self.ranges.popitem(last=False)
        self.tree.append(record_hash)
        self.compare()

    def gap(self, record):
        """The line does not follow the one before. That is damage, unless the log itself says that it was cut here."""
        def names_it(start):
            # It excuses the gap that it names, or less of it.
            return start[1] == (self.tree.size, self.head) or start[1][0] < self.tree.size < record.seq

        tree, _ = next(filter(names_it, self.starts_behind(record.seq, ("log-cut",))), (None, None))
        if tree is None:
            is_seq = record.seq != self.tree.size
            raise Damage(f"seq is {record.seq}" if is_seq else "prev is not the hash of the record before")
        before = self.tree.subtrees()
        for over, value in tree.subtrees().items():
            if before.get(over, value) != value:
                raise Damage(f"another log was put in place: records {over[0]} to {over[1] - 1} were others")
        self.faults.append((self.tree.size, f"records were cut off here: the log goes on with {record.seq}"))
        self.not_here.append((self.tree.size, record.seq))
        self.tree, self.head = tree, record.prev
        self.begun = tree.size, list(tree.hashes)
        self.ml_dsa = None
        self.unsigned = 0
        self.chain, self.epoch = "unknown", None
        self.compare()

    def range_known(self, record):
        first, hashes = record.range()
        record.found()
        if first < self.begin:
            return
        if first > self.tree.size:
            raise Damage(f"the range is of {first} records, which are not there yet")
        here = self.begun[1] if self.begun[0] == first else self.ranges.get(first)
        here = self.tree.hashes if first == self.tree.size else here
        if here is None:
            raise Damage(f"the range is of {first} records, and stands too far behind them")
        if here != hashes:
            raise Damage("the range is not that of the records")

    # Keys

    def log_opened(self, record):
        origin = record.get("origin", str)
        if not re.fullmatch(r'[!-~]+', origin) or set(origin) & set('+"\\'):
            raise Damage("log-opened has no name that a log can have")
        fields = {}
        for field, suffix in (("key", ""), ("epoch", "/epoch")):
            value = record.get(field, (str, type(None)))
            fields[field] = Key.verifier(value) if value is not None else None
            if fields[field] and fields[field].name != origin + suffix:
                raise Damage(f"the {field} of log-opened has not the log's name")
            if fields[field] and (fields[field].kind == EPOCH_TYPE) != (field == "epoch"):
                raise Damage(f"the {field} of log-opened is of another kind")
        if self.opened and self.opened["origin"] != origin:
            was, now = self.key and self.key.public, fields["key"] and fields["key"].public
            if was != now:
                raise Damage("the log has another name and another key")
        self.opened = {"origin": origin}
        self.key = fields["key"]
        if self.key and self.keyed_at is None:
            self.keyed_at = record.seq
        self.ml_dsa = True if self.key else None
        epoch = fields["epoch"]
        if epoch is None:
            if self.held:
                raise Damage("the chain of epochs ends")
            self.chain, self.epoch, self.lost = "none", None, False
            return
        lost, self.lost = self.lost, False
        if self.chain == "known" and (not lost or epoch.public == self.epoch):
            if epoch.public != self.epoch:
                raise Damage("the epoch is not the one that the last checkpoint named")
        elif self.held and not self.is_first_key(epoch.public):
            raise Damage("another chain of epochs begins")
        self.chain, self.epoch = "known", epoch.public
        self.is_first_key(epoch.public)

    def is_first_key(self, public):
        found = False
        for key in self.first_keys:
            if key.public == public:
                self.met.add(public)
                self.held = found = True
        return found

    def checkpoint(self, record, line):
        note_text = record.get("note", str)
        escaped = json.dumps(note_text, ensure_ascii=False).encode()
        if line != record.header + b',"note":' + escaped + b"}":
            raise Damage("the line has more than its note needs")
        note = Note(note_text)
        if note.size != self.tree.size:
            raise Damage(f"the checkpoint is of {note.size} records")
        if note.root != self.tree.root():
            raise Damage("the root is not that of the tree")
        if self.opened is None and not self.begin:
            raise Damage("a checkpoint before any log-opened")
        if self.opened and note.name != self.opened["origin"]:
            raise Damage("the checkpoint has another name than the log")
        self.log_signature(note)
        self.epoch_signature(note)
        self.see_ml_dsa(note, datetime.datetime.strptime(record.fields["at"], "%Y-%m-%dT%H:%M:%S.%fZ"))
        self.checkpoints += 1
        self.texts[note.size] = note.text

    def see_ml_dsa(self, note, at):
        """Whether a signature by ML-DSA is there where one is due. Whether it is good, nothing here can tell."""
        if any(name == note.name + "/ml-dsa-44" for name, _ in note.signatures):
            self.ml_dsa_made += 1
            self.ml_dsa = at
        elif self.ml_dsa is True or self.ml_dsa is not None and at - self.ml_dsa >= ML_DSA_EVERY:
            self.ml_dsa_missing += 1
            self.ml_dsa = at

    def log_signature(self, note):
        # A verifier key of an older name counts by its octets: the host may have been renamed.
        trusted = [Key(None, b"\x01", key.public) for key in self.keys if key.kind == b"\x01"]
        is_keyless = not self.begin and self.opened and self.keyed_at is None
        if self.keys and is_keyless and not note.signatures:
            if self.keyless is None:
                self.keyless = note.size
            return
        self.signed += 1
        if self.opened:
            if self.key and not note.signed_by(self.openssl, self.key, note.name):
                raise Damage("no good signature of the log's key")
            if self.keys and not (self.key and any(key.public == self.key.public for key in trusted)):
                raise Damage("not signed by a key that is trusted")
        elif self.keys and not any(note.signed_by(self.openssl, key, note.name) for key in trusted):
            raise Damage("not signed by a key that is trusted")

    def epoch_signature(self, note):
        if self.chain == "none":
            return
        name = note.name + "/epoch"
        lines = [data for line_name, data in note.signatures if line_name == name][:1]  # Only the first counts.
        known = self.epoch
        if self.chain == "unknown":
            for key in self.first_keys:
                if any(data[:4] == Key(name, EPOCH_TYPE, key.public).id() for data in lines):
                    known = key.public
                    self.is_first_key(known)
        if known is None:
            # Nobody told the key that signs: what it names can only be taken as it is.
            if len(lines) == 1 and len(lines[0]) == 100:
                if self.held and not self.is_first_key(lines[0][4:36]):
                    raise Damage("another chain of epochs begins")
                self.chain, self.epoch = "known", lines[0][4:36]
                self.is_first_key(self.epoch)
            elif self.held:
                raise Damage("the chain of epochs ends")
            return
        identity = Key(name, EPOCH_TYPE, known).id()
        lines = [data for data in lines if data[:4] == identity]
        if not lines:
            raise Damage("no signature of the epoch")
        if not self.epoch_good(known, note, lines[0]):
            raise Damage("the signature of the epoch is wrong")
        self.followed = self.followed or self.held
        upcoming = lines[0][4:36]
        self.chain, self.epoch = "known", upcoming
        self.is_first_key(upcoming)

    def epoch_good(self, public, note, data):
        signed = note.text + b"next " + base64.b64encode(data[4:36]) + b"\n"
        return len(data) == 100 and self.openssl.good(public, signed, data[36:])

    def vouched(self, record):
        size = record.get("size", int)
        text = self.texts.get(size)
        if not 0 <= size < record.seq:
            raise Damage("it is about a checkpoint that does not stand before it")
        if text is None and not any(begin <= size < end for begin, end in self.not_here):
            raise Damage(f"it is about record {size} as a checkpoint, which that is not")
        if record.event == "stamp":
            digest, when = self.openssl.token(unbase64(record.get("token", str), "the token"))
            if record.get("time", str) != when.strftime("%Y-%m-%dT%H:%M:%S.000000Z"):
                raise Damage("the time-stamp is of another time")
            if text is not None and digest != sha(text).hex():
                raise Damage("the time-stamp is of something else")
            return
        name, data = signature_line(record.get("line", str))
        if len(data) != 76:
            raise Damage("the cosignature is not of 76 octets")
        when = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=int.from_bytes(data[4:12], "big"))
        if record.get("time", str) != when.strftime("%Y-%m-%dT%H:%M:%S.000000Z"):
            raise Damage("the cosignature is of another time")
        if text is not None:
            check_cosignature(self.openssl, self.witnesses, name, data, text)

    def end(self):
        if not self.tree.size:
            raise Damage("there is no record")
        if self.anchors and not any(met for _, _, met in self.anchors):
            raise Damage("no anchor is of this log")
        for size, value, met in self.anchors:
            if not met and size >= self.begin:
                raise Damage(f"the anchor of {size} records ({value}) is not in the log")
        for note in self.since:
            if not getattr(note, "met", False):
                raise Damage(f"the checkpoint of {note.size} records is not in the log")
        if self.keys and not self.signed:
            raise Damage("nothing is signed", self.keyless)
        for key in self.first_keys:
            if key.public not in self.met:
                raise Damage("an epoch key that was kept elsewhere is not in the log")
        if self.first_keys and not self.followed:
            raise Damage("no checkpoint is good by an epoch key that was kept elsewhere, or by one that follows it")
        met = [size for size, _, is_met in self.anchors if is_met] + [note.size for note in self.since]
        is_covered = self.followed or any(size >= (self.keyed_at or 0) for size in met)
        if self.keyless is not None and not is_covered:
            raise Damage(f"not signed before record {self.keyed_at}, at which the log got its key", self.keyless)
        if self.tree.size < self.begin:
            raise Damage(f"the log has no record {self.begin}")


def check_cosignature(openssl, witnesses, name, data, text):
    for key in witnesses:
        if key.name == name and key.id() == data[:4]:
            if len(data) != 76:
                raise Damage("the cosignature is not of 76 octets")
            seconds = int.from_bytes(data[4:12], "big")
            if not openssl.good(key.public, b"cosignature/v1\ntime %d\n" % seconds + text, data[12:]):
                raise Damage(f"the cosignature of {name} is wrong")
            return True
    return False


# A proof


def check_proof(openssl, data, keys, witnesses):
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Damage("the proof is not UTF-8")
    head, empty, note_text = text.partition("\n\n")
    lines = head.split("\n")
    if not empty or len(lines) < 3 or lines[0] != "c2sp.org/tlog-proof@v1":
        raise Damage("this is no proof")
    if not lines[1].startswith("extra ") or not re.fullmatch("index (?:0|[1-9][0-9]*)", lines[2]):
        raise Damage("the proof has no extra, or no index")
    extra = gunzip(unbase64(lines[1][6:], "extra")).split(b"\n")
    index = int(lines[2][6:])
    path = [unbase64(line, "a hash of the path") for line in lines[3:]]
    if any(len(value) != 32 for value in path):
        raise Damage("a hash of the path is not of 32 octets")
    note = Note(note_text)
    record = Record(extra[0])
    if record.seq != index:
        raise Damage(f"the record is number {record.seq}, not {index}")
    if index >= note.size:
        raise Damage("the checkpoint is older than the record")
    f, s, root = index, note.size - 1, leaf(record.hash)
    for value in path:
        if s == 0:
            raise Damage("the path is too long")
        if f & 1 or f == s:
            root = node(value, root)
            while f and not f & 1:
                f, s = f >> 1, s >> 1
        else:
            root = node(root, value)
        f, s = f >> 1, s >> 1
    if s:
        raise Damage("the path is too short")
    if root != note.root:
        raise Damage("the path does not lead to the root")
    named = [key for key in keys if key.kind == b"\x01" and key.name in (None, note.name)]
    if not any(note.signed_by(openssl, key, note.name) for key in named):
        raise Damage("the checkpoint is not signed by the key")
    for line in extra[1:]:
        try:
            check_further(openssl, witnesses, line, note)
        except Damage as damage:
            print(f"beside the record stands a line that shows nothing: {damage.reason}", file=sys.stderr)
    return index, extra[0]


def check_further(openssl, witnesses, line, note):
    """A line behind the record. The log does not sign it, so that it has to speak for itself."""
    about = Record(line)
    if about.event not in ("stamp", "cosigned") or about.get("size", int) != note.size:
        raise Damage("it is not about the checkpoint")
    if about.event == "stamp":
        digest, _ = openssl.token(unbase64(about.get("token", str), "the token"))
        if digest != sha(note.text).hex():
            raise Damage("the time-stamp is of something else")
    else:
        name, signature = signature_line(about.get("line", str))
        check_cosignature(openssl, witnesses, name, signature, note.text)


# The command line


def arguments(words, known):
    options = {name: [] for name in known}
    files = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name not in known or not (equals or words):
                raise Usage(f"{word}: unknown, or without its value")
            options[name].append(value if equals else words.pop(0))
        else:
            files.append(word)
    if not files:
        raise Usage("no file")
    return options, files


def anchor(text):
    size, colon, value = text.partition(":")
    if not colon or not NUMBER.fullmatch(size) or not re.fullmatch("[0-9a-f]{64}|[A-Za-z0-9+/]{43}=", value):
        raise Usage(f"{text}: no anchor")
    return [int(size), value, False]


def log_command(words, openssl):
    options, files = arguments(words, ("from", "key", "first-key", "witness", "anchor", "since"))
    if options["from"] and (len(options["from"]) > 1 or not NUMBER.fullmatch(options["from"][0])):
        raise Usage("--from takes a number")
    options["from"] = int(options["from"][0]) if options["from"] else 0
    for name in ("key", "first-key", "witness"):
        options[name] = [Key.given(text) for text in options[name]]
    if any(key.kind != EPOCH_TYPE for key in options["first-key"]):
        raise Usage("--first-key takes epoch keys")
    options["anchor"] = [anchor(text) for text in options["anchor"]]
    log = Log(openssl, options)
    log.run(files)
    for record, reason in log.faults:
        print(f"not intact: record {record}: {reason}")
    if log.faults:
        return 1
    print(log.tree.size, base64.b64encode(log.tree.root()).decode())
    say = functools.partial(print, file=sys.stderr)
    say(f"intact: {log.checkpoints} checkpoints, {log.unsigned} records behind the last, head {log.head.hex()}")
    if log.ml_dsa_made and log.ml_dsa_missing:
        say(f"{log.ml_dsa_missing} checkpoints lack the signature by ML-DSA that was due")
    if log.torn:
        say(f"the last line is torn: {log.torn[1]}")
    if not options["key"]:
        say("no key was given: whoever can write the log can write it anew")
    return 0


def proof_command(words, openssl):
    options, files = arguments(words, ("key", "witness"))
    if not options["key"] or len(files) != 1:
        raise Usage("proof takes a key and one file")
    keys, witnesses = ([Key.given(text) for text in options[name]] for name in ("key", "witness"))
    try:
        with open(files[0], "rb") as file:
            data = file.read()
    except OSError as error:
        raise Usage(f"{files[0]}: {error.strerror}")
    try:
        index, record = check_proof(openssl, data, keys, witnesses)
    except Damage as damage:
        print(f"not intact: {damage.reason}")
        return 1
    print(record.decode())
    print(f"proved: record {index}", file=sys.stderr)
    return 0


def is_public_key(path):
    try:
        with open(path, "rb") as file:
            return file.read(26) == b"-----BEGIN PUBLIC KEY-----"
    except OSError:
        return False


def with_flags(words):
    """Operands that stand for flags: log-from N is log --from N, and a PEM in front of the files is --key PEM."""
    if words[:1] == ["log-from"] and len(words) > 1:
        words = ["log", "--from"] + words[1:]
        key = 3
    else:
        key = 1
    if len(words) > key and is_public_key(words[key]):
        words = words[:key] + ["--key"] + words[key:]
    return words


def main(words):
    commands = {"log": log_command, "proof": proof_command}
    words = with_flags(words)
    try:
        if not words or words[0] not in commands:
            raise Usage("log or proof?")
        return commands[words[0]](words[1:], Openssl())
    except Usage as error:
        print(f"stranger.py: {error}\n{__doc__}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
