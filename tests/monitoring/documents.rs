//! One list of names: what the program shows, the manual's table, the dashboard and the alert rules.

use crate::{
    running::{free, nowhere, pair},
    world::{get, introduced},
};
use serde_json::Value;
use starttls_proxy::metrics::{Description, descriptions};
use std::{collections::BTreeSet, fs, path::Path};

pub fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A row of the manual: name, kind, labels and meaning.
fn rows() -> Vec<[String; 4]> {
    let manual = text("docs/metrics.md");
    let rows = manual.lines();
    let rows = rows.filter(|line| line.starts_with("| `starttls_proxy_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let [name, kind, labels, unit, meaning, watch] = cells[..] else {
            panic!("six cells: {row}");
        };
        assert!(!unit.is_empty() && !watch.is_empty(), "{row}");
        [name.trim_matches('`'), kind, labels, meaning].map(str::to_owned)
    })
    .collect()
}

#[test]
fn the_manual_and_the_program_have_the_same_metrics() {
    let of_row = |row: &Description| {
        let labels = row.labels.iter().map(|label| format!("`{label}`"));
        let labels: Vec<String> = labels.collect();
        let labels = match labels.is_empty() {
            true => String::from("–"),
            false => labels.join(", "),
        };
        let meaning = row.help.trim_end_matches('.');
        [row.name, row.kind.word(), &labels, meaning].map(str::to_owned)
    };
    let program: Vec<[String; 4]> = descriptions().map(of_row).collect();
    assert_eq!(rows(), program);
}

#[test]
fn the_page_introduces_each_metric_of_the_manual_once() {
    let pair = pair();
    let status = free();
    let at = status.to_string();
    let (_proxy, _) = pair.ready(nowhere(), &["--metrics", &at]);
    let answer = get(status, "/metrics", "x");
    let media = "content-type: application/openmetrics-text; version=1.0.0";
    assert!(answer.head.contains(media), "{}", answer.head);
    let manual = rows().into_iter().map(|[name, kind, ..]| (name, kind));
    let manual: Vec<(String, String)> = manual.collect();
    assert_eq!(introduced(&answer.body), manual);
    assert!(answer.body.ends_with("# EOF\n"));
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let begins = text.match_indices("starttls_proxy_");
    let word = |c: char| c.is_ascii_lowercase() || c == '_';
    begins
        .map(|(at, _)| {
            let name = &text[at..];
            let name = &name[..name.find(|c| !word(c)).unwrap_or(name.len())];
            let parts = ["_bucket", "_count", "_sum"].map(|part| name.strip_suffix(part));
            let whole = parts.into_iter().flatten().find(|name| is_histogram(name));
            whole.unwrap_or(name).to_owned()
        })
        .collect()
}

fn is_histogram(name: &str) -> bool {
    descriptions().any(|row| row.name == name && row.kind.word() == "histogram")
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_there_are_and_the_dashboard_shows_all() {
    let all: BTreeSet<String> = descriptions().map(|row| row.name.to_owned()).collect();
    let dashboard = named(&text("monitoring/dashboard.json"));
    let alerts = named(&text("monitoring/alerts.yml"));
    for name in dashboard.union(&alerts) {
        assert!(all.contains(name), "{name}");
    }
    let hidden: Vec<&String> = all.difference(&dashboard).collect();
    assert!(hidden.is_empty(), "the dashboard does not show {hidden:?}");
}

#[test]
fn the_alerts_that_the_manual_names_are_those_that_there_are_and_each_names_a_section() {
    let rules = text("monitoring/alerts.yml");
    let of = |key: &str| -> Vec<String> {
        let values = rules.lines();
        let values = values.filter_map(|line| line.trim().strip_prefix(key));
        values.map(|value| value.trim().to_owned()).collect()
    };
    let (alerts, sections) = (of("- alert:"), of("manual:"));
    assert!(alerts.len() > 15 && alerts.len() == sections.len());
    let manual = text("docs/metrics.md");
    let words = manual.split('`');
    for word in words.filter(|word| word.starts_with("StarttlsProxy")) {
        assert!(alerts.iter().any(|alert| alert == word), "{word}");
    }
    let tests = text("monitoring/alerts_test.yml") + &text("monitoring/alerts_weeks_test.yml");
    for alert in &alerts {
        let is_tested = tests.contains(&format!("name: {alert}\n"));
        assert!(is_tested, "{alert} has no test");
    }
    for section in sections {
        let anchor = section.strip_prefix("docs/troubleshooting.md#");
        let anchor = anchor.unwrap_or_else(|| panic!("{section}"));
        let plain = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(anchor.chars().all(plain), "{anchor}");
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&text("monitoring/dashboard.json")).expect("JSON")
}

/// The expressions of the dashboard, with what a person would choose in place of its variables; each with its panel's title.
pub fn panels() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for panel in dashboard()["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            let chosen = expression
                .replace("$job", ".*")
                .replace("$instance", ".*")
                .replace("$__rate_interval", "1m");
            assert!(!chosen.contains('$'), "{chosen}");
            let title = panel["title"].as_str().expect("a title");
            all.push((title.to_owned(), chosen));
        }
    }
    all
}

#[test]
fn the_dashboard_is_whole_and_no_two_panels_lie_on_each_other() {
    assert!(panels().len() > 40);
    let (mut taken, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard()["panels"].as_array().expect("panels") {
        assert!(numbers.insert(panel["id"].as_u64().expect("a number")));
        let side = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(x < 24 && taken.insert((x, y)), "{}", panel["title"]);
            }
        }
    }
}
