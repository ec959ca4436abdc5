//! What stands around each peer: certificates, a folder for its files, a name server, and the servers that mail ends at.

#[path = "../../examples/demo/dns.rs"]
mod dns;

use crate::{Outcome, certs, options::Options, sender::Sender, sink::Sink};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// The server of the world, which the proxy must verify.
pub const OUTSIDE: &str = "mx.outside.example";
/// The name under which the proxy serves the world.
pub const INSIDE: &str = "mx.inside.example";
pub struct World {
    pub folder: PathBuf,
    pub resolver: SocketAddr,
    /// With STARTTLS, as the world's servers are.
    pub outside: Sink,
    /// In the clear, as a server inside is.
    pub inside: Sink,
    /// As `outside`, where connections are intercepted; `None` where they cannot be.
    pub intercepted: Option<Sink>,
    /// Tells nginx where mail goes to.
    pub auth_http: SocketAddr,
    connector: TlsConnector,
}

impl World {
    pub async fn new(options: &Options) -> Outcome<Self> {
        let folder =
            std::env::temp_dir().join(format!("starttls-proxy-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        certs::write(&folder, &[OUTSIDE, INSIDE]);
        let outside = certs::acceptor(&folder, OUTSIDE)?;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let inside = Sink::start(local, None).await?;
        Ok(Self {
            resolver: dns::serve().await?,
            intercepted: if options.intercepts {
                let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 25));
                Some(Sink::start(all, Some(outside.clone())).await?)
            } else {
                None
            },
            outside: Sink::start(local, Some(outside)).await?,
            auth_http: auth_http(inside.address).await?,
            inside,
            connector: certs::connector(&folder)?,
            folder,
        })
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Writes a file into the folder and returns its path.
    pub fn file(&self, name: &str, content: &str) -> Outcome<String> {
        let path = self.path(name);
        fs::write(&path, content)?;
        Ok(path)
    }

    pub fn plain_sender(&self, to: SocketAddr) -> Sender {
        Sender {
            to,
            tls: None,
            from: None,
        }
    }

    pub fn tls_sender(&self, to: SocketAddr, name: &'static str) -> Outcome<Sender> {
        Ok(Sender {
            to,
            tls: Some((self.connector.clone(), ServerName::try_from(name)?)),
            from: None,
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What is left in the folder for temporary files is the system's to remove.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The smallest server that nginx asks where mail goes to: always to `target`.
async fn auth_http(target: SocketAddr) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let answer = format!(
        "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {}\r\nAuth-Port: {}\r\n\r\n",
        target.ip(),
        target.port()
    );
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // nginx notices a connection that breaks.
            tokio::spawn(answer_one(client, answer.clone()));
        }
    });
    Ok(address)
}

async fn answer_one(mut client: TcpStream, answer: String) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut request = Vec::with_capacity(1024);
    while !request.ends_with(b"\r\n\r\n") {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    client.write_all(answer.as_bytes()).await
}

/// An address that nobody listens on at this moment, with a port that no connection gets by itself.
pub async fn free_address() -> Outcome<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            return Ok(listener.local_addr()?);
        }
        if port > 30_000 {
            return Err("no port is free".into());
        }
    }
}
