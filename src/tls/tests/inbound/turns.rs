//! A turn for the costly part of a handshake: held only between the ClientHello and our flight.

use super::*;

/// Counts the turns that are held at the moment.
struct Held<'a>(&'a std::cell::Cell<i32>);

impl<'a> Held<'a> {
    fn take(held: &'a std::cell::Cell<i32>) -> Self {
        held.set(held.get() + 1);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[tokio::test]
async fn a_place_for_a_handshake_is_held_neither_before_the_client_hello_nor_for_the_client_s_answer()
 {
    let leaf = Leaf::self_signed(&[OURS]);
    let tls = serving(&[&leaf]);
    let (near, mut far) = duplex(64 * 1024);
    let (asked, held) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let turn = async {
        asked.set(asked.get() + 1);
        Held::take(&held)
    };
    let mut handshake = std::pin::pin!(tls.accept_in_turn(near, turn));
    let mut step = async || {
        std::future::poll_fn(|cx| {
            let pending = handshake.as_mut().poll(cx).is_pending();
            std::task::Poll::Ready(pending)
        })
        .await
    };

    assert!(step().await);
    assert_eq!(asked.get(), 0, "a silent client asks for no turn");

    let (config, _) = lax_client(&[&TLS13], &[ECDSA], None);
    let name = ServerName::try_from(OURS).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    far.write_all(&hello[..50]).await.unwrap();
    assert!(step().await);
    assert_eq!(asked.get(), 0, "nor does half a ClientHello");

    far.write_all(&hello[50..]).await.unwrap();
    assert!(step().await, "the client's Finished is awaited");
    assert_eq!((asked.get(), held.get()), (1, 0));
    let mut flight = [0; 1];
    far.read_exact(&mut flight).await.unwrap();
    assert_eq!(flight[0], 22, "our flight is written");
}
