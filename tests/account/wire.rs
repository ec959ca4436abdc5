//! One end of a connection, in the clear or over TLS, read line by line.

use rustls::{ClientConnection, ServerConnection, StreamOwned};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

enum Stream {
    Plain(TcpStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
    Gone,
}

pub struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    /// Nothing came for that long.
    pub hung: bool,
}

impl Wire {
    pub fn new(tcp: TcpStream, patience: Duration) -> Self {
        tcp.set_read_timeout(Some(patience)).expect("a timeout");
        tcp.set_write_timeout(Some(patience)).expect("a timeout");
        tcp.set_nodelay(true).expect("no delay");
        Self {
            stream: Stream::Plain(tcp),
            buffer: Vec::new(),
            hung: false,
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match &self.stream {
            Stream::Plain(tcp) => Some(tcp),
            Stream::Client(tls) => Some(&tls.sock),
            Stream::Server(tls) => Some(&tls.sock),
            Stream::Gone => None,
        }
    }

    /// Reads more; false at the end of the connection, however it came.
    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        let read = match &mut self.stream {
            Stream::Plain(tcp) => tcp.read(&mut piece),
            Stream::Client(tls) => tls.read(&mut piece),
            Stream::Server(tls) => tls.read(&mut piece),
            Stream::Gone => return false,
        };
        match read {
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
                // A program that hangs shall not hang the test; what was said until then tells where.
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

    /// Puts back what was read too much.
    pub fn unread(&mut self, octets: &[u8]) {
        self.buffer.splice(..0, octets.iter().copied());
    }

    /// False once nobody takes it any more.
    pub fn write(&mut self, octets: &[u8]) -> bool {
        match &mut self.stream {
            Stream::Plain(tcp) => tcp.write_all(octets),
            Stream::Client(tls) => tls.write_all(octets).and_then(|()| tls.flush()),
            Stream::Server(tls) => tls.write_all(octets).and_then(|()| tls.flush()),
            Stream::Gone => return false,
        }
        .is_ok()
    }

    /// TLS as a server; whether it came up.
    pub fn accept(&mut self, mut connection: ServerConnection) -> bool {
        let Stream::Plain(mut tcp) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return false;
        };
        while connection.is_handshaking() {
            if connection.complete_io(&mut tcp).is_err() {
                return false;
            }
        }
        let tls = StreamOwned::new(connection, tcp);
        self.stream = Stream::Server(Box::new(tls));
        true
    }

    /// TLS as a client; whether it came up.
    pub fn connect(&mut self, mut connection: ClientConnection) -> bool {
        let Stream::Plain(mut tcp) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return false;
        };
        while connection.is_handshaking() {
            if connection.complete_io(&mut tcp).is_err() {
                return false;
            }
        }
        let tls = StreamOwned::new(connection, tcp);
        self.stream = Stream::Client(Box::new(tls));
        true
    }

    /// Says that nothing more comes (close_notify, FIN). What the other end still says can be read.
    pub fn finish(&mut self) {
        // Whoever is gone already needs no farewell.
        match &mut self.stream {
            Stream::Client(tls) => {
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
            Stream::Server(tls) => {
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
            Stream::Plain(_) | Stream::Gone => {}
        }
        if let Some(tcp) = self.tcp() {
            let _ = tcp.shutdown(Shutdown::Write);
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
        if let Some(tcp) = self.tcp() {
            let socket = socket2::SockRef::from(tcp);
            socket.set_linger(Some(Duration::ZERO)).expect("a linger");
        }
        self.stream = Stream::Gone;
    }
}
