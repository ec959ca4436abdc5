//! `cargo run --release --example demo`: sends mail through the proxy on loopback and shows what crossed each link.
//!
//! Everything is real but the network: servers and senders that speak SMTP and TLS, the proxy as its command line makes
//! it, an authority and certificates made for this run. Needs neither root nor a network. Exits with 1 if anything did
//! not come out as it must.

mod certs;
mod dns;
mod mail;
mod page;
mod proxy;
mod wire;

use certs::Authority;
use mail::{Letter, Mailbox};
use page::Page;
use proxy::Proxy;
use starttls_proxy::{
    commands::audit as command,
    exit::Exit,
    flags::{AuditKeygenFlags, AuditShowFlags, AuditVerifyFlags},
};
use std::{error::Error, fs, path::Path, process::ExitCode};
use wire::{Crossing, Link, Seen, Wire};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The text that an eavesdropper would look for.
const SECRET: &str = "potassium 3.1 mmol/l";

#[tokio::main]
async fn main() -> ExitCode {
    let mut page = Page::new();
    match run(&mut page).await {
        Ok(()) if page.failures == 0 => {
            println!("\nAll as it must be.");
            ExitCode::SUCCESS
        }
        Ok(()) => {
            println!("\n{} not as it must be.", page.failures);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(page: &mut Page) -> Outcome {
    let folder = std::env::temp_dir().join(format!("starttls-proxy-demo-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    proxy::keep_log()?;
    let outcome = chapters(page, &folder).await;
    fs::remove_dir_all(&folder)?;
    outcome
}

/// The parts that all chapters share.
struct Stage<'a> {
    folder: &'a Path,
    authority: Authority,
    resolver: String,
    letter: Letter,
}

async fn chapters(page: &mut Page, folder: &Path) -> Outcome {
    let stage = Stage {
        folder,
        authority: Authority::new()?,
        resolver: dns::serve().await?.to_string(),
        letter: Letter {
            from: "lab@hospital.example",
            to: "ward@clinic.example",
            content: format!("Subject: result\r\n\r\n{SECRET}\r\n"),
        },
    };
    fs::write(folder.join("ca.pem"), stage.authority.pem())?;
    stage.said(|out| {
        let out_file = folder.join("audit.key");
        command::keygen(&AuditKeygenFlags { out: out_file }, out)
    })?;
    page.title(
        "starttls-proxy: what crosses the wire",
        "A hospital's mail server speaks no TLS. The proxy stands between it and the world. Each chapter shows both links as a tap \
         on them saw them, time running down: > is the SMTP client speaking, < the server.",
    );
    outbound_to_the_right_server(page, &stage).await?;
    outbound_to_an_impostor(page, &stage).await?;
    outbound_past_a_masking_firewall(page, &stage).await?;
    inbound(page, &stage).await?;
    evidence(page, &stage)
}

/// Sends the letter out through a proxy and shows it; returns how it was answered.
async fn send_out(
    page: &Page,
    stage: &Stage<'_>,
    certificate: &str,
    masked: bool,
) -> Outcome<(String, Mailbox, Vec<Crossing>)> {
    let (wire, mailbox) = (Wire::default(), Mailbox::default());
    let server = mail::serve(
        "mx.clinic.example",
        Some(stage.authority.acceptor(certificate)?),
        mailbox.clone(),
    )
    .await?;
    let outside = wire.tap(Link::Outside, server, masked).await?;
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--intercept",
        "redirect",
        "--hostname",
        "proxy.hospital.example",
        "--ca-file",
        &stage.path("ca.pem"),
        "--resolver",
        &stage.resolver,
        // The name server of the demo signs nothing.
        "--no-dane",
        "--audit-log",
        &stage.path("outbound.jsonl"),
        "--audit-key",
        &stage.path("audit.key"),
    ];
    let proxy = Proxy::outbound(&flags, outside).await?;
    let inside = wire.tap(Link::Inside, proxy.address, false).await?;
    let answer = mail::send("legacy.hospital.example", inside, None, &stage.letter).await?;
    let log = proxy.stop().await?;
    let crossings = wire.take();
    page.wire(Link::Inside, &crossings);
    page.log(&log);
    Ok((answer, mailbox, crossings))
}

async fn outbound_to_the_right_server(page: &mut Page, stage: &Stage<'_>) -> Outcome {
    page.chapter(
        "1. Out, to a server that proves to be mx.clinic.example",
        "The proxy brings up TLS, judges the certificate, and lets the session through.",
    );
    let (answer, mailbox, crossings) = send_out(page, stage, "mx.clinic.example", false).await?;
    page.expect(
        answer.starts_with("250"),
        &format!("accepted, in the server's own words: {answer}"),
    );
    page.expect(
        mailbox.take() == [stage.letter.content.as_bytes()],
        "the message arrived byte for byte",
    );
    page.expect(
        in_the_clear(&crossings, Link::Inside) && !in_the_clear(&crossings, Link::Outside),
        "its text could be read on the inside link, and not on the outside link",
    );
    Ok(())
}

async fn outbound_to_an_impostor(page: &mut Page, stage: &Stage<'_>) -> Outcome {
    page.chapter(
        "2. Out, to a server with a good certificate for another name",
        "Encrypted would not be enough: one who can answer for the address can have a certificate of his own.",
    );
    let (answer, mailbox, crossings) = send_out(page, stage, "mx.impostor.example", false).await?;
    page.expect(
        answer.starts_with("421 4.7.5") && answer.contains("certificate-host-mismatch"),
        "deferred, with the reason; the mail stays in the mail server's queue",
    );
    nothing_left(page, stage, &mailbox, &crossings);
    Ok(())
}

async fn outbound_past_a_masking_firewall(page: &mut Page, stage: &Stage<'_>) -> Outcome {
    page.chapter(
        "3. Out, where somebody on the path strips the offer of STARTTLS",
        "The server offers it; a firewall, or an attacker, overwrites the word. Opportunistic TLS would now send in the clear.",
    );
    let (answer, mailbox, crossings) = send_out(page, stage, "mx.clinic.example", true).await?;
    page.expect(
        answer.starts_with("421 4.7.4"),
        "deferred, with the reason; the mail stays in the mail server's queue",
    );
    nothing_left(page, stage, &mailbox, &crossings);
    Ok(())
}

fn nothing_left(page: &mut Page, stage: &Stage<'_>, mailbox: &Mailbox, crossings: &[Crossing]) {
    page.expect(mailbox.take().is_empty(), "no message arrived anywhere");
    let envelope = [stage.letter.from, stage.letter.to, SECRET];
    page.expect(
        !lines(crossings, Link::Outside)
            .any(|line| envelope.iter().any(|part| line.contains(part))),
        "neither sender, recipient nor text crossed the outside link",
    );
}

async fn inbound(page: &mut Page, stage: &Stage<'_>) -> Outcome {
    let identity = stage.authority.issue("mx.hospital.example")?;
    fs::write(stage.folder.join("mx.pem"), identity.cert)?;
    fs::write(stage.folder.join("mx.key"), identity.key)?;
    let (wire, mailbox) = (Wire::default(), Mailbox::default());
    let legacy = mail::serve("legacy.hospital.example", None, mailbox.clone()).await?;
    let inside = wire.tap(Link::Inside, legacy, false).await?;
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--intercept",
        "redirect",
        "--hide-client-address",
        "--hostname",
        "mx.hospital.example",
        "--cert",
        &stage.path("mx.pem"),
        "--key",
        &stage.path("mx.key"),
        "--audit-log",
        &stage.path("inbound.jsonl"),
    ];
    let proxy = Proxy::inbound(&flags, inside).await?;
    let outside = wire.tap(Link::Outside, proxy.address, false).await?;
    let letter = Letter {
        from: "ward@clinic.example",
        to: "lab@hospital.example",
        content: format!("Subject: thank you\r\n\r\n{SECRET}: noted\r\n"),
    };

    page.chapter(
        "4. In, from a sender that does not encrypt",
        "The hospital's mail server is not even connected to.",
    );
    let answer = mail::send("mail.clinic.example", outside, None, &letter).await?;
    let crossings = wire.take();
    page.wire(Link::Outside, &crossings);
    // Ten minutes after its start the proxy says 530; until then a sender may have tried STARTTLS in vain, and is asked to wait.
    page.expect(answer.starts_with("451 4.7.0"), "not taken: STARTTLS first");
    page.expect(
        crossings
            .iter()
            .all(|crossing| crossing.link == Link::Outside),
        "nothing crossed the inside link",
    );

    page.chapter(
        "5. In, from a sender that does",
        "After TLS the session starts afresh, with the mail server on the line.",
    );
    let connector = stage.authority.connector()?;
    let tls = Some((&connector, "mx.hospital.example"));
    let answer = mail::send("mail.clinic.example", outside, tls, &letter).await?;
    let log = proxy.stop().await?;
    let crossings = wire.take();
    page.wire(Link::Outside, &crossings);
    page.log(&log);
    page.expect(
        answer.starts_with("250"),
        &format!("accepted, in the server's own words: {answer}"),
    );
    page.expect(
        mailbox.take() == [letter.content.as_bytes()],
        "the message arrived byte for byte",
    );
    page.expect(
        in_the_clear(&crossings, Link::Inside) && !in_the_clear(&crossings, Link::Outside),
        "its text could be read on the inside link, and not on the outside link",
    );
    Ok(())
}

/// The records of the three outbound chapters, and what becomes of them when somebody changes one.
fn evidence(page: &mut Page, stage: &Stage<'_>) -> Outcome {
    page.chapter(
        "6. The evidence",
        "Each record has the hash of the one before; checkpoints are signed. The message of chapter 1, as an auditor sees it:",
    );
    let log = stage.folder.join("outbound.jsonl");
    let (_, message) = stage.said(|out| {
        let show = AuditShowFlags {
            files: vec![log.clone()],
            address: Some(stage.letter.to.into()),
            ..AuditShowFlags::default()
        };
        command::show(&show, out, &mut std::io::stderr())
    })?;
    page.quote(&message);
    let verify = |file: &Path| {
        stage.said(|out| {
            let verify = AuditVerifyFlags {
                files: vec![file.to_owned()],
                key: vec![stage.path("audit.key.pub")],
                ..AuditVerifyFlags::default()
            };
            command::verify(&verify, out, None)
        })
    };
    let (intact, words) = verify(&log)?;
    page.quote(&words);
    page.expect(intact, "nothing was changed");

    println!("\nThe same with another recipient written into that record:\n");
    let tampered = stage.folder.join("tampered.jsonl");
    let text = fs::read_to_string(&log)?;
    fs::write(
        &tampered,
        text.replace(stage.letter.to, "nobody@else.example"),
    )?;
    let (intact, words) = verify(&tampered)?;
    page.quote(words.lines().next().unwrap_or_default());
    page.expect(!intact, "found out");
    Ok(())
}

impl Stage<'_> {
    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Whether a command of the program succeeded, and its output without this run's folder.
    fn said(
        &self,
        command: impl FnOnce(&mut Vec<u8>) -> Result<(), Exit>,
    ) -> Outcome<(bool, String)> {
        let mut said = Vec::new();
        let succeeded = match command(&mut said) {
            Ok(()) => true,
            Err(Exit::No) => false,
            Err(exit) => return Err(format!("{exit:?}").into()),
        };
        Ok((
            succeeded,
            String::from_utf8(said)?.replace(&self.path(""), ""),
        ))
    }
}

fn lines(crossings: &[Crossing], link: Link) -> impl Iterator<Item = &str> {
    crossings
        .iter()
        .filter(move |crossing| crossing.link == link)
        .filter_map(|crossing| match &crossing.seen {
            Seen::Line(line) => Some(line.as_str()),
            Seen::Record(..) => None,
        })
}

fn in_the_clear(crossings: &[Crossing], link: Link) -> bool {
    lines(crossings, link).any(|line| line.contains(SECRET))
}
