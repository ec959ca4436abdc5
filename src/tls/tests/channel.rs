//! Channels without sockets: what one end seals the other end opens.

use super::*;
use crate::{net::buffer::Buffer, tls::Channel};
use tokio::io::duplex;

/// Both ends of a connection: ours as the client, and ours as the server.
async fn both_ends(version: &'static SupportedProtocolVersion) -> (Box<Channel>, Box<Channel>) {
    let leaf = Leaf::self_signed(&["mx.example"]);
    let server = inbound::serving(&[&leaf]);
    let min_tls = if *version == TLS13 {
        MinTls::Tls13
    } else {
        MinTls::default()
    };
    let client = ClientTls::new(&ClientOptions {
        min_tls,
        ..ClientOptions::default()
    })
    .unwrap();
    let (near, far) = duplex(64 * 1024);
    let (ours, theirs) = tokio::join!(
        client.connect_and_flush(near, HelloOptions::default()),
        server.accept(far)
    );
    (ours.unwrap().0.channel, theirs.unwrap().0.channel)
}

/// Takes what waits to be written.
pub(super) fn records(channel: &mut Channel) -> Vec<u8> {
    let outgoing: &mut Buffer = channel.outgoing();
    let records = outgoing.octets().to_vec();
    outgoing.clear();
    records
}

pub(super) fn open(channel: &mut Channel, records: &[u8]) -> io::Result<Vec<u8>> {
    channel.incoming().append(records);
    let mut data = Vec::new();
    channel.open(|octets| data.extend_from_slice(octets))?;
    Ok(data)
}

#[tokio::test]
async fn what_one_end_seals_the_other_opens_wherever_it_is_cut() {
    let (mut near, mut far) = both_ends(&TLS13).await;
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        let ends = [&mut near, &mut far];
        let mut sent = Vec::new();
        for len in [1, 5, 100, 16_384, 16_385, 70_000] {
            let octets: Vec<u8> = (0..len).map(|n: usize| (n % 251) as u8).collect();
            ends[from].seal(&octets).unwrap();
            sent.extend(octets);
        }
        let wire = records(ends[from]);
        let mut came = Vec::new();
        for piece in wire.chunks(4_321) {
            came.extend(open(ends[to], piece).unwrap());
            // Half a record is here, and an answer goes out all the same.
            ends[to].seal(b"x").unwrap();
        }
        assert!(came == sent);
        assert!(ends[to].incoming().is_empty());
        let answers = records(ends[to]);
        assert_eq!(
            open(ends[from], &answers).unwrap(),
            b"x".repeat(wire.chunks(4_321).len())
        );
    }
    near.close();
    let farewell = records(&mut near);
    assert_eq!(open(&mut far, &farewell).unwrap(), b"");
    assert!(far.has_ended());
}

#[tokio::test]
async fn a_changed_record_ends_a_channel_for_good_and_the_peer_is_told() {
    let (mut near, mut far) = both_ends(&TLS13).await;
    near.seal(b"MAIL FROM:<a@b.example>\r\n").unwrap();
    let mut wire = records(&mut near);
    *wire.last_mut().unwrap() ^= 1;
    assert!(open(&mut far, &wire).is_err());
    let alert = records(&mut far);
    assert!(!alert.is_empty());
    near.seal(b"x").unwrap();
    let honest = records(&mut near);
    assert!(open(&mut far, &honest).is_err());
    assert!(far.seal(b"x").is_err());
    far.close();
    assert!(records(&mut far).is_empty());
    assert!(open(&mut near, &alert).is_err(), "it is a fatal alert");
}

#[tokio::test]
async fn data_behind_the_last_flight_of_a_handshake_is_not_lost() {
    let leaf = Leaf::self_signed(&["mx.example"]);
    let acceptor = TlsAcceptor::from(Arc::new(leaf.server_config()));
    let (near, far) = duplex(64 * 1024);
    let client = ClientTls::new(&ClientOptions::default()).unwrap();
    let server = async {
        let mut theirs = acceptor.accept(far).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut theirs, b"220 at once\r\n")
            .await
            .unwrap();
        theirs
    };
    let (ours, _theirs) = tokio::join!(
        client.connect_and_flush(near, HelloOptions::default()),
        server
    );
    assert_eq!(ours.unwrap().0.data().await.unwrap(), b"220 at once\r\n");
}

/// A connection whose server is rustls alone, so that it can send what we would not.
pub(super) async fn with_a_strange_server() -> (Box<Channel>, rustls::ServerConnection) {
    let leaf = Leaf::self_signed(&["mx.example"]);
    let mut config = leaf.server_config();
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (near, far) = duplex(64 * 1024);
    let client = ClientTls::new(&ClientOptions::default()).unwrap();
    let (ours, theirs) = tokio::join!(
        client.connect_and_flush(near, HelloOptions::default()),
        acceptor.accept(far)
    );
    (ours.unwrap().0.channel, theirs.unwrap().into_inner().1)
}

#[tokio::test]
async fn the_end_is_known_even_if_it_comes_with_the_handshake_and_nothing_behind_it_is_kept() {
    let (mut near, mut server) = with_a_strange_server().await;
    server.send_close_notify();
    let mut wire = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut wire).unwrap();
    }
    near.incoming().append(&wire);
    // What the end of a handshake and the sealing of data do with records.
    near.seal(b"QUIT\r\n").unwrap();
    assert!(near.has_ended());
    for _ in 0..1000 {
        assert_eq!(open(&mut near, &[0; 1024]).unwrap(), b"");
        assert!(near.has_ended() && near.incoming().is_empty());
    }
}

#[tokio::test]
async fn a_handshake_message_in_crumbs_takes_bounded_memory() {
    let (near, mut far) = duplex(4 * 1024);
    let client = ClientTls::new(&ClientOptions::default()).unwrap();
    // The end of the stream comes at once behind the last crumb.
    let server = async move {
        // A ServerHello of 64 KiB, one octet a record, without its last octet (RFC 8446 §4, §5.1).
        let record = |octets: &[u8]| [&[22, 3, 3, 0, octets.len() as u8], octets].concat();
        let crumbs = [record(&[2, 0, 0xff, 0xff]), record(&[0]).repeat(0xfffe)].concat();
        let whole = crumbs.len();
        let (mut unread, mut written) = (&crumbs[..], 0);
        while let Ok(size @ 1..) = tokio::io::AsyncWriteExt::write(&mut far, unread).await {
            (unread, written) = (&unread[size..], written + size);
        }
        (written, whole)
    };
    let (ours, (written, whole)) =
        tokio::join!(client.connect(near, HelloOptions::default()), server);
    let fault = ours.err().unwrap().to_string();
    assert!(fault.contains("HandshakePayloadTooLarge"), "{fault}");
    assert!(written < whole / 3, "{written} of {whole} octets");
}
