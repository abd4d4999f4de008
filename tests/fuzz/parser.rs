//! The parser that this binary is named after, given what the fuzzer makes up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tests::fuzz::{Entry, entry};

static ENTRY: LazyLock<&Entry> = LazyLock::new(|| entry(env!("CARGO_BIN_NAME")));

fuzz_target!(|input: &[u8]| {
    let _ = (ENTRY.run)(input);
});
