//! How a process ends: sessions may finish, then are cut off, then the last record is written; each within a time of its own,
//! so that the end comes whatever hangs.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    signal::unix::Signal,
    sync::watch,
    time::{sleep, timeout},
};

use super::limits::Limits;
use crate::{audit::AuditLog, clock, session::drive::Stop};

/// Sessions that are cut off have so long to write down what they know.
const LAST_RECORDS: Duration = Duration::from_secs(3);
/// How often it is looked whether the audit log works.
const LOOK: Duration = Duration::from_millis(100);
/// While the process ends, a disk that has not answered for so long is not waited for: nothing could be acknowledged.
const NO_ANSWER: Duration = Duration::from_secs(10);
/// How long a session waits for the record of a message; the client's own limit is 10 minutes (RFC 5321 §4.5.3.2.6).
const RECORD: Duration = Duration::from_secs(60);

type Audit = Option<Arc<AuditLog>>;

/// Lets sessions finish, at most for `limit`, then cuts them off. A second signal cuts them off at once.
pub(super) async fn drain(
    limits: &Limits,
    limit: Duration,
    audit: &Audit,
    stopping: &watch::Sender<Stop>,
    (terminate, interrupt): (&mut Signal, &mut Signal),
) {
    log::info!(
        "stopping: sessions may finish their message within {} s",
        limit.as_secs()
    );
    stopping.send_replace(Stop::Drain);
    let how = tokio::select! {
        () = limits.empty() => return log::info!("stopped: every session has ended"),
        () = sleep(limit) => "sessions were cut off; their messages stay with the senders",
        () = unwritable(audit, NO_ANSWER) => "the audit log cannot be written; messages stay with their senders",
        _ = terminate.recv() => "at once, asked a second time",
        _ = interrupt.recv() => "at once, asked a second time",
    };
    stopping.send_replace(Stop::Cut);
    let ended = timeout(LAST_RECORDS, async {
        while timeout(LOOK, limits.empty()).await.is_err() {
            if let Some(audit) = audit
                && !audit.healthy()
            {
                audit.give_up();
            }
        }
    });
    if ended.await.is_err() {
        log::error!("some sessions did not end; what they know is not recorded");
    }
    log::warn!("stopped: {how}");
}

/// Tells sessions that have waited too long for a disk that does not answer. Ends never.
pub(super) async fn give_up_on_a_stuck_disk(audit: Arc<AuditLog>) {
    let audit = Some(audit);
    loop {
        unwritable(&audit, RECORD).await;
        if let Some(audit) = &audit {
            audit.give_up();
        }
    }
}

/// Returns when the log could not be written for so long.
async fn unwritable(audit: &Audit, limit: Duration) {
    let Some(audit) = audit else {
        return pending().await;
    };
    let mut since = clock::instant();
    loop {
        let now = clock::instant();
        if audit.healthy() {
            since = now;
        } else if now.duration_since(since) >= limit {
            return;
        }
        sleep(LOOK).await;
    }
}
