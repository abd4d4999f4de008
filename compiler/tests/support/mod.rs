//! Where the models, configs and graphs of the tests lie.

use ir::graph::Graph;
use ir::graph::parse::parse_graph;
use std::path::{Path, PathBuf};

/// A path inside the repository.
pub fn at(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the crate lies in the repository").join(path)
}

/// A graph of `compiler/tests/graphs`.
#[allow(dead_code, reason = "not every test reads one")]
pub fn graph(name: &str) -> Graph {
    let path = at("compiler/tests/graphs").join(format!("{name}.graph"));
    let text = std::fs::read_to_string(path).expect("a text");
    parse_graph(&text).unwrap_or_else(|e| panic!("{name}: {e:?}"))
}
