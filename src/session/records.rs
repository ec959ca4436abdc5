//! The records of a process: its start, its reloads, its end.

use std::{sync::Arc, time::SystemTime};

use super::setup::CommonSetup;
use crate::{
    audit::{self, AuditLog, Record},
    policy::{Level, table::Table},
};

/// The policy table as the records `start` and `policy-change` show it. Its exemptions are all the rules that let mail pass without an
/// authenticated peer at this time: entries past their date are none.
pub(crate) fn policy_file(
    name: &str,
    sha256: String,
    table: &Table,
    exempt: &[String],
    now: SystemTime,
) -> audit::PolicyField {
    let by_table = table
        .applying(now)
        .filter(|entry| entry.level <= Level::Encrypt)
        .map(|entry| audit::ExemptionField {
            entry: entry.key.to_string(),
            level: entry.level.to_string(),
            until: entry.until.as_ref().map(ToString::to_string),
            reason: entry.reason.clone(),
            rule: format!("{name}:{}", entry.line),
        });
    let by_flag = exempt.iter().map(|prefix| audit::ExemptionField {
        entry: prefix.clone(),
        level: String::from("exempt"),
        until: None,
        reason: None,
        rule: format!("--exempt {prefix}"),
    });
    audit::PolicyField {
        file: name.to_owned(),
        sha256,
        tafiles: Vec::new(),
        entries: table.entries().len() as u64,
        exemptions: by_table.chain(by_flag).collect(),
    }
}

/// The process begins to serve.
pub(crate) fn started(common: &CommonSetup, direction: audit::DirectionField) {
    if let Some(audit) = &common.audit {
        audit.append(&Record::Start(audit::StartRecord {
            version: crate::VERSION.to_owned(),
            direction,
            host: common.hostname.clone(),
            pid: std::process::id(),
            configuration: common.configuration.to_string(),
            arguments: std::env::args()
                .map(|argument| argument.as_str().into())
                .collect(),
            policy: common.policy.as_deref().cloned(),
        }));
    }
}

/// Files were read again, or why not.
pub(crate) fn reloaded(common: &CommonSetup, files: Vec<audit::ReloadedFileField>) {
    if let Some(audit) = &common.audit {
        audit.append(&Record::Reload(audit::ReloadRecord {
            files,
            configuration: common.configuration.to_string(),
        }));
    }
}

/// A reload changed the policy table, or a file that it names. Without a change, nothing is recorded.
pub(crate) fn policy_changed(old: &CommonSetup, new: &CommonSetup) {
    let content = |common: &CommonSetup| {
        let policy = common.policy.as_ref();
        policy.map(|policy| (policy.sha256.clone(), policy.tafiles.clone()))
    };
    if let Some(audit) = &new.audit
        && content(old) != content(new)
    {
        audit.append(&Record::PolicyChange(audit::PolicyChangeRecord {
            before: content(old).map(|(sha256, _)| sha256),
            policy: new.policy.as_deref().cloned(),
        }));
    }
}

/// The process ends in good order: writes the last record and checkpoint. `reason` is the signal's name. Returns whether all records
/// are on disk.
pub(crate) async fn stopped(
    audit: Arc<AuditLog>,
    reason: &str,
    sessions: u64,
    messages: u64,
) -> bool {
    // Closing the log writes it and waits for the disk.
    audit.append(&Record::Stop(audit::StopRecord {
        reason: reason.to_owned(),
        sessions,
        messages,
    }));
    // Closing waits for the writer's thread, which would block the runtime.
    tokio::task::spawn_blocking(move || audit.close())
        .await
        .unwrap_or(false)
}
