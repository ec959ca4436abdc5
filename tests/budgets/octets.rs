//! What sessions leave in the audit log, in octets.

use crate::{
    play::Stage,
    running::{Client, Proxy, Scratch},
    table::{Deed, Log, Way},
};
use std::{fs, io::Write as _, net::Shutdown, process::Command};

/// Runs of a deed of which only the difference counts.
const FURTHER: usize = 10;

/// Octets that a deed leaves, with the end of each line. `split` is those of each record.
pub struct Left {
    pub octets: f64,
    pub split: String,
}

/// Has the program see one deed, and weighs the records.
pub fn left_by(way: Way, deed: Deed) -> Left {
    let one = |messages, recipients| records(way, |stage| stage.session(messages, recipients));
    match deed {
        Deed::SessionWithOneMessage => Left::all(&one(1, 1)),
        // The second one has its decision again, so the end of the session has a count.
        Deed::FurtherMessage => Left::more(&one(2, 1), &one(2 + FURTHER, 1)),
        Deed::FurtherRecipient => Left::more(&one(1, 2), &one(1, 2 + FURTHER)),
        Deed::SessionWithoutMessage => Left::all(&records(way, |stage| {
            let mut client = stage.client();
            client.says("MAIL FROM:<ward@hospital.example>\r\n", &["250"]);
            client.says("RCPT TO:<lab@clinic.example>\r\n", &["250"]);
            client.quit();
        })),
        Deed::StrangerLeaves => Left::all(&records(way, |stage| {
            stranger(stage);
        })),
        Deed::StrangerInTheClear => Left::all(&records(way, |stage| {
            let mut client = stranger(stage);
            client.says("EHLO stranger.example").hears("250");
            client.says("MAIL FROM:<a@stranger.example>").hears("451");
        })),
        Deed::StrangerBreaksHandshake => Left::all(&records(way, |stage| {
            let mut client = stranger(stage);
            client.says("EHLO stranger.example").hears("250");
            client.says("STARTTLS").hears("220");
            // Neither TLS nor SMTP.
            client.says("GET / HTTP/1.1");
            let tcp = client.0.get_mut();
            tcp.flush().expect("sent");
            tcp.shutdown(Shutdown::Write).expect("open until now");
            let _ = std::io::copy(&mut client.0, &mut std::io::sink());
        })),
        Deed::ServerUnreachable => Left::all(&records_of(
            &Stage::new(way, Log::On).without_server(),
            1,
            |stage| {
                Client::connect(stage.address()).hears("421");
            },
        )),
        Deed::StrangerWithLongestName => Left::all(&records(way, |stage| {
            let mut client = stage.client();
            // The longest that is taken; each of its octets is five in a record: \\x01.
            let name = "\u{1}".repeat(255);
            client.says(&format!("EHLO {name}\r\n"), &["250"]);
            client.says("MAIL FROM:<\r\n", &["501"]);
            client.quit();
        })),
    }
}

/// Somebody who connected and was greeted.
fn stranger(stage: &Stage) -> Client {
    let mut client = Client::connect(stage.address());
    client.hears("220");
    client
}

fn records(way: Way, play: impl FnOnce(&Stage)) -> Vec<String> {
    records_of(&Stage::new(way, Log::On), 1, play)
}

/// The records that the program leaves of the sessions that are played.
fn records_of(stage: &Stage, sessions: usize, play: impl FnOnce(&Stage)) -> Vec<String> {
    stage.clear();
    let mut command = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"));
    command.args(&stage.arguments);
    command.envs(stage.preload.iter().cloned());
    let mut proxy = Proxy::start_as(command);
    proxy.says(": ready");
    play(stage);
    for _ in 0..sessions {
        proxy.says(" end=");
    }
    proxy.signal("-TERM");
    proxy.says("every session has ended");
    assert!(proxy.ends().success());
    let text = stage.records();
    let own = text
        .lines()
        .filter(|line| line.contains("\"session\":{\"id\""));
    own.map(str::to_owned).collect()
}

/// Prints how much of the log such sessions take for each message, plain and compressed.
pub fn print_compressed(way: Way, sessions: usize, messages: usize, recipients: usize) {
    let records = records_of(&Stage::new(way, Log::On), sessions, |stage| {
        (0..sessions).for_each(|_| stage.session(messages, recipients));
    });
    let scratch = Scratch::new();
    let file = scratch.write("records", records.join("\n") + "\n");
    let all = (sessions * messages) as u64;
    let plain = fs::metadata(&file).expect("a file").len();
    print!(
        "{way:?}, {sessions} sessions, {messages} messages to {recipients} recipients in each: "
    );
    print!(
        "{} octets a session, {} a message",
        plain / sessions as u64,
        plain / all
    );
    for (program, arguments) in [
        ("gzip", &["-6"][..]),
        ("zstd", &["-q", "-3"]),
        ("zstd", &["-q", "-19"]),
    ] {
        let mut command = Command::new(program);
        let packed = command.args(arguments).arg("-c").arg(&file).output();
        let packed = packed.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(packed.status.success(), "{packed:?}");
        let each = packed.stdout.len() as u64 / all;
        print!(", {program} {} {each}", arguments.concat());
    }
    println!();
}

fn octets(records: &[String]) -> usize {
    records.iter().map(|line| line.len() + 1).sum()
}

impl Left {
    fn all(records: &[String]) -> Self {
        let word = |line: &String| {
            let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let event = record["event"].as_str().expect("a word").to_owned();
            format!("{event} {}", line.len() + 1)
        };
        Self {
            octets: octets(records) as f64,
            split: records.iter().map(word).collect::<Vec<_>>().join(", "),
        }
    }

    fn more(few: &[String], many: &[String]) -> Self {
        Self {
            octets: (octets(many) - octets(few)) as f64 / FURTHER as f64,
            split: format!("the {FURTHER} further ones of a session, by their number"),
        }
    }
}
