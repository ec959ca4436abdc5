//! Every metric that the program has: one row each. The page of counters, `docs/metrics.md`, the dashboard and the alert rules all
//! speak of these names; `tests/monitoring.rs` compares them.

/// What a metric is, in the words of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows, and begins at 0 when the program starts.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Durations, counted by how long they were.
    Histogram,
}

impl MetricKind {
    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric: its name, its help text and the names of its labels.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// The whole name, for a counter with its `_total`.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// One sentence.
    pub help: &'static str,
    /// The names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// Values of a counter's only label that are shown as 0 before they are counted. A counter that appears with the value 1 has no
    /// increase in the eyes of Prometheus.
    pub(super) shown_at_0: &'static [&'static str],
}

/// The counters of one name. They differ in the values of their labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterName(pub(super) usize);

/// The gauges of one name. Their values are read when somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaugeName(pub(super) usize);

/// The histograms of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistogramName(pub(super) usize);

macro_rules! rows {
    ($rows:ident, $kind:ident, $name:ident, $order:ident;
     $($constant:ident $metric:literal [$($label:literal)*] $({$($zero:literal)*})? $help:literal;)*) => {
        #[allow(
            non_camel_case_types, clippy::upper_case_acronyms,
            reason = "its variants have the names of the constants, whose places they number"
        )]
        enum $order { $($constant),* }
        $(
            #[doc = concat!("`", $metric, "`: ", $help)]
            pub const $constant: $name = $name($order::$constant as usize);
        )*
        pub(super) const $rows: &[Description] = &[$(Description {
            name: $metric,
            kind: MetricKind::$kind,
            help: $help,
            labels: &[$($label),*],
            shown_at_0: &[$($($zero),*)?],
        }),*];
    };
}

rows! { COUNTERS, Counter, CounterName, CounterOrder;
    ANCHOR_FAULTS "starttls_proxy_audit_anchor_faults_total" ["kind"] {"cosigned" "stamp"}
        "Times that nobody gave the time-stamp or cosignature that a checkpoint was to get.";
    ANCHORS "starttls_proxy_audit_anchors_total" ["kind"] {"cosigned" "stamp"}
        "Checkpoints for which others vouched, by how: a time-stamp or a cosignature.";
    LOG_CUTS "starttls_proxy_audit_cuts_total" [] {""}
        "Times that records of the audit log were found missing which had been on disk.";
    RECORD_FAULTS "starttls_proxy_audit_faults_total" [] {""}
        "Records that could not be made durable.";
    RECORDS_LOST "starttls_proxy_audit_lost_records_total" [] {""}
        "Records that were dropped because the disk did not take those before them.";
    RECORD_OCTETS "starttls_proxy_audit_octets_total" [] {""}
        "Octets of the audit log that were made durable.";
    RECORDS "starttls_proxy_audit_records_total" [] {""}
        "Records that were made durable.";
    DECISIONS "starttls_proxy_decisions_total" ["verdict" "reason" "level" "basis"]
        "Policy verdicts, with reason, level and the source of the level.";
    HANDSHAKES "starttls_proxy_handshakes_total" ["outcome"] {"done" "failed"}
        "TLS handshakes, by outcome.";
    INCIDENTS "starttls_proxy_incidents_total" ["incident"]
        "Protocol violations that ended a session.";
    LINES_DROPPED "starttls_proxy_log_lines_dropped_total" [] {""}
        "Log lines that nobody read in time.";
    LOOKUPS "starttls_proxy_lookups_total" ["kind" "outcome"]
        "DNS questions and MTA-STS policy fetches, by outcome.";
    OCTETS "starttls_proxy_message_octets_total" ["direction"]
        "Octets of messages relayed.";
    MESSAGES "starttls_proxy_messages_total" ["reply"] {"accepted" "rejected" "unknown"}
        "Messages, by the server's final reply.";
    STS_FAULTS "starttls_proxy_mta_sts_faults_total" ["reason"]
        "Decisions for which an announced MTA-STS policy could not be fetched, by reason.";
    REFUSALS "starttls_proxy_refusals_total" ["reason"]
        "Refusals of our own, by reason.";
    SESSIONS "starttls_proxy_sessions_total" ["direction"]
        "Sessions begun.";
    TURNED_AWAY "starttls_proxy_turned_away_total" ["why"]
        {"audit-log" "budget" "cannot-accept" "max-sessions" "max-sessions-per-client"}
        "Connections refused before a session, by limit or guard.";
    UPGRADES "starttls_proxy_upgrades_total" ["direction" "version" "group" "suite" "level" "basis"]
        "Handshakes that succeeded, with what was negotiated and what was demanded.";
    VERDICTS "starttls_proxy_verdicts_total" ["verdict"] {"authorised" "observed" "refused" "unprotected"}
        "Policy verdicts.";
}

rows! { HISTOGRAMS, Histogram, HistogramName, HistogramOrder;
    RECORD_TOOK "starttls_proxy_audit_record_seconds" []
        "How long messages waited until their record was on disk.";
    SYNC_TOOK "starttls_proxy_audit_sync_seconds" []
        "How long the disk took to make records durable (fdatasync).";
    DECISION_TOOK "starttls_proxy_decision_seconds" []
        "How long it took to find out what a peer must prove, look-ups included.";
    HANDSHAKE_TOOK "starttls_proxy_handshake_seconds" ["direction" "outcome"]
        "How long TLS handshakes took, with the wait for a place.";
    PLACE_TOOK "starttls_proxy_handshake_wait_seconds" []
        "How long clients waited for a place for their handshake.";
    LOOKUP_TOOK "starttls_proxy_lookup_seconds" ["kind"]
        "How long DNS questions and MTA-STS policy fetches took that no cache answered.";
}

rows! { GAUGES, Gauge, GaugeName, GaugeOrder;
    ANCHORED_AT "starttls_proxy_audit_anchor_timestamp_seconds" []
        "When others last vouched for a checkpoint, or when the program started. Absent where nobody is asked.";
    CHECKPOINT_AT "starttls_proxy_audit_checkpoint_timestamp_seconds" []
        "When the last checkpoint of the audit log became durable. Its head can be anchored elsewhere.";
    DISK_DAYS "starttls_proxy_audit_disk_days_left" []
        "Days until the disk of the audit log is full, at the speed since the start.";
    DISK_FREE "starttls_proxy_audit_disk_free_octets" []
        "Free octets of the file system that has the audit log.";
    AUDIT_HEALTHY "starttls_proxy_audit_healthy" []
        "1 while the audit log can be written, 0 while mail is deferred because it cannot.";
    AUDIT_LAG "starttls_proxy_audit_lag_seconds" []
        "Age of the oldest record that is not on disk yet.";
    BUILD "starttls_proxy_build_info" ["version" "direction" "cryptography"]
        "Always 1; the labels say which program this is.";
    CERTIFICATE_END "starttls_proxy_certificate_end_timestamp_seconds" ["file"]
        "When a certificate of this proxy ends.";
    CLIENTS "starttls_proxy_clients_open" []
        "Clients (IPv4 addresses, IPv6 /64) that have a session now.";
    HANDSHAKES_LIMIT "starttls_proxy_handshakes_limit" []
        "Handshakes that are computed at once at most.";
    HANDSHAKES_RUNNING "starttls_proxy_handshakes_running" []
        "Handshakes that have a place now.";
    HANDSHAKES_WAITING "starttls_proxy_handshakes_waiting" []
        "Clients that wait for a place for their handshake now.";
    INTERCEPTION_ALIVE "starttls_proxy_interception_alive" []
        "1 if both locks on port 25 stand, 0 if one is gone. Absent where nothing watches them.";
    INTERCEPTION_SINCE "starttls_proxy_interception_since_timestamp_seconds" []
        "Since when the interception is as it is.";
    MESSAGE_AT "starttls_proxy_last_message_timestamp_seconds" []
        "When a server last accepted a message.";
    OBSERVING "starttls_proxy_observing" []
        "1 with --observe: nothing is refused.";
    RELOAD_DONE "starttls_proxy_reload_successful" []
        "1 if the last reload took effect, 0 if the old configuration stayed.";
    RELOAD_AT "starttls_proxy_reload_timestamp_seconds" []
        "When the files were last read with success: at the start or at a reload.";
    OPEN "starttls_proxy_sessions_open" []
        "Sessions open now.";
    SESSIONS_LIMIT "starttls_proxy_sessions_limit" []
        "Sessions that may be open at once (--max-sessions).";
    SESSIONS_PER_CLIENT_LIMIT "starttls_proxy_sessions_per_client_limit" []
        "Sessions that one client may have at once (--max-sessions-per-client).";
    STARTED_AT "starttls_proxy_start_timestamp_seconds" []
        "When the program started.";
    TABLE_END "starttls_proxy_table_entry_end_timestamp_seconds" ["rule"]
        "When a line of the policy table ceases to apply (until=): the next 50.";
    TABLE_ENTRIES "starttls_proxy_table_entries" ["state"]
        "Lines of the policy table, by whether they apply.";
}

/// Every metric, in the order of the page.
pub fn descriptions() -> impl Iterator<Item = &'static Description> {
    COUNTERS.iter().chain(HISTOGRAMS).chain(GAUGES)
}
