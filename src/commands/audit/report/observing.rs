//! When the program only observed, and the box at the top that says so.

use super::{
    fields::ReadRecord,
    html::{Escaped, minute, plural},
};
use crate::commands::audit::period::Period;
use serde::Serialize;
use std::fmt::{self, Formatter};

/// Periods that are kept apart for each log; the last one goes on where there are more.
const PERIODS: usize = 1000;

/// A time in which a program enforced nothing.
#[derive(Clone, Serialize)]
pub(super) struct ObservePeriod {
    /// The log, where there are several.
    pub(super) log: Option<String>,
    pub(super) from: String,
    /// The last that the log knows of it.
    pub(super) until: String,
    /// Observe mode was still on at the end of these records.
    pub(super) goes_on: bool,
}

/// The runs of the program that writes one log, as far as observe mode goes.
#[derive(Clone, Default)]
pub(super) struct Runs {
    past: Vec<ObservePeriod>,
    observing: Option<ObservePeriod>,
    /// When the program said that it stops. Where another process took over, what it wrote comes behind that.
    stopped: Option<String>,
}

impl Runs {
    pub(super) fn see(&mut self, record: &ReadRecord<'_>) {
        if record.event == "start" {
            self.end(false);
            self.observing = record.is_observing().then(|| ObservePeriod {
                log: None,
                from: record.at.to_owned(),
                until: record.at.to_owned(),
                goes_on: false,
            });
        }
        let Some(observing) = &mut self.observing else {
            return;
        };
        match record.event {
            "stop" => self.stopped = Some(record.at.to_owned()),
            _ if record.session.is_some() => self.stopped = None,
            _ => {}
        }
        if self.stopped.is_none() || record.event == "stop" {
            record.at.clone_into(&mut observing.until);
        }
    }

    fn end(&mut self, goes_on: bool) {
        let goes_on = goes_on && self.stopped.take().is_none();
        let Some(period) = self.observing.take() else {
            return;
        };
        let is_full = self.past.len() >= PERIODS;
        match self.past.last_mut().filter(|_| is_full) {
            Some(last) => last.until = period.until,
            None => self.past.push(ObservePeriod { goes_on, ..period }),
        }
    }

    /// All of them that touch the period. `log` is the name, where there are several.
    pub(super) fn periods(mut self, log: Option<&str>, asked: &Period) -> Vec<ObservePeriod> {
        self.end(true);
        let touching = self.past.into_iter().filter(|one| {
            !asked.begins_after(one.until.as_bytes()) && !asked.ends_before(one.from.as_bytes())
        });
        let named = touching.map(|one| ObservePeriod {
            log: log.map(str::to_owned),
            ..one
        });
        named.collect()
    }
}

/// The box at the top of a page about a time in which the program only observed. `attempts` and `messages` are those that enforcing
/// would have refused.
pub(super) fn observe_box(
    f: &mut Formatter<'_>,
    periods: &[ObservePeriod],
    attempts: u64,
    messages: u64,
) -> fmt::Result {
    if periods.is_empty() && attempts + messages == 0 {
        return Ok(());
    }
    f.write_str("<section class=\"chain bad\" id=\"observe\" aria-label=\"Observe mode\">\n<div class=\"mark\" aria-hidden=\"true\">!</div>\n<div>\n<h2>Observe mode was on: nothing was enforced</h2>\n<p>In this time the program let all mail pass, in the clear where TLS could not be had, and only wrote down what it would have refused. Figures of this time show what happened. They do not show that anything was demanded.</p>\n")?;
    if periods.is_empty() {
        f.write_str("<p>Records say so, but the start of the program in observe mode stands in older files.</p>\n")?;
    } else {
        f.write_str("<ul>\n")?;
        for one in periods {
            let whose = one.log.as_ref().map(|log| format!("{log}: "));
            writeln!(
                f,
                "<li>{}<strong>{}</strong> to <strong>{}</strong> UTC{}</li>",
                Escaped(&whose.unwrap_or_default()),
                minute(&one.from),
                minute(&one.until),
                if one.goes_on {
                    ", and still on at the end of these records"
                } else {
                    ""
                }
            )?;
        }
        f.write_str("</ul>\n")?;
    }
    let passed = match messages {
        0 => "No message".to_owned(),
        number => plural(number, "message", "messages"),
    };
    writeln!(
        f,
        "<p>{passed} passed that would have been refused.</p>\n</div>\n</section>"
    )
}
