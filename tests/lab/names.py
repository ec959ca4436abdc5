"""The DNS of the lab: nsd outside with a signed root, unbound in gw that knows only this root."""

import os
import signal

from network import GW, GW6, RESOLVER, sh, until

SERVER = "192.0.2.53"
SOA = "@ 60 IN SOA ns.test. hostmaster.test. 1 3600 600 86400 60\n@ 60 IN NS ns.test.\n"


class Zone:
    """One zone: its records, and whether and until when it is signed."""

    def __init__(self, name, records="", signed=False, days=(-1, 30), fake_ds=False):
        """`days`: signatures hold from and until these days from now. `fake_ds`: the parent vouches for another key."""
        self.name, self.records, self.signed, self.days, self.fake_ds = name, records, signed, days, fake_ds
        self.keys = []

    def depth(self):
        return len([label for label in self.name.split(".") if label])

    def inside(self, other):
        return self.name != other.name and (other.name == "." or self.name.endswith("." + other.name))


class Names:
    """The zones, served and resolved."""

    def __init__(self, network, zones):
        self.network, self.zones = network, zones
        self.folder = network.folder / "names"
        self.folder.mkdir()
        self.anchor = self.folder / "root.anchor"
        network.outside_address(SERVER)
        for zone in sorted(zones, key=Zone.depth, reverse=True):
            self._make(zone)
        self._serve()

    def _make(self, zone):
        """Writes the zone with its delegations, and signs it."""
        children = [
            child for child in self.zones
            if child.inside(zone) and not any(child.inside(other) and other.inside(zone) for other in self.zones)
        ]
        text = f"$ORIGIN {zone.name}\n$TTL 60\n" + SOA + zone.records
        for child in children:
            text += f"{child.name} IN NS ns.test.\n" + "".join(self._ds(child, key) for key in child.keys)
        zone.file = self.folder / f"{zone.name.rstrip('.') or 'root'}.zone"
        zone.file.write_text(text)
        if zone.signed:
            self._sign(zone)

    def _key(self, zone, ksk=True):
        return sh(["ldns-keygen", "-a", "ECDSAP256SHA256", *(["-k"] if ksk else []), zone.name], cwd=self.folder).strip()

    def _ds(self, child, key):
        key = self._key(child) if child.fake_ds else key
        return sh(["ldns-key2ds", "-n", "-2", f"{key}.key"], cwd=self.folder)

    def _sign(self, zone):
        zone.keys = [self._key(zone)]
        start, end = (sh(["date", "-u", "-d", f"{day:+d} days", "+%Y%m%d%H%M%S"]).strip() for day in zone.days)
        sh(["ldns-signzone", "-i", start, "-e", end, "-f", f"{zone.file}.signed", zone.file, *zone.keys], cwd=self.folder)
        zone.file = zone.file.with_name(zone.file.name + ".signed")
        if zone.name == ".":
            self.anchor.write_text((self.folder / f"{zone.keys[0]}.key").read_text())

    def _serve(self):
        network = self.network
        nsd = self.folder / "nsd.conf"
        nsd.write_text(
            f'server:\n ip-address: {SERVER}\n username: ""\n chroot: ""\n zonesdir: "{self.folder}"\n xfrdir: "{self.folder}"\n'
            f' database: ""\n pidfile: "{self.folder}/nsd.pid"\n xfrdfile: "{self.folder}/xfrd.state"\n'
            f' zonelistfile: "{self.folder}/zone.list"\n cookie-secret-file: ""\n hide-version: yes\n'
            "remote-control:\n control-enable: no\n"
            + "".join(f'zone:\n name: "{zone.name}"\n zonefile: "{zone.file}"\n' for zone in self.zones)
        )
        self.nsd = network.spawn("nsd", ["nsd", "-d", "-c", nsd], network.outside)
        hints = self.folder / "hints"
        hints.write_text(f". 3600000 NS ns.test.\nns.test. 3600000 A {SERVER}\n")
        for port, validates in ((53, True), (5353, False)):
            unbound = self.folder / f"unbound-{port}.conf"
            unbound.write_text(
                f'server:\n interface: {RESOLVER}@{port}\n interface: {GW6}@{port}\n interface: 127.0.0.1@{port}\n'
                ' access-control: 0.0.0.0/0 allow\n access-control: ::/0 allow\n username: ""\n chroot: ""\n'
                f' directory: "{self.folder}"\n pidfile: ""\n use-syslog: no\n do-ip6: yes\n root-hints: "{hints}"\n'
                ' local-zone: "test." nodefault\n do-not-query-localhost: no\n val-log-level: 2\n'
                " qname-minimisation: no\n infra-host-ttl: 1\n cache-max-negative-ttl: 1\n cache-max-ttl: 60\n num-threads: 1\n"
                + (f' trust-anchor-file: "{self.anchor}"\n' if validates else ' module-config: "iterator"\n')
                + "remote-control:\n control-enable: no\n"
            )
            network.spawn(f"unbound-{port}", ["unbound", "-d", "-p", "-c", unbound], network.gw)
            network.listening(network.gw, port, GW)
        network.listening(network.outside, 53)

    def change(self, name, records):
        """Gives an unsigned zone other records, and waits until they are served."""
        (zone,) = [zone for zone in self.zones if zone.name == name]
        zone.file.write_text(zone.file.read_text().replace(zone.records, records).replace(". 1 3600", ". 2 3600"))
        os.killpg(self.nsd.pid, signal.SIGHUP)
        ask = ["drill", f"@{SERVER}", "SOA", name]
        until(f"nsd does not serve the new {name}", lambda: " 2 3600 " in sh(ask, self.network.outside))
