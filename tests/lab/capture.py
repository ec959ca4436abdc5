"""What crossed a wire: one tcpdump for each leg of gw, from the first test to the last."""

import mmap
import secrets
import socket

from network import until, within


class Capture:
    """All packets on one leg, searched as bytes."""

    def __init__(self, network, leg, beacon):
        """`beacon` is an address beyond the leg: a datagram to it passes the leg."""
        self.network, self.beacon = network, beacon
        self.file = network.folder / f"{leg}.pcap"
        # tcpdump writes whole packets, and each one at once.
        self.process = network.spawn(
            f"tcpdump-{leg}",
            ["tcpdump", "-U", "--immediate-mode", "-s0", "-n", "-Z", "root", "-i", leg, "-w", self.file],
            network.gw,
        )
        self.flush()

    def flush(self):
        """Waits until everything so far is in the file. A datagram that is sent now shows it."""
        with within(self.network.gw):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        nonces = []

        def seen():
            nonces.append(secrets.token_bytes(16))
            sender.sendto(nonces[-1], (self.beacon, 9))
            return until("", lambda: any(map(self._find, nonces)), 0.5) if self.file.exists() else False

        def patiently():
            try:
                return seen()
            except TimeoutError:
                return False

        with sender:
            until(lambda: f"{self.file} has no packets:\n{self.process.log.read_text()}", patiently)

    def has(self, text):
        """Whether these bytes crossed the leg, in one packet."""
        self.flush()
        return self._find(text.encode() if isinstance(text, str) else text)

    def _find(self, needle):
        with open(self.file, "rb") as file:
            if not file.seek(0, 2):
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as bytes_:
                return bytes_.find(needle) >= 0
