//! The section on what others vouch for, and on times in which the log was not written.

use super::html::{END_FOLD, Escaped, begin_fold, minute, plural};
use crate::{
    audit::{Completeness, EpochsFound, OutsideAnchors, Verification},
    commands::audit::{quantity::grouped, verify::name},
};
use serde::Serialize;
use std::{
    fmt::{self, Formatter},
    time::Duration,
};

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

/// What verification counted of one log.
pub(super) struct LogCounts {
    /// What vouches for the log from outside.
    pub(super) anchors: Vec<BreakCount>,
    /// What an undisturbed run would not have.
    pub(super) breaks: Vec<BreakCount>,
}

/// Everything that verification found has its line here, or stands elsewhere on the page. All fields are named, so that a new one cannot be
/// forgotten: without a place here it does not compile.
pub(super) fn counts(log: &Verification) -> LogCounts {
    let Verification {
        // These stand in the box at the top of the page, or in the file that `--json` writes.
        files: _,
        remarks: _,
        from: _,
        good: _,
        octets: _,
        span: _,
        origin: _,
        checkpoints: _,
        note: _,
        signers: _,
        stopped: _,
        finding: _,
        reread: _,
        head,
        renamed,
        signed,
        signed_size,
        keyless,
        other_signatures,
        hybrid: (hybrid_signed, _),
        hybrid_missing,
        epochs,
        anchors,
        anchored,
        torn,
        crashes,
        outages,
        lost,
        brought_back,
        cuts,
        cut_off,
        elsewhere,
        outside,
        completeness,
    } = log;
    let EpochsFound {
        begun,
        lost: secrets_lost,
        signed: epochs_signed,
        vouched,
    } = epochs;
    let anchors = [
        count(
            "anchors-given",
            "heads of this log that were kept elsewhere and given for this page",
            (*anchors).max(*anchored) as u64,
        ),
        count(
            "anchors-agree",
            "of these, heads that agree with the log",
            *anchored as u64,
        ),
        count(
            "signed-checkpoints-checked",
            "checkpoints whose signature was checked",
            *signed,
        ),
        count(
            "records-behind-last-signature",
            "records behind the last signature, for which nothing vouches yet",
            head.size.saturating_sub(*signed_size),
        ),
        count(
            "records-before-key",
            "records from before the log got its key, which its first signed checkpoint covers as they were then",
            keyless.as_ref().map_or(0, |keyless| keyless.records),
        ),
        count(
            "epoch-checkpoints",
            "checkpoints that are signed with a key that was erased afterwards",
            *epochs_signed,
        ),
        count(
            "epoch-checkpoints-from-kept-key",
            "of these, checkpoints that hang on a first key that was kept elsewhere and given for this page",
            *vouched,
        ),
        count(
            "ml-dsa-checkpoints",
            "checkpoints with a good ML-DSA signature of the key that was given",
            *hybrid_signed,
        ),
        count(
            "unchecked-signers",
            "further keys that have signed, whose signatures were not checked, because those keys were not given",
            other_signatures.len() as u64,
        ),
    ];
    let breaks = [
        count(
            "cuts",
            "places where records were cut off that had been on disk",
            cuts.len() as u64,
        ),
        count("records-cut-off", "records cut off there", *cut_off),
        count(
            "brought-back",
            "times that somebody deleted or replaced the file while it was written, and the program brought it back",
            *brought_back,
        ),
        count(
            "found-elsewhere",
            "times that the program did not find its log where it had left it, although its records are here",
            *elsewhere,
        ),
        count(
            "torn-lines",
            "lines that a crash tore; nobody was told that such a record was kept",
            *crashes,
        ),
        count("torn-octets", "octets of a torn line at the end", *torn),
        count("outages", "times that the disk failed", *outages),
        count(
            "lost-records",
            "records lost by it, none of an acknowledged message",
            *lost,
        ),
        count(
            "ml-dsa-missing",
            "ML-DSA signatures that were due and are not there; counted if the key was given",
            *hybrid_missing,
        ),
        count(
            "key-chains-begun",
            "chains of keys that are erased after use which begin here; one is as it should be",
            begun.len() as u64,
        ),
        count(
            "secrets-lost",
            "times that the secret key which had to sign next was lost",
            secrets_lost.len() as u64,
        ),
        count(
            "renamed",
            "times that the host, and with it the log, got another name",
            renamed.len() as u64,
        ),
    ];
    LogCounts {
        anchors: anchors.into_iter().chain(said_by_others(outside)).collect(),
        breaks: breaks.into_iter().chain(of_runs(completeness)).collect(),
    }
}

/// What others said of checkpoints.
fn said_by_others(outside: &OutsideAnchors) -> [BreakCount; 6] {
    let OutsideAnchors {
        // These stand in the box at the top of the page.
        unproved: _,
        newest: _,
        is_proved: _,
        stamps,
        proved,
        cosignatures,
        checked,
        witnessed,
        unvouched,
    } = outside;
    [
        count("stamps", "time-stamps of authorities", *stamps),
        count(
            "stamps-proved",
            "of these, time-stamps whose time is proved by a certificate that was given",
            *proved,
        ),
        count("cosignatures", "signatures of witnesses", *cosignatures),
        count(
            "cosignatures-checked",
            "of these, signatures that a key which was given has made",
            *checked,
        ),
        count(
            "witnessed-checkpoints",
            "checkpoints that as many witnesses have signed as the policy asks for which was given",
            *witnessed,
        ),
        count(
            "unanchored-times",
            "times during which an authority or a witness could not be had",
            unvouched.number,
        ),
    ]
}

/// What is counted of the program's runs.
fn of_runs(runs: &Completeness) -> [BreakCount; 7] {
    let Completeness {
        // It stands in the box at the top of the page.
        longest_down: _,
        runs,
        unstopped,
        unended,
        backwards,
        gaps,
        down,
        unsealed_stop,
    } = runs;
    [
        count("runs", "starts of the program", *runs),
        count(
            "runs-without-stop",
            "of these, runs without a stop before the next one began",
            *unstopped,
        ),
        count(
            "stops-without-checkpoint",
            "stops behind which the checkpoint that belongs there is not",
            u64::from(*unsealed_stop),
        ),
        count(
            "sessions-without-end",
            "sessions without an end, in runs that are over",
            *unended,
        ),
        count(
            "clock-ran-back",
            "times that the clock ran back by more than a second",
            *backwards,
        ),
        count(
            "late-checkpoints",
            "stretches without a checkpoint that was due",
            *gaps,
        ),
        count(
            "seconds-not-running",
            "seconds in which the program did not run",
            Duration::try_from_secs_f64(*down).map_or(0, |down| down.as_secs()),
        ),
    ]
}

/// The longest times during which nobody could be had who vouches.
fn unvouched_times(f: &mut Formatter<'_>, log: &Verification) -> fmt::Result {
    let times = &log.outside.unvouched;
    if times.number == 0 {
        return Ok(());
    }
    f.write_str("<table class=\"wide\"><thead><tr><th>Nobody to vouch from (UTC)</th><th>To</th><th>What was missing</th></tr></thead><tbody>\n")?;
    for time in &times.longest {
        let until = time.until.as_deref().map(minute);
        writeln!(
            f,
            "<tr><td class=\"when\">{}</td><td class=\"when\">{}</td><td>{}</td></tr>",
            Escaped(&minute(&time.since)),
            Escaped(&until.unwrap_or_else(|| "the end of the log".into())),
            Escaped(&format!("no {}", time.asked))
        )?;
    }
    f.write_str("</tbody></table>\n")?;
    match times.number.saturating_sub(times.longest.len() as u64) {
        0 => Ok(()),
        more => writeln!(
            f,
            "<p class=\"quiet\">The longest ones, and {} more, which were shorter.</p>",
            grouped(more)
        ),
    }
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
        let LogCounts { anchors, breaks } = counts(log);
        for one in anchors.iter().chain(&breaks) {
            writeln!(
                f,
                "<tr><td class=\"n\">{}</td><th scope=\"row\">{}</th></tr>",
                grouped(one.number),
                one.words
            )?;
        }
        f.write_str("</tbody></table>\n")?;
        unvouched_times(f, log)?;
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
