//! Processes: `mkproc`. [`streams`](super::streams) has the commands for processes that are there.

use std::ffi::OsString;

use circuit_client::{Cmd, Path};
use clap::Subcommand;

use super::arguments::path;
use super::dial::{Dial, dial};
use super::error::Failure;
use super::interruptible;
use super::object::{Form, field, field_or_default};

pub(super) use super::output::print_json as print_status;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a process, from a command as JSON on stdin
    ///
    /// With `--` stdin is not read: the process runs COMMAND, and everything else has its default.
    ///
    /// The fields: Path (required), Args, Env (absent: the server's), Dir (absent: the server's
    /// own), Scrub, Stdout and Stderr ("pipe", "discard", "log" or a file to append to), Terminal
    /// ({"Rows": 24, "Columns": 80}), Hangup (when whoever is attached disappears), AddEnv (on top of
    /// the server's environment, in place of Env).
    #[command(
        override_usage = "circuit mkproc [OPTIONS] PATH [-- COMMAND [ARG]...]",
        after_help = "Example: echo '{\"Path\": \"/bin/ls\", \"Args\": [\"/\"]}' | \
circuit mkproc /X88550014d4c82e4d/pippi"
    )]
    Mkproc {
        /// Forget the element by itself once the process has exited and its readers are gone
        #[arg(long)]
        scrub: bool,
        /// The anchor
        #[arg(value_parser = path)]
        path: Path,
        /// The command and its arguments
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
        #[command(flatten)]
        dial: Dial,
    },
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Mkproc {
                scrub,
                path,
                command,
                dial,
            } => interruptible(mkproc(path, scrub, command, dial)),
        }
    }
}

/// Makes a process from its command, or, if that is empty, from JSON on stdin.
async fn mkproc(
    path: Path,
    scrub: bool,
    command: Vec<OsString>,
    options: Dial,
) -> Result<u8, Failure> {
    let mut words = command.into_iter();
    let mut cmd = match words.next() {
        None => parse_cmd(&COMMAND.read().await?)?,
        Some(program) if program.is_empty() => {
            return Err(Failure::usage("the command has no program"));
        }
        Some(program) => Cmd::new(program).args(words),
    };
    cmd.scrub |= scrub;
    let client = dial(&options).await?;
    client.anchor(path).make_proc(cmd).await?;
    Ok(0)
}

/// A command as people paste it. Its fields are in the reference's order; those that the reference
/// does not have follow.
const COMMAND: Form = Form {
    what: "command",
    fields: &[
        "Env", "Dir", "Path", "Args", "Scrub", "Stdout", "Stderr", "Terminal", "Hangup", "AddEnv",
    ],
    example: r#"{"Path": "/bin/ls", "Args": ["/"]}"#,
    not_utf8: r#"write a text that is not UTF-8 as {"Base64": "…"}"#,
};

pub(super) fn parse_cmd(text: &str) -> Result<Cmd, Failure> {
    let mut cmd = Cmd::new("");
    for (name, value) in COMMAND.parse(text)? {
        match name {
            "Env" => cmd.env = field(name, value)?,
            "Dir" => cmd.dir = field(name, value)?,
            "Path" => cmd.path = field_or_default(name, value)?,
            "Args" => cmd.args = field_or_default(name, value)?,
            "Scrub" => cmd.scrub = field_or_default(name, value)?,
            "Stdout" => cmd.stdout = field_or_default(name, value)?,
            "Stderr" => cmd.stderr = field_or_default(name, value)?,
            "AddEnv" => cmd.add_env = field_or_default(name, value)?,
            "Hangup" => cmd.hangup = field_or_default(name, value)?,
            _ => cmd.terminal = field(name, value)?,
        }
    }
    match cmd.path.is_empty() {
        true => Err(COMMAND.bad("the command has no Path".to_owned())),
        false => Ok(cmd),
    }
}

#[cfg(test)]
mod tests {
    use circuit_client::{Sink, TerminalSize};

    use super::*;

    #[test]
    fn commands_as_people_paste_them() {
        let cmd = parse_cmd(
            "// list\n{\n\tPATH: '/bin/ls',\n\t\"args\": [\"/\",],\n\t\"Env\": null,\n\t\"stderr\": \"discard\",\n\t\"terminal\": {\"rows\": 24, \"Columns\": 80},\n}",
        )
        .unwrap();
        let expected = Cmd {
            args: vec!["/".into()],
            stderr: Sink::Discard,
            terminal: Some(TerminalSize {
                rows: 24,
                columns: 80,
            }),
            ..Cmd::new("/bin/ls")
        };
        assert_eq!(cmd, expected);
    }

    #[test]
    fn a_number_that_json_does_not_have_has_a_hint_of_its_own() {
        for number in ["NaN", "1e400"] {
            let failure = parse_cmd(&format!(r#"{{"Path": "a", "Env": {number}}}"#)).unwrap_err();
            let hint = "JSON has no NaN and no Infinity, and a number is below 1.8e308";
            assert_eq!(failure.hint(), Some(hint), "{number}");
        }
    }

    #[test]
    fn bad_commands_are_named() {
        let check = |text: &str, expected: &str| {
            let error = parse_cmd(text).unwrap_err();
            assert!(error.text().contains(expected), "{text}: {}", error.text());
        };
        check("", "no command on stdin");
        check("{", "not JSON");
        check("[]", "not a JSON object");
        check(&"[".repeat(200_000), "nested too deep");
        check(&" ".repeat(2 << 20), "no command");
        check("{}", "the command has no Path");
        check(r#"{"Path": ""}"#, "the command has no Path");
        check(r#"{"Path": "a", "Pth": 1}"#, r#"unknown field "Pth""#);
        check(
            r#"{"Path": "a", "path": "b"}"#,
            "the field path is given twice at line 1 column 15",
        );
        check(
            r#"{"Path": "a", "Args": [], "Path": "b"}"#,
            "the field Path is given twice at line 1 column 27",
        );
        check(
            "{\n\t\"Path\": \"a\",\n\t\"Terminal\": {\"Rows\": 1, \"Rows\": 2, \"Columns\": 3}}",
            "the field Rows is given twice at line 3 column 26",
        );
        // Pasted text does nothing to a terminal.
        let cleared = "\u{1b}[2J";
        let field = format!(r#"{{"{cleared}": 1}}"#);
        check(&field, r#"unknown field "\u{1b}[2J""#);
        for number in ["NaN", "Infinity", "-Infinity", "1e400"] {
            let wrong = "the field Env is wrong: not a finite number at line 1 column ";
            check(&format!(r#"{{"Path": "a", "Env": {number}}}"#), wrong);
            check(
                &format!(r#"{{"Path": "a", "Env": ["A=b", {number}]}}"#),
                wrong,
            );
            check(
                &format!(r#"{{"Path": "a", "Terminal": {{"Rows": {number}, "Columns": 3}}}}"#),
                "the field Rows is wrong: not a finite number",
            );
        }
        check(r#"{"Path": 3}"#, "the field Path is wrong: invalid type");
        check(r#"{"Path": "a", "Args": "b"}"#, "the field Args is wrong");
    }
}
