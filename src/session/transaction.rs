//! What the record of a message says about its transaction: the decisions that allowed its parties, and its digest.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest;

use super::fields::{plain_decision, recipient_word};
use crate::{
    audit::{DecisionField, DirectionField, VerdictField},
    smtp::{Completed, Domain, Question, Recipient},
};

/// The decisions of one transaction, and the digest of its message so far.
pub(super) struct TransactionDecisions {
    /// Outbound: the decision that allowed each recipient.
    recipients: HashMap<Recipient, Arc<DecisionField>>,
    /// Inbound: the decision that allowed the sender. A sender that no rule names has none.
    sender: Option<(Option<Domain>, Arc<DecisionField>)>,
    digest: digest::Context,
}

impl Default for TransactionDecisions {
    fn default() -> Self {
        Self {
            recipients: HashMap::new(),
            sender: None,
            digest: digest::Context::new(&digest::SHA256),
        }
    }
}

impl TransactionDecisions {
    /// Keeps the decision that allowed a recipient or a sender. Its findings are not kept: they stand in the record of the verdict.
    pub(super) fn allow(&mut self, about: &Question, decision: DecisionField) {
        let decision = Arc::new(DecisionField {
            findings: None,
            ..decision
        });
        match about {
            Question::Recipient(recipient) => {
                self.recipients.insert(recipient.clone(), decision);
            }
            Question::Sender(sender) => self.sender = Some((sender.clone(), decision)),
            Question::Peer => {}
        }
    }

    #[cfg(test)]
    pub(super) fn allowed_recipients(&self) -> impl Iterator<Item = &DecisionField> {
        self.recipients.values().map(AsRef::as_ref)
    }

    /// The first octet of a message is about to pass.
    pub(super) fn message_begins(&mut self) {
        self.digest = digest::Context::new(&digest::SHA256);
    }

    /// Octets of the message.
    pub(super) fn content(&mut self, octets: &[u8]) {
        self.digest.update(octets);
    }

    /// The decisions about the message's own parties, and the SHA-256 of its octets in hexadecimal digits.
    pub(super) fn finish(
        self,
        direction: DirectionField,
        message: &Completed,
    ) -> (Vec<DecisionField>, String) {
        let mut decisions = Vec::new();
        if direction == DirectionField::Inbound {
            // A decision about another sender is not about this message.
            let own = self
                .sender
                .filter(|(sender, _)| *sender == message.sender_domain);
            decisions.extend(own.map(|(_, decision)| (*decision).clone()));
        } else if message.recipients.is_empty() {
            // Chunks went with the envelope, and the server accepted nobody. The octets were sent under all of these.
            let mut recipients: Vec<_> = self.recipients.iter().collect();
            recipients.sort_by_key(|(recipient, _)| recipient_word(recipient));
            for (_, decision) in recipients {
                if !decisions.contains(&**decision) {
                    decisions.push((**decision).clone());
                }
            }
        } else {
            for to in &message.recipients {
                let decision = match self.recipients.get(&to.recipient) {
                    Some(decision) => (**decision).clone(),
                    None => undecided(&to.recipient),
                };
                if !decisions.contains(&decision) {
                    decisions.push(decision);
                }
            }
        }
        (
            decisions,
            data_encoding::HEXLOWER.encode(self.digest.finish().as_ref()),
        )
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
