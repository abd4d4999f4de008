//! The soak: what is deployed goes on for as long as it is asked to, whatever it is told. Memory,
//! files and threads stay what they were, and every token is that of a fresh run.
//!
//! Five seconds; an hour with LATENTC_LONG_TESTS, LATENTC_SOAK_SECONDS=N as long as it says.
//! LATENTC_SOAK_SEED chooses what is asked: 1, in an hour by the clock.
#![allow(clippy::unwrap_used)]

mod batches;
mod chat;
mod conversation;
mod dice;
mod held;
mod lines;
#[path = "../support/mod.rs"]
mod support;

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

fn long() -> bool {
    std::env::var_os("LATENTC_LONG_TESTS").is_some()
}

/// What chooses all that is asked.
fn seed() -> u64 {
    let clock = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    number("LATENTC_SOAK_SEED").unwrap_or_else(|| if long() { clock() } else { 1 })
}

/// A soak under way.
struct Soak {
    name: &'static str,
    seed: u64,
    length: Duration,
    begun: Instant,
    said: Instant,
}

impl Soak {
    fn begin(name: &'static str, seed: u64) -> Soak {
        let seconds = number("LATENTC_SOAK_SECONDS").unwrap_or(if long() { 3600 } else { 5 });
        let now = Instant::now();
        Soak { name, seed, length: Duration::from_secs(seconds), begun: now, said: now }
    }

    /// The part of its time that is over.
    fn part(&self) -> f64 {
        self.begun.elapsed().as_secs_f64() / self.length.as_secs_f64().max(1e-3)
    }

    /// Says where it stands, once a minute.
    fn tell(&mut self, how: &dyn Fn() -> String) {
        if self.said.elapsed() >= Duration::from_secs(60) {
            self.said = Instant::now();
            self.say(&how());
        }
    }

    /// Says something: in an hour at once, else if it fails.
    fn say(&self, what: &str) {
        let at = self.begun.elapsed().as_secs();
        let line = format!("soak of {}, seed {}, {at} s: {what}", self.name, self.seed);
        if long() {
            let _ = writeln!(std::io::stderr(), "{line}");
        } else {
            eprintln!("{line}");
        }
    }
}
