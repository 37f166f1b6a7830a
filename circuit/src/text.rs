//! Text from elsewhere, made fit for a line of a log or of a terminal.

use std::borrow::Cow;

/// The text without control characters: another's words stay on their line, and do nothing to a
/// terminal.
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

/// The text, without its middle if it is longer than so many bytes: what comes first and last says
/// most.
pub(crate) fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    if text.len() <= longest {
        return text.into();
    }
    let half = longest / 2;
    let boundary = |at: &usize| text.is_char_boundary(*at);
    // The ends of the text are boundaries.
    let head = (0..=half).rev().find(boundary).unwrap_or(0);
    let tail = (text.len() - half..text.len()).find(boundary);
    let tail = tail.unwrap_or(text.len());
    format!("{}…{}", &text[..head], &text[tail..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_in_its_middle() {
        assert_eq!(cut("größer", 8), "größer");
        assert_eq!(cut("größer", 6), "gr…er");
        assert_eq!(cut("aaaabbbb", 4), "aa…bb");
    }

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
