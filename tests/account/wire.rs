//! One end of a connection, in the clear or over TLS, read line by line.

use rustls::{ConnectionCommon, SideData, StreamOwned};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    ops::DerefMut,
    time::Duration,
};

/// A connection of either kind.
trait Connection: Read + Write {
    fn tcp(&self) -> &TcpStream;
    /// The socket, where there is no TLS.
    fn into_plain(self: Box<Self>) -> Option<TcpStream> {
        None
    }
    /// Says close_notify, where there is TLS.
    fn close_tls(&mut self) {}
}

impl Connection for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
    fn into_plain(self: Box<Self>) -> Option<TcpStream> {
        Some(*self)
    }
}

impl<C, D> Connection for StreamOwned<C, TcpStream>
where
    C: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
{
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
    fn close_tls(&mut self) {
        self.conn.send_close_notify();
        // If the other end is gone already, the error does not matter.
        let _ = self.flush();
    }
}

pub struct Wire {
    /// The other end; `None`: it is gone.
    stream: Option<Box<dyn Connection + Send>>,
    buffer: Vec<u8>,
    /// Nothing came within the time limit.
    pub hung: bool,
}

impl Wire {
    pub fn new(tcp: TcpStream, patience: Duration) -> Self {
        tcp.set_read_timeout(Some(patience)).expect("a timeout");
        tcp.set_write_timeout(Some(patience)).expect("a timeout");
        tcp.set_nodelay(true).expect("no delay");
        Self {
            stream: Some(Box::new(tcp)),
            buffer: Vec::new(),
            hung: false,
        }
    }

    /// Reads more; false at the end of the connection, however it came.
    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        let Some(stream) = &mut self.stream else {
            return false;
        };
        match stream.read(&mut piece) {
            Ok(octets @ 1..) => {
                self.buffer.extend_from_slice(&piece[..octets]);
                true
            }
            Ok(0) => false,
            Err(error) => {
                let hangs = matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
                // A program that hangs must not hang the test. The octets so far show where it hung.
                self.hung |= hangs;
                false
            }
        }
    }

    /// A line without its CR LF; `None` at the end of the connection.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Up to `most` octets, as many as come at once; none at the end of the connection.
    pub fn piece(&mut self, most: usize) -> Vec<u8> {
        if self.buffer.is_empty() && most > 0 {
            self.fill();
        }
        let octets = most.min(self.buffer.len());
        self.buffer.drain(..octets).collect()
    }

    /// Puts back octets that were read too early.
    pub fn unread(&mut self, octets: &[u8]) {
        self.buffer.splice(..0, octets.iter().copied());
    }

    /// Writes octets. Returns false once the other end takes no more.
    pub fn write(&mut self, octets: &[u8]) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        stream
            .write_all(octets)
            .and_then(|()| stream.flush())
            .is_ok()
    }

    /// Starts TLS in either role over a connection in the clear. Returns whether it came up.
    pub fn start_tls<C, D>(&mut self, mut connection: C) -> bool
    where
        C: DerefMut<Target = ConnectionCommon<D>> + Send + 'static,
        D: SideData + 'static,
    {
        let Some(mut tcp) = self.stream.take().and_then(|stream| stream.into_plain()) else {
            return false;
        };
        while connection.is_handshaking() {
            if connection.complete_io(&mut tcp).is_err() {
                return false;
            }
        }
        self.stream = Some(Box::new(StreamOwned::new(connection, tcp)));
        true
    }

    /// Says that nothing more comes (close_notify, FIN). What the other end still says can be read.
    pub fn finish(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.close_tls();
            let _ = stream.tcp().shutdown(Shutdown::Write);
        }
    }

    /// Reads to the end and forgets it, so that no octet left over turns the FIN into a reset.
    pub fn drain(&mut self) {
        while self.fill() {
            self.buffer.clear();
        }
    }

    /// Resets the connection.
    pub fn abort(&mut self) {
        if let Some(stream) = self.stream.take() {
            let socket = socket2::SockRef::from(stream.tcp());
            socket.set_linger(Some(Duration::ZERO)).expect("a linger");
        }
    }
}
