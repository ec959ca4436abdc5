//! Writes the man pages and the completions of shells, all made from the declarations of the flags, as the help is:
//!
//!     cargo run --example manual -- DIR "$(git log -1 --format=%cs)"
//!
//! They are laid out below DIR as they are installed below /usr/share. The proxy itself does not carry them: on a server they are
//! read from files, so that the binary stays small.

mod completions;
mod roff;

use starttls_proxy::cli::help::{self, PROGRAM};
use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [directory, date] = &arguments[..] else {
        return Err("usage: manual DIR YYYY-MM-DD (the day of the release)".into());
    };
    let program = help::program();
    let mut files = vec![
        (
            format!("bash-completion/completions/{PROGRAM}"),
            completions::bash(&program),
        ),
        (
            format!("zsh/site-functions/_{PROGRAM}"),
            completions::zsh(&program),
        ),
        (
            format!("fish/vendor_completions.d/{PROGRAM}.fish"),
            completions::fish(&program),
        ),
    ];
    for page in std::iter::once(&program).chain(&program.commands) {
        let name = format!("man/man1/{}.1", roff::name(page));
        files.push((name, roff::page(page, &program, date)));
    }
    for (name, text) in files {
        let path = Path::new(directory).join(name);
        fs::create_dir_all(path.parent().ok_or("no directory")?)?;
        fs::write(&path, text)?;
        println!("{}", path.display());
    }
    Ok(())
}
