//! What verdict, unprotected and refusal records must say of an outbound session.

use crate::{
    client::{Ended, Reply, What},
    heard::Fatal,
    model::{Case, Why},
    rules::{Fact, Line, Want, fact, refused},
};

impl Case<'_, '_> {
    pub fn outbound_facts(&self) -> Vec<Want> {
        let mut wants = Vec::new();
        let mut want = |any_of: Vec<Fact>, must| wants.push(Want { any_of, must });
        let exchanges = &self.session.exchanges;
        for (at, one) in exchanges.iter().enumerate() {
            if let (What::Hello, Some((domain, line))) = (&one.what, self.asked_at_connect()) {
                let (verdict, reason) = self.judged(Some(line));
                let told = self.shown().is_some() && one.code() == Some(250);
                want(vec![fact(Some(&domain), verdict, reason)], told);
            }
            match (&one.what, &one.reply) {
                (What::Rcpt(path), Some(reply))
                    if reply.code == 250 || (reply.is_servers() && reply.code != 421) =>
                {
                    let (domain, line) = self.asked(path);
                    let (verdict, reason) = self.judged(line);
                    // In the clear, for a level that wanted TLS, it may be written down with the message only.
                    let early =
                        self.shown().is_some() || line.is_none_or(|line| line.level == "none");
                    want(vec![fact(Some(&domain), verdict, reason)], early);
                }
                (What::Rcpt(path), Some(reply)) if reply.code == 451 => {
                    let (domain, line) = self.asked(path);
                    let (verdict, reason) = self.judged(line);
                    let mut any_of = vec![fact(Some(&domain), verdict, reason)];
                    if self.shown().is_none() && line.is_some() {
                        // The recipient needs TLS, and the session has begun without TLS.
                        let reason = format!("{}|starttls-required", self.no_tls());
                        any_of = vec![refused(Some(&domain), &reason), refused(None, &reason)];
                    }
                    want(any_of, true);
                }
                (What::Rcpt(path), reply) if reply.as_ref().is_none_or(Reply::is_servers) => {
                    let (domain, _) = self.asked(path);
                    for verdict in ["authorised", "unprotected", "refused"] {
                        want(
                            vec![(Some(domain.clone()), verdict.into(), Some("*".into()))],
                            false,
                        );
                    }
                }
                (_, Some(reply)) if reply.text.starts_with("421 4.3.2") => {
                    want(vec![refused(None, "stopped")], true);
                }
                (_, Some(reply)) if reply.code == 421 && !reply.is_servers() => {
                    let later = self.recipients_from(at);
                    for (domain, line) in self.candidates(at).into_iter().chain(later) {
                        let (verdict, reason) = self.judged(line);
                        want(vec![fact(Some(&domain), verdict, reason)], false);
                    }
                    want(self.why_over(at).0, true);
                }
                (_, Some(reply)) if reply.code >= 400 && !reply.is_servers() => {
                    want(vec![refused(None, "protocol")], true);
                }
                _ => {}
            }
        }
        if matches!(
            self.session.ended,
            Ended::Client | Ended::Other | Ended::Quit
        ) {
            for (at, _) in exchanges
                .iter()
                .enumerate()
                .filter(|(_, one)| one.reply.is_none())
            {
                want(self.why_over(at).0, false);
                want(vec![refused(None, "protocol")], false);
            }
            if let (Ended::Client, Some((domain, line))) =
                (self.session.ended, self.asked_at_connect())
            {
                let (verdict, reason) = self.judged(Some(line));
                want(vec![fact(Some(&domain), verdict, reason)], false);
            }
            want(self.why_over(exchanges.len()).0, false);
        }
        wants
    }

    /// Why the session ended with a 421 of the proxy's own that stands for the exchange `at`.
    pub fn why_over(&self, at: usize) -> Why {
        const REFUSED: &[&str] = &["refused"];
        const EITHER: &[&str] = &["refused", "server-closed"];
        let gone = refused(None, "server-gone");
        let Some(last) = self.last() else {
            let Some(before) = self.before else {
                return (vec![refused(None, "server-unreachable")], REFUSED);
            };
            // The refusal that is remembered from the previous session at this server, with its domain.
            let (mut facts, _) = before.why_over(0);
            facts.extend(
                facts
                    .clone()
                    .into_iter()
                    .map(|(_, verdict, reason)| (None, verdict, reason)),
            );
            return (facts, REFUSED);
        };
        match last.fatal {
            Some(Fatal::Greeting(421)) => (vec![refused(None, "greeting-refused"), gone], EITHER),
            Some(Fatal::Greeting(_)) => (
                vec![refused(None, "greeting-refused")],
                &["refused", "greeting-refused"],
            ),
            Some(Fatal::Hello(421)) => (vec![refused(None, "ehlo-refused"), gone], EITHER),
            Some(Fatal::Hello(_)) => (vec![refused(None, "ehlo-refused")], REFUSED),
            Some(Fatal::StartTls(421)) => {
                let mut facts = self.refused_for(at, "starttls-refused");
                facts.push(gone);
                (facts, EITHER)
            }
            Some(Fatal::StartTls(_)) => (self.refused_for(at, "starttls-refused"), REFUSED),
            Some(Fatal::Closed | Fatal::Said421) => (vec![gone], &["server-closed"]),
            Some(Fatal::Handshake) => {
                let domains = self.candidates(at);
                let failed = domains
                    .iter()
                    .map(|(domain, _)| refused(Some(domain), "validation-failure"));
                (failed.collect(), EITHER)
            }
            None if last.shown.is_some() => {
                let refusals = self
                    .candidates(at)
                    .into_iter()
                    .filter_map(|(domain, line)| {
                        let (_, reason) = self.judged(line);
                        Some(refused(Some(&domain), reason?))
                    });
                (refusals.collect(), REFUSED)
            }
            None => (self.refused_for(at, "starttls-not-supported"), REFUSED),
        }
    }

    /// A refusal for this reason in place of the exchange `at`: of the server as such, or of the domain whose mail asked for TLS.
    pub fn refused_for(&self, at: usize, reason: &str) -> Vec<Fact> {
        let domains = self.candidates(at).into_iter();
        let facts = domains.map(|(domain, _)| refused(Some(&domain), reason));
        facts.chain([refused(None, reason)]).collect()
    }

    /// The domains that the refusal in place of the exchange `at` can be about.
    pub fn candidates(&self, at: usize) -> Vec<(String, Option<&Line>)> {
        if let Some((domain, line)) = self.asked_at_connect() {
            return vec![(domain, Some(line))];
        }
        self.recipients_from(at)
    }

    /// The recipients that the policy was asked about from the exchange `at` on.
    pub fn recipients_from(&self, at: usize) -> Vec<(String, Option<&Line>)> {
        let later = self.session.exchanges.iter().skip(at);
        let paths = later.filter_map(|one| match &one.what {
            What::Rcpt(path) => Some(self.asked(path)),
            _ => None,
        });
        paths.collect()
    }
}
