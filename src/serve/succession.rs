//! SIGUSR2: another process of the program, which may be a newer one, goes on in the place of this one.
//!
//! No connection is refused: both processes have the same listening sockets, so that what waits in them is accepted by the one or the
//! other. No session is lost: those of the old process end there. The audit log goes on as one chain: the old process closes it, the new
//! one opens it, and what the old one still has to record it sends to the new one.
//!
//! The two speak over a stream that is the new process's stdin:
//!
//! | old | new |
//! | --- | --- |
//! | starts the new process by way of a third one that ends at once, and sends the listening sockets | takes them, and becomes the program proper by `exec` |
//! | | reads flags and files, binds what it was not given, says that it is [`PREPARED`], and its number |
//! | closes the audit log, says that the [`LOG`] is free | opens it, and says that it is [`READY`] |
//! | tells systemd which process counts now, says that this is [`DONE`] | lets sessions in |
//! | lets no more sessions in, sends its records, ends with its last session | writes them |
//!
//! Whatever fails before the log is free leaves everything as it was: the stream ends, and with it the new process. After that, the old
//! process ends.
//!
//! The third process makes the new one a child of systemd. Where `systemctl stop` finds a process that is none, it does not wait for its
//! end but kills it.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::TcpListener as StdListener,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::PathBuf,
    process::Command,
    thread::JoinHandle,
    time::Duration,
};

use sd_notify::NotifyState;

use super::tell_systemd;
use crate::{audit::AuditLog, exit::Exit, net::passing};

/// Tells a process how far its way to the place of another has come: [`ORPHAN`], [`AWAITED`] or [`TAKEN`].
const STEP: &str = "STARTTLS_PROXY_SUCCESSION";
/// Start the next process, and end.
const ORPHAN: &str = "to-be-an-orphan";
/// The sockets are on their way.
const AWAITED: &str = "sockets-awaited";
/// The sockets are there.
const TAKEN: &str = "sockets-taken";
/// Name of the socket of `--metrics`; those of `--listen` have another one.
pub(super) const METRICS: &str = "metrics";
const LISTEN: &str = "listen";
/// How long the one process waits for a word of the other. A start may ask resolvers that do not answer.
const PATIENCE: Duration = Duration::from_secs(60);

const PREPARED: u8 = b'p';
const LOG: u8 = b'l';
const READY: u8 = b'r';
const DONE: u8 = b'd';

/// In a process that is to go on in the place of another: takes the sockets, and becomes the program with them. Returns at once in
/// any other process.
///
/// # Errors
/// The sockets did not come, or the program cannot be executed.
pub fn take_sockets() -> Result<(), Exit> {
    let step = env::var(STEP).unwrap_or_default();
    if step != ORPHAN && step != AWAITED {
        return Ok(());
    }
    let fault = |error: io::Error| {
        Exit::Temporary(format!(
            "cannot take the place of the process before: {error}"
        ))
    };
    let mut program = Command::new(env::current_exe().map_err(fault)?);
    let mut arguments = env::args_os();
    program.arg0(arguments.next().unwrap_or_default());
    program.args(arguments);
    if step == ORPHAN {
        program.env(STEP, AWAITED).spawn().map_err(fault)?;
        std::process::exit(0);
    }
    let count = env::var("LISTEN_FDS").ok();
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
    demand_free(count)?;
    // They get the numbers from 3 on, as systemd gives them.
    passing::receive(&io::stdin(), count).map_err(fault)?;
    let pid = std::process::id().to_string();
    program.env(STEP, TAKEN).env("LISTEN_PID", &pid);
    if env::var_os("WATCHDOG_PID").is_some() {
        program.env("WATCHDOG_PID", &pid);
    }
    Err(fault(program.exec()))
}

/// The sockets can be told from other files only by their numbers. A shell or program that started the first process may have left it
/// files of its own, which each process hands to the next.
fn demand_free(count: usize) -> Result<(), Exit> {
    let is_open = |number: &usize| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    match (3..3 + count).find(is_open) {
        None => Ok(()),
        Some(number) => Err(Exit::Temporary(format!(
            "cannot take the place of the process before: file descriptor {number} is open, which a socket needs\n\
             hint: start the program without it; a shell closes it with {number}>&- behind the command"
        ))),
    }
}

/// The process in whose place this one is to go on.
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// `None` in a process that was started in any other way.
    ///
    /// # Errors
    /// The stream to it is not there.
    pub(crate) fn of_this_process() -> Result<Option<Self>, Exit> {
        if env::var_os(STEP).is_none_or(|step| step != TAKEN) {
            return Ok(None);
        }
        let stdin = io::stdin().as_fd().try_clone_to_owned();
        let stream = stdin.map(UnixStream::from).map_err(gone)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(gone)?;
        Ok(Some(Self(stream)))
    }

    /// Returns when the audit log is free.
    ///
    /// # Errors
    /// The other process has ended or goes on itself.
    pub(crate) fn free_the_log(&mut self) -> Result<(), Exit> {
        let pid = std::process::id().to_be_bytes();
        say(&mut self.0, PREPARED)
            .and_then(|()| self.0.write_all(&pid))
            .and_then(|()| hear(&mut self.0, LOG))
            .map_err(gone)
    }

    /// Returns when this process counts. From then on it writes what the other has to record, in the thread that is returned, which
    /// ends with the other process.
    ///
    /// # Errors
    /// The other process has ended.
    pub(super) fn step_back(
        mut self,
        audit: Option<&AuditLog>,
    ) -> Result<Option<JoinHandle<()>>, Exit> {
        say(&mut self.0, READY)
            .and_then(|()| hear(&mut self.0, DONE))
            .map_err(gone)?;
        let Some(audit) = audit else { return Ok(None) };
        self.0
            .set_read_timeout(None)
            .and_then(|()| audit.take_in(self.0))
            .map(Some)
            .map_err(gone)
    }
}

fn gone(error: io::Error) -> Exit {
    Exit::Temporary(format!(
        "the process before this one did not make room: {error}"
    ))
}

fn say(stream: &mut UnixStream, word: u8) -> io::Result<()> {
    stream.write_all(&[word])
}

fn hear(stream: &mut UnixStream, word: u8) -> io::Result<()> {
    let mut heard = [0];
    stream.read_exact(&mut heard)?;
    match heard == [word] {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Why no other process went on.
pub(super) enum SuccessionFault {
    /// This process goes on.
    Stays(String),
    /// The audit log was free, so this process can record nothing any more: it must end.
    MustEnd(String),
}

/// What a successor is given.
pub(super) struct Estate {
    /// The program as it was found at the start. By now another version may stand there.
    program: PathBuf,
    sockets: Vec<StdListener>,
    names: String,
}

impl Estate {
    /// # Errors
    /// As the system says.
    pub(super) fn new(
        listeners: &[StdListener],
        metrics: Option<&StdListener>,
    ) -> io::Result<Self> {
        let all = listeners.iter().chain(metrics);
        let names = listeners.iter().map(|_| LISTEN);
        let names: Vec<&str> = names.chain(metrics.map(|_| METRICS)).collect();
        Ok(Self {
            program: env::current_exe()?,
            sockets: all.map(StdListener::try_clone).collect::<Result<_, _>>()?,
            names: names.join(":"),
        })
    }

    /// Starts a process that goes on, and waits until it does. Returns its number.
    ///
    /// # Errors
    /// It did not come so far.
    pub(super) fn hand_over(&self, audit: Option<&AuditLog>) -> Result<u32, SuccessionFault> {
        let (stream, theirs) = UnixStream::pair().map_err(stays)?;
        self.start(theirs).map_err(stays)?;
        self.lead(stream, audit)
    }

    /// Returns once the new process is a child of systemd.
    fn start(&self, stream: UnixStream) -> io::Result<()> {
        if self.sockets.len() > passing::MOST {
            return Err(io::Error::other("too many sockets"));
        }
        Command::new(&self.program)
            .args(env::args_os().skip(1))
            .env(STEP, ORPHAN)
            .env("LISTEN_FDS", self.sockets.len().to_string())
            .env("LISTEN_FDNAMES", &self.names)
            .env_remove("LISTEN_PID")
            .stdin(OwnedFd::from(stream))
            .status()
            .map(drop) // where it failed, the stream has ended
            .map_err(|error| io::Error::new(error.kind(), self.cannot_start(&error)))
    }

    fn cannot_start(&self, error: &io::Error) -> String {
        let hint = match error.kind() {
            // A mount of the file alone ends when another file takes its name.
            io::ErrorKind::PermissionDenied => "; in the unit, ExecPaths= must name its directory",
            _ => "",
        };
        format!("cannot start {}: {error}{hint}", self.program.display())
    }

    fn lead(
        &self,
        mut stream: UnixStream,
        audit: Option<&AuditLog>,
    ) -> Result<u32, SuccessionFault> {
        passing::send(&stream, &self.sockets).map_err(stays)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(stays)?;
        let mut pid = [0; 4];
        hear(&mut stream, PREPARED)
            .and_then(|()| stream.read_exact(&mut pid))
            .map_err(stays)?;
        let pid = u32::from_be_bytes(pid);
        if audit.is_some_and(|audit| !audit.hand_over()) {
            return Err(stays(io::Error::other("the audit log cannot be closed")));
        }
        let must_end = |error: io::Error| match audit {
            None => stays(error),
            Some(_) => SuccessionFault::MustEnd(why(&error)),
        };
        say(&mut stream, LOG).map_err(must_end)?;
        hear(&mut stream, READY).map_err(must_end)?;
        // Systemd takes messages from the process that counts alone, so this comes before the first one of the other.
        tell_systemd(&[NotifyState::MainPid(pid)]);
        say(&mut stream, DONE).map_err(must_end)?;
        stream.set_read_timeout(None).map_err(must_end)?;
        audit
            .map_or(Ok(()), |audit| audit.forward(stream))
            .map_err(must_end)?;
        Ok(pid)
    }
}

fn stays(error: io::Error) -> SuccessionFault {
    SuccessionFault::Stays(why(&error))
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        // A log line of another process may come later than ours.
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => {
            "the new process has ended; its own words say why".into()
        }
        io::ErrorKind::WouldBlock => "the new process does not get ready".into(),
        _ => format!("the new process: {error}"),
    }
}
