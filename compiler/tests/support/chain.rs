//! A graph that is long and nothing else.

use compiler::rewrite::encode::{Encoded, encode};
use ir::dtype::DType;
use ir::graph::builder::GraphBuilder;

/// Rows through functions one after the other, each of the one before it, or of the two.
pub fn chain(length: usize, shared: bool) -> Encoded {
    let mut b = GraphBuilder::new("chain");
    b.step_symbol("s", 1, 1 << 20);
    b.step_symbol("t", 1, 1 << 20);
    let mut x = b.input("x", DType::F32, &["s"]);
    let mut before = x;
    for _ in 0..length {
        let next = match shared {
            false => b.map("tanh(%x)", &[("x", x)], &["s"]),
            true => b.map("tanh(%x) - %y", &[("x", x), ("y", before)], &["s"]),
        };
        (before, x) = (x, next.expect("an expression of rows"));
    }
    b.output(x);
    encode(&b.finish().expect("a sound graph")).expect("every op has one result")
}
