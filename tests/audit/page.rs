//! The page that `audit report` makes.

use crate::support::{Directory, sample};
use starttls_proxy::audit::command;

#[test]
fn the_page_stands_alone_and_says_what_the_log_says() {
    let directory = Directory::new("page");
    let (key, public) = directory.key();
    sample(&directory.file(), key).close();
    let html =
        std::env::var_os("AUDIT_PAGE").map_or_else(|| directory.0.join("report.html"), Into::into);
    let arguments = command::Report {
        verify: command::Verify {
            files: vec![directory.file()],
            keys: vec![public],
            ..command::Verify::default()
        },
        html: html.clone(),
        ..command::Report::default()
    };
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let code = command::report(&arguments, &mut out, &mut errors);
    assert_eq!(code, command::DONE, "{}", String::from_utf8_lossy(&errors));
    let page = std::fs::read_to_string(&html).unwrap();
    for forbidden in ["<script", "http://", "https://", "src=", "url(", "@import"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}
