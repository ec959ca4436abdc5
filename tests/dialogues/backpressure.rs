//! The session's driver between a client that sends much and a server that does not read.

use super::{
    machine,
    script::Direction,
    wire::{Any, HANG, pair},
};
use starttls_proxy::{
    session::{
        drive::{ActionHandler, ActionResult, Stop, drive},
        job::Job,
        leg::{Leg, Stream},
    },
    smtp::{Action, Answer, Completed, Exempted, Input, Machine, Note, Question, Recorded, Side},
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    time::timeout,
};

/// More than the system buffers between two sockets.
const MESSAGE: usize = 64 * 1024 * 1024;

/// A machine that reports what its driver says about the client's bytes.
struct Spy(Any, mpsc::UnboundedSender<bool>);

impl Machine for Spy {
    fn receive(&mut self, side: Side, bytes: &[u8], now: Duration) {
        self.0.receive(side, bytes, now);
    }
    fn handle(&mut self, input: Input, now: Duration) {
        self.0.handle(input, now);
    }
    fn next_action(&mut self) -> Option<Action> {
        self.0.next_action()
    }
    fn deadline(&self) -> Option<Duration> {
        self.0.deadline()
    }
    fn set_held_back(&mut self, held: bool, now: Duration) {
        // A test that is over does not receive any more.
        let _ = self.1.send(held);
        self.0.set_held_back(held, now);
    }
    fn set_trace(&mut self, line: Vec<u8>) {
        self.0.set_trace(line);
    }
    fn finished(&self) -> bool {
        self.0.finished()
    }
}

/// A machine that passes everything.
struct Willing(Option<TcpStream>);

impl ActionHandler for Willing {
    type JobResult = ActionResult;
    fn finish(&mut self, done: ActionResult) -> ActionResult {
        done
    }
    fn connect(&mut self) -> Job<ActionResult> {
        let server = self.0.take().expect("connected once");
        Job::Done(ActionResult::Connected(Ok(Stream::Tcp(server))))
    }
    fn upgrade(&mut self, _side: Side, _stream: Stream) -> Job<ActionResult> {
        unreachable!("nobody starts TLS")
    }
    fn authorise(&mut self, _question: Question) -> Job<ActionResult> {
        let answer = Answer::Exempted(Exempted::assertion());
        Job::Done(ActionResult::Answered(answer))
    }
    fn record(&mut self, _message: Completed) -> Job<ActionResult> {
        Job::Done(ActionResult::Recorded(Ok(Recorded::assertion())))
    }
    fn note(&mut self, _note: Note) {}
}

/// Reads until the last line begins like this.
async fn until(stream: &mut TcpStream, line: &str) {
    let mut got = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let text = String::from_utf8_lossy(&got[got.len().saturating_sub(200)..]).into_owned();
        if text.ends_with("\r\n") && text.lines().last().is_some_and(|l| l.starts_with(line)) {
            return;
        }
        let length = stream.read(&mut buffer).await.expect("a connection");
        assert!(length > 0, "it ends behind {text:?}");
        got.extend_from_slice(&buffer[..length]);
    }
}

#[tokio::test]
async fn a_server_that_does_not_read_is_told_to_the_machine_and_so_is_that_it_reads_again() {
    let (proxy_end, mut client) = pair().await.expect("a pair");
    let (server_end, mut server) = pair().await.expect("a pair");
    let machine = machine::build(Direction::Inbound, &["exempt".to_owned()]).expect("a machine");
    let (tell, mut told) = mpsc::unbounded_channel();
    let (_stop, stopped) = watch::channel(Stop::Not);
    tokio::spawn(drive(
        Spy(Any(machine), tell),
        Willing(Some(server_end)),
        Leg::new(Stream::Tcp(proxy_end), Vec::new()),
        stopped,
    ));

    until(&mut client, "220 ").await;
    client.write_all(b"EHLO a\r\n").await.expect("writes");
    server.write_all(b"220 inside\r\n").await.expect("writes");
    until(&mut server, "EHLO").await;
    server.write_all(b"250 inside\r\n").await.expect("writes");
    until(&mut client, "250 ").await;
    for (command, reply) in [
        ("MAIL FROM:<a@b>", "250 ok"),
        ("RCPT TO:<a@b>", "250 ok"),
        ("DATA", "354 go"),
    ] {
        let line = format!("{command}\r\n");
        client.write_all(line.as_bytes()).await.expect("writes");
        until(&mut server, command).await;
        let line = format!("{reply}\r\n");
        server.write_all(line.as_bytes()).await.expect("writes");
        until(&mut client, reply).await;
    }

    let (mut from_proxy, mut to_proxy) = client.into_split();
    let sends = tokio::spawn(async move {
        let line = [&[b'x'; 998][..], b"\r\n"].concat();
        for _ in 0..MESSAGE / line.len() {
            to_proxy.write_all(&line).await.expect("writes");
        }
        to_proxy.write_all(b".\r\n").await.expect("writes");
        to_proxy
    });
    let told_next = timeout(HANG, told.recv()).await;
    assert_eq!(told_next, Ok(Some(true)));
    until(&mut server, ".").await;
    let told_next = timeout(HANG, told.recv()).await;
    assert_eq!(told_next, Ok(Some(false)));
    server.write_all(b"250 queued\r\n").await.expect("writes");
    let _open = sends.await.expect("sent");
    let mut reply = [0; 12];
    from_proxy.read_exact(&mut reply).await.expect("a reply");
    assert_eq!(&reply, b"250 queued\r\n");
}
