//! Finds the records and the connections to the server that belong to a session.

use crate::{
    client::Session,
    compare::{Records, Run, text},
    heard::{Connection, said_by},
    rules::Way,
};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};

/// Of the sessions at one end, the one that is this client's: by its EHLO name, else by its port, else by their order.
pub fn take_own<'r>(
    ids: &mut Vec<&'r str>,
    session: &Session,
    records: &BTreeMap<&'r str, Vec<&Value>>,
) -> Option<&'r str> {
    let names = |id: &&str, pointer: &str, is: &dyn Fn(&str) -> bool| {
        let texts = records[id]
            .iter()
            .filter_map(|record| text(record, pointer));
        texts.into_iter().any(is)
    };
    let from = session.from.to_string();
    let named = ids.iter().position(|id| {
        names(id, "/session/hello", &|name| {
            said_by(name) == Some(session.number)
        })
    });
    let nameless = |id: &&str| !names(id, "/session/hello", &|_| true);
    let dialled = || {
        ids.iter()
            .position(|id| nameless(id) && names(id, "/session/client/from", &|own| own == from))
    };
    let own = named
        .or_else(dialled)
        .or_else(|| ids.iter().position(nameless))?;
    Some(ids.remove(own))
}

impl Run {
    /// The end of the client's connection that identifies its session. A redirected connection may come from another port than the
    /// client knows.
    pub fn end_of(&self, record: &Value) -> String {
        let pointer = match self.rules.way {
            Way::Gate => "/session/client/to",
            Way::Upstream | Way::Inbound => "/session/client/from",
        };
        text(record, pointer).unwrap_or_default().to_owned()
    }

    /// The connections on which the session's EHLO name came, and those that its records name. Ports are used again and again, so a
    /// record means the first connection of these ends that is not older than the session.
    pub fn connections_of(&self, session: &Session, records: &Records<'_>) -> Vec<&Connection> {
        let ends = |record: &&Value| {
            let end = |pointer| text(record, pointer).map(str::to_owned);
            Some((end("/session/server/from")?, end("/session/server/to")?))
        };
        let named: HashSet<(String, String)> = records.iter().filter_map(ends).collect();
        let named: HashSet<usize> = named
            .iter()
            .filter_map(|(from, to)| {
                let ends = (from.parse().ok()?, to.parse().ok()?);
                let mut younger = self
                    .connections
                    .iter()
                    .filter(|one| one.began >= session.began);
                younger
                    .find(|one| (one.from, one.to) == ends)
                    .map(|one| one.number)
            })
            .collect();
        let own = |one: &&Connection| match one.session() {
            Some(number) => number == session.number,
            None => named.contains(&one.number),
        };
        self.connections.iter().filter(own).collect()
    }
}
