//! The proxy's own side of `check`: rehearses, for one address of a mail exchanger, the session that mail would have there.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    audit::{self, VerdictField, WireText},
    clock,
    lookup::Lookup,
    metrics::Metrics,
    net::Dial,
    policy::{self, Ask, Decision, Dns, Findings, Moment, NextHop, Reason, Settings, Verdict},
    session::{
        credentials::UpstreamLogin,
        facts,
        fields::decision_field,
        memory::HostMemory,
        rehearsal::{HeardReply, RehearsalResult, RehearsedSession, rehearse},
        setup::{CommonSetup, OutboundSetup, Upstream},
        write_budget::WriteBudget,
    },
    smtp::{Cause, Domain, Recipient, Refusal},
    tls::{ClientTls, Peer},
};

/// Checks domains with the settings that mail would have.
pub struct Checker {
    /// `--hostname`.
    pub hostname: String,
    /// How connections are made.
    pub dial: Dial,
    /// Trust and client certificate.
    pub tls: Arc<ClientTls>,
    /// `--level`, `--no-dane` and the other flags that say what is demanded.
    pub settings: Settings,
    /// `--policy`.
    pub table: policy::table::Table,
    /// The DNS and MTA-STS.
    pub lookup: Arc<Lookup>,
    /// The port of mail servers: 25, except in tests.
    pub port: u16,
    /// About the longest duration of everything with one address.
    pub patience: Duration,
    /// `--upstream`: the smart host that is checked in place of domains.
    pub upstream: Option<Upstream>,
    /// `--upstream-auth`.
    pub login: Option<Arc<UpstreamLogin>>,
}

/// What one address showed, and what mail would get there.
pub(super) struct CheckedAddress {
    pub(super) address: SocketAddr,
    /// The server, if the handshake showed a certificate.
    pub(super) peer: Option<Arc<Peer>>,
    /// The decision as log and record would have it.
    pub(super) said: audit::DecisionField,
    pub(super) passes: bool,
    /// The reply to mail at its first try, where it passes at the second: the first handshake failed, and one without the
    /// post-quantum key share succeeded.
    pub(super) first_reply: Option<String>,
    /// The reply to mail, word for word. `None`: mail passes, or no mail server would come here with it.
    pub(super) reply: Option<String>,
    /// Why the policy was not asked, if so: connection refused, no greeting, ...
    pub(super) unreachable: Option<String>,
    pub(super) heard: Vec<HeardRefusal>,
    /// The mechanism by which the server accepted the proxy's own login.
    pub(super) login: Option<&'static str>,
    /// The server was not given as much time as mail would give it.
    pub(super) cut_short: bool,
}

/// A refusal of the server before mail could pass, as the record of a session has it.
#[derive(Debug, serde::Serialize)]
pub(super) struct HeardRefusal {
    /// What it answers: `greeting`, `ehlo` or `starttls`.
    pub(super) stage: &'static str,
    code: Option<u16>,
    enhanced: Option<String>,
    /// The whole reply, escaped, and cut where it is long.
    pub(super) text: WireText,
    /// Nobody has proved that the server said it.
    pub(super) unproved: bool,
}

impl Checker {
    /// Asks the server at `address` what mail for `domain` would get. `findings` are the facts that the page shows.
    pub(super) async fn ask(
        &self,
        domain: &Domain,
        address: IpAddr,
        findings: &Arc<Findings>,
    ) -> CheckedAddress {
        let address = SocketAddr::new(address, self.port);
        // Each address has a memory of failures of its own: one domain's session does not change another's.
        let site = Arc::new(self.site());
        let mut rehearsed = rehearse(&site, Some((domain, address)), self.patience).await;
        let mut first_reply = None;
        if let RehearsalResult::Refused { reply, .. } = &rehearsed.result
            && site.memory.owes_classical(address.ip(), clock::instant())
        {
            // The handshake failed, perhaps because of the large ClientHello. Mail would be tried again without it.
            let again = rehearse(&site, Some((domain, address)), self.patience).await;
            if again.result == RehearsalResult::Passes {
                first_reply = Some(reply.clone());
                rehearsed = again;
            }
        }
        CheckedAddress {
            first_reply,
            ..CheckedAddress::of(address, rehearsed, || {
                self.without_server(domain, address, findings)
            })
        }
    }

    /// Asks the smart host what mail would get there.
    pub(super) async fn ask_upstream(&self, upstream: &Upstream) -> CheckedAddress {
        let site = Arc::new(self.site());
        let mut rehearsed = rehearse(&site, None, self.patience).await;
        if let (RehearsalResult::Refused { .. }, Some(decision)) =
            (&rehearsed.result, &rehearsed.decision)
            && site
                .memory
                .owes_classical(decision.ask.server, clock::instant())
        {
            rehearsed = rehearse(&site, None, self.patience).await;
        }
        let nobody = SocketAddr::from(([0, 0, 0, 0], upstream.port));
        let known = rehearsed.decision.as_ref();
        let address = known.map_or(nobody, |known| (known.ask.server, known.ask.port).into());
        CheckedAddress::of(address, rehearsed, || {
            let ask = Ask {
                next_hop: NextHop::Upstream(upstream.host.clone()),
                server: address.ip(),
                port: address.port(),
            };
            let words = String::from("it was not judged");
            let verdict = Verdict::Refused(Reason::LookupFailed, words);
            let now = clock::wall();
            Decision::new(ask, None, None, verdict, Moment::Hello, &self.settings, now)
        })
    }

    /// What becomes of mail for a domain that has no host to ask.
    pub(super) fn unasked(&self, domain: &Domain, findings: &Arc<Findings>) -> CheckedAddress {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], self.port));
        let decision = self.without_server(domain, nowhere, findings);
        let mut said = decision_field(&decision);
        let mut reply = decision.refusal.as_ref().map(ToString::to_string);
        if decision.demand.is_some() && !address_unknown(findings) {
            // The look-ups succeeded, and no mail server comes to the proxy with such mail.
            said.reason = Some(String::from("no-address"));
            said.detail = String::from(
                "no mail exchanger of the domain has an address, so that a mail server has nowhere to go",
            );
            reply = None;
        }
        CheckedAddress {
            address: nowhere,
            peer: None,
            said,
            passes: false,
            first_reply: None,
            reply,
            unreachable: None,
            heard: Vec::new(),
            login: None,
            cut_short: false,
        }
    }

    /// The decision about a server at `address` that was not judged: what is demanded of it, and a refusal.
    fn without_server(
        &self,
        domain: &Domain,
        address: SocketAddr,
        findings: &Arc<Findings>,
    ) -> Decision {
        let ask = Ask {
            next_hop: NextHop::Recipient(Recipient::Domain(domain.clone())),
            server: address.ip(),
            port: address.port(),
        };
        let now = clock::wall();
        let entry = self.table.find(&ask, now);
        let (demand, verdict) = match policy::require(&ask, entry, findings, &self.settings) {
            Ok(demand) => {
                let words = String::from("no address of a mail exchanger is known");
                (Some(demand), Verdict::Refused(Reason::LookupFailed, words))
            }
            Err((reason, words)) => (None, Verdict::Refused(reason, words)),
        };
        Decision::new(
            ask,
            Some(Arc::clone(findings)),
            demand,
            verdict,
            Moment::FirstRecipient,
            &self.settings,
            now,
        )
    }
    /// The configuration of a session that leaves nothing behind.
    fn site(&self) -> OutboundSetup {
        OutboundSetup {
            common: Arc::new(CommonSetup {
                hostname: self.hostname.clone(),
                configuration: Arc::from(""),
                dial: self.dial.clone(),
                intercept: None,
                keep_client_address: false,
                observe: false,
                add_received: false,
                listening: Arc::from([]),
                policy: None,
                audit: None,
                metrics: Arc::new(Metrics::default()),
                write_budget: Arc::new(WriteBudget::unlimited()),
            }),
            upstream: self.upstream.clone(),
            settings: self.settings,
            table: self.table.clone(),
            tls: Arc::clone(&self.tls),
            lookup: Arc::clone(&self.lookup),
            memory: Arc::new(HostMemory::default()),
            tlsrpt: None,
            clients: None,
            strangers: Arc::new(WriteBudget::unlimited()),
            login: self.login.clone(),
        }
    }
}

impl CheckedAddress {
    /// What a rehearsal showed. `without` makes the decision, if the policy was not asked.
    fn of(
        address: SocketAddr,
        rehearsed: RehearsedSession,
        without: impl FnOnce() -> Decision,
    ) -> Self {
        let RehearsedSession {
            result,
            decision,
            peer,
            heard,
            login,
            cut_short,
        } = rehearsed;
        let decided = decision.is_some();
        let decision = decision.unwrap_or_else(without);
        let mut said = decision_field(&decision);
        let passes = result == RehearsalResult::Passes;
        let (mut reply, mut unreachable) = (None, None);
        if let RehearsalResult::Refused {
            reply: words,
            refusal,
        } = result
        {
            // The policy's own refusal is shown with the policy's reason, any other with the machine's.
            let by_policy = |refusal: &Refusal| {
                refusal.cause == Cause::Verdict || decision.refused() == Some(refusal)
            };
            if !decided || !refusal.as_ref().is_some_and(by_policy) {
                let cause = refusal.as_ref().map(|refusal| refusal.cause);
                said.verdict = VerdictField::Refused;
                said.reason = Some(cause.unwrap_or(Cause::LocalFault).word().to_owned());
                said.detail = refusal.map_or_else(|| words.clone(), |refusal| refusal.text);
            }
            unreachable = (!decided).then(|| said.detail.clone());
            reply = Some(words);
        }
        Self {
            address,
            peer,
            said,
            passes,
            first_reply: None,
            reply,
            unreachable,
            heard: heard.iter().map(HeardRefusal::from).collect(),
            login,
            cut_short,
        }
    }
}

/// For at least one host it is not known whether it has an address.
fn address_unknown(findings: &Findings) -> bool {
    match &findings.mx {
        Dns::Found(mx, _) => mx
            .hosts()
            .iter()
            .any(|host| !matches!(host.addresses, Dns::Found(..) | Dns::Absent(_))),
        Dns::Absent(_) => false,
        Dns::Bogus(_) | Dns::Failed(_) | Dns::NotAsked => true,
    }
}

impl From<&HeardReply> for HeardRefusal {
    fn from(heard: &HeardReply) -> Self {
        let fact = facts::HeardFact {
            stage: heard.stage,
            reply: &heard.reply,
            proved: heard.proved,
        };
        Self {
            stage: fact.stage(),
            code: fact.code(),
            enhanced: fact.enhanced(),
            text: fact.text(),
            unproved: !fact.proved,
        }
    }
}
