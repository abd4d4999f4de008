//! Latent attention as a rewriter may choose it: an imported program that keeps the latent instead
//! of every head's keys and values.

use crate::rebuild::Copy;
use ir::error::IrError;
use ir::graph::program::Program;
use ir::graph::{Def, Graph, Node, ValueId};

/// What attention over the latent computes of keys, or of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Queries brought to the latent, or its mean to values.
    Absorbed,
    /// Keys or values of the whole context, anew at each step.
    Expanded,
}

/// The program with the keys and the values of every latent attention in these forms.
pub fn over_latents(program: &Program, forms: [Form; 2]) -> Program {
    let mut program = program.clone();
    for block in &mut program.blocks {
        if let Some(roles) = Roles::of(block) {
            *block = rewritten(block, &roles, forms).unwrap();
        }
    }
    program
}

/// The values of a block that attention is about, as importers state it.
struct Roles {
    /// Of the expansion, `[h, b, r]`.
    weight: ValueId,
    /// `[s, r]`.
    latent: ValueId,
    /// `[s, dr]`, before heads repeat it.
    rotary: ValueId,
    /// `[s, h, dn]` and `[s, h, dr]`.
    queries: [ValueId; 2],
    /// Of keys `[t, h, d]` and values `[t, h, dv]`.
    histories: [ValueId; 2],
}

impl Roles {
    fn of(graph: &Graph) -> Option<Roles> {
        let weight = *graph.params.iter().find(|p| &*graph.value(**p).name == "w_kvb")?;
        let made = |v: ValueId| -> &Node {
            let Def::Node(id, _) = graph.value(v).def else { panic!("a value is computed") };
            graph.node(id)
        };
        let expansion = graph.nodes.iter().find(|n| n.operands.contains(&weight)).unwrap();
        let named = |name: &str| {
            ValueId(graph.values.iter().position(|v| &*v.name == name).unwrap() as u32)
        };
        let [q, k, v] = ["q", "k", "v"].map(named);
        let kept = |x: ValueId| {
            let is_kept = |n: &&Node| n.op.name() == "history" && n.operands[0] == x;
            graph.nodes.iter().find(is_kept).unwrap().results[0]
        };
        Some(Roles {
            weight,
            latent: expansion.operands[0],
            rotary: made(made(k).operands[1]).operands[0],
            queries: [made(q).operands[0], made(q).operands[1]],
            histories: [kept(k), kept(v)],
        })
    }
}

fn rewritten(
    graph: &Graph,
    roles: &Roles,
    [of_keys, of_values]: [Form; 2],
) -> Result<Graph, IrError> {
    let mut copy = Copy::new(graph);
    let [keys, values] = roles.histories;
    let mut kept = None;
    for node in &graph.nodes {
        let reads = |v: ValueId| node.operands.contains(&v);
        if node.op.name() == "history" {
            continue;
        }
        if !reads(keys) && !reads(values) {
            copy.node(node, node.operands.clone());
            continue;
        }
        let of = |v: &ValueId| copy.of[v];
        let (weight, queries) = (of(&roles.weight), roles.queries.map(|q| of(&q)));
        let rows = [roles.latent, roles.rotary].map(|v| of(&v));
        let other = of(&node.operands[0]);
        let b = &mut copy.builder;
        let result = if reads(keys) {
            let [latents, rotaries] =
                [b.history(rows[0], "s", "t")?, b.history(rows[1], "s", "t")?];
            kept = Some(latents);
            let up = b.slice(weight, "b", "dn", 0)?;
            let plain = match of_keys {
                Form::Absorbed => {
                    let absorbed = b.contract(queries[0], up, &["s", "h", "r"])?;
                    b.contract(absorbed, latents, &["s", "h", "t"])?
                }
                Form::Expanded => {
                    let keys = b.contract(latents, up, &["t", "h", "dn"])?;
                    b.contract(queries[0], keys, &["s", "h", "t"])?
                }
            };
            let rotated = b.contract(queries[1], rotaries, &["s", "h", "t"])?;
            b.map("a + b", &[("a", plain), ("b", rotated)], &["s", "h", "t"])?
        } else {
            let latents = kept.expect("scores come before means");
            let up = b.slice(weight, "b", "dv", "dn")?;
            match of_values {
                Form::Absorbed => {
                    let mean = b.contract(other, latents, &["s", "h", "r"])?;
                    b.contract(mean, up, &["s", "h", "dv"])?
                }
                Form::Expanded => {
                    let values = b.contract(latents, up, &["t", "h", "dv"])?;
                    b.contract(other, values, &["s", "h", "dv"])?
                }
            }
        };
        copy.of.insert(node.results[0], result);
    }
    Ok(copy.finish(graph.outputs.iter().copied()))
}
