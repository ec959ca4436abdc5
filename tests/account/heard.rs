//! What a server received and sent: one entry for each connection of the proxy.

use crate::certs::Shown;
use std::{net::SocketAddr, time::Instant};

/// What the server did that can have ended the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// The server greeted with this reply.
    Greeting(u16),
    /// The server answered EHLO with this reply, in the clear or inside TLS.
    Hello(u16),
    /// The server answered STARTTLS with this reply.
    StartTls(u16),
    /// The handshake was not completed.
    Handshake,
    /// The server answered a command with 421.
    Said421,
    /// The server closed the connection.
    Closed,
}

/// One transaction as the server received it.
#[derive(Debug)]
pub struct Transaction {
    /// The last EHLO name before it.
    pub hello: String,
    /// The transaction came inside TLS.
    pub secure: bool,
    pub sender: String,
    /// Recipients in their order, each with whether it was accepted.
    pub recipients: Vec<(String, bool)>,
    /// The server sent 354, or received a BDAT.
    pub begun: bool,
    /// The 354.
    pub go: Option<String>,
    /// The content as it came, without the `.` line.
    pub content: Vec<u8>,
    /// Everything that was forwarded arrived: the `.` line or a whole chunk came last.
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
    /// Number of connections that were accepted before this one.
    pub number: usize,
    /// The time just after the connection was accepted.
    pub began: Instant,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub hellos: Vec<String>,
    pub offered: bool,
    /// TLS came up, and this certificate was shown.
    pub shown: Option<Shown>,
    pub transactions: Vec<Transaction>,
    pub fatal: Option<Fatal>,
    /// What it refused before commands could pass: the stage, the code, and whether inside TLS.
    pub refused: Vec<(&'static str, u16, bool)>,
    pub transcript: Vec<String>,
}

impl Connection {
    /// The number of the session to which the connection belongs.
    pub fn session(&self) -> Option<usize> {
        said_by(self.hellos.first()?)
    }
}

/// The session that an EHLO name tells: `s17a.client.test` is session 17.
pub fn said_by(name: &str) -> Option<usize> {
    let digits = name.strip_prefix('s')?.split(|c: char| !c.is_ascii_digit());
    digits.into_iter().next()?.parse().ok()
}
