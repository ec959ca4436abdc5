//! What went wrong at an address a short while ago, so that the next session there is refused at the greeting, where MTAs
//! move on to their next MX, and not at RCPT, where some stay.
//!
//! Two kinds, because an address may serve many domains. A fault of the host (no STARTTLS, no handshake) holds for
//! everybody for some minutes. A certificate that did not satisfy one domain's policy says nothing about another domain:
//! it is remembered for the client that met it, and refuses one session of it. Else anyone who publishes an MX record
//! could make us refuse somebody else's host.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::fading::Fading;
use crate::{
    policy::{LONGEST_TEXT, one_line},
    smtp::{Cause, Keyword, Refusal},
};

/// How long a fault of the host is remembered.
const HOST_FAULT: Duration = Duration::from_secs(300);
/// How long what one session met is remembered: a little over Postfix's first retry.
const SESSION_FAULT: Duration = Duration::from_secs(900);
/// How often within [`PASSING`] a host must have had a fault that may pass before it is one for everybody.
const PASSING_TIMES: usize = 3;
/// See [`PASSING_TIMES`].
const PASSING: Duration = Duration::from_secs(600);
/// How long a host is spared the post-quantum key share, and how long a handshake that died calls for one try without it.
const CLASSICAL: Duration = Duration::from_secs(600);
/// How long a keyword that a server lacks is kept for the client's next sessions there: longer than MTAs wait for their second retry.
const LACKING: Duration = Duration::from_secs(2 * 3600);

/// What a session was refused for, so that the next one can be told and its record can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The reply that it got.
    pub refusal: Refusal,
    /// Why, in the word of its record.
    pub reason: &'static str,
    /// The domain whose mail it was refused for; `None` where none was known yet.
    pub domain: Option<String>,
    /// The level that was in force for that domain.
    pub level: Option<String>,
}

impl Remembered {
    /// What the next session is refused with at its greeting. Whose mail it carries is not known there, so it is told for whose mail
    /// this was found. Its cause is a verdict: its record is written when it is made.
    #[must_use]
    pub fn refuse_again(&self) -> Refusal {
        let text = match &self.domain {
            Some(domain) => {
                let text = self.refusal.text.strip_prefix(domain.as_str());
                let text = text.and_then(|text| text.strip_prefix(':'));
                let text = text.unwrap_or(&self.refusal.text).trim_start();
                format!("refused a short while ago for {domain}: {text}")
            }
            None => format!("refused a short while ago: {}", self.refusal.text),
        };
        Refusal {
            code: 421,
            enhanced: self.refusal.enhanced,
            text: one_line(&text, LONGEST_TEXT),
            cause: Cause::Verdict,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct HostMemory(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    host: Fading<IpAddr, Remembered>,
    session: Fading<(IpAddr, IpAddr), Remembered>,
    /// When each of the last faults that may pass was met.
    passing: Fading<IpAddr, Vec<Instant>>,
    lacking: Fading<(IpAddr, IpAddr), Vec<Keyword>>,
    classical: Fading<IpAddr, Classical>,
}

/// What is known about a host whose handshake died without an alert: the large ClientHello of the post-quantum share may be why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Classical {
    /// One handshake shall be tried without the share.
    Due,
    /// That handshake is under way.
    Trying,
    /// It succeeded where the large one had died.
    Works,
}

impl HostMemory {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host at this address cannot do TLS with us.
    pub fn host_fault(&self, server: IpAddr, fault: Remembered, now: Instant) {
        self.inner().host.put(server, fault, now, HOST_FAULT);
    }

    /// The server, which proved who it is, lacks an extension inside TLS that this client used.
    pub fn lacking(&self, client: IpAddr, server: IpAddr, keyword: Keyword, now: Instant) {
        let mut inner = self.inner();
        let mut keywords = inner
            .lacking
            .take(&(client, server), now)
            .unwrap_or_default();
        if !keywords.contains(&keyword) {
            keywords.push(keyword);
        }
        inner.lacking.put((client, server), keywords, now, LACKING);
    }

    /// What a new session of this client to this server is not shown. Not only the first such session: other mail may come before
    /// the retry of the message that met the server's lack.
    #[must_use]
    pub fn hidden(&self, client: IpAddr, server: IpAddr, now: Instant) -> Vec<Keyword> {
        let inner = self.inner();
        let known = inner.lacking.get(&(client, server), now);
        known.cloned().unwrap_or_default()
    }

    /// The host did not satisfy the policy for a domain of this client's mail; what that says about other domains is not known.
    pub fn fault_of_one_session(
        &self,
        client: IpAddr,
        server: IpAddr,
        fault: Remembered,
        now: Instant,
    ) {
        self.inner()
            .session
            .put((client, server), fault, now, SESSION_FAULT);
    }

    /// What a new session of `client` to `server` is refused with at the greeting.
    #[must_use]
    pub fn refusal(&self, client: IpAddr, server: IpAddr, now: Instant) -> Option<Remembered> {
        let mut inner = self.inner();
        inner
            .host
            .get(&server, now)
            .cloned()
            .or_else(|| inner.session.take(&(client, server), now))
    }

    /// The host had a fault that may pass: one missing offer of STARTTLS, or a 4yz. True if that was once too often within ten
    /// minutes, so that it is a fault of the host now.
    #[must_use]
    pub fn passing_fault(&self, server: IpAddr, now: Instant) -> bool {
        let mut inner = self.inner();
        let mut met = inner.passing.take(&server, now).unwrap_or_default();
        met.retain(|at| now.saturating_duration_since(*at) < PASSING);
        met.push(now);
        if met.len() >= PASSING_TIMES {
            return true;
        }
        inner.passing.put(server, met, now, PASSING);
        false
    }

    /// A handshake at this address ended; `classical` is what [`HostMemory::begins_classical`] said of it. True if the failure is
    /// no fault of the host yet, because a try without the post-quantum share comes first.
    pub fn handshake(
        &self,
        server: IpAddr,
        classical: bool,
        outcome: Handshake,
        now: Instant,
    ) -> bool {
        let mut inner = self.inner();
        if outcome == Handshake::Done {
            inner.host.forget(&server);
            inner.passing.forget(&server);
        }
        let known = inner.classical.get(&server, now).copied();
        match (classical, outcome, known) {
            (false, Handshake::Died, None) => {
                inner.classical.put(server, Classical::Due, now, CLASSICAL);
                true
            }
            (false, Handshake::Died, Some(_)) => true,
            (false, Handshake::Failed, _) => false,
            (true, Handshake::Done, Some(Classical::Trying)) => {
                inner
                    .classical
                    .put(server, Classical::Works, now, CLASSICAL);
                false
            }
            // Nothing renews it, so that the share comes back within minutes.
            (true, Handshake::Done, _) => false,
            // The share was not why, or is not any more.
            (false, Handshake::Done, _) | (true, Handshake::Died | Handshake::Failed, _) => {
                inner.classical.forget(&server);
                false
            }
        }
    }

    /// Will the next handshake go without the post-quantum share, because the last one died with it?
    #[must_use]
    pub fn owes_classical(&self, server: IpAddr, now: Instant) -> bool {
        self.inner().classical.get(&server, now) == Some(&Classical::Due)
    }

    /// Shall the handshake that begins now go without the post-quantum share?
    #[must_use]
    pub fn begins_classical(&self, server: IpAddr, now: Instant) -> bool {
        let mut inner = self.inner();
        match inner.classical.get(&server, now) {
            Some(Classical::Due) => {
                inner
                    .classical
                    .put(server, Classical::Trying, now, CLASSICAL);
                true
            }
            Some(Classical::Works) => true,
            Some(Classical::Trying) | None => false,
        }
    }
}

/// How a handshake with a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// TLS is up.
    Done,
    /// The connection ended without an alert.
    Died,
    /// It failed otherwise.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 6));
    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

    fn refusal() -> Remembered {
        Remembered {
            refusal: Refusal {
                code: 451,
                enhanced: (7, 5),
                text: "b.test: mx.b.test[203.0.113.9] not authenticated: certificate-expired: over"
                    .into(),
                cause: Cause::Verdict,
            },
            reason: "certificate-expired",
            domain: Some("b.test".into()),
            level: Some("verify".into()),
        }
    }

    #[test]
    fn a_remembered_refusal_names_the_domain_that_it_was_made_for() {
        assert_eq!(
            refusal().refuse_again().to_string(),
            "421 4.7.5 refused a short while ago for b.test: mx.b.test[203.0.113.9] not authenticated: certificate-expired: over"
        );
        let unknown = Remembered {
            domain: None,
            ..refusal()
        };
        let long = Remembered {
            refusal: Refusal {
                text: "x".repeat(LONGEST_TEXT),
                ..refusal().refusal
            },
            ..refusal()
        };
        assert!(
            unknown
                .refuse_again()
                .text
                .starts_with("refused a short while ago: b.test: ")
        );
        assert!(long.refuse_again().to_string().len() <= 510);
    }

    #[test]
    fn a_lacking_keyword_is_hidden_from_the_next_sessions_of_the_client_that_met_it() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        memory.lacking(CLIENT, SERVER, Keyword::Dsn, now);
        memory.lacking(CLIENT, SERVER, Keyword::Chunking, now);
        memory.lacking(CLIENT, SERVER, Keyword::Dsn, now);
        assert!(memory.hidden(OTHER, SERVER, now).is_empty());
        let both = vec![Keyword::Dsn, Keyword::Chunking];
        assert_eq!(memory.hidden(CLIENT, SERVER, now), both);
        assert_eq!(
            memory.hidden(CLIENT, SERVER, now + LACKING / 2),
            both,
            "the retry may not be the next one"
        );
        assert!(memory.hidden(CLIENT, SERVER, now + LACKING).is_empty());
    }

    #[test]
    fn a_host_fault_refuses_everybody_until_it_fades() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        memory.host_fault(SERVER, refusal(), now);
        assert!(memory.refusal(CLIENT, SERVER, now).is_some());
        assert!(
            memory
                .refusal(OTHER, SERVER, now + HOST_FAULT / 2)
                .is_some()
        );
        assert!(memory.refusal(CLIENT, SERVER, now + HOST_FAULT).is_none());
    }

    #[test]
    fn a_fault_of_one_session_refuses_one_session_of_the_client_that_met_it() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        memory.fault_of_one_session(CLIENT, SERVER, refusal(), now);
        assert!(memory.refusal(OTHER, SERVER, now).is_none());
        assert!(memory.refusal(CLIENT, SERVER, now).is_some());
        assert!(memory.refusal(CLIENT, SERVER, now).is_none());
    }

    #[test]
    fn a_fault_that_may_pass_is_one_for_everybody_the_third_time_within_ten_minutes() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        assert!(!memory.passing_fault(SERVER, now));
        assert!(!memory.passing_fault(SERVER, now + PASSING / 3));
        assert!(memory.passing_fault(SERVER, now + PASSING / 2));

        let (memory, now) = (HostMemory::default(), clock::instant());
        assert!(!memory.passing_fault(SERVER, now));
        assert!(!memory.passing_fault(SERVER, now + PASSING / 2));
        assert!(
            !memory.passing_fault(SERVER, now + PASSING),
            "the first is forgotten"
        );
        assert!(memory.passing_fault(SERVER, now + PASSING + PASSING / 4));
    }

    #[test]
    fn a_handshake_that_worked_makes_passing_faults_forgotten() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        assert!(!memory.passing_fault(SERVER, now));
        assert!(!memory.passing_fault(SERVER, now));
        memory.handshake(SERVER, false, Handshake::Done, now);
        assert!(!memory.passing_fault(SERVER, now));
    }

    #[test]
    fn a_handshake_that_died_takes_the_post_quantum_share_from_one_try_only() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        assert!(!memory.begins_classical(SERVER, now));
        assert!(memory.handshake(SERVER, false, Handshake::Died, now));
        assert!(memory.owes_classical(SERVER, now));
        assert!(memory.begins_classical(SERVER, now));
        assert!(!memory.owes_classical(SERVER, now));
        assert!(!memory.begins_classical(SERVER, now), "one try");
        assert!(
            !memory.handshake(SERVER, true, Handshake::Died, now),
            "the share was not why"
        );
        assert!(!memory.begins_classical(SERVER, now));
    }

    #[test]
    fn a_host_that_only_works_without_the_share_is_spared_it_for_minutes() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        memory.handshake(SERVER, false, Handshake::Died, now);
        assert!(memory.begins_classical(SERVER, now));
        memory.handshake(SERVER, true, Handshake::Done, now);
        let later = now + CLASSICAL / 2;
        assert!(memory.begins_classical(SERVER, later));
        memory.handshake(SERVER, true, Handshake::Done, later);
        assert!(
            !memory.begins_classical(SERVER, now + CLASSICAL),
            "not renewed"
        );
    }

    #[test]
    fn one_cut_handshake_costs_a_healthy_host_the_share_for_one_try() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        memory.handshake(SERVER, false, Handshake::Died, now);
        // Another session's handshake, begun before that, succeeds with the share.
        memory.handshake(SERVER, false, Handshake::Done, now);
        assert!(!memory.begins_classical(SERVER, now));
    }
}
