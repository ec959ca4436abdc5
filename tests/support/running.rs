//! The program as a child process, a client that speaks to it, and a server behind it.
//!
//! Taken in by `#[path]`.

#![allow(dead_code, reason = "nobody who takes this in uses all of it")]

#[path = "pki.rs"]
pub mod pki;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use pki::Authority;

/// Nothing here takes that long unless it hangs.
pub const HANG: Duration = Duration::from_secs(20);

/// A folder that goes with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("starttls-proxy-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program, with its log lines; ended with the test.
pub struct Proxy {
    pub child: Child,
    log: BufReader<std::process::ChildStderr>,
}

impl Proxy {
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"))
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, log }
    }

    /// Waits for a log line with `words` in it.
    pub fn says(&mut self, words: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(
                self.log.read_line(&mut line).expect("a line") > 0,
                "it ended without saying {words:?}:\n{seen}"
            );
            if line.contains(words) {
                return line;
            }
            seen += &line;
        }
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

/// A free port of loopback.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
}

/// An SMTP client that checks each reply's code.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    pub fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("connects");
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        Self(BufReader::new(stream))
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
    pub fn hears_the_end(&mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("an end");
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
    }
}

/// An inside server that tells what it hears, one connection after the other.
pub fn inside_server(listener: TcpListener) -> std::sync::mpsc::Receiver<String> {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let tell = tell.clone();
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                let greeting = stream.get_mut().write_all(b"220 inside\r\n");
                while greeting.is_ok() && stream.read_line(&mut line).is_ok_and(|got| got > 0) {
                    let answer = match line.get(..4) {
                        Some("EHLO") => "250-inside\r\n250 SIZE 1000000\r\n",
                        Some("DATA") => "354 go\r\n",
                        Some("PROX") => "",
                        Some("QUIT") => "221 bye\r\n",
                        _ => "250 2.1.0 ok\r\n",
                    };
                    let _ = tell.send(std::mem::take(&mut line));
                    if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    told
}

pub fn exit_code_and_words(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"))
        .args(arguments)
        .output()
        .expect("it runs");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

pub struct Pair {
    pub authority: Authority,
    pub scratch: Scratch,
    pub cert: String,
    pub key: String,
}

pub fn pair(name: &str) -> Pair {
    let scratch = Scratch::new(name);
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
