//! Peers that make work inside a connection that is up: messages and records without data, one after the other.

use super::channel::{open, records, with_a_strange_server};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ServerConnection, crypto::cipher};
use std::io::Write as _;

/// What the server has to write.
fn written(server: &mut ServerConnection) -> Vec<u8> {
    let mut wire = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut wire).unwrap();
    }
    wire
}

#[tokio::test]
async fn a_flood_of_key_updates_ends_the_connection() {
    let (mut near, mut server) = with_a_strange_server().await;
    let mut taken = 0;
    let fault = loop {
        server.refresh_traffic_keys().unwrap();
        let wire = written(&mut server);
        match open(&mut near, &wire) {
            Ok(data) => assert!(data.is_empty()),
            Err(fault) => break fault.to_string(),
        }
        taken += 1;
        assert!(taken < 1000, "there is no end");
    };
    assert!(fault.contains("TooManyKeyUpdateRequests"), "{fault}");
}

/// Each of them asks for an answer (RFC 8446 §4.6.3). A peer that reads none of them must not make us keep them.
#[tokio::test]
async fn key_updates_with_data_between_them_are_not_answered_one_by_one() {
    let (mut near, mut server) = with_a_strange_server().await;
    for _ in 0..10_000 {
        server.refresh_traffic_keys().unwrap();
        server.writer().write_all(b"x").unwrap();
        let wire = written(&mut server);
        assert_eq!(open(&mut near, &wire).unwrap(), b"x");
    }
    near.seal(b"NOOP\r\n").unwrap();
    let answers = records(&mut near);
    assert!(answers.len() < 1024, "{} octets", answers.len());
}

#[tokio::test]
async fn a_flood_of_records_without_content_ends_the_connection() {
    let (mut near, server) = with_a_strange_server().await;
    let secrets = server.dangerous_extract_secrets().unwrap();
    let (mut number, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = secrets.tx else {
        panic!("the first suite that both have is AES-256-GCM");
    };
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
    // A record of application data has its type behind its content, of which there is none (RFC 8446 §5.2).
    let mut record = || {
        let head = [23, 3, 3, 0, 17];
        let nonce = Nonce::assume_unique_for_key(cipher::Nonce::new(&iv, number).0);
        number += 1;
        let mut body = vec![23];
        key.seal_in_place_append_tag(nonce, Aad::from(head), &mut body)
            .unwrap();
        [&head[..], &body].concat()
    };
    let mut taken = 0;
    let fault = loop {
        match open(&mut near, &record()) {
            Ok(data) => assert!(data.is_empty()),
            Err(fault) => break fault.to_string(),
        }
        taken += 1;
        assert!(taken < 1000, "there is no end");
    };
    assert!(fault.contains("TooManyEmptyFragments"), "{fault}");
    assert!(taken > 0, "one of them is allowed");
}

#[tokio::test]
async fn a_record_that_is_longer_than_allowed_is_not_waited_for() {
    let (mut near, _server) = with_a_strange_server().await;
    // 2^14 + 256 octets are the most (RFC 8446 §5.2); its first five say that there are more.
    let fault = open(&mut near, &[23, 3, 3, 0x50, 0]).unwrap_err();
    assert!(fault.to_string().contains("MessageTooLarge"), "{fault}");
}
