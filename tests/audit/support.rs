//! Helpers of the tests: directories, waiting, records.

use data_encoding::HEXLOWER;
use starttls_proxy::{
    audit::{
        AuditLog, AuditOptions, CertificateField, ConnectionField, CountField, DecisionField,
        DirectionField, ExemptionField, MessageRecord, OutcomeField, PeerField, PolicyField,
        Record, ReloadRecord, ReloadedFileField, SessionClosedRecord, SessionField,
        SessionOpenedRecord, StartRecord, StopRecord, TlsField, UnprotectedRecord, VerdictField,
        VerdictRecord, WireText,
    },
    commands::audit as command,
    exit::Exit,
    flags::{AuditKeygenFlags, AuditVerifyFlags},
};
use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Deref,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, SystemTime},
};

/// A directory of its own for each test, gone afterwards.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("audit-{name}-{number}"));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self) -> PathBuf {
        self.0.join("audit.jsonl")
    }

    /// Makes a key. Returns the private and the public file.
    pub fn key(&self) -> (PathBuf, String) {
        let out = self.0.join("key.pem");
        let flags = AuditKeygenFlags { out: out.clone() };
        command::keygen(&flags, &mut Vec::new()).unwrap();
        let public = format!("{}.pub", out.display());
        (out, public)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Drives a future without a runtime.
pub fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// A small record with a number in it.
pub fn stop(n: u64) -> Record {
    Record::Stop(StopRecord {
        reason: format!("record {n}"),
        sessions: n,
        messages: n,
    })
}

/// Neither the end of a day nor a slow disk makes a difference.
pub fn options(file: &Path) -> AuditOptions {
    AuditOptions {
        rotate_daily: false,
        close_within: Duration::from_secs(15),
        ..AuditOptions::new(file.to_owned(), "mail.hospital.example/outbound".into())
    }
}

/// Exit code of a command that did what was asked; of `verify`: the log is intact.
pub const DONE: u8 = 0;
/// Exit code: the log is not what was written.
pub const DAMAGED: u8 = 1;

pub fn code(result: &Result<(), Exit>) -> u8 {
    result.as_ref().map_or_else(Exit::code, |()| DONE)
}

/// Runs `audit verify`. Returns the exit code and the words printed.
pub fn verify(flags: &AuditVerifyFlags) -> (u8, String) {
    let mut out = Vec::new();
    let result = command::verify(flags, &mut out, None);
    let mut said = String::from_utf8(out).unwrap();
    if let Err(Exit::Configuration(words)) = &result {
        said += words;
    }
    (code(&result), said)
}

/// Verifies one file and all files that were rotated out of it, which must be intact. Returns the words printed.
#[track_caller]
pub fn intact(file: &Path) -> String {
    let (code, said) = verify(&AuditVerifyFlags {
        files: vec![file.to_owned()],
        ..AuditVerifyFlags::default()
    });
    assert_eq!(code, DONE, "{said}");
    said
}

fn connection(from: [u8; 4], port: u16, to: [u8; 4]) -> ConnectionField {
    let address = |octets, port| SocketAddr::new(IpAddr::V4(Ipv4Addr::from(octets)), port);
    ConnectionField {
        from: address(from, port),
        to: address(to, 25),
    }
}

pub fn session(n: u64) -> SessionField {
    let port = 40_000 + u16::try_from(n % 20_000).unwrap();
    let to = [203, 0, 113, u8::try_from(n % 20).unwrap() + 1];
    let both = connection([10, 0, 0, 5], port, to);
    SessionField {
        id: format!("{n:08x}"),
        direction: DirectionField::Outbound,
        client: both,
        server: Some(both),
        hello: Some("exchange.hospital.example".into()),
    }
}

pub fn tls(n: u64) -> TlsField {
    let old = n.is_multiple_of(9);
    TlsField {
        version: if old { "TLSv1.2" } else { "TLSv1.3" }.into(),
        suite: match (old, n % 4) {
            (true, _) => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            (false, 0) => "TLS_CHACHA20_POLY1305_SHA256",
            (false, _) => "TLS_AES_256_GCM_SHA384",
        }
        .into(),
        group: Some(
            match n % 5 {
                0 | 1 => "X25519",
                2 if old => "secp256r1",
                _ if old => "X25519",
                _ => "X25519MLKEM768",
            }
            .into(),
        ),
        sni: Some(format!("mx1.{}", domain(n)).as_str().into()),
    }
}

pub fn peer(n: u64) -> PeerField {
    // Each party has one certificate, and renews it after every 700 messages.
    let certificate = place(n) as u64 * 10_000 + n / 700;
    let hash = |salt: u64| {
        HEXLOWER.encode(
            &[
                certificate.to_be_bytes(),
                salt.to_be_bytes(),
                certificate.to_be_bytes(),
                certificate.to_be_bytes(),
            ]
            .concat(),
        )
    };
    let name = format!("mx1.{}", domain(n));
    PeerField {
        certificate: CertificateField {
            sha256: hash(1),
            spki_sha256: hash(2),
            subject: format!("CN={name}").as_str().into(),
            names: vec![
                name.as_str().into(),
                format!("mx2.{}", domain(n)).as_str().into(),
            ],
            issuer: "C=US, O=Let's Encrypt, CN=R11".into(),
            serial: "04e5c3a1b2d4f6978812345678".into(),
            not_before: "2026-01-05T00:00:00Z".into(),
            not_after: "2026-04-05T00:00:00Z".into(),
            key: "EC P-256".into(),
        },
        chain: vec![hash(1), hash(3)],
    }
}

const DOMAINS: [(&str, &str, &str); 9] = [
    ("clinic.example", "dane", "dane"),
    ("partner.example", "secure", "table"),
    ("laboratory.example", "mta-sts", "mta-sts"),
    ("insurer.example", "verify", "mx"),
    ("radiology-network.example", "fingerprint", "table"),
    ("pharmacy.example", "verify", "mx"),
    ("county-health-department.example", "mta-sts", "mta-sts"),
    ("scanner-vendor.example", "none", "table"),
    ("hospice.example", "encrypt", "table"),
];

pub fn domain(n: u64) -> &'static str {
    DOMAINS[place(n)].0
}

fn place(n: u64) -> usize {
    match n * 7919 % 100 {
        0..28 => 0,
        28..50 => 1,
        50..66 => 2,
        66..80 => 3,
        80..89 => 4,
        89..94 => 5,
        94..97 => 6,
        97 => 7,
        _ => 8,
    }
}

pub fn decision(n: u64) -> DecisionField {
    let (domain, level, basis) = DOMAINS[place(n)];
    let table = basis == "table";
    let exempt = matches!(level, "none" | "encrypt");
    DecisionField {
        domain: domain.into(),
        verdict: if exempt {
            VerdictField::Unprotected
        } else {
            VerdictField::Authorised
        },
        observed: false,
        level: Some(level.into()),
        basis: Some(basis.into()),
        rule: table.then(|| format!("/etc/starttls-proxy/policy:{}", place(n) + 3)),
        until: exempt.then(|| {
            if level == "none" {
                "2026-12-31"
            } else {
                "2026-03-31"
            }
            .into()
        }),
        why: exempt.then(|| {
            if level == "none" {
                "scanner vendor, contract 2231"
            } else {
                "self-signed, ticket 4711"
            }
            .into()
        }),
        reason: None,
        detail: if exempt {
            "the entry asks for no proof".into()
        } else {
            format!("certificate for mx1.{domain}")
        },
        signed: (!table).then_some(domain != "pharmacy.example"),
        findings: None,
    }
}

/// A message as large as real ones are.
pub fn message(log: &AuditLog, n: u64) -> Record {
    let decision = decision(n);
    let plain = decision.level.as_deref() == Some("none");
    let local = [
        "j.smith",
        "referrals",
        "lab-results",
        "billing",
        "dr.okafor",
    ][usize::try_from(n % 5).unwrap()];
    let outcome = match n % 997 {
        996 => OutcomeField::Unknown,
        995 => OutcomeField::Rejected,
        _ => OutcomeField::Accepted,
    };
    Record::Message(Box::new(MessageRecord {
        session: session(n),
        host: "mail.hospital.example".into(),
        configuration: "5c".repeat(32),
        number: 1,
        sender: log.address(b"ward3@hospital.example"),
        recipients: vec![log.address(format!("{local}@{}", decision.domain).as_bytes())],
        octets: 2_000 + n * 7_349 % 90_000,
        sha256: HEXLOWER.encode(&[n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes(); 4].concat()),
        verdict: decision.verdict,
        tls: (!plain).then(|| tls(n)),
        peer: (!plain).then(|| peer(n)),
        decisions: vec![decision],
        authenticated_as: None,
        outcome,
        reply: match outcome {
            OutcomeField::Accepted => Some("250 2.0.0 Ok: queued as 4XyZ1b2c3d".into()),
            OutcomeField::Rejected => Some("552 5.3.4 message too large".into()),
            OutcomeField::Unknown => None,
        },
    }))
}

pub fn closed(n: u64) -> Record {
    Record::SessionClosed(SessionClosedRecord {
        session: session(n),
        end: "quit".into(),
        duration_us: 412_000,
        messages: 1,
        client_octets: [40_211, 512],
        server_octets: [733, 40_300],
        tls: Some(tls(n)),
        peer: None,
        repeated: Vec::new(),
    })
}

/// A verdict that refuses.
pub fn refused(log: &AuditLog, n: u64) -> Record {
    let (reason, domain, says) = match n % 7 {
        0..3 => (
            "certificate-host-mismatch",
            "billing-service.example",
            "names *.hoster.example",
        ),
        3 | 4 => (
            "starttls-not-supported",
            "old-practice.example",
            "STARTTLS is not offered (250-XXXXXXXA: a firewall masks it)",
        ),
        5 => (
            "certificate-expired",
            "pharmacy.example",
            "expired 2026-02-11",
        ),
        _ => (
            "dnssec-invalid",
            "clinic.example",
            "the TLSA records are bogus: signature expired",
        ),
    };
    let reply = format!(
        "421 4.7.5 {domain}: mx1.{domain}[203.0.113.9] not authenticated: {reason}: {says} (level verify, from MX)"
    );
    let verdict = VerdictRecord {
        session: session(n),
        address: Some(log.address(format!("@{domain}").as_bytes())),
        decision: DecisionField {
            domain: domain.into(),
            verdict: VerdictField::Refused,
            observed: false,
            level: Some("verify".into()),
            basis: Some("mx".into()),
            reason: Some(reason.into()),
            detail: says.into(),
            rule: None,
            until: None,
            why: None,
            signed: Some(true),
            findings: None,
        },
        reply: Some(reply.as_str().into()),
        tls: None,
        peer: None,
    };
    Record::Verdict(Box::new(verdict))
}

pub fn start() -> Record {
    let exemption =
        |entry: &str, level: &str, until: Option<&str>, reason: &str, line: u32| ExemptionField {
            entry: entry.into(),
            level: level.into(),
            until: until.map(Into::into),
            reason: Some(reason.into()),
            rule: format!("/etc/starttls-proxy/policy:{line}"),
        };
    Record::Start(StartRecord {
        version: "0.1.0".into(),
        direction: DirectionField::Outbound,
        host: "mail.hospital.example".into(),
        pid: 71,
        configuration: "5c".repeat(32),
        arguments: [
            "starttls-proxy",
            "outbound",
            "--intercept",
            "tproxy",
            "--level",
            "verify",
        ]
        .map(WireText::from)
        .to_vec(),
        policy: Some(PolicyField {
            file: "/etc/starttls-proxy/policy".into(),
            sha256: "ab".repeat(32),
            tafiles: Vec::new(),
            entries: 14,
            exemptions: vec![
                exemption(
                    "203.0.113.0/24",
                    "none",
                    Some("2026-12-31"),
                    "scanner vendor, contract 2231",
                    10,
                ),
                exemption(
                    ".hospice.example",
                    "encrypt",
                    Some("2026-03-31"),
                    "self-signed, ticket 4711",
                    11,
                ),
                exemption("[198.51.100.7]", "may", None, "old fax gateway", 12),
            ],
        }),
    })
}

/// The clock of [`sample`], in seconds since 1970.
static SECONDS: AtomicU64 = AtomicU64::new(0);
/// Two samples must not move that clock at once.
static ONE_SAMPLE: Mutex<()> = Mutex::new(());

/// The log of [`sample`]. The clock belongs to it until it is dropped.
pub struct Sample {
    log: AuditLog,
    _one: MutexGuard<'static, ()>,
}

impl Deref for Sample {
    type Target = AuditLog;

    fn deref(&self) -> &AuditLog {
        &self.log
    }
}

fn sample_clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS.load(Ordering::SeqCst))
}

/// Thirty days of a hospital, from 2026-02-15 on, signed with `key`.
pub fn sample(file: &Path, key: PathBuf) -> Sample {
    let one = ONE_SAMPLE.lock().unwrap_or_else(PoisonError::into_inner);
    let begin = 1_771_113_600_u64;
    SECONDS.store(begin, Ordering::SeqCst);
    let log = AuditLog::open(AuditOptions {
        key: Some(key),
        clock: sample_clock,
        rotate_daily: true,
        ..options(file)
    })
    .unwrap();
    log.append(&start());
    let mut n = 0;
    for hour in 0..30 * 24_u64 {
        let (day, clock) = (hour / 24, hour % 24);
        let busy = if (7..19).contains(&clock) { 9 } else { 1 };
        let weekend = matches!((day + 6) % 7, 5 | 6);
        for _ in 0..(if weekend { busy / 4 + 1 } else { busy }) {
            n += 1;
            SECONDS.store(begin + hour * 3600 + n * 37 % 3600, Ordering::SeqCst);
            log.append(&Record::SessionOpened(SessionOpenedRecord {
                session: session(n),
            }));
            let decision = decision(n);
            if decision.verdict == VerdictField::Unprotected {
                log.append(&Record::Unprotected(Box::new(UnprotectedRecord {
                    session: session(n),
                    tls: (decision.level.as_deref() != Some("none")).then(|| tls(n)),
                    decision,
                })));
            }
            log.append(&message(&log, n));
            let burst = (11..14).contains(&day) && (8..12).contains(&clock);
            if n.is_multiple_of(29) || burst {
                log.append(&refused(&log, if burst { 0 } else { n / 29 }));
            }
        }
        if clock == 23 {
            if day % 7 == 3 {
                let (file, error) = ("/etc/starttls-proxy/policy".into(), None);
                let files = vec![ReloadedFileField { file, error }];
                log.append(&Record::Reload(ReloadRecord {
                    files,
                    configuration: "5c".repeat(32),
                }));
            }
            // One commit a day, so that a file is rotated for each.
            wait(log.append_durable(&closed(n))).unwrap();
        }
    }
    Sample { log, _one: one }
}

/// Events of that kind that were counted only.
pub fn counted(kind: &str, count: u64) -> CountField {
    CountField {
        prefix: None,
        kind: kind.into(),
        count,
        first: "2026-11-24T06:05:00Z".into(),
        last: "2026-11-24T06:06:00Z".into(),
    }
}
