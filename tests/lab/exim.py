"""Real Exim, outside as a server and inside as a client. Debian's package conflicts with Postfix's, so it is unpacked only."""

import re

from network import PATIENCE, ROOT, USERS, sh, until

UNPACKED = ROOT / "target/lab/unpacked"
BINARY = UNPACKED / "usr/sbin/exim4"
BASIC = """
exim_path = {binary}
primary_hostname = {name}
spool_directory = {folder}/spool
log_file_path = {folder}/log-%s
log_selector = +all
exim_user = Debian-exim
exim_group = Debian-exim
never_users =
disable_ipv6 = false
message_size_limit = 20M
add_environment = PATH=/usr/bin:/bin
keep_environment =
"""
SERVING = BASIC + """
tls_advertise_hosts = *
tls_certificate = {chain}
tls_privatekey = {key}
chunking_advertise_hosts = *
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt = accept
acl_smtp_data = accept
acl_smtp_mail = accept
begin acl
begin routers
all:
  driver = accept
  transport = file
begin transports
file:
  driver = appendfile
  directory = {folder}/mail
  maildir_format
  create_directory
  delivery_date_add
  envelope_to_add
  user = Debian-exim
"""
SENDING = BASIC + """
tls_advertise_hosts =
begin routers
mx:
  driver = dnslookup
  domains = *
  transport = smtp
  # The lab's servers are on the same host as an Exim outside.
  self = send
begin transports
smtp:
  driver = smtp
  hosts_try_chunking = *
  {smtp}
begin retry
* * F,1h,1h
"""


class Exim:
    """One configuration in one namespace."""

    def __init__(self, network, label, netns, configuration, **values):
        self.network, self.netns = network, netns
        self.folder = network.folder / f"exim-{label}"
        for part in (self.folder, self.folder / "spool", self.folder / "mail"):
            part.mkdir()
            sh(["chown", str(USERS["Debian-exim"]), part])
        self.configuration = self.folder / "exim.conf"
        self.configuration.write_text(configuration.format(folder=self.folder, binary=BINARY, **values))
        self.log = self.folder / "log-main"

    def run(self, *arguments, **options):
        return sh([BINARY, "-C", self.configuration, *arguments], self.netns, **options)

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Server(Exim):
    """Takes all mail for everybody, with STARTTLS and CHUNKING."""

    def __init__(self, network, host):
        super().__init__(
            network, host.name, network.outside, SERVING,
            name=host.mx, chain=host.certificate.chain, key=host.certificate.key,
        )
        listen = ["-bdf", "-oX", f"<; {' ; '.join(f'[{address}]:25' for address in host.addresses)}", "-oP", ""]
        network.spawn(f"exim-{host.name}", [BINARY, "-C", self.configuration, *listen[:3]], network.outside)
        network.listening(network.outside, 25, host.addresses[0])

    def delivered(self, marker, patience=PATIENCE):
        """Waits for the delivered message with the marker in its text."""
        return until(
            lambda: f"no mail with {marker}:\n{self.log_text()}",
            lambda: next(iter(self.all_delivered(marker)), None), patience,
        )

    def all_delivered(self, marker):
        new = self.folder / "mail/new"
        texts = [path.read_bytes() for path in new.iterdir()] if new.exists() else []
        return [text for text in texts if marker.encode() in text]


class Client(Exim):
    """Sends mail to MX hosts: by default without TLS, as a legacy server, and by BDAT where CHUNKING is offered."""

    def __init__(self, network, label, netns, name, smtp="hosts_avoid_tls = *"):
        super().__init__(network, label, netns, SENDING, name=name, smtp=smtp)

    def send(self, sender, recipients, message):
        """Sends a message and waits until its first delivery attempt is over; returns what the log says of it."""
        message = message.encode() if isinstance(message, str) else message
        self.run("-odf", "-i", "-f", sender, *recipients, input=message, text=False, timeout=2 * PATIENCE)
        ids = re.findall(rf" (\S+) <= {re.escape(sender)} ", self.log_text())
        assert ids, f"Exim did not take the message:\n{self.log_text()}"
        self.newest = ids[-1]
        return self._about_newest()

    def again(self):
        """Tries the newest message again now, and returns the log of that attempt."""
        known = len(self._about_newest())
        self.run("-M", self.newest, timeout=2 * PATIENCE)
        return self._about_newest()[known:]

    def _about_newest(self):
        return "\n".join(line for line in self.log_text().splitlines() if f" {self.newest} " in line)
