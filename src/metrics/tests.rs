use super::*;
use std::sync::Arc;

fn page(metrics: &Arc<Metrics>, gauges: Vec<GaugeValue>) -> String {
    MetricsPage::new(Arc::clone(metrics), move || gauges.clone()).render()
}

#[test]
fn each_name_is_introduced_once_and_counts_by_label() {
    let metrics = Arc::new(Metrics::default());
    metrics.count(VERDICTS, "authorised");
    metrics.count(VERDICTS, "authorised");
    metrics.count(VERDICTS, "refused");
    metrics.count_by(DECISIONS, &["refused", "null-mx", "-", "-"]);
    metrics.took(SYNC_TOOK, &[], Duration::from_millis(2));
    let text = page(&metrics, vec![GaugeValue::new(OPEN, 3.0)]);
    for line in [
        "# TYPE starttls_proxy_verdicts counter",
        "starttls_proxy_verdicts_total{verdict=\"authorised\"} 2",
        "starttls_proxy_verdicts_total{verdict=\"refused\"} 1",
        "starttls_proxy_decisions_total{verdict=\"refused\",reason=\"null-mx\",level=\"-\",basis=\"-\"} 1",
        "starttls_proxy_audit_sync_seconds_count 1",
        "starttls_proxy_audit_sync_seconds_sum 0.002",
        "starttls_proxy_audit_sync_seconds_bucket{le=\"0.001\"} 0",
        "starttls_proxy_audit_sync_seconds_bucket{le=\"0.0025\"} 1",
        "starttls_proxy_audit_sync_seconds_bucket{le=\"+Inf\"} 1",
        "starttls_proxy_sessions_open 3",
        "# EOF",
    ] {
        assert_eq!(
            text.lines().filter(|one| *one == line).count(),
            1,
            "{line}\n{text}"
        );
    }
    for row in descriptions() {
        let help = format!("# HELP {} ", row.name.trim_end_matches("_total"));
        assert_eq!(text.matches(&help).count(), 1, "{help}");
    }
}

#[test]
fn what_an_alert_watches_is_there_before_it_happens() {
    let text = page(&Arc::default(), Vec::new());
    for line in [
        "starttls_proxy_audit_faults_total 0",
        "starttls_proxy_messages_total{reply=\"accepted\"} 0",
        "starttls_proxy_verdicts_total{verdict=\"refused\"} 0",
        "starttls_proxy_turned_away_total{why=\"max-sessions\"} 0",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
}

#[test]
fn a_label_cannot_end_its_line() {
    let gauge = GaugeValue::with(CERTIFICATE_END, &["a\"b\\c\nd"], 1.0);
    let text = page(&Arc::default(), vec![gauge]);
    let line = "starttls_proxy_certificate_end_timestamp_seconds{file=\"a\\\"b\\\\c\\nd\"} 1";
    assert!(text.lines().any(|one| one == line), "{text}");
}

#[test]
fn names_follow_the_rules_of_prometheus_and_are_sorted() {
    for rows in [COUNTERS, HISTOGRAMS] {
        assert!(rows.is_sorted_by_key(|row| row.name), "{rows:?}");
    }
    for row in descriptions() {
        let of_its_kind = match row.kind {
            MetricKind::Counter => row.name.ends_with("_total"),
            MetricKind::Histogram => row.name.ends_with("_seconds"),
            MetricKind::Gauge => !row.name.ends_with("_total"),
        };
        assert!(
            of_its_kind && row.name.starts_with("starttls_proxy_"),
            "{}",
            row.name
        );
        assert!(row.help.ends_with('.'), "{}", row.help);
    }
}

#[test]
fn an_open_session_counts_until_it_ends() {
    let metrics = Metrics::default();
    let open = metrics.session();
    assert_eq!(metrics.open_sessions(), 1);
    drop(open);
    assert_eq!(metrics.open_sessions(), 0);
}
