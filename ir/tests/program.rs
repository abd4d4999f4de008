//! Programs: text, checks, and evaluation step by step.

use ir::dtype::Class;
use ir::graph::error::GraphError;
use ir::graph::interp::{Settings, evaluate_after};
use ir::graph::parse::parse_program;
use ir::graph::program::{Program, Weight};
use ir::graph::sequence::Sequence;
use ir::number::{Field, Number, mix};
use ir::tensor::Tensor;

/// Two layers of attention over one block, an embedding, and a head that only some rows reach.
const TEXT: &str = "graph @embed(%ids: i32[s], weight %table: bf16[V, D]) -> f32[s, D]
  params D = 4, V = 7
  where 1 <= s <= 8 {
  %rows = gather %table, %ids {index = V} : bf16[s, D]
  %x = cast %rows {to = f32} : f32[s, D]
  return %x
}

graph @layer(%x: f32[s, D], weight %w: bf16[h, c, D], state %past: f32[u, D]) -> f32[s, D]
  params D = 4, c = 3, h = 2
  where 1 <= s <= 8, 1 <= t <= 16
  index u = -s + t {
  %q = contract %x, %w : f32[s, h, c]
  %keep = append %past, %x {into = t} : f32[t, D]
  %k = contract %keep, %w : f32[t, h, c]
  %scores = contract %q, %k : f32[s, h, t]
  %at = iota {start = -s + t} : i32[s]
  %key = iota {start = 0} : i32[t]
  %seen = map { %key <= %at } : bool[s, t]
  %p = softmax %scores where %seen {index = t} : f32[s, h, t]
  %o = contract %p, %keep : f32[s, h, D]
  %sum = contract %o : f32[s, D]
  %y = map { %x + %sum } : f32[s, D]
  return %y
}

graph @head(%x: f32[s, D], %rows: i32[m], weight %w: bf16[V, D]) -> f32[m, V]
  params D = 4, V = 7
  where 0 <= m <= 8, 1 <= s <= 8 {
  %wanted = gather %x, %rows {index = s} : f32[m, D]
  %logits = contract %wanted, %w : f32[m, V]
  return %logits
}

program @toy
  where 0 <= m <= 8, 1 <= s <= 8, 1 <= t <= 16 {
  weight @table: bf16[7, 4] = tensor model.embed.weight of [7, 4] at 0 strides [4, 1]
  weight @w.0: bf16[2, 3, 4] = tensor model.0.w of [6, 4] at 0 strides [12, 4, 1]
  weight @w.1: bf16[2, 3, 4] = stack model.1.a, model.1.b of [4, 3] at 0 strides [1, 3]
  state @kept: f32[4] rows layers 2
  entry @forward(%ids: i32[s], %rows: i32[m]) {
    %x = call @embed(%ids, @table) on device
    %y = call @layer(%x, @w.0, @kept[0]) on device
    %z = call @layer(%y, @w.1, @kept[1]) on device
    %logits = call @head(%z, %rows, @table) on device
    return %logits, %z
  }
}
";

fn program() -> Program {
    let program = parse_program(TEXT).unwrap_or_else(|e| panic!("{e:?}"));
    program.verify().unwrap_or_else(|e| panic!("{e:?}"));
    program
}

/// The same model, which leaves open how rows are kept; with the rows' index first or last.
fn with_histories(rows_last: bool) -> Program {
    let mut text = TEXT
        .replace(", state %past: f32[u, D]", "")
        .replace("  index u = -s + t {", "{")
        .replace("append %past, %x {into = t}", "history %x {index = s, into = t}")
        .replace("  state @kept: f32[4] rows layers 2\n", "")
        .replace(", @kept[0])", ")")
        .replace(", @kept[1])", ")");
    if rows_last {
        text = text.replace(
            "%keep = history %x {index = s, into = t} : f32[t, D]",
            "%n = contract %x : f32[D, s]\n  \
             %keep = history %n {index = s, into = t} : f32[D, t]",
        );
    }
    let program = parse_program(&text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
    program.verify().unwrap_or_else(|e| panic!("{e:?}"));
    program
}

fn weights<N: Number>(w: &Weight) -> Result<Tensor<N>, GraphError> {
    let dims: Vec<usize> = w.dims.iter().map(|d| *d as usize).collect();
    let n: usize = dims.iter().product();
    let seed = w.name.bytes().fold(7, |h, b| mix(h ^ u64::from(b)));
    let value = |i: usize| N::from_f64((mix(seed + i as u64) >> 40) as f64 / 8388608.0 - 1.0);
    Tensor::floats(&dims, (0..n).map(value).collect())
}

fn ints<N: Number>(v: &[i32]) -> Tensor<N> {
    Tensor::ints(&[v.len()], v.to_vec()).expect("one axis")
}

#[test]
fn the_text_round_trips() {
    let program = program();
    assert_eq!(program.to_string(), TEXT);
    assert_eq!(program.weights[2].source.tensors.len(), 2);
    assert!(program.weights[2].source.stacked);
}

#[test]
fn token_by_token_equals_the_whole_prompt() {
    fn check<N: Number>(program: &Program, bound: f64) {
        let ids = [3, 0, 6, 6, 1];
        let mut whole = Sequence::<N>::new(program, 4);
        let all = whole.step("forward", &[ints(&ids), ints(&[0, 1, 2, 3, 4])], &mut weights);
        let all = all.expect("a prompt").remove(0);
        for cuts in [vec![1, 1, 1, 1, 1], vec![2, 3], vec![4, 1]] {
            let mut steps = Sequence::<N>::new(program, 4);
            let (mut from, mut logits) = (0, vec![]);
            for n in cuts {
                let rows: Vec<i32> = (0..n as i32).collect();
                let inputs = [ints(&ids[from..from + n]), ints(&rows)];
                let out = steps.step("forward", &inputs, &mut weights).expect("a step");
                logits.extend_from_slice(out[0].as_floats());
                from += n;
            }
            let found = Tensor::floats(all.dims(), logits).expect("as many rows");
            assert!(found.is_near(&all, bound), "{found:?}\n{all:?}");
            let rows = [steps.rows("kept", 1), steps.kept("forward")];
            assert_eq!(rows, if program.states.is_empty() { [0, 5] } else { [5, 0] });
        }
    }
    for program in [program(), with_histories(false), with_histories(true)] {
        check::<Field>(&program, 0.0);
        check::<f64>(&program, 1e-12);
        check::<f32>(&program, 1e-5);
    }
}

#[test]
fn histories_are_states_without_names() {
    let logits = |program: &Program| {
        let mut sequence = Sequence::<Field>::new(program, 4);
        let mut step = |ids: &[i32]| {
            sequence.step("forward", &[ints(ids), ints(&[0])], &mut weights).expect("a step")
        };
        [step(&[3, 1]), step(&[5, 0, 2])]
    };
    let expected = logits(&program());
    assert_eq!(logits(&with_histories(false)), expected);
    assert_eq!(logits(&with_histories(true)), expected);
}

#[test]
fn a_history_takes_its_own_past_alone() {
    let program = with_histories(true);
    let layer = program.block("layer").expect("a block");
    let zeros = |dims: &[usize]| Tensor::<f64>::zeros(Class::Float, dims).expect("small");
    let (x, w) = (zeros(&[2, 4]), zeros(&[2, 3, 4]));
    let run = |past: &[&Tensor<f64>]| evaluate_after(layer, &[&x, &w], past, &Settings::default());
    let all = run(&[&zeros(&[3, 4])]).expect("three rows before").histories;
    assert_eq!((all.len(), all[0].dims()), (1, &[5, 4][..]));
    assert_eq!(run(&[]).expect("no past").histories[0].dims(), [2, 4]);
    for misfit in [zeros(&[4, 3]), zeros(&[]), ints(&[0; 4])] {
        assert!(matches!(run(&[&misfit]), Err(GraphError::Given { .. })));
    }
    let code = |past: &[&Tensor<f64>]| run(past).map_err(|e| e.code()).err();
    assert_eq!(code(&[&zeros(&[15, 4])]), Some("E0122"));
    assert_eq!(code(&[&zeros(&[3, 4]), &zeros(&[3, 4])]), Some("E0132"));
    let bound = Settings { bindings: [("t".into(), 4)].into(), key: 0 };
    let run = |past: &[&Tensor<f64>]| evaluate_after(layer, &[&x, &w], past, &bound);
    assert!(matches!(run(&[]), Err(GraphError::Given { .. })), "rows are missing");
    assert_eq!(run(&[&zeros(&[2, 4])]).expect("as many as t says").outputs[0].dims(), [2, 4]);
}

#[test]
fn only_wanted_rows_reach_the_head() {
    let program = program();
    let mut sequence = Sequence::<f64>::new(&program, 0);
    let inputs = [ints(&[1, 2, 3]), ints(&[2])];
    let out = sequence.step("forward", &inputs, &mut weights).expect("a step");
    assert_eq!((out[0].dims(), out[1].dims()), (&[1, 7][..], &[3, 4][..]));
    let out = sequence.step("forward", &[ints(&[1]), ints(&[])], &mut weights).expect("a step");
    assert_eq!(out[0].dims(), [0, 7]);
}

#[test]
fn tokens_can_be_taken_back() {
    let step = |s: &mut Sequence<Field>, id: i32| {
        s.step("forward", &[ints(&[id]), ints(&[0])], &mut weights).expect("a step").remove(0)
    };
    for program in [program(), with_histories(false), with_histories(true)] {
        let mut straight = Sequence::new(&program, 1);
        let mut back = straight.clone();
        step(&mut straight, 5);
        let expected = step(&mut straight, 2);
        step(&mut back, 5);
        let wrong = step(&mut back, 3);
        back.truncate(1);
        assert_eq!(step(&mut back, 2), expected);
        assert_ne!(wrong, expected);
    }
}

#[test]
fn a_failed_step_leaves_the_states_as_they_were() {
    let program = program();
    let mut sequence = Sequence::<f64>::new(&program, 0);
    let out_of_range = [ints(&[1]), ints(&[1])];
    let error = sequence.step("forward", &out_of_range, &mut weights).expect_err("a wrong row");
    assert!(matches!(error, GraphError::OutOfRange { .. }), "{error}");
    assert_eq!(sequence.rows("kept", 0), 0);
    for (inputs, message) in [
        (vec![ints(&[7]), ints(&[0])], "selects row 7 of 7"),
        (vec![ints(&[-1]), ints(&[0])], "selects row -1 of 7"),
        (vec![ints(&[0; 9]), ints(&[0])], "9"),
        (vec![ints(&[0])], "argument"),
        (vec![Tensor::floats(&[1], vec![0.0]).expect("a float"), ints(&[0])], "ids"),
    ] {
        let error = sequence.step("forward", &inputs, &mut weights).expect_err(message);
        assert!(error.to_string().contains(message), "{error}");
    }
    let error = sequence.step("draft", &[], &mut weights).expect_err("no such entry");
    assert_eq!(error.code(), "E0104");
}

#[test]
fn everything_wrong_with_a_program_is_reported_at_once() {
    let sound = program();
    let codes = |change: &dyn Fn(&mut Program)| -> Vec<&'static str> {
        let mut program = sound.clone();
        change(&mut program);
        program.verify().expect_err("a broken program").iter().map(|e| e.kind.code()).collect()
    };
    let with = |from: &str, to: &str| {
        let changed = TEXT.replacen(from, to, 1);
        assert_ne!(changed, TEXT, "{from}");
        let program = parse_program(&changed).unwrap_or_else(|e| panic!("{changed}\n{e:?}"));
        let errors = program.verify().expect_err(to);
        errors.iter().map(|e| e.kind.code()).collect::<Vec<_>>()
    };
    assert_eq!(with("@embed(%ids,", "@embde(%ids,"), ["E0104"]);
    assert_eq!(with("(%x, @w.0, @kept[0])", "(%x, @w.0)"), ["E0132"]);
    assert_eq!(with("(%x, @w.0, @kept[0])", "(%x, @kept[0], @w.0)"), ["E0133", "E0133"]);
    assert_eq!(with("(%x, @w.0, @kept[0])", "(%ids, @w.0, @kept[0])"), ["E0133"]);
    assert_eq!(with("(%x, @w.0, @kept[0])", "(%x, @table, @kept[0])"), ["E0133"]);
    assert_eq!(with("(%x, @w.0, @kept[0])", "(%x, @w.0, @kept[2])"), ["E0123"]);
    assert_eq!(with("f32[4] rows", "f32[5] rows"), ["E0133"]);
    assert_eq!(with("f32[4] rows", "f32[4] carry"), ["E0134", "E0134"]);
    assert_eq!(with("f32[4] rows", "f32[4] ring 8 + 2"), ["E0134", "E0134"]);
    assert_eq!(with("%z = call", "%y = call"), ["E0105", "E0104", "E0104"]);
    assert_eq!(with("return %logits, %z\n  }", "return %nothing\n  }"), ["E0104"]);
    assert_eq!(with("[6, 4] at 0", "[6, 4] at 1"), ["E0131"]);
    assert_eq!(with("stack model.1.a,", "stack"), ["E0131"]);
    assert_eq!(codes(&|p| p.weights[1].name = "table".into()), ["E0105", "E0104"]);
    assert_eq!(codes(&|p| p.weights[0].source.tensors[0] = "a b".into()), ["E0123"]);
    let twin = |p: &mut Program| {
        let mut twin = p.blocks[0].clone();
        twin.name = "twin".into();
        p.blocks.push(twin);
    };
    assert_eq!(codes(&twin), ["E0135"]);
}

#[test]
fn errors_of_several_blocks_and_calls_are_all_read() {
    let broken = TEXT
        .replacen("%q = contract", "%q = contrakt", 1)
        .replacen("%logits = contract", "%logits = ", 1)
        .replacen("rows layers 2", "rows layer 2", 1)
        .replacen("call @head", "calls @head", 1);
    let errors = parse_program(&broken).expect_err("a broken text");
    let places: Vec<usize> = errors.iter().map(|e| e.span.expect("a place").start).collect();
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert!(places.is_sorted());
    for end in 0..TEXT.len() - 2 {
        assert!(parse_program(&TEXT[..end]).is_err());
    }
}
