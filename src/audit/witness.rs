//! Witnesses: others who remember a log's newest checkpoint and sign only what goes on from it (C2SP tlog-witness, tlog-cosignature,
//! tlog-policy). This file knows the texts. `serve` sends and gets them.
//!
//! A cosignature says: at this time, this was the largest tree of that log that I have seen, and it contains all that I had seen
//! before. So a log with witnesses cannot show one past to some and another one to others.

use super::{
    OpenError,
    chain::Hash,
    checkpoint::{VerifierKey, key_id, signature_of, unbase64},
};
use aws_lc_rs::signature::{self, UnparsedPublicKey};
use data_encoding::BASE64;
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The octet that stands for an Ed25519 cosignature in verifier keys (C2SP tlog-cosignature).
const COSIGNATURE: u8 = 4;
/// Octets in the signature line of one: key id, time, and signature.
const COSIGNATURE_OCTETS: usize = 4 + 8 + 64;
/// The media type of an answer that gives a size.
const SIZE: &str = "text/x.tlog.size";
/// Largest number of hashes in a consistency proof (C2SP tlog-witness).
const MAX_PROOF: usize = 63;
/// Largest number of lines of a policy.
const MAX_POLICY_LINES: usize = 1000;

/// The key of a witness: its name and its Ed25519 key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WitnessKey {
    pub(crate) name: String,
    key: [u8; 32],
}

/// A cosignature that its witness's key has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cosignature {
    /// The signature line, without LF.
    pub(crate) line: String,
    /// When the witness signed, by its own clock.
    pub(crate) at: SystemTime,
}

impl WitnessKey {
    /// Reads a verifier key (C2SP signed-note) for cosignatures.
    pub(crate) fn from_verifier(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no verifier key: name+id+key");
        let read = VerifierKey::read(text).ok_or_else(wrong)?;
        let key = match read.typed.split_first() {
            Some((&COSIGNATURE, key)) => key.try_into().map_err(|_| wrong())?,
            Some((kind, _)) => {
                return Err(format!(
                    "{text:?} is a key of kind {kind}; a witness has one of kind 4, Ed25519 cosignatures"
                ));
            }
            None => return Err(wrong()),
        };
        let name = read.name.to_owned();
        match read.has_its_id && !name.is_empty() {
            true => Ok(Self { name, key }),
            false => Err(wrong()),
        }
    }

    /// The key's id in signature lines.
    fn id(&self) -> [u8; 4] {
        key_id(&self.name, &[&[COSIGNATURE][..], &self.key].concat())
    }

    /// Whether a signature line is by this key: by its name and id. A witness may have another key of the same name later.
    pub(crate) fn is_of(&self, line: &str) -> bool {
        signature_of(line).is_some_and(|(name, blob)| {
            name == self.name && unbase64(blob).is_some_and(|blob| blob.starts_with(&self.id()))
        })
    }

    /// The cosignature of `text` by this key, if it is among these signature lines.
    pub(crate) fn cosigned(&self, text: &str, lines: &str) -> Option<Cosignature> {
        lines.lines().find_map(|line| {
            let (name, blob) = signature_of(line)?;
            let blob = unbase64(blob)?;
            let (id, rest) = blob.split_at_checked(4)?;
            let (time, signature) = rest.split_at_checked(8)?;
            if name != self.name || id != self.id() {
                return None;
            }
            let time = u64::from_be_bytes(time.try_into().ok()?);
            let at = UNIX_EPOCH.checked_add(Duration::from_secs(time))?;
            let signed = format!("cosignature/v1\ntime {time}\n{text}");
            UnparsedPublicKey::new(&signature::ED25519, &self.key)
                .verify(signed.as_bytes(), signature)
                .ok()?;
            let line = line.to_owned();
            Some(Cosignature { line, at })
        })
    }
}

/// When the witness signed that a signature line is of, by its own clock. `None`: it is no cosignature with an Ed25519 key.
pub(super) fn time_of_cosignature(line: &str) -> Option<SystemTime> {
    let (name, blob) = signature_of(line)?;
    let blob: [u8; COSIGNATURE_OCTETS] = unbase64(blob)?.try_into().ok()?;
    let (_, rest) = blob.split_first_chunk::<4>()?;
    let (time, _) = rest.split_first_chunk()?;
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(*time)))?;
    (!name.contains('+')).then_some(at)
}

/// What a witness is sent: that the checkpoint `note` goes on from the first `old` records, and the proof of that. `None`: it is longer
/// than the protocol allows.
pub(crate) fn add_checkpoint(old: u64, proof: &[Hash], note: &str) -> Option<String> {
    let mut text = format!("old {old}\n");
    for hash in proof {
        text += &BASE64.encode(&hash.0);
        text.push('\n');
    }
    (proof.len() <= MAX_PROOF).then(|| text + "\n" + note)
}

/// What a witness answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WitnessAnswer {
    /// It has signed.
    Cosigned(Cosignature),
    /// It knows the log with another size than was said.
    Knows(u64),
}

/// Reads an answer to [`add_checkpoint`] with the checkpoint `text`.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn read_answer(
    status: u16,
    media_type: &str,
    body: &[u8],
    text: &str,
    key: &WitnessKey,
) -> Result<WitnessAnswer, String> {
    let body = str::from_utf8(body).map_err(|_| "an answer that is no text")?;
    match status {
        200 => match key.cosigned(text, body) {
            Some(cosignature) => Ok(WitnessAnswer::Cosigned(cosignature)),
            None => Err(format!("no signature of {} is in its answer", key.name)),
        },
        409 if media_type.starts_with(SIZE) => {
            let size = body.strip_suffix('\n').unwrap_or(body);
            match size.parse() {
                Ok(known) if size.bytes().all(|b| b.is_ascii_digit()) => {
                    Ok(WitnessAnswer::Knows(known))
                }
                _ => Err("it knows another size, and does not say which (409)".into()),
            }
        }
        409 => Err("it knows another log of this name: same size, another root (409)".into()),
        403 => Err("it does not know the log's key (403)".into()),
        404 => Err("it does not know a log of this name (404)".into()),
        422 => Err("it says that this does not go on from what it knows of the log (422)".into()),
        other => Err(format!("HTTP status {other}, not 200")),
    }
}

/// A file that says which witnesses are asked, and how many of them must have signed (C2SP tlog-policy).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessPolicy {
    pub(crate) witnesses: Vec<PolicyWitness>,
    /// The names that the quorum rests on; `None` for `quorum none`.
    quorum: Option<Member>,
    groups: Vec<WitnessGroup>,
    /// Names of logs that the policy is for; none: any.
    logs: Vec<String>,
}

/// A `witness` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyWitness {
    pub(crate) key: WitnessKey,
    /// Where it is asked; `None` where the policy is only for verification.
    pub(crate) url: Option<String>,
}

/// Whom a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Member {
    Witness(usize),
    Group(usize),
}

/// A `group` line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WitnessGroup {
    at_least: usize,
    members: Vec<Member>,
}

impl WitnessPolicy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it means nothing.
    pub fn read(file: &Path) -> Result<Self, OpenError> {
        let name = file.display();
        let text = crate::files::text(file, crate::files::SMALL);
        let text = text.map_err(|error| OpenError::Wrong(format!("{name}: {error}")))?;
        Self::parse(&text)
            .map_err(|(line, words)| OpenError::Wrong(format!("{name}:{line}: {words}")))
    }

    /// The error has the number of the line, from 1.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut policy = Self {
            witnesses: Vec::new(),
            quorum: None,
            groups: Vec::new(),
            logs: Vec::new(),
        };
        let mut names = BTreeMap::new();
        let mut used = Vec::new();
        let mut has_quorum = false;
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line
                .split([' ', '\t'])
                .filter(|word| !word.is_empty())
                .collect();
            let at = |words: String| (number + 1, words);
            if number >= MAX_POLICY_LINES {
                return Err(at(format!("more than {MAX_POLICY_LINES} lines")));
            }
            match words[..] {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["log", key] | ["log", key, _] => policy.log(key).map_err(at)?,
                ["witness", name, key] => {
                    policy.witness(&mut names, name, key, None).map_err(at)?
                }
                ["witness", name, key, url] => {
                    policy
                        .witness(&mut names, name, key, Some(url))
                        .map_err(at)?;
                }
                ["group", name, number, ref members @ ..] if !members.is_empty() => policy
                    .group(&mut names, &mut used, (name, number, members))
                    .map_err(at)?,
                ["quorum", _] if has_quorum => return Err(at("a second quorum".into())),
                ["quorum", name] => {
                    has_quorum = true;
                    policy.quorum = match (name, names.get(name)) {
                        ("none", _) => None,
                        (_, Some(member)) => Some(*member),
                        (_, None) => return Err(at(format!("{name} was not defined before"))),
                    };
                }
                _ => {
                    let form = "neither 'log KEY [URL]', 'witness NAME KEY [URL]', 'group NAME all|any|N NAME...' nor 'quorum NAME'";
                    return Err(at(format!("this is {form}")));
                }
            }
        }
        match has_quorum {
            true => Ok(policy),
            false => Err((
                text.lines().count(),
                "no line says what the quorum is".into(),
            )),
        }
    }

    fn log(&mut self, key: &str) -> Result<(), String> {
        // The key itself is the log's own; here its name counts.
        let (name, _) = key
            .split_once('+')
            .ok_or_else(|| format!("{key:?} is no verifier key"))?;
        self.logs.push(name.to_owned());
        Ok(())
    }

    fn witness<'a>(
        &mut self,
        names: &mut BTreeMap<&'a str, Member>,
        name: &'a str,
        key: &str,
        url: Option<&str>,
    ) -> Result<(), String> {
        let key = WitnessKey::from_verifier(key)?;
        if self.witnesses.iter().any(|other| other.key.key == key.key) {
            return Err("this key is that of an earlier witness".into());
        }
        define(names, name, Member::Witness(self.witnesses.len()))?;
        let url = url.map(str::to_owned);
        self.witnesses.push(PolicyWitness { key, url });
        Ok(())
    }

    fn group<'a>(
        &mut self,
        names: &mut BTreeMap<&'a str, Member>,
        used: &mut Vec<Member>,
        (name, number, members): (&'a str, &str, &[&str]),
    ) -> Result<(), String> {
        let at_least = match number {
            "any" => Some(1),
            "all" => Some(members.len()),
            digits => digits
                .parse()
                .ok()
                .filter(|_| digits.bytes().all(|b| b.is_ascii_digit())),
        };
        let at_least = at_least.filter(|least| (1..=members.len()).contains(least));
        let at_least = at_least
            .ok_or_else(|| format!("{number} of {} is no number of members", members.len()))?;
        let mut found = Vec::new();
        for member in members {
            let known = names
                .get(member)
                .ok_or_else(|| format!("{member} was not defined before"))?;
            if used.contains(known) {
                return Err(format!("{member} is a member twice"));
            }
            used.push(*known);
            found.push(*known);
        }
        define(names, name, Member::Group(self.groups.len()))?;
        self.groups.push(WitnessGroup {
            at_least,
            members: found,
        });
        Ok(())
    }

    /// The addresses of its witnesses.
    pub(crate) fn urls(&self) -> impl Iterator<Item = &str> {
        self.witnesses
            .iter()
            .filter_map(|witness| witness.url.as_deref())
    }

    /// Whether the policy is for logs of this name.
    pub(crate) fn is_for(&self, origin: &str) -> bool {
        self.logs.is_empty() || self.logs.iter().any(|log| log == origin)
    }

    /// Whether enough witnesses have signed; `signed` tells of each, by its place among [`witnesses`](Self::witnesses).
    pub(crate) fn is_met(&self, signed: &dyn Fn(usize) -> bool) -> bool {
        self.quorum.is_none_or(|member| self.has(member, signed))
    }

    fn has(&self, member: Member, signed: &dyn Fn(usize) -> bool) -> bool {
        match member {
            Member::Witness(place) => signed(place),
            // A group stands behind its members, so this ends.
            Member::Group(place) => self.groups.get(place).is_some_and(|group| {
                let members = group.members.iter();
                members.filter(|member| self.has(**member, signed)).count() >= group.at_least
            }),
        }
    }
}

fn define<'a>(
    names: &mut BTreeMap<&'a str, Member>,
    name: &'a str,
    member: Member,
) -> Result<(), String> {
    if name == "none" || names.insert(name, member).is_some() {
        return Err(format!("{name} is taken"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
