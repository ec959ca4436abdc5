//! Stamps in logs that somebody else wrote, and stamps of which nobody here can know whether they are good.

use super::*;
use starttls_proxy::audit::{AuditLog, AuditOptions, Record, StampRecord};

#[test]
fn a_stamp_that_is_signed_in_an_unknown_way_is_not_proved_and_no_damage() {
    let tsa = Tsa::start(None);
    let dir = Scratch::new();
    let log = dir.0.join("log");
    let options = AuditOptions::new(log.clone(), "mail.example/inbound".into());
    let writer = AuditLog::open(options).expect("a log");
    let checkpoint = writer.checkpoints().borrow().clone().expect("a checkpoint");
    tsa.dir.write("text", checkpoint.text());
    let folder = &tsa.dir.0;
    made(folder, "ts -query -data text -sha256 -cert -out query");
    made(
        folder,
        "ts -reply -config ts.cnf -section ec -queryfile query -token_out -out token",
    );
    let mut token = fs::read(folder.join("token")).expect("a token");
    // ecdsa-with-SHA256 becomes one that does not exist.
    let ecdsa = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let at = token.windows(8).rposition(|octets| octets == ecdsa);
    token[at.expect("the algorithm") + 7] = 9;
    // GeneralizedTime: YYYYMMDDHHMMSSZ.
    let at = token.windows(2).position(|octets| octets == [0x18, 15]);
    let time = &token[at.expect("a time") + 2..][..14];
    let time = str::from_utf8(time).expect("digits");
    let (day, hour) = time.split_at(8);
    let time = format!(
        "{}-{}-{}T{}:{}:{}.000000Z",
        &day[..4],
        &day[4..6],
        &day[6..],
        &hour[..2],
        &hour[2..4],
        &hour[4..]
    );
    writer.append(&Record::Stamp(StampRecord {
        size: checkpoint.head.size,
        time,
        tsa: "http://tsa.example/".into(),
        token: BASE64.encode(&token),
    }));
    assert!(writer.close());
    let log = log.display().to_string();
    let (code, said, _) = run(&["audit", "verify", "--tsa-ca", &tsa.ca(), &log]);
    assert_eq!(code, Some(0), "{said}");
    let words = "1, their times are not proved: it is signed with an algorithm that this program does not know";
    assert!(said.contains(words), "{said}");
}

#[test]
fn a_stamp_that_was_given_for_another_checkpoint_is_a_finding() {
    let tsa = Tsa::start(None);
    let dir = Scratch::new();
    let (log, ..) = served(&dir, &[tsa.url("ec")], "others vouch");
    let honest = &records(&log, "stamp")[0];
    // Whoever has the key writes another past, and puts the stamp of the honest one into it.
    let forged = dir.0.join("forged");
    let mut options = AuditOptions::new(forged.clone(), "mail.example/inbound".into());
    options.key = Some(dir.0.join("key.pem"));
    let writer = AuditLog::open(options).expect("a log");
    let checkpoint = writer.checkpoints().borrow().clone().expect("a checkpoint");
    let field = |name: &str| honest[name].as_str().expect("text").to_owned();
    writer.append(&Record::Stamp(StampRecord {
        size: checkpoint.head.size,
        time: field("time"),
        tsa: field("tsa"),
        token: field("token"),
    }));
    assert!(writer.close());
    let forged = forged.display().to_string();
    let (code, said, _) = run(&["audit", "verify", &forged]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("this time-stamp is of something else"),
        "{said}"
    );
}
