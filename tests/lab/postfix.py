"""Real Postfix: the legacy server inside, without TLS, and the servers outside. Configuration, queue and mail in a folder."""

import re
import shutil

from network import PATIENCE, sh, until

DAEMONS = "/usr/lib/postfix/sbin"
MASTER = """
pickup    unix  n  -  n  60    1  pickup
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  300   1  qmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
verify    unix  -  -  n  -     1  verify
flush     unix  n  -  n  1000? 0  flush
proxymap  unix  -  -  n  -     -  proxymap
smtp      unix  -  -  n  -     -  smtp
relay     unix  -  -  n  -     -  smtp
showq     unix  n  -  n  -     -  showq
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
discard   unix  -  -  n  -     -  discard
local     unix  -  n  n  -     -  local
virtual   unix  -  n  n  -     -  virtual
  -o virtual_mailbox_maps=static:all/
anvil     unix  -  -  n  -     1  anvil
scache    unix  -  -  n  -     1  scache
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
postlog   unix-dgram n - n  -  1  postlogd
"""


class Outcome:
    """What a Postfix's log says became of one message."""

    def __init__(self, queue_id, lines, statuses):
        self.queue_id, self.lines = queue_id, lines
        self.statuses = statuses
        """By recipient: `sent`, `deferred` or `bounced`, and the words."""

    @property
    def status(self):
        (status,) = {status for status, _ in self.statuses.values()}
        return status

    @property
    def words(self):
        return " ".join(words for _, words in self.statuses.values())


class Postfix:
    """One instance in one namespace."""

    def __init__(self, network, name, netns, settings, services=""):
        self.network, self.netns = network, netns
        self.folder = network.folder / f"postfix-{name}"
        self.configuration = self.folder / "etc"
        self.log = self.folder / "maillog"
        self.mail = self.folder / "mail"
        self.configuration.mkdir(parents=True)
        self.mail.mkdir()
        shutil.chown(self.mail, "nobody")
        shutil.copy("/etc/postfix/postfix-files", self.configuration)
        (self.configuration / "master.cf").write_text(MASTER + services)
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": self.folder / "queue",
            "data_directory": self.folder / "data",
            "daemon_directory": DAEMONS,
            "command_directory": "/usr/sbin",
            "maillog_file": self.log,
            "maillog_file_prefixes": network.folder,
            "mydestination": "",
            "alias_maps": "",
            "local_recipient_maps": "",
            "inet_protocols": "all",
            "import_environment": "MAIL_CONFIG TZ",
        } | settings
        (self.configuration / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        (self.folder / "queue").mkdir()
        (self.folder / "data").mkdir()
        shutil.chown(self.folder / "data", "postfix")
        self._command("postfix", "check")
        network.spawn(f"postfix-{name}", [f"{DAEMONS}/master", "-c", self.configuration, "-d"], netns)
        until(self._diagnosis, lambda: self.log.exists() and "daemon started" in self.log.read_text())

    def _diagnosis(self):
        return f"{self.folder} did not start: {self.log.read_text() if self.log.exists() else 'no log'}"

    def _command(self, program, *arguments, **options):
        return sh([program, "-c", self.configuration, *arguments], self.netns, **options)

    def send(self, sender, recipients, message):
        """Hands over a message, a str or bytes with its header, as a program on this host would; returns at once."""
        message = message.encode() if isinstance(message, str) else message
        sh(["sendmail", "-C", self.configuration, "-i", "-f", sender, *recipients], self.netns, input=message, text=False)

    def outcome(self, sender, recipients, patience=PATIENCE):
        """Waits until each recipient of the newest message from `sender` has a status that was given now."""
        return until(
            lambda: f"no outcome of mail from {sender}:\n{self.log_tail()}",
            lambda: self._outcome(sender, recipients), patience,
        )

    def _outcome(self, sender, recipients):
        log = self.log.read_text(errors="replace")
        queue_ids = re.findall(rf" (\w+): from=<{re.escape(sender)}>, size=", log)
        if not queue_ids:
            return None
        lines = [line for line in log.splitlines() if f" {queue_ids[-1]}: " in line]
        statuses = {}
        for line in lines:
            if match := re.search(r" to=<([^>]*)>.* status=(\w+) \((.*)\)$", line):
                statuses[match[1]] = (match[2], match[3])
        return Outcome(queue_ids[-1], lines, statuses) if set(recipients) <= set(statuses) else None

    def log_tail(self, lines=25):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def queue(self):
        """What `mailq` prints."""
        return self._command("postqueue", "-p")

    def retry(self, queue_id):
        """Tries a deferred message again, now."""
        self._command("postqueue", "-i", queue_id)

    def drop(self, queue_id):
        """Removes a message from the queue, if it is there."""
        self._command("postsuper", "-d", queue_id)

    def delivered(self, recipient, marker, patience=PATIENCE):
        """Waits for the delivered message that has the marker in its text; bytes, with LF for line ends."""
        return until(
            lambda: f"no mail for {recipient} with {marker}:\n{self.log_tail()}",
            lambda: next(iter(self.all_delivered(recipient, marker)), None), patience,
        )

    def all_delivered(self, recipient, marker):
        """All delivered messages for the recipient that have the marker in their text."""
        new = self.mail / "all/new"
        texts = [path.read_bytes() for path in new.iterdir()] if new.exists() else []
        to = f"Delivered-To: {recipient}\n".encode()
        return [text for text in texts if to in text and marker.encode() in text]


def inside(network):
    """The legacy server: no TLS in either direction, sends to the MX hosts of each domain."""
    # Two domains by one server: their recipients share a connection and a transaction.
    transport = network.folder / "transport"
    transport.write_text("/^(one|two)\\.plain\\.test$/ smtp:[mx.one.plain.test]\n")
    return Postfix(network, "inside", network.inside, {
        "myhostname": "legacy.inside.test",
        "mydomain": "inside.test",
        "inet_interfaces": "loopback-only",
        "smtp_bind_address": "",
        "smtp_tls_security_level": "",
        "transport_maps": f"regexp:{transport}",
        "smtp_connection_cache_destinations": "three.plain.test",
        "smtp_connection_cache_time_limit": "10s",
        "smtp_helo_timeout": "20s",
        "smtp_connect_timeout": "5s",
        "minimal_backoff_time": "1h",
        "maximal_backoff_time": "1h",
        "bounce_template_file": "",
        "notify_classes": "",
    })


def outside(network, addresses):
    """Servers with STARTTLS; `addresses` maps an address to the certificate shown there, or to None: no STARTTLS."""
    mailboxes = network.folder / "mailboxes"
    mailboxes.write_text("if !/^unknown@/\n/./ known\nendif\n")
    domains = network.folder / "domains"
    domains.write_text("/\\.test$/ yes\n")
    settings = {
        "myhostname": "mx.outside.test",
        "inet_interfaces": ",".join(addresses),
        "mynetworks": "127.0.0.1",
        "virtual_mailbox_domains": f"regexp:{domains}",
        "virtual_mailbox_maps": f"regexp:{mailboxes}",
        "virtual_mailbox_base": network.folder / "postfix-outside/mail",
        "virtual_uid_maps": "static:65534",
        "virtual_gid_maps": "static:65534",
        "virtual_minimum_uid": "1",
        "virtual_transport": "virtual",
        "smtpd_recipient_restrictions": "reject_unauth_destination, reject_unlisted_recipient",
        "smtpd_tls_received_header": "yes",
        "smtpd_tls_loglevel": "1",
        "smtpd_peername_lookup": "no",
        "smtpd_client_connection_rate_limit": "0",
        "message_size_limit": "20000000",
        "notify_classes": "",
    }
    services = ""
    for address, certificate in addresses.items():
        host = f"[{address}]" if ":" in address else address
        services += f"{host}:25 inet n - n - - smtpd\n"
        if certificate:
            services += (
                "  -o smtpd_tls_security_level=may"
                f" -o smtpd_tls_chain_files={certificate.key},{certificate.chain}\n"
            )
    return Postfix(network, "outside", network.outside, settings, services)
