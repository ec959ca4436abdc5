//! Anchors: heads of a log that were kept on another machine.

use crate::audit::{Hash, Head, OpenError, checkpoint::SignedNote};
use std::path::Path;

/// What another machine remembers of a log: how many records it had, and the hash of the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogAnchor {
    /// The log's name, where it is known.
    pub(crate) origin: Option<String>,
    /// The number of records and the hash.
    pub(crate) head: Head,
}

impl LogAnchor {
    /// Reads `SIZE:HASH` (64 hexadecimal digits), or a file with anchors: log lines that contain
    /// `audit checkpoint origin=.. size=.. head=..`, such as a journal keeps, or a signed note.
    ///
    /// # Errors
    /// The file cannot be read or holds no anchor.
    pub(crate) fn read(argument: &str) -> Result<Vec<Self>, OpenError> {
        if let Some((size, hash)) = argument.split_once(':')
            && let (Ok(size), Some(hash)) = (size.parse(), Hash::parse(hash.as_bytes()))
        {
            return Ok(vec![Self {
                origin: None,
                head: Head { size, hash },
            }]);
        }
        let bytes = crate::files::octets(Path::new(argument)).map_err(|error| {
            OpenError::Wrong(format!(
                "{argument}: {error}; an anchor is SIZE:HASH or a file"
            ))
        })?;
        let anchors = Self::parse(&String::from_utf8_lossy(&bytes));
        if anchors.is_empty() {
            return Err(OpenError::Wrong(format!(
                "{argument}: no line with \"audit checkpoint\" and no signed note is in it"
            )));
        }
        Ok(anchors)
    }

    fn parse(text: &str) -> Vec<Self> {
        if let Some(note) = SignedNote::read(text) {
            return vec![Self {
                origin: Some(note.origin.to_owned()),
                head: note.head,
            }];
        }
        text.lines().filter_map(Self::in_line).collect()
    }

    fn in_line(line: &str) -> Option<Self> {
        let (_, fields) = line.split_once("audit checkpoint ")?;
        let field = |name: &str| {
            let mut fields = fields.split_ascii_whitespace();
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        Some(Self {
            origin: Some(field("origin")?.to_owned()),
            head: Head {
                size: field("size")?.parse().ok()?,
                hash: Hash::parse(field("head")?.as_bytes())?,
            },
        })
    }

    /// Whether this anchor is of the log with that name. An anchor without a name was given for the log at hand.
    pub(super) fn is_of(&self, origin: Option<&str>) -> bool {
        self.origin.is_none() || self.origin.as_deref() == origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Checkpoint, checkpoint::SigningKey};

    #[test]
    fn the_log_line_of_a_checkpoint_and_its_note_are_anchors() {
        let head = Head {
            size: 41_000,
            hash: Hash::of(b"x"),
        };
        let origin = "mail.example/outbound".to_owned();
        let anchor = LogAnchor {
            origin: Some(origin.clone()),
            head,
        };
        let checkpoint = Checkpoint {
            origin: origin.clone(),
            head,
            signature: Some("abc=".into()),
        };
        let journal = format!(
            "Nov 24 06:05:00 mail starttls-proxy[71]: {checkpoint}\nNov 24 06:05:01 mail other: audit checkpoint none\n"
        );
        assert_eq!(LogAnchor::parse(&journal), std::slice::from_ref(&anchor));
        let (key, _) = SigningKey::generate().unwrap();
        let (note, _) = key.note(
            &origin,
            &SignedNote::text(&origin, head, "2026-11-24T06:05:00.000000Z"),
        );
        assert_eq!(LogAnchor::parse(&note), [anchor]);
        assert_eq!(
            LogAnchor::read(&format!("41000:{}", head.hash)).unwrap()[0].head,
            head
        );
        assert!(LogAnchor::read("/nonexistent").is_err());
    }
}
