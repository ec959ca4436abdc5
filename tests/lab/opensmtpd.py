"""Real OpenSMTPD, outside as a sender. Unpacked like Exim; its folders have fixed paths, so it gets file systems of its own."""

import smtplib

from network import ROOT, USERS, within

UNPACKED = ROOT / "target/lab/unpacked"
# ip netns exec has made a mount namespace already: nothing of this is seen outside it.
START = """
mount -t tmpfs none /var/spool && mkdir -m 711 /var/spool/smtpd
mount -t tmpfs none /var/lib && mkdir -p -m 755 /var/lib/opensmtpd/empty
mount -t tmpfs none /run && mount -t tmpfs none /var/mail
for part in incoming queue purge corrupt; do mkdir -m 700 /var/spool/smtpd/$part; chown $QUEUE /var/spool/smtpd/$part; done
mkdir -m 770 /var/spool/smtpd/offline && chown root:$OFFLINE /var/spool/smtpd/offline
exec "$SMTPD" -d -f "$CONFIGURATION"
"""
PORT = 2525


class Sender:
    """Takes mail on its loopback and relays it to MX hosts, TLS demanded and verified."""

    def __init__(self, network, authority):
        self.network = network
        self.folder = network.folder / "opensmtpd"
        self.folder.mkdir()
        configuration = self.folder / "smtpd.conf"
        configuration.write_text(
            f'ca "lab" cert "{authority.root}"\n'
            f"listen on 127.0.0.1 port {PORT} hostname opensmtpd.outside.test\n"
            'action "relay" relay helo opensmtpd.outside.test tls ca "lab"\n'
            'match from any for any action "relay"\n'
        )
        configuration.chmod(0o600)
        self.process = network.spawn(
            "opensmtpd", ["sh", "-ec", START], network.outside,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SMTPD": UNPACKED / "usr/sbin/smtpd", "CONFIGURATION": configuration,
                "QUEUE": str(USERS["opensmtpq"]), "OFFLINE": str(USERS["opensmtpq"]),
            },
        )
        network.listening(network.outside, PORT, "127.0.0.1")

    def send(self, sender, recipient, message):
        """Hands over a message; what becomes of it is in `log`."""
        with within(self.network.outside):
            client = smtplib.SMTP("127.0.0.1", PORT, timeout=20)
        with client:
            client.sendmail(sender, [recipient], message)

    def log(self):
        return self.process.log.read_text(errors="replace")
