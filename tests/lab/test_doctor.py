"""`doctor` on broken machines, and that its own command lines mend them; `setup` on a machine without rules; `policy suggest` on
what observe mode recorded. All in gw, the router, with real rules and real mail."""

import os
import re
import shlex
import stat
import subprocess

import postfix
import proxy
from case import Case
from network import GW, INSIDE, PATIENCE, end, sh

OUTBOUND = ["outbound", "--listen", f"[::]:{proxy.OUTBOUND}", "--intercept", "tproxy", "--keep-client-address"]


class Machine(Case):
    """The router, and what doctor says about it."""

    def setUp(self):
        super().setUp()
        self.gw = self.network.gw
        self.shell("nft flush ruleset")
        self.clean()
        proxy.routing(self.network, self.intercept)
        self.addCleanup(self.clean)

    def clean(self):
        """No rule of routing is left but the kernel's own."""
        for family in ("-4", "-6"):
            rules = sh(["ip", family, "rule"], self.gw)
            for place, rule in re.findall(r"^(\d+):\s+(.+)$", rules, re.M):
                if place not in ("0", "32766", "32767"):
                    sh(["ip", family, "rule", "del", "pref", place], self.gw)
        self.shell("ip -4 route flush table 100; ip -6 route flush table 100; nft flush ruleset")

    def shell(self, line, **environment):
        """Runs a line in a shell of the router, as its administrator would."""
        return sh(["sh", "-c", line], self.gw, env=os.environ | environment)

    def examined(self, *command, before=""):
        """Exit code and page of doctor. `before` is run in the same mount namespace, which ends with it."""
        line = f"{before}exec {shlex.join(map(str, [proxy.BINARY, 'doctor', *command]))}"
        done = subprocess.run(
            ["ip", "netns", "exec", self.gw, "sh", "-c", line], capture_output=True, text=True, timeout=4 * PATIENCE
        )
        self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout

    def outbound_flags(self, **changed):
        """The flags of the lab's outbound proxy, as doctor takes them."""
        flags = {
            "--resolver": f"{GW}:53", "--dnssec-anchor": self.world.names.anchor, "--ca-file": self.world.authority.root,
        } | changed
        return [*OUTBOUND, *[word for pair in flags.items() for word in pair if word is not None]]

    def findings(self, page):
        """Health, words and command lines of each check."""
        found = {}
        for line in page.splitlines():
            if match := re.match(r"  (ok|WARN|FAIL) +(\S.{0,13}\S|\S) +(.*)$", line):
                health, check, words = line[2:6].strip(), line[8:22].strip(), line[23:].strip()
                found.setdefault(check, []).append((health, words, []))
                last = found[check][-1][2]
            elif line.startswith("        run: "):
                last.append(line.removeprefix("        run: "))
        return found

    def is_sick(self, health, check, words, *command, **options):
        """Doctor says so; returns the command lines that it prints for it, and the page."""
        code, page = self.examined(*command, **options)
        self.assertEqual(code, {"FAIL": 2, "WARN": 1}[health] if health == "FAIL" else max(1, code), page)
        sick = [finding for finding in self.findings(page).get(check, []) if finding[0] == health]
        self.assertTrue(sick, page)
        self.assertRegex(sick[0][1], words)
        return sick[0][2], page

    def is_well(self, check, *command, **options):
        """Doctor finds nothing wrong with it."""
        _, page = self.examined(*command, **options)
        found = self.findings(page).get(check, [("ok", "", [])])
        self.assertEqual({finding[0] for finding in found}, {"ok"}, page)
        return page

    def is_mended(self, health, check, words, *command, **environment):
        """What doctor prints mends it."""
        lines, page = self.is_sick(health, check, words, *command)
        self.assertTrue(lines, page)
        for line in lines:
            self.shell(line, **environment)
        self.is_well(check, *command)


class Router(Machine):
    """Interception."""

    def setUp(self):
        super().setUp()
        self.flags = self.outbound_flags()
        self.outbound()

    def test_a_well_machine_has_nothing_to_mend(self):
        for family in ("-4", "-6"):
            self.shell(f"while ip {family} rule del pref 26 2>/dev/null; do :; done")
        lines, page = self.is_sick("WARN", "second lock", "flushes the firewall", *self.flags)
        for line in lines:
            self.shell(line)
        code, page = self.examined(*self.flags)
        self.assertIn(code, (0, 1), page)
        self.assertRegex(page, r"\ASTARTTLS-PROXY (OK|WARNING) - 0 to mend, ")
        for check in ("service", "capabilities", "port", "rules", "first lock", "second lock", "routes", "input chain", "trust store", "resolver"):
            self.assertEqual({health for health, *_ in self.findings(page)[check]}, {"ok"}, page)
        # Nothing of it disturbs mail, and the second lock holds where the first is gone.
        self.arrives("user@good.plain.test")
        self.shell("nft flush ruleset")
        self.stays("user@good.plain.test")

    def test_no_rules_at_all(self):
        self.shell("nft flush ruleset")
        self.is_mended("FAIL", "rules", "no firewall rule hands port 25", *self.flags)
        self.is_mended("FAIL", "first lock", "forwarded past it in the clear", *self.flags)
        self.arrives("user@good.plain.test")
        self.proxy.stop()
        # The second lock answers with an unreachable host, and the kernel limits how often it says so.
        self.stays("user@good.plain.test", "mx.good.plain.test")

    def test_rules_without_the_first_lock(self):
        self.shell("nft delete chain inet starttls_proxy failclosed")
        self.is_mended("FAIL", "first lock", "IPv4 of gwi.*IPv6 of gwi", *self.flags)

    def test_rules_that_let_port_25_through_in_front_of_the_lock(self):
        self.shell("nft insert rule inet starttls_proxy failclosed tcp dport 25 accept")
        self.is_mended("FAIL", "first lock", "forwarded past it in the clear", *self.flags)

    def test_rules_for_one_address_family_only(self):
        self.shell("nft insert rule inet starttls_proxy divert meta nfproto ipv6 tcp dport 25 accept")
        self.is_sick("FAIL", "rules", "one address family only", *self.flags)

    def test_no_routes_for_the_mark(self):
        self.clean()
        proxy.routing(self.network, self.intercept)
        self.shell("ip -4 rule del fwmark 0x19 lookup 100; ip -6 route flush table 100")
        self.is_mended("FAIL", "routes", "no IPv4 rule for the mark 0x19, no local IPv6 route", *self.flags)
        self.arrives("user@good.plain.test")

    def test_a_second_lock_in_front_of_the_mark(self):
        self.shell("ip -4 rule add pref 5 iif gwi ipproto tcp dport 25 prohibit")
        self.is_sick("FAIL", "second lock", "stands before the one for the mark", *self.flags)

    def test_a_second_lock_that_does_not_catch_everything_of_its_interface_is_none(self):
        for family, source in (("-4", "10.25.0.77"), ("-6", "fd25::77")):
            self.shell(f"while ip {family} rule del pref 26 2>/dev/null; do :; done")
            self.shell(f"ip {family} rule add pref 26 from {source} iif gwi ipproto tcp dport 25 prohibit")
        self.is_mended("WARN", "second lock", "no routing rule refuses it: IPv4 of gwi; no routing rule refuses it: IPv6 of gwi", *self.flags)

    def test_a_second_lock_behind_the_main_table_is_none(self):
        for family in ("-4", "-6"):
            self.shell(f"while ip {family} rule del pref 26 2>/dev/null; do :; done")
            self.shell(f"ip {family} rule add pref 32767 iif gwi ipproto tcp dport 25 prohibit")
            self.addCleanup(self.shell, f"ip {family} rule del pref 32767 prohibit; ip {family} rule show | grep -q default || ip {family} rule add pref 32767 lookup default")
        self.is_mended("WARN", "second lock", "the rule at place 32766 may route it before another refuses it: IPv4 of gwi; .*: IPv6 of gwi", *self.flags)
        self.arrives("user@good.plain.test")
        self.shell("nft flush ruleset")
        self.stays("user@good.plain.test")

    def test_an_input_chain_that_drops_what_is_not_listed(self):
        self.shell("nft add table inet filter; nft 'add chain inet filter input { type filter hook input priority 0; policy drop; }'")
        for rule in ("iif lo accept", "ct state established,related accept", "tcp dport { 22, 2525 } accept", "udp dport 53 accept",
                     "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"):
            self.shell(f"nft add rule inet filter input {rule}")
        self.is_mended("FAIL", "input chain", "inet filter input drops intercepted mail", *self.flags)
        self.arrives("user@good.plain.test")

    def test_an_input_chain_that_drops_answers(self):
        self.shell("nft add table inet filter; nft 'add chain inet filter input { type filter hook input priority 0; policy drop; }'")
        self.shell("nft add rule inet filter input iifname gwi accept; nft add rule inet filter input iif lo accept")
        self.is_mended("FAIL", "input replies", "drops the answers", *self.flags)
        self.is_well("input chain", *self.flags)
        self.arrives("user@good.plain.test")

    def test_a_source_check_by_mark(self):
        switch = "net.ipv4.conf.gwi.src_valid_mark"
        self.addCleanup(self.shell, f"sysctl -qw {switch}=0 net.ipv4.conf.gwi.rp_filter=0")
        self.shell(f"sysctl -qw {switch}=1 net.ipv4.conf.gwi.rp_filter=1")
        self.is_mended("FAIL", "source check", "src_valid_mark=1", *self.flags)

    def test_the_source_check_of_an_interface_with_a_dot(self):
        self.shell("ip link add odd.25 type veth peer name odd1")
        self.addCleanup(self.shell, "ip link del odd1")
        self.shell("sysctl -qw net.ipv4.conf.odd/25.src_valid_mark=1 net.ipv4.conf.odd/25.rp_filter=1")
        self.is_mended("FAIL", "source check", "src_valid_mark=1", *self.flags)

    def test_a_resolver_that_does_not_answer(self):
        flags = self.outbound_flags(**{"--resolver": f"{GW}:9"})
        _, page = self.is_sick("FAIL", "resolver", "no resolver answers", *flags)
        address = re.search(r"do: a resolver on this machine answers: write --resolver (\S+) ", page)
        self.assertTrue(address, page)
        self.is_well("resolver", *self.outbound_flags(**{"--resolver": address[1]}))

    def test_a_trust_store_that_is_not_there(self):
        flags = self.outbound_flags(**{"--ca-file": "/nonexistent/ca.pem"})
        self.is_sick("FAIL", "trust store", "/nonexistent/ca.pem", *flags)
        self.is_sick("FAIL", "flags", "would not start: /nonexistent/ca.pem", *flags)

    def test_the_watchers_word(self):
        state = "mount -t tmpfs none /run && mkdir /run/starttls-proxy && printf 'locks={}\\nchecked={}\\nerror={}\\n' >/run/starttls-proxy/interception.state && "
        self.is_well("watcher", *self.flags, before=state.format("held", "'$(date +%s)'", ""))
        self.is_sick("WARN", "watcher", "is old", *self.flags, before=state.format("held", "1000", ""))
        self.is_sick("FAIL", "watcher", "a lock of port 25 is gone: nft is gone", *self.flags, before=state.format("failing", "1000", "nft is gone"))

    def test_two_words_suffice_on_a_machine_with_units(self):
        """The units' files and what they name are enough; the running process is compared with them."""
        process = list(map(str, self.proxy.process.args))
        running = shlex.join(process[process.index(str(proxy.BINARY)) + 1:])
        folder = self.network.folder / "etc"
        (folder / "system/multi-user.target.wants").mkdir(parents=True)
        name = "starttls-proxy-outbound"
        unit = f"[Service]\nUser=nobody\nAmbientCapabilities=CAP_NET_RAW\nEnvironmentFile=-{folder}/flags\nExecStart=/usr/bin/starttls-proxy $FLAGS\n"
        (folder / f"system/{name}.service").write_text(unit)
        (folder / "flags").write_text(f"FLAGS='{running}'\n")
        wanted = folder / f"system/multi-user.target.wants/{name}.service"
        wanted.symlink_to(f"../{name}.service")
        mount = f"mkdir -p /etc/systemd/system; mount --bind {folder}/system /etc/systemd/system && "
        page = self.is_well("service", before=mount)
        self.assertIn(f"\n{name}: outbound --listen", page)
        self.assertEqual(self.findings(page)["audit log"][0][0], "ok", page)
        (folder / "flags").write_text(f"FLAGS='{running} --observe'\n")
        self.is_sick("WARN", "service", "other flags than its unit", before=mount)
        self.proxy.stop()
        lines, _ = self.is_sick("FAIL", "service", "is to run and does not", before=mount)
        self.assertIn(f"systemctl start {name}", lines)
        wanted.unlink()
        lines, _ = self.is_sick("FAIL", "service", "none is enabled", before=mount)
        self.assertEqual(lines, [f"systemctl enable --now {name}"])


class Process(Machine):
    """Ports, rights and disks."""

    def test_a_port_that_another_program_holds(self):
        other = self.network.spawn("other", ["python3", "-m", "http.server", "--bind", "::", str(proxy.OUTBOUND)], self.gw)
        self.addCleanup(end, other)
        self.network.listening(self.gw, proxy.OUTBOUND)
        flags = self.outbound_flags()
        lines, page = self.is_sick("FAIL", "port", r"2525 is held by python3", *flags)
        # Where the test's own service is what doctor would stop, the line is not run.
        self.assertRegex(lines[0] if lines else "", r"\Akill [0-9]+\Z", page)
        self.shell(lines[0])
        other.wait(timeout=PATIENCE)
        self.is_well("port", *flags)

    def test_an_address_that_is_not_here(self):
        self.is_sick("FAIL", "address", "no interface of this machine", "outbound", "--listen", "198.51.100.77:2525", "--upstream", INSIDE)
        self.is_sick("FAIL", "address", "unspecified address", "outbound", "--listen", "127.0.0.1:2525", "--intercept", "tproxy")

    def test_a_process_without_the_capability(self):
        self.outbound("--fwmark", "0x1a", intercept="redirect", capability="-all")
        flags = [word for word in self.outbound_flags() if word != "--keep-client-address"]
        flags[flags.index("tproxy")] = "redirect"
        self.is_sick("FAIL", "capabilities", "lacks CAP_NET_RAW", *flags, "--fwmark", "0x1a")

    def test_a_disk_without_room(self):
        disk = self.network.folder / "disk"
        archive = self.network.folder / "archive"
        disk.mkdir()
        sh(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk])
        self.addCleanup(sh, ["umount", disk])
        record = '{"v":1,"prev":"","seq":0,"at":"2026-01-01T00:00:00Z","event":"start"}\n'
        rotated = disk / "audit.jsonl.20260101.000000000000"
        (disk / "audit.jsonl").write_text("")
        rotated.write_text(record * (2 * 1024 * 1024 // len(record) - 4096))
        flags = [*self.outbound_flags(), "--audit-log", disk / "audit.jsonl"]
        self.is_mended("FAIL", "disk", "0 MiB are free", *flags, ARCHIVE=str(archive))
        self.assertEqual(len(list(archive.iterdir())), 1)

    def test_a_directory_that_is_not_there_and_one_that_the_service_cannot_write(self):
        log = self.network.folder / "logs/audit.jsonl"
        self.outbound()
        flags = [*self.outbound_flags(), "--audit-log", log]
        self.is_mended("FAIL", "audit log", "there is no such directory", *flags)
        sh(["chown", "root:root", log.parent])
        log.parent.chmod(stat.S_IRWXU)
        self.is_mended("FAIL", "audit log", "user nobody cannot write", *flags)


class Inbound(Machine):
    """Certificates, and the mail server behind."""

    def flags_of(self, certificate, *more):
        return ["inbound", "--listen", f"[::]:{proxy.INBOUND}", "--intercept", "tproxy", "--keep-client-address", "--hostname",
                "legacy.inside.test", "--cert", certificate.chain, "--key", certificate.key, *more]

    def test_a_good_certificate_is_well_and_an_expired_one_is_not(self):
        good = self.flags_of(self.world.own)
        page = self.is_well("certificate", *good)
        self.assertEqual(self.findings(page)["name"][0][0], "ok", page)
        dead = self.world.authority.issue("dead", ["legacy.inside.test"], days=(-30, -1))
        _, page = self.is_sick("FAIL", "certificate", "expired", *self.flags_of(dead))
        self.assertIn(f"do: have a new certificate issued, and write it with its intermediate certificates into {dead.chain}", page)
        # Who does that is well again.
        fresh = self.world.authority.issue("fresh", ["legacy.inside.test"])
        dead.chain.write_text(fresh.chain.read_text())
        dead.key.write_text(fresh.key.read_text())
        self.is_well("certificate", *self.flags_of(dead))

    def test_a_certificate_that_ends_soon_and_one_for_another_name(self):
        soon = self.world.authority.issue("soon", ["legacy.inside.test"], days=(-30, 5))
        self.is_sick("WARN", "certificate", "expires .* in [45] days", *self.flags_of(soon))
        other = self.world.authority.issue("other", ["elsewhere.test"])
        self.is_sick("WARN", "name", "calls itself legacy.inside.test, and no certificate is for that name", *self.flags_of(other))

    def test_a_key_that_does_not_belong_to_its_certificate(self):
        other = self.world.authority.issue("strange", ["legacy.inside.test"])
        other.chain.write_text(self.world.own.chain.read_text())
        self.is_sick("FAIL", "certificate", "not the key of the first certificate", *self.flags_of(other))

    def test_a_key_that_the_service_cannot_read_or_that_everybody_can(self):
        self.inbound()
        folder = self.network.folder / "keys"
        folder.mkdir(mode=0o700)
        own = self.world.authority.issue("guarded", ["legacy.inside.test"])
        own.key = own.key.rename(folder / "mx.key")
        own.key.chmod(0o600)
        self.is_mended("FAIL", "key file", "user nobody cannot read it", *self.flags_of(own))
        self.assertEqual((stat.S_IMODE(own.key.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)), (0o640, 0o710))
        own.key.chmod(0o644)
        self.is_mended("WARN", "key file", "everybody on this machine can read it", *self.flags_of(own))

    def test_a_key_that_others_use_is_not_taken_from_them(self):
        self.inbound()
        folder = self.network.folder / "others"
        folder.mkdir()
        own = self.world.authority.issue("shared", ["legacy.inside.test"])
        own.key = own.key.rename(folder / "mx.key")
        for owner, group, folder_mode, mode in (
            ("root", "mail", 0o710, 0o640), ("root", "mail", 0o755, 0o640), ("mail", "mail", 0o700, 0o600), ("mail", "root", 0o755, 0o600),
            ("root", "mail", 0o755, 0o644),
        ):
            for path, bits in ((folder, folder_mode), (own.key, mode)):
                sh(["chown", f"{owner}:{group}", path])
                path.chmod(bits)
            lines, page = self.is_sick("WARN" if mode & 0o004 else "FAIL", "key file", "read it", *self.flags_of(own))
            self.assertEqual(lines, [])
            copy = re.search(r"is used by others, who would lose it; give user nobody a copy of its own, .*: (install -m 640 -g \S+ \S+ )\S+$", page, re.M)
            self.assertTrue(copy, page)
        self.shell(copy[1] + str(self.network.folder / "copy.key"))
        own.key = self.network.folder / "copy.key"
        self.is_well("key file", *self.flags_of(own))

    def test_an_open_relay_behind_us(self):
        def to(port):
            return ["inbound", "--listen", f"[::]:{proxy.INBOUND}", "--upstream", f"{INSIDE}:{port}", "--hide-client-address",
                    "--hostname", "legacy.inside.test", "--cert", self.world.own.chain, "--key", self.world.own.key]

        self.is_sick("FAIL", "open relay", "takes mail to probe.invalid", *to(postfix.OPEN_RELAY))
        self.is_well("open relay", *to(25))
        self.is_sick("FAIL", "open relay", "does not answer", *to(9))


class Setup(Machine):
    """`setup` prints what puts the proxy on the path, and runs nothing."""

    def test_what_it_prints_puts_the_proxy_on_the_path(self):
        self.clean()
        before = self.shell("nft list ruleset; ip -4 rule; ip -6 rule")
        script = sh([proxy.BINARY, "setup"], self.gw)
        self.assertEqual(self.shell("nft list ruleset; ip -4 rule; ip -6 rule"), before)
        self.assertRegex(script, r"#   gwi  10\.25\.0\.1/24.*: the mail server is here")
        self.assertRegex(script, r"#   gwo  192\.0\.2\.1/24.*: the world is here.*; inbound mail goes on as before")
        self.assertNotIn("gwo", "".join(line for line in script.splitlines() if not line.startswith("#")))
        lines = [line for line in script.splitlines() if line and not line.startswith(("#", "starttls-proxy "))]
        for line in lines:
            self.shell(line)
        self.outbound()
        _, page = self.examined(*self.outbound_flags())
        for check in ("rules", "first lock", "second lock", "routes", "input chain"):
            self.assertEqual({health for health, *_ in self.findings(page)[check]}, {"ok"}, page)
        self.arrives("user@good.plain.test")
        self.proxy.stop()
        self.stays("user@good.plain.test")

    def test_inbound_mail_is_intercepted_where_the_outside_is_named(self):
        script = sh([proxy.BINARY, "setup", "--inside", "gwi", "--outside", "gwo"], self.gw)
        self.assertIn("iif gwo ipproto tcp dport 25 prohibit", script)
        self.assertIn("starttls-proxy inbound --listen", script)

    def test_an_interface_whose_name_no_rule_can_have_is_told_and_the_others_are_used(self):
        for name in ("a'b", 'a"b', "a$b", "$(id)", "eth0*"):
            self.shell(f"ip link add {shlex.quote(name)} type veth peer name odd1")
            self.addCleanup(self.shell, "ip link del odd1 2>/dev/null || true")
            script = sh([proxy.BINARY, "setup"], self.gw)
            self.assertRegex(script, rf"#   {re.escape(name)} .*cannot stand in rules")
            self.assertNotIn(name, "".join(line for line in script.splitlines() if not line.startswith("#")))
            done = subprocess.run(["ip", "netns", "exec", self.gw, proxy.BINARY, "setup", "--inside", name], capture_output=True, text=True)
            self.assertEqual((done.returncode, "give it a name of letters" in done.stderr), (64, True), done.stderr)
            self.shell("ip link del odd1")

    def test_an_interface_that_is_not_there_is_named(self):
        done = subprocess.run(["ip", "netns", "exec", self.gw, proxy.BINARY, "setup", "--inside", "eth7"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 64)
        self.assertIn("no interface 'eth7'\nhint: this machine has", done.stderr)


class Suggest(Case):
    """From observe mode to enforcing, with the lines that `policy suggest` prints."""

    def test_what_was_observed_passes_by_the_suggested_lines_and_by_nothing_else(self):
        partners = ("user@expired.plain.test", "user@nostarttls.plain.test")
        self.outbound("--observe")
        for partner in partners:
            self.delivered(self.send(partner))
        text = sh([proxy.BINARY, "policy", "suggest", self.proxy.audit_log])
        self.assertIn("# expired.plain.test: 1 session(s), 1 message(s)", text)
        self.assertIn("#   reason: certificate-expired: ", text)
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        self.assertEqual(sorted(line.split()[:2] for line in lines),
                         [["expired.plain.test", "fingerprint"], ["nostarttls.plain.test", "may"]])
        for partner in partners:
            self.outbound()
            self.stays(partner)
        table = self.network.folder / "suggested"
        table.write_text(text)
        self.outbound("--policy", table)
        for partner in partners:
            self.delivered(self.send(partner))
        self.stays("user@selfsigned.plain.test")
