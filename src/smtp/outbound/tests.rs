use super::*;
use crate::smtp::script::{Script, refusal as policy};

fn config() -> OutboundConfig {
    OutboundConfig {
        hostname: "proxy.example".to_owned(),
        server: "mx[192.0.2.1]".to_owned(),
        known_at_connect: false,
        auth: false,
        plaintext_possible: false,
        implicit_tls: false,
    }
}

const EHLO: &str = "250-mx.example⏎250-PIPELINING⏎250-SIZE 1000⏎250-CHUNKING⏎250-DSN⏎250 STARTTLS⏎";
const SECURE_EHLO: &str = "250-mx.example⏎250-PIPELINING⏎250-SIZE 1000⏎250-CHUNKING⏎250 DSN⏎";
const SHOWN: &str = "250-proxy.example⏎250-PIPELINING⏎250-SIZE 1000⏎250-CHUNKING⏎250 DSN⏎";

/// A session that was greeted.
fn greeted(config: OutboundConfig) -> Script<Outbound> {
    let mut script = Script::new(Outbound::new(config));
    script.events(&["connect"]).connected().to_client("");
    script
        .server("220 evil <script>⏎")
        .to_client("220 proxy.example ESMTP⏎");
    script
}

/// A session at the gate.
fn gate() -> Script<Outbound> {
    let mut script = greeted(config());
    script
        .client("EHLO box⏎")
        .to_client("")
        .to_server("EHLO box⏎");
    script.server(EHLO).to_client(SHOWN);
    script
}

/// A session whose first recipient was accepted.
fn envelope_with(secure_ehlo: &str) -> Script<Outbound> {
    let mut script = gate();
    script
        .client("MAIL FROM:<a@b>⏎")
        .to_client("250 2.1.0 sender noted⏎");
    script
        .client("RCPT TO:<u@d.example>⏎")
        .events(&["ask d.example"])
        .to_server("");
    script.upgrade().to_server("STARTTLS⏎").to_client("");
    script.server("220 go⏎").events(&["upgrade Server"]);
    script.upgraded(Side::Server).to_server("EHLO box⏎");
    script
        .server(secure_ehlo)
        .events(&["ask d.example"])
        .to_server("");
    script.authorised();
    script
}

fn envelope() -> Script<Outbound> {
    let mut script = envelope_with(SECURE_EHLO);
    script
        .to_server("MAIL FROM:<a@b>⏎RCPT TO:<u@d.example>⏎")
        .to_client("");
    script
        .server("250 ok⏎250 2.1.5 fine⏎")
        .to_client("250 2.1.5 fine⏎");
    script
}

#[test]
fn a_message_passes_once_its_recipient_is_authorised() {
    let mut script = envelope();
    script.client("DATA⏎").to_server("DATA⏎").to_client("");
    script
        .server("354 go⏎")
        .to_client("354 go⏎")
        .events(&["message"]);
    script
        .client("Subject: x⏎⏎..text⏎.⏎")
        .to_server("Subject: x⏎⏎..text⏎.⏎")
        .to_client("");
    assert_eq!(script.content, b"Subject: x\r\n\r\n..text\r\n");
    script
        .server("250 2.0.0 queued⏎")
        .to_client("")
        .events(&["record"]);
    assert_eq!(script.records[0].octets, 22);
    assert_eq!(script.records[0].sender, b"a@b");
    assert_eq!(script.records[0].recipients, [b"u@d.example"]);
    assert_eq!(
        script.records[0].reply.as_deref(),
        Some(&b"250 2.0.0 queued\r\n"[..])
    );
    script.recorded().to_client("250 2.0.0 queued⏎");
    script
        .client("QUIT⏎")
        .to_server("QUIT⏎")
        .server("221 bye⏎")
        .to_client("221 bye⏎")
        .over(false);
    let _ = policy(451);
}
