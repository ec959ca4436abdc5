"""Servers that take mail only from who logs in: a real Postfix with Cyrus SASL, and a scripted one that takes tokens."""

import base64
import shutil

import postfix
from network import sh
from path import Honest

USER, PASSWORD = "scanner", "sword-fish#9"
BOTH, LOGIN_ONLY = 587, 588
"""Ports of the Postfix: it offers PLAIN and LOGIN, or LOGIN alone."""


class Submission(postfix.Postfix):
    """A Postfix that relays for its one user and for nobody else."""

    def __init__(self, network, place, certificate):
        users = network.folder / "sasl-users"
        # It asks for the password twice where somebody types it.
        sh(["saslpasswd2", "-p", "-c", "-f", users, "-u", "mx.submission.test", USER], input=PASSWORD)
        shutil.chown(users, "postfix")
        kinds = ((BOTH, "both", "PLAIN LOGIN"), (LOGIN_ONLY, "login", "LOGIN"))
        services = "".join(
            f"{place.address}:{port} inet n - n - - smtpd\n  -o smtpd_sasl_path={name} -o smtpd_tls_security_level=encrypt\n"
            f"  -o smtpd_tls_chain_files={certificate.key},{certificate.chain}\n"
            for port, name, _ in kinds
        )
        super().__init__(network, "submission", network.outside, {
            "myhostname": "mx.submission.test",
            "mynetworks": "127.0.0.0/8",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "cyrus",
            "smtpd_sasl_local_domain": "mx.submission.test",
            "smtpd_sasl_authenticated_header": "yes",
            "smtpd_sasl_security_options": "noanonymous",
            "smtpd_tls_auth_only": "yes",
            "smtpd_tls_received_header": "yes",
        } | postfix.RECEIVING | {
            "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
        } | postfix._mailboxes(network, "submission", "/\\.test$/ yes\n"), services)
        # Debian's Postfix has SASL look here. A server reads it with its first client.
        (self.configuration / "sasl").mkdir()
        for _, name, mechanisms in kinds:
            (self.configuration / "sasl" / f"{name}.conf").write_text(
                f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {users}\nmech_list: {mechanisms}\n"
            )


class Tokens(Honest):
    """A server that takes mail only from who logs in with XOAUTH2 and this token."""

    def __init__(self, netns, address, certificate, token):
        self.token = token
        super().__init__(netns, address, certificate, secure=[*self.ALL, "AUTH XOAUTH2"])

    def converse(self, client, lines, told):
        self.is_known = False
        return super().converse(client, lines, told)

    def command(self, client, lines, verb, line, told):
        if verb == b"AUTH":
            response = base64.b64decode(line.split()[2])
            self.is_known = response == b"user=%s\x01auth=Bearer %s\x01\x01" % (USER.encode(), self.token.encode())
            if self.is_known:
                return client.sendall(b"235 2.7.0 welcome\r\n")
            # It quotes what it refuses, as some servers do.
            client.sendall(b"334 " + base64.b64encode(b'{"status":"401"}') + b"\r\n")
            empty = lines.readline() == b"\r\n"
            return client.sendall(b"535 5.7.8 what is " + line.split()[2] + b"?\r\n" if empty else b"501 5.5.2 no\r\n")
        if verb == b"MAIL" and told is self.secure and not self.is_known:
            return client.sendall(b"530 5.7.0 log in first\r\n")
        return super().command(client, lines, verb, line, told)
