//! What the next session with a server should know of this one.

use std::net::IpAddr;

use super::super::{
    fields::judged_word,
    memory::{HostMemory, Remembered},
    setup::OutboundSetup,
};
use crate::{
    clock,
    policy::{Decision, NextHop, Scope, Verdict},
    smtp::{Keyword, Refusal},
};

/// The faults of hosts, as sessions of one client tell and read them. With `--upstream` nothing is remembered: there is no other
/// host to which the client could turn.
pub(super) struct NextSession<'a> {
    pub(super) setup: &'a OutboundSetup,
    pub(super) client: IpAddr,
}

impl NextSession<'_> {
    fn memory(&self) -> Option<&HostMemory> {
        let has_hosts = self.setup.upstream.is_none();
        has_hosts.then_some(&*self.setup.memory)
    }

    /// Why a session with this server is refused at its greeting.
    pub(super) fn refusal(&self, server: IpAddr) -> Option<Remembered> {
        let memory = self.memory().filter(|_| !self.setup.common.observe)?;
        memory.refusal(self.client, server, clock::instant())
    }

    /// A certificate that failed ends this session. The client's next session there is refused at the greeting, and so moves on.
    pub(super) fn failed(&self, decision: &Decision, refusal: &Refusal) {
        let host_to_blame = matches!(&decision.verdict, Verdict::Refused(reason, _) if reason.scope() == Scope::Host);
        if refusal.code == 421
            && host_to_blame
            && let Some(memory) = self.memory()
        {
            let (server, fault) = (decision.ask.server, fault(decision, refusal.clone()));
            memory.fault_of_one_session(self.client, server, fault, clock::instant());
        }
    }

    /// Refuses every client at the greeting for some minutes. If a table entry could let mail pass in the clear, only this client's
    /// next session is refused: its recipient is not known at the greeting, and the entry may be for that recipient.
    pub(super) fn host_failed(&self, server: IpAddr, fault: Remembered) {
        let Some(memory) = self.memory() else { return };
        let now = clock::instant();
        if self.setup.table.has_plaintext_entries(clock::wall()) {
            memory.fault_of_one_session(self.client, server, fault, now);
        } else {
            memory.host_fault(server, fault, now);
        }
    }

    /// The server lacked this inside TLS.
    pub(super) fn lacks(&self, server: IpAddr, keyword: Keyword) {
        if let Some(memory) = self.memory() {
            memory.lacking(self.client, server, keyword, clock::instant());
        }
    }

    /// Keywords that this client is not shown, because its server lacked them the last time.
    pub(super) fn hidden_keywords(&self, server: IpAddr) -> Vec<Keyword> {
        let memory = &self.setup.memory;
        memory.hidden(self.client, server, clock::instant())
    }
}

/// What the next session there is told of this decision.
pub(super) fn fault(decision: &Decision, refusal: Refusal) -> Remembered {
    Remembered {
        reason: match &decision.verdict {
            Verdict::Refused(reason, _) => reason.word(),
            Verdict::Authorised(_) | Verdict::Unprotected(_) => refusal.cause.word(),
        },
        domain: match decision.ask.next_hop {
            NextHop::Address => None,
            _ => Some(judged_word(decision)),
        },
        level: decision
            .demand
            .as_ref()
            .map(|demand| demand.level.to_string()),
        refusal,
    }
}
