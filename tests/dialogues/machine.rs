//! The machines, made from the words behind `outbound` and `inbound`.

use super::script::Direction;
use starttls_proxy::smtp::{Inbound, InboundConfig, Keyword, Machine, Outbound, OutboundConfig};

/// Our name in all dialogues.
pub const HOSTNAME: &str = "proxy.example";

/// `known`: the peer is known at connect time; `auth`: AUTH may pass; `login`: the proxy logs in itself; `plaintext-possible`: some entry could allow it;
/// `implicit-tls`: TLS comes first; `hidden=DSN,SIZE`: found lacking in an earlier session; `no-tls`: no certificate is at hand;
/// `exempt`: mail passes in the clear too.
pub fn build(direction: Direction, options: &[String]) -> Result<Box<dyn Machine + Send>, String> {
    let known: &[&str] = match direction {
        Direction::Outbound => &[
            "known",
            "auth",
            "login",
            "plaintext-possible",
            "implicit-tls",
        ],
        Direction::Inbound => &["no-tls", "exempt"],
    };
    let mut hidden = Vec::new();
    for option in options {
        match option.strip_prefix("hidden=") {
            Some(names) if direction == Direction::Outbound => {
                for name in names.split(',') {
                    hidden.push(Keyword::of_name(name).ok_or(format!("no keyword: {name}"))?);
                }
            }
            _ if known.contains(&option.as_str()) => {}
            _ => return Err(format!("no such option: {option}")),
        }
    }
    let has = |option: &str| options.iter().any(|o| o == option);
    Ok(match direction {
        Direction::Outbound => Box::new(Outbound::new(OutboundConfig {
            hostname: HOSTNAME.to_owned(),
            server: "mx1.clinic.example[203.0.113.9]".to_owned(),
            known_at_connect: has("known"),
            auth: has("auth"),
            login: has("login"),
            plaintext_possible: has("plaintext-possible"),
            implicit_tls: has("implicit-tls"),
            hidden,
        })),
        Direction::Inbound => Box::new(Inbound::new(InboundConfig {
            hostname: HOSTNAME.to_owned(),
            tls_available: !has("no-tls"),
            plaintext_allowed: has("exempt"),
        })),
    })
}
