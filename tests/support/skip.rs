//! Tests that this machine cannot run.

/// Says on stderr that a test, or the rest of it, is not run, because the machine lacks this.
///
/// # Panics
///
/// With `CIRCUIT_TESTS=all`, which `.ci/run` sets: where everything is to be tested, a test that
/// cannot run has failed.
pub(crate) fn skipped(needs: &str) {
    eprintln!("skipped: needs {needs}");
    let all = std::env::var_os("CIRCUIT_TESTS").is_some_and(|which| which == "all");
    assert!(!all, "CIRCUIT_TESTS=all, and this test needs {needs}");
}
