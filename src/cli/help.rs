//! What `--help` prints, set by hand so that it can be read: 80 columns, flags in the order of the questions they answer.
//! A test holds each text against the flags that are parsed.

/// `starttls-proxy --help`
pub const TOP: &str = "\
starttls-proxy: SMTP leaves over STARTTLS with a verified peer, or not at all

  starttls-proxy outbound [flags]     legacy mail server -> the world
  starttls-proxy inbound  [flags]     the world -> legacy mail server
  starttls-proxy check DOMAIN...      what mail for DOMAIN would get, and why
  starttls-proxy policy test|show|purge
                                      which table line decides; cached MTA-STS
  starttls-proxy audit verify|show|report|keygen
                                      the evidence

Each command explains its flags with --help. A first try, without any change to
the network, that says what would happen to mail for a domain:

  starttls-proxy check example.com

Exit codes: 0 done, 1 the answer is no (check, audit verify), 64 wrong usage,
78 wrong configuration, 75 not now (try again), 70 a bug in this program,
74 ended with its last records not on disk.
";

/// `starttls-proxy outbound --help`
pub const OUTBOUND: &str = "\
starttls-proxy outbound: from a legacy mail server to the world

Where
  --listen ADDR:PORT         listen here (repeatable; else systemd's sockets)
  --intercept tproxy|redirect
                             the server is where the client meant to go
  --upstream [smtps://]HOST[:PORT]
                             or: all mail goes to this smart host
  --keep-client-address      connect with the client's own address as source
  --fwmark N                 mark our connections (SO_MARK), for your rules
  --hostname NAME            our name in greetings (default: this host's)
Whom
  --policy FILE              table in the syntax of smtp_tls_policy_maps
  --level LEVEL              where nothing else speaks: encrypt verify secure
                             dane dane-only mta-sts (default verify)
  --ca-file PEM              trust these instead of the system's authorities
  --min-tls 1.2|1.3          lowest version (default 1.2)
  --no-dane                  do not look for TLSA records
  --no-mta-sts               do not look for MTA-STS policies
  --resolver IP[:PORT]       ask these (repeatable; default /etc/resolv.conf)
  --dnssec-anchor FILE       validate from this anchor instead of the root's
  --state-dir DIR            MTA-STS policies survive a restart here
  --mta-sts-private          allow policy hosts on private addresses (labs)
  --client-cert PEM --client-key PEM
                             shown to servers that ask for a certificate
When not
  --refuse-with defer|reject 4yz keeps the mail queued (default), 5yz bounces
  --observe                  judge and record, but let all mail pass
Proof
  --audit-log FILE           hash-chained evidence, on disk before the 250
  --audit-key PEM            signs its checkpoints (audit keygen makes one)
  --audit-addresses full|domain|hashed
                             what records say of envelopes (default full)
  --tlsrpt-socket PATH       report results to a tlsrpt collector
  --add-received             put one Received line before each message
Running
  --metrics ADDR:PORT        counters for Prometheus at /metrics
  --max-sessions N           at once, in all (default 1000)
  --max-sessions-per-client N
                             at once, of one address (default 200)
  --drain-timeout SECONDS    how long a stop waits for messages (default 30)
  --dry-run                  read all files, say what would be done, exit

Example, on a router between the mail server (eth1) and the firewall:
  starttls-proxy outbound --listen '[::]:2525' --intercept tproxy \\
    --keep-client-address --audit-log /var/log/starttls-proxy/out.jsonl
with the rules of systemd/tproxy.nft loaded.
";

/// `starttls-proxy inbound --help`
pub const INBOUND: &str = "\
starttls-proxy inbound: from the world to a legacy mail server

Where
  --listen ADDR:PORT         listen here (repeatable; else systemd's sockets)
  --upstream HOST:PORT       the inside server
  --intercept tproxy|redirect
                             or: the server is where the client meant to go
  --keep-client-address      the inside server sees the client's own address
  --send-proxy v1|v2         or: tell it by a PROXY header
  --hide-client-address      or: neither, and this is meant
  --accept-proxy PREFIX      these load balancers send a PROXY header
                             (repeatable)
  --fwmark N                 mark our connections (SO_MARK), for your rules
  --hostname NAME            our name in greetings (default: this host's)
Whom
  --cert PEM --key PEM       certificate and key (repeatable pairs, chosen by
                             SNI; the first serves where none fits)
  --ocsp DER                 OCSP staple, for the pairs in their order
  --client-auth none|request|require
                             ask clients for a certificate (default none)
  --client-ca PEM            who may have issued it
  --accept-server-eku        take certificates for servers as clients' too
  --policy FILE              table: @sender.domain or client prefix -> level
  --exempt PREFIX            may speak in the clear (repeatable)
  --min-tls 1.2|1.3          lowest version (default 1.2)
When not
  --observe                  offer STARTTLS, let plaintext pass, record it
Proof
  --audit-log FILE           hash-chained evidence, on disk before the 250
  --audit-key PEM            signs its checkpoints (audit keygen makes one)
  --audit-addresses full|domain|hashed
                             what records say of envelopes (default full)
  --add-received             put one Received line before each message
Running
  --metrics ADDR:PORT        counters for Prometheus at /metrics
  --max-sessions N           at once, in all (default 1000)
  --max-sessions-per-client N
                             at once, of one address (default 50)
  --max-handshakes N         TLS handshakes under way at once (default 100)
  --relay-probe DOMAIN       foreign domain for the open-relay probe
                             (default probe.invalid; 'off' for none)
  --drain-timeout SECONDS    how long a stop waits for messages (default 30)
  --dry-run                  read all files, say what would be done, exit

Example, in front of a server at 192.168.7.10:
  starttls-proxy inbound --listen 0.0.0.0:25 --upstream 192.168.7.10:25 \\
    --keep-client-address --cert mx.pem --key mx.key
";

/// `starttls-proxy check --help`
pub const CHECK: &str = "\
starttls-proxy check DOMAIN...: what mail for DOMAIN would get, and why

Holds with each mail exchanger the session that mail would have, up to its MAIL,
which is not sent, and prints what was found and heard, what is demanded, the
verdict, and what mail gets, word for word. Exit code 1 if any mail would be
refused.

  --file FILE                domains, one a line (with or besides DOMAIN...)
  --json                     one JSON object a domain
  --policy FILE --level LEVEL --refuse-with defer|reject
  --ca-file PEM --min-tls 1.2|1.3 --no-dane --no-mta-sts
  --resolver IP[:PORT] --dnssec-anchor FILE --state-dir DIR --mta-sts-private
  --client-cert PEM --client-key PEM
                             as for outbound: give the same
  --hostname NAME            our name in EHLO (default: this host's)

Example:
  starttls-proxy check --policy /etc/starttls-proxy/policy clinic.example
";

/// `starttls-proxy policy --help`
pub const POLICY: &str = "\
starttls-proxy policy: look into the policy

  policy test [--policy FILE] [--level LEVEL] NAME...
                             which line decides for it, and why; a NAME is
                             recipient.domain, @sender.domain, [relay]:PORT,
                             an address (server or client) or a prefix
  policy show [--policy FILE] [--state-dir DIR] [DOMAIN...]
                             the table's lines, with a warning for each that
                             nothing reaches; MTA-STS policies in the cache
  policy purge --state-dir DIR DOMAIN...
                             forget them
";

/// `starttls-proxy audit --help`
pub const AUDIT: &str = "\
starttls-proxy audit: the evidence

FILE... are files of one log; a single one stands for itself and all that were
rotated out of it.

  audit verify FILE...       intact, or the first line that is not (exit 1)
    --anchor SIZE:HASH|FILE  an earlier head kept elsewhere (repeatable)
    --key PEM|NAME+ID+KEY    public key of the checkpoints (repeatable)
    --from N                 older records than N are knowingly left out
  audit show FILE...         records for people
    --domain D  --address A  --session ID
    --verdict authorised|unprotected|refused|observed
    --since TIME  --until TIME
                             RFC 3339 or YYYY-MM-DD
    --key PEM                the audit key, to find a hashed address
    --json                   the lines as they are
  audit report FILE... --html OUT
                             the page for auditors; --anchor, --key, --from,
                             --since and --until as above
  audit keygen --out PEM     a new key for --audit-key, and its public half
";
