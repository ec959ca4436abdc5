//! The name server of the demo, on a thread of its own.

use crate::dns;
use std::{net::SocketAddr, sync::mpsc, thread};

/// Serves until the test ends. Every name is at 127.0.0.1.
pub fn name_server() -> SocketAddr {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let address = dns::serve().await.expect("a port");
            tell.send(address).expect("it is waited for");
            std::future::pending::<()>().await;
        });
    });
    told.recv().expect("an address")
}
