//! Names signals for callers. Which signals there are, is the server's system's to say.

use std::borrow::Cow;
use std::fmt;

/// A signal for a process: one of the constants here, or any that the server's system has, by its
/// name (`"TERM"`, `"SIGTERM"`, in any case) or its number.
///
/// ```
/// use circuit_client::Signal;
/// assert_eq!(Signal::from("USR2"), Signal::USR2);
/// assert_eq!(Signal::from(34).to_string(), "34");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Signal(Cow<'static, str>);

macro_rules! signals {
    ($($(#[$doc:meta])* $NAME:ident,)*) => {
        impl Signal {
            $($(#[$doc])* pub const $NAME: Signal = Signal(Cow::Borrowed(stringify!($NAME)));)*
        }
    };
}

signals! {
    /// The terminal closed; many servers read their configuration again.
    HUP,
    /// Interrupt, as Control-C does.
    INT,
    /// Quit with a core dump, as Control-\ does.
    QUIT,
    /// End at once; it cannot be caught.
    KILL,
    /// For the program's own purposes.
    USR1,
    /// For the program's own purposes.
    USR2,
    /// Nobody reads what it writes.
    PIPE,
    /// End in order.
    TERM,
    /// Stop; it cannot be caught.
    STOP,
    /// Go on after a stop.
    CONT,
}

impl From<&str> for Signal {
    fn from(name: &str) -> Signal {
        Signal(Cow::Owned(name.to_owned()))
    }
}

impl From<String> for Signal {
    fn from(name: String) -> Signal {
        Signal(Cow::Owned(name))
    }
}

impl From<i32> for Signal {
    fn from(number: i32) -> Signal {
        Signal(Cow::Owned(number.to_string()))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
