//! Which paths pass, and what policy judges of them.

use super::*;
use crate::smtp::{extensions::Offer, reply::Reply};

fn all() -> Extensions {
    let lines = [
        "mx",
        "SIZE",
        "8BITMIME",
        "SMTPUTF8",
        "DSN",
        "CHUNKING",
        "BINARYMIME",
        "DELIVERBY",
    ];
    Offer::read(&Reply::of_lines(250, lines), false).extensions
}

fn rcpt(arguments: &str) -> Result<Recipient, u16> {
    forward_path(arguments.as_bytes(), &all(), true)
        .map(|(path, _)| path.recipient())
        .map_err(|refusal| refusal.code)
}

fn domain(name: &str) -> Result<Recipient, u16> {
    Ok(Recipient::Domain(Domain::parse(name).expect("a domain")))
}

#[test]
fn the_domain_behind_the_last_at_is_judged_in_lower_case() {
    for path in [
        "TO:<u@d.example>",
        "to:<U@D.EXAMPLE>",
        "TO: <u@d.example>",
        "TO:<u%evil.example@d.example>",
        "TO:<evil!u@d.example>",
        "TO:<\"a b\"@d.example>",
        "TO:<\"a@evil.example\"@d.example>",
        "TO:<\"a\\\"b\"@d.example>",
        "TO:<a..b.@d.example>",
        "TO:<é@d.example>",
        "TO:<u@d.example>  ",
        "TO:<u@d.example> NOTIFY=NEVER ORCPT=rfc822;u@x",
        "TO:  <u@d.example>",
        "TO: \t\t<u@d.example>",
        "TO:u@d.example",
        "TO: \tu.v+w=x@D.example",
    ] {
        assert_eq!(rcpt(path), domain("d.example"), "{path}");
    }
    assert_eq!(rcpt("TO:<u@d_e.example>"), domain("d_e.example"));
}

#[test]
fn a_path_that_two_readers_could_read_differently_is_refused() {
    for path in [
        "TO:<u@d.example.>",
        "TO:<u@d..example>",
        "TO:<u@-d>",
        "TO:<u@d >",
        "TO:< u@d>",
        "TO:<u(c)@d>",
        "TO:u@d NOTIFY=NEVER",
        "TO:u@d v@e",
        "TO:u@d,v@e",
        "TO:u@d;v@e",
        "TO:u@d<v@e>",
        "TO:u@d>",
        "TO:.u@d",
        "TO:u.@d",
        "TO:u..v@d",
        "TO:\"u\"@d",
        "TO:u(c)@d",
        "TO:u@v@d",
        "TO:@a:u@d",
        "TO:u@[192.0.2.1]",
        "TO:u@d.",
        "TO:é@d",
        "TO:postmaster",
        "TO:u",
        "TO:\x0b<u@d>",
        "TO:\u{a0}<u@d>",
        "TO:<u\t@d>",
        "TO:<u@d\t>",
        "TO:<>",
        "TO:",
        "",
        "TO:<user>",
        "TO:<@a,@b:u@d>",
        "TO:<@a:u@d>",
        "TO:<a@pinned.example>,<b@evil.example>",
        "TO:<a@pinned.example> <b@evil.example>",
        "TO:<a@d><b@e>",
        "TO:<a@d",
        "TO :<a@d>",
        "FROM:<a@d>",
        "TO:<a@b@c>",
        "TO:<\"a>b\"@d>",
        "TO:<\"a<b\"@d>",
        "TO:<\"a\"b@d>",
        "TO:<\"a@d>",
        "TO:<u@[192.0.2.1>",
        "TO:<u@[]>",
        "TO:<u@[a]b]>",
        "TO:<@d>",
        "TO:<u@>",
    ] {
        assert_eq!(rcpt(path), Err(501), "{path}");
    }
    assert_eq!(rcpt("TO:<a@pinned.example> X=<b@evil.example>"), Err(555));
    assert_eq!(rcpt("TO:<u@bücher.example>"), Err(553));
}

#[test]
fn literals_and_postmaster_are_told_apart() {
    for literal in ["[192.0.2.1]", "[IPv6:::1]", "[tag:x]"] {
        assert_eq!(
            rcpt(&format!("TO:<u@{literal}>")),
            Ok(Recipient::Literal(literal.to_owned()))
        );
    }
    assert_eq!(rcpt("TO:<PostMaster>"), Ok(Recipient::Postmaster));
}

#[test]
fn a_local_part_has_no_limit_and_a_domain_has() {
    for length in [64, 65, 70, 900, 1700] {
        let local = "l".repeat(length);
        assert_eq!(
            rcpt(&format!("TO:<{local}@d.example>")),
            domain("d.example")
        );
        let from = format!("FROM:<\"{local}\"@d.example>");
        assert!(reverse_path(from.as_bytes(), &all()).is_ok());
    }
    let host = format!("{}.example", "d.".repeat(90));
    assert!(rcpt(&format!("TO:<l@{host}>")).is_err(), "empty label");
    let host = format!("{}example", "d.".repeat(123));
    assert!(rcpt(&format!("TO:<l@{host}>")).is_ok());
    assert_eq!(rcpt(&format!("TO:<l@d.{host}>")), Err(501));
}

#[test]
fn a_sender_has_a_domain_or_is_null() {
    let mail = |arguments: &str| reverse_path(arguments.as_bytes(), &all());
    assert_eq!(mail("FROM:<>").expect("null").domain, None);
    let sent =
        mail("FROM:<a@B.example> SIZE=10 BODY=binarymime SMTPUTF8 RET=HDRS").expect("a sender");
    assert_eq!(sent.domain, Domain::parse("b.example"));
    assert_eq!(sent.path, b"a@B.example");
    assert!(sent.binary && sent.smtputf8);
    assert!(mail("FROM:<postmaster>").is_err());
}

#[test]
fn parameters_pass_only_if_they_were_offered() {
    let code = |arguments: &str, offered: &Extensions| {
        reverse_path(arguments.as_bytes(), offered)
            .map(|_| ())
            .map_err(|refusal| refusal.code)
    };
    for parameter in ["REQUIRETLS", "XVERP", "AUTH=<>", "HOLDFOR=1", "X=y"] {
        let arguments = format!("FROM:<a@b> {parameter}");
        assert_eq!(code(&arguments, &all()), Err(555), "{parameter}");
    }
    for parameter in ["SIZE=1", "BODY=8BITMIME", "SMTPUTF8", "RET=FULL", "BY=1;R"] {
        let arguments = format!("FROM:<a@b> {parameter}");
        assert_eq!(code(&arguments, &all()), Ok(()), "{parameter}");
        assert_eq!(
            code(&arguments, &Extensions::default()),
            Err(555),
            "{parameter}"
        );
    }
    for parameter in [
        "SIZE=x",
        "SIZE",
        "BODY=9BIT",
        "SIZE=1 SIZE=2",
        "SIZE=",
        "=1",
        "SMTPUTF8=1",
    ] {
        let arguments = format!("FROM:<a@b> {parameter}");
        assert_eq!(code(&arguments, &all()), Err(501), "{parameter}");
    }
    assert_eq!(code("FROM:<é@b>", &all()), Err(553));
    assert_eq!(code("FROM:<a@b> ENVID=é", &all()), Err(553));
    assert_eq!(code("FROM:<é@b> SMTPUTF8", &all()), Ok(()));
}
