//! Ctrl-C, sent by the process to itself.

use generate::command::interrupt::Interrupt;
use signal_hook::consts::SIGINT;
use signal_hook::low_level::raise;
use std::process::Command;
use std::sync::atomic::Ordering;

const CHILD: &str = "LATENT_TEST_INTERRUPT_CHILD";

/// Runs this test again in a process of its own, where it takes the other branch.
fn as_child(test: &str, signals: &str) -> Option<i32> {
    let own = std::env::current_exe().expect("the test binary");
    let mut command = Command::new(own);
    command.args(["--exact", test]).env(CHILD, signals);
    command.output().expect("it starts").status.code()
}

#[test]
fn the_first_stops_and_the_second_ends() {
    let Ok(signals) = std::env::var(CHILD) else {
        let test = "the_first_stops_and_the_second_ends";
        assert_eq!(as_child(test, "idle"), Some(130), "nothing runs: one is enough");
        assert_eq!(as_child(test, "first"), Some(0), "the first only sets the flag");
        assert_eq!(as_child(test, "second"), Some(130));
        return;
    };
    let interrupt = Interrupt::install().expect("handlers can be set");
    if signals == "idle" {
        raise(SIGINT).expect("a signal");
        unreachable!("the process goes on after Ctrl-C");
    }
    for _ in 0..2 {
        let flag = interrupt.generating();
        assert!(!flag.load(Ordering::Relaxed));
        raise(SIGINT).expect("a signal");
        assert!(flag.load(Ordering::Relaxed));
    }
    if signals == "second" {
        raise(SIGINT).expect("a signal");
        unreachable!("the process goes on after the second Ctrl-C");
    }
}
