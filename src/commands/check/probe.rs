//! Asks one address of a mail exchanger what mail would get there: rehearses the session that the mail would have.

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
        facts,
        fields::decision_field,
        memory::HostMemory,
        rehearsal::{RehearsalResult, RehearsedSession, rehearse},
        setup::{CommonSetup, OutboundSetup},
        write_budget::WriteBudget,
    },
    smtp::{Cause, Domain, Recipient, Refusal},
    tls::{ClientTls, Peer},
};

/// What is needed to ask.
pub struct Checker {
    /// `--hostname`.
    pub hostname: String,
    /// How connections are made.
    pub dial: Dial,
    /// Trust.
    pub tls: Arc<ClientTls>,
    /// Levels.
    pub settings: Settings,
    /// `--policy`.
    pub table: policy::table::Table,
    /// The DNS and MTA-STS.
    pub lookup: Arc<Lookup>,
    /// 25, but for tests.
    pub port: u16,
    /// Everything with one address takes at most about this long.
    pub patience: Duration,
}

/// What one address showed.
pub struct CheckedAddress {
    /// Where.
    pub address: SocketAddr,
    /// Who answered the handshake.
    pub peer: Option<Arc<Peer>>,
    /// What log and record would say.
    pub said: audit::DecisionField,
    /// Mail passes.
    pub passes: bool,
    /// What mail gets at its first try, where it passes at the next: a handshake died that does well without the post-quantum
    /// key share.
    pub first: Option<String>,
    /// What mail would get, word for word; `None`: it passes, or comes to no server.
    pub reply: Option<String>,
    /// What kept the policy from being asked, if anything: connection refused, no greeting, ...
    pub unreachable: Option<String>,
    /// What the server said in the clear against going on.
    pub heard: Vec<HeardRefusal>,
    /// The server was not waited for as long as mail would wait.
    pub cut_short: bool,
}

/// A refusal of the server before mail could pass, as the record of a session has it.
#[derive(Debug, serde::Serialize)]
pub struct HeardRefusal {
    /// What it answers: `greeting`, `ehlo` or `starttls`.
    pub stage: &'static str,
    /// Its code; `None` where it has none.
    pub code: Option<u16>,
    /// Its enhanced code, where it has one.
    pub enhanced: Option<String>,
    /// The whole reply, escaped, and cut where it is long.
    pub text: WireText,
    /// Nobody has proved that it is the server's.
    pub unproved: bool,
}

impl Checker {
    /// Asks `address` what mail for `domain` would get there. `findings` are what the page shows of the domain.
    pub async fn ask(
        &self,
        domain: &Domain,
        address: IpAddr,
        findings: &Arc<Findings>,
    ) -> CheckedAddress {
        let address = SocketAddr::new(address, self.port);
        // Each has a memory of its own: what one domain's session met is not told to another's.
        let site = Arc::new(self.site());
        let mut rehearsed = rehearse(&site, domain, address, self.patience).await;
        let mut first = None;
        if let RehearsalResult::Refused { reply, .. } = &rehearsed.outcome
            && site.memory.owes_classical(address.ip(), clock::instant())
        {
            // The handshake died, perhaps of the large ClientHello: what becomes of mail shows at its next try.
            let again = rehearse(&site, domain, address, self.patience).await;
            if again.outcome == RehearsalResult::Passes {
                first = Some(reply.clone());
                rehearsed = again;
            }
        }
        let RehearsedSession {
            outcome,
            decision,
            peer,
            heard,
            cut_short,
        } = rehearsed;
        let decided = decision.is_some();
        let decision = decision.unwrap_or_else(|| self.demanded(domain, address, findings));
        let mut said = decision_field(&decision);
        let passes = outcome == RehearsalResult::Passes;
        let (mut reply, mut unreachable) = (None, None);
        if let RehearsalResult::Refused {
            reply: words,
            refusal,
        } = outcome
        {
            // The policy's own refusal is told with the policy's reason, all else with the machine's.
            let is_policys = |refusal: &Refusal| {
                refusal.cause == Cause::Verdict || decision.refused() == Some(refusal)
            };
            if !decided || !refusal.as_ref().is_some_and(is_policys) {
                let cause = refusal.as_ref().map(|refusal| refusal.cause);
                said.verdict = VerdictField::Refused;
                said.reason = Some(cause.unwrap_or(Cause::LocalFault).word().to_owned());
                said.detail = refusal.map_or_else(|| words.clone(), |refusal| refusal.text);
            }
            unreachable = (!decided).then(|| said.detail.clone());
            reply = Some(words);
        }
        CheckedAddress {
            address,
            peer,
            said,
            passes,
            first,
            reply,
            unreachable,
            heard: heard
                .iter()
                .map(|(stage, reply, proved)| {
                    HeardRefusal::new(&facts::HeardFact {
                        stage: *stage,
                        reply,
                        proved: *proved,
                    })
                })
                .collect(),
            cut_short,
        }
    }

    fn site(&self) -> OutboundSetup {
        OutboundSetup {
            common: CommonSetup {
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
            },
            upstream: None,
            settings: self.settings,
            table: self.table.clone(),
            tls: Arc::clone(&self.tls),
            lookup: Arc::clone(&self.lookup),
            memory: Arc::new(HostMemory::default()),
            tlsrpt: None,
        }
    }

    /// What becomes of mail for a domain that has no host that can be asked.
    pub fn decide_unasked(&self, domain: &Domain, findings: &Arc<Findings>) -> CheckedAddress {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], self.port));
        let decision = self.demanded(domain, nowhere, findings);
        let mut said = decision_field(&decision);
        let mut reply = decision.refusal.as_ref().map(ToString::to_string);
        if decision.demand.is_some() && !address_unknown(findings) {
            // No resolver is to blame, and no mail server comes to us with such mail.
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
            first: None,
            reply,
            unreachable: None,
            heard: Vec::new(),
            cut_short: false,
        }
    }

    /// What is demanded of the server at `address`, with the refusal of one that cannot be asked.
    fn demanded(&self, domain: &Domain, address: SocketAddr, findings: &Arc<Findings>) -> Decision {
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
}

/// Whether it is not known, for some host at least, if it has an address.
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

impl HeardRefusal {
    fn new(fact: &facts::HeardFact<'_>) -> Self {
        Self {
            stage: fact.stage(),
            code: fact.code(),
            enhanced: fact.enhanced(),
            text: fact.text(),
            unproved: !fact.proved,
        }
    }
}
