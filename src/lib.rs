//! starttls-proxy: a transparent SMTP proxy that insists on STARTTLS with a verified peer, and can prove it.
//!
//! Two pure cores ([`smtp`], [`policy`]), four hands that touch the world ([`net`], [`tls`], [`lookup`], [`audit`]), one
//! joiner ([`session`]), two programs on top ([`serve`], [`report`]) behind one [`cli`]. Each module uses only what stands
//! above it in this list.

pub mod smtp;

pub mod policy;

pub mod clock;
pub mod metrics;

pub mod audit;
pub mod lookup;
pub mod net;
pub mod tls;
pub mod tlsrpt;

pub mod session;

pub mod report;
pub mod serve;

pub mod cli;
