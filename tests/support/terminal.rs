//! A terminal that a test sits at.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::capture::Capture;

/// A pseudo-terminal: the test has the keyboard and the screen, a command the other end.
pub(crate) struct Terminal {
    keyboard: File,
    end: OwnedFd,
    screen: Capture,
}

impl Terminal {
    pub(crate) fn new(rows: u16, columns: u16) -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let path = Path::new(OsStr::from_bytes(name.as_bytes()));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let end = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        let keyboard = File::from(master);
        let terminal = Terminal {
            screen: Capture::of(keyboard.try_clone().unwrap()),
            keyboard,
            end,
        };
        terminal.resize(rows, columns);
        terminal
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.end, size).unwrap();
    }

    /// The end that a command gets.
    pub(crate) fn end(&self) -> Stdio {
        self.end.try_clone().unwrap().into()
    }

    /// All that the screen has shown.
    pub(crate) fn shown(&self) -> &Capture {
        &self.screen
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Whether somebody has set it to raw mode.
    pub(crate) fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.end).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}
