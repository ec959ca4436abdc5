"""Files of deploy/ that can be tried without a network."""

import pathlib
import re
import subprocess
import tempfile
import unittest

import certificates
import proxy
from pair import DEPLOY

# Debian's own, which has the modules of Debian's packages.
PYTHON = "/usr/bin/python3"
SCHEMA = pathlib.Path(__file__).with_name("schema.py")


class Files(unittest.TestCase):
    """What these cases share."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="stp-ha-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_it(self, *command, **options):
        return subprocess.run(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False, **options,
        )


class Kubernetes(Files):
    """deploy/kubernetes.yaml."""

    def checked(self, *changes):
        text = (DEPLOY / "kubernetes.yaml").read_text()
        for old, new in changes:
            self.assertIn(old, text)
            text = text.replace(old, new, 1)
        manifest = self.folder / "kubernetes.yaml"
        manifest.write_text(text)
        done = self.run_it(PYTHON, SCHEMA, manifest, text=True)
        return done.returncode, done.stdout

    def test_it_is_as_kubernetes_describes_its_objects(self):
        code, said = self.checked()
        self.assertEqual(code, 0, said)
        self.assertIn("4 documents", said)

    def test_a_fault_in_it_would_be_found(self):
        for old, new, words in (
            ("readinessProbe:", "readynessProbe:", "V1Container has no such field"),
            ("minAvailable: 1", "minAvaliable: 1", "no such field"),
            ("replicas: 2", "replicas: two", "is no int"),
            ("runAsNonRoot: true", "runAsNonRoot: 1", "is no bool"),
            ("capabilities: {drop: [ALL]}", "capabilities: {drop: ALL}", "not a list"),
            ("        - name: proxy\n          image", "        - image", "`name`, must not be `None`"),
            ("kind: PodDisruptionBudget", "kind: PodDisruptionBudgets", "no such kind"),
            ("apiVersion: apps/v1", "apiVersion: apps/v9", "no such kind"),
        ):
            code, said = self.checked((old, new))
            self.assertEqual(code, 1, f"{new}: {said}")
            self.assertIn(words, said)

    def test_each_node_signs_with_a_key_that_no_other_node_can_read(self):
        text = (DEPLOY / "kubernetes.yaml").read_text()
        nodes = [f"starttls-proxy-{number}" for number in range(int(re.search(r"^  replicas: (\d+)$", text, re.M)[1]))]
        self.assertGreater(len(nodes), 1)
        # What the page has the administrator make, and put into the secret.
        made = re.findall(r"^#   starttls-proxy audit keygen --out (\S+)\.key$", text, re.M)
        kept = re.findall(r"^#.* --from-file=(\S+)\.key$", text.replace(" \\\n#    ", "\n# "), re.M)
        self.assertEqual(made, nodes)
        self.assertEqual(kept, nodes)
        # Of the secret, a container sees the file with the name of its node, and no other.
        mounts = re.findall(r"^ +- \{name: audit, (.*)\}$", text, re.M)
        self.assertEqual(mounts, ["mountPath: /etc/starttls-proxy/audit.key, subPathExpr: $(NODE).key, readOnly: true"])
        self.assertIn("            - --audit-key=/etc/starttls-proxy/audit.key\n", text)

    def test_the_proxy_takes_its_flags(self):
        certificate = certificates.self_signed(self.folder, "mx", ["mx.example.test"])
        key = self.folder / "audit.key"
        self.run_it(proxy.BINARY, "audit", "keygen", "--out", key)
        text = (DEPLOY / "kubernetes.yaml").read_text()
        flags = re.findall(r"^            - (--\S+)$", text, re.M)
        self.assertGreater(len(flags), 8)
        for old, new in (
            ("/etc/starttls-proxy/certificate/tls.crt", certificate.chain), ("/etc/starttls-proxy/certificate/tls.key", certificate.key),
            ("/etc/starttls-proxy/audit.key", key), ("/var/lib/starttls-proxy", self.folder), ("$(NODE)", "starttls-proxy-0"),
            ("<10.0.0.0/24>", "10.0.0.0/24"), ("<mail.internal.example:25>", "127.0.0.1:25"), ("<mx.example>", "mx.example"),
        ):
            self.assertTrue(any(old in flag for flag in flags), old)
            flags = [flag.replace(old, str(new)) for flag in flags]
        done = self.run_it(proxy.BINARY, "inbound", *flags, "--dry-run", text=True)
        self.assertEqual(done.returncode, 0, done.stdout)


class KeepRecords(Files):
    """deploy/keep-records, as rsyslog talks to it."""

    def keeps(self, *lines):
        """Gives it records in one transaction; returns its answers."""
        text = b"".join([b"BEGIN TRANSACTION\n", *lines, b"COMMIT TRANSACTION\n"])
        done = self.run_it(DEPLOY / "keep-records", self.folder / "copies", input=text)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout.decode().splitlines()

    def copy(self, host):
        return (self.folder / f"copies/{host}/outbound.jsonl").read_bytes()

    def test_a_record_that_comes_again_is_kept_once_also_after_a_restart(self):
        one, two, three = (b'one.example outbound {"seq":%d}\n' % number for number in range(3))
        self.assertEqual(self.keeps(one, two, one), ["OK", "OK", *["DEFER_COMMIT"] * 3, "OK"])
        self.keeps(two, three)
        self.assertEqual(self.copy("one.example"), b'{"seq":0}\n{"seq":1}\n{"seq":2}\n')

    def test_a_record_that_was_changed_is_kept_beside_the_first(self):
        self.keeps(b'one.example outbound {"seq":0}\n', b'one.example outbound {"seq":0,"x":1}\n')
        self.assertEqual(self.copy("one.example"), b'{"seq":0}\n{"seq":0,"x":1}\n')

    def test_half_a_line_that_a_crash_left_is_written_anew(self):
        (self.folder / "copies/one.example").mkdir(parents=True)
        (self.folder / "copies/one.example/outbound.jsonl").write_bytes(b'{"seq":0}\n{"se')
        self.keeps(b'one.example outbound {"seq":1}\n')
        self.assertEqual(self.copy("one.example"), b'{"seq":0}\n{"seq":1}\n')

    def test_a_name_cannot_lead_out_of_the_folder(self):
        said = self.keeps(b"../../etc outbound x\n", b"one ../passwd x\n", b".. outbound x\n", b"one.example outbound y\n")
        self.assertEqual(said.count("DEFER_COMMIT"), 4)
        self.assertEqual([path.name for path in (self.folder / "copies").iterdir()], ["one.example"])
