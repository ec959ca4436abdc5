//! How often the server has to answer before the mail is through: through the program never more often than for a client that
//! speaks STARTTLS itself. On a long line these flights are what a user waits for.
//!
//! The server of these tests is lazy: it answers only when everything has come that can come without an answer. A native client
//! tells it when that is. The same server then demands the same octets of the program before each of its answers. A
//! program that waited for one answer more would wait for ever, so nothing here depends on time.

#[path = "support/running.rs"]
mod running;

use running::{HANG, Pair, Proxy, free, pair, pki::Authority};
use rustls::{
    ClientConnection, ServerConfig, ServerConnection, StreamOwned, pki_types::ServerName,
};
use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
};

const HOST: &str = "mx.clinic.example";
const EHLO: &str = "EHLO client.example\r\n";

/// One end of a connection.
enum Link {
    Clear(TcpStream),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Link {
    fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("connects");
        Self::of(stream)
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        Self::Clear(stream)
    }

    fn into_stream(self) -> TcpStream {
        match self {
            Self::Clear(stream) => stream,
            Self::Server(_) | Self::Client(_) => panic!("TLS is up already"),
        }
    }

    fn secured_by(self, authority: &Authority) -> Self {
        let config = Arc::new(authority.client_config());
        let name = ServerName::try_from(HOST).expect("a name");
        let connection = ClientConnection::new(config, name).expect("a connection");
        Self::Client(Box::new(StreamOwned::new(connection, self.into_stream())))
    }

    fn serving(self, config: &Arc<ServerConfig>) -> Self {
        let connection = ServerConnection::new(Arc::clone(config)).expect("a connection");
        Self::Server(Box::new(StreamOwned::new(connection, self.into_stream())))
    }

    fn read(&mut self, into: &mut Vec<u8>) -> bool {
        let mut octets = [0; 4096];
        let read = match self {
            Self::Clear(stream) => stream.read(&mut octets),
            Self::Server(stream) => stream.read(&mut octets),
            Self::Client(stream) => stream.read(&mut octets),
        };
        into.extend_from_slice(&octets[..*read.as_ref().unwrap_or(&0)]);
        read.is_ok_and(|read| read > 0)
    }

    fn write(&mut self, text: &str) {
        let done = match self {
            Self::Clear(stream) => stream.write_all(text.as_bytes()),
            Self::Server(stream) => stream.write_all(text.as_bytes()),
            Self::Client(stream) => stream.write_all(text.as_bytes()),
        };
        done.expect("written");
    }

    /// Reads that many replies; their codes.
    fn hears(&mut self, replies: usize) -> Vec<String> {
        let (mut input, mut codes) = (Vec::new(), Vec::new());
        while codes.len() < replies {
            assert!(self.read(&mut input), "{codes:?} and no more");
            let text = String::from_utf8_lossy(&input).into_owned();
            let whole = text.split_inclusive("\r\n").filter(|l| l.ends_with('\n'));
            let last = whole.filter(|line| line.as_bytes().get(3) == Some(&b' '));
            codes = last.map(|line| line[..3].to_owned()).collect();
        }
        codes
    }
}

/// What the server must have before it answers.
enum Patience {
    /// The client tells it.
    Told(Receiver<String>),
    Knows(VecDeque<String>),
}

impl Patience {
    fn next(&mut self) -> Option<String> {
        match self {
            Self::Told(turns) => turns.recv().ok(),
            Self::Knows(turns) => turns.pop_front(),
        }
    }
}

/// The lazy server.
#[derive(Clone)]
struct Server {
    pipelining: bool,
    /// For TLS; `None`: STARTTLS is not offered.
    tls: Option<Arc<ServerConfig>>,
}

impl Server {
    /// Serves one connection. Returns what it had got at each of its answers; the greeting and TLS itself are not counted.
    fn serve(self, mut patience: Patience) -> (SocketAddr, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let served = thread::spawn(move || {
            let mut link = Link::of(listener.accept().expect("a connection").0);
            link.write("220 mx ESMTP\r\n");
            let (mut turns, mut secure, mut in_message) = (Vec::new(), false, false);
            while let Some(wanted) = patience.next() {
                let mut input = Vec::new();
                while input.len() < wanted.len() && link.read(&mut input) {}
                let got = String::from_utf8_lossy(&input).into_owned();
                assert_eq!(got, wanted, "what comes without an answer");
                link.write(&self.answers(&got, secure, &mut in_message));
                if got == "STARTTLS\r\n" {
                    // TLS writes no tickets, so between its only flight and the reply to EHLO the server writes nothing.
                    link = link.serving(self.tls.as_ref().expect("offered"));
                    secure = true;
                }
                turns.push(got);
            }
            turns
        });
        (address, served)
    }

    fn answers(&self, text: &str, secure: bool, in_message: &mut bool) -> String {
        let mut answers = String::new();
        let mut rest = text;
        while let Some((line, behind)) = rest.split_once("\r\n") {
            rest = behind;
            if *in_message {
                *in_message = line != ".";
                answers += if *in_message { "" } else { "250 queued\r\n" };
                continue;
            }
            if let Some(chunk) = line.strip_prefix("BDAT ") {
                let octets = chunk.split(' ').next().unwrap_or_default();
                rest = &rest[octets.parse().expect("a number")..];
            }
            *in_message = line == "DATA";
            answers += &match &line[..4] {
                "EHLO" => self.offer(secure),
                "STAR" => "220 go\r\n".to_owned(),
                "DATA" => "354 go\r\n".to_owned(),
                "RCPT" if line.contains("<nobody@") => "550 nobody\r\n".to_owned(),
                "QUIT" => "221 bye\r\n".to_owned(),
                _ => "250 ok\r\n".to_owned(),
            };
        }
        assert_eq!(rest, "", "half a line");
        answers
    }

    fn offer(&self, secure: bool) -> String {
        let pipelining = ["", "250-PIPELINING\r\n"][usize::from(self.pipelining)];
        let starttls = ["", "250-STARTTLS\r\n"][usize::from(self.tls.is_some() && !secure)];
        format!("250-mx\r\n{pipelining}{starttls}250 CHUNKING\r\n")
    }
}

/// What a client has to say once it is introduced: groups that end where the client needs an answer, and the codes that it gets.
/// A server without PIPELINING gets the commands of the first groups one by one.
struct Mail {
    groups: Vec<Vec<&'static str>>,
    /// How the program's client hears the same.
    codes: Vec<Vec<&'static str>>,
}

const ENVELOPE: [&str; 3] = [
    "MAIL FROM:<a@client.example>\r\n",
    "RCPT TO:<b@clinic.example>\r\n",
    "RCPT TO:<c@clinic.example>\r\n",
];
const NOBODY: [&str; 2] = [
    "MAIL FROM:<a@client.example>\r\n",
    "RCPT TO:<nobody@clinic.example>\r\n",
];
const MESSAGE: &str = "Subject: x\r\n\r\ntext\r\n.\r\n";

fn data() -> Mail {
    Mail {
        groups: vec![[&ENVELOPE[..], &["DATA\r\n"]].concat(), vec![MESSAGE]],
        codes: vec![vec!["250", "250", "250", "354"], vec!["250"]],
    }
}

/// As many recipients as a message may have, in one group with DATA.
fn many_recipients() -> Mail {
    let group = [&ENVELOPE[..1], &[ENVELOPE[1]; 1000], &["DATA\r\n"]].concat();
    let codes = [&["250"; 1001][..], &["354"]].concat();
    Mail {
        groups: vec![group, vec![MESSAGE]],
        codes: vec![codes, vec!["250"]],
    }
}

fn one_chunk() -> Mail {
    Mail {
        groups: vec![[&ENVELOPE[..], &["BDAT 6 LAST\r\ntext\r\n"]].concat()],
        codes: vec![vec!["250"; 4]],
    }
}

fn two_chunks() -> Mail {
    let chunks = ["BDAT 6\r\ntext\r\n", "BDAT 6 LAST\r\nmore\r\n"];
    Mail {
        groups: vec![[&ENVELOPE[..], &chunks].concat()],
        codes: vec![vec!["250"; 5]],
    }
}

/// A native client speaks to the server; what the server had got at each answer.
fn native(server: Server, authority: &Authority, mail: &Mail) -> Vec<String> {
    let (secure, pipelining) = (server.tls.is_some(), server.pipelining);
    let (tell, told) = channel();
    let (address, served) = server.serve(Patience::Told(told));
    let mut link = Link::connect(address);
    link.hears(1);
    let turn = |link: &mut Link, text: String, replies: usize| {
        // The server must read before TLS can come up, and it answers only when it has all of the text.
        tell.send(text.clone()).expect("the server listens");
        link.write(&text);
        link.hears(replies);
    };
    turn(&mut link, EHLO.to_owned(), 1);
    if secure {
        turn(&mut link, "STARTTLS\r\n".to_owned(), 1);
        link = link.secured_by(authority);
        turn(&mut link, EHLO.to_owned(), 1);
    }
    for group in &mail.groups {
        let writes: Vec<&[&str]> = match pipelining {
            true => vec![group],
            false => group.chunks(1).collect(),
        };
        for text in writes {
            turn(&mut link, text.concat(), text.len());
        }
    }
    turn(&mut link, "QUIT\r\n".to_owned(), 1);
    drop(tell);
    served.join().expect("the server got what it wanted")
}

/// The program's client says the same, each group in one write, and hears the codes.
fn through(link: &mut Link, mail: &Mail) {
    for (group, codes) in mail.groups.iter().zip(&mail.codes) {
        link.write(&group.concat());
        assert_eq!(link.hears(codes.len()), *codes, "{group:?}");
    }
    link.write("QUIT\r\n");
    assert_eq!(link.hears(1), ["221"]);
}

fn tls(pair: &Pair) -> Arc<ServerConfig> {
    let mut config = pair.authority.leaf(&[HOST]).server_config();
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// An outbound session through the program, with a server that demands `turns`.
fn outbound(pair: &Pair, server: Server, turns: &[String], mail: &Mail) -> Vec<String> {
    let wanted = turns.iter().cloned().collect();
    let (upstream, served) = server.serve(Patience::Knows(wanted));
    let (at, upstream) = (free(), upstream.to_string());
    let ca = pair.scratch.file("ca.pem", pair.authority.pem());
    let table = format!("[127.0.0.1] secure match={HOST}\n");
    let table = pair.scratch.file("table", table);
    let address = at.to_string();
    let first = ["outbound", "--listen", &address, "--upstream", &upstream];
    let second = ["--policy", &table, "--ca-file", &ca];
    let third = ["--no-dane", "--no-mta-sts"];
    let _proxy = Proxy::ready(&[&first[..], &second, &third].concat());
    let mut link = Link::connect(at);
    link.hears(1);
    link.write(EHLO);
    link.hears(1);
    through(&mut link, mail);
    served.join().expect("the server got what it wanted")
}

/// An inbound session through the program, with a server inside that demands `turns`.
fn inbound(pair: &Pair, server: Server, turns: &[String], mail: &Mail) -> Vec<String> {
    let wanted = turns.iter().cloned().collect();
    let (upstream, served) = server.serve(Patience::Knows(wanted));
    let (_proxy, at) = pair.ready(upstream, &[]);
    let mut link = Link::connect(at);
    link.hears(1);
    for text in [EHLO, "STARTTLS\r\n"] {
        link.write(text);
        link.hears(1);
    }
    link = link.secured_by(&pair.authority);
    link.write(EHLO);
    link.hears(1);
    through(&mut link, mail);
    served.join().expect("the server got what it wanted")
}

/// Plays this mail in both directions: natively, and through the program with a server that demands the native client's flights.
/// `flights`: how often a native client needs the server's answer behind EHLO, QUIT included.
fn as_few_as_native(pipelining: bool, mail: &Mail, flights: usize) {
    let pair = pair();
    for (tls, before) in [(Some(tls(&pair)), 3), (None, 1)] {
        let is_outbound = tls.is_some();
        let server = Server { pipelining, tls };
        let native = native(server.clone(), &pair.authority, mail);
        assert_eq!(native.len(), before + flights, "{native:?}");
        let ours = match is_outbound {
            true => outbound(&pair, server, &native, mail),
            false => inbound(&pair, server, &native, mail),
        };
        assert_eq!(ours, native);
    }
}

#[test]
fn a_message_by_data_takes_the_flights_of_a_native_client() {
    // The group with DATA, the message, QUIT.
    as_few_as_native(true, &data(), 3);
}

#[test]
fn a_thousand_recipients_cost_no_flight_of_their_own() {
    as_few_as_native(true, &many_recipients(), 3);
}

#[test]
fn a_message_in_one_chunk_takes_the_flights_of_a_native_client() {
    // The group with the chunk, QUIT.
    as_few_as_native(true, &one_chunk(), 2);
}

#[test]
fn a_message_in_two_chunks_takes_the_flights_of_a_native_client() {
    as_few_as_native(true, &two_chunks(), 2);
}

#[test]
fn without_pipelining_each_command_takes_its_flight_as_for_a_native_client() {
    as_few_as_native(false, &data(), 6);
    as_few_as_native(false, &one_chunk(), 5);
    as_few_as_native(false, &two_chunks(), 6);
}

#[test]
fn a_go_ahead_for_nobody_costs_no_flight_of_its_own() {
    // A native client ends the empty message and begins anew in one write; the client of the program never sees the 354.
    let begins_anew = [".\r\n", "RSET\r\n"];
    let group = [&NOBODY[..], &["DATA\r\n"]].concat();
    let next = [&ENVELOPE[..], &["DATA\r\n"]].concat();
    let native_mail = Mail {
        groups: vec![
            group.clone(),
            [&begins_anew[..], &next].concat(),
            vec![MESSAGE],
        ],
        codes: Vec::new(),
    };
    let mail = Mail {
        groups: vec![group, next, vec![MESSAGE]],
        codes: vec![
            vec!["250", "550", "554"],
            vec!["250", "250", "250", "354"],
            vec!["250"],
        ],
    };
    let pair = pair();
    let server = Server {
        pipelining: true,
        tls: Some(tls(&pair)),
    };
    let native = native(server.clone(), &pair.authority, &native_mail);
    assert_eq!(outbound(&pair, server, &native, &mail), native);
    let server = Server {
        pipelining: true,
        tls: None,
    };
    let native = self::native(server.clone(), &pair.authority, &native_mail);
    assert_eq!(inbound(&pair, server, &native, &mail), native);
}
