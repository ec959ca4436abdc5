"""Real Postfix: the legacy server inside, without TLS, and the servers outside. Configuration, queue and mail in a folder."""

import contextlib
import json
import re
import shutil

from network import GW, GW_OUTSIDE, INSIDE, INSIDE6, PATIENCE, sh, until

DAEMONS = "/usr/lib/postfix/sbin"
NOBODY = 65534
# Of the inside server, besides 25: expects a PROXY header; relays for gw's own address.
PROXY_PROTOCOL, OPEN_RELAY = 2601, 2602
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
            "smtp_connect_timeout": "5s",
            # Postfix retries only when a test says so.
            "minimal_backoff_time": "1h",
            "maximal_backoff_time": "1h",
            "notify_classes": "",
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

    def send(self, sender, recipients, message, *flags):
        """Hands over a message, a str or bytes with its header, as a program on this host would; returns at once."""
        message = message.encode() if isinstance(message, str) else message
        sh(["sendmail", "-C", self.configuration, "-i", *flags, "-f", sender, *recipients], self.netns, input=message, text=False)

    def outcome(self, sender, recipients, patience=PATIENCE, tries=1):
        """Waits until each recipient of the newest message from `sender` has a status that was given now; `tries` is how
        many there must have been for each."""
        return until(
            lambda: f"no outcome of mail from {sender}:\n{self.log_tail()}",
            lambda: self._outcome(sender, recipients, tries), patience,
        )

    def _outcome(self, sender, recipients, tries=1):
        log = self.log.read_text(errors="replace")
        queue_ids = re.findall(rf" (\w+): from=<{re.escape(sender)}>, size=", log)
        if not queue_ids:
            return None
        lines = [line for line in log.splitlines() if f" {queue_ids[-1]}: " in line]
        statuses, count = {}, dict.fromkeys(recipients, 0)
        for line in lines:
            if match := re.search(r" to=<([^>]*)>.* status=(\w+) \((.*)\)$", line):
                statuses[match[1]] = (match[2], match[3])
                count[match[1]] = count.get(match[1], 0) + 1
        return Outcome(queue_ids[-1], lines, statuses) if all(count[to] >= tries for to in recipients) else None

    def log_tail(self, lines=25):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def queue(self):
        """What `mailq` prints."""
        return self._command("postqueue", "-p")

    def retry(self, queue_id):
        """Tries a deferred message again now."""
        # The log says deferred before the message is: until then Postfix does nothing when it is asked to try again.
        deferred = lambda: any(entry["queue_id"] == queue_id and entry["queue_name"] == "deferred" for entry in self._entries())
        until(lambda: f"{queue_id} is not deferred:\n{self.queue()}", deferred, PATIENCE)
        self._command("postqueue", "-i", queue_id)

    def queued(self, sender):
        """Queue ids of what is in the queue from this sender."""
        return [entry["queue_id"] for entry in self._entries() if entry["sender"] == sender]

    def empty(self, of=""):
        """Whether nothing is queued from senders that begin so. What goes from one of Postfix's queues to the next while
        they are listed may be in no list, and is in the second."""
        return not any(entry["sender"].startswith(of) for _ in range(2) for entry in self._entries())

    def flush(self):
        """Tries all that is deferred again; returns at once."""
        self._command("postqueue", "-f")

    def _entries(self):
        def listed():
            with contextlib.suppress(RuntimeError):  # it fails if a message leaves while it is listed
                return [self._command("postqueue", "-j")]
        (text,) = until(lambda: f"postqueue fails:\n{self.log_tail()}", listed)
        return [json.loads(line) for line in text.splitlines()]

    def drop(self, queue_id):
        """Removes a message from the queue."""
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
    """The legacy server: no TLS in either direction; sends to the MX hosts of each domain, takes mail for inside.test."""
    # Two domains by one server: their recipients share a connection and a transaction.
    transport = network.folder / "transport"
    transport.write_text("".join(f"{name}.plain.test smtp:[mx.one.plain.test]\n" for name in ("one", "two"))
                         + f"login.plain.test smtp:[{GW}]:2525\n")
    return Postfix(network, "inside", network.inside, {
        "myhostname": "legacy.inside.test",
        "mydomain": "inside.test",
        "mynetworks": "127.0.0.0/8",
        "smtp_tls_security_level": "",
        "transport_maps": f"texthash:{transport}",
        "smtp_connection_cache_destinations": "three.plain.test",
        "smtp_connection_cache_time_limit": "60s",
    } | RECEIVING | _mailboxes(network, "inside", "/(^|\\.)inside\\.test$/ yes\n"), "".join((
        f"{INSIDE}:25 inet n - n - - smtpd\n[{INSIDE6}]:25 inet n - n - - smtpd\n",
        f"{INSIDE}:{PROXY_PROTOCOL} inet n - n - - smtpd\n  -o smtpd_upstream_proxy_protocol=haproxy\n",
        f"{INSIDE}:{OPEN_RELAY} inet n - n - - smtpd\n  -o mynetworks={GW}\n",
    )))


def outside(network, addresses):
    """Servers with STARTTLS; `addresses` maps an address to the certificate shown there, or to None: no STARTTLS."""
    services = ""
    for address, certificate in addresses.items():
        host = f"[{address}]" if ":" in address else address
        services += f"{host}:25 inet n - n - - smtpd\n"
        if certificate:
            chain = f"{certificate.key},{certificate.chain}"
            services += f"  -o smtpd_tls_security_level=may -o smtpd_tls_chain_files={chain}\n"
    return Postfix(network, "outside", network.outside, {
        "myhostname": "mx.outside.test",
        "mynetworks": "127.0.0.0/8",
        "smtpd_tls_received_header": "yes",
        "smtpd_tls_loglevel": "1",
    } | RECEIVING | _mailboxes(network, "outside", "/\\.test$/ yes\n"), services)


def sender(network, authority):
    """A server outside that verifies whom it sends to: what the world does with our inbound, and, as the reference, what
    Postfix does by itself with those to whom our outbound sends."""
    policy = network.folder / "tls-policy"
    policy.write_text(
        "inside.test secure match=legacy.inside.test\ndane.inside.test dane-only\n"
        "may.inside.test may\n.inside.test may\n"
        f"[{GW_OUTSIDE}]:2526 secure match=legacy.inside.test\n"
    )
    transport = network.folder / "transport-sender"
    transport.write_text(f"behind.test smtp:[{GW_OUTSIDE}]:2526\n")
    return Postfix(network, "sender", network.outside, {
        "myhostname": "sender.outside.test",
        "inet_interfaces": "loopback-only",
        "smtp_dns_support_level": "dnssec",
        "smtp_tls_security_level": "dane",
        "smtp_tls_policy_maps": f"texthash:{policy}",
        "transport_maps": f"texthash:{transport}",
        "smtp_tls_CAfile": authority.root,
        "smtp_tls_loglevel": "1",
    })


RECEIVING = {
    "virtual_transport": "virtual",
    "virtual_uid_maps": f"static:{NOBODY}",
    "virtual_gid_maps": f"static:{NOBODY}",
    "virtual_minimum_uid": "1",
    "smtpd_recipient_restrictions": "permit_mynetworks, reject_unauth_destination, reject_unlisted_recipient",
    "smtpd_peername_lookup": "no",
    "message_size_limit": "20000000",
}


def _mailboxes(network, name, domains):
    """Every user of the domains but `unknown` has a mailbox."""
    domains_file, mailboxes = network.folder / f"domains-{name}", network.folder / f"mailboxes-{name}"
    domains_file.write_text(domains)
    mailboxes.write_text("if !/^unknown@/\n/./ known\nendif\n")
    return {
        "virtual_mailbox_domains": f"regexp:{domains_file}",
        "virtual_mailbox_maps": f"regexp:{mailboxes}",
        "virtual_mailbox_base": network.folder / f"postfix-{name}/mail",
    }
