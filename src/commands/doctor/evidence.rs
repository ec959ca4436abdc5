//! Can the service write what it must write, and for how long will there be room?

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    super::machine::{accounts::Access, programs::shell_word},
    certificates::readable,
    finding::MachineFinding,
    service::{ProxyService, ServiceFlags},
};
use crate::{
    audit::{self, EndFound},
    clock, files,
};

/// Days of room below which there is a warning, and a failure.
const FEW: f64 = 30.0;
const TOO_FEW: f64 = 7.0;
/// Octets of room below which the log may stop at any moment.
const NO_ROOM: u64 = 1 << 20;

pub(super) fn check(service: &ProxyService) -> Vec<MachineFinding> {
    let mut findings = Vec::new();
    match service.audit_log() {
        Some(file) => {
            findings.push(writable(service, "audit log", file));
            findings.extend(cut(file));
            findings.extend(room(file));
        }
        None => findings.push(MachineFinding::ok(
            "audit log",
            "none is kept (--audit-log)",
        )),
    }
    if let Some(key) = service.audit_key() {
        findings.push(readable(service, "audit key", key));
    }
    if let ServiceFlags::Outbound(flags) = &service.flags
        && let Some(folder) = &flags.state_dir
    {
        findings.push(writable(service, "state", &folder.join("mta-sts")));
    }
    findings
}

/// Whether the service can write a file or directory, or make it.
fn writable(service: &ProxyService, check: &'static str, file: &Path) -> MachineFinding {
    if file.is_relative() {
        let words = format!("{} depends on where the proxy is started", file.display());
        return MachineFinding::warn(check, words).advise("name it from the root (/) on");
    }
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let shown = shell_word(&folder.display().to_string());
    let account = service.account();
    if !folder.is_dir() {
        let finding = MachineFinding::fail(
            check,
            format!("{}: there is no such directory", folder.display()),
        )
        .run(format!("mkdir -p {shown}"));
        return match &account {
            Some(own) => finding.run(format!("chown {}:{} {shown}", own.name, own.group)),
            None => finding,
        };
    }
    let Some(account) = account else {
        return MachineFinding::ok(check, format!("{} is there", folder.display()));
    };
    let mut stops = account.stopped_at(Access::Write, folder);
    if file.exists() {
        stops.extend(account.stopped_at(Access::Write, file));
    }
    stops.dedup();
    if stops.is_empty() {
        let words = format!("user {} can write {}", account.name, file.display());
        return MachineFinding::ok(check, words);
    }
    let finding = MachineFinding::fail(
        check,
        format!(
            "user {} cannot write {}, and mail is deferred without its record",
            account.name,
            file.display()
        ),
    );
    let (user, group) = (&account.name, &account.group);
    let whole = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    stops.iter().fold(finding, |finding, stop| {
        let word = shell_word(&stop.display().to_string());
        let is_free = account.is_used_by_others(stop) == Some(false);
        if is_free && (stop == file || (*stop == whole && is_its_own(&whole, file))) {
            return finding.run(format!("chown {user}:{group} {word} && chmod u+rwX {word}"));
        }
        // The directory serves others, too, so nobody should be handed it.
        finding.advise(format!(
            "let --audit-log name a file in a directory that user {user} has for itself, such as /var/lib/starttls-proxy: {} is not for \
             that user alone",
            stop.display()
        ))
    })
}

/// Whether nothing but this file, and what a rotation made of it, is in the directory.
fn is_its_own(folder: &Path, file: &Path) -> bool {
    let Some(name) = file.file_name() else {
        return false;
    };
    let name = name.as_encoded_bytes();
    fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .all(|entry| entry.file_name().as_encoded_bytes().starts_with(name))
    })
}

/// Whether records were cut off the end of the audit log.
fn cut(file: &Path) -> Option<MachineFinding> {
    const CHECK: &str = "log's end";
    let verify = format!(
        "starttls-proxy audit verify {}",
        shell_word(&file.display().to_string())
    );
    let finding = match (audit::end_found(file), audit::admits_a_cut(file)) {
        (Ok(EndFound::MovedAway), _) => {
            let words = format!(
                "{} was moved away, and the proxy goes on in a new file with its next record",
                file.display()
            );
            return Some(MachineFinding::ok(CHECK, words));
        }
        (Ok(EndFound::Missing { known, found }), _) => MachineFinding::fail(
            CHECK,
            format!(
                "{}: {known} records were on disk, {found} are there: the end was cut off, or an older copy was put in place",
                file.display()
            ),
        )
        .advise(
            "find out who did it, and put the file back where you have it elsewhere; at its next start the proxy goes on behind the gap, and the log says so for ever",
        ),
        (Ok(EndFound::Whole), Ok(true)) => MachineFinding::warn(
            CHECK,
            format!(
                "{}: records were cut off before the proxy went on, as the log itself says",
                file.display()
            ),
        )
        .advise("find out who did it; whoever reads the log is told where the gap is"),
        (Ok(EndFound::Whole), Ok(false)) => {
            let words = "nothing was cut off since it was last written";
            return Some(MachineFinding::ok(CHECK, words));
        }
        // Whether it can be read at all, another check says.
        (Err(_), _) | (_, Err(_)) => return None,
    };
    Some(finding.run(verify))
}

/// Room on the disk of the audit log, in days at the rate at which it has grown so far.
fn room(file: &Path) -> Option<MachineFinding> {
    const CHECK: &str = "disk";
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())?;
    let free = match files::free_octets(folder) {
        Ok(free) => free,
        Err(error) => {
            let words = format!("{}: {error}", folder.display());
            return Some(MachineFinding::warn(CHECK, words));
        }
    };
    let folder = folder.display().to_string();
    let rotated = audit::rotated(file).unwrap_or_default();
    let all: Vec<PathBuf> = rotated.iter().cloned().chain([file.to_owned()]).collect();
    let sizes = all.iter().filter_map(|file| fs::metadata(file).ok());
    let size: u64 = sizes.map(|metadata| metadata.len()).sum();
    let age = all.iter().find_map(|file| begin(file));
    let now = clock::unix_seconds(clock::wall());
    let age = age.map(|begin| Duration::from_secs(now.saturating_sub(begin)));
    let days = age.and_then(|age| files::days_left(free, size, age));
    let megabytes = free >> 20;
    let words = match days {
        Some(days) => format!(
            "{megabytes} MiB are free in {folder}, enough for {:.0} days at the rate so far",
            days.floor()
        ),
        None => format!(
            "{megabytes} MiB are free in {folder}; the log is too young to say for how long"
        ),
    };
    let finding = match (free < NO_ROOM, days) {
        (true, _) => MachineFinding::fail(CHECK, words),
        (false, Some(days)) if days < TOO_FEW => MachineFinding::fail(CHECK, words),
        (false, Some(days)) if days < FEW => MachineFinding::warn(CHECK, words),
        _ => return Some(MachineFinding::ok(CHECK, words)),
    };
    let name = shell_word(&file.display().to_string());
    let finding = match rotated.iter().any(|file| audit::is_plain(file)) {
        true => finding.advise(
            "compress rotated files of earlier days (zstd -19 --rm, or gzip): they take a tenth then, and are read as they are",
        ),
        false => finding,
    };
    Some(match rotated.is_empty() {
        false => finding
            .advise(
                "the rotated files may be moved to a larger disk at any time; keep them, because together with the file in \
                 use they are one log: set ARCHIVE to a directory there",
            )
            .run(format!("mkdir -p \"$ARCHIVE\" && mv {name}.????????.* \"$ARCHIVE\"")),
        true => finding
            .run(format!("du -xah {} | sort -h | tail", shell_word(&folder)))
            .advise("remove what is not needed on that disk, or make it larger; the proxy itself deletes nothing"),
    })
}

/// The time of the first record of a file, in seconds since 1970.
fn begin(file: &Path) -> Option<u64> {
    let at: jiff::Timestamp = audit::first_time(file)?.parse().ok()?;
    u64::try_from(at.as_second()).ok()
}
