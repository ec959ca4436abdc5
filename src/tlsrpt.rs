//! TLSRPT (RFC 8460): events for an existing collector. They are datagrams in the format of sys4's tlsrpt-reporter, which counts them
//! and mails the reports.

use crate::policy::Reason;
use serde::Serialize;
use std::{
    io,
    net::IpAddr,
    os::unix::net::{SocketAddr, UnixDatagram},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Octets of the largest datagram. The kernel's default send buffer takes it.
const MAX_DATAGRAM: usize = 128 * 1024;
/// Octets of the longest text of a failure.
const MAX_WORDS: usize = 500;
/// Of dropped events in a row, the first is logged, and after that one of every `LOG_EVERY`.
const LOG_EVERY: u64 = 1000;

/// The socket of a collector. It never blocks and never fails mail: an event that the collector does not take is dropped and logged.
#[derive(Debug)]
pub struct Tlsrpt {
    socket: UnixDatagram,
    path: PathBuf,
    /// Events dropped in a row.
    dropped: AtomicU64,
}

/// Type of the policy that was applied (RFC 8460 §4.4, `policy-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyType {
    /// TLSA records.
    Tlsa,
    /// MTA-STS.
    Sts,
    /// The domain publishes neither.
    NoPolicyFound,
}

/// One policy that was applied to a delivery, and the outcome (RFC 8460 §4.4, `policies`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyOutcome {
    /// Type of the policy.
    pub kind: PolicyType,
    /// The domain that publishes it: the recipient's for MTA-STS, the TLSA base domain for TLSA.
    pub domain: String,
    /// The published policy: the lines of MTA-STS, or the TLSA records as text.
    pub strings: Vec<String>,
    /// MTA-STS: the `mx` patterns.
    pub mx_patterns: Vec<String>,
    /// `None`: success.
    pub failure: Option<FailureDetails>,
}

/// RFC 8460 §4.4, `failure-details`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureDetails {
    /// The result type. Reasons without one (RFC 8460 §4.3.4: time-outs) are not reported.
    pub reason: Reason,
    /// The proxy's own address, if known.
    pub sending_ip: Option<IpAddr>,
    /// The MX host's name, if known.
    pub mx: Option<String>,
    /// The name in the MX host's EHLO reply, if known.
    pub helo: Option<String>,
    /// The MX host's address.
    pub receiving_ip: Option<IpAddr>,
    /// Details in words, for the domain's administrator.
    pub words: String,
}

impl PolicyType {
    /// Its number in a datagram.
    fn number(self) -> u8 {
        match self {
            Self::Tlsa => 1,
            Self::Sts => 2,
            Self::NoPolicyFound => 9,
        }
    }
}

/// The number of a result type in a datagram; `None`: not reportable.
fn number(reason: Reason) -> Option<u16> {
    Some(match reason.tlsrpt()? {
        "starttls-not-supported" => 201,
        "certificate-host-mismatch" => 202,
        "certificate-not-trusted" => 203,
        "certificate-expired" => 204,
        "validation-failure" => 205,
        "sts-policy-fetch-error" => 301,
        "sts-policy-invalid" => 302,
        "sts-webpki-invalid" => 303,
        "tlsa-invalid" => 304,
        "dnssec-invalid" => 305,
        "dane-required" => 306,
        _ => return None,
    })
}

/// A datagram, version 1.
#[derive(Serialize)]
struct Datagram<'a> {
    dpv: &'static str,
    #[serde(rename = "d")]
    domain: &'a str,
    #[serde(rename = "pr")]
    record: &'a str,
    policies: Vec<ReportedPolicy<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ReportedPolicy<'a> {
    policy_type: u8,
    policy_domain: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    policy_string: &'a [String],
    #[serde(rename = "mx-host", skip_serializing_if = "<[_]>::is_empty")]
    mx_patterns: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failure_details: Vec<ReportedFailure<'a>>,
    #[serde(rename = "t")]
    failures: usize,
    /// 0: success, 1: failure.
    #[serde(rename = "f")]
    failed: u8,
}

#[derive(Serialize)]
struct ReportedFailure<'a> {
    #[serde(rename = "c")]
    result_type: u16,
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    sending_ip: Option<IpAddr>,
    #[serde(rename = "n", skip_serializing_if = "Option::is_none")]
    mx: Option<&'a str>,
    #[serde(rename = "h", skip_serializing_if = "Option::is_none")]
    helo: Option<&'a str>,
    #[serde(rename = "r", skip_serializing_if = "Option::is_none")]
    receiving_ip: Option<IpAddr>,
    #[serde(rename = "a")]
    words: &'a str,
}

impl<'a> ReportedPolicy<'a> {
    /// `None`: a failure that is not reportable.
    fn of(judged: &'a PolicyOutcome) -> Option<Self> {
        let mut failure_details = Vec::new();
        if let Some(failure) = &judged.failure {
            failure_details.push(ReportedFailure {
                result_type: number(failure.reason)?,
                sending_ip: failure.sending_ip,
                mx: failure.mx.as_deref(),
                helo: failure.helo.as_deref(),
                receiving_ip: failure.receiving_ip,
                words: cut(&failure.words),
            });
        }
        Some(Self {
            policy_type: judged.kind.number(),
            policy_domain: &judged.domain,
            policy_string: &judged.strings,
            mx_patterns: &judged.mx_patterns,
            failures: failure_details.len(),
            failed: u8::from(judged.failure.is_some()),
            failure_details,
        })
    }
}

fn cut(words: &str) -> &str {
    &words[..words.floor_char_boundary(MAX_WORDS)]
}

impl Tlsrpt {
    /// Opens a socket towards the collector at `path`; the collector need not be there yet.
    ///
    /// # Errors
    /// In words, if there is no socket or the path is too long for one.
    pub fn new(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("--tlsrpt-socket {}: {error}", path.display());
        SocketAddr::from_pathname(path).map_err(failed)?;
        let socket = UnixDatagram::unbound().map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            dropped: AtomicU64::new(0),
        })
    }

    /// Sends the outcome of one session for `domain`. `record` is the domain's TLSRPT record as published
    /// ([`Lookup::tlsrpt_record`](crate::lookup::Lookup::tlsrpt_record)), which names the receivers of the report.
    pub fn send(&self, domain: &str, record: &str, policies: &[PolicyOutcome]) {
        let policies: Vec<_> = policies.iter().filter_map(ReportedPolicy::of).collect();
        if policies.is_empty() {
            return;
        }
        let datagram = Datagram {
            dpv: "1",
            domain,
            record,
            policies,
        };
        match self.try_send(&datagram) {
            Ok(()) => self.dropped.store(0, Ordering::Relaxed),
            Err(error) => {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
                if dropped % LOG_EVERY == 1 {
                    let path = self.path.display();
                    log::warn!(
                        "tlsrpt: {path}: {error}; dropped {dropped} in a row, {domain} the last"
                    );
                }
            }
        }
    }

    fn try_send(&self, datagram: &Datagram<'_>) -> io::Result<()> {
        let octets = serde_json::to_vec(datagram)?;
        if octets.len() > MAX_DATAGRAM {
            return Err(io::Error::other(
                "the policies are too long for one datagram",
            ));
        }
        self.socket.send_to(&octets, &self.path).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::fs;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = format!("starttls-proxy-tlsrpt-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(folder);
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn judged(kind: PolicyType, reason: Option<Reason>) -> PolicyOutcome {
        PolicyOutcome {
            kind,
            domain: "clinic.example".into(),
            strings: vec!["mode: enforce".into()],
            mx_patterns: vec!["*.clinic.example".into()],
            failure: reason.map(|reason| FailureDetails {
                reason,
                sending_ip: None,
                mx: Some("mx1.clinic.example".into()),
                helo: None,
                receiving_ip: Some("192.0.2.1".parse().unwrap()),
                words: "names *.hoster.example \"\u{1}é".into(),
            }),
        }
    }

    #[test]
    fn a_datagram_has_the_keys_that_the_collector_reads() {
        let folder = Folder::new("keys");
        let path = folder.0.join("socket");
        let collector = UnixDatagram::bind(&path).unwrap();
        let failure = judged(PolicyType::Sts, Some(Reason::CertificateHostMismatch));
        let mut success = judged(PolicyType::NoPolicyFound, None);
        (success.strings, success.mx_patterns) = (Vec::new(), Vec::new());
        let record = "v=TLSRPTv1; rua=mailto:tls@clinic.example";
        let tlsrpt = Tlsrpt::new(&path).unwrap();
        tlsrpt.send("clinic.example", record, &[failure, success]);
        let mut buffer = vec![0; MAX_DATAGRAM];
        let length = collector.recv(&mut buffer).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&buffer[..length]).unwrap(),
            json!({
                "dpv": "1", "d": "clinic.example", "pr": record,
                "policies": [
                    {
                        "policy-type": 2, "policy-domain": "clinic.example", "policy-string": ["mode: enforce"],
                        "mx-host": ["*.clinic.example"], "t": 1, "f": 1,
                        "failure-details": [{
                            "c": 202, "n": "mx1.clinic.example", "r": "192.0.2.1", "a": "names *.hoster.example \"\u{1}é",
                        }],
                    },
                    {"policy-type": 9, "policy-domain": "clinic.example", "t": 0, "f": 0},
                ],
            })
        );
    }

    #[test]
    fn what_is_not_reportable_is_not_sent() {
        let folder = Folder::new("not-reportable");
        let path = folder.0.join("socket");
        let collector = UnixDatagram::bind(&path).unwrap();
        collector.set_nonblocking(true).unwrap();
        let tlsrpt = Tlsrpt::new(&path).unwrap();
        for reason in [
            Reason::LookupFailed,
            Reason::NoPolicy,
            Reason::NotAnMx,
            Reason::NullMx,
            Reason::LocalFault,
        ] {
            assert_eq!(number(reason), None);
            let events = [judged(PolicyType::NoPolicyFound, Some(reason))];
            tlsrpt.send("clinic.example", "v=TLSRPTv1; rua=mailto:a@b", &events);
        }
        let nothing = collector.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_refused_starttls_is_counted_as_one_that_is_not_supported() {
        assert_eq!(number(Reason::StarttlsRefused), Some(201));
        assert_eq!(number(Reason::StarttlsNotSupported), Some(201));
    }

    #[test]
    fn a_collector_that_is_away_or_full_blocks_nobody_and_is_found_again() {
        let folder = Folder::new("away");
        let path = folder.0.join("socket");
        let tlsrpt = Tlsrpt::new(&path).unwrap();
        let events = [judged(PolicyType::Sts, None)];
        let report = || tlsrpt.send("clinic.example", "v=TLSRPTv1; rua=mailto:a@b", &events);
        report();
        assert_eq!(tlsrpt.dropped.load(Ordering::Relaxed), 1);
        let collector = UnixDatagram::bind(&path).unwrap();
        // Nobody reads from the socket. If sending blocked, the test would never end.
        for _ in 0..10_000 {
            report();
        }
        assert!(tlsrpt.dropped.load(Ordering::Relaxed) > 0);
        drop(collector);
        fs::remove_file(&path).unwrap();
        let collector = UnixDatagram::bind(&path).unwrap();
        report();
        assert_eq!(tlsrpt.dropped.load(Ordering::Relaxed), 0);
        assert!(collector.recv(&mut [0; 64]).unwrap() > 0);
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_an_error_at_start() {
        let error = Tlsrpt::new(Path::new(&"x".repeat(200))).unwrap_err();
        assert!(error.starts_with("--tlsrpt-socket xxx"), "{error}");
    }
}
