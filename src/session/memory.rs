//! Faults that a server's address had a short while ago. They refuse the next session there at the greeting, where MTAs move on to
//! their next MX, and not at RCPT, where some MTAs stay.
//!
//! There are two kinds of faults, because one address may serve many domains. A fault of the host (no STARTTLS, no handshake) holds
//! for every client for some minutes. A certificate that did not satisfy one domain's policy says nothing about another domain: it
//! is remembered for the client that met it, and refuses one session of that client. Otherwise anyone who publishes an MX record
//! could make this proxy refuse somebody else's host.

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
/// How long a fault that one session met is remembered: a little longer than Postfix waits for its first retry.
const SESSION_FAULT: Duration = Duration::from_secs(900);
/// How many passing faults within [`PASSING`] make a fault of the host for every client.
const PASSING_TIMES: usize = 3;
/// See [`PASSING_TIMES`].
const PASSING: Duration = Duration::from_secs(600);
/// How long handshakes with a host go without the post-quantum key share; and how long after a handshake that died the next one is
/// tried without the share.
const CLASSICAL: Duration = Duration::from_secs(600);
/// How long a keyword that a server lacks is hidden from the client's next sessions there: longer than MTAs wait for their second
/// retry.
const LACKING: Duration = Duration::from_secs(2 * 3600);

/// Why a session was refused, so that the next one can be refused with the same words and its record can say why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The refusal that the session got.
    pub refusal: Refusal,
    /// The reason, in the word of its record.
    pub reason: &'static str,
    /// The domain of the mail that was refused. `None` if no recipient was known yet.
    pub domain: Option<String>,
    /// The level that was in force for that domain.
    pub level: Option<String>,
}

impl Remembered {
    /// The refusal of the next session at its greeting. The domain of its mail is not known there, so the text names the domain for
    /// which the fault was found. Its cause is a verdict, because it is recorded when it is made.
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

/// The faults that this process remembers; see the module.
#[derive(Debug, Default)]
pub struct HostMemory(Mutex<Faults>);

#[derive(Debug, Default)]
struct Faults {
    /// Faults of a host, by its address.
    host: Fading<IpAddr, Remembered>,
    /// Faults that one session met, by the addresses of client and server.
    session: Fading<(IpAddr, IpAddr), Remembered>,
    /// When each of the last passing faults was met.
    passing: Fading<IpAddr, Vec<Instant>>,
    lacking: Fading<(IpAddr, IpAddr), Vec<Keyword>>,
    classical: Fading<IpAddr, Classical>,
}

/// What is known about a host whose handshake died without an alert. The large ClientHello with the post-quantum share may be why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Classical {
    /// The next handshake is to be tried without the share.
    Due,
    /// That handshake is under way.
    Trying,
    /// It succeeded where the large one had died.
    Works,
}

impl HostMemory {
    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host at this address cannot do TLS with us.
    pub fn host_fault(&self, server: IpAddr, fault: Remembered, now: Instant) {
        self.faults().host.put(server, fault, now, HOST_FAULT);
    }

    /// The authenticated server lacks an extension inside TLS that this client used.
    pub fn lacking(&self, client: IpAddr, server: IpAddr, keyword: Keyword, now: Instant) {
        let mut faults = self.faults();
        let mut keywords = faults
            .lacking
            .take(&(client, server), now)
            .unwrap_or_default();
        if !keywords.contains(&keyword) {
            keywords.push(keyword);
        }
        faults.lacking.put((client, server), keywords, now, LACKING);
    }

    /// The keywords that a new session of this client to this server is not shown. They are hidden from more than one session, because
    /// other mail may come before the retry of the message for which the keyword was missing.
    #[must_use]
    pub fn hidden(&self, client: IpAddr, server: IpAddr, now: Instant) -> Vec<Keyword> {
        let faults = self.faults();
        let known = faults.lacking.get(&(client, server), now);
        known.cloned().unwrap_or_default()
    }

    /// The host did not satisfy the policy for a domain of this client's mail, which says nothing about other domains.
    pub fn fault_of_one_session(
        &self,
        client: IpAddr,
        server: IpAddr,
        fault: Remembered,
        now: Instant,
    ) {
        self.faults()
            .session
            .put((client, server), fault, now, SESSION_FAULT);
    }

    /// Why a new session of `client` to `server` is refused at the greeting.
    #[must_use]
    pub fn refusal(&self, client: IpAddr, server: IpAddr, now: Instant) -> Option<Remembered> {
        let mut faults = self.faults();
        faults
            .host
            .get(&server, now)
            .cloned()
            .or_else(|| faults.session.take(&(client, server), now))
    }

    /// The host had a fault that may pass: one missing offer of STARTTLS, or a 4yz reply. True if it had too many within ten minutes,
    /// so that this is a fault of the host now.
    #[must_use]
    pub fn passing_fault(&self, server: IpAddr, now: Instant) -> bool {
        let mut faults = self.faults();
        let mut met = faults.passing.take(&server, now).unwrap_or_default();
        met.retain(|at| now.saturating_duration_since(*at) < PASSING);
        met.push(now);
        if met.len() >= PASSING_TIMES {
            return true;
        }
        faults.passing.put(server, met, now, PASSING);
        false
    }

    /// A handshake at this address ended; `classical` is what [`HostMemory::begins_classical`] returned for it. True if its failure is
    /// no fault of the host yet, because a try without the post-quantum share comes first.
    pub fn handshake(
        &self,
        server: IpAddr,
        classical: bool,
        outcome: HandshakeEnd,
        now: Instant,
    ) -> bool {
        let mut faults = self.faults();
        if outcome == HandshakeEnd::Done {
            faults.host.forget(&server);
            faults.passing.forget(&server);
        }
        let known = faults.classical.get(&server, now).copied();
        match (classical, outcome, known) {
            (false, HandshakeEnd::Died, None) => {
                faults.classical.put(server, Classical::Due, now, CLASSICAL);
                true
            }
            (false, HandshakeEnd::Died, Some(_)) => true,
            (false, HandshakeEnd::Failed, _) => false,
            (true, HandshakeEnd::Done, Some(Classical::Trying)) => {
                faults
                    .classical
                    .put(server, Classical::Works, now, CLASSICAL);
                false
            }
            // The entry is not renewed, so that handshakes go with the share again within minutes.
            (true, HandshakeEnd::Done, _) => false,
            // The share was not the reason, or is not the reason any more.
            (false, HandshakeEnd::Done, _)
            | (true, HandshakeEnd::Died | HandshakeEnd::Failed, _) => {
                faults.classical.forget(&server);
                false
            }
        }
    }

    /// Whether the next handshake will go without the post-quantum share, because the last one died with it.
    #[must_use]
    pub fn owes_classical(&self, server: IpAddr, now: Instant) -> bool {
        self.faults().classical.get(&server, now) == Some(&Classical::Due)
    }

    /// Whether the handshake that begins now is to go without the post-quantum share.
    #[must_use]
    pub fn begins_classical(&self, server: IpAddr, now: Instant) -> bool {
        let mut faults = self.faults();
        match faults.classical.get(&server, now) {
            Some(Classical::Due) => {
                faults
                    .classical
                    .put(server, Classical::Trying, now, CLASSICAL);
                true
            }
            Some(Classical::Works) => true,
            Some(Classical::Trying) | None => false,
        }
    }
}

/// How a handshake with a server ended, as far as later handshakes depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeEnd {
    /// TLS is up.
    Done,
    /// The connection ended without an alert.
    Died,
    /// The handshake failed in another way.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, session::test_log::remembered};

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 6));
    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

    fn refusal() -> Remembered {
        remembered(451)
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
        memory.handshake(SERVER, false, HandshakeEnd::Done, now);
        assert!(!memory.passing_fault(SERVER, now));
    }

    #[test]
    fn a_handshake_that_died_takes_the_post_quantum_share_from_one_try_only() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        assert!(!memory.begins_classical(SERVER, now));
        assert!(memory.handshake(SERVER, false, HandshakeEnd::Died, now));
        assert!(memory.owes_classical(SERVER, now));
        assert!(memory.begins_classical(SERVER, now));
        assert!(!memory.owes_classical(SERVER, now));
        assert!(!memory.begins_classical(SERVER, now), "one try");
        assert!(
            !memory.handshake(SERVER, true, HandshakeEnd::Died, now),
            "the share was not why"
        );
        assert!(!memory.begins_classical(SERVER, now));
    }

    #[test]
    fn a_host_that_only_works_without_the_share_is_spared_it_for_minutes() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        memory.handshake(SERVER, false, HandshakeEnd::Died, now);
        assert!(memory.begins_classical(SERVER, now));
        memory.handshake(SERVER, true, HandshakeEnd::Done, now);
        let later = now + CLASSICAL / 2;
        assert!(memory.begins_classical(SERVER, later));
        memory.handshake(SERVER, true, HandshakeEnd::Done, later);
        assert!(
            !memory.begins_classical(SERVER, now + CLASSICAL),
            "not renewed"
        );
    }

    #[test]
    fn one_cut_handshake_costs_a_healthy_host_the_share_for_one_try() {
        let (memory, now) = (HostMemory::default(), clock::instant());
        memory.handshake(SERVER, false, HandshakeEnd::Died, now);
        // The handshake of another session, which began before, succeeds with the share.
        memory.handshake(SERVER, false, HandshakeEnd::Done, now);
        assert!(!memory.begins_classical(SERVER, now));
    }
}
