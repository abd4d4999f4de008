//! Graphs with what they are given, as files: the graph's text behind a comment for each input.

use super::Drawn;
use ir::graph::parse::parse_graph;
use ir::tensor::Tensor;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// What an input's comment begins with.
const GIVEN: &str = "// given ";

/// The text of a graph and its inputs.
pub fn text(drawn: &Drawn) -> String {
    let mut text = String::new();
    for input in &drawn.inputs {
        let numbers: Vec<String> = input.to_f64().iter().map(f64::to_string).collect();
        writeln!(text, "{GIVEN}{}", numbers.join(" ")).unwrap();
    }
    text + &drawn.graph.to_string()
}

/// Writes a text into a folder, under a name of its own. Whoever reads the folder meanwhile finds
/// the file whole, or not at all.
pub fn save(folder: &Path, text: &str) -> PathBuf {
    let hashed = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let file = folder.join(format!("{:016x}.graph", text.bytes().fold(0, hashed)));
    let mut begun = tempfile::Builder::new().suffix(".tmp").tempfile_in(folder).unwrap();
    begun.write_all(text.as_bytes()).unwrap();
    begun.persist(&file).unwrap();
    file
}

/// What such a text says.
pub fn read(text: &str) -> Drawn {
    let graph = parse_graph(text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    let lines = text.lines().filter_map(|line| line.strip_prefix(GIVEN));
    let input = |(line, param): (&str, _)| {
        let numbers: Vec<f64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let extents = graph.extents(graph.ty(param)).into_iter();
        let dims: Vec<usize> =
            extents.map(|d| d.bound_value(&graph.symbols).unwrap() as usize).collect();
        Tensor::from_f64(graph.ty(param).class(), &dims, &numbers).unwrap()
    };
    let inputs = lines.zip(graph.params.clone()).map(input).collect();
    Drawn { graph, inputs }
}

#[test]
fn texts_are_read_back() {
    for drawn in (0..20).map(super::draw) {
        let back = read(&text(&drawn));
        assert_eq!(back.graph.to_string(), drawn.graph.to_string());
        assert_eq!(back.inputs, drawn.inputs);
    }
}
