//! Long work on a terminal: a bar; elsewhere: a line for each phase.

use crate::output;
use compiler::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Instant;

/// Shows a compilation on standard error.
pub struct Shown {
    bar: Option<ProgressBar>,
    phase: Option<(String, Instant)>,
    terminal: bool,
    quiet: bool,
}

impl Shown {
    /// Nothing yet; `quiet` shows nothing at all.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Shown { bar: None, phase: None, terminal, quiet }
    }

    /// Ends the present phase.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if let Some((phase, since)) = self.phase.take().filter(|_| !self.quiet) {
            output::note(&format!("{phase}: {:.1} s", since.elapsed().as_secs_f64()));
        }
    }
}

impl Progress for Shown {
    fn begin(&mut self, phase: &str, total: u64) {
        self.finish();
        self.phase = Some((phase.to_string(), Instant::now()));
        if self.quiet || !self.terminal || total == 0 {
            return;
        }
        let template = match phase {
            "weights" | "hashes" | "digests" => {
                "{msg:10} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}"
            }
            _ => "{msg:10} {bar:40} {pos}/{len} {elapsed}",
        };
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::new(total);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(phase.to_string());
        bar.tick();
        self.bar = Some(bar);
    }

    fn done(&mut self, units: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(units);
        }
    }
}

impl Drop for Shown {
    /// A bar does not stay above a diagnostic.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
