//! Anchors: heads of a log that were kept on another machine.

use crate::audit::{
    Hash, OpenError, PublicKey,
    checkpoint::{SignedNote, said_by_program, unbase64},
};
use crate::files;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// What another machine remembers of a log: how many records it had, and the hash of the last one, the root of the tree over all, or
/// both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogAnchor {
    /// The log's name, where it is known.
    pub(crate) origin: Option<String>,
    /// The number of records.
    pub(crate) size: u64,
    /// The hash of the last one.
    pub(crate) hash: Option<Hash>,
    /// The root of the tree over them.
    pub(crate) root: Option<Hash>,
}

impl LogAnchor {
    /// Reads `SIZE:HASH` (64 hexadecimal digits), or a file with anchors: log lines that contain
    /// `audit checkpoint origin=.. size=.. head=.. root=..`, such as a journal keeps, or a checkpoint as a note.
    ///
    /// # Errors
    /// The file cannot be read or holds no anchor.
    pub(crate) fn read(argument: &str) -> Result<Vec<Self>, OpenError> {
        if let Some((size, hash)) = argument.split_once(':')
            && let (Ok(size), Some(hash)) = (size.parse(), Hash::parse(hash.as_bytes()))
        {
            return Ok(vec![Self {
                origin: None,
                size,
                hash: Some(hash),
                root: None,
            }]);
        }
        let read = File::open(argument).and_then(Self::in_file);
        let anchors = read.map_err(|error| {
            OpenError::Wrong(format!(
                "{argument}: {error}; an anchor is SIZE:HASH or a file"
            ))
        })?;
        if anchors.is_empty() {
            return Err(OpenError::Wrong(format!(
                "{argument}: no line with \"audit checkpoint\" and no signed note is in it"
            )));
        }
        Ok(anchors)
    }

    /// Reads a checkpoint from a file. With keys, one of them must have signed it.
    ///
    /// # Errors
    /// The file cannot be read, holds no checkpoint, or none of the keys has signed it.
    pub(crate) fn read_note(file: &str, keys: &[PublicKey]) -> Result<Self, OpenError> {
        let wrong = |words: &str| OpenError::Wrong(format!("{file}: {words}"));
        let bytes = files::octets(Path::new(file), files::SMALL)
            .map_err(|error| wrong(&error.to_string()))?;
        let text = String::from_utf8_lossy(&bytes);
        let note = SignedNote::read(&text).ok_or_else(|| wrong("this is no checkpoint"))?;
        if !keys.is_empty() && !keys.iter().any(|key| note.signed_by(key)) {
            return Err(wrong("none of the keys given has signed this checkpoint"));
        }
        Ok(Self::of_note(&note))
    }

    fn of_note(note: &SignedNote<'_>) -> Self {
        Self {
            origin: Some(note.origin.to_owned()),
            size: note.size,
            hash: None,
            root: Some(note.root),
        }
    }

    /// A signed note, or the log lines of a journal, which may have any length. A pipe can be read only once.
    fn in_file(mut file: impl Read) -> io::Result<Vec<Self>> {
        let begin = files::beginning(&mut file, files::SMALL)?;
        let text = String::from_utf8_lossy(&begin);
        if let Some(note) = SignedNote::read(text.trim_start_matches('\u{feff}')) {
            return Ok(vec![Self::of_note(&note)]);
        }
        let mut anchors = Vec::new();
        let all = begin.chain(file);
        files::each_logged_line(all, |line| anchors.extend(Self::in_line(line)))?;
        Ok(anchors)
    }

    fn in_line(line: &str) -> Option<Self> {
        let fields = said_by_program(line, "audit checkpoint ")?;
        let field = |name: &str| {
            let mut fields = fields.split_ascii_whitespace();
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        let root = field("root").map(|root| unbase64(root)?.try_into().ok().map(Hash));
        Some(Self {
            origin: Some(field("origin")?.to_owned()),
            size: field("size")?.parse().ok()?,
            hash: Some(Hash::parse(field("head")?.as_bytes())?),
            root: root.unwrap_or_default(),
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
    use crate::audit::{Checkpoint, Head, checkpoint::SigningKey};

    #[test]
    fn the_log_line_of_a_checkpoint_and_its_note_are_anchors() {
        let (hash, root) = (Hash::of(b"x"), Hash::of(b"y"));
        let origin = "mail.example/outbound".to_owned();
        let anchor = LogAnchor {
            origin: Some(origin.clone()),
            size: 41_000,
            hash: Some(hash),
            root: Some(root),
        };
        let (key, _) = SigningKey::generate().unwrap();
        let text = SignedNote::text(&origin, 41_000, root);
        let note = format!("{text}\n{}", key.signature_line(&origin, &text));
        let checkpoint = Checkpoint {
            origin: origin.clone(),
            head: Head { size: 41_000, hash },
            root,
            note: note.clone(),
            events: 0,
        };
        let journal = format!(
            "Nov 24 06:05:00 mail starttls-proxy[71]: {checkpoint}\nNov 24 06:05:01 mail other: audit checkpoint none\n"
        );
        assert_eq!(
            LogAnchor::in_file(journal.as_bytes()).unwrap(),
            std::slice::from_ref(&anchor)
        );
        let of_note = LogAnchor {
            hash: None,
            ..anchor
        };
        assert_eq!(LogAnchor::in_file(note.as_bytes()).unwrap(), [of_note]);
        let given = LogAnchor::read(&format!("41000:{hash}")).unwrap();
        assert_eq!((given[0].size, given[0].hash), (41_000, Some(hash)));
        assert!(LogAnchor::read("/nonexistent").is_err());
    }
}
