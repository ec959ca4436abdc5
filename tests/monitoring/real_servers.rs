//! A real Prometheus that scrapes real proxies.

use crate::{
    documents::{panels, text},
    name_server::name_server,
    running::{Client, Proxy, Scratch, free, inside_server, pair},
    world::{World, ask, tls_server},
};
use serde_json::Value;
use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

fn path(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    path.display().to_string()
}

#[test]
fn promtool_finds_the_rules_right_and_each_alert_fires_for_what_it_is_about() {
    let rules = path("monitoring/alerts.yml");
    let tests = path("monitoring/alerts_test.yml");
    let weeks = path("monitoring/alerts_weeks_test.yml");
    let check = ["check", "rules", &rules];
    for arguments in [&check[..], &["test", "rules", &tests, &weeks]] {
        let output = Command::new("promtool").args(arguments).output();
        let output = output.expect("THIS TEST NEEDS promtool, which Debian's prometheus has");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}

/// A Prometheus of this test's own, on loopback.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn start(scratch: &Scratch, targets: &[SocketAddr]) -> Self {
        let rules = scratch.file("alerts.yml", text("monitoring/alerts.yml"));
        let targets: Vec<String> = targets.iter().map(|one| format!("\"{one}\"")).collect();
        let configuration = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: [\"{rules}\"]\n\
             scrape_configs:\n\
             - job_name: starttls-proxy\n  static_configs: [{{targets: [{}]}}]\n",
            targets.join(", ")
        );
        let configuration = scratch.file("prometheus.yml", configuration);
        let address = free();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={configuration}"))
            .arg(format!("--storage.tsdb.path={}", scratch.path("tsdb")))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stderr(Stdio::null())
            .spawn()
            .expect("THIS TEST NEEDS prometheus (apt install prometheus)");
        let prometheus = Self { child, address };
        // It listens before it has read its own files, and answers 503 until then.
        let ready = format!("GET /-/ready HTTP/1.0\r\nHost: {address}\r\n\r\n");
        prometheus.until("it is ready", || {
            TcpStream::connect(address).is_ok() && ask(address, &ready).status == 200
        });
        prometheus
    }

    /// Prometheus tells nobody when it has scraped, so it is asked until it has.
    fn until(&self, what: &str, is_so: impl FnMut() -> bool) {
        if !self.becomes(is_so) {
            panic!("for two minutes it was not so that {what}");
        }
    }

    /// Whether that is so within two minutes.
    fn becomes(&self, mut is_so: impl FnMut() -> bool) -> bool {
        (0..1200).any(|_| {
            let so = is_so();
            if !so {
                thread::sleep(Duration::from_millis(100));
            }
            so
        })
    }

    fn ask(&self, path: &str) -> Value {
        let host = self.address;
        let answer = ask(
            host,
            &format!("GET /api/v1/{path} HTTP/1.0\r\nHost: {host}\r\n\r\n"),
        );
        serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{}", answer.body))
    }

    /// The series that an expression gives.
    fn query(&self, expression: &str) -> Vec<Value> {
        let octets = expression.bytes();
        let encoded: String = octets.map(|octet| format!("%{octet:02X}")).collect();
        let answer = self.ask(&format!("query?query={encoded}"));
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().expect("series").clone()
    }

    fn has(&self, expression: &str) -> bool {
        !self.query(expression).is_empty()
    }

    fn targets_are_up(&self, number: usize) -> bool {
        let answer = self.ask("targets");
        let targets = answer["data"]["activeTargets"].as_array();
        let targets = targets.map_or(&[][..], Vec::as_slice);
        targets
            .iter()
            .filter(|target| target["health"] == "up")
            .count()
            == number
    }
}

/// Panels that show nothing while all is well, or where nobody watches the interception or vouches for the log.
const QUIET: [&str; 8] = [
    "Anchors in a day, given and not given",
    "Days until the disk is full",
    "Incidents",
    "Interception unchanged for",
    "MTA-STS policies that were missing",
    "Observed: what enforcing would refuse",
    "Others last vouched",
    "Port 25 is locked",
];

#[test]
fn prometheus_scrapes_the_proxies_and_answers_what_dashboard_and_alerts_ask() {
    let world = World::new();
    let leaf = world.authority.leaf(&["mx.clinic.example"]);
    let log = world.scratch.path("audit.jsonl");
    let table = world
        .scratch
        .file("policy", "[192.0.2.9] none until=2999-03-31\n");
    let (listen, status) = (free(), free());
    let to = format!("mx.clinic.example:{}", tls_server(&leaf).port());
    let resolver = name_server().to_string();
    let more = [
        "--audit-log",
        &log,
        "--policy",
        &table,
        "--resolver",
        &resolver,
    ];
    let arguments = world.outbound([listen, status], &to, &more);
    let _outbound = Proxy::ready(&arguments);
    // The certificate of its smart host is for another name, so all of its mail is refused.
    let other = world.authority.leaf(&["mx.other.example"]);
    let (refusing, refusing_status) = (free(), free());
    let arguments = world.outbound(
        [refusing, refusing_status],
        &tls_server(&other).to_string(),
        &[],
    );
    let _refusing = Proxy::ready(&arguments);
    let pair = pair();
    let inbound_status = free();
    let at = inbound_status.to_string();
    let more = ["--exempt", "127.0.0.1/32", "--metrics", &at];
    let (_inbound, inbound) = pair.ready(inside_server(), &more);

    let prometheus = Prometheus::start(&world.scratch, &[status, refusing_status, inbound_status]);
    prometheus.until("all targets are up", || prometheus.targets_are_up(3));
    prometheus.until("there are samples of all", || {
        prometheus.query("starttls_proxy_build_info").len() == 3
    });

    let refuse = || {
        let mut client = Client::connect(refusing);
        // After a refusal the next session may be refused at its greeting.
        let mut greeting = String::new();
        std::io::BufRead::read_line(&mut client.0, &mut greeting).expect("a greeting");
        if greeting.starts_with("220") {
            client.says("EHLO client.example").hears("421");
        }
    };
    for to in [listen, inbound] {
        let mut client = Client::introduced(to);
        client.begins_mail("a@hospital.example", &["b@clinic.example"]);
        client.says("hello\r\n.").hears("250");
        client.says("QUIT").hears("221");
    }
    refuse();
    let accepted = "sum(starttls_proxy_messages_total{reply=\"accepted\"})";
    prometheus.until("it has seen both messages", || {
        prometheus.query(accepted)[0]["value"][1] == "2"
    });
    // A counter that was seen before has an increase when it grows.
    prometheus.until("it has seen the refusal", || {
        prometheus.has("starttls_proxy_refusals_total")
    });
    refuse();
    prometheus.until("the refusals have grown", || {
        prometheus.has("increase(starttls_proxy_refusals_total[1h]) > 0")
    });
    let upgrades = prometheus.query("starttls_proxy_upgrades_total");
    assert_eq!(upgrades.len(), 2, "{upgrades:?}");
    for one in &upgrades {
        assert_eq!(one["metric"]["direction"], "outbound", "{one}");
        assert_eq!(one["metric"]["basis"], "upstream", "{one}");
    }

    // A rate needs two samples of its series, and each target is scraped at its own time.
    let mut empty = Vec::new();
    let is_full = prometheus.becomes(|| {
        empty = panels()
            .into_iter()
            .filter(|(title, _)| !QUIET.contains(&title.as_str()))
            .collect();
        empty.retain(|(_, expression)| !prometheus.has(expression));
        empty.is_empty()
    });
    assert!(is_full, "these panels are empty: {empty:?}");

    let rules = prometheus.ask("rules");
    let rules = rules["data"]["groups"][0]["rules"].as_array();
    let rules = rules.expect("rules");
    assert!(rules.len() > 15);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        prometheus.query(rule["query"].as_str().expect("an expression"));
    }
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}");
    assert!(firing.is_empty(), "{firing:?}");
}
