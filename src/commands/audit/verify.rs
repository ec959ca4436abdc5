//! `audit verify`: whether the log is intact, or the first line that is not.

use super::{
    demand_files, outside, printed,
    quantity::{grouped, size},
    unread,
};
use crate::{
    audit::{
        self, Damage, Expectations, KeylessBeginning, LogAnchor, LogTrust, OpenError, PublicKey,
        Verification, printable,
    },
    exit::Exit,
    flags::AuditVerifyFlags,
};
use std::{
    io::{self, Write},
    path::PathBuf,
};

/// Longest value that is printed, in octets.
const LONGEST_VALUE: usize = 4096;

/// Says whether the log is intact, or the first line that is not and what was done to it. A progress bar goes to `progress`, which is
/// the error stream where that is a terminal.
///
/// # Errors
/// The log is not intact, or a file, key or anchor cannot be read.
pub fn verify(
    flags: &AuditVerifyFlags,
    out: &mut dyn Write,
    progress: Option<&mut dyn Write>,
) -> Result<(), Exit> {
    demand_files(&flags.files)?;
    let AuditVerifyFlags {
        files,
        anchor,
        key,
        first_key,
        from,
        tsa_ca,
        witness,
        since,
        expect_complete,
    } = flags;
    let expected = expectations(*from, key, first_key, anchor)
        .and_then(|expected| outside::expect(expected, tsa_ca, witness.as_deref()));
    let mut expected = expected.map_err(|error| unread("verify", error))?;
    if let Some(since) = since {
        let anchors = LogAnchor::read_note(since, &expected.keys);
        let anchor = anchors.map_err(|error| unread("verify", error))?;
        expected.anchors.push(anchor);
    }
    let verifications =
        examine(files, &expected, progress).map_err(|error| unread("verify", error))?;
    let own_key = !expected.keys.is_empty();
    let result = match &verifications[..] {
        [log] => print(log, own_key, out),
        logs => print_all(logs, own_key, out),
    };
    printed("verify", result)?;
    if let (Some(since), [log]) = (
        expected.anchors.last().filter(|_| since.is_some()),
        &verifications[..],
    ) && log.intact()
    {
        let (size, now) = (grouped(since.size), grouped(log.head.size));
        let result = writeln!(
            out,
            "  since        the log had {size} records and has {now}: the first {size} are as they were"
        );
        printed("verify", result)?;
    }
    let idle = match from {
        0 => idle_keys(&expected.keys, &verifications),
        _ => Vec::new(),
    };
    for key in &idle {
        let result = writeln!(
            out,
            "the key {} was given and has signed nothing here; if it should have, its records were signed anew with another key",
            key.fingerprint()
        );
        printed("verify", result)?;
    }
    let good = verifications.iter().all(|log| match expect_complete {
        true => log.is_complete(),
        false => log.intact(),
    });
    (good && (idle.is_empty() || !expect_complete))
        .then_some(())
        .ok_or(Exit::No)
}

/// The keys that signed nothing in any of the logs.
fn idle_keys<'a>(given: &'a [PublicKey], logs: &[Verification]) -> Vec<&'a PublicKey> {
    let signed = |key: &PublicKey| logs.iter().any(|log| log.signers.contains(key));
    let damaged = logs.iter().any(|log| !log.intact());
    let idle = given.iter().filter(|key| !damaged && !signed(key));
    idle.collect()
}

/// Reads keys and anchors. A key is a file (PEM, public or private) or a verifier key (`name+id+base64`); an anchor is `SIZE:HASH` or a
/// file (see [`LogAnchor::read`]).
///
/// # Errors
/// Names the one that cannot be read.
pub(super) fn expectations(
    from: u64,
    keys: &[String],
    first_keys: &[String],
    anchors: &[String],
) -> Result<Expectations, OpenError> {
    let mut trust = LogTrust::default().from(from);
    for key in keys {
        trust = trust.key(key)?;
    }
    for key in first_keys {
        trust = trust.first_key(key)?;
    }
    for anchor in anchors {
        trust = trust.anchor(anchor)?;
    }
    Ok(trust.into_expectations())
}

/// Splits the files into logs, each of which is verified by itself. What is expected is expected of each.
///
/// # Errors
/// A file cannot be read, or there are several logs and an expectation does not say of which it is.
pub(super) fn separate(
    files: &[PathBuf],
    expected: &Expectations,
) -> Result<Vec<Vec<PathBuf>>, OpenError> {
    let logs = audit::logs(files)?;
    let number = logs.len();
    if number > 1 && expected.from > 0 {
        let text = format!("these files are of {number} logs; --from can be said of one only");
        return Err(OpenError::Wrong(text));
    }
    if number > 1 && expected.anchors.iter().any(|one| one.origin.is_none()) {
        let text = format!(
            "these files are of {number} logs: give anchors as a file, whose lines say of which log each is, not as SIZE:HASH"
        );
        return Err(OpenError::Wrong(text));
    }
    Ok(logs)
}

/// Verifies each log among the files by itself, with a progress bar where one is wanted.
///
/// # Errors
/// As [`separate`] has them, or a file cannot be read.
fn examine(
    files: &[PathBuf],
    expected: &Expectations,
    mut progress: Option<&mut dyn Write>,
) -> Result<Vec<Verification>, OpenError> {
    let logs = separate(files, expected)?;
    let verified = logs
        .iter()
        .map(|log| with_bar(&mut progress, |draw| audit::verify(log, expected, draw)));
    let mut verified = verified.collect::<io::Result<Vec<Verification>>>()?;
    verified.sort_by(|one, other| one.origin.cmp(&other.origin));
    Ok(verified)
}

/// Does `work`, which is given what draws a progress bar from the octets done and the octets in all.
pub(super) fn with_bar<T>(
    progress: &mut Option<&mut dyn Write>,
    work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> T,
) -> T {
    let Some(terminal) = progress else {
        return work(&mut |_, _| ());
    };
    let mut shown = u64::MAX;
    let mut draw = |done: u64, total: u64| {
        let percent = done * 100 / total.max(1);
        if percent != shown {
            shown = percent;
            let bar = "#".repeat(usize::try_from(percent / 4).unwrap_or(25));
            let _ = write!(terminal, "\r[{bar:<25}] {percent:3} % of {}", size(total));
        }
    };
    let result = work(&mut draw);
    let _ = write!(terminal, "\r{:60}\r", ""); // a terminal that is gone is no reason to stop
    result
}

/// The name of a log, for people; that of its first file where the damage comes before the log's own name.
pub(super) fn name(verification: &Verification) -> String {
    let file = || Some(verification.files.first()?.path().display().to_string());
    let name = verification.origin.clone().or_else(file);
    name.unwrap_or_else(|| "an unnamed log".into())
}

/// How many logs there are, then each as if it were alone. A log that is damaged hides none of the others.
fn print_all(logs: &[Verification], own_key: bool, out: &mut dyn Write) -> io::Result<()> {
    let damaged = logs.iter().filter(|log| !log.intact()).count();
    match damaged {
        0 => writeln!(out, "{} logs, all intact", logs.len())?,
        _ => writeln!(out, "{} logs, {damaged} NOT INTACT", logs.len())?,
    }
    for log in logs {
        write!(out, "\n{}: ", printable(&name(log), LONGEST_VALUE))?;
        print(log, own_key, out)?;
    }
    Ok(())
}

fn print(verification: &Verification, own_key: bool, out: &mut dyn Write) -> io::Result<()> {
    match &verification.finding {
        None => writeln!(out, "intact")?,
        Some(finding) => {
            let finding = printable(&finding.to_string(), LONGEST_VALUE);
            writeln!(out, "NOT INTACT: {finding}\ngood, as far as this can tell:")?;
        }
    }
    for (name, value) in describe(verification, own_key) {
        // Values come from the log, in which anybody may have written.
        let value = printable(&value, LONGEST_VALUE);
        writeln!(out, "  {name:<12} {value}")?;
    }
    Ok(())
}

/// Describes the state of a log's chain to people, as names and values; for the report too. `own_key`: the public key was given, not
/// taken from the log.
pub(super) fn describe(verification: &Verification, own_key: bool) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(origin) = &verification.origin {
        facts.push(("log", origin.clone()));
    }
    for (record, name) in &verification.renamed {
        let text = format!("{name} until record {record}, where the host got another name");
        facts.push(("once", text));
    }
    if let Some((first, last)) = &verification.span
        && verification.records() > 0
    {
        facts.push((
            "records",
            format!(
                "{} ({} to {}), {} in {} file{}, {first} to {last}",
                grouped(verification.records()),
                verification.from,
                verification.good - 1,
                size(verification.octets),
                verification.files.len(),
                if verification.files.len() == 1 {
                    ""
                } else {
                    "s"
                },
            ),
        ));
        if verification.intact() {
            let head = verification.head;
            facts.push(("head", format!("{}:{}", head.size, head.hash)));
        }
    }
    let remarks = verification.remarks.iter();
    facts.extend(remarks.map(|remark| ("beside", remark.clone())));
    facts.push(("checkpoints", checkpoints(verification, own_key)));
    if let Some(keyless) = &verification.keyless {
        facts.push(("signed from", signed_from(keyless)));
    }
    if !verification.other_signatures.is_empty() {
        let names: Vec<_> = verification.other_signatures.iter().cloned().collect();
        let text = format!(
            "{}: not checked, their keys were not given",
            names.join(", ")
        );
        facts.push(("also signed", text));
    }
    facts.extend(hybrid(verification).map(|text| ("ml-dsa", text)));
    facts.push(("epochs", epochs(verification)));
    for (record, key) in &verification.epochs.begun {
        facts.push(("first key", format!("{key}, named by record {record}")));
    }
    let is_told = verification.finding.as_ref() == verification.cuts.first();
    if verification.cuts.len() > usize::from(is_told) {
        let cuts = verification.cuts.iter().map(ToString::to_string);
        facts.push(("cuts", cuts.collect::<Vec<_>>().join("; ")));
    }
    if verification.elsewhere > 0 {
        let text = format!(
            "{} time(s) the program did not find its log where it had left it; its records are here",
            verification.elsewhere
        );
        facts.push(("moved", text));
    }
    facts.push(("anchors", anchors(verification)));
    facts.extend(outside::describe(verification));
    facts.push(("end", end(verification)));
    facts.extend(runs(verification).map(|text| ("runs", text)));
    if verification.crashes + verification.outages > 0 {
        facts.push((
            "faults",
            format!(
                "{} torn line(s) after a crash, {} time(s) the disk failed, {} record(s) lost by it; none of them was acknowledged",
                verification.crashes, verification.outages, verification.lost
            ),
        ));
    }
    if verification.brought_back > 0 {
        let text = format!(
            "{} time(s) somebody deleted or replaced the file while the program wrote it; the program still had its records, and brought \
             them back: audit show has the times",
            verification.brought_back
        );
        facts.push(("brought back", text));
    }
    facts
}

/// What an honest run without faults could not have left, and for how long the program did not run.
fn runs(verification: &Verification) -> Option<String> {
    let counts = &verification.completeness;
    let mut said = vec![format!("{} start(s)", grouped(counts.runs))];
    for (number, what) in [
        (counts.unstopped, "run(s) without a stop"),
        (counts.unended, "session(s) without an end"),
        (counts.backwards, "time(s) the clock ran back"),
        (counts.gaps, "stretch(es) without a checkpoint that was due"),
        (
            u64::from(counts.unsealed_stop),
            "stop without its checkpoint",
        ),
    ] {
        if number > 0 {
            said.push(format!("{} {what}", grouped(number)));
        }
    }
    if let Some((longest, since)) = counts
        .longest_down
        .as_ref()
        .filter(|(long, _)| *long >= 1.0)
    {
        said.push(format!(
            "not running for {:.0} s in all, at the longest for {longest:.0} s from {since} on",
            counts.down
        ));
    }
    (counts.runs > 0 || said.len() > 1).then(|| said.join(", "))
}

fn checkpoints(verification: &Verification, own_key: bool) -> String {
    let number = grouped(verification.checkpoints);
    if verification.signed == 0 {
        return format!(
            "{number}, no signature checked: whoever can write the log can make it anew"
        );
    }
    let signers: Vec<_> = verification
        .signers
        .iter()
        .map(|key| key.fingerprint().to_string())
        .collect();
    let trust = match own_key {
        true => "as given",
        false => "as the log itself names it: compare the fingerprint, or give --key",
    };
    let open = verification
        .head
        .size
        .saturating_sub(verification.signed_size);
    let open = match open {
        0 => "all records are signed".to_owned(),
        1 => "the last record is not signed yet".to_owned(),
        _ => format!("the last {open} records are not signed yet"),
    };
    format!(
        "{number}, signed by {} ({trust}); {open}",
        signers.join(", ")
    )
}

/// From where on a log is signed that was written without a key at first.
fn signed_from(keyless: &KeylessBeginning) -> String {
    let (records, until) = (keyless.records, &keyless.until);
    let covered = match keyless.covered_by {
        Some(size) => format!(
            "the first signed checkpoint, record {size}, covers the records before it, as they were then"
        ),
        None => "no signature of it was checked".into(),
    };
    format!("record {records} on, {until}, when the log got its key; {covered}")
}

/// What the ML-DSA key shows that was given.
fn hybrid(verification: &Verification) -> Option<String> {
    let (signed, size) = verification.hybrid;
    let missing = match verification.hybrid_missing {
        0 => String::new(),
        missing => format!(
            "; {} more were due and have no such signature: it was taken out, or the program could not make it",
            grouped(missing)
        ),
    };
    (signed > 0).then(|| {
        format!(
            "{} checkpoints signed with ML-DSA-44 too, with the key that was given; the last covers {} records{missing}",
            grouped(signed),
            grouped(size)
        )
    })
}

/// What the keys show that signed one checkpoint each.
fn epochs(verification: &Verification) -> String {
    let found = &verification.epochs;
    if found.signed == 0 {
        return "no keys that are erased after use: whoever has the key and the host can sign any past".into();
    }
    let number = grouped(found.signed);
    let trust = match found.vouched {
        0 => "all as the log itself names them: keep its first key on another machine, and give it with --first-key".into(),
        vouched => format!(
            "{} of them from a key on that was given: whoever took the host and its keys later cannot have signed these anew",
            grouped(vouched)
        ),
    };
    let lost = match &found.lost[..] {
        [] => String::new(),
        lost => {
            let records: Vec<_> = lost.iter().map(ToString::to_string).collect();
            format!(
                "; a secret was lost, and a new first key made, at record {}",
                records.join(", ")
            )
        }
    };
    format!(
        "{number} checkpoints, each signed with a key of its own that the one before names; {trust}{lost}"
    )
}

fn anchors(verification: &Verification) -> String {
    let cut = matches!(&verification.finding, Some(finding) if finding.damage == Damage::Cut);
    match (verification.anchors.max(verification.anchored), verification.anchored) {
        (0, _) => "none given: that nothing was cut off the end, or all replaced by an older copy, is not shown".into(),
        (all, agree) if cut || all > agree => format!("{agree} of {all} agree"),
        (all, _) => format!("all {all} agree"),
    }
}

fn end(verification: &Verification) -> String {
    match (verification.torn, verification.stopped) {
        (0, true) => "stopped in good order".into(),
        (0, false) => "no stop: still being written, ended by a crash, or cut".into(),
        (torn, _) => format!(
            "a torn line of {torn} octets: being written just now, ended by a crash, or cut"
        ),
    }
}
