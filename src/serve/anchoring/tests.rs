//! The time of these tests is that of tokio, which passes as soon as everybody waits.

use super::*;
use crate::audit::AuditOptions;
use serde_json::Value;
use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const EVERY: Duration = Duration::from_secs(600);

/// Vouches for a checkpoint if it is there.
#[derive(Clone, Default)]
struct FakeVoucher {
    is_there: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

impl Voucher for FakeVoucher {
    const KIND: &'static str = "stamp";

    fn asked(&self) -> AskedVoucher {
        AskedVoucher::Authority
    }

    async fn vouch(&mut self, checkpoint: &Checkpoint) -> Result<Record, String> {
        self.asked.fetch_add(1, SeqCst);
        if !self.is_there.load(SeqCst) {
            return Err("nobody is there".into());
        }
        Ok(Record::Stamp(audit::StampRecord {
            size: checkpoint.head.size,
            time: audit::timestamp(clock::wall()),
            tsa: "http://tsa.example/".into(),
            token: String::new(),
        }))
    }
}

struct World {
    dir: tempdir::Folder,
    audit: Arc<AuditLog>,
    metrics: Arc<Metrics>,
    voucher: FakeVoucher,
}

mod tempdir {
    pub(super) struct Folder(pub(super) std::path::PathBuf);

    impl Folder {
        pub(super) fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("anchoring-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

impl World {
    fn new(name: &str) -> Self {
        let dir = tempdir::Folder::new(name);
        let mut options = AuditOptions::new(dir.0.join("log"), "mail.example/outbound".into());
        // Each record but those of others gets a checkpoint at once.
        options.checkpoint_records = 2;
        options.sync_after = Duration::from_millis(1);
        let audit = Arc::new(AuditLog::open(options).expect("a log"));
        let (metrics, voucher) = (Arc::default(), FakeVoucher::default());
        Self {
            dir,
            audit,
            metrics,
            voucher,
        }
    }

    fn start(&self) {
        let (audit, metrics) = (Arc::clone(&self.audit), Arc::clone(&self.metrics));
        tokio::spawn(keep_anchored(audit, metrics, EVERY, self.voucher.clone()));
    }

    async fn record(&self) {
        let stop = Record::Stop(audit::StopRecord {
            reason: "none".into(),
            sessions: 0,
            messages: 0,
        });
        let durable = self.audit.append_durable(&stop);
        let runtime = tokio::runtime::Handle::current();
        // The time of these tests stands still while a thread of the runtime is busy.
        let written = tokio::task::spawn_blocking(move || runtime.block_on(durable));
        written.await.expect("no panic").expect("it is on disk");
    }

    /// Waits for a time in which records that others cause become durable, too.
    async fn pass(&self, time: Duration) {
        sleep(time).await;
        self.record().await;
        self.record().await;
    }

    /// What the log has of an event.
    fn records(&self, event: &str) -> Vec<Value> {
        assert!(self.audit.close(), "everything is on disk");
        let text = fs::read_to_string(self.dir.0.join("log")).expect("the log");
        let all = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        all.filter(|record: &Value| record["event"] == event)
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_without_any_authority_loses_no_record_and_leaves_one_that_says_so() {
    let world = World::new("day");
    world.start();
    for _ in 0..24 {
        world.pass(DAY / 24).await;
    }
    let asked = world.voucher.asked.load(SeqCst);
    assert!((100..160).contains(&asked), "{asked} attempts");
    assert_eq!(world.metrics.get(metrics::ANCHOR_FAULTS, "stamp"), asked);
    assert_eq!(world.metrics.last_anchor(), None);
    assert_eq!(world.metrics.evidence.gaps()[0].tries, asked);
    world.voucher.is_there.store(true, SeqCst);
    world.pass(EVERY * 2).await;
    let gaps = world.records("not-anchored");
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(
        (&gaps[0]["wanted"], &gaps[0]["error"]),
        (&"stamp".into(), &"nobody is there".into())
    );
    let stamps = world.records("stamp");
    assert!(!stamps.is_empty(), "the gap ends");
    assert!(stamps[0]["seq"].as_u64() > gaps[0]["seq"].as_u64());
    assert!(world.metrics.last_anchor().is_some());
    assert_eq!(world.metrics.evidence.gaps(), []);
    assert!(world.records("stop").len() >= 50);
}

#[test]
fn what_was_answered_is_shown_in_quotes_escaped_and_cut() {
    let shown = quoted("a\u{1b}[2J\naudit checkpoint origin=m size=1 \u{202e}");
    assert_eq!(
        shown,
        r#""a\x1b[2J\naudit checkpoint origin=m size=1 \xe2\x80\xae""#
    );
    assert!(quoted(&"\u{7}".repeat(60_000)).len() < LONGEST_ERROR + 10);
}

#[tokio::test(start_paused = true)]
async fn each_outage_has_a_record_of_its_own() {
    let world = World::new("outages");
    world.start();
    for is_there in [false, true, false, true] {
        world.voucher.is_there.store(is_there, SeqCst);
        for _ in 0..6 {
            world.pass(EVERY).await;
        }
    }
    assert_eq!(world.records("not-anchored").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn stamps_come_no_more_often_than_asked_for_however_many_checkpoints_there_are() {
    let world = World::new("often");
    world.voucher.is_there.store(true, SeqCst);
    world.start();
    for _ in 0..60 {
        world.pass(EVERY / 10).await;
    }
    let asked = world.voucher.asked.load(SeqCst);
    assert!((5..=7).contains(&asked), "{asked} in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_log_in_which_nothing_happens_is_stamped_once_a_day_and_not_for_the_stamps() {
    let world = World::new("quiet");
    world.voucher.is_there.store(true, SeqCst);
    world.start();
    sleep(DAY * 10).await;
    let asked = world.voucher.asked.load(SeqCst);
    assert!((10..=14).contains(&asked), "{asked} in ten days");
}
