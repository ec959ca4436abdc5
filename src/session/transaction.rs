//! What the record of a message says about its transaction: the decisions that allowed its parties, and its digest.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest;

use super::fields::{plain_decision, recipient_word};
use crate::{
    audit::{DecisionField, DirectionField, VerdictField},
    smtp::{Completed, Domain, Question, Recipient},
};

/// Memory for so many recipients is kept for the next transaction.
const KEPT: usize = 8;

/// The decisions of one transaction, and the digest of its message so far.
#[derive(Default)]
pub(super) struct TransactionDecisions {
    /// Outbound: the decision that allowed each recipient.
    recipients: HashMap<Recipient, Arc<DecisionField>>,
    /// Inbound: the decision that allowed the sender. A sender that no rule names has none.
    sender: Option<(Option<Domain>, Arc<DecisionField>)>,
    /// `None` before the message's first octet.
    digest: Option<digest::Context>,
}

impl TransactionDecisions {
    /// A transaction begins: earlier decisions are not about its mail.
    pub(super) fn begins(&mut self) {
        self.recipients.clear();
        self.recipients.shrink_to(KEPT);
        self.sender = None;
        self.digest = None;
    }

    /// Keeps the decision that allowed a recipient or a sender.
    pub(super) fn allow(&mut self, about: &Question, decision: &Arc<DecisionField>) {
        let decision = Arc::clone(decision);
        match about {
            Question::Recipient(recipient) => match self.recipients.get_mut(recipient) {
                Some(known) => *known = decision,
                None => {
                    self.recipients.insert(recipient.clone(), decision);
                }
            },
            Question::Sender(sender) => self.sender = Some((sender.clone(), decision)),
            Question::Peer | Question::Login => {}
        }
    }

    #[cfg(test)]
    pub(super) fn allowed_recipients(&self) -> impl Iterator<Item = &DecisionField> {
        self.recipients.values().map(AsRef::as_ref)
    }

    /// The first octet of a message is about to pass.
    pub(super) fn message_begins(&mut self) {
        self.digest = None;
    }

    /// Octets of the message.
    pub(super) fn content(&mut self, octets: &[u8]) {
        let new = || digest::Context::new(&digest::SHA256);
        self.digest.get_or_insert_with(new).update(octets);
    }

    /// The decisions about the message's own parties, and the SHA-256 of its octets in hexadecimal digits. The transaction is over.
    pub(super) fn finish(
        &mut self,
        direction: DirectionField,
        message: &Completed,
    ) -> (Vec<Arc<DecisionField>>, String) {
        let mut decisions: Vec<Arc<DecisionField>> = Vec::new();
        if direction == DirectionField::Inbound {
            // A decision about another sender is not about this message.
            let own = self
                .sender
                .take()
                .filter(|(sender, _)| *sender == message.sender_domain);
            decisions.extend(own.map(|(_, decision)| decision));
        } else if message.recipients.is_empty() {
            // Chunks went with the envelope, and the server accepted nobody. These were allowed in the transaction.
            let mut recipients: Vec<_> = self.recipients.iter().collect();
            recipients.sort_by_key(|(recipient, _)| recipient_word(recipient));
            for (_, decision) in recipients {
                if !decisions.contains(decision) {
                    decisions.push(Arc::clone(decision));
                }
            }
        } else {
            for to in message.recipients.iter() {
                let recipient = to.recipient();
                let decision = match self.recipients.get(&recipient) {
                    Some(decision) => Arc::clone(decision),
                    None => Arc::new(undecided(&recipient)),
                };
                let is_same = |one: &Arc<_>| Arc::ptr_eq(one, &decision) || *one == decision;
                if !decisions.iter().rev().any(is_same) {
                    decisions.push(decision);
                }
            }
        }
        let digest = match self.digest.take() {
            Some(context) => context.finish(),
            None => digest::digest(&digest::SHA256, &[]),
        };
        self.begins();
        (decisions, data_encoding::HEXLOWER.encode(digest.as_ref()))
    }
}

/// For a recipient without a decision. The record never says that it was protected.
fn undecided(recipient: &Recipient) -> DecisionField {
    log::error!("no decision is known for a recipient that the server accepted");
    plain_decision(
        recipient_word(recipient),
        VerdictField::Unprotected,
        None,
        String::from("no decision is known"),
    )
}
