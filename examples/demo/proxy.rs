//! The proxy in this process, configured as its command line does it.
//!
//! Interception needs root, so one thing stands in for the kernel: where an intercepted client meant to go is told here.

use crate::Outcome;
use argh::FromArgs;
use starttls_proxy::{
    configure, flags,
    net::{ClientAddr, IntendedAddr, ServerAddr, into_tokio},
    serve::{Direction, Plan},
    session::{Arrival, drive::Stop, inbound, outbound},
};
use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// A running proxy.
pub struct Proxy {
    pub address: SocketAddr,
    serving: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Proxy {
    /// `starttls-proxy outbound`, for clients that mean to go to `intended`.
    pub async fn outbound(arguments: &[&str], intended: SocketAddr) -> Outcome<Self> {
        let flags = flags::OutboundFlags::from_args(&["outbound"], arguments)
            .map_err(|early| early.output)?;
        Self::start(configure::outbound(&flags)?.bind().await?, intended)
    }

    /// `starttls-proxy inbound`.
    pub async fn inbound(arguments: &[&str], intended: SocketAddr) -> Outcome<Self> {
        let flags = flags::InboundFlags::from_args(&["inbound"], arguments)
            .map_err(|early| early.output)?;
        Self::start(configure::inbound(&flags)?.bind().await?, intended)
    }

    fn start(plan: Plan, intended: SocketAddr) -> Outcome<Self> {
        let listener = plan.listeners.into_iter().next().ok_or("no --listen")?;
        let listener = into_tokio(listener)?;
        let address = listener.local_addr()?;
        let stop = watch::Sender::new(false);
        let serving = tokio::spawn(serve(listener, plan.direction, intended, stop.subscribe()));
        Ok(Self {
            address,
            serving,
            stop,
        })
    }

    /// Stops the proxy when its sessions have ended, and returns its log lines.
    pub async fn stop(self) -> Outcome<Vec<String>> {
        self.stop.send_replace(true);
        self.serving.await?;
        Ok(std::mem::take(
            &mut LOG.0.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

async fn serve(
    listener: TcpListener,
    direction: Direction,
    intended: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    // Sessions are not asked to end: they do when their clients say QUIT.
    let (_running, never) = watch::channel(Stop::Not);
    let mut sessions = JoinSet::new();
    loop {
        let (client, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => break,
            },
            _ = stop.changed() => break,
        };
        let arrival = Arrival {
            client: ClientAddr(address),
            intended: IntendedAddr(intended),
            server: Some(ServerAddr(intended)),
            first: Vec::new(),
        };
        match &direction {
            Direction::Outbound(site) => {
                sessions.spawn(outbound::run(site.clone(), client, arrival, never.clone()));
            }
            Direction::Inbound(site) => {
                sessions.spawn(inbound::run(site.clone(), client, arrival, never.clone()));
            }
        }
    }
    while sessions.join_next().await.is_some() {}
    let audit = match &direction {
        Direction::Outbound(site) => site.common.audit.as_ref(),
        Direction::Inbound(site) => site.common.audit.as_ref(),
    };
    if let Some(audit) = audit {
        audit.close();
    }
}

/// The proxy's log lines, for the page.
struct Log(Mutex<Vec<String>>);
static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::Level::Info
    }
    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(record.args().to_string());
        }
    }
    fn flush(&self) {}
}

/// From now on the log is kept for [`Proxy::stop`].
pub fn keep_log() -> Outcome {
    log::set_logger(&LOG)?;
    log::set_max_level(log::LevelFilter::Info);
    Ok(())
}
