//! `audit prove` and `audit check-proof`: one record for a stranger, with nothing of any other mail.

use super::{
    demand_files, json::LineValue, outside, show::Sentence, unread, unusable, verify::expectations,
};
use crate::{
    audit::{self, OutsideAnchor, ProvedRecord, RecordProof, printable},
    exit::Exit,
    files,
    flags::{AuditCheckProofFlags, AuditProveFlags},
};
use serde_json::Value;
use std::{
    fs,
    io::{self, Write},
    path::Path,
};

/// Longest line that is printed, in octets.
const LONGEST: usize = 64 * 1024;

/// What is to be proved.
struct Wanted<'a> {
    session: &'a str,
    /// Of a message: its number in the session.
    message: Option<u64>,
}

impl Wanted<'_> {
    fn takes(&self, event: &[u8], line: &[u8]) -> bool {
        let is_event = self.message.is_none() || event == b"message";
        // Only lines that have the id anywhere are parsed.
        if !is_event || memchr::memmem::find(line, self.session.as_bytes()).is_none() {
            return false;
        }
        let Ok(record) = serde_json::from_slice::<Value>(line) else {
            return false;
        };
        record["session"]["id"] == self.session
            && self.message.is_none_or(|number| record["number"] == number)
    }
}

/// Writes a proof of one message, or one of each record of a session.
///
/// # Errors
/// Nothing of that name is in the log, no checkpoint signs it yet, or a file cannot be read or written.
pub fn prove(flags: &AuditProveFlags, out: &mut dyn Write) -> Result<(), Exit> {
    demand_files(&flags.files)?;
    let usage = |words: &str| Exit::Usage(format!("audit prove: {words}"));
    let no = |words: &str| Exit::NoBecause(format!("audit prove: {words}"));
    let wanted = match (&flags.message, &flags.session) {
        (Some(message), None) => {
            let (session, number) = message.split_once('/').unwrap_or((message, "1"));
            let number = number
                .parse()
                .map_err(|_| usage("a message is SESSION or SESSION/NUMBER"))?;
            Wanted {
                session,
                message: Some(number),
            }
        }
        (None, Some(session)) if flags.out.is_some() => Wanted {
            session,
            message: None,
        },
        (None, Some(_)) => return Err(usage("--session needs --out DIRECTORY")),
        _ => {
            return Err(usage(
                "say which record: --message SESSION/NUMBER or --session ID",
            ));
        }
    };
    let (proofs, unsigned) =
        audit::prove(&flags.files, &mut |event, line| wanted.takes(event, line))
            .map_err(|error| unread("prove", error))?;
    match (&proofs[..], &flags.out) {
        ([], _) if unsigned > 0 => Err(no(
            "no signed checkpoint stands behind it: one comes within a minute, if the log has a key (--audit-key)",
        )),
        ([], _) => Err(no("no such record is in these files")),
        ([proof, ..], None) => write!(out, "{proof}").map_err(|error| unusable("prove", error)),
        (proofs, Some(place)) => {
            let written = match wanted.message {
                Some(_) => fs::write(place, proofs[0].to_string()),
                None => write_all(place, wanted.session, proofs),
            };
            written.map_err(|error| unusable("prove", format!("{}: {error}", place.display())))
        }
    }
}

fn write_all(folder: &Path, session: &str, proofs: &[RecordProof]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for proof in proofs {
        let name = format!("{session}-{}.tlog-proof", proof.index);
        fs::write(folder.join(name), proof.to_string())?;
    }
    Ok(())
}

/// Verifies proofs, and prints their records and what was verified.
///
/// # Errors
/// A proof does not hold, or a file cannot be read.
pub fn check_proof(flags: &AuditCheckProofFlags, out: &mut dyn Write) -> Result<(), Exit> {
    if flags.key.is_empty() {
        let words = "audit check-proof: give the log's public key with --key";
        return Err(Exit::Usage(words.into()));
    }
    if flags.files.is_empty() {
        return Err(Exit::Usage("audit check-proof: give the proof".into()));
    }
    let failed = |error: &dyn std::fmt::Display| unusable("check-proof", error);
    let expected = expectations(0, &flags.key, &[], &[])
        .and_then(|expected| outside::expect(expected, &flags.tsa_ca, flags.witness.as_deref()))
        .map_err(|error| failed(&error))?;
    let mut all_hold = true;
    for file in &flags.files {
        let wrong = |words: &dyn std::fmt::Display| failed(&format!("{}: {words}", file.display()));
        let text = files::octets(file, audit::LONGEST_PROOF).map_err(|error| wrong(&error))?;
        let proof = str::from_utf8(&text).ok().and_then(RecordProof::read);
        let proof = proof.ok_or_else(|| wrong(&"this is no proof of a record"))?;
        if flags.files.len() > 1 {
            writeln!(out, "{}:", file.display()).map_err(|error| failed(&error))?;
        }
        match proof.check(&expected.keys, &expected.hybrid_keys) {
            Ok(proved) => {
                let others = proof.said_by_others(&expected);
                print(&proof, &proved, &others, out)
            }
            Err(words) => {
                all_hold = false;
                writeln!(out, "NOT PROVED: {words}")
            }
        }
        .map_err(|error| failed(&error))?;
    }
    if all_hold { Ok(()) } else { Err(Exit::No) }
}

fn print(
    proof: &RecordProof,
    proved: &ProvedRecord,
    others: &[Result<OutsideAnchor, String>],
    out: &mut dyn Write,
) -> io::Result<()> {
    let record = LineValue::read(proof.record.as_bytes()).unwrap_or(LineValue::Null);
    writeln!(out, "proved")?;
    let mut facts = vec![
        ("log", proved.origin.clone()),
        ("record", proof.index.to_string()),
        ("checkpoint", format!("of {} records", proved.size)),
    ];
    if let Some(signer) = &proved.signer {
        let signer = signer.fingerprint();
        facts.push(("signed by", format!("{signer} (as given)")));
    }
    match proved.hybrid {
        Some(true) => facts.push(("signed by", "the ML-DSA-44 key (as given)".into())),
        Some(false) => facts.push(("not signed", "by the ML-DSA-44 key that was given".into())),
        None => {}
    }
    for (name, value) in facts {
        writeln!(out, "  {name:<12} {}", printable(&value, LONGEST))?;
    }
    for other in &proved.others {
        writeln!(
            out,
            "  {:<12} {}: not checked",
            "also signed",
            printable(other, LONGEST)
        )?;
    }
    for said in others {
        let (name, text) = match said {
            Ok(anchor) => (
                "existed",
                format!("at {}, says {}", audit::timestamp(anchor.at), anchor.by),
            ),
            Err(words) => ("beside", words.clone()),
        };
        writeln!(out, "  {name:<12} {}", printable(&text, LONGEST))?;
    }
    let when = match others.iter().any(Result::is_ok) {
        true => "Others say that the checkpoint existed at that time.",
        false => "It does not show when the log was signed.",
    };
    writeln!(
        out,
        "\nWhoever has that key says that this record is in the log. {when} That the record was true when it was written, nothing here \
         shows.\n"
    )?;
    writeln!(
        out,
        "{}\n",
        printable(&Sentence(&record).to_string(), LONGEST)
    )?;
    let fields = serde_json::to_string_pretty(&record).unwrap_or_default();
    for line in fields.lines() {
        writeln!(out, "{}", printable(line, LONGEST))?;
    }
    Ok(())
}
