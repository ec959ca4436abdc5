//! Inbound: are the certificates those that senders expect, for long enough, and may the service read its keys?

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::UNIX_EPOCH};

use super::{
    super::machine::{
        accounts::{Access, Account},
        programs::shell_word,
    },
    finding::{MachineFinding, Remedy},
    service::ProxyService,
};
use crate::{
    clock, configure,
    flags::InboundFlags,
    policy::{Dns, NamePattern, Security, Tlsa},
    serve::EXPIRY_WARNING,
    tls::{CertFacts, CertificateFiles, ClientAuth, MinTls, ServerOptions, ServerTls, Trust},
};

/// Port of the TLSA records of a mail exchanger.
const SMTP: u16 = 25;
/// TLSA usage DANE-EE (RFC 7671 §5.1).
const END_ENTITY: u8 = 3;
/// TLSA matching type SHA2-256.
const SHA256: u8 = 1;

pub(super) async fn check(service: &ProxyService, flags: &InboundFlags) -> Vec<MachineFinding> {
    let mut findings = Vec::new();
    let mut own = Vec::new();
    for (cert, key) in flags.cert.iter().zip(&flags.key) {
        match facts(cert, key) {
            Ok((facts, faults)) => {
                findings.push(dates(service, cert, &facts, &faults));
                own.push(facts);
            }
            Err(words) => findings.push(
                MachineFinding::fail("certificate", words)
                    .advise("senders cannot encrypt before this is mended; the proxy does not start or reload with it"),
            ),
        }
        findings.push(key_permissions(service, key));
    }
    if let Ok(hostname) = configure::hostname(flags.hostname.as_deref())
        && !own.is_empty()
    {
        findings.push(name(service, &hostname, &own));
        findings.extend(tlsa(&hostname, &own).await);
    }
    findings
}

/// The host's own certificate, and what is wrong with the dates of its chain.
fn facts(cert: &Path, key: &Path) -> Result<(CertFacts, Vec<String>), String> {
    let options = ServerOptions {
        pairs: vec![CertificateFiles {
            cert: cert.to_owned(),
            key: key.to_owned(),
            ocsp: None,
        }],
        client_auth: ClientAuth::None,
        client_ca: None,
        accept_server_eku: false,
        min_tls: MinTls::default(),
    };
    let tls = ServerTls::new(&options)?;
    let faults = tls.expires_within(EXPIRY_WARNING, clock::wall());
    let own = tls.own_certificates().map(|(_, own)| own.clone()).next();
    own.map(|own| (own, faults))
        .ok_or_else(|| String::from("no certificate"))
}

fn dates(
    service: &ProxyService,
    file: &Path,
    own: &CertFacts,
    faults: &[String],
) -> MachineFinding {
    const CHECK: &str = "certificate";
    let now = clock::wall().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let is_dead = own.not_after.0 < now || own.not_before.0 > now;
    let Some(fault) = faults.first() else {
        let days = (own.not_after.0 - now) / 86_400;
        return MachineFinding::ok(
            CHECK,
            format!(
                "{}: {} until {}, {days} days",
                file.display(),
                own.names_in_words(),
                own.not_after.day()
            ),
        );
    };
    let finding = match is_dead {
        true => MachineFinding::fail(CHECK, fault),
        false => MachineFinding::warn(CHECK, fault),
    };
    let finding = match file.starts_with("/etc/letsencrypt") {
        true => finding.run("certbot renew"),
        false => finding.advise(format!(
            "have a new certificate issued, and write it with its intermediate certificates into {}",
            file.display()
        )),
    };
    finding.with(service.systemctl("reload").map(Remedy::Run))
}

fn key_permissions(service: &ProxyService, key: &Path) -> MachineFinding {
    readable(service, "key file", key)
}

/// Whether the service can read a secret, and nobody else.
pub(super) fn readable(service: &ProxyService, check: &'static str, file: &Path) -> MachineFinding {
    let shown = file.display();
    let word = shell_word(&shown.to_string());
    let mode = match fs::metadata(file) {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) => return MachineFinding::fail(check, format!("{shown}: {error}")),
    };
    let account = service.account();
    let stops = account
        .iter()
        .flat_map(|account| account.stopped_at(Access::Read, file));
    let stops: Vec<_> = stops.collect();
    if let (Some(account), false) = (&account, stops.is_empty()) {
        let finding = MachineFinding::fail(
            check,
            format!(
                "{shown}: user {} cannot read it; the service reads it at its start and at each reload",
                account.name
            ),
        );
        let others = stops.iter().find(|stop| is_of_others(account, stop));
        if let Some(others) = others {
            return finding.advise(of_its_own(account, file, others));
        }
        return stops.iter().fold(finding, |finding, stop| {
            let bit = if stop.is_dir() { "x" } else { "r" };
            let stop = shell_word(&stop.display().to_string());
            finding
                .run(format!("chgrp {} {stop}", account.group))
                .run(format!("chmod g+{bit} {stop}"))
        });
    }
    if mode & 0o004 != 0 {
        let finding = MachineFinding::warn(
            check,
            format!("{shown}: everybody on this machine can read it"),
        );
        return match &account {
            Some(account) if is_of_others(account, file) => {
                finding.advise(of_its_own(account, file, file))
            }
            Some(account) => finding
                .run(format!(
                    "chgrp {} {word} && chmod 640 {word}",
                    account.group
                ))
                .advise(
                    "if another service reads it, too, give each one a copy of its own before that",
                ),
            None => finding.run(format!("chmod o-rwx {word}")),
        };
    }
    MachineFinding::ok(
        check,
        match &account {
            Some(account) => format!(
                "{shown}: user {} can read it, and not everybody",
                account.name
            ),
            None => format!("{shown}: not everybody can read it"),
        },
    )
}

fn is_of_others(account: &Account, path: &Path) -> bool {
    account.is_used_by_others(path) == Some(true)
}

/// What to do about a secret where another owner or group would take a file or directory away from others.
fn of_its_own(account: &Account, file: &Path, others: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let copy = Path::new("/etc/starttls-proxy").join(name.as_ref());
    format!(
        "{} is used by others, who would lose it; give user {} a copy of its own, after each renewal, too, and name that in the flags: \
         install -m 640 -g {} {} {}",
        others.display(),
        account.name,
        account.group,
        shell_word(&file.display().to_string()),
        shell_word(&copy.display().to_string())
    )
}

/// Senders with MTA-STS or `verify` compare the certificate with the name in the MX record.
fn name(service: &ProxyService, hostname: &str, own: &[CertFacts]) -> MachineFinding {
    const CHECK: &str = "name";
    let wanted = NamePattern::Host(hostname.to_ascii_lowercase());
    let has = |own: &CertFacts| own.names.iter().any(|name| wanted.matches(name));
    if own.iter().any(has) {
        return MachineFinding::ok(CHECK, format!("a certificate is for {hostname}"));
    }
    let shown: Vec<String> = own.iter().map(CertFacts::names_in_words).collect();
    MachineFinding::warn(
        CHECK,
        format!("the proxy calls itself {hostname}, and no certificate is for that name: {}", shown.join("; ")),
    )
    .advise(format!(
        "write --hostname and the name of your MX record into {}, or have a certificate issued for {hostname}",
        service.flags_place()
    ))
}

/// Whether the TLSA records of our own name fit our certificates. Senders with DANE deliver nothing where they do not.
async fn tlsa(hostname: &str, own: &[CertFacts]) -> Option<MachineFinding> {
    const CHECK: &str = "TLSA";
    // A name without a dot is nobody's MX.
    hostname.contains('.').then_some(())?;
    let lookup = configure::lookup_of(&[], true, None, None, false, &Trust::in_nobody());
    let host = match &lookup {
        Ok(lookup) => lookup.host(hostname, Some(SMTP)).await,
        Err(error) => return Some(MachineFinding::warn(CHECK, error.to_string())),
    };
    Some(match host.tlsa {
        Dns::Found(records, Security::Secure) => compared(&host.tlsa_base, &records, own),
        Dns::Absent(_) | Dns::NotAsked | Dns::Found(..) => MachineFinding::ok(
            CHECK,
            format!("{hostname} publishes no TLSA records that count"),
        ),
        Dns::Bogus(words) | Dns::Failed(words) => MachineFinding::warn(
            CHECK,
            format!("the TLSA records of {hostname} cannot be looked up: {words}"),
        )
        .run(format!("delv TLSA _25._tcp.{hostname}")),
    })
}

fn compared(base: &str, records: &[Tlsa], own: &[CertFacts]) -> MachineFinding {
    const CHECK: &str = "TLSA";
    let hex = |record: &Tlsa| data_encoding::HEXLOWER.encode(&record.data);
    let fits = |record: &&Tlsa| {
        record.usage == END_ENTITY
            && record.matching == SHA256
            && own.iter().any(|own| match record.selector {
                0 => hex(record) == own.sha256,
                1 => hex(record) == own.spki_sha256,
                _ => false,
            })
    };
    if let Some(record) = records.iter().find(fits) {
        let words = format!("{} {} {}", record.usage, record.selector, record.matching);
        return MachineFinding::ok(CHECK, format!("the record {words} of {base} fits"));
    }
    let is_judged = |record: &Tlsa| record.usage == END_ENTITY && record.matching == SHA256;
    let finding = match records.iter().all(is_judged) {
        true => MachineFinding::fail(
            CHECK,
            format!(
                "no TLSA record of {base} fits the certificate, so that senders with DANE deliver nothing"
            ),
        ),
        false => MachineFinding::warn(
            CHECK,
            format!(
                "no 3 x 1 record of {base} fits the certificate; those of other kinds were not compared"
            ),
        ),
    };
    own.iter().fold(finding, |finding, own| {
        finding.advise(format!(
            "publish: _25._tcp.{base}. IN TLSA 3 1 1 {}",
            own.spki_sha256
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Health, *};
    use crate::tls::tests::pki::Authority;

    #[test]
    fn a_tlsa_record_must_fit_one_of_the_certificates() {
        let authority = Authority::root("Root");
        let leaf = authority.leaf(&["mx.example"]);
        let facts = CertFacts::read(&leaf.chain[0]);
        let record = |usage, selector, matching, hex: &str| Tlsa {
            usage,
            selector,
            matching,
            data: data_encoding::HEXLOWER.decode(hex.as_bytes()).expect("hex"),
        };
        let other = "00".repeat(32);
        let own = std::slice::from_ref(&facts);
        for (records, expected) in [
            (vec![record(3, 1, 1, &facts.spki_sha256)], Health::Ok),
            (vec![record(3, 0, 1, &facts.sha256)], Health::Ok),
            (
                vec![record(3, 1, 1, &other), record(3, 1, 1, &facts.spki_sha256)],
                Health::Ok,
            ),
            (vec![record(3, 1, 1, &other)], Health::Fail),
            (
                vec![record(2, 1, 1, &other), record(3, 1, 1, &other)],
                Health::Warn,
            ),
        ] {
            let finding = compared("mx.example", &records, own);
            assert_eq!(finding.health, expected, "{finding:?}");
            if expected != Health::Ok {
                let words = format!("TLSA 3 1 1 {}", facts.spki_sha256);
                assert!(
                    format!("{:?}", finding.remedies).contains(&words),
                    "{finding:?}"
                );
            }
        }
    }
}
