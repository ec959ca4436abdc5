//! Drives an [asking client](crate::smtp::asking) over a connection.

use std::{fmt, io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use crate::smtp::asking::{AskingClient, LastReply, Next, ReplyFault};

/// Most octets of one read.
const READ: usize = 4096;

/// Why a dialogue has no last reply.
#[derive(Debug)]
pub(crate) enum AskError {
    /// The dialogue took longer than its limit.
    Late,
    /// The connection ended or broke.
    Connection(io::Error),
    Reply(ReplyFault),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("not finished in time"),
            Self::Connection(error) => error.fmt(f),
            Self::Reply(fault) => fault.fmt(f),
        }
    }
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

/// Waits for the greeting of the server at the other end of `stream`, says `commands` (without CRLF) as long as each reply is
/// 2yz, and gives the last reply. The whole dialogue takes at most `limit`. It says no QUIT and leaves the connection open.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    commands: impl IntoIterator<Item = String>,
    limit: Duration,
) -> Result<LastReply, AskError> {
    let mut client = AskingClient::new(commands);
    let dialogue = async {
        let mut bytes = [0; READ];
        loop {
            let got = stream.read(&mut bytes).await?;
            if got == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            match client.receive(&bytes[..got]).map_err(AskError::Reply)? {
                Next::Read => {}
                // A server that has closed the connection may have said why: what follows is read in any case.
                Next::Send(command) => drop(stream.write_all(&command).await),
                Next::Over(last) => return Ok(last),
            }
        }
    };
    timeout(limit, dialogue)
        .await
        .unwrap_or(Err(AskError::Late))
}
