//! The commands that print the definition of the command line in other forms: `completions`, `man`.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::error::Failure;
use super::output::print;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// The directory, which must exist
        directory: PathBuf,
    },
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Completions { shell } => completions(shell),
            Command::Man { directory } => manual_pages(&directory),
        }
    }
}

/// Prints the completions of a shell.
fn completions(shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::definition(), "circuit", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

/// Writes the manual pages, one per command.
fn manual_pages(directory: &Path) -> Result<u8, Failure> {
    clap_mangen::generate_to(super::definition(), directory).map_err(|error| {
        Failure::operation(
            &format!("cannot write the manual pages to {}", directory.display()),
            &error,
        )
    })?;
    Ok(0)
}
