//! The running program as a child process, a client that speaks to it, and a server behind it.
//!
//! Tests include this file with `#[path]`.

#![allow(dead_code, reason = "nobody who takes this in uses all of it")]

#[path = "pki.rs"]
pub mod pki;

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use pki::Authority;
pub use pki::Scratch;

/// A wait this long means that something hangs.
pub const HANG: Duration = Duration::from_secs(20);

/// The program, with its log lines; ended with the test.
pub struct Proxy {
    pub child: Child,
    log: Option<BufReader<std::process::ChildStderr>>,
}

impl Proxy {
    pub fn start(arguments: &[impl AsRef<OsStr>]) -> Self {
        let mut command = program();
        command.args(arguments);
        Self::start_as(command)
    }

    /// Starts it and waits until it is ready.
    pub fn ready(arguments: &[impl AsRef<OsStr>]) -> Self {
        let mut proxy = Self::start(arguments);
        proxy.says(": ready");
        proxy
    }

    /// Starts it with a limit of open files.
    pub fn start_with_files(files: usize, arguments: &[impl AsRef<OsStr>]) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("ulimit -n {files}; exec \"$@\""), "sh"])
            .arg(env!("CARGO_BIN_EXE_starttls-proxy"))
            .args(arguments);
        Self::start_as(command)
    }

    /// Starts it by a command of the caller's.
    pub fn start_as(mut command: Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = child.stderr.take().map(BufReader::new);
        Self { child, log }
    }

    /// Waits for a log line with `words` in it.
    pub fn says(&mut self, words: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(
                self.log
                    .as_mut()
                    .expect("piped")
                    .read_line(&mut line)
                    .expect("a line")
                    > 0,
                "it ended without saying {words:?}:\n{seen}"
            );
            if line.contains(words) {
                return line;
            }
            seen += &line;
        }
    }

    /// Waits for its end; fails if that does not come.
    pub fn ends(&mut self) -> std::process::ExitStatus {
        // Nobody can wait for a process with a limit but by asking again.
        for _ in 0..20 * HANG.as_secs() {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("it does not end");
    }

    /// Its log, for a thread that reads it.
    pub fn take_log(&mut self) -> BufReader<std::process::ChildStderr> {
        self.log.take().expect("not taken yet")
    }

    /// The log lines of the program until it ends.
    pub fn last_words(&mut self) -> String {
        let mut rest = Vec::new();
        self.log
            .as_mut()
            .expect("piped")
            .read_to_end(&mut rest)
            .expect("the log");
        String::from_utf8_lossy(&rest).into_owned()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .expect("kill")
                .success()
        );
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free port of loopback, below those that the system gives to connections, so that nobody takes it before it is used.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        let here: SocketAddr = ([127, 0, 0, 1], port).into();
        if TcpListener::bind(here).is_ok() {
            return here;
        }
    }
}

/// What stands in an audit log, with those of its files that midnight (UTC) put aside meanwhile.
pub fn written(log: impl AsRef<Path>) -> String {
    let log = log.as_ref();
    let mut files = starttls_proxy::audit::rotated(log).expect("a folder");
    files.push(log.to_owned());
    let texts = files
        .iter()
        .map(|file| fs::read_to_string(file).expect("a log"));
    texts.collect()
}

/// Closes, behind a command of a shell, what whoever runs the tests may have open. A process that goes on in the place of another would
/// find it.
pub const CLOSED: &str = "3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-";

/// The program.
fn program() -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec \"$@\" {CLOSED}"), "sh"])
        .arg(env!("CARGO_BIN_EXE_starttls-proxy"));
    command
}

/// An SMTP client that checks each reply's code.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    pub fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("connects");
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        Self(BufReader::new(stream))
    }
    /// Connects, is greeted and says EHLO.
    pub fn introduced(to: SocketAddr) -> Self {
        let mut client = Self::connect(to);
        client.hears("220");
        client.says("EHLO client.example").hears("250");
        client
    }
    /// For a program whose log nobody reads for `ready`: tries until the program greets.
    pub fn greeted(by: SocketAddr) -> Self {
        for _ in 0..10 * HANG.as_secs() {
            if let Ok(stream) = TcpStream::connect(by) {
                stream.set_read_timeout(Some(HANG)).expect("a timeout");
                let mut client = Self(BufReader::new(stream));
                client.hears("220");
                return client;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("nobody listens");
    }
    pub fn says(&mut self, line: &str) -> &mut Self {
        self.0
            .get_mut()
            .write_all(format!("{line}\r\n").as_bytes())
            .expect("written");
        self
    }
    pub fn hears(&mut self, code: &str) -> String {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a reply");
            assert!(line.starts_with(code), "wanted {code}, got {line:?}");
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }
    /// Begins a message that the server is ready to take.
    pub fn begins_mail(&mut self, sender: &str, recipients: &[&str]) -> &mut Self {
        self.says(&format!("MAIL FROM:<{sender}>")).hears("250");
        for recipient in recipients {
            self.says(&format!("RCPT TO:<{recipient}>")).hears("250");
        }
        self.says("DATA").hears("354");
        self
    }
    pub fn hears_the_end(&mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("an end");
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
    }
}

/// TLS over a connection that said STARTTLS; the certificate that was shown.
pub fn certificate_served(to: SocketAddr, authority: &Authority, name: &'static str) -> Vec<u8> {
    let mut client = Client::introduced(to);
    client.says("STARTTLS").hears("220");
    let config = Arc::new(authority.client_config());
    let name = rustls::pki_types::ServerName::try_from(name).expect("a name");
    let mut connection = rustls::ClientConnection::new(config, name).expect("a connection");
    let mut tcp = client.0.into_inner();
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp).expect("a handshake");
    }
    connection.peer_certificates().expect("a chain")[0].to_vec()
}

/// The replies of a server in the clear.
#[derive(Clone, Copy)]
pub struct ClearServer {
    pub greeting: &'static str,
    pub ehlo: &'static str,
}

/// An inside server.
pub const INSIDE: ClearServer = ClearServer {
    greeting: "220 inside\r\n",
    ehlo: "250-inside\r\n250 SIZE 1000000\r\n",
};

impl ClearServer {
    /// Serves on a port of its own. It refuses STARTTLS, takes all mail and tells each line that it hears.
    pub fn serve(self) -> (SocketAddr, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (tell, told) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let tell = tell.clone();
                thread::spawn(move || self.talk(stream, &tell));
            }
        });
        (address, told)
    }

    fn talk(&self, stream: TcpStream, tell: &Sender<String>) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        let mut message = false;
        let mut answer = self.greeting;
        while stream.get_mut().write_all(answer.as_bytes()).is_ok()
            && stream.read_line(&mut line).is_ok_and(|got| got > 0)
        {
            let ends = line == ".\r\n";
            answer = match line.get(..4) {
                _ if message && !ends => "",
                Some("EHLO") => self.ehlo,
                Some("STAR") => "454 4.7.0 certificate being renewed\r\n",
                Some("DATA") => "354 go\r\n",
                Some("PROX") => "",
                Some("QUIT") => "221 bye\r\n",
                _ => "250 2.1.0 ok\r\n",
            };
            message = answer.starts_with("354") || (message && !ends);
            let _ = tell.send(std::mem::take(&mut line));
        }
    }
}

/// An inside server's address, with the server behind it.
pub fn inside_server() -> SocketAddr {
    INSIDE.serve().0
}

/// Runs the program to its end; gives the exit code, stdout and stderr.
pub fn run(arguments: &[impl AsRef<OsStr>]) -> (Option<i32>, String, String) {
    let output = program().args(arguments).output().expect("it runs");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let (printed, words) = (text(&output.stdout), text(&output.stderr));
    (output.status.code(), printed, words)
}

/// Runs the program to its end; gives the exit code and stderr.
pub fn exit_code_and_words(arguments: &[impl AsRef<OsStr>]) -> (Option<i32>, String) {
    let (code, _, words) = run(arguments);
    (code, words)
}

/// What `GET /metrics` answers.
pub fn metrics_page(from: SocketAddr) -> String {
    let mut scrape = TcpStream::connect(from).expect("connects");
    scrape.set_read_timeout(Some(HANG)).expect("a timeout");
    scrape
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("written");
    let mut text = String::new();
    scrape.read_to_string(&mut text).expect("a page");
    text
}

/// A host certificate of an authority, as files.
pub struct Pair {
    pub authority: Authority,
    pub scratch: Scratch,
    pub cert: String,
    pub key: String,
}

impl Pair {
    /// Arguments of an inbound proxy. It hides the client's address unless `more` says otherwise.
    pub fn inbound(&self, listen: SocketAddr, upstream: SocketAddr, more: &[&str]) -> Vec<String> {
        let (listen, upstream) = (listen.to_string(), upstream.to_string());
        let first = ["inbound", "--listen", &listen, "--upstream", &upstream];
        let own = ["--cert", &self.cert, "--key", &self.key];
        let fixed = ["--relay-probe", "off", "--hide-client-address"];
        let address = ["--send-proxy", "--keep-client-address"];
        let said = more.iter().any(|flag| address.contains(flag));
        let fixed = &fixed[..fixed.len() - usize::from(said)];
        let all = [&first[..], &own, fixed, more].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    /// An inbound proxy that is ready, and its address.
    pub fn ready(&self, upstream: SocketAddr, more: &[&str]) -> (Proxy, SocketAddr) {
        let listen = free();
        (Proxy::ready(&self.inbound(listen, upstream, more)), listen)
    }
}

pub fn pair() -> Pair {
    let scratch = Scratch::new();
    let authority = Authority::root("Test Root");
    let (cert, key) = authority
        .leaf(&["mx.clinic.example"])
        .write(&scratch.0, "mx");
    let text = |path: &Path| path.display().to_string();
    Pair {
        cert: text(&cert),
        key: text(&key),
        authority,
        scratch,
    }
}

/// An address where nobody listens.
pub fn nowhere() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}
