"""What the units promise, on each systemd that Debian ships: port 25 stays shut, faults that pass are waited out, others are
seen, and flags live in one file."""

import contextlib
import json
import threading
import unittest

from machine import FRIEND, INSIDE, INSIDE6, NAME, OUTSIDE, OUTSIDE6, Machine, MailServer, Server, Session, greeting
from network import log_lines, sh, until

# Nothing answers questions for names here.
OFFLINE = f"--no-dane --no-mta-sts --resolver {OUTSIDE} --ca-file /etc/starttls-proxy/ca.pem"
INTERCEPTING = "--listen [::]:2525 --intercept tproxy --keep-client-address --policy /etc/starttls-proxy/policy"
INBOUND = "--cert /etc/starttls-proxy/cert.pem --key /etc/starttls-proxy/key.pem --relay-probe off"
LOCK = ("pref", "26", "iif", "eth1", "ipproto", "6", "dport", "25", "prohibit")
SCRIPT = "/usr/local/lib/starttls-proxy/interception"
# A mail server outside that takes mail.
PARTNER = "192.0.2.4"


class Units:
    """A machine for all tests of a class, and the words that they are written in."""

    @classmethod
    def setUpClass(cls):
        cls.machine = Machine(cls.release)
        cls.addClassCleanup(cls.machine.close)
        cls.world = Server(cls.machine.outside, [OUTSIDE, OUTSIDE6, FRIEND], "world")
        cls.addClassCleanup(cls.world.close)
        cls.legacy = Server(cls.machine.inside, [INSIDE, INSIDE6], "legacy")
        cls.addClassCleanup(cls.legacy.close)

    def setUp(self):
        self.machine.fresh()

    # ----- what the tests are made of -----

    def routing(self, **environment):
        """Puts the locks on for outbound mail, or as the environment says. The watcher stays off."""
        self.environment({"INSIDE": "eth1"} | environment)
        # Not by a mask: one in /run does not count where the unit is in /etc.
        off = "etc/systemd/system/starttls-proxy-watch.service.d/off.conf"
        self.machine.write(off, "[Unit]\nConditionPathExists=!/\n")
        self.machine.systemctl("daemon-reload")
        self.addCleanup(self.machine.systemctl, "daemon-reload")
        self.addCleanup(self.machine.run, "rm", "-f", f"/{off}")
        self.machine.systemctl("start", "starttls-proxy-routing")
        self.assertEqual(self.machine.property("watch", "ActiveState"), "inactive")

    def environment(self, values):
        text = "".join(f'{name}="{value}"\n' for name, value in values.items())
        self.machine.write("etc/default/starttls-proxy-routing", text)

    def watched(self):
        """Puts the locks on for outbound mail, with the watcher."""
        self.environment({"INSIDE": "eth1"})
        self.machine.systemctl("start", "starttls-proxy-routing")
        until("the locks are not watched", lambda: self.state().get("locks") == "held")

    def is_held(self):
        until("the locks do not hold", lambda: self.machine.tries(SCRIPT, "check")[0] == 0)

    def state(self):
        """What the watcher wrote; nothing before it has written."""
        file = self.machine.path("run/starttls-proxy/interception.state")
        return dict(line.split("=", 1) for line in file.read_text().splitlines()) if file.exists() else {}

    def outbound(self, more=""):
        self.machine.flags("outbound", f"{INTERCEPTING} {OFFLINE} {more}")
        self.machine.systemctl("start", "starttls-proxy-outbound")

    def out(self, address=OUTSIDE):
        """Whom a client inside hears when it connects to a host outside."""
        return greeting(self.machine.inside, address)

    def records(self, unit, event):
        lines = log_lines(self.machine.path(f"var/lib/starttls-proxy/{unit}/audit.jsonl"))
        return [record for record in map(json.loads, lines) if record["event"] == event]

    def shut(self):
        """Nobody is let through, by IPv4 and IPv6."""
        self.assertEqual([self.out(), self.out(OUTSIDE6)], ["refused"] * 2)

    @contextlib.contextmanager
    def knocking(self, *addresses):
        """While the block runs, a client inside tries again and again; gives the set of what it hears."""
        heard, stop = set(), threading.Event()

        def knock():
            while not stop.is_set():
                for address in addresses:
                    try:
                        heard.add(self.out(address))
                    except OSError as error:
                        heard.add(repr(error))

        client = threading.Thread(target=knock)
        client.start()
        try:
            yield heard
        finally:
            stop.set()
            client.join()

    @contextlib.contextmanager
    def never_open(self):
        """While the block runs, a client inside never hears the world."""
        with self.knocking(OUTSIDE, OUTSIDE6) as heard:
            yield
        self.assertNotIn("world", heard)
        self.assertIn("refused", heard)

    def failed_for_good(self, unit, code):
        until(f"{unit} does not fail", lambda: self.machine.property(unit, "ActiveState") == "failed")
        self.assertEqual(self.machine.property(unit, "ExecMainStatus"), str(code), self.machine.journal(unit))
        self.assertEqual(self.machine.property(unit, "NRestarts"), "0")

    def is_tried_again(self, unit):
        """The unit has failed for a reason that may pass, more than once, and is still tried."""
        until(lambda: self.machine.journal(unit), lambda: int(self.machine.property(unit, "NRestarts")) >= 2)
        self.assertIn(self.machine.property(unit, "ActiveState"), ("activating", "active"))
        self.assertIn("status=75/TEMPFAIL", self.machine.journal(unit))

    @contextlib.contextmanager
    def partner(self):
        """A mail server outside that takes mail in the clear, which the table allows."""
        self.machine.write("etc/starttls-proxy/policy", "partner.example may\n")
        sh(["ip", "address", "add", f"{PARTNER}/24", "dev", "wire"], self.machine.outside)
        server = MailServer(self.machine.outside, [PARTNER], "partner")
        try:
            yield server
        finally:
            server.close()
            sh(["ip", "address", "del", f"{PARTNER}/24", "dev", "wire"], self.machine.outside)

    def amid_a_message(self):
        """A session of a client inside that has sent the half of a message."""
        session = Session(self.machine.inside, PARTNER)
        self.addCleanup(session.close)
        for line in "EHLO legacy.clinic.example", "MAIL FROM:<doctor@clinic.example>", "RCPT TO:<user@partner.example>":
            session.says(line)
        session.says("DATA", "354")
        session.socket.sendall(b"Subject: half\r\n\r\n")
        return session

    def handed_over(self, unit):
        """Has a new process go on, as docs/upgrade.md says; the pids of both."""
        old = self.machine.property(unit, "MainPID")
        self.machine.systemctl("kill", "--kill-whom=main", "-s", "USR2", f"starttls-proxy-{unit}")
        until(lambda: self.machine.journal(unit), lambda: self.machine.property(unit, "MainPID") not in ("0", old))
        new = self.machine.property(unit, "MainPID")
        self.assertEqual(self.machine.property(unit, "ActiveState"), "active")
        self.assertIn(f"Main PID: {new} (starttls-proxy)", self.machine.systemctl("status", f"starttls-proxy-{unit}"))
        self.assertEqual(self.machine.property(unit, "NRestarts"), "0")
        return old, new

    def runs(self, pid):
        """Whether the process has not ended; systemd may not have taken note of its end yet."""
        try:
            return bool(self.machine.path(f"proc/{pid}/cmdline").read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            return False

    def is_active(self, unit):
        until(lambda: self.machine.journal(unit), lambda: self.machine.property(unit, "ActiveState") == "active")


class OnEachSystemd(Units):
    """What may differ from one systemd, nft or iproute2 to another."""

    def test_greeting_and_records_have_the_hosts_name_which_proc_does_not_show(self):
        self.outbound()
        self.routing()
        self.assertEqual(self.out(), NAME)
        self.assertIn(NAME, json.dumps(self.records("outbound", "start")))

    def test_either_lock_alone_refuses_port_25(self):
        self.routing()
        before = self.world.heard
        self.shut()
        self.machine.run("nft", "flush", "ruleset")
        self.shut()
        self.machine.systemctl("restart", "starttls-proxy-routing")
        for family in "-4", "-6":
            self.machine.run("ip", family, "rule", "del", *LOCK)
        self.shut()
        self.assertEqual(self.world.heard, before)
        self.machine.run("nft", "flush", "ruleset")
        until(lambda: f"this test cannot see an open port:\n{self.machine.run('ip', 'rule')}", lambda: self.out() == "world")

    def test_the_second_lock_stays_out_of_the_proxys_way(self):
        self.outbound()
        self.routing()
        for _ in range(2):
            self.assertEqual([self.out(), self.out(OUTSIDE6)], [NAME] * 2)
            self.machine.systemctl("reload", "starttls-proxy-routing")

    def test_what_is_taken_away_is_put_back_and_told_and_port_25_never_opens(self):
        self.watched()
        for number, (command, gone) in enumerate((
            ("nft flush ruleset", "nft table"),
            ("nft flush chain inet starttls_proxy failclosed", "nft table"),
            ("ip -4 rule del " + " ".join(LOCK), "ip -4 rule pref 26"),
            ("ip -6 rule del " + " ".join(LOCK), "ip -6 rule pref 26"),
            ("ip -4 rule del pref 24", "ip -4 rule pref 24"),
            ("ip -6 route flush table 100", "ip -6 route"),
        ), start=1):
            with self.subTest(command), self.never_open():
                self.machine.run(*command.split())
                until(command, lambda: self.state()["restored"] == str(number))
            self.machine.run(SCRIPT, "check")
            state = self.state()
            self.assertEqual(state["locks"], "held")
            self.assertTrue(state["restored_what"].startswith(gone), state)
            self.assertIn(f"LOST A LOCK, it is back: somebody removed {gone}", self.machine.journal("watch"))
            until("status", lambda: f"put back {number} times" in self.machine.property("watch", "StatusText"))
        self.assertIn("LOST", self.machine.journal("watch", "--priority=crit"))

    def test_mail_flows_again_after_the_rules_were_lost(self):
        self.outbound()
        self.watched()
        self.machine.run("nft", "flush", "ruleset")
        until("interception", lambda: self.out() == NAME)

    def test_nftables_service_takes_no_lock_away_for_long_and_never_both(self):
        self.environment({"INSIDE": "eth1"})
        self.machine.systemctl("enable", "--now", "starttls-proxy-routing", "nftables")
        self.addCleanup(self.machine.systemctl, "disable", "--now", "starttls-proxy-routing", "nftables")
        for verb in ("stop", "start", "reload", "restart"):
            with self.subTest(verb), self.never_open():
                self.machine.systemctl(verb, "nftables")
                self.is_held()

    def test_nftables_service_brings_the_rules_back_without_the_watcher(self):
        self.routing()
        self.machine.systemctl("enable", "starttls-proxy-routing")
        self.addCleanup(self.machine.systemctl, "disable", "starttls-proxy-routing")
        self.machine.systemctl("start", "nftables")
        for verbs in (["stop", "start"], ["restart"], ["reload"]):
            with self.subTest(verbs), self.never_open():
                for verb in verbs:
                    self.machine.systemctl(verb, "nftables")
                self.is_held()

    def test_the_ruleset_loaded_by_hand_takes_no_lock_away_for_long(self):
        self.watched()
        with self.never_open():
            self.machine.run("nft", "-f", "/etc/nftables.conf")
            self.is_held()

    def test_what_pass_d_names_passes_both_locks_and_an_upgrade_keeps_it(self):
        self.machine.write("etc/starttls-proxy/pass.d/friend.nft", f"ip daddr {FRIEND} goto pass\n")
        for rules in ("tproxy", "redirect"):
            with self.subTest(rules):
                self.routing(RULES=f"/usr/local/lib/starttls-proxy/{rules}.nft")
                self.assertEqual(self.out(FRIEND), "world")
                self.shut()
                self.machine.install()
                self.machine.systemctl("restart", "starttls-proxy-routing")
                self.assertEqual(self.out(FRIEND), "world")
                self.shut()

    def test_remove_leaves_nothing_and_stopping_the_units_leaves_everything(self):
        self.watched()
        self.machine.systemctl("stop", "starttls-proxy-routing", "starttls-proxy-watch")
        self.machine.run(SCRIPT, "check")
        self.shut()
        self.machine.run(SCRIPT, "remove")
        self.assertEqual(self.out(), "world")
        self.assertEqual(self.machine.run("nft", "list", "ruleset"), "")
        for family in "-4", "-6":
            self.assertNotRegex(self.machine.run("ip", family, "rule"), r"(?m)^2\d:")

    def test_an_address_that_is_not_there_yet_is_waited_for(self):
        self.machine.flags("smarthost", f"--listen 10.26.0.77:25 --upstream 192.0.2.2:25 {OFFLINE}")
        self.machine.tries("systemctl", "start", "--no-block", "starttls-proxy-smarthost")
        self.is_tried_again("smarthost")
        self.machine.run("ip", "address", "add", "10.26.0.77/24", "dev", "eth1")
        self.addCleanup(self.machine.run, "ip", "address", "del", "10.26.0.77/24", "dev", "eth1")
        self.is_active("smarthost")
        self.assertEqual(greeting(self.machine.inside, "10.26.0.77"), NAME)

    def test_a_port_in_use_is_waited_for(self):
        self.machine.flags("smarthost", f"--listen 10.26.0.1:2525 --upstream 192.0.2.2:25 {OFFLINE}")
        self.outbound()
        self.machine.tries("systemctl", "start", "--no-block", "starttls-proxy-smarthost")
        self.is_tried_again("smarthost")
        self.machine.systemctl("stop", "starttls-proxy-outbound")
        self.is_active("smarthost")

    def test_resolv_conf_is_waited_for(self):
        path = self.machine.path("etc/resolv.conf")
        text = path.read_text()
        path.unlink()
        self.addCleanup(self.machine.write, "etc/resolv.conf", text)
        flags = OFFLINE.replace(f"--resolver {OUTSIDE}", "")
        self.machine.flags("outbound", f"{INTERCEPTING} {flags}")
        self.machine.tries("systemctl", "start", "--no-block", "starttls-proxy-outbound")
        self.is_tried_again("outbound")
        path.write_text(text)
        self.is_active("outbound")

    def test_what_a_person_must_mend_is_not_tried_again(self):
        self.machine.write("etc/starttls-proxy/policy", "clinic.example nonsense\n")
        self.machine.flags("outbound", f"{INTERCEPTING} {OFFLINE}")
        self.machine.tries("systemctl", "start", "starttls-proxy-outbound")
        self.failed_for_good("outbound", 78)
        self.machine.flags("outbound", f"{INTERCEPTING} --nonsense")
        self.machine.tries("systemctl", "restart", "starttls-proxy-outbound")
        self.failed_for_good("outbound", 64)

    def test_a_reload_that_fails_makes_systemctl_fail_and_the_old_stays(self):
        self.outbound()
        self.machine.write("etc/starttls-proxy/policy", "clinic.example nonsense\n")
        code, _ = self.machine.tries("systemctl", "reload", "starttls-proxy-outbound")
        self.assertNotEqual(code, 0)
        self.assertEqual(self.machine.property("outbound", "ActiveState"), "active")
        self.assertIn("policy:1:", self.machine.journal("outbound"))
        if self.machine.version() >= 253:
            # Older ones stop at the check, and the process hears nothing of it.
            self.assertIn("not reloaded, the old configuration stays", self.machine.property("outbound", "StatusText"))
        self.machine.write("etc/starttls-proxy/policy", "clinic.example verify\n")
        self.machine.systemctl("reload", "starttls-proxy-outbound")
        self.assertEqual(self.machine.property("outbound", "StatusText"), "serving")

    def test_a_reload_reads_the_files_once_and_is_done_when_systemctl_returns(self):
        self.outbound()
        pid = self.machine.property("outbound", "MainPID")
        for times in (1, 2):
            self.machine.write("etc/starttls-proxy/policy", f"clinic{times}.example verify\n")
            self.machine.systemctl("reload", "starttls-proxy-outbound")
            until("reloaded", lambda: len(self.records("outbound", "reload")) >= times)
            self.assertEqual(len(self.records("outbound", "reload")), times)
        self.assertEqual(self.machine.property("outbound", "MainPID"), pid)

    def test_a_reload_is_done_and_told_so_where_systemctl_does_not_answer_the_unit(self):
        self.outbound()
        # What the unit calls gets this one; MAINPID= is set for nobody else.
        fake = "usr/local/bin/systemctl"
        self.addCleanup(self.machine.run, "rm", f"/{fake}")
        for number, answer in enumerate(("exit 1", "exit 0", "echo nonsense; exit 0"), start=1):
            with self.subTest(answer):
                self.machine.write(fake, f'#!/bin/sh\n[ -z "${{MAINPID-}}" ] || {{ {answer}; }}\nexec /usr/bin/systemctl "$@"\n')
                self.machine.run("chmod", "755", f"/{fake}")
                self.machine.write("etc/starttls-proxy/policy", f"clinic{number}.example verify\n")
                before = len(self.records("outbound", "reload"))
                self.machine.systemctl("reload", "starttls-proxy-outbound")
                until("it is told as done, and is not", lambda: len(self.records("outbound", "reload")) > before)
                until("serving", lambda: self.machine.property("outbound", "StatusText") == "serving")
        self.machine.write("etc/starttls-proxy/policy", "clinic.example nonsense\n")
        self.assertNotEqual(self.machine.tries("systemctl", "reload", "starttls-proxy-outbound")[0], 0)
        self.assertEqual(self.machine.property("outbound", "ActiveState"), "active")

    def test_usr2_hands_over_to_a_new_process_and_nobody_is_refused_and_no_session_is_lost(self):
        with self.partner() as partner:
            self.outbound()
            self.routing()
            session = self.amid_a_message()
            with self.knocking(OUTSIDE) as heard:
                until("nobody is heard", lambda: heard)
                old, new = self.handed_over("outbound")
                until("the new process is not heard", lambda: self.out() == NAME)
            self.assertEqual(heard, {NAME})
            self.assertEqual((self.runs(old), self.runs(new)), (True, True))
            # The old process still carries its session, and ends with it.
            session.says("half\r\n.")
            session.says("QUIT", "2")
            self.assertEqual(partner.heard, 1)
            until("the old process stays", lambda: not self.runs(old))
            # Again, and both are there when the service is stopped.
            session = self.amid_a_message()
            older, newer = self.handed_over("outbound")
            self.assertEqual(older, new)
            session.says("half\r\n.")
            self.machine.systemctl("stop", "starttls-proxy-outbound")
            self.assertEqual((self.runs(older), self.runs(newer)), (False, False), self.machine.journal("outbound", "--output=short-precise"))
            self.assertEqual([self.machine.property("outbound", name) for name in ("ActiveState", "Result")], ["inactive", "success"])
            self.assertEqual(partner.heard, 2)
            self.shut()
        self.machine.run("starttls-proxy", "audit", "verify", "/var/lib/starttls-proxy/outbound/audit.jsonl")
        self.assertEqual(len(self.records("outbound", "message")), 2)
        self.assertEqual(len(self.records("outbound", "start")), 3)

    def test_usr2_with_the_socket_leaves_the_port_with_systemd(self):
        self.machine.flags("outbound", f"{INTERCEPTING} {OFFLINE}")
        self.routing()
        self.machine.systemctl("start", "starttls-proxy-outbound.socket")
        self.assertEqual(self.out(), NAME)
        with self.knocking(OUTSIDE) as heard:
            old, new = self.handed_over("outbound")
            until("the old process stays", lambda: not self.runs(old))
            # The next restart refuses nobody either.
            self.machine.systemctl("restart", "starttls-proxy-outbound")
            until("the new process stays", lambda: not self.runs(new))
        # Who was let in just before the end may be told to come again.
        self.assertLessEqual(heard, {NAME, "421"})
        self.machine.systemctl("stop", "starttls-proxy-outbound")
        self.assertEqual(self.out(), NAME)
        self.assertEqual(self.machine.property("outbound", "ActiveState"), "active")

    def test_usr2_to_a_process_that_cannot_start_changes_nothing(self):
        self.outbound()
        self.routing()
        pid = self.machine.property("outbound", "MainPID")
        self.machine.write("etc/starttls-proxy/policy", "clinic.example nonsense\n")
        self.machine.systemctl("kill", "--kill-whom=main", "-s", "USR2", "starttls-proxy-outbound")
        until("it does not say why", lambda: "policy:1:" in self.machine.journal("outbound"))
        self.assertEqual(self.out(), NAME)
        self.assertEqual([self.machine.property("outbound", name) for name in ("MainPID", "ActiveState", "NRestarts")], [pid, "active", "0"])

    def test_a_flag_is_added_in_one_file_and_nothing_is_copied(self):
        self.outbound("--observe")
        command = self.machine.run("cat", f"/proc/{self.machine.property('outbound', 'MainPID')}/cmdline").split("\0")
        self.assertIn("--observe", command)
        self.assertIn("--audit-log", command)

    def test_with_the_socket_no_connection_is_refused_while_the_service_restarts(self):
        self.machine.flags("outbound", f"{INTERCEPTING} {OFFLINE}")
        self.routing()
        self.machine.systemctl("start", "starttls-proxy-outbound.socket")
        self.assertEqual(self.out(), NAME)
        with self.knocking(OUTSIDE) as heard:
            for _ in range(3):
                self.machine.systemctl("restart", "starttls-proxy-outbound")
        # Who was let in just before the end may be told to come again.
        self.assertLessEqual(heard, {NAME, "421"})
        self.assertEqual([self.out(), self.out(OUTSIDE6)], [NAME] * 2)

    def test_a_socket_that_tproxy_does_not_find_is_refused_with_the_line_that_mends_it(self):
        self.machine.write("etc/systemd/system/starttls-proxy-outbound.socket.d/no.conf", "[Socket]\nTransparent=no\n")
        self.machine.systemctl("daemon-reload")
        self.machine.flags("outbound", f"{INTERCEPTING} {OFFLINE}")
        self.machine.systemctl("start", "starttls-proxy-outbound.socket")
        self.machine.tries("systemctl", "start", "starttls-proxy-outbound")
        self.failed_for_good("outbound", 78)
        self.assertIn("Transparent=yes", self.machine.journal("outbound"))

    def test_the_smart_host_listens_on_port_25(self):
        self.machine.flags("smarthost", f"--listen 10.26.0.1:25 --upstream 192.0.2.2:25 {OFFLINE}")
        self.machine.systemctl("start", "starttls-proxy-smarthost")
        self.assertEqual(greeting(self.machine.inside, "10.26.0.1"), NAME)

    def test_with_its_socket_the_same_needs_no_capability(self):
        self.machine.write("etc/systemd/system/starttls-proxy-mx.service.d/none.conf",
                           "[Service]\nAmbientCapabilities=\nCapabilityBoundingSet=\n")
        self.machine.systemctl("daemon-reload")
        self.machine.flags("mx", f"--listen [::]:25 --upstream {INSIDE} --hide-client-address {INBOUND}")
        self.machine.systemctl("start", "starttls-proxy-mx.socket")
        for address in "192.0.2.1", "2001:db8::1":
            self.assertEqual(greeting(self.machine.outside, address), NAME)

    def test_no_unit_has_a_line_that_this_systemd_does_not_know_but_one(self):
        words = self.machine.run("journalctl", "--no-pager", "--output=cat", "_PID=1")
        unknown = [line for line in words.splitlines() if "starttls-proxy" in line and ("Unknown" in line or "Failed to parse" in line)]
        self.assertEqual([line for line in unknown if "notify-reload" not in line], [])


class OnOneSystemd(Units):
    """What is the same everywhere."""

    def test_without_locks_the_world_is_heard(self):
        self.assertEqual([self.out(), self.out(OUTSIDE6)], ["world"] * 2)

    def test_networkd_leaves_the_second_lock_alone(self):
        self.routing()
        # As soon as it sets up an interface, it removes rules that nobody has marked as the kernel's.
        self.machine.run("ip", "rule", "add", "pref", "99", "fwmark", "0x77", "lookup", "99")
        self.machine.run("ip", "link", "add", "own0", "type", "veth", "peer", "own1")
        self.addCleanup(self.machine.run, "ip", "link", "del", "own0")
        self.machine.write("etc/systemd/network/own0.network", "[Match]\nName=own0\n[Network]\nAddress=10.99.0.1/24\n")
        self.machine.systemctl("start", "systemd-networkd")
        until("networkd removes nothing", lambda: "0x77" not in self.machine.run("ip", "rule"))
        self.machine.run(SCRIPT, "check")

    def test_interfaces_that_are_renamed_in_the_file_take_their_lock_along(self):
        self.routing(INSIDE="eth7 eth8")
        self.environment({"INSIDE": "eth1", "OUTSIDE": "eth0"})
        self.machine.systemctl("restart", "starttls-proxy-routing")
        rules = self.machine.run("ip", "rule")
        self.assertIn("iif eth1", rules)
        self.assertIn("iif eth0", rules)
        self.assertNotIn("eth7", rules)
        self.machine.run(SCRIPT, "check")

    def test_no_interface_is_a_failure_that_says_where_to_name_one(self):
        code, _ = self.machine.tries("systemctl", "start", "starttls-proxy-routing")
        self.assertNotEqual(code, 0)
        self.assertIn("/etc/default/starttls-proxy-routing", self.machine.journal("routing"))

    def test_what_is_not_the_name_of_one_interface_is_refused_and_the_locks_stay(self):
        self.routing()
        # A pattern, what `ip` shows for the interface eth0.25, and what a shell or nft reads in a way of its own.
        for name in ("eth*", "eth0.25@eth0", "a'b", "a$b", "a%sb", "a;b", "$(id)"):
            with self.subTest(name):
                self.environment({"INSIDE": name})
                self.machine.tries("systemctl", "restart", "starttls-proxy-routing")
                self.failed_for_good("routing", 78)
                self.assertIn(f"{name} is not the name of one interface", self.machine.journal("routing"))
                self.machine.tries("systemctl", "reset-failed", "starttls-proxy-routing")
                self.machine.run(SCRIPT, "check")
                self.shut()

    def test_a_name_with_a_dot_is_that_of_an_interface(self):
        self.routing(INSIDE="eth1 eth1.25")
        self.machine.run(SCRIPT, "check")
        self.assertIn("iif eth1.25", self.machine.run("ip", "rule"))
        self.assertIn('"eth1.25"', self.machine.run("nft", "list", "ruleset"))

    def test_a_rule_that_only_looks_like_a_lock_is_not_taken_for_one(self):
        self.routing()
        for family, source in ("-4", "10.26.0.77"), ("-6", "fd26::77"):
            self.machine.run("ip", family, "rule", "del", *LOCK)
            narrow = ("pref", "26", "from", source, *LOCK[2:])
            self.machine.run("ip", family, "rule", "add", *narrow)
            self.addCleanup(self.machine.tries, "ip", family, "rule", "del", *narrow)
        self.assertNotEqual(self.machine.tries(SCRIPT, "check")[0], 0)
        self.machine.systemctl("restart", "starttls-proxy-routing")
        self.machine.run(SCRIPT, "check")
        self.machine.run("nft", "flush", "ruleset")
        self.shut()

    def test_doctor_finds_the_service_also_where_it_may_not_look_into_other_processes(self):
        self.outbound()
        # Root in a container of Docker has no CAP_SYS_PTRACE, and other users have less.
        for less in ("--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"), ("--reuid=nobody", "--clear-groups"):
            with self.subTest(less):
                _, page = self.machine.tries("setpriv", *less, "/usr/local/bin/starttls-proxy", "doctor")
                self.assertIn("starttls-proxy-outbound runs, but will not after a restart", page)
                self.assertNotIn("no proxy runs here", page)
                self.assertNotIn("none is enabled", page)

    def test_doctor_finds_the_service_in_whatever_slice_it_runs(self):
        self.machine.write("etc/systemd/system/starttls-proxy-outbound.service.d/slice.conf", "[Service]\nSlice=machine-mail.slice\n")
        self.machine.systemctl("daemon-reload")
        self.outbound()
        self.routing()
        self.assertIn("machine-mail.slice", self.machine.property("outbound", "ControlGroup"))
        _, page = self.machine.tries("starttls-proxy", "doctor")
        self.assertIn("\nstarttls-proxy-outbound: outbound --state-dir", page)
        self.assertIn("starttls-proxy-outbound runs, but will not after a restart of the machine\n        run: systemctl enable starttls-proxy-outbound", page)
        self.assertNotIn("none is enabled", page)

    def apart(self, *lines):
        """Runs lines in a network and a /run of their own, where $script is the script; what they print."""
        lines = ("mount -t tmpfs -o size=20k none /run", "ip link set lo up", f"script={SCRIPT}",
                 "export INSIDE=eth1 RULES=/usr/local/lib/starttls-proxy/tproxy.nft", *lines)
        return self.machine.run("unshare", "--net", "--mount", "sh", "-ec", "\n".join(lines))

    def test_where_no_interface_has_ipv6_its_missing_route_is_no_fault(self):
        words = self.apart("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6", "$script up", "$script check", "ip -6 rule")
        self.assertIn("iif eth1", words)

    def test_a_full_run_loses_no_lock(self):
        words = self.apart("$script up", "cat /dev/zero >/run/fill || true", "INSIDE=eth7 $script up && exit 1", "$script check", "ip rule")
        self.assertIn("iif eth1", words)

    def test_rules_that_are_not_written_down_are_told(self):
        words = self.apart("$script up", ": >/run/starttls-proxy/interception.rules", "$script check && exit 1", "ip rule")
        self.assertIn("failing: ", words)
        self.assertIn("iif eth1", words)

    def test_what_cannot_be_put_back_is_told_until_it_can(self):
        self.watched()
        self.machine.run("mv", "/usr/sbin/nft", "/usr/sbin/nft.away")
        self.addCleanup(self.machine.tries, "mv", "/usr/sbin/nft.away", "/usr/sbin/nft")
        self.machine.run("/usr/sbin/nft.away", "flush", "ruleset")
        until("failing", lambda: self.state()["locks"] == "failing")
        self.assertEqual((self.state()["nft"], self.state()["rules"]), ("failing", "held"))
        self.assertIn("nft", self.state()["error"])
        until("status", lambda: "IS GONE" in self.machine.property("watch", "StatusText"))
        self.assertIn("IS GONE", self.machine.journal("watch", "--priority=alert"))
        self.machine.run("mv", "/usr/sbin/nft.away", "/usr/sbin/nft")
        until("held", lambda: self.state()["locks"] == "held")

    def test_a_watcher_that_is_killed_comes_back_and_goes_on_counting(self):
        self.watched()
        self.machine.run("nft", "flush", "ruleset")
        until("restored", lambda: self.state()["restored"] == "1")
        self.machine.systemctl("kill", "--signal=KILL", "starttls-proxy-watch")
        self.machine.run("nft", "flush", "ruleset")
        until("restored again", lambda: self.state()["restored"] == "2")

    def test_the_watcher_has_one_capability_and_the_mail_process_another(self):
        self.watched()
        self.outbound()
        for unit, capability in (("watch", 12), ("outbound", 13)):
            pid = self.machine.property(unit, "MainPID")
            status = self.machine.run("cat", f"/proc/{pid}/status")
            self.assertIn(f"CapBnd:\t{1 << capability:016x}", status)

    def test_inbound_mail_goes_on_while_outbound_mail_only_is_intercepted(self):
        self.outbound()
        self.routing()
        for address in INSIDE, INSIDE6:
            self.assertEqual(greeting(self.machine.outside, address), "legacy")
        self.assertEqual(self.out(), NAME)

    def test_outbound_mail_goes_on_while_inbound_mail_only_is_intercepted(self):
        self.routing(INSIDE="", OUTSIDE="eth0")
        self.assertEqual([self.out(), self.out(OUTSIDE6)], ["world"] * 2)
        self.assertEqual(greeting(self.machine.outside, INSIDE), "refused")

    def test_an_upgrade_keeps_flags_and_interfaces(self):
        self.environment({"INSIDE": "eth1"})
        self.machine.flags("outbound", "--observe")
        self.machine.install()
        self.assertIn("eth1", self.machine.path("etc/default/starttls-proxy-routing").read_text())
        self.assertIn("--observe", self.machine.path("etc/default/starttls-proxy-outbound").read_text())

    def test_a_file_in_pass_d_that_does_not_parse_fails_the_unit_and_keeps_the_rules(self):
        self.routing()
        self.machine.write("etc/starttls-proxy/pass.d/wrong.nft", "nonsense\n")
        code, _ = self.machine.tries("systemctl", "reload", "starttls-proxy-routing")
        self.assertNotEqual(code, 0)
        self.machine.run(SCRIPT, "check")
        self.shut()

    def test_units_that_name_an_address_start_when_the_network_is_online(self):
        for unit in ("smarthost", "mx"):
            self.assertIn("network-online.target", self.machine.property(unit, "After"))
            self.assertIn("network-online.target", self.machine.property(unit, "Wants"))

    def test_inbound_in_front_of_a_mail_server_listens_on_port_25(self):
        self.machine.flags("mx", f"--listen 192.0.2.1:25 --upstream {INSIDE} --hide-client-address {INBOUND}")
        self.machine.run("chgrp", "starttls-proxy", "/etc/starttls-proxy/key.pem")
        self.machine.run("chmod", "640", "/etc/starttls-proxy/key.pem")
        self.machine.systemctl("start", "starttls-proxy-mx")
        self.assertEqual(greeting(self.machine.outside, "192.0.2.1"), NAME)

    def test_inbound_is_intercepted_where_the_outside_is_named(self):
        self.machine.flags("inbound", f"--listen [::]:2526 --intercept tproxy --keep-client-address {INBOUND}")
        self.machine.systemctl("start", "starttls-proxy-inbound")
        self.routing(OUTSIDE="eth0")
        for address in INSIDE, INSIDE6:
            self.assertEqual(greeting(self.machine.outside, address), NAME)
        self.shut()


class Trixie(OnEachSystemd, OnOneSystemd, unittest.TestCase):
    """Debian 13."""

    release = "trixie"


class Bookworm(OnEachSystemd, unittest.TestCase):
    """Debian 12."""

    release = "bookworm"
