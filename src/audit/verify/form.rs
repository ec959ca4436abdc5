//! Whether a line has the form of a record: one JSON object without white space outside strings, in which no field stands twice. Where a
//! field stands twice, readers differ on which of the two counts, so one line could say two things.
//!
//! Nearly all lines are decided by one pass over their octets, which takes only what it is sure of. The few that it leaves (an escape of
//! the form `\u`, very many fields, damage) are read by serde_json, whose word counts.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::{collections::HashSet, fmt};

/// Deepest nesting that the quick pass follows.
const DEEPEST: usize = 60;
/// Most fields of all open objects together that the quick pass compares.
const MOST_FIELDS: usize = 200;
/// Most forms of lines that are remembered.
const MOST_KNOWN: usize = 8;

/// Whether an event has the form of one: no escape may be in it, since its octets are compared.
pub(super) fn is_event(event: &[u8]) -> bool {
    let is_of_it = |b: &u8| b.is_ascii_lowercase() || *b == b'-';
    !event.is_empty() && event.iter().all(is_of_it)
}

/// What is wrong with the form of a line, in words; `None` if it is JSON as a record must be. The places of its first fields are another
/// matter.
pub(super) fn fault(line: &[u8], scan: &mut FormScan) -> Option<String> {
    match scan.is_sound(line) {
        true => None,
        false => judged(line).err(),
    }
}

/// Reads the line with serde_json, and looks at what that lets pass.
fn judged(line: &[u8]) -> Result<(), String> {
    let read = serde_json::from_slice::<Unrepeated>(line);
    read.map_err(|error| format!("this is no record: {error}"))?;
    match has_outer_space(line) {
        true => Err("this is no record: white space stands outside its strings".into()),
        false => Ok(()),
    }
}

/// Whether white space stands outside the strings of a line that is JSON.
fn has_outer_space(line: &[u8]) -> bool {
    let (mut in_string, mut is_escaped) = (false, false);
    line.iter().any(|&b| {
        match b {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            _ => {}
        }
        !in_string && b.is_ascii_whitespace()
    })
}

/// Any JSON in whose objects no field stands twice.
struct Unrepeated;

impl<'de> Deserialize<'de> for Unrepeated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnrepeatedVisitor)
    }
}

struct UnrepeatedVisitor;

impl<'de> Visitor<'de> for UnrepeatedVisitor {
    type Value = Unrepeated;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unrepeated, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<Unrepeated>()?;
            if names.contains(&name) {
                let text = format!("the field {name:?} stands twice in one object");
                return Err(A::Error::custom(text));
            }
            names.insert(name);
        }
        Ok(Unrepeated)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Unrepeated, A::Error> {
        while list.next_element::<Unrepeated>()?.is_some() {}
        Ok(Unrepeated)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }

    fn visit_unit<E>(self) -> Result<Unrepeated, E> {
        Ok(Unrepeated)
    }
}

/// The quick pass, and what it remembers from line to line.
#[derive(Default)]
pub(super) struct FormScan {
    /// A digest of the name of each field of the open objects.
    names: Vec<u64>,
    /// For each open object, where in `names` its fields begin, and a bit for each of their digests. For a list nothing is in it.
    open: Vec<(usize, u64)>,
    /// The strings and numbers of the line that are values: where each begins and ends.
    values: Vec<(usize, usize, ValueKind)>,
    /// Forms of lines that were sound, those that fit most often in front.
    known: Vec<LineForm>,
}

/// What may stand in a place of a form.
#[derive(Clone, Copy)]
enum ValueKind {
    /// What stands between the quotes of a string.
    Text,
    Number,
}

/// A sound line, of which only the strings and numbers that are values may change. Most lines are like one that came a little before them.
/// With the same octets around its values a line is as sound, so nothing else of it need be looked at.
struct LineForm {
    /// What stands around the values.
    octets: Vec<u8>,
    /// Where in `octets` each value stands.
    values: Vec<(usize, ValueKind)>,
}

impl LineForm {
    fn of(line: &[u8], values: &[(usize, usize, ValueKind)]) -> Self {
        let mut form = Self {
            octets: Vec::new(),
            values: Vec::new(),
        };
        let mut at = 0;
        for (begin, end, kind) in values {
            form.octets.extend_from_slice(&line[at..*begin]);
            form.values.push((form.octets.len(), *kind));
            at = *end;
        }
        form.octets.extend_from_slice(&line[at..]);
        form
    }

    fn fits(&self, line: &[u8]) -> Option<()> {
        let mut odd = OddOctets::default();
        let (mut at, mut begin) = (0, 0);
        for (end, kind) in &self.values {
            let around = self.octets.get(begin..*end)?;
            let value = at + around.len();
            (line.get(at..value)? == around).then_some(())?;
            begin = *end;
            at = match kind {
                ValueKind::Text => end_of_string(line, value, &mut odd)?,
                ValueKind::Number => end_of_number(line, value)?,
            };
        }
        (line.get(at..)? == self.octets.get(begin..)?).then_some(())?;
        odd.are_text(line).then_some(())
    }
}

/// Eight octets with the same value.
const fn all(octet: u8) -> u64 {
    u64::from_ne_bytes([octet; 8])
}

/// The highest bit of each octet that a string does not have as itself: quote, backslash, control character, or part of a character that
/// is not ASCII. Only the lowest bit counts; 0 where there is none.
fn special(word: u64) -> u64 {
    let quote_or_control = (word ^ all(0x02)).wrapping_sub(all(0x21));
    let backslash = (word ^ all(b'\\')).wrapping_sub(all(1));
    (quote_or_control | backslash | word) & all(0x80)
}

/// The eight octets from `at` on; zeros behind the end of the line.
fn word_at(line: &[u8], at: usize) -> Option<u64> {
    let rest = line.get(at..)?;
    let mut octets = [0; 8];
    match rest.first_chunk() {
        Some(eight) => octets = *eight,
        None => octets[..rest.len()].copy_from_slice(rest),
    }
    Some(u64::from_le_bytes(octets))
}

/// What strings had that is not sure to mean the same to all.
#[derive(Clone, Copy, Default)]
struct OddOctets {
    escapes: bool,
    beyond_ascii: bool,
}

impl OddOctets {
    /// Whether the line in which they are is UTF-8.
    fn are_text(self, line: &[u8]) -> bool {
        !self.beyond_ascii || str::from_utf8(line).is_ok()
    }
}

/// The place of the quote that ends the string whose first octet is at `at`. `None`: no such quote, or an escape that is not sure to
/// mean something.
fn end_of_string(line: &[u8], mut at: usize, odd: &mut OddOctets) -> Option<usize> {
    loop {
        while let Some(octets) = line
            .get(at..)
            .and_then(|rest| rest.as_chunks::<8>().0.get(..2))
        {
            let (one, other) = (u64::from_le_bytes(octets[0]), u64::from_le_bytes(octets[1]));
            let (one, other) = (special(one), special(other));
            if one != 0 {
                at += one.trailing_zeros() as usize / 8;
                break;
            }
            if other != 0 {
                at += 8 + other.trailing_zeros() as usize / 8;
                break;
            }
            at += 16;
        }
        match line.get(at)? {
            b'"' => return Some(at),
            b'\\' => match line.get(at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                    odd.escapes = true;
                    at += 2;
                }
                _ => return None,
            },
            ..=0x1f => return None,
            octet => {
                odd.beyond_ascii |= !octet.is_ascii();
                at += 1;
            }
        }
    }
}

/// The place behind the number that begins at `at`. Only numbers that every reader takes for the same are sure: whole ones of at most 18
/// digits.
fn end_of_number(line: &[u8], at: usize) -> Option<usize> {
    let begin = at + usize::from(line.get(at) == Some(&b'-'));
    let digits = line.get(begin..)?.iter().take(19);
    let digits = digits.take_while(|b| b.is_ascii_digit()).count();
    let is_sure = match (digits, line.get(begin)?) {
        (1, _) => true,
        (2..=18, first) => *first != b'0',
        _ => false,
    };
    let end = begin + digits;
    (is_sure && matches!(line.get(end)?, b',' | b'}' | b']')).then_some(end)
}

/// The place behind a word that stands at `at`.
fn literal(line: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    line.get(at..)?.starts_with(word).then_some(at + word.len())
}

/// A digest of a field's name, which stands before the place `end`. Two names of one digest are compared by serde_json.
fn digest_of(line: &[u8], begin: usize, end: usize) -> Option<u64> {
    let length = end - begin;
    let first = word_at(line, begin)?;
    let (first, last) = match length {
        0 => (0, 0),
        1..=8 => (first << (64 - 8 * length), 0),
        _ => (first, word_at(line, end - 8)?),
    };
    let mixed = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ last.rotate_left(29);
    Some(mixed.wrapping_add(length as u64))
}

/// Values of a line whose form is remembered. No record of this program has as many, but for one with hundreds of recipients.
const MOST_VALUES: usize = 1000;

impl FormScan {
    /// Whether the line is sure to be an object of the form that a record has. False says nothing.
    fn is_sound(&mut self, line: &[u8]) -> bool {
        let mut known = self.known.iter();
        if let Some(place) = known.position(|form| form.fits(line).is_some()) {
            self.known.swap(place, place.saturating_sub(1));
            return true;
        }
        let is_sound = self.scan(line).is_some();
        if is_sound && self.values.len() <= MOST_VALUES {
            self.known.truncate(MOST_KNOWN - 1);
            self.known.push(LineForm::of(line, &self.values));
        }
        is_sound
    }

    fn scan(&mut self, line: &[u8]) -> Option<()> {
        self.names.clear();
        self.open.clear();
        self.values.clear();
        // For each open object a 1, for each open list a 0; the innermost is the lowest bit.
        let mut nesting = 0_u64;
        let mut odd = OddOctets::default();
        let mut at = 0;
        loop {
            // Here a value begins.
            match line.get(at)? {
                b'"' => {
                    let end = end_of_string(line, at + 1, &mut odd)?;
                    self.values.push((at + 1, end, ValueKind::Text));
                    at = end + 1;
                }
                b'{' => {
                    (self.open.len() < DEEPEST).then_some(())?;
                    nesting = nesting << 1 | 1;
                    self.open.push((self.names.len(), 0));
                    at += 1;
                    if line.get(at)? != &b'}' {
                        at = self.name(line, at, &mut odd)?;
                        continue;
                    }
                }
                b'[' => {
                    (self.open.len() < DEEPEST).then_some(())?;
                    nesting <<= 1;
                    self.open.push((self.names.len(), 0));
                    at += 1;
                    if line.get(at)? != &b']' {
                        continue;
                    }
                }
                b't' => at = literal(line, at, b"true")?,
                b'f' => at = literal(line, at, b"false")?,
                b'n' => at = literal(line, at, b"null")?,
                _ => {
                    let end = end_of_number(line, at)?;
                    self.values.push((at, end, ValueKind::Number));
                    at = end;
                }
            }
            // Behind a value, or at the end of what is empty.
            loop {
                let is_object = nesting & 1 == 1;
                match (line.get(at)?, is_object) {
                    (b',', true) => {
                        at = self.name(line, at + 1, &mut odd)?;
                        break;
                    }
                    (b',', false) => {
                        at += 1;
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        at += 1;
                        nesting >>= 1;
                        self.names.truncate(self.open.pop()?.0);
                    }
                    _ => return None,
                }
                if self.open.is_empty() {
                    return (at == line.len() && odd.are_text(line)).then_some(());
                }
            }
        }
    }

    /// Takes the name of a field and the colon behind it. Gives the place of its value.
    fn name(&mut self, line: &[u8], at: usize, odd: &mut OddOctets) -> Option<usize> {
        (line.get(at)? == &b'"').then_some(())?;
        let (begin, had_escapes) = (at + 1, std::mem::take(&mut odd.escapes));
        let end = end_of_string(line, begin, odd)?;
        // With an escape one name can be written in several ways.
        (!std::mem::replace(&mut odd.escapes, had_escapes)).then_some(())?;
        let digest = digest_of(line, begin, end)?;
        let (first, bits) = self.open.last_mut()?;
        let bit = 1 << (digest >> 58);
        let may_be_there = *bits & bit != 0;
        if may_be_there && self.names.get(*first..)?.contains(&digest) {
            return None;
        }
        *bits |= bit;
        (self.names.len() < MOST_FIELDS).then_some(())?;
        self.names.push(digest);
        (line.get(end + 1)? == &b':').then_some(end + 2)
    }
}

#[cfg(test)]
mod tests;
