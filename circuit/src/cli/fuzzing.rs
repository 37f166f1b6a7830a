//! The bodies of the fuzz targets of what people paste.

use circuit_client::Run;

use super::error::Failure;

/// Reads a text as a command, which its own JSON gives again.
pub(crate) fn command(text: &str) {
    match super::process::parse_cmd(text) {
        Ok(cmd) => {
            assert!(!cmd.path.is_empty());
            let json = serde_json::to_string(&cmd).expect("a command is JSON");
            let again = super::process::parse_cmd(&json);
            assert_eq!(again.expect("it was read"), cmd, "{json}");
        }
        Err(error) => can_be_shown(&error),
    }
}

/// Reads a text as a container, which its own JSON gives again.
pub(crate) fn container(text: &str) -> Option<Run> {
    match super::container::parse(text) {
        Ok(run) => {
            assert!(!run.image.is_empty());
            let json = serde_json::to_string(&run).expect("a container is JSON");
            let again = super::container::parse(&json);
            assert_eq!(again.expect("it was read"), run, "{json}");
            Some(run)
        }
        Err(error) => {
            can_be_shown(&error);
            None
        }
    }
}

fn can_be_shown(error: &Failure) {
    let text = error.text();
    let is_control = |c: char| c.is_control();
    assert!(!text.is_empty() && !text.contains(is_control), "{text:?}");
}
