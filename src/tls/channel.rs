//! An established TLS connection, fed by hand: it decrypts records that were read, and encrypts octets that are to be written. It
//! knows no socket.
//!
//! It stands on rustls' unbuffered interface, which keeps nothing between two records. The buffered one keeps 4 KiB a connection, and
//! copies each record once more before it is decrypted.

use std::io;

use rustls::{
    CommonState, Error, InvalidMessage,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
        WriteTraffic,
    },
};

use crate::net::buffer::Buffer;

/// What rustls can do in both roles, for which it has no trait.
pub(super) trait Unbuffered {
    type Data;
    /// Does the next step with the records that have arrived.
    fn step<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    /// What was negotiated.
    fn common(&self) -> &CommonState;
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

/// A connection with the records that have arrived for it and the records that it wants written.
pub(super) struct Records<C> {
    pub(super) connection: C,
    /// Records of the peer that are not processed yet.
    pub(super) incoming: Buffer,
    /// Records for the peer: handshake messages, alerts, key updates, data.
    pub(super) outgoing: Buffer,
    /// The peer has said that it will send no more.
    ended: bool,
    /// The fault after which rustls may not be asked for anything more.
    fault: Option<Box<Error>>,
}

/// Octets that may wait for the rest of a handshake message (rustls takes none beyond 64 KiB) and of a record. The message may come in
/// many records with more padding than content, which would have no limit otherwise.
const MOST_UNPROCESSED: usize = 0xffff + 17 * 1024;

/// Takes the data of one record.
type DataTaker<'a> = &'a mut dyn FnMut(&[u8]);

/// How far the records that have arrived lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// No whole record is left.
    Starved,
    /// There is data, and nobody takes it yet.
    Data,
    /// The peer will send no more data (`close_notify`, RFC 8446 §6.1).
    Ended,
}

impl<C: Unbuffered> Records<C> {
    pub(super) fn new(connection: C, incoming: Buffer) -> Self {
        Self {
            connection,
            incoming,
            outgoing: Buffer::default(),
            ended: false,
            fault: None,
        }
    }

    /// Processes the records that have arrived. Their data is given to `data`, record by record; without `data`, processing ends in front
    /// of the first data.
    ///
    /// # Errors
    /// The peer breaks the protocol, or sent an alert. An alert for the peer may be in `outgoing` then.
    pub(super) fn process(&mut self, data: Option<DataTaker<'_>>) -> Result<Progress, Error> {
        if let Some(fault) = &self.fault {
            self.incoming.clear();
            return Err(Error::clone(fault));
        }
        let outcome = self.advance(data);
        if let Err(fault) = &outcome {
            self.fail(fault);
        }
        outcome
    }

    fn advance(&mut self, mut data: Option<DataTaker<'_>>) -> Result<Progress, Error> {
        loop {
            let UnbufferedStatus { discard, state } =
                self.connection.step(self.incoming.octets_mut());
            let progress = match state? {
                ConnectionState::ReadTraffic(mut traffic) => match &mut data {
                    None => Some(Progress::Data),
                    Some(data) => {
                        let mut more = 0;
                        while let Some(record) = traffic.next_record() {
                            let record = record?;
                            more += record.discard;
                            data(record.payload);
                        }
                        self.incoming.take(more);
                        None
                    }
                },
                ConnectionState::EncodeTlsData(mut message) => {
                    put(&mut self.outgoing, |room| message.encode(room))?;
                    None
                }
                ConnectionState::TransmitTlsData(transmit) => {
                    // What is in `outgoing` is written before the next read.
                    transmit.done();
                    None
                }
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => {
                    Some(Progress::Starved)
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    // rustls says it once only.
                    self.ended = true;
                    Some(Progress::Ended)
                }
                // Early data is refused by configuration (RFC 8446 §8).
                _ => return Err(Error::General("an unexpected state of TLS".into())),
            };
            self.incoming.take(discard);
            match progress {
                None => {}
                Some(_) if self.ended => {
                    // What comes behind the end is nothing to anybody.
                    self.incoming.clear();
                    return Ok(Progress::Ended);
                }
                Some(Progress::Starved) if self.incoming.len() > MOST_UNPROCESSED => {
                    return Err(Error::InvalidMessage(
                        InvalidMessage::HandshakePayloadTooLarge,
                    ));
                }
                Some(progress) => return Ok(progress),
            }
        }
    }

    /// After a fault nothing of the peer counts any more. Only the alert that tells the peer of the fault is left to be written.
    fn fail(&mut self, fault: &Error) {
        self.fault = Some(Box::new(fault.clone()));
        self.incoming.clear();
        // As long as rustls has something to write, it does not look at what came in.
        while self.connection.common().wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut message)) =
                self.connection.step(&mut []).state
            else {
                return;
            };
            if put(&mut self.outgoing, |room| message.encode(room)).is_err() {
                return;
            }
        }
    }

    /// Encrypts these octets, behind all that waits to be written.
    ///
    /// # Errors
    /// No more may be sent on this connection.
    fn seal(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.write(|traffic, room| traffic.encrypt(octets, room))
    }

    /// Tells the peer that nothing more will come.
    fn close(&mut self) {
        // Without this record the connection ends all the same.
        let _ = self.write(|traffic, room| traffic.queue_close_notify(room));
    }

    fn write(
        &mut self,
        mut write: impl FnMut(&mut WriteTraffic<'_, C::Data>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        // Messages of rustls come first, as their records are numbered before ours.
        self.process(None)?;
        match self.connection.step(self.incoming.octets_mut()).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                put(&mut self.outgoing, |room| write(&mut traffic, room))
            }
            // All data that came in is taken before anything is sent.
            _ => Err(Error::General("nothing can be sent".into())),
        }
    }
}

/// Why rustls wrote nothing.
trait Unwritten {
    /// The size of the room that it needs, or a fault.
    fn needs(self) -> Result<usize, Error>;
}

impl Unwritten for EncodeError {
    fn needs(self) -> Result<usize, Error> {
        match self {
            Self::InsufficientSize(InsufficientSizeError { required_size }) => Ok(required_size),
            Self::AlreadyEncoded => Err(Error::General(self.to_string())),
        }
    }
}

impl Unwritten for EncryptError {
    fn needs(self) -> Result<usize, Error> {
        match self {
            Self::InsufficientSize(InsufficientSizeError { required_size }) => Ok(required_size),
            Self::EncryptExhausted => Err(Error::EncryptError),
        }
    }
}

/// Lets rustls write behind the octets of a buffer, with more room if it needs more.
fn put<E: Unwritten>(
    buffer: &mut Buffer,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), Error> {
    let mut least = 1;
    loop {
        match write(buffer.room(least)) {
            Ok(written) => {
                buffer.fill(written);
                return Ok(());
            }
            Err(error) => {
                let needed = error.needs()?;
                if needed <= least {
                    return Err(Error::EncryptError);
                }
                least = needed;
            }
        }
    }
}

/// The part that this proxy plays.
enum TlsRole {
    Client(Records<UnbufferedClientConnection>),
    Server(Records<UnbufferedServerConnection>),
}

/// A fault of TLS, as streams have faults.
pub(super) fn invalid_data(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// See the text of this module.
pub(crate) struct Channel(TlsRole);

macro_rules! in_either_role {
    ($role:expr, $records:ident => $what:expr) => {
        match $role {
            TlsRole::Client($records) => $what,
            TlsRole::Server($records) => $what,
        }
    };
}

impl From<Records<UnbufferedClientConnection>> for Channel {
    fn from(records: Records<UnbufferedClientConnection>) -> Self {
        Self(TlsRole::Client(records))
    }
}

impl From<Records<UnbufferedServerConnection>> for Channel {
    fn from(records: Records<UnbufferedServerConnection>) -> Self {
        Self(TlsRole::Server(records))
    }
}

impl Channel {
    /// What was negotiated.
    pub(super) fn negotiated(&self) -> &CommonState {
        in_either_role!(&self.0, records => records.connection.common())
    }

    /// Records that were read and are not decrypted yet. What is read goes behind them.
    pub(crate) fn incoming(&mut self) -> &mut Buffer {
        in_either_role!(&mut self.0, records => &mut records.incoming)
    }

    /// Records that are still to be written.
    pub(crate) fn outgoing(&mut self) -> &mut Buffer {
        in_either_role!(&mut self.0, records => &mut records.outgoing)
    }

    /// Decrypts the records that were read, and gives their data to `data`, record by record.
    ///
    /// # Errors
    /// `InvalidData`: the peer breaks the protocol, or sent an alert.
    pub(crate) fn open(&mut self, mut data: impl FnMut(&[u8])) -> io::Result<()> {
        let outcome = in_either_role!(&mut self.0, records => records.process(Some(&mut data)));
        outcome.map(drop).map_err(invalid_data)
    }

    /// Whether the peer has said that it will send no more.
    pub(crate) fn has_ended(&self) -> bool {
        in_either_role!(&self.0, records => records.ended)
    }

    /// Encrypts these octets, behind all that waits to be written.
    ///
    /// # Errors
    /// No more may be sent on this connection.
    pub(crate) fn seal(&mut self, octets: &[u8]) -> io::Result<()> {
        in_either_role!(&mut self.0, records => records.seal(octets)).map_err(invalid_data)
    }

    /// Tells the peer that nothing more will come (`close_notify`).
    pub(crate) fn close(&mut self) {
        in_either_role!(&mut self.0, records => records.close());
    }
}
