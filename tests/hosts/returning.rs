//! Servers that were killed and come back, as themselves or as others.

use std::time::{Duration, Instant};

use super::{DISCOVER, REMOVAL, circuit_on, hosts, logged, measured, on_hosts, removed, whole};
use super::{said, work_together};
use crate::support::{Server, eventually_within};

#[test]
fn with_var_a_killed_server_is_back_as_itself_at_once() {
    on_hosts(|| {
        let [a, b, c] = hosts();
        let others = circuit_on(&[&a, &b], DISCOVER);
        let others = [&others[0], &others[1]];
        let line = format!("-a 10.7.0.3:7003 -var state -j {}", others[0].url());
        let mut first = c.start(&line);
        whole(&[others[0], others[1], &first]);
        // There are transfer connections to it.
        work_together(&[others[0], &first, others[1]]);
        let before = logged(&others);
        first.kill();
        let begin = Instant::now();
        let again = c.start(&line);
        measured("with -var: it runs again after", begin.elapsed());
        assert_eq!(again.id(), first.id());
        assert_ne!(again.url(), first.url(), "another process");
        let text = format!("joined: {} {}", again.id(), again.url());
        let (_, silent) = said(&others, &before, &text, Duration::from_secs(6));
        measured("with -var: all know of its new life after", begin.elapsed());
        assert!(silent.is_empty(), "{silent:?}");
        for server in others {
            eventually_within(Duration::from_secs(2), "it is reached", || {
                let output = server.circuit("peek /h3").any_stdout().any_stderr();
                let output = output.unchecked();
                let reached =
                    output.status.success() && output.json()["Addr"] == again.url().to_string();
                reached.then_some(())
            });
        }
        measured("with -var: all have reached it after", begin.elapsed());
        let all = [others[0], others[1], &again];
        Server::see_each_other(&all);
        work_together(&all);
        // The life before is not mourned later.
        let before = logged(&all);
        let (_, silent) = said(&all, &before, "left: ", Duration::from_secs(7));
        assert_eq!(silent.len(), 3, "{}", others[0].log());
        Server::see_each_other(&all);
    });
}

#[test]
fn without_var_a_killed_server_comes_back_as_another() {
    on_hosts(|| {
        let [a, b, c] = hosts();
        let others = circuit_on(&[&a, &b], DISCOVER);
        let others = [&others[0], &others[1]];
        let line = format!("-a 10.7.0.3:7003 -j {}", others[0].url());
        let mut first = c.start(&line);
        whole(&[others[0], others[1], &first]);
        let before = logged(&others);
        first.kill();
        let begin = Instant::now();
        let again = c.start(&line);
        assert_ne!(again.id(), first.id());
        let (_, silent) = said(
            &others,
            &before,
            &format!("joined: {}", again.id()),
            REMOVAL,
        );
        assert!(silent.is_empty(), "{silent:?}");
        measured("without -var: the new one is known after", begin.elapsed());
        let left = REMOVAL.saturating_sub(begin.elapsed());
        removed(&others, &before, &first, left);
        measured("without -var: the old one is gone after", begin.elapsed());
        let all = [others[0], others[1], &again];
        Server::see_each_other(&all);
        work_together(&all);
    });
}
