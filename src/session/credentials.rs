//! `--upstream-auth`: the proxy's own credentials for its smart host, for clients that cannot log in themselves.
//!
//! The file is read at the start and at each reload. A token lives for about an hour, so the file that it is in is read for each login.
//! No word of this file has a secret in it: errors name a file and a line, never what stands there.

use std::{
    env, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::refusals::local_fault;
use crate::{
    clock, files,
    smtp::{Answer, Cause, Login, LoginMeans, Refusal, Secret},
};

/// How long the same credentials are not tried again after the server has refused them for good. Providers lock accounts after some
/// wrong passwords, and a mail server with a full queue would try hundreds of times.
const HELD_OFF: Duration = Duration::from_secs(300);
/// Longest name of a user, in octets.
const LONGEST_USER: usize = 320;
/// Longest secret, in octets: its response has to fit into the line that a server takes (RFC 4954 §4: 12,288 octets).
const LONGEST_SECRET: usize = 8192;

/// The credentials, and what the server has said to them.
#[derive(Debug)]
pub struct UpstreamLogin {
    user: String,
    source: SecretSource,
    /// The server refused this secret then.
    refused: Mutex<Option<(LoginMeans, Instant)>>,
}

#[derive(Debug)]
enum SecretSource {
    Password(Secret),
    /// The file with the access token of the moment.
    TokenFile(PathBuf),
}

impl UpstreamLogin {
    /// Reads the file, and returns what is worth a warning, too.
    ///
    /// # Errors
    /// What is wrong, beginning with the file's name.
    pub fn read(file: &Path) -> Result<(Self, Vec<String>), String> {
        let (octets, warning) = guarded(file)?;
        let login = Self::parse(&octets).map_err(|words| format!("{}: {words}", file.display()))?;
        let mut warnings: Vec<String> = warning.into_iter().collect();
        if let SecretSource::TokenFile(token) = &login.source {
            match token_in(token) {
                Ok((_, warning)) => warnings.extend(warning),
                Err(words) => {
                    warnings.push(format!("{words}; mail waits until there is a token"));
                }
            }
        }
        Ok((login, warnings))
    }

    fn parse(octets: &Secret) -> Result<Self, String> {
        let text = std::str::from_utf8(octets.expose())
            .map_err(|_| String::from("not UTF-8; save it as UTF-8"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (mut user, mut password, mut token) = (None, None, None);
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: &str| format!("line {number}: {what}");
            let wanted = "'user = NAME', 'password = SECRET' or 'token-file = FILE' is wanted";
            let (key, value) = line.split_once('=').ok_or_else(|| wrong(wanted))?;
            let value = unquoted(value.trim());
            let (slot, longest) = match key.trim_end() {
                "user" => (&mut user, LONGEST_USER),
                "password" => (&mut password, LONGEST_SECRET),
                "token-file" => (&mut token, LONGEST_SECRET),
                _ => return Err(wrong(wanted)),
            };
            if value.is_empty() || value.len() > longest {
                return Err(wrong("the value is empty or too long"));
            }
            if value.chars().any(char::is_control) {
                return Err(wrong("the value has a control character"));
            }
            if slot.replace(value).is_some() {
                return Err(wrong("this stands here twice"));
            }
        }
        let user = user.ok_or("it names no user")?.to_owned();
        let source = match (password, token) {
            (Some(password), None) => {
                SecretSource::Password(Secret::new(password.as_bytes().to_vec()))
            }
            (None, Some(file)) => SecretSource::TokenFile(located(Path::new(file))),
            _ => return Err("it has to have either a password or a token-file".into()),
        };
        Ok(Self {
            user,
            source,
            refused: Mutex::default(),
        })
    }

    /// As whom the proxy logs in.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// `password`, or the file that the token is in.
    #[must_use]
    pub fn kind(&self) -> String {
        match &self.source {
            SecretSource::Password(_) => "password".into(),
            SecretSource::TokenFile(file) => format!("token of {}", file.display()),
        }
    }

    /// The secret of this moment. Reads a file.
    fn means(&self) -> Result<LoginMeans, String> {
        Ok(match &self.source {
            SecretSource::Password(password) => LoginMeans::Password(password.clone()),
            SecretSource::TokenFile(file) => LoginMeans::Token(token_in(file)?.0),
        })
    }

    /// Whether these credentials were refused a short while ago. If not, they are handed out now.
    fn hand_out(&self, means: LoginMeans, now: Instant) -> Result<Login, Refusal> {
        let refused = lock(&self.refused);
        let held_off = refused.as_ref().is_some_and(|(known, at)| {
            *known == means && now.saturating_duration_since(*at) < HELD_OFF
        });
        if held_off {
            let text = "the proxy's login was refused a short while ago, it is tried again after 5 minutes or with other credentials";
            return Err(Refusal {
                code: 421,
                enhanced: (7, 8),
                text: text.into(),
                cause: Cause::LoginFailed,
            });
        }
        Ok(Login::new(self.user.clone(), means))
    }
}

/// Answers the machine's question for credentials.
pub(super) async fn login(from: Option<Arc<UpstreamLogin>>) -> Answer {
    let read = match from {
        Some(login) => {
            let means = tokio::task::spawn_blocking({
                let login = Arc::clone(&login);
                move || login.means()
            });
            match means.await {
                Ok(Ok(means)) => login.hand_out(means, clock::instant()),
                Ok(Err(words)) => {
                    log::error!("--upstream-auth: {words}");
                    Err(unreadable())
                }
                Err(_) => Err(unreadable()),
            }
        }
        None => Err(unreadable()),
    };
    read.map_or_else(Answer::Refused, Answer::Login)
}

fn unreadable() -> Refusal {
    local_fault("the proxy's own credentials for the server cannot be read, its log says why")
}

/// The server has refused with this reply what a session was handed out. A 5yz is about the credentials, which are held off for a while.
pub(super) fn refused(login: Option<&UpstreamLogin>, tried: Option<LoginMeans>, reply: &[u8]) {
    if let (Some(login), Some(tried)) = (login, tried)
        && reply.starts_with(b"5")
    {
        *lock(&login.refused) = Some((tried, clock::instant()));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value without the quotes around it, in which blanks at its ends count.
fn unquoted(value: &str) -> &str {
    let inner = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inner.unwrap_or(value)
}

/// A file's name as it was given. A name without a folder is one of systemd's credentials, if there is one of that name
/// (systemd.exec(5), `LoadCredential=`).
#[must_use]
pub fn located(file: &Path) -> PathBuf {
    let is_bare = file
        .parent()
        .is_some_and(|folder| folder.as_os_str().is_empty());
    match env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(file)) {
        Some(credential) if is_bare && credential.exists() => credential,
        _ => file.to_owned(),
    }
}

/// The token in a file, without the line end behind it.
fn token_in(file: &Path) -> Result<(Secret, Option<String>), String> {
    let (octets, warning) = guarded(file)?;
    let token = octets.expose().trim_ascii();
    let is_token = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
    if !is_token || token.len() > LONGEST_SECRET {
        return Err(format!(
            "{}: one access token is wanted, and nothing else",
            file.display()
        ));
    }
    Ok((Secret::new(token.to_vec()), warning))
}

/// What is in a file that strangers on this host must not read, and a warning if its group needs not read it either.
fn guarded(file: &Path) -> Result<(Secret, Option<String>), String> {
    let cannot = |error: io::Error| format!("{}: cannot be read: {error}", file.display());
    let warning = files::guard(file)?;
    let octets = files::whole(file, files::SMALL).map_err(cannot)?;
    Ok((Secret::new(octets), warning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn read(text: &str) -> Result<UpstreamLogin, String> {
        UpstreamLogin::parse(&Secret::new(text.as_bytes().to_vec()))
    }

    fn password(text: &str) -> LoginMeans {
        LoginMeans::Password(Secret::new(text.as_bytes().to_vec()))
    }

    /// A file of this content and mode, which is removed with the folder.
    struct Guarded(PathBuf);

    impl Guarded {
        fn new(name: &str, text: &str, mode: u32) -> Self {
            let name = format!("starttls-proxy-credentials-{}-{name}", std::process::id());
            let path = env::temp_dir().join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            Self(path)
        }
    }

    impl Drop for Guarded {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn user_and_password_are_read_as_they_are_written() {
        for (text, secret) in [
            ("user=nurse\npassword=a = b#c\n", "a = b#c"),
            (
                "# the scanner\r\n\r\n  user = nurse \r\npassword =  x y \r\n",
                "x y",
            ),
            ("user = nurse\npassword = \" x \"\n", " x "),
            ("\u{feff}user = nurse\npassword = pä$$\n", "pä$$"),
            ("user = nurse\npassword = \"\n", "\""),
        ] {
            let login = read(text).expect(text);
            assert_eq!(login.user(), "nurse");
            assert_eq!(login.means(), Ok(password(secret)), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_never_quoted() {
        for (text, words) in [
            ("s3cret\n", "line 1: "),
            ("user = n\ns3cret = x\n", "line 2: "),
            ("user = n\npassword = s3\0cret\n", "line 2: "),
            (
                "user = n\npassword = s3cret\npassword = s3cret\n",
                "line 3: ",
            ),
            ("user = n\npassword =\n", "line 2: "),
            ("password = s3cret\n", "no user"),
            ("user = n\n", "either"),
            (
                "user = n\npassword = s3cret\ntoken-file = s3cret\n",
                "either",
            ),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(words), "{text:?}: {error}");
            assert!(!error.contains("s3"), "{error}");
        }
    }

    #[test]
    fn a_file_for_everybody_is_refused_and_one_for_its_group_is_warned_about() {
        let text = "user = n\npassword = s3cret\n";
        for mode in [0o604, 0o602, 0o644] {
            let file = Guarded::new(&format!("{mode:o}"), text, mode);
            let error = UpstreamLogin::read(&file.0).expect_err("refused");
            assert!(error.contains("chmod o= "), "{error}");
        }
        let file = Guarded::new("group", text, 0o640);
        let (_, warnings) = UpstreamLogin::read(&file.0).expect("read");
        assert!(warnings[0].contains("chmod g= "), "{warnings:?}");
        let file = Guarded::new("own", text, 0o600);
        let (_, warnings) = UpstreamLogin::read(&file.0).expect("read");
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_token_is_read_for_each_login() {
        let token = Guarded::new("token", "first\n", 0o600);
        let text = format!("user = n\ntoken-file = {}\n", token.0.display());
        let file = Guarded::new("with-token", &text, 0o600);
        let (login, warnings) = UpstreamLogin::read(&file.0).expect("read");
        assert!(warnings.is_empty(), "{warnings:?}");
        let now = |text: &str| Ok(LoginMeans::Token(Secret::new(text.as_bytes().to_vec())));
        assert_eq!(login.means(), now("first"));
        fs::write(&token.0, "second").expect("written");
        assert_eq!(login.means(), now("second"));
        fs::write(&token.0, "two tokens").expect("written");
        assert!(login.means().is_err());
    }

    #[test]
    fn a_token_that_is_not_there_yet_is_a_warning() {
        let file = Guarded::new("early", "user = n\ntoken-file = /nowhere/token\n", 0o600);
        let (login, warnings) = UpstreamLogin::read(&file.0).expect("read");
        assert!(warnings[0].starts_with("/nowhere/token: "), "{warnings:?}");
        assert!(login.means().is_err());
    }

    #[test]
    fn refused_credentials_are_held_off_for_a_while_and_other_ones_are_not() {
        let login = read("user = n\npassword = x\n").expect("read");
        let now = clock::instant();
        login
            .hand_out(password("wrong"), now)
            .expect("the first time");
        refused(Some(&login), Some(password("wrong")), b"454 4.7.0\r\n");
        login.hand_out(password("wrong"), now).expect("454 passes");
        refused(Some(&login), Some(password("wrong")), b"535 5.7.8\r\n");
        let refusal = login
            .hand_out(password("wrong"), now)
            .expect_err("held off");
        assert_eq!((refusal.code, refusal.enhanced), (421, (7, 8)));
        login.hand_out(password("right"), now).expect("another one");
        let later = clock::instant() + HELD_OFF;
        login.hand_out(password("wrong"), later).expect("again");
    }

    proptest! {
        #[test]
        fn nothing_that_can_be_printed_has_the_secret(text in "[!-~&&[^\"]]{6,40}") {
            let login = read(&format!("user = n\npassword = {text}\n")).expect("read");
            let means = login.means().expect("there");
            login.hand_out(means.clone(), clock::instant()).expect("handed out");
            refused(Some(&login), Some(means), b"535\r\n");
            let shown = format!("{login:?} {:?} {}", login.means(), login.kind());
            prop_assert!(!shown.contains(&text), "{}", shown);
        }
    }
}
