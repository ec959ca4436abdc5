//! The yardstick: a relay that terminates STARTTLS and feeds rustls by hand through its unbuffered interface. It has no policy, no
//! log and no limits, looks at no octet after the handshake, and holds no buffer while nothing is to be read. What it costs is what
//! sockets, wake-ups and TLS cost.

use crate::Outcome;
use std::{
    cell::RefCell,
    fs, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
    version::{TLS12, TLS13},
};

/// Octets of a buffer, which holds at least one TLS record of 16 KiB and what comes with it.
const BUFFER: usize = 64 * 1024;
/// What TLS adds to the octets of a buffer, at most.
const OVERHEAD: usize = 1024;

thread_local! {
    /// Buffers that nobody uses.
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of the thread, which goes back when it is dropped.
struct Buffer {
    octets: Box<[u8]>,
    len: usize,
}

impl Buffer {
    fn take() -> Self {
        let octets = BUFFERS.with_borrow_mut(Vec::pop);
        Self {
            octets: octets.unwrap_or_else(|| vec![0; BUFFER + OVERHEAD].into()),
            len: 0,
        }
    }

    fn filled(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    /// Waits for octets, and puts them behind those of `rest`, which is then empty. No octets: the other end has closed.
    fn poll_read(
        stream: &mut TcpStream,
        context: &mut Context<'_>,
        rest: &mut Vec<u8>,
    ) -> Poll<io::Result<Self>> {
        let mut buffer = Self::take();
        let mut read = ReadBuf::new(&mut buffer.octets[rest.len()..BUFFER]);
        ready!(Pin::new(stream).poll_read(context, &mut read))?;
        let len = read.filled().len();
        if len > 0 {
            buffer.octets[..rest.len()].copy_from_slice(rest);
            buffer.len = rest.len() + len;
            *rest = Vec::new();
        }
        Poll::Ready(Ok(buffer))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let octets = std::mem::take(&mut self.octets);
        BUFFERS.with_borrow_mut(|buffers| buffers.push(octets));
    }
}

/// One end of a TLS connection.
trait Ended {
    type Data;
    fn process<'c, 'i>(&'c mut self, octets: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Ended for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, octets: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(octets)
    }
}

impl Ended for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, octets: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(octets)
    }
}

/// A TLS connection and its socket.
struct Secure<End> {
    stream: TcpStream,
    end: End,
    /// Begin of a record that is not complete.
    rest: Vec<u8>,
    /// What TLS has to say by itself.
    answer: Vec<u8>,
}

/// What became of received octets.
#[derive(Clone, Copy, PartialEq)]
enum Progress {
    Open,
    Handshaking,
    Closed,
}

impl<End: Ended> Secure<End> {
    /// Returns with the connection what the other end said in the flight that ended the handshake.
    async fn open(stream: TcpStream, end: End) -> io::Result<(Self, Vec<u8>)> {
        let mut secure = Self {
            stream,
            end,
            rest: Vec::new(),
            answer: Vec::new(),
        };
        let mut early = Vec::new();
        let mut progress = secure.feed(&mut [], &mut early)?;
        loop {
            let answer = std::mem::take(&mut secure.answer);
            secure.stream.write_all(&answer).await?;
            if progress == Progress::Open {
                return Ok((secure, early));
            }
            let mut read = std::future::poll_fn(|context| {
                Buffer::poll_read(&mut secure.stream, context, &mut secure.rest)
            })
            .await?;
            if read.len == 0 || progress == Progress::Closed {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let len = read.len;
            progress = secure.feed(&mut read.octets[..len], &mut early)?;
        }
    }

    /// Decrypts what was received.
    fn feed(&mut self, octets: &mut [u8], plaintext: &mut Vec<u8>) -> io::Result<Progress> {
        let mut at = 0;
        let progress = loop {
            let UnbufferedStatus { discard, state } = self.end.process(&mut octets[at..]);
            let progress = match state.map_err(io::Error::other)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        plaintext.extend_from_slice(record.map_err(io::Error::other)?.payload);
                    }
                    None
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(&mut data, &mut self.answer)?;
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    None
                }
                ConnectionState::WriteTraffic(_) => Some(Progress::Open),
                ConnectionState::BlockedHandshake => Some(Progress::Handshaking),
                ConnectionState::PeerClosed | ConnectionState::Closed => Some(Progress::Closed),
                _ => return Err(io::Error::other("early data")),
            };
            at += discard;
            if let Some(progress) = progress {
                break progress;
            }
        };
        self.rest.extend_from_slice(&octets[at..]);
        Ok(progress)
    }

    fn encrypt(&mut self, plaintext: &[u8], encrypted: &mut Buffer) -> io::Result<()> {
        loop {
            match self.end.process(&mut []).state.map_err(io::Error::other)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    encrypted.len = traffic
                        .encrypt(plaintext, &mut encrypted.octets)
                        .map_err(io::Error::other)?;
                    return Ok(());
                }
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, &mut self.answer)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Says that no more octets come.
    async fn close(&mut self) -> io::Result<()> {
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = self.end.process(&mut []).state {
            let mut notify = [0; OVERHEAD];
            let len = traffic
                .queue_close_notify(&mut notify)
                .map_err(io::Error::other)?;
            self.stream.write_all(&notify[..len]).await?;
        }
        self.stream.shutdown().await
    }
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, answer: &mut Vec<u8>) -> io::Result<()> {
    let begin = answer.len();
    let mut room = OVERHEAD;
    loop {
        answer.resize(begin + room, 0);
        match data.encode(&mut answer[begin..]) {
            Ok(len) => {
                answer.truncate(begin + len);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// `hand-fed out LISTEN TARGET CA NAME` or `hand-fed in LISTEN TARGET CERT KEY`, until the process is killed.
pub async fn run(arguments: &[String]) -> Outcome {
    let [direction, listen, target, first, second] = arguments else {
        return Err("hand-fed DIRECTION LISTEN TARGET and two files".into());
    };
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen.parse()?)?;
    let listener = socket.listen(16 * 1024)?;
    let target: SocketAddr = target.parse()?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    if direction == "out" {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(first)?)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (config, name) = (Arc::new(config), ServerName::try_from(second.clone())?);
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(outbound(client, target, Arc::clone(&config), name.clone()));
        }
    }
    let chain = CertificateDer::pem_slice_iter(&fs::read(first)?).collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(second)?)?;
    config.send_tls13_tickets = 0;
    let config = Arc::new(config);
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(inbound(client, target, Arc::clone(&config)));
    }
}

async fn outbound(
    mut client: TcpStream,
    target: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let greeting = reply(&mut server).await?;
    server.write_all(b"EHLO relay.example\r\n").await?;
    reply(&mut server).await?;
    server.write_all(b"STARTTLS\r\n").await?;
    reply(&mut server).await?;
    let end = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
    let (server, _) = Secure::open(server, end).await?;
    client.write_all(&greeting).await?;
    relay(client, server).await
}

async fn inbound(
    mut client: TcpStream,
    target: SocketAddr,
    config: Arc<ServerConfig>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let greeting = reply(&mut server).await?;
    client.write_all(&greeting).await?;
    // EHLO and STARTTLS; the line ends as a reply does.
    line(&mut client).await?;
    client.write_all(b"250-relay\r\n250 STARTTLS\r\n").await?;
    line(&mut client).await?;
    client.write_all(b"220 go\r\n").await?;
    let end = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
    let (client, early) = Secure::open(client, end).await?;
    server.write_all(&early).await?;
    relay(server, client).await
}

/// One command, of a client that waits for its reply.
async fn line(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut read = Vec::with_capacity(512);
    while !read.ends_with(b"\r\n") {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(read)
}

/// One reply, of one or more lines.
async fn reply(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut read = line(stream).await?;
    while is_open(&read) {
        read.extend(line(stream).await?);
    }
    Ok(read)
}

/// Whether another line of the reply follows.
fn is_open(read: &[u8]) -> bool {
    let before = read.len().saturating_sub(b"\r\n".len());
    let start = memchr::memrchr(b'\n', &read[..before]).map_or(0, |at| at + 1);
    read.get(start + 3) == Some(&b'-')
}

/// Copies both ways until one side closes.
async fn relay<End: Ended>(mut plain: TcpStream, mut secure: Secure<End>) -> io::Result<()> {
    let mut plaintext = Vec::new();
    loop {
        let (is_secure, mut read) = std::future::poll_fn(|context| {
            if let Poll::Ready(read) =
                Buffer::poll_read(&mut secure.stream, context, &mut secure.rest)
            {
                return Poll::Ready(read.map(|read| (true, read)));
            }
            Buffer::poll_read(&mut plain, context, &mut Vec::new())
                .map(|read| read.map(|read| (false, read)))
        })
        .await?;
        let mut is_closed = read.len == 0;
        if is_closed {
        } else if is_secure {
            let len = read.len;
            let progress = secure.feed(&mut read.octets[..len], &mut plaintext)?;
            drop(read);
            if !plaintext.is_empty() {
                plain.write_all(&plaintext).await?;
                plaintext = Vec::new();
            }
            is_closed = progress == Progress::Closed;
        } else {
            let mut encrypted = Buffer::take();
            secure.encrypt(read.filled(), &mut encrypted)?;
            drop(read);
            secure.stream.write_all(encrypted.filled()).await?;
        }
        if !secure.answer.is_empty() {
            let answer = std::mem::take(&mut secure.answer);
            secure.stream.write_all(&answer).await?;
        }
        if is_closed {
            // The other end may be gone.
            let _ = secure.close().await;
            let _ = plain.shutdown().await;
            return Ok(());
        }
    }
}
