//! Splits a record's text into words, and says where a text is wrong: RFC 1035, section 5.1.
//!
//! Words are separated by blanks, or by line ends within parentheses; a word in quotes may hold
//! blanks; `\X` and `\DDD` stand for a byte; `;` begins a comment.

use hickory_proto::rr::Name;

/// Why a text is wrong, and at which column: in characters, from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {what}")]
pub(super) struct TextError {
    pub(super) column: usize,
    pub(super) what: String,
}

/// A word: as written, escapes and all, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    column: usize,
    pub(super) text: &'a str,
    quoted: bool,
}

/// The words of one record that are not taken yet.
#[derive(Debug)]
pub(super) struct Line<'a> {
    tokens: std::collections::VecDeque<Token<'a>>,
    end: usize,
}

impl<'a> Line<'a> {
    /// Splits a text.
    pub(super) fn read(text: &'a str) -> Result<Line<'a>, TextError> {
        let error = |column, what: &str| TextError {
            column,
            what: what.to_owned(),
        };
        let mut tokens = std::collections::VecDeque::new();
        let mut opened = None;
        let mut over = false;
        let mut chars = text.char_indices().zip(1..).peekable();
        while let Some(((start, c), column)) = chars.next() {
            match c {
                ' ' | '\t' | '\r' => continue,
                '\n' => {
                    // If anything follows, it is a second record.
                    over |= opened.is_none() && !tokens.is_empty();
                    continue;
                }
                ';' => {
                    while chars.next_if(|((_, c), _)| *c != '\n').is_some() {}
                    continue;
                }
                _ if over => return Err(error(column, "one record at a time")),
                '(' if opened.is_some() => {
                    return Err(error(column, "a parenthesis within parentheses"));
                }
                '(' => opened = Some(column),
                ')' if opened.take().is_none() => {
                    return Err(error(column, "a parenthesis that was not opened"));
                }
                ')' => (),
                '"' => {
                    let end = loop {
                        match chars.next() {
                            Some(((at, '"'), _)) => break at,
                            Some(((_, '\\'), _)) => {
                                chars.next();
                            }
                            Some(((_, '\n'), _)) | None => {
                                return Err(error(column, "a quote that is not closed"));
                            }
                            Some(_) => (),
                        }
                    };
                    if chars.peek().is_some_and(|((_, next), _)| !ends_word(*next)) {
                        let what = "a quoted word that goes on behind its quote";
                        return Err(error(column, what));
                    }
                    tokens.push_back(Token {
                        column,
                        text: &text[start + 1..end],
                        quoted: true,
                    });
                }
                _ => {
                    let mut end = start + c.len_utf8();
                    let mut escaped = c == '\\';
                    while let Some(((at, c), _)) = chars.next_if(|((_, c), _)| {
                        (escaped && *c != '\n') || !(ends_word(*c) || *c == '"')
                    }) {
                        escaped = c == '\\' && !escaped;
                        end = at + c.len_utf8();
                    }
                    tokens.push_back(Token {
                        column,
                        text: &text[start..end],
                        quoted: false,
                    });
                }
            }
        }
        if let Some(column) = opened {
            return Err(error(column, "a parenthesis that is not closed"));
        }
        let end = text.trim_end().chars().count() + 1;
        Ok(Line { tokens, end })
    }

    /// Takes the next word, which must be there.
    pub(super) fn next(&mut self, what: &str) -> Result<Token<'a>, TextError> {
        let column = self.end;
        self.tokens.pop_front().ok_or_else(|| TextError {
            column,
            what: format!("{what} is missing"),
        })
    }

    /// Takes the next word, if there is one.
    pub(super) fn maybe(&mut self) -> Option<Token<'a>> {
        self.tokens.pop_front()
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether data as RFC 3597 writes it comes next.
    pub(super) fn takes_generic(&self) -> bool {
        let next = self.tokens.front();
        next.is_some_and(|token| token.text == "\\#" && !token.quoted)
    }

    /// Checks that no word is left.
    pub(super) fn end(&self) -> Result<(), TextError> {
        match self.tokens.front() {
            Some(token) => Err(token.wrong("one word too many")),
            None => Ok(()),
        }
    }

    /// An error about the text as a whole.
    pub(super) fn at_end(&self, what: &str) -> TextError {
        TextError {
            column: self.end,
            what: what.to_owned(),
        }
    }
}

fn ends_word(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | ';' | '(' | ')')
}

impl Token<'_> {
    /// An error about this word.
    pub(super) fn wrong(&self, what: &str) -> TextError {
        // The word may be anything, so it is shown in one line and shortened.
        let mut shown = String::new();
        for c in self.text.chars().take(64) {
            match c.is_control() {
                true => shown.extend(c.escape_debug()),
                false => shown.push(c),
            }
        }
        if self.text.chars().count() > 64 {
            shown.push('…');
        }
        TextError {
            column: self.column,
            what: format!("{what}: {shown}"),
        }
    }

    /// The bytes, each with whether it was escaped.
    fn decoded(&self) -> Result<Vec<(u8, bool)>, TextError> {
        let mut bytes = Vec::with_capacity(self.text.len());
        let mut rest = self.text.as_bytes();
        while let [byte, after @ ..] = rest {
            rest = match (byte, after) {
                (b'\\', [a @ b'0'..=b'9', b, c, after @ ..])
                    if b.is_ascii_digit() && c.is_ascii_digit() =>
                {
                    let digit = |byte: &u8| u16::from(byte - b'0');
                    let value = digit(a) * 100 + digit(b) * 10 + digit(c);
                    let value = u8::try_from(value);
                    let value = value.map_err(|_| self.wrong("\\DDD above 255"))?;
                    bytes.push((value, true));
                    after
                }
                (b'\\', [b'0'..=b'9', ..]) => {
                    return Err(self.wrong("a backslash with fewer than three digits"));
                }
                (b'\\', [escaped, after @ ..]) => {
                    bytes.push((*escaped, true));
                    after
                }
                (b'\\', []) => return Err(self.wrong("a backslash at the end")),
                (byte, after) => {
                    bytes.push((*byte, false));
                    after
                }
            };
        }
        Ok(bytes)
    }

    /// The word as bytes.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, TextError> {
        Ok(self.decoded()?.into_iter().map(|(byte, _)| byte).collect())
    }

    /// The word as a string of DNS: at most 255 bytes.
    pub(super) fn string(&self) -> Result<Vec<u8>, TextError> {
        let bytes = self.bytes()?;
        match bytes.len() {
            ..=255 => Ok(bytes),
            _ => Err(self.wrong("a string of more than 255 bytes (write it as several)")),
        }
    }

    /// The word as a name, from the root.
    pub(super) fn name(&self) -> Result<Name, TextError> {
        if self.quoted {
            return Err(self.wrong("a name in quotes"));
        }
        if !self.text.is_ascii() {
            return Err(self.wrong("a name that is not ASCII (write it as xn--…)"));
        }
        if matches!(self.text, "." | "@") {
            return Ok(Name::root());
        }
        let bytes = self.decoded()?;
        let mut labels: Vec<Vec<u8>> = bytes
            .split(|byte| *byte == (b'.', false))
            .map(|label| label.iter().map(|(byte, _)| *byte).collect())
            .collect();
        // The dot at the end is the root's.
        if labels.len() > 1 && labels.last().is_some_and(Vec::is_empty) {
            labels.pop();
        }
        if labels.iter().any(Vec::is_empty) {
            return Err(self.wrong("a name with an empty part"));
        }
        if labels.iter().any(|label| label.len() > 63) {
            return Err(self.wrong("a name with a part of more than 63 bytes"));
        }
        let name = Name::from_labels(labels.iter().map(Vec::as_slice));
        name.map_err(|_| self.wrong("a name of more than 255 bytes"))
    }
}
