"""The lab as a whole: who is outside, under which names and certificates, and the legacy server inside."""

import atexit
import functools
import itertools

import certificates
import exim
import hostile
import mta_sts
import opensmtpd
import path
import postfix
from capture import Capture
from names import SERVER, Names, Zone
from network import BEYOND, BEYOND6, INSIDE, INSIDE6, Network

# Mail domains, NAME.plain.test (not signed) or NAME.signed.test, each with one MX host, mx.NAME.ZONE.test. The last column
# is the TLSA record: of its own key, of its authority, of a key that it has no more, or of both.
#
#    name           addresses  server        certificate    zone    TLSA
HOSTS = """
     good           4          postfix       good           plain   -
     good6          6          postfix       good           plain   -
     expired        4          postfix       expired        plain   -
     notyet         4          postfix       not-yet-valid  plain   -
     selfsigned     4          postfix       self-signed    plain   -
     wrongname      4          postfix       wrong-name     plain   -
     unknownca      4          postfix       unknown-ca     plain   -
     nostarttls     4          postfix       none           plain   -
     dual           46         postfix       good           plain   -
     dualexpired    46         postfix       expired        plain   -
     three          4          postfix       good           plain   -
     one            4          postfix       good           plain   -
     two            4          postfix       good           plain   -
     second         4          postfix       good           plain   -
     exim           4          exim          good           plain   -
     eximbad        4          exim          unknown-ca     plain   -

     sink           4          Sink          good           plain   -
     clear          4          NoStartTls    good           plain   -
     deaf           46         NoStartTls    good           plain   -
     masked         4          Masked        good           plain   -
     refuses        4          Refuses       good           plain   -
     injects        4          Injects       good           plain   -
     oldtls         4          OldTls        good           plain   -
     bounces        4          Bounces       good           plain   -
     strips         4          Strips        good           plain   -

     key            4          postfix       self-signed    signed  own
     key6           6          postfix       expired        signed  own
     authority      4          postfix       unknown-ca     signed  authority
     othername      4          postfix       unknown-wrong  signed  authority
     rollover       4          postfix       self-signed    signed  both
     mismatch       4          postfix       good           signed  old
     notls          4          NoStartTls    good           signed  own
     bogustlsa      4          postfix       good           signed  -
     nodane         4          postfix       good           signed  -
     insecuretlsa   4          postfix       good           plain   old
     target         4          postfix       self-signed    signed  own

     stsright       4          postfix       good           plain   -
     stsother       4          postfix       good           plain   -
     stsselfsigned  4          postfix       self-signed    plain   -
     ststesting     4          postfix       good           plain   -
     stsdown        4          postfix       good           plain   -
     stswrong       4          postfix       good           plain   -
     stscached      4          postfix       good           plain   -
     implicit       4          postfix       domain         plain   -

     narrow         beyond4    Sink          good           plain   -
     narrow6        beyond6    Sink          good           plain   -
"""

# Domains with more than one MX host, the preferred one first.
SEVERAL = {
    "fallback": ["clear", "good"],
    "fallbackcertificate": ["expired", "good"],
    "fallbackdual": ["deaf", "second"],
    "fallbackdualcertificate": ["dualexpired", "second"],
}

# An MX host that is an alias: the TLSA records are those of its target. And a domain that takes no mail.
SIGNED = """
alias MX 10 mx.alias
mx.alias CNAME mx.target
nullmx MX 0 .
"""


# Places that a test fills by itself: pN.plain.test and pN.inside.test have one MX host, pN.path.plain.test.
PLACES = range(1, 231)
# The real Postfix behind somebody on the path: it has the certificate of all places.
BEHIND = "192.0.2.240"


class Place:
    """One of these places."""

    def __init__(self, number):
        self.address, self.mx = f"203.0.113.{number}", f"p{number}.path.plain.test"
        self.domain, self.inbound_domain = f"p{number}.plain.test", f"p{number}.inside.test"


class Host:
    """One outside host."""

    def __init__(self, number, name, families, server, certificate, zone, tlsa):
        self.name, self.server, self.kind, self.zone, self.tlsa = name, server, certificate, zone, tlsa
        self.domain, self.mx = f"{name}.{zone}.test", f"mx.{name}.{zone}.test"
        if name == "implicit":
            self.mx = self.domain
        self.is_beyond = families.startswith("beyond")
        self.v4 = (BEYOND if self.is_beyond else f"192.0.2.{100 + number}") if "4" in families else None
        self.v6 = (BEYOND6 if self.is_beyond else f"2001:db8::{100 + number}") if "6" in families else None
        self.addresses = [address for address in (self.v4, self.v6) if address]

    def records(self):
        """In the DNS."""
        lines = [f"{self.domain}. MX 10 {self.mx}."] if self.mx != self.domain else []
        lines += [f"{self.mx}. {'AAAA' if ':' in address else 'A'} {address}" for address in self.addresses]
        gone = f"3 1 1 {'5e' * 32}"
        for record in {
            "-": lambda: [],
            "own": lambda: [f"3 1 1 {self.certificate.digest()}"],
            "authority": lambda: [f"2 0 1 {self.certificate.digest(selector=0, which=1)}"],
            "old": lambda: [gone],
            "both": lambda: [gone, f"3 1 1 {self.certificate.digest()}"],
        }[self.tlsa]():
            lines.append(f"_25._tcp.{self.mx}. TLSA {record}")
        return "".join(line + "\n" for line in lines)


class World:
    """Everything, built once for all tests."""

    def __init__(self):
        self.network = Network()
        atexit.register(self.network.close)
        self.hosts = {
            line.split()[0]: Host(number, *line.split()) for number, line in enumerate(HOSTS.split("\n")) if line.strip()
        }
        for host in self.hosts.values():
            if not host.is_beyond:
                self.network.outside_address(*host.addresses)
        self.network.outside_address(BEHIND)
        self._numbers = itertools.count(PLACES.start)
        self._certificates()
        self.names = Names(self.network, self._zones())
        self._servers()
        self.policy_hosts = mta_sts.PolicyHosts(self.network, self.authority)
        self.postfix = postfix.inside(self.network)
        self.sender = postfix.sender(self.network, self.authority)
        self.opensmtpd = opensmtpd.Sender(self.network, self.authority)
        self.inner = Capture(self.network, "gwi", "10.25.0.2")
        self.outer = Capture(self.network, "gwo", "192.0.2.2")

    def _certificates(self):
        folder = self.network.folder / "certificates"
        folder.mkdir()
        self.authority = certificates.Authority(folder / "trusted", "Lab authority")
        self.stranger = certificates.Authority(folder / "unknown", "Some other authority")
        self.own = self.authority.issue("legacy", ["legacy.inside.test", "legacy6.inside.test"])
        self.second = self.authority.issue("second-own", ["second.inside.test"])
        self.of_places = self.authority.issue("places", ["*.path.plain.test"])
        for host in self.hosts.values():
            host.certificate = {
                "good": lambda: self.authority.issue(host.name, [host.mx]),
                "expired": lambda: self.authority.issue(host.name, [host.mx], days=(-30, -1)),
                "not-yet-valid": lambda: self.authority.issue(host.name, [host.mx], days=(1, 30)),
                "wrong-name": lambda: self.authority.issue(host.name, ["mx.somebody-else.test"]),
                "self-signed": lambda: certificates.self_signed(folder, host.name, [host.mx]),
                "domain": lambda: self.authority.issue(host.name, [host.domain]),
                "unknown-wrong": lambda: self.stranger.issue(host.name, ["mx.somebody-else.test"]),
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
            Zone("plain.test.", several + mta_sts.records() + "nullmx MX 0 .\n" + self._places()
                 + self._records("plain")),
            Zone("signed.test.", SIGNED + self._records("signed"), signed=True),
            # Signed by a key for which its parent does not vouch.
            Zone("_tcp.mx.bogustlsa.signed.test.", f"_25 TLSA 3 1 1 {'5e' * 32}\n", signed=True, fake_ds=True),
            # Signatures that are past their end, by more than the day that unbound forgives.
            Zone("stale.signed.test.", f"@ MX 10 mx\nmx A {self.hosts['good'].v4}\n", signed=True, days=(-30, -5)),
            *mta_sts.zones(),
            Zone("inside.test.", self._inside_records(), signed=True),
        ]

    def _records(self, zone):
        return "".join(host.records() for host in self.hosts.values() if host.zone == zone)

    def _places(self):
        return "".join(f"p{n} MX 10 p{n}.path\np{n}.path A {Place(n).address}\n" for n in PLACES)

    def place(self):
        """A place that no test has used yet, so that nobody remembers anything about it."""
        place = Place(next(self._numbers))
        self.network.outside_address(place.address)
        return place

    def on_path(self, edit, behind=(BEHIND, 25)):
        """A place where somebody on the path to a real Postfix changes what is said in the clear."""
        place = self.place()
        place.serving = path.OnPath(self.network.outside, place.address, behind, edit)
        return place

    def path_to(self, inner, place, edit):
        """Somebody on the path to a server at another place."""
        return path.OnPath(self.network.outside, place.address, (inner.address, 25), edit)

    def honest(self, address=None, **offers):
        """A place with a server that keeps to its word; at another address, if one is given."""
        place = self.place()
        if address:
            place.address = address
            self.network.outside_address(address)
        place.serving = path.Honest(self.network.outside, place.address, self.of_places, **offers)
        return place

    def _inside_records(self):
        """What the world finds of us. The MX hosts have the legacy server's addresses; who connects meets the proxy."""
        return "".join(f"p{n} MX 10 {Place(n).mx}.\n" for n in PLACES) + (
            f"@ MX 10 legacy\ndane MX 10 legacy\nv6 MX 10 legacy6\nlegacy A {INSIDE}\nlegacy6 AAAA {INSIDE6}\n"
            # Without TLSA records, for senders that go on in the clear where TLS fails.
            f"may MX 10 undane\nundane A {INSIDE}\n"
            f"_25._tcp.legacy TLSA 3 1 1 {self.own.digest()}\n"
        )

    def _servers(self):
        self.outside = postfix.outside(self.network, {
            address: host.certificate
            for host in self.hosts.values() if host.server == "postfix" for address in host.addresses
        } | {BEHIND: self.of_places})
        for host in self.hosts.values():
            if host.server == "exim":
                host.serving = exim.Server(self.network, host)
            elif host.server != "postfix":
                behind = [self.hosts["good"].v4] if host.server == "Strips" else []
                kind = getattr(hostile, host.server)
                netns = self.network.beyond if host.is_beyond else self.network.outside
                host.serving = [kind(netns, address, host.certificate, *behind) for address in host.addresses]


@functools.cache
def _build():
    try:
        return World()
    except Exception as error:  # each test says it, none tries again
        return error


def world():
    """The one world; the first to ask has it built."""
    if isinstance(_build(), Exception):
        raise RuntimeError("the lab could not be built") from _build()
    return _build()

