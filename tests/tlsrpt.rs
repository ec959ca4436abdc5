//! TLSRPT against the real collector, tlsrpt-reporter from PyPI: what it has in its database is what was reported.
//!
//! Needs python3 and pip, and PyPI the first time; without them this test fails and says so.

use starttls_proxy::{
    policy::Reason,
    tlsrpt::{FailureDetails, PolicyOutcome, PolicyType, Tlsrpt},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const RELEASE: &str = "tlsrpt-reporter==0.6.0";

/// Where the collector is installed, once for all runs.
fn installed() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tlsrpt-reporter");
    if !target.join("complete").exists() {
        let pip = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"])
            .arg(&target)
            .arg(RELEASE)
            .output();
        let words = match &pip {
            Ok(pip) => String::from_utf8_lossy(&pip.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        assert!(
            pip.is_ok_and(|pip| pip.status.success()),
            "THE COLLECTOR COULD NOT BE INSTALLED ({RELEASE} from PyPI, with python3 and pip): {words}"
        );
        fs::write(target.join("complete"), "").unwrap();
    }
    target
}

struct Collector {
    folder: PathBuf,
    process: Child,
}

impl Collector {
    fn start() -> Self {
        let target = installed();
        let folder =
            std::env::temp_dir().join(format!("starttls-proxy-collector-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        // An own configuration file, not that of the host.
        let config = folder.join("config");
        fs::write(&config, "[tlsrpt_collectd]\n").unwrap();
        let process = Command::new("python3")
            .arg("-c")
            .arg("from tlsrpt_reporter.tlsrpt import tlsrpt_collectd_main; tlsrpt_collectd_main()")
            .env("PYTHONPATH", &target)
            .args(["--sockettimeout", "1", "--config_file"])
            .arg(&config)
            .arg("--storage")
            .arg(format!(
                "sqlite://{}",
                folder.join("collectd.sqlite").display()
            ))
            .arg("--socketname")
            .arg(folder.join("socket"))
            .stderr(fs::File::create(folder.join("log")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let collector = Self { folder, process };
        collector.wait_until("it listens", || collector.folder.join("socket").exists());
        collector
    }

    fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        let begin = starttls_proxy::clock::instant();
        while !done() {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "waited in vain until {what}: {log}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Lines of a query, columns apart by `|`. Python's own sqlite3 reads what the collector has committed.
    fn query(&self, sql: &str) -> Vec<String> {
        let program = "import sqlite3, sys\nfor row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print(*row, sep='|')";
        let output = Command::new("python3")
            .args(["-c", program])
            .arg(self.folder.join("collectd.sqlite"))
            .arg(sql)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

mod real_servers {
    use super::*;

    #[test]
    fn the_collector_counts_what_was_reported() {
        let collector = Collector::start();
        let tlsrpt = Tlsrpt::new(&collector.folder.join("socket")).unwrap();
        let record = "v=TLSRPTv1; rua=mailto:tls@clinic.example";
        let sts = |reason: Option<Reason>| PolicyOutcome {
            kind: PolicyType::Sts,
            domain: "clinic.example".into(),
            strings: vec!["version: STSv1".into(), "mode: enforce".into()],
            mx_patterns: vec!["mx.clinic.example".into()],
            failure: reason.map(|reason| FailureDetails {
                reason,
                sending_ip: Some("192.0.2.10".parse().unwrap()),
                mx: Some("mx.clinic.example".into()),
                helo: Some("mx".into()),
                receiving_ip: Some("2001:db8::1".parse().unwrap()),
                words: "names *.hoster.example".into(),
            }),
        };
        let tlsa = PolicyOutcome {
            kind: PolicyType::Tlsa,
            strings: vec!["3 1 1 00".into()],
            mx_patterns: Vec::new(),
            ..sts(None)
        };
        tlsrpt.send("clinic.example", record, &[sts(None), tlsa]);
        tlsrpt.send(
            "clinic.example",
            record,
            &[sts(Some(Reason::CertificateHostMismatch))],
        );
        tlsrpt.send(
            "clinic.example",
            record,
            &[sts(Some(Reason::CertificateHostMismatch))],
        );
        tlsrpt.send(
            "clinic.example",
            record,
            &[sts(Some(Reason::CertificateExpired))],
        );
        tlsrpt.send(
            "clinic.example",
            record,
            &[sts(Some(Reason::StarttlsRefused))],
        );
        let counts = "SELECT domain, tlsrptrecord, json_extract(policy, '$.policy-type'), cntrtotal, cntrfailure FROM finalresults ORDER BY 3";
        collector.wait_until("all is committed", || {
            collector.query("SELECT sum(cntrtotal) FROM finalresults") == ["6"]
        });
        assert_eq!(
            collector.query(counts),
            [
                format!("clinic.example|{record}|1|1|0"),
                format!("clinic.example|{record}|2|5|4"),
            ]
        );
        assert_eq!(
            collector.query("SELECT reason, cntr FROM failures ORDER BY 2 DESC, 1"),
            [
                r#"{"c": 202, "s": "192.0.2.10", "n": "mx.clinic.example", "h": "mx", "r": "2001:db8::1", "a": "names *.hoster.example"}|2"#,
                // RFC 8460 has one word for a STARTTLS that is refused and one that is not offered.
                r#"{"c": 201, "s": "192.0.2.10", "n": "mx.clinic.example", "h": "mx", "r": "2001:db8::1", "a": "names *.hoster.example"}|1"#,
                r#"{"c": 204, "s": "192.0.2.10", "n": "mx.clinic.example", "h": "mx", "r": "2001:db8::1", "a": "names *.hoster.example"}|1"#,
            ]
        );
        let log = fs::read_to_string(collector.folder.join("log")).unwrap();
        assert!(!log.contains("ERROR"), "{log}");
    }
}
