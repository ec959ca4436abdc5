//! The gauges: what is so now, read when somebody asks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    super::Direction,
    state::{ServedState, certificates, table, table_ends},
};
use crate::{
    VERSION,
    audit::AuditLog,
    clock, files,
    metrics::{self, GaugeName, GaugeValue},
    tls::CRYPTO_MODULE,
};

/// Every gauge that has a value now.
pub(super) fn gauges(state: &ServedState) -> Vec<GaugeValue> {
    let (direction, now) = (state.direction(), clock::wall());
    let common = direction.common();
    let mut all = AllGauges(Vec::new());
    let build = [VERSION, direction.word(), CRYPTO_MODULE];
    all.labelled(metrics::BUILD, &build, 1.0);
    all.at(metrics::STARTED_AT, state.started());
    all.yes(metrics::OBSERVING, common.observe);
    sessions(&mut all, state, &direction);
    if let Some(audit) = &common.audit {
        evidence(&mut all, state, audit, now);
    }
    for (file, facts) in certificates(&direction) {
        let file = file.display().to_string();
        all.labelled(metrics::CERTIFICATE_END, &[&file], whole(facts.not_after.0));
    }
    for (entry, end) in table_ends(&direction, now) {
        let rule = format!("{}:{}", entry.file, entry.line);
        all.labelled(metrics::TABLE_END, &[&rule], since_1970(end));
    }
    let lines = table(&direction).entries().len();
    let applying = table(&direction).applying(now).count();
    all.labelled(metrics::TABLE_ENTRIES, &["applies"], number(applying));
    all.labelled(
        metrics::TABLE_ENTRIES,
        &["expired"],
        number(lines - applying),
    );
    if let Some(found) = state.interception() {
        all.yes(metrics::INTERCEPTION_ALIVE, found.alive);
        all.seconds(metrics::INTERCEPTION_SINCE, found.since);
    }
    all.0
}

fn sessions(all: &mut AllGauges, state: &ServedState, direction: &Direction) {
    let common = direction.common();
    let (sessions, of_one_client) = state.limits().most();
    all.add(metrics::OPEN, large(common.metrics.open_sessions()));
    all.add(metrics::CLIENTS, number(state.limits().clients()));
    all.add(metrics::SESSIONS_LIMIT, f64::from(sessions));
    all.add(metrics::SESSIONS_PER_CLIENT_LIMIT, number(of_one_client));
    if let Direction::Inbound(setup) = direction {
        let [places, running, waiting] = setup.handshakes.use_now();
        all.add(metrics::HANDSHAKES_LIMIT, number(places));
        all.add(metrics::HANDSHAKES_RUNNING, number(running));
        all.add(metrics::HANDSHAKES_WAITING, number(waiting));
    }
    all.seconds(metrics::MESSAGE_AT, common.metrics.last_message());
    let (at, last_took_effect) = common.metrics.last_reload();
    all.seconds(metrics::RELOAD_AT, at);
    all.yes(metrics::RELOAD_DONE, last_took_effect);
}

fn evidence(all: &mut AllGauges, state: &ServedState, audit: &AuditLog, now: SystemTime) {
    all.yes(metrics::AUDIT_HEALTHY, audit.healthy());
    all.add(metrics::AUDIT_LAG, audit.lag().as_secs_f64());
    if let Some(at) = audit.last_checkpoint() {
        all.at(metrics::CHECKPOINT_AT, at);
    }
    all.seconds(metrics::ANCHORED_AT, state.metrics().last_anchor());
    if let Some(free) = state.free_octets(audit.file()) {
        all.add(metrics::DISK_FREE, large(free));
        let written = state.metrics().total(metrics::RECORD_OCTETS);
        let ran = now.duration_since(state.started()).unwrap_or_default();
        let days = files::days_left(free, written, ran);
        days.into_iter()
            .for_each(|days| all.add(metrics::DISK_DAYS, days));
    }
}

/// The gauges of one page.
struct AllGauges(Vec<GaugeValue>);

impl AllGauges {
    fn add(&mut self, name: GaugeName, value: f64) {
        self.0.push(GaugeValue::new(name, value));
    }

    fn labelled(&mut self, name: GaugeName, labels: &[&str], value: f64) {
        self.0.push(GaugeValue::with(name, labels, value));
    }

    fn yes(&mut self, name: GaugeName, is_so: bool) {
        self.add(name, if is_so { 1.0 } else { 0.0 });
    }

    fn at(&mut self, name: GaugeName, at: SystemTime) {
        self.add(name, since_1970(at));
    }

    fn seconds(&mut self, name: GaugeName, seconds: Option<u64>) {
        seconds
            .into_iter()
            .for_each(|seconds| self.add(name, large(seconds)));
    }
}

fn since_1970(at: SystemTime) -> f64 {
    let since = at.duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs_f64()
}

fn large(number: u64) -> f64 {
    number as f64
}

fn whole(number: i64) -> f64 {
    number as f64
}

fn number(number: usize) -> f64 {
    number as f64
}
