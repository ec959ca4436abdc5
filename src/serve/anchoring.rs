//! Lets others vouch for the audit log: a time-stamp authority stamps its checkpoints, and witnesses sign them.
//!
//! Mail never waits for that. Whoever does not answer is asked again, after longer and longer pauses. The first failure after a success
//! has a record and a log line, and each failure is counted, so the gap is seen at once and for ever.

mod witnesses;

use super::Direction;
use crate::{
    audit::{self, AskedVoucher, AuditLog, Checkpoint, Record, WitnessPolicy},
    clock,
    lookup::{HttpQuestion, HttpRoots, HttpUrl, Lookup},
    metrics::{self, Metrics},
    tls::{StampRequest, TIMESTAMP_QUERY, TIMESTAMP_REPLY, Trust},
};
use aws_lc_rs::rand;
use data_encoding::BASE64;
use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use witnesses::AskedWitness;

/// Even where nothing happens, a checkpoint gets its anchor within this time after the last, so that a missing one is a fault.
const AT_LEAST_EVERY: Duration = Duration::from_secs(20 * 3600);
/// The pause after the first failure; after each further one it is twice as long, up to the time between two anchors.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// Longest text of an error in a record, in characters.
const LONGEST_ERROR: usize = 1000;

/// Who is asked to vouch for the audit log.
#[derive(Clone, Debug)]
pub struct AnchorOptions {
    /// `--audit-tsa`: time-stamp authorities, each asked where those before it fail.
    pub authorities: Vec<HttpUrl>,
    /// `--audit-witness`: who is asked to sign, and how many must.
    pub witnesses: Option<WitnessPolicy>,
    /// `--audit-stamp-every`: shortest time between two stamps, and between two signatures of one witness.
    pub stamp_every: Duration,
    /// `--ca-file`: who vouches for the hosts of `https` addresses, instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
}

/// Starts what the options ask for. The tasks run until they are aborted.
pub(super) fn start(direction: &Direction, options: AnchorOptions) -> Vec<JoinHandle<()>> {
    let common = direction.common();
    let Some(audit) = &common.audit else {
        return Vec::new();
    };
    let (metrics, lookup) = (&common.metrics, direction.lookup());
    metrics.anchored(clock::wall());
    let every = options.stamp_every;
    let mut tasks = Vec::new();
    if let Some(policy) = &options.witnesses {
        let ca_file = options.ca_file.as_ref();
        for witness in AskedWitness::all(policy, lookup, ca_file, audit.file()) {
            let task = keep_anchored(Arc::clone(audit), Arc::clone(metrics), every, witness);
            tasks.push(tokio::spawn(task));
        }
    }
    if !options.authorities.is_empty() {
        let lookup = Arc::clone(lookup);
        let authorities = StampAuthorities { lookup, options };
        let task = keep_anchored(Arc::clone(audit), Arc::clone(metrics), every, authorities);
        tasks.push(tokio::spawn(task));
    }
    tasks
}

/// Who vouches for the host of an address.
fn roots(url: &HttpUrl, ca_file: Option<&Path>) -> Result<HttpRoots, String> {
    // The system's authorities are read anew, since they change while a process runs.
    let trust = match url.is_https() {
        true => Trust::in_servers(ca_file)?,
        false => Trust::in_nobody(),
    };
    Ok(trust.anchors())
}

/// Somebody who vouches for checkpoints.
trait Voucher {
    /// The event of the records in which it does so; also the label in the metrics.
    const KIND: &'static str;
    /// Who is asked.
    fn asked(&self) -> AskedVoucher;
    /// Asks for a checkpoint. The error says whom, and why there is nothing to record.
    fn vouch(
        &mut self,
        checkpoint: &Checkpoint,
    ) -> impl Future<Output = Result<Record, String>> + Send;
}

/// Has the newest checkpoint vouched for, again and again.
async fn keep_anchored<V: Voucher>(
    audit: Arc<AuditLog>,
    metrics: Arc<Metrics>,
    every: Duration,
    mut voucher: V,
) {
    let mut checkpoints = audit.checkpoints();
    let asked = voucher.asked().to_string();
    // What the last checkpoint that was vouched for had behind it.
    let mut known = None;
    let mut pause = None;
    while let Some(checkpoint) = next_due(&mut checkpoints, known, every).await {
        loop {
            // While nobody answered, there may have come a newer one.
            let newest = checkpoints.borrow().clone();
            let checkpoint = newest.as_ref().unwrap_or(&checkpoint);
            match voucher.vouch(checkpoint).await {
                Ok(record) => {
                    audit.append(&record);
                    let size = checkpoint.head.size;
                    log::info!(
                        "audit log: others vouch for its first {size} records ({})",
                        V::KIND
                    );
                    metrics.count(metrics::ANCHORS, V::KIND);
                    metrics.anchored(clock::wall());
                    metrics.evidence.anchored(&asked);
                    pause = None;
                    known = Some(checkpoint.events);
                    break;
                }
                Err(words) => {
                    metrics.count(metrics::ANCHOR_FAULTS, V::KIND);
                    let now = clock::wall();
                    let shown = audit.masked_text(&words);
                    metrics.evidence.not_anchored(asked.clone(), &shown, now);
                    let first = pause.is_none();
                    if first {
                        note_failure(&audit, &voucher, checkpoint.head.size, &words);
                    }
                    let now = pause.map_or(FIRST_PAUSE, |before: Duration| before * 2);
                    let now = now.min(every.max(FIRST_PAUSE));
                    pause = Some(now);
                    sleep(now).await;
                }
            }
        }
    }
}

/// Waits for a checkpoint that is to be vouched for. `known`: the events before the last one that was; `None` if none was. `None`: the
/// log has ended.
async fn next_due(
    checkpoints: &mut watch::Receiver<Option<Checkpoint>>,
    known: Option<u64>,
    every: Duration,
) -> Option<Checkpoint> {
    if known.is_some() {
        sleep(every).await;
    }
    let is_news = |checkpoint: &Option<Checkpoint>| {
        let events = checkpoint.as_ref().map(|checkpoint| checkpoint.events);
        events.is_some_and(|events| known.is_none_or(|known| events > known))
    };
    let quiet = async {
        match known {
            Some(_) => sleep(AT_LEAST_EVERY.saturating_sub(every)).await,
            None => std::future::pending().await,
        }
    };
    let mut watched = checkpoints.clone();
    tokio::select! {
        found = watched.wait_for(is_news) => found.ok()?.clone(),
        () = quiet => checkpoints.borrow().clone(),
    }
}

/// What whoever was asked has said, as a line of the program's log may have it: cut, escaped, and in quotes, so that nobody takes it for
/// something that this program says.
fn quoted(words: &str) -> String {
    let words = audit::WireText::from(words);
    format!("\"{}\"", audit::printable(words.as_str(), LONGEST_ERROR))
}

/// Records and logs that nobody vouches for new checkpoints from now on.
fn note_failure<V: Voucher>(audit: &AuditLog, voucher: &V, size: u64, words: &str) {
    log::warn!(
        "audit log: nobody vouches for the checkpoint of {size} records ({}), mail goes on: {}",
        V::KIND,
        quoted(words)
    );
    let error: String = words.chars().take(LONGEST_ERROR).collect();
    audit.append(&Record::NotAnchored(audit::NotAnchoredRecord {
        wanted: V::KIND.to_owned(),
        witness: match voucher.asked() {
            AskedVoucher::Witness(name) => name,
            AskedVoucher::Authority => None,
        },
        size,
        error: error.as_str().into(),
    }));
}

/// `--audit-tsa`
struct StampAuthorities {
    lookup: Arc<Lookup>,
    options: AnchorOptions,
}

impl Voucher for StampAuthorities {
    const KIND: &'static str = "stamp";

    fn asked(&self) -> AskedVoucher {
        AskedVoucher::Authority
    }

    async fn vouch(&mut self, checkpoint: &Checkpoint) -> Result<Record, String> {
        let mut faults = Vec::new();
        for url in &self.options.authorities {
            match self.stamp(url, checkpoint).await {
                Ok(record) => return Ok(record),
                Err(words) => faults.push(format!("{url}: {words}")),
            }
        }
        Err(faults.join("; "))
    }
}

impl StampAuthorities {
    async fn stamp(&self, url: &HttpUrl, checkpoint: &Checkpoint) -> Result<Record, String> {
        let mut random = [0; 8];
        rand::fill(&mut random).map_err(|_| "the system gives no random numbers")?;
        let imprint = audit::Hash::of(checkpoint.text().as_bytes());
        let request = StampRequest::new(imprint.0, random);
        let question = HttpQuestion {
            media_type: TIMESTAMP_QUERY,
            accept: TIMESTAMP_REPLY,
            body: &request.der(),
        };
        let roots = roots(url, self.options.ca_file.as_deref())?;
        let answer = self.lookup.post(roots, url, question).await?;
        if answer.status != 200 {
            return Err(format!("HTTP status {}, not 200", answer.status));
        }
        if !answer.media_type.starts_with(TIMESTAMP_REPLY) {
            let sent = audit::printable(&answer.media_type, 80);
            return Err(format!("answers \"{sent}\", not {TIMESTAMP_REPLY}"));
        }
        let stamp = request.token_in(&answer.body)?;
        Ok(Record::Stamp(audit::StampRecord {
            size: checkpoint.head.size,
            time: audit::timestamp(stamp.at()),
            tsa: url.to_string(),
            token: BASE64.encode(stamp.token),
        }))
    }
}

#[cfg(test)]
mod tests;
