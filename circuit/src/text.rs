//! Text from elsewhere, made fit for a line of a log or of a terminal.

/// The text without control characters: what somebody else said stays on its line, and does
/// nothing to a terminal.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}
