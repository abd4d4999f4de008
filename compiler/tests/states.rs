//! Histories become states: which, how many layers, and that nothing else changes.

use compiler::lower::states::with_states;
use compiler::options::Options;
use ir::graph::error::GraphError;
use ir::graph::parse::parse_program;
use ir::graph::program::{Arg, Program, Weight};
use ir::graph::sequence::Sequence;
use ir::number::{Field, Number, mix};
use ir::tensor::Tensor;

/// Blocks that keep what is alike in different order; one is also another entry's.
const TEXT: &str = "graph @narrow(%x: f32[s, D], weight %w: bf16[c, D]) -> f32[s, D]
  params D = 4, c = 3
  where 1 <= s <= 8, 1 <= t <= 16 {
  %k = contract %x, %w : f32[s, c]
  %K = history %k {index = s, into = t} : f32[t, c]
  %X = history %x {index = s, into = t} : f32[t, D]
  %q = contract %k, %K : f32[s, t]
  %y = contract %q, %X : f32[s, D]
  return %y
}

graph @wide(%x: f32[s, D], weight %w: bf16[c, D]) -> f32[s, D]
  params D = 4, c = 3
  where 1 <= s <= 8, 1 <= t <= 16
  index d = D {
  %X = history %x {index = s, into = t} : f32[t, D]
  %k = contract %x, %w : f32[s, c]
  %past_k = map { sigmoid(%k) } : f32[s, c]
  %K = history %k {index = s, into = t} : f32[t, c]
  %more = history %past_k {index = s, into = t} : f32[t, c]
  %q = contract %k, %K : f32[s, t]
  %p = contract %k, %more : f32[s, t]
  %m = map { %p + 2 * %q } : f32[s, t]
  %0 = rename %X {from = [D], to = [d]} : f32[t, d]
  %y = contract %m, %0 : f32[s, d]
  %1 = rename %y {from = [d], to = [D]} : f32[s, D]
  return %1
}

program @toy
  where 1 <= s <= 8, 1 <= t <= 16 {
  weight @w: bf16[3, 4] = tensor w of [3, 4] at 0 strides [4, 1]
  entry @forward(%x: f32[s, 4]) {
    %a = call @narrow(%x, @w) on main
    %b = call @wide(%a, @w) on main
    %c = call @narrow(%b, @w) on main
    return %c
  }
  entry @draft(%x: f32[s, 4]) {
    %a = call @wide(%x, @w) on main
    return %a
  }
}
";

fn program() -> Program {
    let program = parse_program(TEXT).unwrap_or_else(|e| panic!("{e:?}"));
    program.verify().unwrap_or_else(|e| panic!("{e:?}"));
    program
}

fn keeping(kept: &str) -> Options {
    let mut options = Options::default();
    options.set(&format!("kv-dtype={kept}")).expect("a choice");
    options
}

fn stated(kept: &str) -> Program {
    let stated = with_states(&program(), &keeping(kept)).expect("rows of known sizes");
    stated.verify().unwrap_or_else(|e| panic!("{stated}\n{e:?}"));
    let text = stated.to_string();
    assert_eq!(parse_program(&text).as_ref(), Ok(&stated), "{text}");
    stated
}

#[test]
fn rows_that_are_alike_share_a_state() {
    // Three elements are no whole block of codes.
    let cases = [("f32", "f32", "f32"), ("bf16", "bf16", "bf16"), ("int8", "bf16", "i8<f32 1x4>")];
    for (kept, of_3, of_4) in cases {
        let program = stated(kept);
        let states = program.states.iter();
        let states: Vec<String> = states.map(|s| s.to_string()).collect();
        let line = |name: &str, dim: i64, layers: u32| {
            let encoding = if dim == 3 { of_3 } else { of_4 };
            format!("state @{name}: {encoding}[{dim}] rows layers {layers}")
        };
        let expected = [
            line("k", 3, 3),
            line("x", 4, 3),
            line("past_k", 3, 1),
            line("draft.x", 4, 1),
            line("draft.k", 3, 1),
            line("draft.past_k", 3, 1),
        ];
        assert_eq!(states, expected);
        let layers = |call: usize| -> Vec<(String, u32)> {
            let args = program.entries[0].calls[call].args.iter();
            let state = |a: &Arg| match a {
                Arg::State { state, layer } => Some((state.to_string(), *layer)),
                _ => None,
            };
            args.filter_map(state).collect()
        };
        let of = |pairs: &[(&str, u32)]| -> Vec<(String, u32)> {
            pairs.iter().map(|(s, l)| (s.to_string(), *l)).collect()
        };
        assert_eq!(layers(0), of(&[("k", 0), ("x", 0)]));
        assert_eq!(layers(1), of(&[("x", 1), ("k", 1), ("past_k", 0)]));
        assert_eq!(layers(2), of(&[("k", 2), ("x", 2)]));
        let narrow = program.block("narrow").expect("a block");
        let count = |op: &str| narrow.nodes.iter().filter(|n| n.op.name() == op).count();
        assert_eq!((count("history"), count("append")), (0, 2));
        let rounded = usize::from(of_4 != of_3);
        assert_eq!([count("quantize"), count("dequantize")], [rounded; 2]);
        assert_eq!(count("cast"), if kept == "f32" { 0 } else { 4 });
    }
}

#[test]
fn what_is_computed_stays() {
    fn weights<N: Number>(w: &Weight) -> Result<Tensor<N>, GraphError> {
        let dims: Vec<usize> = w.dims.iter().map(|d| *d as usize).collect();
        let value = |i: u64| N::from_f64((mix(i) >> 40) as f64 / 8388608.0 - 1.0);
        Tensor::floats(&dims, (0..12).map(value).collect())
    }
    fn outputs<N: Number>(program: &Program) -> Vec<Tensor<N>> {
        let mut sequence = Sequence::new(program, 3);
        let mut all = vec![];
        for (entry, rows) in [("forward", 3), ("draft", 2), ("forward", 2), ("draft", 3)] {
            let value = |i: usize| N::from_f64((mix(77 + i as u64) >> 40) as f64 / 8388608.0);
            let x = Tensor::floats(&[rows, 4], (0..rows * 4).map(value).collect());
            let x = [x.expect("four columns")];
            all.extend(sequence.step(entry, &x, &mut weights).expect("a step"));
        }
        all
    }
    // Casts are the identity in the field.
    for kept in ["f32", "bf16"] {
        assert_eq!(outputs::<Field>(&stated(kept)), outputs::<Field>(&program()));
    }
    assert_eq!(outputs::<f32>(&stated("f32")), outputs::<f32>(&program()));
    for kept in ["bf16", "int8"] {
        assert_ne!(outputs::<f32>(&stated(kept)), outputs::<f32>(&program()));
    }
}

#[test]
fn a_program_with_states_stays_as_it_is() {
    let program = stated("bf16");
    assert_eq!(with_states(&program, &keeping("f32")), Ok(program));
}

#[test]
fn rows_that_no_state_takes_are_refused() {
    let code = |from: &str, to: &str| {
        let text = TEXT.replacen(from, to, 1);
        assert_ne!(text, TEXT);
        let program = parse_program(&text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
        with_states(&program, &keeping("f32")).expect_err(to).code()
    };
    let last = "%n = contract %x, %w : f32[c, s]
  %N = history %n {index = s, into = t} : f32[c, t]
  %K = history";
    assert_eq!(code("%K = history", last), "E0261");
    let open = "%n = contract %x, %x : f32[s]
  %i = iota {start = 0} : i32[t]
  %j = map { float(%n) + float(%i) } : f32[s, t]
  %1 = rename %j {from = [t], to = [b]} : f32[s, b]
  %N = history %1 {index = s, into = t} : f32[t, b]
  %K = history";
    let open = open.replace("float(%n)", "%n");
    let text = TEXT.replacen("1 <= t <= 16 {", "1 <= t <= 16\n  index b = t {", 1);
    let program = parse_program(&text.replacen("%K = history", &open, 1));
    let program = program.unwrap_or_else(|e| panic!("{e:?}"));
    let error = with_states(&program, &keeping("f32")).expect_err("rows as long as the context");
    assert_eq!(error.code(), "E0262");
}
