//! Plays a script at a machine, on a virtual clock.

use super::{
    script::{Expected, Script, Step, escape},
    stage::{Deed, Stage},
    watch::Watch,
};
use starttls_proxy::smtp::{Machine, Note, Side};

/// How the segments of a script are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// No segment is cut.
    Whole,
    /// Each segment is cut behind every byte.
    Bytes,
    /// One segment is cut in two.
    Once { segment: usize, at: usize },
}

/// The cuts that a script is to be played with. Openings are cut when they are played for themselves, a segment of
/// hundreds of bytes where it begins and ends, and a script that repeats itself hundreds of times not one by one.
pub fn cuts(script: &Script) -> Vec<Cut> {
    const NEAR: usize = 64;
    const MANY_LINES: usize = 250;
    let mut cuts = vec![Cut::Whole];
    if script.whole {
        return cuts;
    }
    let is_opening = |place: &str| place.starts_with("openings/");
    let alone = is_opening(&script.name);
    let segments = script.lines.iter().filter_map(|line| match &line.step {
        Step::Sends(_, bytes) => Some((bytes.len(), alone || !is_opening(&line.place))),
        _ => None,
    });
    let segments: Vec<(usize, bool)> = segments.collect();
    if segments.iter().map(|(length, _)| length).sum::<usize>() < 100_000 {
        cuts.push(Cut::Bytes);
    }
    if script.lines.len() < MANY_LINES {
        for (segment, (length, _)) in segments.iter().enumerate().filter(|(_, (_, own))| *own) {
            let places = (1..*length).filter(|at| *at < NEAR || length - at < NEAR);
            cuts.extend(places.map(|at| Cut::Once { segment, at }));
        }
    }
    cuts
}

/// Plays the script. The error says where and how the machine differs.
pub fn play(script: &Script, machine: Box<dyn Machine>, cut: Cut) -> Result<(), String> {
    let watch = Watch::new(script.direction, &script.options);
    let mut player = Player {
        stage: Stage::new(machine, watch).map_err(|e| format!("at the beginning: {e}"))?,
        cut,
        segment: 0,
    };
    for line in &script.lines {
        player.step(&line.step).map_err(|e| line.failed(&e))?;
    }
    player
        .nothing_more()
        .map_err(|e| format!("at the end: {e}"))
}

struct Player {
    stage: Stage,
    cut: Cut,
    segment: usize,
}

impl Player {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Gets(..)
            | Step::Note(_)
            | Step::NoNote(_)
            | Step::Trace(_)
            | Step::Conditions { .. } => {}
            Step::Connect
            | Step::Ask(_)
            | Step::Handshake(_)
            | Step::Record(_)
            | Step::Ends { .. } => {
                return self.did(step);
            }
            _ => self.nothing_more()?,
        }
        match step {
            Step::Gets(side, expected) => self.gets(*side, expected),
            Step::Note(note) => self.noted(note),
            Step::NoNote(note) => self.not_noted(note),
            Step::Sends(side, bytes) => self.sends(*side, bytes),
            _ => self.stage.happen(step),
        }
    }

    fn sends(&mut self, side: Side, bytes: &[u8]) -> Result<(), String> {
        let segment = self.segment;
        self.segment += 1;
        match self.cut {
            Cut::Bytes => bytes
                .iter()
                .try_for_each(|byte| self.stage.send(side, &[*byte])),
            Cut::Once { segment: cut, at } if cut == segment => {
                self.stage.send(side, &bytes[..at])?;
                self.stage.send(side, &bytes[at..])
            }
            _ => self.stage.send(side, bytes),
        }
    }

    fn gets(&mut self, side: Side, expected: &Expected) -> Result<(), String> {
        let out = &mut self.stage.end(side).out;
        let (length, matches) = match expected {
            Expected::Bytes(bytes) => (bytes.len(), out.starts_with(bytes)),
            Expected::Beginning(bytes) => (out.len(), bytes.starts_with(out)),
            Expected::Line(line) => match line_of(out) {
                Some(got) => (got.len() + 2, got == line),
                None => (0, false),
            },
            Expected::Like(pattern) => match line_of(out) {
                Some(got) => (got.len() + 2, like(pattern, got)),
                None => (0, false),
            },
        };
        if !matches {
            let got = escape(&out[..out.len().min(2000)]);
            let deeds: Vec<String> = self.stage.deeds.iter().map(show_deed).collect();
            return Err(format!("it gets: {got}; the proxy also did: {deeds:?}"));
        }
        out.drain(..length);
        Ok(())
    }

    fn did(&mut self, step: &Step) -> Result<(), String> {
        let is_it = |deed: &Deed| match (step, deed.step()) {
            (Step::Record(expected), Step::Record(record)) => {
                like(expected.as_bytes(), record.as_bytes())
            }
            (expected, deed) => *expected == deed,
        };
        match self.stage.deeds.iter().position(is_it) {
            Some(at) => {
                self.stage.deeds.remove(at);
                Ok(())
            }
            None => {
                let deeds: Vec<String> = self.stage.deeds.iter().map(show_deed).collect();
                let client = escape(&self.stage.end(Side::Client).out);
                let server = escape(&self.stage.end(Side::Server).out);
                Err(format!(
                    "the proxy did: {deeds:?}, to the client: {client}, to the server: {server}"
                ))
            }
        }
    }

    /// Looks for a note, and forgets those before it.
    fn noted(&mut self, expected: &str) -> Result<(), String> {
        let mut seen = Vec::new();
        while let Some(note) = self.stage.notes.pop_front() {
            let note = show_note(&note);
            if note == expected || like(expected.as_bytes(), note.as_bytes()) {
                return Ok(());
            }
            seen.push(note);
        }
        Err(format!("noted were: {seen:?}"))
    }

    fn not_noted(&self, unexpected: &str) -> Result<(), String> {
        let notes = self.stage.notes.iter().map(show_note);
        match notes
            .into_iter()
            .find(|note| like(unexpected.as_bytes(), note.as_bytes()))
        {
            Some(note) => Err(format!("noted was: {note}")),
            None => Ok(()),
        }
    }

    fn nothing_more(&mut self) -> Result<(), String> {
        for side in [Side::Client, Side::Server] {
            let out = &self.stage.end(side).out;
            if !out.is_empty() {
                return Err(format!(
                    "unexpected, to the {side:?}: {}",
                    escape(&out[..out.len().min(2000)])
                ));
            }
        }
        match self.stage.deeds.front() {
            Some(deed) => Err(format!("unexpected: {}", show_deed(deed))),
            None => Ok(()),
        }
    }
}

pub fn line_of(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some(&bytes[..end])
}

/// Whether `text` is like `pattern`, in which `*` stands for anything.
pub fn like(pattern: &[u8], text: &[u8]) -> bool {
    let mut parts = pattern.split(|b| *b == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            let part: &[u8] = part;
            match rest
                .windows(part.len().max(1))
                .position(|w| part.is_empty() || w == part)
            {
                Some(at) => rest = &rest[at + part.len()..],
                None => return part.is_empty(),
            }
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

fn show_deed(deed: &Deed) -> String {
    deed.step().to_string().trim_end().to_owned()
}

pub fn show_note(note: &Note) -> String {
    match note {
        Note::Hello(name) => format!("hello {}", escape(name)),
        Note::MessageBegins => "message".to_owned(),
        Note::Refused(refusal) => format!("refused {refusal}"),
        Note::Incident(what) => format!("incident {what}"),
        Note::HostFault {
            refusal,
            lasting: true,
        } => format!("host-fault {refusal}"),
        Note::HostFault { refusal, .. } => format!("passing-fault {refusal}"),
        Note::TransactionBegins => "transaction".to_owned(),
        Note::Heard {
            stage,
            reply,
            proved,
        } => {
            let proved = if *proved { "proved " } else { "" };
            format!("heard {proved}{stage:?} {}", escape(reply))
        }
        Note::NoTls { words, refusal } => format!("no-tls {} {words}", refusal.cause.word()),
        Note::MissingExtension(keyword) => format!("lacking {keyword:?}"),
        Note::LoggedIn { user, mechanism } => format!("logged-in {user} {mechanism}"),
        Note::Ends(end) => format!("ends {}", end.word()),
    }
}
