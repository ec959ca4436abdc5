//! The section on what others vouch for, and on times in which the log was not written.

use super::html::{END_FOLD, Escaped, begin_fold, minute, plural};
use crate::{
    audit::Verification,
    commands::audit::{quantity::grouped, verify::name},
};
use serde::Serialize;
use std::fmt::{self, Formatter};

/// Outages that are listed.
pub(super) const OUTAGES: usize = 200;

/// A time in which the log could not be written.
#[derive(Serialize)]
pub(super) struct ReportedOutage {
    pub(super) since: String,
    pub(super) until: String,
    pub(super) error: String,
    pub(super) lost: u64,
}

/// One line about a log: what is counted, and how often.
pub(super) struct BreakCount {
    /// Its name in the file that `--json` writes.
    pub(super) name: &'static str,
    pub(super) words: &'static str,
    pub(super) number: u64,
}

fn count(name: &'static str, words: &'static str, number: u64) -> BreakCount {
    BreakCount {
        name,
        words,
        number,
    }
}

/// What vouches for a log from outside. New kinds of anchors have their lines here.
pub(super) fn anchors(log: &Verification) -> Vec<BreakCount> {
    vec![
        count(
            "anchors-given",
            "heads of this log that were kept elsewhere and given for this page",
            log.anchors.max(log.anchored) as u64,
        ),
        count(
            "anchors-agree",
            "of these, heads that agree with the log",
            log.anchored as u64,
        ),
        count(
            "signed-checkpoints-checked",
            "checkpoints whose signature was checked",
            log.signed,
        ),
        count(
            "records-behind-last-signature",
            "records behind the last signature, for which nothing vouches yet",
            log.head.size.saturating_sub(log.signed_size),
        ),
        count("stamps", "time-stamps of authorities", log.outside.stamps),
        count(
            "stamps-proved",
            "of these, time-stamps whose time is proved by a certificate that was given",
            log.outside.proved,
        ),
        count(
            "cosignatures",
            "signatures of witnesses",
            log.outside.cosignatures,
        ),
        count(
            "cosignatures-checked",
            "of these, signatures that a key which was given has made",
            log.outside.checked,
        ),
        count(
            "unanchored-times",
            "times during which no authority or witness could be had",
            log.outside.unvouched.number,
        ),
    ]
}

/// What verification counted that an undisturbed run would not have. New kinds of breaks have their lines here.
pub(super) fn breaks(log: &Verification) -> Vec<BreakCount> {
    let runs = &log.completeness;
    vec![
        count(
            "cuts",
            "places where records were cut off that had been on disk",
            log.cuts.len() as u64,
        ),
        count("records-cut-off", "records cut off there", log.cut_off),
        count("runs", "starts of the program", runs.runs),
        count(
            "runs-without-stop",
            "of these, runs without a stop before the next one began",
            runs.unstopped,
        ),
        count(
            "sessions-without-end",
            "sessions without an end, in runs that are over",
            runs.unended,
        ),
        count(
            "clock-ran-back",
            "times that the clock ran back by more than a second",
            runs.backwards,
        ),
        count(
            "late-checkpoints",
            "stretches without a checkpoint that was due",
            runs.gaps,
        ),
        count(
            "torn-lines",
            "lines that a crash tore; nobody was told that such a record was kept",
            log.crashes,
        ),
        count("torn-octets", "octets of a torn line at the end", log.torn),
        count("outages", "times that the disk failed", log.outages),
        count(
            "lost-records",
            "records lost by it, none of an acknowledged message",
            log.lost,
        ),
    ]
}

/// The section, for all logs.
pub(super) fn anchors_and_breaks(
    f: &mut Formatter<'_>,
    logs: &[Verification],
    outages: &[ReportedOutage],
) -> fmt::Result {
    begin_fold(f, "anchors", "Anchors, breaks and outages", true)?;
    for log in logs {
        if logs.len() > 1 {
            writeln!(f, "<h3>{}</h3>", Escaped(&name(log)))?;
        }
        f.write_str("<table class=\"counted\"><tbody>\n")?;
        for one in anchors(log).iter().chain(&breaks(log)) {
            writeln!(
                f,
                "<tr><td class=\"n\">{}</td><th scope=\"row\">{}</th></tr>",
                grouped(one.number),
                one.words
            )?;
        }
        f.write_str("</tbody></table>\n")?;
        if log.anchored == 0 {
            f.write_str("<p class=\"quiet\">No anchor was compared: that nothing was cut off the end, or all replaced by an older copy, is not shown.</p>\n")?;
        }
    }
    if outages.is_empty() {
        f.write_str("<p class=\"quiet\">No record of this period says that the log could not be written.</p>\n")?;
        return f.write_str(END_FOLD);
    }
    f.write_str("<table class=\"wide\"><thead><tr><th>Log not writable from (UTC)</th><th>To</th><th>Why</th><th class=\"n\">Records lost</th></tr></thead><tbody>\n")?;
    for one in outages {
        writeln!(
            f,
            "<tr><td class=\"when\">{}</td><td class=\"when\">{}</td><td class=\"reply\">{}</td><td class=\"n\">{}</td></tr>",
            minute(&one.since),
            minute(&one.until),
            Escaped(&one.error),
            grouped(one.lost)
        )?;
    }
    writeln!(
        f,
        "</tbody></table>\n<p class=\"quiet\">{} at most are listed. Mail was deferred in that time.</p>",
        plural(OUTAGES as u64, "outage", "outages")
    )?;
    f.write_str(END_FOLD)
}
