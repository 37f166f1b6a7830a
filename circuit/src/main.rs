//! The `circuit` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    circuit::cli::main()
}
