"""Real HAProxy, outside in front of the proxy, with PROXY v2 and its own SMTP health check."""

import socket

from network import GW_OUTSIDE
from proxy import INBOUND

ADDRESS = "192.0.2.3"
CONFIGURATION = """
global
  stats socket {folder}/haproxy.sock
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout check 10s
frontend smtp
  bind {address}:25
  default_backend gw
backend gw
  option smtpchk EHLO haproxy.outside.test
  server gw {gw}:{port} send-proxy-v2 check check-send-proxy inter 200ms fall 1 rise 2
"""


class HAProxy:
    """One running HAProxy."""

    def __init__(self, network):
        self.folder = network.folder
        network.outside_address(ADDRESS)
        configuration = self.folder / "haproxy.cfg"
        configuration.write_text(
            CONFIGURATION.format(folder=self.folder, address=ADDRESS, gw=GW_OUTSIDE, port=INBOUND)
        )
        self.process = network.spawn("haproxy", ["haproxy", "-db", "-f", configuration], network.outside)
        network.listening(network.outside, 25, ADDRESS)

    def health(self):
        """What HAProxy makes of the proxy, and what the health check last said, in its words: `UP L7OK`, `DOWN L7TOUT` ..."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(f"{self.folder}/haproxy.sock")
            control.sendall(b"show stat\n")
            rows = [line.split(",") for line in control.makefile().read().splitlines()]
        server = dict(zip(rows[0], next(row for row in rows if row[:2] == ["gw", "gw"])))
        return f"{server['status']} {server['check_status'].lstrip('* ')}"
