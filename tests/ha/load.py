"""Mail that keeps coming, each with a marker, and the account of it: what its sender was told, and what arrived."""

import collections
import re
import secrets
import smtplib
import threading

from network import PATIENCE, connect, until

AHEAD = 60
"""So many messages may be under way. More are handed over when some have arrived."""


class Load:
    """Hands mail to a Postfix, as a user's program does, until it is stopped. The Postfix sends it through the nodes."""

    def __init__(self, sender, receiver, domain):
        self.sender, self.receiver, self.recipient = sender, receiver, f"user@{domain}"
        self.run = "r" + secrets.token_hex(4)
        self.handed = []
        """Markers of the mail that the sender has taken."""
        self.failure = None
        self.stopped = threading.Event()
        self.seen = {}
        self.thread = threading.Thread(target=self._guarded, daemon=True)
        self.thread.start()

    def _guarded(self):
        try:
            self._hand_over()
        except Exception as failure:  # the test's own thread raises it
            self.failure = failure

    def _hand_over(self):
        client = smtplib.SMTP()
        client.sock = connect(self.sender.netns, "127.0.0.1")
        code, words = client.getreply()
        assert code == 220, words
        while not self.stopped.is_set():
            marker = f"{self.run}x{len(self.handed)}x"
            client.sendmail(f"{marker}@load.test", [self.recipient], f"Subject: {marker}\r\n\r\nmarker {marker}\r\n")
            self.handed.append(marker)
            until("the mail does not move", lambda: self.stopped.is_set() or len(self.handed) - len(self.arrived()) < AHEAD, 90)
        client.quit()

    def arrived(self):
        """How often each marker arrived. A file is read once."""
        new = self.receiver.mail / "all/new"
        for file in new.iterdir() if new.exists() else []:
            if file.name not in self.seen:
                found = re.search(rb"^marker (\w+)\r?$", file.read_bytes(), re.M)
                self.seen[file.name] = found[1].decode() if found else ""
        return collections.Counter(marker for marker in list(self.seen.values()) if marker.startswith(self.run))

    def more(self, number):
        """Waits until so many more messages have arrived."""
        goal = len(self.arrived()) + number

        def reached():
            if self.failure:
                raise self.failure
            return len(self.arrived()) >= goal

        until(lambda: f"only {len(self.arrived())} of {goal} arrived:\n{self.sender.log_tail()}", reached, 60)

    def stop(self):
        """No more mail is handed over."""
        self.stopped.set()
        self.thread.join(PATIENCE)
        if self.failure:
            raise self.failure

    def finish(self):
        """No more mail; waits until the sender has sent all, and the receiver has delivered what it took."""
        self.stop()
        until(
            lambda: f"still queued:\n{self.sender.queue()}\n{self.receiver.queue()}",
            lambda: self.sender.empty(self.run) and self.receiver.empty(self.run), 60,
        )

    def told(self):
        """By marker, what the sender's log says of each try: `sent`, `deferred`, `bounced`."""
        log = self.sender.log.read_text(errors="replace")
        markers = dict(re.findall(rf" (\w+): from=<({self.run}\w+)@load\.test>, size=", log))
        told = collections.defaultdict(list)
        for queue_id, status in re.findall(r" (\w+): to=<[^>]*>.* status=(\w+) ", log):
            if queue_id in markers:
                told[markers[queue_id]].append(status)
        return told
