//! Text from elsewhere, made fit for a line of a log or of a terminal.

/// The text without control characters: what somebody else said stays on its line, and does
/// nothing to a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_stays_on_its_line() {
        let said = "a\n2026-01-01 INFO forged\u{1b}]0;title\u{7}";
        assert_eq!(
            one_line(said),
            "a\\n2026-01-01 INFO forged\\u{1b}]0;title\\u{7}"
        );
        assert_eq!(one_line("größer …"), "größer …");
    }
}
