//! Help, versions, completions, manual pages, and usage that is wrong.

use std::fs;

use crate::support::Home;

const COMMANDS: [&str; 36] = [
    "start",
    "keygen",
    "ls",
    "peek",
    "scrub",
    "mkproc",
    "mkdkr",
    "stdin",
    "stdout",
    "stderr",
    "wait",
    "waitall",
    "signal",
    "mkchan",
    "send",
    "recv",
    "close",
    "mk@join",
    "mk@leave",
    "mk@svc",
    "mkdns",
    "set",
    "unset",
    "mksvc",
    "up",
    "down",
    "restart",
    "reload",
    "scale",
    "logs",
    "run",
    "join",
    "suicide",
    "stk",
    "completions",
    "man",
];

#[test]
fn help_is_data() {
    let home = Home::new();
    let help = home.circuit("help").any_stdout().run();
    for command in COMMANDS {
        assert!(
            help.stdout().contains(&format!("\n  {command} ")),
            "{command}"
        );
        let own = home.circuit(format!("help {command}")).any_stdout().run();
        let usage = format!("Usage: circuit {command}");
        assert!(own.stdout().contains(&usage), "{}", own.stdout());
        for flag in ["--help", "-help", "-h"] {
            let same = home.circuit(format!("{command} {flag}")).any_stdout().run();
            assert!(same.stdout().contains(&usage), "{command} {flag}");
        }
    }
    for flag in ["--help", "-help", "-h"] {
        home.circuit(flag).stdout(help.stdout()).run();
    }
    for flag in ["--version", "-version", "-V"] {
        let version = format!("circuit {}\n", env!("CARGO_PKG_VERSION"));
        home.circuit(flag).stdout(version).run();
    }
}

#[test]
fn help_names_every_field_of_what_is_made() {
    let home = Home::new();
    let one = home.start("one");
    for command in ["mkproc", "mkdkr"] {
        let refused = one
            .circuit(format!("{command} /one/a"))
            .stdin(r#"{"Path": "true", "Image": "busybox", "Frob": 1}"#)
            .status(1)
            .any_stderr()
            .run();
        let (_, fields) = refused.stderr().split_once("there are ").unwrap();
        let help = home.circuit(format!("help {command}")).any_stdout().run();
        for field in fields.lines().next().unwrap().split(", ") {
            assert!(help.stdout().contains(field), "{command}: {field}");
        }
    }
}

#[test]
fn wrong_usage_is_one_line_and_a_hint() {
    let home = Home::new();
    let check = |line: &str, error: &str, hint: &str| {
        home.circuit(line)
            .status(2)
            .stderr(format!("circuit: {error}\nhint: {hint}\n"))
            .run();
    };
    check(
        "frob",
        "unrecognized subcommand 'frob'",
        "`circuit help` lists them",
    );
    check(
        "peeek",
        "unrecognized subcommand 'peeek'",
        "a similar subcommand exists: 'peek'",
    );
    check(
        "help frob",
        "unrecognized subcommand 'frob'",
        "`circuit help` lists them",
    );
    check(
        "peek",
        "the following required arguments were not provided: <PATH>",
        "<PATH>: the anchor",
    );
    check(
        "signal TERM",
        "the following required arguments were not provided: <PATH>",
        "<PATH>: the process, container, service or slot",
    );
    for line in ["join circuit://a:7", "ls circuit://a:7", "run unix:/a -- b"] {
        let output = home.circuit(line).status(2).any_stderr().run();
        let said = "a path comes first, as in /SERVER/name; this is a server's URL, which -d takes";
        assert!(output.stderr().contains(said), "{}", output.stderr());
    }
    check(
        "peek /a /b",
        "unexpected argument '/b' found",
        "`circuit help peek` lists its arguments",
    );
    check(
        "ls -frob",
        "unexpected argument '-frob' found",
        "`circuit help ls` lists its flags",
    );
    check(
        "ls -discoverr 239.1.1.1:1",
        "unexpected argument '-discoverr' found",
        "a similar argument exists: '-discover'",
    );
    let error = |line: &str, error: &str| {
        home.circuit(line)
            .status(2)
            .stderr(format!("circuit: {error}\n"))
            .run();
    };
    error(
        "ls -timeout 0 /",
        "invalid value '0' for '-timeout <SECONDS>': not a number of seconds above 0, and at most \
         1000000000",
    );
    error(
        "ls -timeout soon /",
        "invalid value 'soon' for '-timeout <SECONDS>': not a number of seconds above 0, and at most \
         1000000000",
    );
    error(
        "ls -timeout 1e300 /",
        "invalid value '1e300' for '-timeout <SECONDS>': not a number of seconds above 0, and at \
         most 1000000000",
    );
    error(
        "recv -count 99999999999999999999 /one/c",
        "invalid value '99999999999999999999' for '-count <N>': not a number of messages from 0 \
         to 18446744073709551615",
    );
    error(
        "ls -discover 239.1.1.1 /",
        "invalid value '239.1.1.1' for '-discover <GROUP:PORT>': not GROUP:PORT, as in \
         228.8.8.8:7711",
    );
    error(
        "ls -discover 239.1.1.1:0 /",
        "invalid value '239.1.1.1:0' for '-discover <GROUP:PORT>': the port cannot be 0",
    );
    error(
        "ls -d",
        "a value is required for '-d <URL>' but none was supplied",
    );
    error(
        "ls -d circuit://127.0.0.1:9/1/Q1 /",
        "invalid value 'circuit://127.0.0.1:9/1/Q1' for '-d <URL>': the URL must end in /PID/Q \
         and 16 hexadecimal digits, or in the port: circuit://127.0.0.1:9/1/Q1",
    );
    error(
        "ls -d circuit://127.0.0.1 /",
        "invalid value 'circuit://127.0.0.1' for '-d <URL>': no valid port in the URL: \
         circuit://127.0.0.1",
    );
    home.circuit("ls /")
        .env("CIRCUIT_DISCOVER", "here")
        .status(2)
        .stderr("circuit: ls: CIRCUIT_DISCOVER=here: not GROUP:PORT, as in 228.8.8.8:7711\n")
        .run();
}

#[test]
fn no_command_at_all_shows_the_help() {
    let home = Home::new();
    let help = home.circuit("help").any_stdout().run();
    home.circuit("").status(2).stderr(help.stdout()).run();
}

#[test]
fn completions_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = home
            .circuit(format!("completions {shell}"))
            .any_stdout()
            .run();
        assert!(script.stdout().contains("mkproc"), "{shell}");
    }
    home.circuit("completions csh")
        .status(2)
        .stderr(
            "circuit: invalid value 'csh' for '<SHELL>' [possible values: bash, elvish, fish, \
             powershell, zsh]\nhint: a similar value exists: 'zsh'\n",
        )
        .run();
}

#[test]
fn a_manual_page_for_every_command() {
    let home = Home::new();
    fs::create_dir(home.file("man")).unwrap();
    home.circuit("man man").run();
    for command in COMMANDS {
        let page = home.file(&format!("man/circuit-{command}.1"));
        assert!(
            fs::read_to_string(&page).unwrap().contains(".TH"),
            "{command}"
        );
    }
    assert!(home.file("man/circuit.1").exists());
    home.circuit("man no/such/place")
        .status(1)
        .stderr(
            "circuit: man: cannot write the manual pages to no/such/place: no such file or \
             directory\n",
        )
        .run();
}

#[test]
fn a_closed_stdout_is_no_error() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "true"}"#);
    for line in [
        "ls /...",
        "ls -l /",
        "peek /one",
        "wait /one/p",
        "stk /one",
        "stdout /one/p",
    ] {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let end = one.circuit(line).spawn_into(write).finish();
        assert_eq!((end.status.code(), end.stderr()), (Some(0), ""), "{line}");
    }
    for line in ["keygen", "help", "help ls", "completions bash", "--version"] {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let end = home.circuit(line).spawn_into(write).finish();
        assert_eq!((end.status.code(), end.stderr()), (Some(0), ""), "{line}");
    }
}

#[test]
fn a_stdout_that_is_full_is_an_error() {
    let home = Home::new();
    for line in ["keygen", "help", "ls -help", "-version", "completions bash"] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let end = home.circuit(line).spawn_into(full.unwrap()).finish();
        let command = match line {
            "keygen" => "keygen: ",
            "completions bash" => "completions: ",
            _ => "",
        };
        assert_eq!(
            (end.status.code(), end.stderr()),
            (
                Some(1),
                &*format!("circuit: {command}cannot write to stdout: no space left on device\n")
            ),
            "{line}"
        );
    }
}

#[test]
fn very_long_input_is_shown_in_part() {
    let home = Home::new();
    let one = home.start("one");
    let long = "x".repeat(100_000);
    let deep = "/one".to_owned() + &format!("/{}", "y".repeat(255)).repeat(63);
    for line in [
        long.clone(),
        format!("-{long}"),
        format!("peek {long}"),
        format!("peek /one/{long}"),
        format!("peek /one -d {long}"),
        format!("peek /one -hmac {long}"),
        format!("peek /one {long}"),
        format!("ls -timeout {long}"),
        format!("start -name {long}"),
        format!("start -if {long}"),
        format!("start -a {long}"),
        format!("start -advertise {long}"),
        format!("start -var {long}"),
        format!("keygen {long}"),
        format!("signal {long} /one/a"),
        format!("mkchan /one/a {long}"),
        format!("mkdns /one/a {long}"),
        format!("run {long} -- true"),
        format!("run one -- {long}"),
        format!("completions {long}"),
        format!("man {long}"),
        format!("wait {deep}"),
    ] {
        let output = one.circuit(&line).unchecked();
        let said = output.stderr();
        let end = &line[line.len() - 20..];
        assert!(
            said.starts_with("circuit: ") && said.len() < 3000,
            "{} bytes for the line that ends in {end}: {said:.200}",
            said.len()
        );
        assert_ne!(output.status.code(), Some(0), "the line that ends in {end}");
    }
}
