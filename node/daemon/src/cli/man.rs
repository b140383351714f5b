//! `owm-node man`: a manual page for every command, made from the same words as `--help`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Command, CommandFactory as _};
use owm_service::RunError;
use serde_json::json;

use super::{Cli, Output};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  owm-node man --dir /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// The folder to write to.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(arguments: &ManArgs, output: Output) -> Result<(), RunError> {
    let pages = write(&arguments.dir)?;
    let line = format!("{pages} pages are in {}", arguments.dir.display());
    output.answer(&json!({ "dir": arguments.dir, "pages": pages }), &[line]);
    Ok(())
}

/// Writes `owm-node.1`, `owm-node-init.1` and so on; returns how many.
fn write(dir: &Path) -> io::Result<usize> {
    fs::create_dir_all(dir)?;
    let mut command = Cli::command();
    command.build();
    pages(&command, dir)
}

/// Neither clap's own `help` nor what is for our tests alone.
fn is_shown(command: &Command) -> bool {
    command.get_name() != "help" && !command.is_hide_set()
}

fn pages(command: &Command, dir: &Path) -> io::Result<usize> {
    let man = clap_mangen::Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)?;
    // What clap prints after the options is examples and exit codes.
    let page = String::from_utf8_lossy(&page).replacen(".SH EXTRA", ".SH EXAMPLES", 1);
    fs::write(dir.join(man.get_filename()), page)?;
    let mut count = 1;
    for below in command
        .get_subcommands()
        .filter(|command| is_shown(command))
    {
        count += pages(below, dir)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command that does something, `models list` included.
    fn leaves(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
        let subcommands: Vec<_> = command
            .get_subcommands()
            .filter(|command| is_shown(command))
            .collect();
        if subcommands.is_empty() {
            found.push((path.to_owned(), command.clone()));
        }
        for below in subcommands {
            leaves(below, &format!("{path}-{}", below.get_name()), found);
        }
    }

    #[test]
    fn every_command_has_help_with_an_example_and_a_page_with_it() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let mut found = Vec::new();
        leaves(&Cli::command(), "owm-node", &mut found);
        assert!(found.len() > 8, "only {} commands", found.len());
        for (name, mut command) in found {
            assert!(
                command.get_about().is_some(),
                "{name} says nothing of itself"
            );
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{name} --help has no example");
            let page = fs::read_to_string(folder.path().join(format!("{name}.1")));
            let page = page.unwrap_or_else(|error| panic!("{name}.1: {error}"));
            assert!(page.contains(".SH EXAMPLES"), "{name}.1 has no examples");
        }
    }
}
