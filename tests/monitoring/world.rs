//! A mail server outside that speaks STARTTLS, and what asks the pages.

use crate::{
    dns,
    running::{
        HANG, Scratch,
        pki::{Authority, Leaf},
    },
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
};

/// The answer to a request.
pub struct Answer {
    pub status: u16,
    /// In small letters.
    pub head: String,
    pub body: String,
}

/// Asks as a browser or scraper does that was led here by `host`.
pub fn get(from: SocketAddr, path: &str, host: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    ask(from, &request)
}

/// Asks with this request.
pub fn ask(from: SocketAddr, request: &str) -> Answer {
    let mut tcp = TcpStream::connect(from).expect("connects");
    tcp.set_read_timeout(Some(HANG)).expect("a timeout");
    tcp.write_all(request.as_bytes()).expect("written");
    let mut text = String::new();
    tcp.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer {
        status: status.expect("a status"),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// The names that a page introduces, with their kind. A counter's `_total` stands in its samples only.
pub fn introduced(page: &str) -> Vec<(String, String)> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let split = lines.filter_map(|line| line.split_once(' '));
    split
        .map(|(name, kind)| match kind {
            "counter" => (format!("{name}_total"), kind.to_owned()),
            _ => (name.to_owned(), kind.to_owned()),
        })
        .collect()
}

/// A mail server that shows a certificate, and takes all mail that comes over TLS.
pub fn tls_server(leaf: &Leaf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let config = Arc::new(leaf.server_config());
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            // A client that goes away early ends its own conversation only.
            thread::spawn(move || drop(talk(tcp, config)));
        }
    });
    address
}

fn talk(tcp: TcpStream, config: Arc<rustls::ServerConfig>) -> std::io::Result<()> {
    tcp.set_read_timeout(Some(HANG))?;
    let mut plain = BufReader::new(tcp);
    plain.get_mut().write_all(b"220 mx\r\n")?;
    let mut line = String::new();
    while plain.read_line(&mut line)? > 0 {
        let reply: &[u8] = match line.get(..4) {
            Some("EHLO") => b"250-mx\r\n250 STARTTLS\r\n",
            Some("STAR") => break,
            Some("QUIT") => b"221 bye\r\n",
            _ => b"530 5.7.0 TLS first\r\n",
        };
        plain.get_mut().write_all(reply)?;
        line.clear();
    }
    plain.get_mut().write_all(b"220 go\r\n")?;
    let connection = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut tls = BufReader::new(rustls::StreamOwned::new(connection, plain.into_inner()));
    let (mut line, mut message) = (String::new(), false);
    while tls.read_line(&mut line)? > 0 {
        let ends = line == ".\r\n";
        let reply: &[u8] = match line.get(..4) {
            _ if message && !ends => b"",
            Some("EHLO") => b"250-mx\r\n250 SIZE 1000000\r\n",
            Some("DATA") => b"354 go\r\n",
            Some("QUIT") => b"221 bye\r\n",
            _ => b"250 2.0.0 ok\r\n",
        };
        message = reply.starts_with(b"354") || (message && !ends);
        tls.get_mut().write_all(reply)?;
        line.clear();
    }
    Ok(())
}

/// A name server for which every name is at 127.0.0.1.
pub fn name_server() -> SocketAddr {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let address = dns::serve().await.expect("a port");
            tell.send(address).expect("it is waited for");
            std::future::pending::<()>().await;
        });
    });
    told.recv().expect("an address")
}

/// An authority, and files for it.
pub struct World {
    pub scratch: Scratch,
    pub authority: Authority,
}

impl World {
    pub fn new() -> Self {
        Self {
            scratch: Scratch::new(),
            authority: Authority::root("Monitoring Root"),
        }
    }

    /// Arguments of an outbound proxy whose smart host is `to`, and which shows itself at `status`.
    pub fn outbound(
        &self,
        [listen, status]: [SocketAddr; 2],
        to: &str,
        more: &[&str],
    ) -> Vec<String> {
        let roots = self.scratch.file("roots.pem", self.authority.pem());
        let (listen, status) = (listen.to_string(), status.to_string());
        let own = ["outbound", "--listen", &listen, "--metrics", &status];
        let peer = ["--upstream", to, "--ca-file", &roots, "--no-dane"];
        let all = [
            &own[..],
            &peer,
            &["--hostname", "proxy.hospital.example"],
            more,
        ]
        .concat();
        all.into_iter().map(str::to_owned).collect()
    }
}
