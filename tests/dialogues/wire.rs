//! Plays a script over sockets: the session's own driver and legs between a client and a server on loopback, with real
//! handshakes. Policy and disk are played as the script says. Time is real here, so scripts in which it passes are not
//! played, nor are a few that only a machine can be told.

use super::{
    pki::Authority,
    play::{like, line_of, show_note},
    script::{Expected, Line, Script, Step, escape, show_question},
    stage::show_record,
};
use rustls::pki_types::ServerName;
use starttls_proxy::{
    session::{
        drive::{ActionHandler, ActionResult, Stop, Upgraded, drive},
        job::Job,
        leg::{Leg, Stream},
    },
    smtp::{
        self, Action, Cause, Completed, Input, Machine, Note, Question, Recorded, Refusal, Side,
        StartTlsConditions,
    },
    tls::Secured,
};
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// On loopback a wait this long means that something hangs.
pub const HANG: Duration = Duration::from_secs(20);

/// Why a script is not played over sockets; `None`: it is.
pub fn unplayable(script: &Script) -> Option<&'static str> {
    let mut handshake = None;
    for Line { step, .. } in &script.lines {
        match step {
            Step::Wait(_) => return Some("time passes"),
            Step::Stalls(_) => return Some("what the system buffers is not the script's to say"),
            Step::Trace(_) => return Some("the driver asks for the trace line itself"),
            Step::Handshake(side) => handshake = Some(*side),
            Step::Secured(..) => handshake = None,
            Step::Closes(_) | Step::Sends(..) if handshake == Some(Side::Server) => {
                return Some("amid a handshake the driver does not read");
            }
            Step::Drain if handshake.is_some() => {
                return Some("amid a handshake a connection goes as it stands, without a farewell");
            }
            _ => {}
        }
    }
    // A repetition of thousands of round trips says no more than one of dozens.
    (script.lines.len() > 2500).then_some("too long")
}

/// The jobs of the driver, each with the place where its answer goes.
enum Wanted {
    Connect(oneshot::Sender<Result<Stream, Refusal>>),
    Handshake(Side, Stream, oneshot::Sender<Upgraded>),
    Ask(Question, oneshot::Sender<smtp::Answer>),
    Record(String, oneshot::Sender<Result<Recorded, Refusal>>),
}

enum Told {
    Job(Wanted),
    Note(Note),
}

struct Played {
    tell: mpsc::UnboundedSender<Told>,
    conditions: Arc<Mutex<StartTlsConditions>>,
}

impl Played {
    fn job<T: Send + 'static>(
        &self,
        job: impl FnOnce(oneshot::Sender<T>) -> Wanted,
        done: impl FnOnce(T) -> ActionResult + Send + 'static,
    ) -> Job<ActionResult> {
        let (answer, answered) = oneshot::channel();
        // A test that is over does not receive any more.
        let _ = self.tell.send(Told::Job(job(answer)));
        Job::running(async move {
            match answered.await {
                Ok(outcome) => done(outcome),
                Err(_) => std::future::pending().await,
            }
        })
    }
}

impl ActionHandler for Played {
    type JobResult = ActionResult;
    fn finish(&mut self, done: ActionResult) -> ActionResult {
        done
    }
    fn connect(&mut self) -> Job<ActionResult> {
        self.job(Wanted::Connect, ActionResult::Connected)
    }
    fn upgrade(&mut self, side: Side, stream: Stream) -> Job<ActionResult> {
        self.job(
            |answer| Wanted::Handshake(side, stream, answer),
            move |up| ActionResult::Upgraded(side, up),
        )
    }
    fn authorise(&mut self, question: Question) -> Job<ActionResult> {
        self.job(
            |answer| Wanted::Ask(question, answer),
            ActionResult::Answered,
        )
    }
    fn record(&mut self, message: Completed) -> Job<ActionResult> {
        self.job(
            |answer| Wanted::Record(show_record(&message), answer),
            ActionResult::Recorded,
        )
    }
    fn note(&mut self, note: Note) {
        let _ = self.tell.send(Told::Note(note));
    }
    fn conditions(&self) -> StartTlsConditions {
        *self.conditions.lock().expect("nobody panics with it")
    }
}

trait Bytes: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

/// The other end of one of the session's connections.
#[derive(Default)]
struct Peer {
    clear: Option<TcpStream>,
    tls: Option<Box<dyn Bytes>>,
    got: Vec<u8>,
    closed: bool,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Self {
            clear: Some(stream),
            ..Self::default()
        }
    }

    fn stream(&mut self) -> Result<&mut dyn Bytes, String> {
        match (&mut self.tls, &mut self.clear) {
            (Some(tls), _) => Ok(tls.as_mut()),
            (None, Some(clear)) => Ok(clear),
            (None, None) => Err("there is no connection".to_owned()),
        }
    }

    /// Reads once. Returns whether there was anything to read.
    async fn more(&mut self) -> Result<io::Result<usize>, String> {
        let mut buffer = vec![0; 65536];
        let read = timeout(HANG, self.stream()?.read(&mut buffer)).await;
        let read = read.map_err(|_| format!("nothing comes behind: {}", escape(&self.got)))?;
        if let Ok(length) = read {
            self.got.extend_from_slice(&buffer[..length]);
        }
        Ok(read)
    }
}

struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

fn tls() -> &'static Tls {
    static TLS: OnceLock<Tls> = OnceLock::new();
    TLS.get_or_init(|| {
        let authority = Authority::root("dialogues");
        let server = authority.leaf(&["mx.example"]).server_config();
        Tls {
            connector: TlsConnector::from(Arc::new(authority.client_config())),
            acceptor: TlsAcceptor::from(Arc::new(server)),
        }
    })
}

/// Either machine.
pub struct Any(pub Box<dyn Machine + Send>);

impl Machine for Any {
    fn receive(&mut self, side: Side, bytes: &[u8], now: Duration) {
        self.0.receive(side, bytes, now);
    }
    fn handle(&mut self, input: Input, now: Duration) {
        self.0.handle(input, now);
    }
    fn next_action(&mut self) -> Option<Action> {
        self.0.next_action()
    }
    fn deadline(&self) -> Option<Duration> {
        self.0.deadline()
    }
    fn set_conditions(&mut self, now: StartTlsConditions) {
        self.0.set_conditions(now);
    }
    fn set_held_back(&mut self, held: bool, now: Duration) {
        self.0.set_held_back(held, now);
    }
    fn set_trace(&mut self, line: Vec<u8>) {
        self.0.set_trace(line);
    }
    fn holds_replies(&self) -> bool {
        self.0.holds_replies()
    }
    fn finished(&self) -> bool {
        self.0.finished()
    }
}

/// Plays the script. The error says where and how the session differs.
pub fn play(script: &Script, machine: Box<dyn Machine + Send>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let played = async {
        let (proxy_end, client) = pair().await?;
        let (tell, told) = mpsc::unbounded_channel();
        let conditions = Arc::new(Mutex::new(StartTlsConditions {
            overloaded: false,
            may_have_tried: false,
        }));
        let hands = Played {
            tell,
            conditions: Arc::clone(&conditions),
        };
        let (stop, stopped) = watch::channel(Stop::Not);
        let leg = Leg::new(Stream::Tcp(proxy_end), Vec::new());
        tokio::spawn(drive(Any(machine), hands, leg, stopped));
        let mut wire = Wire {
            client: Peer::new(client),
            server: Peer::default(),
            told,
            jobs: VecDeque::new(),
            current: VecDeque::new(),
            notes: VecDeque::new(),
            conditions,
            stop,
        };
        for line in &script.lines {
            wire.step(&line.step).await.map_err(|e| line.failed(&e))?;
        }
        Ok(())
    };
    runtime.block_on(played)
}

/// Two ends of a connection.
pub async fn pair() -> Result<(TcpStream, TcpStream), String> {
    let connect = async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let ours = TcpStream::connect(listener.local_addr()?).await?;
        let (theirs, _) = listener.accept().await?;
        ours.set_nodelay(true)?;
        Ok::<_, io::Error>((theirs, ours))
    };
    connect.await.map_err(|e| e.to_string())
}

struct Wire {
    client: Peer,
    server: Peer,
    told: mpsc::UnboundedReceiver<Told>,
    /// Jobs that the script does not expect yet.
    jobs: VecDeque<Wanted>,
    /// Jobs that the script expects and has not answered yet.
    current: VecDeque<Wanted>,
    notes: VecDeque<Note>,
    conditions: Arc<Mutex<StartTlsConditions>>,
    stop: watch::Sender<Stop>,
}

impl Wire {
    fn peer(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Gets(side, expected) => self.gets(*side, expected).await,
            Step::Ends { side, abort } => self.ends(*side, *abort).await,
            Step::Connect | Step::Ask(_) | Step::Handshake(_) | Step::Record(_) => {
                self.wants(step).await
            }
            Step::Note(expected) => self.noted(expected).await,
            // A wait for something that does not come takes long.
            Step::NoNote(_) => Ok(()),
            _ => {
                self.happen(step).await?;
                self.let_it_happen().await;
                Ok(())
            }
        }
    }

    /// Lets the driver read what was sent to it: on loopback that is there already.
    async fn let_it_happen(&mut self) {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    async fn gets(&mut self, side: Side, expected: &Expected) -> Result<(), String> {
        loop {
            let got = &self.peer(side).got;
            let taken = match expected {
                Expected::Bytes(bytes) if got.len() >= bytes.len() => {
                    got.starts_with(bytes).then_some(bytes.len())
                }
                Expected::Line(line) if line_of(got).is_some() => line_of(got)
                    .filter(|got| got == line)
                    .map(|got| got.len() + 2),
                Expected::Like(pattern) if line_of(got).is_some() => line_of(got)
                    .filter(|got| like(pattern, got))
                    .map(|got| got.len() + 2),
                // Seen at the end of the connection, which a reset may bring first.
                Expected::Beginning(_) => Some(0),
                _ => match self.peer(side).more().await? {
                    Ok(1..) => continue,
                    end => return Err(format!("{end:?} behind: {}", escape(&self.peer(side).got))),
                },
            };
            let got = &mut self.peer(side).got;
            return match taken {
                Some(taken) => {
                    got.drain(..taken);
                    Ok(())
                }
                None => Err(format!("it gets: {}", escape(got))),
            };
        }
    }

    async fn ends(&mut self, side: Side, abort: bool) -> Result<(), String> {
        let peer = self.peer(side);
        if peer.clear.is_none() && peer.tls.is_none() {
            // The connection was lost in its handshake, or never existed.
            return Ok(());
        }
        let end = loop {
            match peer.more().await? {
                Ok(1..) => {}
                end => break end,
            }
        };
        if !abort && !peer.got.is_empty() {
            return Err(format!("unexpected: {}", escape(&peer.got)));
        }
        // A server must not be able to take a part of the message for the whole.
        if abort && side == Side::Server && end.is_ok() && !peer.closed {
            return Err("the connection ends cleanly".to_owned());
        }
        *peer = Peer::default();
        Ok(())
    }

    async fn hear(&mut self) -> Result<(), String> {
        let told = timeout(HANG, self.told.recv()).await;
        match told
            .map_err(|_| "it does not come")?
            .ok_or("the session is over")?
        {
            Told::Job(job) => self.jobs.push_back(job),
            Told::Note(note) => self.notes.push_back(note),
        }
        Ok(())
    }

    async fn wants(&mut self, step: &Step) -> Result<(), String> {
        let is_it = |job: &Wanted| match (step, job) {
            (Step::Connect, Wanted::Connect(_)) => true,
            (Step::Handshake(expected), Wanted::Handshake(side, ..)) => expected == side,
            (Step::Ask(expected), Wanted::Ask(question, _)) => expected == question,
            (Step::Record(expected), Wanted::Record(record, _)) => {
                like(expected.as_bytes(), record.as_bytes())
            }
            _ => false,
        };
        loop {
            if let Some(at) = self.jobs.iter().position(is_it) {
                self.current.extend(self.jobs.remove(at));
                return Ok(());
            }
            let heard = self.hear().await;
            heard.map_err(|e| {
                let jobs: Vec<String> = self.jobs.iter().map(show).collect();
                format!("{e}; wanted is: {jobs:?}")
            })?;
        }
    }

    async fn noted(&mut self, expected: &str) -> Result<(), String> {
        loop {
            while let Some(note) = self.notes.pop_front() {
                if like(expected.as_bytes(), show_note(&note).as_bytes()) {
                    return Ok(());
                }
            }
            self.hear().await?;
        }
    }

    async fn happen(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Sends(side, bytes) => {
                // Bytes for a connection that has ended are lost.
                if let Ok(stream) = self.peer(*side).stream() {
                    let _ = stream.write_all(bytes).await;
                    let _ = stream.flush().await;
                }
                Ok(())
            }
            Step::Closes(Side::Client)
                if matches!(
                    self.current.front(),
                    Some(Wanted::Handshake(Side::Client, ..))
                ) =>
            {
                self.client = Peer::default();
                self.answer(|job| match job {
                    Wanted::Handshake(_, stream, answer) => {
                        drop(stream);
                        answer.send(Upgraded::Failed(refusal())).is_ok()
                    }
                    _ => false,
                })
            }
            Step::Closes(side) => {
                let peer = self.peer(*side);
                peer.closed = true;
                peer.stream()?.shutdown().await.map_err(|e| e.to_string())
            }
            Step::Connected(outcome) => self.connected(outcome).await,
            Step::Secured(side, outcome) => self.secured(*side, outcome).await,
            Step::Answer(answer) => {
                let answer = answer.to_machine();
                self.answer(|job| match job {
                    Wanted::Ask(_, sender) => sender.send(answer).is_ok(),
                    _ => false,
                })
            }
            Step::Recorded(outcome) => {
                let outcome = outcome.clone().map(|()| Recorded::assertion());
                self.answer(|job| match job {
                    Wanted::Record(_, sender) => sender.send(outcome).is_ok(),
                    _ => false,
                })
            }
            Step::Conditions {
                overloaded,
                may_have_tried,
            } => {
                *self.conditions.lock().expect("nobody panics with it") = StartTlsConditions {
                    overloaded: *overloaded,
                    may_have_tried: *may_have_tried,
                };
                Ok(())
            }
            Step::Drain => self.stop.send(Stop::Drain).map_err(|e| e.to_string()),
            Step::Cut => self.stop.send(Stop::Cut).map_err(|e| e.to_string()),
            _ => Err("not over sockets".to_owned()),
        }
    }

    /// Answers the oldest job of the kind.
    fn answer(&mut self, send: impl FnOnce(Wanted) -> bool) -> Result<(), String> {
        let job = self.current.pop_front().ok_or("nothing waits for this")?;
        match send(job) {
            true => Ok(()),
            false => Err("nobody waits for this any more".to_owned()),
        }
    }

    async fn connected(&mut self, outcome: &Result<(), Refusal>) -> Result<(), String> {
        let stream = match outcome {
            Ok(()) => {
                let (proxy_end, server) = pair().await?;
                self.server = Peer::new(server);
                Ok(Stream::Tcp(proxy_end))
            }
            Err(refusal) => Err(refusal.clone()),
        };
        self.answer(|job| match job {
            Wanted::Connect(sender) => sender.send(stream).is_ok(),
            _ => false,
        })
    }

    async fn secured(&mut self, side: Side, outcome: &Result<(), Refusal>) -> Result<(), String> {
        let Some(Wanted::Handshake(_, Stream::Tcp(proxy_end), answer)) = self.current.pop_front()
        else {
            return Err("no handshake in the clear is under way".to_owned());
        };
        let ours = self.peer(side).clear.take().ok_or("no connection")?;
        let name = ServerName::try_from("mx.example").expect("a name");
        let config = tls().connector.config().clone();
        let (up, handshake) = match (side, outcome) {
            (Side::Server, Err(refusal)) => {
                // A side whose handshake fails hangs up.
                drop((ours, proxy_end));
                (Upgraded::Failed(refusal.clone()), None)
            }
            (Side::Server, Ok(())) => {
                // The session writes the end of its handshake itself, so the server's is not over before.
                let server = tokio::spawn(tls().acceptor.accept(ours));
                let secured = Secured::connect(proxy_end, config, name).await;
                (
                    Upgraded::Up(secured.map_err(|e| e.to_string())?.0),
                    Some(server),
                )
            }
            (Side::Client, outcome) => {
                let turn = std::future::ready(());
                let (secured, ours) = tokio::join!(
                    Secured::accept(proxy_end, tls().acceptor.config().clone(), turn),
                    tls().connector.connect(name, ours)
                );
                self.client.tls = Some(Box::new(ours.map_err(|e| e.to_string())?));
                let (secured, _) = secured.map_err(|e| e.to_string())?;
                let up = match outcome {
                    Ok(()) => Upgraded::Up(secured),
                    Err(refusal) => Upgraded::NotGoodEnough(secured, refusal.clone()),
                };
                (up, None)
            }
        };
        if answer.send(up).is_err() {
            return Err("nobody waits for the handshake any more".to_owned());
        }
        if let Some(handshake) = handshake {
            let server = handshake.await.map_err(|e| e.to_string())?;
            self.server.tls = Some(Box::new(server.map_err(|e| e.to_string())?));
        }
        Ok(())
    }
}

fn refusal() -> Refusal {
    Refusal {
        code: 421,
        enhanced: (7, 5),
        text: "handshake failed".to_owned(),
        cause: Cause::Verdict,
    }
}

fn show(job: &Wanted) -> String {
    match job {
        Wanted::Connect(_) => "connect".to_owned(),
        Wanted::Handshake(side, ..) => format!("handshake {side:?}"),
        Wanted::Ask(question, _) => format!("ask {}", show_question(question)),
        Wanted::Record(record, _) => format!("record {record}"),
    }
}
