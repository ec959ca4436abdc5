//! For tests: an audit log in a directory of its own, and the records in it; a demand and a remembered refusal to begin with.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value;

use super::{memory::Remembered, setup::CommonSetup, write_budget::WriteBudget};
use crate::{
    audit::{AuditLog, AuditOptions},
    metrics::Metrics,
    net::Dial,
    policy::{Basis, Demand, Level, ReferenceIdentity},
    smtp::{Cause, Refusal},
};

/// An audit log that is removed when this is dropped.
pub struct TestLog {
    directory: PathBuf,
    pub common: Arc<CommonSetup>,
}

impl TestLog {
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("starttls-proxy-session-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = directory.join("audit.jsonl");
        let log =
            AuditLog::open(AuditOptions::new(file, "mail.example/test".into())).expect("a log");
        let common = CommonSetup {
            audit: Some(Arc::new(log)),
            ..Arc::unwrap_or_clone(Self::without())
        };
        Self {
            directory,
            common: Arc::new(common),
        }
    }

    /// A session setup without an audit log.
    pub fn without() -> Arc<CommonSetup> {
        Arc::new(CommonSetup {
            hostname: "proxy.example".into(),
            configuration: Arc::from("00"),
            dial: Dial::default(),
            intercept: None,
            keep_client_address: false,
            observe: false,
            add_received: true,
            listening: Arc::from([]),
            policy: None,
            audit: None,
            metrics: Arc::new(Metrics::default()),
            write_budget: Arc::new(WriteBudget::unlimited()),
        })
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.directory.join("audit.jsonl")).expect("the log")
    }

    /// Ends the log, and returns its records of this event in order. `*`: of all events.
    pub fn records(&self, event: &str) -> Vec<Value> {
        if let Some(log) = &self.common.audit {
            log.close();
        }
        let text = self.text();
        let records = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let records = records.filter(|record: &Value| event == "*" || record["event"] == event);
        let own = ["log-opened", "checkpoint"];
        records
            .filter(|record| !own.contains(&record["event"].as_str().expect("a word")))
            .collect()
    }

    /// Octets of the whole log.
    pub fn octets(&self) -> usize {
        self.text().len()
    }
}

impl Drop for TestLog {
    fn drop(&mut self) {
        if let Some(log) = &self.common.audit {
            log.close();
        }
        // If this fails, the directory stays until the temporary directory is cleaned.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A demand of this level that any peer meets, by its MX record.
pub fn demand(level: Level) -> Demand {
    Demand {
        level,
        basis: Basis::Mx,
        sni: None,
        host: None,
        references: vec![ReferenceIdentity::Anyone],
        tls13_only: false,
        testing: None,
        not_an_mx: false,
    }
}

/// A refusal of `b.test` for an expired certificate, as it is remembered.
pub fn remembered(code: u16) -> Remembered {
    Remembered {
        refusal: Refusal {
            code,
            enhanced: (7, 5),
            text: "b.test: mx.b.test[203.0.113.9] not authenticated: certificate-expired: over"
                .into(),
            cause: Cause::Verdict,
        },
        reason: "certificate-expired",
        domain: Some("b.test".into()),
        level: Some("verify".into()),
    }
}
