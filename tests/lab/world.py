"""The lab as a whole: who is outside, under which names and certificates, and the legacy server inside."""

import atexit

import certificates
import exim
import hostile
import postfix
import proxy
from capture import Capture
from names import SERVER, Names, Zone
from network import Network

# Mail domains under plain.test, which is not signed, each with one MX host, mx.NAME.plain.test.
#
#    name           addresses  server              certificate
HOSTS = """
     good           4          postfix             good
     good6          6          postfix             good
     expired        4          postfix             expired
     notyet         4          postfix             not-yet-valid
     selfsigned     4          postfix             self-signed
     wrongname      4          postfix             wrong-name
     unknownca      4          postfix             unknown-ca
     nostarttls     4          postfix             none
     dual           46         postfix             good
     three          4          postfix             good
     one            4          postfix             good
     two            4          postfix             good
     second         4          postfix             good
     exim           4          exim                good
     eximbad        4          exim                unknown-ca
     sink           4          Sink                good
     clear          4          NoStartTls          good
     masked         4          Masked              good
     refuses        4          Refuses             good
     injects        4          Injects             good
     oldtls         4          OldTls              good
     bounces        4          Bounces             good
     strips         4          Strips              good
     deaf           46         NoStartTls          good
     dualexpired    46         postfix             expired
"""

# Domains with more than one MX host, the preferred one first.
SEVERAL = {
    "fallback": ["clear", "good"],
    "fallbackcertificate": ["expired", "good"],
    "fallbackdual": ["deaf", "second"],
    "fallbackdualcertificate": ["dualexpired", "second"],
}


class Host:
    """One outside host."""

    def __init__(self, number, name, families, server, certificate):
        self.name, self.server, self.kind = name, server, certificate
        self.domain, self.mx = f"{name}.plain.test", f"mx.{name}.plain.test"
        self.v4 = f"192.0.2.{10 + number}" if "4" in families else None
        self.v6 = f"2001:db8::{10 + number:x}" if "6" in families else None
        self.addresses = [address for address in (self.v4, self.v6) if address]

    def records(self):
        return f"{self.domain}. MX 10 {self.mx}.\n" + "".join(
            f"{self.mx}. {'AAAA' if ':' in address else 'A'} {address}\n" for address in self.addresses
        )


class World:
    """Everything, built once for all tests."""

    def __init__(self):
        self.network = Network()
        atexit.register(self.network.close)
        self.hosts = {
            line.split()[0]: Host(number, *line.split()) for number, line in enumerate(HOSTS.strip().splitlines())
        }
        for host in self.hosts.values():
            self.network.outside_address(*host.addresses)
        self._certificates()
        self.names = Names(self.network, self._zones())
        self._servers()
        self.postfix = postfix.inside(self.network)
        self.inner = Capture(self.network, "gwi", "10.25.0.2")
        self.outer = Capture(self.network, "gwo", "192.0.2.2")

    def _certificates(self):
        folder = self.network.folder / "certificates"
        folder.mkdir()
        self.authority = certificates.Authority(folder / "trusted", "Lab authority")
        self.stranger = certificates.Authority(folder / "unknown", "Some other authority")
        for host in self.hosts.values():
            host.certificate = {
                "good": lambda: self.authority.issue(host.name, [host.mx]),
                "expired": lambda: self.authority.issue(host.name, [host.mx], days=(-30, -1)),
                "not-yet-valid": lambda: self.authority.issue(host.name, [host.mx], days=(1, 30)),
                "wrong-name": lambda: self.authority.issue(host.name, ["mx.somebody-else.test"]),
                "self-signed": lambda: certificates.self_signed(folder, host.name, [host.mx]),
                "unknown-ca": lambda: self.stranger.issue(host.name, [host.mx]),
                "none": lambda: None,
            }[host.kind]()

    def _zones(self):
        several = "".join(
            f"{name}.plain.test. MX {10 * (n + 1)} {self.hosts[host].mx}.\n"
            for name, hosts in SEVERAL.items() for n, host in enumerate(hosts)
        )
        nameserver = f"ns.test. A {SERVER}\n"
        return [
            Zone(".", nameserver, signed=True),
            Zone("test.", nameserver, signed=True),
            Zone("plain.test.", several + "".join(host.records() for host in self.hosts.values())),
            Zone("inside.test.", "legacy A 10.25.0.2\nlegacy AAAA fd25::2\n@ MX 10 legacy\n"),
        ]

    def _servers(self):
        self.outside = postfix.outside(self.network, {
            address: host.certificate
            for host in self.hosts.values() if host.server == "postfix" for address in host.addresses
        })
        for host in self.hosts.values():
            if host.server == "exim":
                host.serving = exim.Server(self.network, host)
            elif host.server != "postfix":
                behind = [self.hosts["good"].v4] if host.server == "Strips" else []
                kind = getattr(hostile, host.server)
                host.serving = [kind(self.network, address, host.certificate, *behind) for address in host.addresses]


_world = None


def world():
    """The one world; the first to ask has it built."""
    global _world
    _world = _world or World()
    return _world

