//! `man`: a manual page for every command, made from the same words as `--help`.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory as _};

use super::Cli;

/// Writes `owm-coordinator.1`, `owm-coordinator-init.1` and so on to `dir`; returns how many.
pub(super) fn write(dir: &Path) -> io::Result<usize> {
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

    /// Every command that does something, `model import` included.
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
    fn the_long_words_on_backups_are_in_help_and_page() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        for (name, words) in [("backup", "Encrypt it"), ("restore", "for good")] {
            let mut command = Cli::command();
            let command = command.find_subcommand_mut(name).unwrap();
            assert!(
                command.render_long_help().to_string().contains(words),
                "{name}"
            );
            let page = folder.path().join(format!("owm-coordinator-{name}.1"));
            assert!(fs::read_to_string(page).unwrap().contains(words), "{name}");
        }
    }

    #[test]
    fn every_command_has_help_with_an_example_and_a_page_with_it() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let mut found = Vec::new();
        leaves(&Cli::command(), "owm-coordinator", &mut found);
        assert!(found.len() > 10, "only {} commands", found.len());
        for (name, mut command) in found {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{name} --help has no example");
            assert!(
                command.get_about().is_some(),
                "{name} says nothing of itself"
            );
            let page = fs::read_to_string(folder.path().join(format!("{name}.1")));
            let page = page.unwrap_or_else(|error| panic!("{name}.1: {error}"));
            assert!(page.contains(".SH EXAMPLES"), "{name}.1 has no examples");
        }
    }
}
