//! Containers: `mkdkr`. [`streams`](super::streams) has the commands for containers that are there.

use circuit_client::container::Inspected;
use circuit_client::{Path, Run};
use clap::Subcommand;

use super::arguments::path;
use super::dial::{Dial, dial};
use super::error::{Failure, say};
use super::interruptible;
use super::object::{Form, field, field_or_default};
use super::output::print_indented;

/// Prints the status of a container: the JSON of its Engine, as `docker inspect` has it.
pub(super) fn print_status(inspected: &Inspected) -> Result<(), Failure> {
    print_indented(&inspected.inspect)
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a container, from a description as JSON on stdin
    ///
    /// The server must have been started with -docker. The fields: Image (required), Path, Args,
    /// Entry, Dir, Env (in addition to the image's), Memory (bytes), CpuShares, Lxc, Volume,
    /// Network, Ports, Labels, Scrub, and Pull ("missing", "never" or "always": when the image is
    /// fetched, its progress on stderr).
    #[command(
        after_help = "Example: echo '{\"Image\": \"ubuntu\", \"Path\": \"/bin/ls\", \"Args\": \
[\"/\"]}' | circuit mkdkr /X88550014d4c82e4d/docky"
    )]
    Mkdkr {
        /// Remove the container when it exits, and forget the element once its readers are gone
        #[arg(long)]
        scrub: bool,
        /// The anchor
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Mkdkr { scrub, path, dial } => interruptible(mkdkr(path, scrub, dial)),
        }
    }
}

/// A container as people paste it. Its fields are in the reference's order; those that the reference
/// does not have follow.
const CONTAINER: Form = Form {
    what: "container",
    fields: &[
        "Image",
        "Memory",
        "CpuShares",
        "Lxc",
        "Volume",
        "Dir",
        "Entry",
        "Env",
        "Path",
        "Args",
        "Scrub",
        "Network",
        "Ports",
        "Labels",
        "Pull",
    ],
    example: r#"{"Image": "ubuntu", "Path": "/bin/ls", "Args": ["/"]}"#,
    not_utf8: "the texts of a container are UTF-8",
};

/// Makes a container from JSON on stdin.
async fn mkdkr(path: Path, scrub: bool, options: Dial) -> Result<u8, Failure> {
    let mut run = parse(&CONTAINER.read().await?)?;
    run.scrub |= scrub;
    let client = dial(&options).await?;
    let show = |line: &str| say(line.trim_end());
    client.anchor(path).make_docker_showing(run, show).await?;
    Ok(0)
}

pub(super) fn parse(text: &str) -> Result<Run, Failure> {
    let mut run = Run::new("");
    for (name, value) in CONTAINER.parse(text)? {
        match name {
            "Image" => run.image = field_or_default(name, value)?,
            "Memory" => run.memory = field_or_default(name, value)?,
            "CpuShares" => run.cpu_shares = field_or_default(name, value)?,
            "Lxc" => run.lxc = field_or_default(name, value)?,
            "Volume" => run.volume = field_or_default(name, value)?,
            "Dir" => run.dir = field(name, value)?,
            "Entry" => run.entry = field(name, value)?,
            "Env" => run.env = field_or_default(name, value)?,
            "Path" => run.path = field(name, value)?,
            "Args" => run.args = field_or_default(name, value)?,
            "Scrub" => run.scrub = field_or_default(name, value)?,
            "Network" => run.network = field(name, value)?,
            "Ports" => run.ports = field_or_default(name, value)?,
            "Labels" => run.labels = field_or_default(name, value)?,
            _ => run.pull = field_or_default(name, value)?,
        }
    }
    match run.image.is_empty() {
        true => Err(CONTAINER.bad("the container has no Image".to_owned())),
        false => Ok(run),
    }
}

#[cfg(test)]
mod tests {
    use circuit_client::Pull;

    use super::*;

    #[test]
    fn containers_as_people_paste_them() {
        let run = parse(
            "{\n\t\"Image\": \"ubuntu\",\n\t\"memory\": 1000000000,\n\t\"Entry\": \"\", // none\n\
             \t\"Labels\": {\"a\": \"b\"},\n\t\"Pull\": \"never\",\n\t\"Env\": null,\n\
             \t\"Args\": [\"/\",],\n}",
        );
        let expected = Run {
            memory: 1_000_000_000,
            entry: Some(String::new()),
            args: vec!["/".into()],
            labels: [("a".to_owned(), "b".to_owned())].into(),
            pull: Pull::Never,
            ..Run::new("ubuntu")
        };
        assert_eq!(run.unwrap(), expected);
    }

    #[test]
    fn bad_containers_are_named() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.text().contains(expected), "{text}: {}", error.text());
        };
        check("", "no container on stdin");
        check("{}", "the container has no Image");
        check(
            r#"{"Image": "a", "Imag": 1}"#,
            r#"unknown field "Imag": there are Image, Memory"#,
        );
        check(
            r#"{"Image": "a", "Memory": -1}"#,
            "the field Memory is wrong",
        );
        check(
            r#"{"Image": "a", "Memory": 1e400}"#,
            "the field Memory is wrong: not a finite number",
        );
        check(
            r#"{"Image": "a", "Pull": "often"}"#,
            "the field Pull is wrong: unknown variant `often`",
        );
        // Pasted text does nothing to a terminal.
        check(
            r#"{"Image": "a", "Pull": "nev\u001b[2J"}"#,
            r"unknown variant `nev\u{1b}[2J`",
        );
        check(r#"{"Image": "a", "Ports": 80}"#, "the field Ports is wrong");
    }
}
