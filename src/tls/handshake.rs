//! TLS handshakes over a stream.
//!
//! The last flight of a handshake is not written: it stays in the channel, and goes out together with the first data (RFC 8446 §2: a
//! client may send data right behind its Finished).

use std::{future::poll_fn, io, sync::Arc, task::Poll};

use rustls::{
    ClientConfig, Error, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::ServerName,
    server::{Acceptor, UnbufferedServerConnection},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    channel::{Channel, Progress, Records, Unbuffered, invalid_data},
    fault::HandshakeFault,
    staple,
};
use crate::net::buffer::Buffer;

/// Octets that one read takes at most.
const FLIGHT: usize = 16 * 1024;

/// A stream with TLS on it.
pub struct Secured<S> {
    /// The stream, on which nothing but records may be read and written from now on.
    pub(crate) stream: S,
    /// The connection. Our last flight may wait in it to be written.
    pub(crate) channel: Box<Channel>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Secured<S> {
    /// Does a handshake as the client, and returns the OCSP response that the server stapled with it; empty if it stapled none. There is
    /// no deadline here.
    ///
    /// # Errors
    /// Says what happened.
    pub async fn connect(
        mut stream: S,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<(Self, Arc<[u8]>), HandshakeFault> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(cannot_begin)?;
        let mut records = Records::new(connection, Buffer::default());
        let mut stapled = None;
        let step = |records: &mut Records<_>| {
            let (outcome, response) = staple::during(|| records.process(None));
            stapled = response.or(stapled.take());
            outcome
        };
        let done = perform(&mut stream, &mut records, step).await;
        done.map_err(fault)?;
        let channel = Box::new(Channel::from(records));
        Ok((Self { stream, channel }, stapled.unwrap_or_default()))
    }

    /// Does a handshake as the server, and returns the name in SNI with it. `turn` is awaited once the whole ClientHello has arrived. Its
    /// value is dropped once our first flight is written. There is no deadline here.
    ///
    /// # Errors
    /// Says what happened.
    pub async fn accept<P>(
        mut stream: S,
        config: Arc<ServerConfig>,
        turn: impl Future<Output = P>,
    ) -> Result<(Self, Option<String>), HandshakeFault> {
        let (hello, name) = client_hello(&mut stream).await.map_err(fault)?;
        let turn = turn.await;
        let connection = UnbufferedServerConnection::new(config).map_err(cannot_begin)?;
        let mut records = Records::new(connection, hello);
        let answered = answer(&mut stream, &mut records).await;
        drop(turn);
        answered.map_err(fault)?;
        let done = perform(&mut stream, &mut records, |records| records.process(None)).await;
        done.map_err(fault)?;
        let channel = Box::new(Channel::from(records));
        Ok((Self { stream, channel }, name))
    }
}

fn cannot_begin(error: Error) -> HandshakeFault {
    HandshakeFault::ours(error.to_string())
}

fn fault(error: io::Error) -> HandshakeFault {
    HandshakeFault::of(&error)
}

/// Does a handshake to its end. `step` processes what has arrived.
///
/// # Errors
/// Those of the stream, and of rustls as `InvalidData`.
async fn perform<S, C>(
    stream: &mut S,
    records: &mut Records<C>,
    mut step: impl FnMut(&mut Records<C>) -> Result<Progress, Error>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Unbuffered,
{
    loop {
        match step(records) {
            Ok(_) if !records.connection.common().is_handshaking() => return Ok(()),
            Ok(Progress::Starved) => {}
            Ok(Progress::Ended | Progress::Data) => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Err(error) => {
                write_if_possible(stream, &mut records.outgoing).await;
                return Err(invalid_data(error));
            }
        }
        poll_fn(|cx| records.outgoing.poll_write_to(stream, cx)).await?;
        read(stream, &mut records.incoming).await?;
    }
}

/// Computes our first flight, and writes it as far as the system takes it at once. A flight is far smaller than any socket's buffer.
///
/// # Errors
/// Those of rustls as `InvalidData`.
async fn answer<S, C>(stream: &mut S, records: &mut Records<C>) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
    C: Unbuffered,
{
    let outcome = records.process(None);
    write_if_possible(stream, &mut records.outgoing).await;
    outcome.map(drop).map_err(invalid_data)
}

/// Waits until the whole ClientHello has arrived, and computes nothing. Returns all that was read, and the name in SNI.
///
/// # Errors
/// Those of the stream, and of rustls as `InvalidData`.
async fn client_hello<S>(stream: &mut S) -> io::Result<(Buffer, Option<String>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut incoming = Buffer::default();
    let mut acceptor = Acceptor::default();
    loop {
        let got = read(stream, &mut incoming).await?;
        let mut unread = &incoming.octets()[incoming.len() - got..];
        while !unread.is_empty() {
            acceptor.read_tls(&mut unread)?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_owned);
                    // The client may have to wait for its turn.
                    incoming.rest(usize::MAX);
                    return Ok((incoming, name));
                }
                Err((error, mut alert)) => {
                    let mut record = Vec::new();
                    alert.write_all(&mut record)?;
                    write_if_possible(stream, &mut Buffer::holding(record)).await;
                    return Err(invalid_data(error));
                }
            }
        }
    }
}

/// Reads what is there.
async fn read<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Buffer) -> io::Result<usize> {
    let read = poll_fn(|cx| {
        let outcome = buffer.poll_read_from(stream, FLIGHT, cx);
        if outcome.is_pending() {
            // Whoever waits for a slow peer holds no block.
            buffer.rest(usize::MAX);
        }
        outcome
    });
    match read.await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        got => Ok(got),
    }
}

/// Writes what the system takes at once. An alert is worth no more, and a flight fits.
async fn write_if_possible<S: AsyncWrite + Unpin>(stream: &mut S, buffer: &mut Buffer) {
    poll_fn(|cx| {
        // An error of this write shows again at the next read.
        let _ = buffer.poll_write_to(stream, cx);
        Poll::Ready(())
    })
    .await;
}
