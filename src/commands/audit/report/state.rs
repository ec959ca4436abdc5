//! The sections about the log itself: whether it is intact, and what that rests on.

use super::{
    counts::Counts,
    html::{Escaped, or_dash, plural},
};
use crate::{
    audit::Verification,
    commands::audit::verify::{describe, name},
};
use std::fmt::{self, Formatter};

/// A box at the top of the page. `one_of_many`: other logs have boxes too. `own_key`: the public key was given, not taken from the log.
pub(super) fn state(
    f: &mut Formatter<'_>,
    verification: &Verification,
    one_of_many: bool,
    own_key: bool,
) -> fmt::Result {
    let (class, mark, title, text) = match &verification.finding {
        None if verification.signed + verification.anchored as u64 == 0 => (
            "ok",
            "✓",
            "The log agrees with itself",
            format!(
                "The chain of all {} holds. No signature and no anchor was checked, so this does not show a change by someone who made the chain anew.",
                plural(verification.records(), "record", "records")
            ),
        ),
        // Nothing vouches for records behind the last signature, nor for a key that only the log names.
        None if verification.anchored == 0
            && !(own_key && verification.signed_size >= verification.head.size) =>
        {
            (
                "ok",
                "✓",
                "The log is intact",
                format!(
                    "The chain of all {} holds. By whose key, and how far, it is vouched for, stands below.",
                    plural(verification.records(), "record", "records")
                ),
            )
        }
        None => (
            "ok",
            "✓",
            "The log is intact",
            format!(
                "All {} are what was written: none is changed, missing or moved.",
                plural(verification.records(), "record", "records")
            ),
        ),
        Some(finding) => (
            "bad",
            "✗",
            "The log is not intact",
            format!(
                "{}. This page counts only the {} that are surely as they were written.",
                Escaped(&finding.to_string()),
                plural(verification.records(), "record", "records")
            ),
        ),
    };
    let whose = match one_of_many {
        true => format!("{}: ", Escaped(&name(verification))),
        false => String::new(),
    };
    write!(
        f,
        "<section class=\"chain {class}\" aria-label=\"State of the log\">\n<div class=\"mark\" aria-hidden=\"true\">{mark}</div>\n<div>\n<h2>{whose}{title}</h2>\n<p>{text}</p>\n<dl class=\"facts\">\n"
    )?;
    for (name, value) in describe(verification, own_key) {
        if name != "log" {
            writeln!(f, "<dt>{}</dt><dd>{}</dd>", Escaped(name), Escaped(&value))?;
        }
    }
    f.write_str("</dl>\n")?;
    if let Some(note) = &verification.note {
        writeln!(
            f,
            "<details open><summary>The last checkpoint</summary><pre>{}</pre></details>",
            Escaped(note)
        )?;
    }
    f.write_str("</div>\n</section>\n")
}

/// How far the evidence goes, and how to check it.
pub(super) fn limits(f: &mut Formatter<'_>, logs: &[Verification], counts: &Counts) -> fmt::Result {
    write!(
        f,
        "<section class=\"limits\" id=\"limits\">\n<details class=\"fold\" open><summary><h2>What this rests on</h2></summary>\n<ul>\n\
         <li>The chain shows that no record was changed, taken out, put in or moved since it was written. Whoever holds the log's private key could write a new chain; a checkpoint kept on another machine shows that too.</li>\n\
         <li>That nothing was cut off the end is shown only as far as the newest checkpoint kept elsewhere (an anchor) reaches.</li>\n\
         <li>Times are those of the host's clock. Addresses are recorded in the form “{}”.</li>\n\
         <li>“Peer authenticated” means that the other side proved what the level demands: <i>verify</i> and <i>secure</i> a certificate of a trusted authority for the right name, <i>dane</i> a match with DNSSEC-signed records, <i>fingerprint</i> a listed certificate. “Encrypted only” is TLS with whoever answered, or called.</li>\n\
         </ul>\n<p>To check it yourself, with the files of the log and its public key:</p>\n<pre>",
        Escaped(&or_dash(counts.addresses.clone())),
    )?;
    for log in logs {
        let (size, hash) = (log.head.size, log.head.hash);
        let files = match logs.len() {
            1 => "FILE...".into(),
            _ => format!("FILES-OF-{}", name(log)),
        };
        writeln!(
            f,
            "starttls-proxy audit verify {} --key KEY.pub --anchor {size}:{hash}",
            Escaped(&files)
        )?;
    }
    f.write_str("</pre>\n</details>\n</section>\n")
}
