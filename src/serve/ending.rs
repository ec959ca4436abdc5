//! How a process ends: sessions may finish, then they are cut off, then the last record is written. Each step has a time limit, so
//! that the end comes whatever hangs.

use std::{future::pending, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{
    signal::unix::Signal,
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::limits::Limits;
use crate::{audit::AuditLog, clock, session::drive::Stop};

/// Longest time for sessions that were cut off to write their last records.
const LAST_RECORDS: Duration = Duration::from_secs(3);
/// How often this module checks whether the audit log can be written.
const LOOK: Duration = Duration::from_millis(100);
/// While the process ends, sessions are cut off when the disk has not answered for this long: no message could be acknowledged.
const NO_ANSWER: Duration = Duration::from_secs(10);
/// Longest time that a session waits for the record of a message. The client's own limit is 10 minutes (RFC 5321 §4.5.3.2.6).
const RECORD: Duration = Duration::from_secs(60);

/// After another process has taken over: nobody waits for this one to end, so sessions go on as if nothing had happened, for at most
/// `limit`. A signal ends the wait.
pub(super) async fn settle(
    limits: &Limits,
    limit: Duration,
    (terminate, interrupt): (&mut Signal, &mut Signal),
) {
    tokio::select! {
        () = limits.empty() => {}
        () = sleep(limit) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Waits until the process before this one, which may be ending too, has recorded its last session: for at most `limit`, which is that
/// process's own time limit, and the time for last records.
pub(super) async fn await_predecessor(taking_in: Option<JoinHandle<()>>, limit: Duration) {
    let Some(taking_in) = taking_in else { return };
    let ended = spawn_blocking(move || taking_in.join());
    if timeout(limit + LAST_RECORDS, ended).await.is_err() {
        log::error!(
            "the process before this one still has sessions; what they know is not recorded"
        );
    }
}

/// Lets sessions finish for at most `limit`, then cuts them off. A second signal cuts them off at once.
pub(super) async fn drain(
    limits: &Limits,
    limit: Duration,
    audit: Option<&AuditLog>,
    stopping: &watch::Sender<Stop>,
    (terminate, interrupt): (&mut Signal, &mut Signal),
) {
    // First: whoever reads the line finds that it is so.
    stopping.send_replace(Stop::Drain);
    log::info!(
        "stopping: sessions may finish their message within {} s",
        limit.as_secs()
    );
    let how = tokio::select! {
        () = limits.empty() => return log::info!("stopped: every session has ended"),
        () = sleep(limit) => "sessions were cut off; their messages stay with the senders",
        () = unwritable(audit, NO_ANSWER) => "the audit log cannot be written; messages stay with their senders",
        () = no_writer(audit) => "nothing writes the audit log any more; messages stay with their senders",
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

/// Returns when the thread that writes the log has ended by a fault of this program.
pub(super) async fn no_writer(audit: Option<&AuditLog>) {
    match audit {
        Some(audit) => audit.writer_died().await,
        None => pending().await,
    }
}

/// Whenever the disk has not answered for too long, tells the sessions that wait for it. Never returns.
pub(super) async fn give_up_on_a_stuck_disk(audit: Arc<AuditLog>) {
    loop {
        unwritable(Some(&audit), RECORD).await;
        audit.give_up();
    }
}

/// Returns when the log could not be written for as long as `limit`.
async fn unwritable(audit: Option<&AuditLog>, limit: Duration) {
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
