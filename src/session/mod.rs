//! One session, told top to bottom: two legs, one machine, the policy, the evidence.

pub mod drive;
pub mod evidence;
pub mod inbound;
pub mod leg;
pub mod memory;
pub mod outbound;
pub mod records;
pub mod site;
pub mod tlsrpt;
