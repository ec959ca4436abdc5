//! Kills the program hundreds of times, at every point around the final reply: each acknowledged message is recorded.

#[path = "support/running.rs"]
mod running;

use running::{HANG, Proxy, exit_code_and_words, free, inside_server, pair, written};
use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
};

/// Where the program is killed, counted from the message that the round is about.
#[derive(Clone, Copy, Debug)]
enum Kill {
    AmidTheMessage,
    BehindItsEnd,
    WhileTheReplyIsDue,
    BehindTheReply,
}

/// Sends messages until the program is gone; the senders of those that were acknowledged.
fn send_until_killed(
    to: SocketAddr,
    round: usize,
    proxy: &mut Proxy,
    at: usize,
    kill: Kill,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut client = BufReader::new(TcpStream::connect(to).expect("connects"));
    client
        .get_ref()
        .set_read_timeout(Some(HANG))
        .expect("a timeout");
    let mut ask = |line: &str, code: &str| {
        client.get_mut().write_all(line.as_bytes()).is_ok() && {
            let mut reply = String::new();
            while client.read_line(&mut reply).is_ok_and(|got| got > 0)
                && reply.as_bytes().get(3) == Some(&b'-')
            {
                reply.clear();
            }
            reply.starts_with(code)
        }
    };
    assert!(ask("", "220") && ask("EHLO client.example\r\n", "250"));
    for number in 0.. {
        let due = number == at;
        let sender = format!("m{round}-{number}@ex.example");
        if !ask(&format!("MAIL FROM:<{sender}>\r\n"), "250")
            || !ask("RCPT TO:<a@clinic.example>\r\n", "250")
            || !ask("DATA\r\n", "354")
        {
            break;
        }
        if due && matches!(kill, Kill::AmidTheMessage) {
            proxy.signal("-KILL");
        }
        if due && matches!(kill, Kill::WhileTheReplyIsDue) {
            let pid = proxy.child.id().to_string();
            thread::spawn(move || Command::new("kill").args(["-KILL", &pid]).status());
        }
        if due && matches!(kill, Kill::BehindItsEnd) {
            let _ = proxy.child.kill();
        }
        if !ask("Subject: x\r\n\r\ntext\r\n.\r\n", "250") {
            break;
        }
        acknowledged.push(sender);
        if due && matches!(kill, Kill::BehindTheReply) {
            proxy.signal("-KILL");
        }
    }
    acknowledged
}

#[test]
fn what_was_acknowledged_is_recorded_however_often_it_is_killed() {
    let pair = pair();
    let upstream = inside_server();
    let log = pair.scratch.path("audit.jsonl");
    let listen = free();
    let key = pair.scratch.path("audit.key");
    exit_code_and_words(&["audit", "keygen", "--out", &key]);
    let more = [
        "--exempt",
        "127.0.0.0/8",
        "--audit-log",
        &log,
        "--audit-key",
        &key,
    ];
    let arguments = pair.inbound(listen, upstream, &more);
    let mut acknowledged = Vec::new();
    for round in 0..200 {
        let mut proxy = Proxy::ready(&arguments);
        let kill = [
            Kill::AmidTheMessage,
            Kill::BehindItsEnd,
            Kill::WhileTheReplyIsDue,
            Kill::BehindTheReply,
        ][round % 4];
        acknowledged.extend(send_until_killed(
            listen,
            round,
            &mut proxy,
            round / 4 % 3,
            kill,
        ));
    }
    assert!(
        acknowledged.len() > 100,
        "only {} messages got through",
        acknowledged.len()
    );
    let recorded = written(&log);
    let messages: Vec<&str> = recorded
        .lines()
        .filter(|line| line.contains("\"event\":\"message\""))
        .collect();
    for sender in acknowledged {
        let found = messages
            .iter()
            .any(|line| line.contains(&sender) && line.contains("\"outcome\":\"accepted\""));
        assert!(found, "{sender} was acknowledged and is not recorded");
    }
    // The chain of keys outlives every kill.
    let first = recorded.split("\"epoch\":\"").nth(1);
    let first = first.and_then(|text| text.split('"').next());
    let first = first.expect("a first key");
    assert!(!recorded.contains("\"event\":\"key-lost\""));
    let (code, said) = exit_code_and_words(&["audit", "verify", "--first-key", first, &log]);
    assert_eq!(code, Some(0), "{said}");
}
