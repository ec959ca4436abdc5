//! Connections to servers, as both directions make them.

use std::{io, time::Duration};

use tokio::io::AsyncWriteExt as _;

use super::{leg::Stream, setup::CommonSetup};
use crate::{
    audit::ConnectionField,
    net::{ClientAddr, Dialled, ServerAddr, canonical},
    smtp::Refusal,
};

/// Longest time for a whole TLS handshake, with either side.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);

/// A new connection to a server.
pub(super) struct ServerLink {
    pub(super) stream: Stream,
    pub(super) server: ServerAddr,
    /// Both addresses, for the journal.
    pub(super) ends: ConnectionField,
    /// Lists the connection as this proxy's own while it lives.
    pub(super) dialled: Dialled,
}

impl ServerLink {
    /// Connects to `server` for `client`, and writes `preface` in front of all else.
    async fn new(
        common: &CommonSetup,
        client: ClientAddr,
        server: ServerAddr,
        preface: &[u8],
    ) -> io::Result<Self> {
        let source = common.keep_client_address.then(|| client.0.ip());
        let (mut stream, dialled) = common.dial.connect(server, source).await?;
        stream.write_all(preface).await?;
        let ends = ConnectionField {
            from: canonical(stream.local_addr()?),
            to: canonical(stream.peer_addr()?),
        };
        Ok(Self {
            stream: Stream::Tcp(stream),
            server,
            ends,
            dialled,
        })
    }

    /// Connects to the first of `servers` that can be reached.
    ///
    /// # Errors
    /// What `refusal` makes of the last server's error; `without_servers` if there are none.
    pub(super) async fn to_first_of(
        servers: Vec<ServerAddr>,
        common: &CommonSetup,
        client: ClientAddr,
        preface: &[u8],
        without_servers: Refusal,
        refusal: impl Fn(ServerAddr, &io::Error) -> Refusal,
    ) -> Result<Self, Refusal> {
        let mut last = without_servers;
        for server in servers {
            match Self::new(common, client, server, preface).await {
                Ok(link) => return Ok(link),
                Err(error) => last = refusal(server, &error),
            }
        }
        Err(last)
    }
}
