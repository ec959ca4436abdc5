#![no_main]
//! Any text as a policy table.

use starttls_proxy::policy::{Ask, NextHop, table::Table};
use starttls_proxy::smtp::{Domain, Recipient};

libfuzzer_sys::fuzz_target!(|text: &str| {
    match Table::parse("table", text, &mut |_| Ok(Vec::new())) {
        Ok(table) => {
            let domain = Domain::parse("mail.clinic.example").expect("a domain");
            let ask = Ask {
                next_hop: NextHop::Recipient(Recipient::Domain(domain)),
                server: [203, 0, 113, 9].into(),
                port: 25,
            };
            let _ = table.find(&ask, std::time::SystemTime::UNIX_EPOCH);
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                let lines = text.split('\n').count();
                assert!((1..=lines).contains(&(error.line as usize)) && error.column >= 1, "{error}");
                assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error}");
            }
        }
    }
});
