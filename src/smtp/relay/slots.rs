//! One FIFO of replies: those we owe the client, in the order of its commands (RFC 2920 §3.2), ours and the server's alike.
//!
//! A server's reply belongs to the first command that waits for one, by counting and by nothing else (RFC 2920 §3.1).

use crate::smtp::{path::ForwardPath, reply::Reply};
use std::collections::VecDeque;

/// Most replies owed at once; beyond it no command is taken.
const MAX_SLOTS: usize = 128;

/// What a server's reply answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// MAIL that the client was answered long ago.
    HeldMail,
    Mail,
    /// RCPT for this recipient.
    Rcpt(ForwardPath),
    Data,
    /// The end of DATA.
    EndOfData,
    Chunk {
        last: bool,
    },
    /// Our own chunk with the trace line; the client knows nothing of it.
    TraceChunk,
    Rset,
    /// Our own RSET; the client knows nothing of it.
    SilentRset,
    Noop,
    Hello,
    Auth,
    Quit,
}

#[derive(Debug)]
enum Slot {
    Ours {
        reply: Reply,
        closes: bool,
    },
    Server {
        awaited: Awaited,
        unsent: Option<Vec<u8>>,
    },
}

/// The FIFO.
#[derive(Debug, Default)]
pub(super) struct Slots(VecDeque<Slot>);

impl Slots {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_SLOTS
    }

    /// Whether any reply of the server is awaited.
    pub(super) fn awaits_server(&self) -> bool {
        self.0
            .iter()
            .any(|slot| matches!(slot, Slot::Server { .. }))
    }

    /// What the server's next reply answers.
    pub(super) fn awaited(&self) -> Option<&Awaited> {
        match self.0.front() {
            Some(Slot::Server {
                awaited,
                unsent: None,
            }) => Some(awaited),
            _ => None,
        }
    }

    /// The server's next reply is here.
    pub(super) fn answered(&mut self) -> Option<Awaited> {
        self.awaited()?;
        match self.0.pop_front() {
            Some(Slot::Server { awaited, .. }) => Some(awaited),
            _ => None,
        }
    }

    /// A reply of ours in its place; `closes`: nothing comes behind it.
    pub(super) fn ours(&mut self, reply: Reply, closes: bool) {
        self.0.push_back(Slot::Ours { reply, closes });
    }

    /// A command that has been sent.
    pub(super) fn sent(&mut self, awaited: Awaited) {
        self.0.push_back(Slot::Server {
            awaited,
            unsent: None,
        });
    }

    /// A command that waits until it may be sent.
    pub(super) fn waiting(&mut self, awaited: Awaited, line: Vec<u8>) {
        self.0.push_back(Slot::Server {
            awaited,
            unsent: Some(line),
        });
    }

    /// The next reply of ours that is due, and whether nothing comes behind it.
    pub(super) fn due(&mut self) -> Option<(Reply, bool)> {
        match self.0.pop_front()? {
            Slot::Ours { reply, closes } => Some((reply, closes)),
            slot => {
                self.0.push_front(slot);
                None
            }
        }
    }

    /// The next waiting command that may be sent now: each in turn where the server takes pipelined commands, else only
    /// when no reply is outstanding.
    pub(super) fn sendable(&mut self, pipelining: bool) -> Option<Vec<u8>> {
        for slot in &mut self.0 {
            match slot {
                Slot::Ours { .. } => {}
                Slot::Server { unsent, .. } if unsent.is_some() => return unsent.take(),
                Slot::Server { .. } if pipelining => {}
                Slot::Server { .. } => return None,
            }
        }
        None
    }

    /// The held MAIL was refused: recipients that were not sent yet are answered by that refusal.
    pub(super) fn refuse_unsent(&mut self, refusal: &Reply) {
        for slot in &mut self.0 {
            if let Slot::Server {
                awaited: Awaited::Rcpt(_),
                unsent: Some(_),
            } = slot
            {
                *slot = Slot::Ours {
                    reply: refusal.clone(),
                    closes: false,
                };
            }
        }
    }

    /// Nothing is owed any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
