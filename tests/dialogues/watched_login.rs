//! The proxy's own login, as the watch sees it: who gets its secrets, and that nobody else does.

use super::{Outcome, conversation::find, escape};
use starttls_proxy::smtp::Note;

/// Whether the proxy logs in itself, and the secrets and lines with which it does.
#[derive(Debug)]
pub struct WatchedLogin {
    is_on: bool,
    secrets: Vec<Vec<u8>>,
}

impl WatchedLogin {
    pub fn new(is_on: bool) -> Self {
        Self {
            is_on,
            secrets: Vec::new(),
        }
    }

    /// The machine is told this secret.
    pub fn knows(&mut self, secret: &[u8]) {
        self.secrets.push(secret.to_vec());
    }

    /// A line of a login goes to the server. `proved`: inside TLS, and the server has proved who it is.
    pub fn is_told(&mut self, line: &[u8], proved: bool) -> Outcome {
        if !self.is_on || !proved {
            return Err(format!("a secret for a stranger: {}", escape(line)));
        }
        if !line.ends_with(b"\r\n") || line.len() > 12_288 {
            return Err(format!("no line of a login: {}", escape(line)));
        }
        let last = line.trim_ascii_end().rsplit(|b| *b == b' ').next();
        let words: [&[u8]; 2] = [b"LOGIN", b"XOAUTH2"];
        if let Some(secret) = last.filter(|last| last.len() > 5 && !words.contains(last)) {
            self.knows(secret);
        }
        Ok(())
    }

    fn is_hidden(&self, text: &[u8]) -> Outcome {
        let told = |secret: &Vec<u8>| find(text, secret).is_some();
        match self.secrets.iter().any(told) {
            true => Err(format!("a secret is told: {}", escape(text))),
            false => Ok(()),
        }
    }

    /// The client gets these bytes.
    pub fn is_hidden_from_client(&self, bytes: &[u8]) -> Outcome {
        let offer: [&[u8]; 2] = [b"250-AUTH", b"250 AUTH"];
        if self.is_on && offer.iter().any(|offer| find(bytes, offer).is_some()) {
            return Err("AUTH is offered although the proxy logs in itself".to_owned());
        }
        self.is_hidden(bytes)
    }

    /// The administrator is told this.
    pub fn is_hidden_in(&self, note: &Note) -> Outcome {
        if let Note::Heard { reply, .. } = note {
            self.is_hidden(reply)?;
        }
        self.is_hidden(format!("{note:?}").as_bytes())
    }
}
