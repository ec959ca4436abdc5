//! What a server heard and said: one entry per connection of the proxy.

use crate::certs::Shown;
use std::{net::SocketAddr, time::Instant};

/// What the server did that can have ended the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// It greeted with this.
    Greeting(u16),
    /// It answered EHLO with this, in the clear or inside TLS.
    Hello(u16),
    /// It answered STARTTLS with this.
    StartTls(u16),
    /// The handshake did not come to its end.
    Handshake,
    /// It said 421 to a command.
    Said421,
    /// It closed the connection.
    Closed,
}

/// One transaction as the server heard it.
#[derive(Debug)]
pub struct Transaction {
    /// The last EHLO name before it.
    pub hello: String,
    /// It was heard inside TLS.
    pub secure: bool,
    pub sender: String,
    /// Recipients in their order, each with whether it was accepted.
    pub recipients: Vec<(String, bool)>,
    /// 354 was said, or a BDAT was heard.
    pub begun: bool,
    /// The 354.
    pub go: Option<String>,
    /// The content as it came, without the `.` line.
    pub content: Vec<u8>,
    /// All of what was forwarded came: the `.` line or a whole chunk is the last thing heard.
    pub whole: bool,
    /// The reply that decided, lines joined by `\r\n`.
    pub verdict: Option<String>,
}

impl Transaction {
    pub fn accepted(&self) -> Vec<&str> {
        let accepted = self.recipients.iter().filter(|(_, taken)| *taken);
        accepted.map(|(path, _)| path.as_str()).collect()
    }
}

/// One connection of the proxy to the server.
#[derive(Debug)]
pub struct Connection {
    /// How many were accepted before it.
    pub number: usize,
    /// Just after it was accepted.
    pub began: Instant,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub hellos: Vec<String>,
    pub offered: bool,
    /// TLS came up, and this was shown.
    pub shown: Option<Shown>,
    pub transactions: Vec<Transaction>,
    pub fatal: Option<Fatal>,
    /// What it refused before commands could pass: the stage, the code, and whether inside TLS.
    pub refused: Vec<(&'static str, u16, bool)>,
    pub transcript: Vec<String>,
}

impl Connection {
    /// Whose session it is.
    pub fn session(&self) -> Option<usize> {
        said_by(self.hellos.first()?)
    }
}

/// The session that an EHLO name tells: `s17a.client.test` is session 17.
pub fn said_by(name: &str) -> Option<usize> {
    let digits = name.strip_prefix('s')?.split(|c: char| !c.is_ascii_digit());
    digits.into_iter().next()?.parse().ok()
}
