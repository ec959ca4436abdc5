//! One FIFO of the replies that are owed to the client, our own and the server's, in the order of its commands (RFC 2920 §3.2).
//!
//! A server's reply belongs to the first command that waits for one. Only counting decides that (RFC 2920 §3.1).

use crate::smtp::{
    path::{ForwardPath, ForwardPaths},
    reply::Reply,
};
use std::collections::VecDeque;

/// Most replies owed at once. Beyond them no command is taken. MAIL, as many RCPT as a message may have, and DATA go in one group, so
/// that they cost no round trip more than without this proxy.
const MAX_SLOTS: usize = 1024;
/// Replies for which there is room while none is owed.
const KEPT: usize = 16;

/// Takes what is first. An empty queue keeps room for no more than `kept`, because a session lives longer than a large group.
pub(super) fn take_first<T>(queue: &mut VecDeque<T>, kept: usize) -> Option<T> {
    let first = queue.pop_front();
    if queue.is_empty() && queue.capacity() > kept {
        *queue = VecDeque::new();
    }
    first
}

/// The recipient of a RCPT; see [`Slots::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamedRecipient(usize);

/// The command that a server's reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// MAIL that was held, and to which the client has its answer already.
    HeldMail,
    Mail,
    Rcpt(NamedRecipient),
    Data,
    /// The end of DATA.
    EndOfData,
    /// The dot of ours that ends an empty message, because 354 came although nobody was accepted.
    EmptyMessage,
    Chunk {
        last: bool,
    },
    /// Our own chunk with the trace line, which the client does not know of.
    TraceChunk,
    Rset,
    /// Our own RSET, which the client does not know of.
    SilentRset,
    Noop,
    Hello,
    Auth,
    Quit,
}

impl Awaited {
    /// Whether other commands may stand behind this one in a group (RFC 2920 §3.1).
    fn may_be_followed(&self) -> bool {
        matches!(
            self,
            Self::HeldMail
                | Self::Mail
                | Self::Rcpt(_)
                | Self::Rset
                | Self::SilentRset
                | Self::EmptyMessage
        )
    }

    /// Whether the server has nothing of a transaction behind this one, whatever it answers, or the session ends.
    fn resets(&self) -> bool {
        matches!(self, Self::Rset | Self::SilentRset | Self::EmptyMessage)
    }

    /// Whether the client waits for a reply to this one.
    fn is_of_the_client(&self) -> bool {
        !matches!(
            self,
            Self::HeldMail | Self::TraceChunk | Self::SilentRset | Self::EmptyMessage
        )
    }
}

/// A reply of our own, in its place.
#[derive(Debug)]
pub(super) struct OwnReply {
    pub(super) reply: Reply<'static>,
    /// The session ends behind it.
    pub(super) closes: bool,
    /// It answers MAIL or RCPT, so it may wait for the replies to the rest of its group (RFC 2920 §3.2).
    pub(super) may_wait: bool,
}

#[derive(Debug)]
enum Slot {
    Ours(OwnReply),
    Server {
        awaited: Awaited,
        /// The command, until it is sent.
        unsent: Option<Vec<u8>>,
    },
}

impl Slot {
    /// Whether no command waits to be sent here.
    fn is_settled(&self) -> bool {
        matches!(self, Self::Ours(_) | Self::Server { unsent: None, .. })
    }
}

/// The replies that are owed; the text of this module describes them.
#[derive(Debug, Default)]
pub(super) struct Slots {
    queue: VecDeque<Slot>,
    /// The recipients of the commands in the queue, and of those answered since the queue was last empty.
    recipients: ForwardPaths,
    /// In so many at the front no command waits to be sent. There may be more.
    settled: usize,
}

impl Slots {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= MAX_SLOTS
    }

    /// Whether any reply of the server is awaited.
    pub(super) fn awaits_server(&self) -> bool {
        self.queue
            .iter()
            .any(|slot| matches!(slot, Slot::Server { .. }))
    }

    /// The commands that the server has not answered, each with whether it was sent.
    fn awaiting(&self) -> impl Iterator<Item = (&Awaited, bool)> {
        self.queue.iter().filter_map(|slot| match slot {
            Slot::Server { awaited, unsent } => Some((awaited, unsent.is_none())),
            Slot::Ours(_) => None,
        })
    }

    /// Whether a message may follow in the same group: all commands so far were sent, and none of them must be the last of its group.
    pub(super) fn may_be_followed(&self) -> bool {
        self.awaiting()
            .all(|(awaited, sent)| sent && awaited.may_be_followed())
    }

    /// Whether a transaction may begin in the same group: nothing is outstanding but what ends the one before.
    pub(super) fn only_reset(&self) -> bool {
        self.queue.iter().all(|slot| match slot {
            Slot::Server { awaited, unsent } => unsent.is_none() && awaited.resets(),
            Slot::Ours(_) => false,
        })
    }

    /// Whether the client is owed a reply of the server, and all that the server must answer was sent to it.
    pub(super) fn is_with_server(&self) -> bool {
        self.queue.iter().skip(self.settled).all(Slot::is_settled)
            && self
                .awaiting()
                .any(|(awaited, _)| awaited.is_of_the_client())
    }

    /// The recipients that were sent and not answered.
    pub(super) fn unanswered_recipients(&self) -> impl Iterator<Item = ForwardPath<'_>> {
        self.awaiting().filter_map(|(awaited, sent)| match awaited {
            Awaited::Rcpt(to) if sent => Some(self.recipient(*to)),
            _ => None,
        })
    }

    /// Keeps the recipient of a RCPT.
    pub(super) fn name(&mut self, to: &ForwardPath) -> NamedRecipient {
        self.recipients.push(to);
        NamedRecipient(self.recipients.len() - 1)
    }

    /// A recipient that is in the queue, or was answered just now.
    pub(super) fn recipient(&self, named: NamedRecipient) -> ForwardPath<'_> {
        // One that is lost ends the session: nobody may be told of a message that its record would not show whole.
        self.recipients.get(named.0).expect("it was put there")
    }

    /// Forgets the recipients once no reply is owed: none of them is asked for any more.
    pub(super) fn forget_answered(&mut self) {
        if self.queue.is_empty() {
            self.recipients.clear();
        }
    }

    /// The command that the server's next reply answers.
    pub(super) fn awaited(&self) -> Option<Awaited> {
        match self.queue.front() {
            Some(Slot::Server {
                awaited,
                unsent: None,
            }) => Some(*awaited),
            _ => None,
        }
    }

    /// Takes the command that the server's next reply answers, because that reply is here.
    pub(super) fn answered(&mut self) -> Option<Awaited> {
        let awaited = self.awaited()?;
        self.take_first();
        Some(awaited)
    }

    /// Queues a reply of our own.
    pub(super) fn ours(&mut self, reply: Reply<'static>) {
        self.push_ours(reply, false, false);
    }

    /// Queues a reply of our own to MAIL or RCPT.
    pub(super) fn ours_in_group(&mut self, reply: Reply<'static>) {
        self.push_ours(reply, false, true);
    }

    /// Queues a reply of our own behind which the session ends.
    pub(super) fn ours_at_end(&mut self, reply: Reply<'static>) {
        self.push_ours(reply, true, false);
    }

    fn push_ours(&mut self, reply: Reply<'static>, closes: bool, may_wait: bool) {
        self.queue.push_back(Slot::Ours(OwnReply {
            reply,
            closes,
            may_wait,
        }));
    }

    /// Queues the reply to a command that has been sent.
    pub(super) fn sent(&mut self, awaited: Awaited) {
        self.queue.push_back(Slot::Server {
            awaited,
            unsent: None,
        });
    }

    /// Queues a command that waits until it may be sent, and its reply.
    pub(super) fn waiting(&mut self, awaited: Awaited, line: Vec<u8>) {
        self.queue.push_back(Slot::Server {
            awaited,
            unsent: Some(line),
        });
    }

    /// Takes the next reply of our own that is due.
    pub(super) fn due(&mut self) -> Option<OwnReply> {
        let Some(Slot::Ours(_)) = self.queue.front() else {
            return None;
        };
        match self.take_first() {
            Some(Slot::Ours(own)) => Some(own),
            _ => None,
        }
    }

    fn take_first(&mut self) -> Option<Slot> {
        self.settled = self.settled.saturating_sub(1);
        take_first(&mut self.queue, KEPT)
    }

    /// Takes the next waiting command that may be sent now: each in turn where the server accepts pipelined commands, otherwise only
    /// when no reply is outstanding.
    pub(super) fn sendable(&mut self, pipelining: bool) -> Option<Vec<u8>> {
        if !pipelining {
            let first = self.queue.iter_mut().find_map(|slot| match slot {
                Slot::Server { unsent, .. } => Some(unsent),
                Slot::Ours(_) => None,
            });
            return first?.take();
        }
        while let Some(slot) = self.queue.get_mut(self.settled) {
            self.settled += 1;
            if let Slot::Server { unsent, .. } = slot
                && unsent.is_some()
            {
                return unsent.take();
            }
        }
        None
    }

    /// The held MAIL was refused: that refusal answers the recipients that were not sent yet.
    pub(super) fn refuse_unsent(&mut self, refusal: &Reply<'static>) {
        for slot in &mut self.queue {
            if let Slot::Server {
                awaited: Awaited::Rcpt(_),
                unsent: Some(_),
            } = slot
            {
                *slot = Slot::Ours(OwnReply {
                    reply: refusal.clone(),
                    closes: false,
                    may_wait: false,
                });
            }
        }
    }

    /// Forgets the last reply that is owed.
    pub(super) fn forget_last(&mut self) {
        self.queue.pop_back();
        self.settled = self.settled.min(self.queue.len());
    }

    /// Forgets all replies that are owed.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_wait_are_sent_in_order_all_at_once_only_where_that_is_offered() {
        for (pipelining, at_once) in [(true, 3), (false, 1)] {
            let mut slots = Slots::default();
            slots.ours(Reply::new(250, "2.0.0 ok"));
            for line in [b"1", b"2", b"3"] {
                slots.waiting(Awaited::Noop, line.to_vec());
            }
            let mut sent = Vec::new();
            while let Some(line) = slots.sendable(pipelining) {
                sent.extend(line);
            }
            assert_eq!(sent, b"123"[..at_once]);
            assert!(slots.due().is_some() && slots.due().is_none());
            while slots.answered().is_some() {
                sent.extend(slots.sendable(pipelining).unwrap_or_default());
            }
            assert_eq!((sent.as_slice(), slots.is_empty()), (&b"123"[..], true));
        }
    }

    #[test]
    fn a_session_does_not_keep_the_room_of_a_large_group() {
        let mut slots = Slots::default();
        for _ in 0..MAX_SLOTS {
            slots.sent(Awaited::Noop);
        }
        assert!(slots.is_full());
        while slots.answered().is_some() {}
        assert!(slots.queue.capacity() <= KEPT);
    }

    #[test]
    fn a_recipient_is_known_until_its_reply_was_handled_and_none_once_no_reply_is_owed() {
        let mut slots = Slots::default();
        let name = |slots: &mut Slots, path: &[u8]| {
            let to = slots.name(&ForwardPath::parse(path, false).expect("a path"));
            slots.sent(Awaited::Rcpt(to));
        };
        let answered = |slots: &mut Slots| {
            let Some(Awaited::Rcpt(to)) = slots.answered() else {
                panic!("no recipient");
            };
            let path = slots.recipient(to).path().to_vec();
            slots.forget_answered();
            path
        };
        // Two in a group, with another transaction behind them, and one whose group they are not in.
        name(&mut slots, b"a@one.example");
        name(&mut slots, b"b@two.example");
        slots.sent(Awaited::Rset);
        assert_eq!(answered(&mut slots), b"a@one.example");
        name(&mut slots, b"c@three.example");
        assert_eq!(answered(&mut slots), b"b@two.example");
        assert_eq!(slots.answered(), Some(Awaited::Rset));
        assert_eq!(answered(&mut slots), b"c@three.example");
        assert!(slots.recipients.is_empty());
        name(&mut slots, b"d@four.example");
        assert_eq!(answered(&mut slots), b"d@four.example");
        assert!(slots.recipients.is_empty());
    }
}
