//! Containers: `mkdkr`. What is done with them afterwards is done as with processes.

use circuit_client::{Path, Run};

use super::command::Dial;
use super::dial::dial;
use super::error::{Failure, say};
use super::object::{Form, field, field_or_default};

/// A container as people paste it; its fields in the reference's order, then ours.
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
};

/// Makes a container from JSON on stdin.
pub(super) async fn mkdkr(path: Path, scrub: bool, options: Dial) -> Result<u8, Failure> {
    let mut run = parse(&CONTAINER.read().await?)?;
    run.scrub |= scrub;
    let client = dial(&options).await?;
    let show = |line: &str| say(line.trim_end());
    client.anchor(path).make_docker_showing(run, show).await?;
    Ok(0)
}

fn parse(text: &str) -> Result<Run, Failure> {
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
            r#"{"Image": "a", "Pull": "often"}"#,
            "the field Pull is wrong: unknown variant `often`",
        );
        check(r#"{"Image": "a", "Ports": 80}"#, "the field Ports is wrong");
    }
}
