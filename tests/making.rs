//! `mkproc`, `peek` and `scrub`: which commands make a process, and that a failed one leaves
//! nothing.

use std::fs;

use serde_json::json;

use crate::support::{Home, Server, sh};

/// Makes a process from this text, and gives what it prints.
fn printed_by(server: &Server, command: impl Into<Vec<u8>>) -> String {
    server.make("/one/p", command);
    let output = server.circuit("stdout /one/p").any_stdout().run();
    server.circuit("scrub /one/p").run();
    output.stdout().to_owned()
}

#[test]
fn commands_are_taken_as_people_paste_them() {
    let home = Home::new();
    let one = home.start("one");
    let check = |command: &str, expected: &str| {
        assert_eq!(printed_by(&one, command), expected, "{command}");
    };
    check(r#"{"Path": "/bin/echo", "Args": ["a", "b c"]}"#, "a b c\n");
    check(
        "{\n\t\"Path\": \"/bin/echo\", \n\t\"Args\":[\"x\"],\n}\n",
        "x\n",
    );
    check(r#"{"path": "echo", "ARGS": ["any", "case"]}"#, "any case\n");
    check("// why\n{Path: 'echo', /* what */ Args: ['q',],}", "q\n");
    check(r#"{"Path": "echo"}"#, "\n");
    check(
        r#"{"Path": "echo", "Args": null, "Env": null, "Dir": null}"#,
        "\n",
    );
    check(
        r#"{"Path": "echo", "Args": ["\u00e9", "\ud83d\ude00"]}"#,
        "é 😀\n",
    );
}

#[test]
fn the_environment_is_the_servers_unless_it_is_given() {
    let home = Home::new();
    let one = home
        .circuit("start -name one")
        .env("COLOUR", "of the server")
        .serve();
    let print = "echo \"$COLOUR,$OTHER\"";
    let with = |env: serde_json::Value| {
        json!({"Path": "/bin/sh", "Args": ["-c", print], "Env": env}).to_string()
    };
    assert_eq!(printed_by(&one, with(json!(null))), "of the server,\n");
    assert_eq!(printed_by(&one, with(json!(["OTHER=x=y"]))), ",x=y\n");
    assert_eq!(printed_by(&one, with(json!([]))), ",\n");
    // A program without a slash is looked for in the PATH that is given.
    home.write("bin-greet", "#!/bin/sh\necho greetings\n");
    fs::create_dir(home.file("bin")).unwrap();
    fs::rename(home.file("bin-greet"), home.file("bin/greet")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(home.file("bin/greet"), mode).unwrap();
    let path = format!("PATH={}", home.file("bin").display());
    let greet = json!({"Path": "greet", "Env": [path]}).to_string();
    assert_eq!(printed_by(&one, greet), "greetings\n");
}

#[test]
fn the_directory_is_the_servers_unless_it_is_given() {
    let home = Home::new();
    let one = home.start("one");
    let here = format!("{}\n", home.path().canonicalize().unwrap().display());
    assert_eq!(printed_by(&one, r#"{"Path": "pwd"}"#), here);
    assert_eq!(printed_by(&one, r#"{"Path": "pwd", "Dir": ""}"#), here);
    assert_eq!(printed_by(&one, r#"{"Path": "pwd", "Dir": "/"}"#), "/\n");
}

#[test]
fn outputs_go_where_they_are_sent() {
    let home = Home::new();
    let one = home.start("one");
    let file = home.write("out", "before\n");
    let command = |stdout: &str, stderr: &str| {
        json!({
            "Path": "/bin/sh",
            "Args": ["-c", "echo out; echo err >&2"],
            "Stdout": stdout,
            "Stderr": stderr,
        })
        .to_string()
    };
    one.make("/one/a", command(file.to_str().unwrap(), "discard"));
    one.circuit("wait /one/a").any_stdout().run();
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\nout\n");
    let said = format!(
        "circuit: stdout /one/a: it goes to the file {}\n",
        file.display()
    );
    one.circuit("stdout /one/a").status(1).stderr(said).run();
    one.circuit("stderr /one/a").run();
    assert_eq!(one.peek("/one/a")["Stdout"]["Ended"], true);
    one.make("/one/b", command("pipe", "relative"));
    one.circuit("stdout /one/b").stdout("out\n").run();
    one.circuit("wait /one/b").any_stdout().run();
    assert_eq!(fs::read_to_string(home.file("relative")).unwrap(), "err\n");
    // Both write to the same file, and neither overwrites the other.
    one.make("/one/c", command("both", "both"));
    one.circuit("wait /one/c").any_stdout().run();
    assert_eq!(fs::read_to_string(home.file("both")).unwrap(), "out\nerr\n");
}

#[test]
fn a_process_may_have_a_terminal() {
    let home = Home::new();
    let one = home.start("one");
    let command = json!({
        "Path": "/bin/sh",
        "Args": ["-c", "stty size; test -t 0 && test -t 1 && test -t 2 && echo terminal >&2"],
        "Terminal": {"Rows": 7, "Columns": 77},
    });
    one.make("/one/p", command.to_string());
    one.circuit("stdout /one/p")
        .stdout("7 77\r\nterminal\r\n")
        .run();
    one.circuit("stderr /one/p").run();
    one.circuit("wait /one/p").any_stdout().run();
}

#[test]
fn input_that_is_no_command_is_refused_and_makes_nothing() {
    let home = Home::new();
    let one = home.start("one");
    let example = "hint: for example {\"Path\": \"/bin/ls\", \"Args\": [\"/\"]}\n";
    let check = |command: &str, error: &str| {
        one.circuit("mkproc /one/p")
            .stdin(command)
            .status(1)
            .stderr(format!("circuit: mkproc: {error}\n"))
            .run();
    };
    let with_example = |command, error| check(command, &format!("{error}\n{}", example.trim_end()));
    with_example("", "no command on stdin: JSON is expected there");
    with_example(
        "{",
        "the command is not JSON: EOF parsing object at line 1 column 1",
    );
    with_example("{}", "the command has no Path");
    with_example("[]", "the command is not a JSON object");
    with_example(r#"{"Path": ""}"#, "the command has no Path");
    with_example(
        r#"{"Path": "a" "Args": []}"#,
        "the command is not JSON: expected comma at line 1 column 14",
    );
    with_example(
        r#"{"Path": "ls", "Pth": "ls"}"#,
        "unknown field \"Pth\": there are Env, Dir, Path, Args, Scrub, Stdout, Stderr, Terminal, Hangup, AddEnv",
    );
    with_example(
        r#"{"Path": "a", "path": "b"}"#,
        "the field path is given twice at line 1 column 15",
    );
    check(
        r#"{"Path": 3}"#,
        "the field Path is wrong: invalid type: integer `3`, expected a string or {\"Base64\": \"…\"}",
    );
    check(
        r#"{"Path": "ls", "Args": "/"}"#,
        "the field Args is wrong: invalid type: string \"/\", expected a sequence",
    );
    check(
        r#"{"Path": "ls", "Terminal": {"Rows": 1}}"#,
        "the field Terminal is wrong: missing field `Columns`",
    );
    assert!(one.ls("/one").is_empty());
}

#[test]
fn a_program_that_cannot_be_executed_leaves_nothing_but_the_systems_reason() {
    let home = Home::new();
    let one = home.start("one");
    home.write("text", "no program\n");
    home.write("orphan", "#!/no/such/interpreter\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(home.file("orphan"), mode).unwrap();
    let place = format!("(exec on one at {})", one.address());
    let check = |command: serde_json::Value, error: &str| {
        one.circuit("mkproc /one/p")
            .stdin(command.to_string())
            .status(1)
            .stderr(format!("circuit: mkproc /one/p: {error}\n"))
            .run();
        one.circuit("peek /one/p").stdout("null\n").run();
    };
    check(
        json!({"Path": "/no/such"}),
        &format!("no such file or directory: /no/such {place}"),
    );
    check(
        json!({"Path": "no-such-program"}),
        &format!("no such program in PATH: no-such-program {place}"),
    );
    check(
        json!({"Path": "/"}),
        &format!("permission denied: / {place}"),
    );
    check(
        json!({"Path": "./text"}),
        &format!("permission denied: ./text {place}"),
    );
    check(
        json!({"Path": "./orphan"}),
        &format!("its interpreter does not exist: ./orphan {place}"),
    );
    check(
        json!({"Path": "ls", "Dir": "/no/dir"}),
        &format!("no such file or directory: /no/dir (Dir) {place}"),
    );
    check(
        json!({"Path": "ls", "Dir": "text"}),
        &format!("not a directory: text (Dir) {place}"),
    );
    check(
        json!({"Path": "ls", "Stdout": "/no/dir/file"}),
        &format!("no such file or directory: /no/dir/file (Stdout) {place}"),
    );
    check(
        json!({"Path": "ls", "Env": ["A=1", "secret"]}),
        "entry 2 of Env is not NAME=value",
    );
    check(
        json!({"Path": "ls", "AddEnv": ["=secret"]}),
        "entry 1 of AddEnv is not NAME=value",
    );
    check(
        json!({"Path": "ls", "AddEnv": ["A=1"], "Env": []}),
        "Env and AddEnv are both given: leave one of them out",
    );
    check(
        json!({"Path": "ls", "Args": ["a\0b"]}),
        "the command holds a zero byte",
    );
    assert!(one.ls("/one").is_empty());
    assert_eq!(one.peek("/one")["Elements"], 0);
}

#[test]
fn a_place_that_is_taken_stays_as_it_is() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let hint = "hint: `circuit peek` shows what is there, `circuit scrub` removes it\n";
    one.circuit("mkproc /one/p")
        .stdin(sh("exit 0"))
        .status(1)
        .stderr(format!(
            "circuit: mkproc /one/p: occupied by a proc\n{hint}"
        ))
        .run();
    assert_eq!(one.peek("/one/p")["Cmd"]["Path"], "cat");
    one.circuit("mkproc /one")
        .stdin(sh("exit 0"))
        .status(1)
        .stderr(
            "circuit: mkproc /one: occupied by a server\n\
             hint: name an anchor below the server's own, as in /X…/name\n"
                .to_string(),
        )
        .run();
    one.circuit("mkproc /")
        .stdin(sh("exit 0"))
        .status(1)
        .stderr("circuit: mkproc /: the root holds no element: name a server, as in /X…/name\n")
        .run();
}

#[test]
fn a_missing_element_and_one_of_another_kind_are_named() {
    let home = Home::new();
    let one = home.start("one");
    for command in ["stdin", "stdout", "stderr", "wait", "signal TERM"] {
        let name = command.split(' ').next().unwrap();
        one.circuit(format!("{command} /one/p"))
            .status(1)
            .stderr(format!("circuit: {name} /one/p: nothing there\n"))
            .run();
        one.circuit(format!("{command} /one"))
            .status(1)
            .stderr(format!(
                "circuit: {name} /one: a server does not take {name}\n"
            ))
            .run();
        one.circuit(format!("{command} /"))
            .status(1)
            .stderr(format!(
                "circuit: {name} /: the root holds no element: name a server, as in /X…/name\n"
            ))
            .run();
    }
    one.make("/one/p", sh("exit 0"));
    for command in ["suicide", "stk"] {
        one.circuit(format!("{command} /one/p"))
            .status(1)
            .stderr(format!(
                "circuit: {command} /one/p: a proc does not take {command}\n"
            ))
            .run();
    }
    one.circuit("peek /").stdout("null\n").run();
    one.circuit("peek /one/q").stdout("null\n").run();
}

#[test]
fn scrub_forgets_elements_and_nothing_else() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("scrub /one/p")
        .status(1)
        .stderr("circuit: scrub /one/p: nothing there\n")
        .run();
    one.circuit("scrub /one")
        .status(1)
        .stderr(
            "circuit: scrub /one: a server's own anchor holds the server for as long as it lives\n",
        )
        .run();
    one.circuit("scrub /")
        .status(1)
        .stderr("circuit: scrub /: the root holds no element: name a server, as in /X…/name\n")
        .run();
    one.make("/one/p/q", r#"{"Path": "cat"}"#);
    one.circuit("scrub /one/p")
        .status(1)
        .stderr("circuit: scrub /one/p: nothing there\n")
        .run();
    one.circuit("scrub /one/p/q").run();
    one.circuit("scrub /one/p/q")
        .status(1)
        .stderr("circuit: scrub /one/p/q: nothing there\n")
        .run();
}

#[test]
fn a_terminal_takes_the_place_of_the_outputs() {
    let home = Home::new();
    let one = home.start("one");
    let terminal = r#""Terminal": {"Rows": 24, "Columns": 80}"#;
    one.circuit("mkproc /one/p")
        .stdin(format!(
            r#"{{"Path": "true", "Stderr": "discard", {terminal}}}"#
        ))
        .status(1)
        .stderr("circuit: mkproc /one/p: Stderr goes to the Terminal: leave one of them out\n")
        .run();
    assert!(one.ls("/one").is_empty());
}

#[test]
fn what_is_not_made_leaves_no_more_than_an_empty_file() {
    let home = Home::new();
    let one = home.start("one");
    let file = home.file("out");
    let check = |rest: &str| {
        let json = format!(r#"{{"Stdout": {file:?}, {rest}}}"#);
        one.circuit("mkproc /one/p")
            .stdin(json)
            .status(1)
            .any_stderr()
            .run();
        assert_eq!(std::fs::read(&file).unwrap(), b"", "{rest}");
        std::fs::remove_file(&file).unwrap();
        assert!(one.ls("/one").is_empty(), "{rest}");
    };
    check(r#""Path": "/no/such""#);
    check(r#""Path": "/bin/ls", "Dir": "/no/such""#);
    check(r#""Path": "/bin/ls", "Stderr": "/no/such/file""#);
    std::fs::write(&file, "kept\n").unwrap();
    let json = format!(r#"{{"Stdout": {file:?}, "Path": "/no/such"}}"#);
    one.circuit("mkproc /one/p")
        .stdin(json)
        .status(1)
        .any_stderr()
        .run();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept\n");
}

#[test]
fn an_error_that_quotes_input_stays_on_one_line() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("mkproc /one/p")
        .stdin(r#"{"Path": "/no/a\nb\u001b[31m"}"#)
        .status(1)
        .stderr(format!(
            "circuit: mkproc /one/p: no such file or directory: /no/a\\nb\\u{{1b}}[31m (exec on one at {})\n",
            one.address()
        ))
        .run();
}
