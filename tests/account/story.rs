//! A session in full, for people.

use crate::{client::Session, heard::Connection};
use serde_json::Value;
use std::fmt::Write as _;

/// What client and server wrote down, and what the records say.
pub fn story(session: &Session, connections: &[&Connection], records: &[&Value]) -> String {
    let mut story = String::new();
    let _ = write!(story, "\n    the client:");
    for line in &session.transcript {
        let _ = write!(story, "\n      {line}");
    }
    for connection in connections {
        let _ = write!(story, "\n    the server:");
        for line in &connection.transcript {
            let _ = write!(story, "\n      {line}");
        }
    }
    let _ = write!(story, "\n    the records:");
    for record in records {
        let mut record = (*record).clone();
        prune(&mut record);
        let _ = write!(story, "\n      {record}");
    }
    story + "\n"
}

/// The record without long fields that are compared nowhere.
fn prune(record: &mut Value) {
    match record {
        Value::Object(fields) => {
            for long in [
                "findings",
                "chain",
                "prev",
                "configuration",
                "host",
                "issuer",
                "subject",
                "spki_sha256",
            ] {
                fields.remove(long);
            }
            fields.values_mut().for_each(prune);
        }
        Value::Array(values) => values.iter_mut().for_each(prune),
        _ => {}
    }
}
