"""An authority that the proxy trusts, one that it does not, and what they sign."""

import datetime
import hashlib

from network import sh

REQUEST = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
CONFIGURATION = """
[ca]
default_ca = authority
[authority]
database = {folder}/index
rand_serial = yes
new_certs_dir = {folder}
certificate = {folder}/root.pem
private_key = {folder}/root.key
default_md = sha256
policy = policy
unique_subject = no
[policy]
commonName = supplied
"""


class Certificate:
    """A PEM chain and its key, in files."""

    def __init__(self, chain, key):
        self.chain, self.key = chain, key

    def digest(self, selector=1, which=0):
        """SHA-256 as a TLSA record (RFC 6698) has it, hex: of the certificate (0) or its public key (1)."""
        marker = "-----BEGIN CERTIFICATE-----"
        pem = marker + self.chain.read_text().split(marker)[which + 1]
        command = ["openssl", "x509", "-noout", "-pubkey"] if selector else ["openssl", "x509", "-outform", "DER"]
        out = sh(command, input=pem.encode(), text=False)
        if selector:
            out = sh(["openssl", "pkey", "-pubin", "-outform", "DER"], input=out, text=False)
        return hashlib.sha256(out).hexdigest()


class Authority:
    """A root certificate and what it issues, in a folder of its own."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        folder.mkdir()
        (folder / "index").touch()
        (folder / "ca.cnf").write_text(CONFIGURATION.format(folder=folder))
        self.root = folder / "root.pem"
        sh([*REQUEST, "-x509", "-days", "30", "-subj", f"/CN={name}", "-keyout", folder / "root.key", "-out", self.root,
            "-addext", "keyUsage=critical,keyCertSign,cRLSign"])

    def issue(self, label, names, days=(-1, 30), usage="serverAuth,clientAuth"):
        """A certificate for DNS names, valid from and until these days from now; the root is sent along."""
        key, request, leaf, chain = (self.folder / f"{label}.{suffix}" for suffix in ("key", "csr", "crt", "pem"))
        extensions = self.folder / f"{label}.ext"
        extensions.write_text(
            f"subjectAltName={','.join('DNS:' + name for name in names)}\nextendedKeyUsage={usage}\n"
            "basicConstraints=critical,CA:FALSE\n"
        )
        sh([*REQUEST, "-subj", f"/CN={names[0]}", "-keyout", key, "-out", request])
        start, end = (when(day) for day in days)
        sh(["openssl", "ca", "-batch", "-notext", "-config", self.folder / "ca.cnf", "-in", request, "-out", leaf,
            "-extfile", extensions, "-startdate", start, "-enddate", end])
        chain.write_text(leaf.read_text() + self.root.read_text())
        key.chmod(0o644)  # for servers that are not root; the folder goes away with the test
        return Certificate(chain, key)


def self_signed(folder, label, names):
    """A certificate that vouches for itself."""
    chain, key = folder / f"{label}.pem", folder / f"{label}.key"
    sh([*REQUEST, "-x509", "-days", "30", "-subj", f"/CN={names[0]}", "-keyout", key, "-out", chain,
        "-addext", f"subjectAltName={','.join('DNS:' + name for name in names)}"])
    return Certificate(chain, key)


def when(days):
    """A date that many days from now, as openssl wants it."""
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)).strftime("%y%m%d%H%M%SZ")
