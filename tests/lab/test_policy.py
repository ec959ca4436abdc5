"""Who may receive: DANE and MTA-STS as real domains publish them, compared with the decisions of real Postfix."""

import contextlib
import os
import socket
import threading

import mta_sts
import proxy
from case import Case, Talk
from network import GW, within


class Policy(Case):
    """What these cases share."""

    def basis(self):
        """What the record says the newest message was decided by."""
        (decision,) = self.proxy.records("message")[-1]["decisions"]
        return decision["level"], decision["basis"]


class Dane(Policy):
    """DANE (RFC 7672). Postfix with smtp_tls_security_level=dane sends the same outside, and must decide the same."""

    def setUp(self):
        super().setUp()
        self.outbound("--no-mta-sts")

    def postfix_agrees(self, recipient, status):
        sent = self.send(recipient, postfix=self.world.sender)
        self.assertEqual(sent.outcome.status, status, f"Postfix decides otherwise: {sent.outcome.words}")

    def both_deliver(self, name, domain=None):
        recipient = f"user@{domain or self.world.hosts[name].domain}"
        received = self.arrives(recipient)
        self.postfix_agrees(recipient, "sent")
        return received

    def both_keep(self, recipient, *words):
        self.stays(recipient, *words)
        self.postfix_agrees(recipient, "deferred")

    def test_key_that_the_domain_publishes_is_enough(self):
        self.both_deliver("key")
        self.assertEqual(self.basis(), ("dane", "dane"))

    def test_expired_certificate_with_the_published_key_is_good(self):
        self.both_deliver("key6")

    def test_authority_that_the_domain_publishes_vouches_for_the_name(self):
        self.both_deliver("authority")

    def test_authority_that_the_domain_publishes_does_not_vouch_for_another_name(self):
        self.both_keep("user@othername.signed.test", "421 4.7.5 ", "mx.somebody-else.test")

    def test_old_and_new_key_side_by_side_are_good(self):
        self.both_deliver("rollover")

    def test_key_that_is_not_published_is_refused_also_with_a_trusted_certificate(self):
        self.both_keep("user@mismatch.signed.test", "421 4.7.5 ", "tlsa-invalid")

    def test_published_key_but_no_starttls_is_refused(self):
        self.both_keep("user@notls.signed.test", "421 4.7.4 ", "starttls-not-supported")

    def test_tlsa_records_with_wrong_signatures_are_no_missing_records(self):
        self.both_keep("user@bogustlsa.signed.test", "451 4.7.5 ", "dnssec-invalid")

    def test_domain_whose_signatures_are_past_their_end_is_deferred(self):
        # Postfix inside learns the MX from the same resolver and never gets as far as the proxy.
        with Talk(self.network.inside, self.world.hosts["good"].v4) as client:
            client.reply()
            client.say("EHLO legacy.inside.test")
            client.say("MAIL FROM:<a@inside.test>")
            self.assertRegex(client.say("RCPT TO:<user@stale.signed.test>"), "^451 4.7.5 .*dnssec-invalid", self.explained())
        self.postfix_agrees("user@stale.signed.test", "deferred")

    def test_tlsa_records_of_an_unsigned_zone_are_ignored(self):
        self.arrives("user@insecuretlsa.plain.test")
        self.assertEqual(self.basis(), ("verify", "mx"))
        self.postfix_agrees("user@insecuretlsa.plain.test", "sent")

    def test_mx_host_that_is_an_alias_is_judged_by_its_targets_records(self):
        self.both_deliver("target", "alias.signed.test")
        self.assertEqual(self.basis(), ("dane", "dane"))

    def test_signed_domain_without_tlsa_records_is_verified_by_its_mx_names(self):
        self.both_deliver("nodane")
        self.assertEqual(self.basis(), ("verify", "mx"))


def end_of_question(query):
    return query.index(b"\0", 12) + 5


def whole(query, ask):
    return ask(query)


def stripped(query, ask):
    """A resolver that asks without EDNS, so that no signatures come."""
    return ask(query[:10] + b"\0\0" + query[12:end_of_question(query)])


def no_ipv6(query, ask):
    """A resolver that answers SERVFAIL to AAAA questions."""
    end = end_of_question(query)
    if query[end - 4:end - 2] != b"\0\x1c":
        return ask(query)
    return query[:2] + b"\x81\x82" + query[4:6] + bytes(6) + query[12:end]


class Resolvers(Policy):
    """Nothing that the resolver does lets mail pass unprotected."""

    def test_resolver_that_does_not_validate_changes_nothing(self):
        self.outbound("--no-mta-sts", resolver=f"{GW}:5353")
        self.arrives("user@key.signed.test")
        self.assertEqual(self.basis(), ("dane", "dane"))
        self.stays("user@mismatch.signed.test", "tlsa-invalid")
        self.stays("user@bogustlsa.signed.test", "451 4.7.5 ", "dnssec-invalid")

    def test_resolver_that_strips_signatures_keeps_the_proxy_from_starting_and_the_unit_tries_again(self):
        with self.resolver(stripped) as address:
            with self.assertRaises(AssertionError) as ended:
                self.outbound(resolver=address)
        self.assertIn("exit code 75", str(ended.exception))
        self.assertIn(f"DNSSEC signatures cannot be had: resolver {address} answers without them", str(ended.exception))

    def test_resolver_that_begins_to_strip_signatures_defers_mail_to_signed_domains(self):
        with self.resolver(whole) as address:
            self.outbound("--no-mta-sts", resolver=address)
            self.answer = stripped
            self.stays("user@mismatch.signed.test", "451 4.7.5 ", "dnssec-invalid", "comes without the DNSSEC signatures")

    def test_without_dane_a_resolver_that_strips_signatures_is_as_good_as_any(self):
        with self.resolver(stripped) as address:
            self.outbound("--no-dane", resolver=address)
            self.arrives("user@good.plain.test")
            self.arrives("user@nodane.signed.test")
            self.assertEqual(self.basis(), ("verify", "mx"))
            self.arrives("user@stsright.plain.test")
            self.assertEqual(self.basis(), ("mta-sts", "mta-sts"))

    def test_addresses_of_one_family_do_where_they_are_signed_and_the_others_cannot_be_had(self):
        with self.resolver(no_ipv6) as address:
            self.outbound("--no-mta-sts", resolver=address)
            self.arrives("user@key.signed.test")
            self.assertEqual(self.basis(), ("dane", "dane"))
            self.stays("user@mismatch.signed.test", "tlsa-invalid")

    @contextlib.contextmanager
    def resolver(self, answer):
        """A resolver in gw that asks the good one and answers as `answer` does; that may change. Its address."""
        with within(self.network.gw):
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 0))
        asking.settimeout(5)
        self.answer = answer

        def ask(query):
            asking.sendto(query, (GW, 53))
            while (answer := asking.recv(4096))[:2] != query[:2]:
                pass
            return answer

        def serve():
            while True:
                try:
                    query, peer = server.recvfrom(4096)
                    server.sendto(self.answer(query, ask), peer)
                except TimeoutError:
                    continue
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.close()
            asking.close()

    def test_no_resolver_at_all_defers(self):
        self.outbound(resolver="127.0.0.1:5399")
        self.stays("user@good.plain.test", "451 4.4.3 good.plain.test: ", "lookup-failed")


class MtaSts(Policy):
    """MTA-STS (RFC 8461)."""

    def test_enforced_policy_that_lists_the_host_is_the_basis(self):
        self.outbound()
        self.arrives("user@stsright.plain.test")
        self.assertEqual(self.basis(), ("mta-sts", "mta-sts"))

    def test_host_that_the_enforced_policy_does_not_list_is_refused(self):
        self.outbound()
        self.stays("user@stsother.plain.test", "451 4.7.5 ", "sts-policy-invalid")

    def test_self_signed_host_of_an_enforced_policy_is_refused(self):
        self.outbound()
        self.stays("user@stsselfsigned.plain.test", "421 4.7.5 ", "certificate-not-trusted", "(level mta-sts, from ")

    def test_policy_in_testing_mode_refuses_nothing(self):
        self.outbound()
        self.arrives("user@ststesting.plain.test")
        self.assertEqual(self.basis(), ("verify", "mx"))

    def test_policy_host_that_is_down_leaves_the_domain_without_policy(self):
        self.outbound()
        self.arrives("user@stsdown.plain.test")
        self.assertEqual(self.basis(), ("verify", "mx"))

    def test_policy_host_that_does_not_answer_leaves_the_domain_without_policy_and_that_is_recorded(self):
        self.outbound()
        self.arrives("user@stssilent0.plain.test")
        self.assertEqual(self.basis(), ("verify", "mx"))
        verdict = self.proxy.records("verdict")[-1]
        self.assertIn("sts-policy-fetch-error", str(verdict["decision"]["findings"]["sts"]))

    def test_policy_hosts_that_do_not_answer_do_not_keep_a_healthy_one_from_being_asked(self):
        self.outbound()
        talks = [Talk(self.network.inside, self.world.hosts["good"].v4) for _ in range(mta_sts.SILENT_DOMAINS)]
        for number, client in enumerate(talks):
            client.reply()
            client.say("EHLO legacy.inside.test")
            client.say("MAIL FROM:<a@inside.test>")
            client.raw(f"RCPT TO:<user@stssilent{number}.plain.test>\r\n".encode())
        self.arrives("user@stsright.plain.test")
        self.assertEqual(self.basis(), ("mta-sts", "mta-sts"))
        for client in talks:
            self.assertRegex(client.reply(), "^250 ", self.explained())
            client.socket.close()

    def test_policy_of_a_host_with_a_wrong_certificate_does_not_count(self):
        self.outbound()
        self.arrives("user@stswrong.plain.test")
        self.assertEqual(self.basis(), ("verify", "mx"))

    def test_policy_is_kept_when_its_txt_record_is_gone_and_the_proxy_was_killed(self):
        state = self.network.folder / "state"
        state.mkdir()
        os.chown(state, proxy.NOBODY, proxy.NOBODY)
        running = self.outbound("--state-dir", state)
        refused = "sts-policy-invalid"
        self.stays("user@stscached.plain.test", refused)
        running.kill()
        self.world.names.change("_mta-sts.stscached.plain.test.", "")
        # The other resolver has not seen the record.
        self.outbound("--state-dir", state, resolver=f"{GW}:5353")
        asked = len(self.world.policy_hosts.asked)
        self.stays("user@stscached.plain.test", refused)
        self.assertEqual(len(self.world.policy_hosts.asked), asked)


class Mx(Policy):
    """What MX records may say."""

    def rcpt(self, domain):
        with Talk(self.network.inside, self.world.hosts["good"].v4) as client:
            client.reply()
            client.say("EHLO legacy.inside.test")
            client.say("MAIL FROM:<a@inside.test>")
            return client.say(f"RCPT TO:<user@{domain}>")

    def test_domain_without_mx_is_its_own_host(self):
        self.outbound()
        self.arrives("user@implicit.plain.test")

    def test_domain_that_does_not_exist_is_told_as_such_and_deferred(self):
        self.outbound()
        for domain, signed in (("nosuch.signed.test", "signed"), ("nosuch.plain.test", "not signed")):
            words = f"^451 4.1.2 {domain}: does not exist: no-such-domain: .*NXDOMAIN, {signed}"
            self.assertRegex(self.rcpt(domain), words, self.explained())

    def test_signed_null_mx_bounces(self):
        self.outbound()
        self.assertRegex(self.rcpt("nullmx.signed.test"), "^556 5.1.10 nullmx.signed.test: ", self.explained())

    def test_null_mx_that_anybody_could_have_made_defers(self):
        self.outbound()
        self.assertRegex(self.rcpt("nullmx.plain.test"), "^451 4.1.10 nullmx.plain.test: ", self.explained())

    def test_destination_that_is_no_mx_of_the_domain_is_refused_with_the_table_line_that_would_allow_it(self):
        self.outbound()
        said = self.rcpt("second.plain.test")
        self.assertRegex(said, "^421 4.7.5 second.plain.test: ", self.explained())
        self.assertIn(f"[{self.world.hosts['good'].v4}] verify match=", said)

    def test_table_line_for_the_smart_hosts_address_allows_it(self):
        table = self.network.folder / "smart-host"
        good = self.world.hosts["good"]
        table.write_text(f"[{good.v4}] verify match={good.mx}\n")
        self.outbound("--policy", table)
        self.assertRegex(self.rcpt("second.plain.test"), "^250 ", self.explained())
