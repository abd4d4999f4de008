//! Graphs with rows that are chosen, or joined to chosen ones.

use super::super::draft::{Draft, Made};
use super::{products_in_turn, union};
use ir::dtype::DType;
use ir::graph::ValueId;

/// A scatter along `e` of values with these axes and `k`; the index has some of them.
fn scatter(d: &mut Draft, axes: &[&str]) -> Made {
    let batch = d.rng.some(axes, 0, axes.len());
    let index = d.index(&batch)?;
    let values = d.value(&union(axes, &["k"]))?;
    d.b.scatter(index, values, "k", "e")
}

pub fn sparse_product(d: &mut Draft) -> Made {
    let axes = d.rng.some(&["a", "b", "s"], 0, 2);
    let mut y = d.rng.some(&["a", "b", "c", "s"], 0, 2);
    if d.rng.chance(80) {
        y.push("e");
    }
    let early = if d.rng.chance(50) { Some(d.value(&y)?) } else { None };
    let sparse = scatter(d, &axes)?;
    let y_axes = y;
    let y = match early {
        Some(y) => y,
        None => d.value(&y_axes)?,
    };
    let all = union(&union(&axes, &["e"]), &y_axes);
    let mut kept = d.rng.some(&all, 0, 4);
    if d.rng.chance(40) {
        kept = union(&kept, &all);
    }
    d.product(sparse, y, &kept)
}

pub fn sparse_multiple(d: &mut Draft) -> Made {
    let axes = d.rng.some(&["a", "b", "s"], 0, 2);
    let all = union(&axes, &["e"]);
    let early = if d.rng.chance(50) { Some(d.value(&all)?) } else { None };
    let sparse = scatter(d, &axes)?;
    let y = match early {
        Some(y) => y,
        None => d.value(&all)?,
    };
    d.map("%x * %y", &[sparse, y], &all)
}

pub fn sparse_softmax(d: &mut Draft) -> Made {
    let axes = d.rng.some(&["a", "b", "s"], 0, 3);
    let all = union(&axes, &["e"]);
    let batch = d.rng.some(&axes, 0, 2);
    let index = if d.rng.chance(90) { d.distinct(&batch)? } else { d.index(&batch)? };
    let ones = d.ones(&union(&batch, &["k"]))?;
    let sparse = d.b.scatter(index, ones, "k", "e")?;
    let inside = union(&batch, &["e"]);
    let test = d.rng.pick(&["%x != 0", "%x > 0", "%x > 0.5", "%x < 0.5"]);
    let open = d.map(test, &[sparse], &inside)?;
    let x = d.value(&all)?;
    let mask = match d.rng.below(3) {
        0 => open,
        n => {
            let some = d.rng.some(&all, 0, 3);
            let score = d.input(&some);
            let further = d.map("%x != 0", &[score], &some)?;
            let of = if n == 1 { [open, further] } else { [further, open] };
            let text = if d.rng.chance(90) { "%x & %y" } else { "%x | %y" };
            d.map(text, &of, &union(&inside, &some))?
        }
    };
    d.b.softmax(x, Some(mask), "e")
}

pub fn fold_chosen(d: &mut Draft) -> Made {
    let rest = d.rng.some(&["a", "b", "c"], 0, 3);
    let batch = d.rng.some(&["d", "s", "b"], 0, 2);
    let c_axes = d.rng.some(&["a", "b", "c", "g"], 0, 3);
    let early = if d.rng.chance(50) { Some(d.weight(&c_axes)) } else { None };
    let table = d.weight(&union(&["e"], &rest));
    // Rows that are known when compiling, at times: then all is constant.
    let index = match d.rng.chance(20) {
        true => d.b.constant(DType::I32, &[1.0], &union(&batch, &["k"]))?,
        false => d.index(&batch)?,
    };
    let chosen = d.b.gather(table, index, None, "e")?;
    let c = match early {
        Some(c) => c,
        None => d.weight(&c_axes),
    };
    let axes = d.axes(chosen);
    let all =
        union(&Draft::names(&axes), &c_axes).iter().map(|a| a.to_string()).collect::<Vec<_>>();
    let mut kept = d.rng.some(&Draft::names(&all), 0, 5);
    if d.rng.chance(70) {
        kept = union(&kept, &union(&batch, &["k"])).to_vec();
    }
    d.product(chosen, c, &kept)
}

pub fn gather_scatter(d: &mut Draft) -> Made {
    let axes = d.rng.some(&["a", "b", "s"], 0, 2);
    let batch = d.rng.some(&axes, 0, axes.len());
    let index = if d.rng.chance(80) { d.distinct(&batch)? } else { d.index(&batch)? };
    let order = d.rng.shuffled(&axes);
    let values = d.input(&union(&axes, &["k"]));
    let values = d.map("tanh(%x)", &[values], &union(&order, &["k"]))?;
    let sparse = d.b.scatter(index, values, "k", "e")?;
    d.b.gather(sparse, index, None, "e")
}

/// Axes of two factors of rows of `e`, and of their product.
fn rows_of<'a>(d: &mut Draft) -> [Vec<&'a str>; 3] {
    let pool = ["a", "b", "c", "s"];
    let [x, y] = [0, 1].map(|_| d.rng.some(&pool, 0, 3));
    let all = union(&x, &y);
    let kept = d.rng.some(&all, 0, 3);
    [x, y, kept]
}

pub fn join_sum(d: &mut Draft) -> Made {
    let [mut x, mut y, kept] = rows_of(d);
    let gates = d.rng.some(&kept, 0, kept.len());
    let order = d.rng.chance(50);
    let early = if order { Some(scatter(d, &gates)?) } else { None };
    // The other term sums over as many times the axis at times.
    let several = d.rng.chance(50);
    let [more, longer] = d.rng.pick(&[["q", "pq"], ["p", "pq"], ["q2", "pq"]]);
    if several {
        x.push(more);
        y.push(more);
    }
    let [a, b] = d.pair(&union(&x, &["e"]), &union(&y, &["e"]))?;
    let inner = d.product(a, b, &union(&kept, &["e"]))?;
    let gate = match early {
        Some(gate) => gate,
        None => scatter(d, &gates)?,
    };
    let sum = d.product(gate, inner, &kept)?;
    for axis in x.iter_mut().chain(&mut y).filter(|axis| **axis == more) {
        *axis = longer;
    }
    let [a, b] = d.pair(&x, &y)?;
    let other = d.product(a, b, &kept)?;
    let [x, y] = if d.rng.chance(50) { [sum, other] } else { [other, sum] };
    d.map("%x + %y", &[x, y], &kept)
}

/// `[x, y]`, `y` being one row of `e`, or having rows of `p`.
fn with_rows(d: &mut Draft, x: ValueId, y: ValueId) -> Made {
    let axes = d.axes(y);
    let (rows, row, joint) = match axes.iter().any(|a| a == "p") {
        true => (y, "p", "ep"),
        false => {
            let ones = d.ones(&["u"])?;
            (d.b.contract(y, ones, &union(&Draft::names(&axes), &["u"]))?, "u", "e1")
        }
    };
    let first = d.axes(x);
    let order: Vec<&str> = first.iter().map(|a| if a == "e" { row } else { a.as_str() }).collect();
    let in_order = d.axes(rows) == order;
    let rows = if in_order { rows } else { d.b.map("%x", &[("x", rows)], &order)? };
    d.b.concat(&[(x, "e"), (rows, row)], joint)
}

/// Axes of what is joined to rows of `e`: those of one row, or these and rows of `p`.
fn behind<'a>(d: &mut Draft, axes: &[&'a str]) -> Vec<&'a str> {
    if d.rng.chance(50) { union(axes, &["p"]) } else { axes.to_vec() }
}

/// An elementwise op on rows of `e`, and on one row: at times with an operand that both share.
fn joined_map(d: &mut Draft) -> Made {
    let text = d.rng.pick(&["%x + %y", "%x * %y", "sigmoid(%x)", "%x * sigmoid(%y)"]);
    let axes = d.rng.some(&["a", "b", "s"], 0, 2);
    let whole = union(&["e"], &axes);
    let [x, y] = d.pair(&whole, &whole)?;
    let shared = text == "%x * sigmoid(%y)" && d.rng.chance(40);
    let y = if shared { d.value(&axes)? } else { y };
    let used = if text == "sigmoid(%x)" { 1 } else { 2 };
    let all = d.map(text, &[x, y][..used], &whole)?;
    let behind = behind(d, &axes);
    let [x, z] = d.pair(&behind, &behind)?;
    let z = if shared { y } else { z };
    let row = d.map(text, &[x, z][..used], &behind)?;
    with_rows(d, all, row)
}

pub fn join_through(d: &mut Draft) -> Made {
    match d.rng.below(5) {
        0 => joined_map(d),
        1 => products_in_turn(d),
        2 => {
            let axes = d.rng.some(&["a", "b", "s"], 0, 2);
            let [whole, alone] = [union(&["e"], &axes), behind(d, &axes)];
            let (x, y) = (d.input(&whole), d.input(&whole));
            let [x, y] = [d.map("tanh(%x)", &[x], &whole)?, d.map("tanh(%x)", &[y], &whole)?];
            let all = d.b.swiglu(x, y)?;
            let (x, y) = (d.input(&alone), d.input(&alone));
            let [x, y] = [d.map("tanh(%x)", &[x], &alone)?, d.map("tanh(%x)", &[y], &alone)?];
            let row = d.b.swiglu(x, y)?;
            with_rows(d, all, row)
        }
        _ => {
            let [x, y, kept] = rows_of(d);
            // An operand that lacks the axis is the same in both.
            let shared = d.rng.chance(50);
            let [a, b] =
                d.pair(&union(&x, &["e"]), &if shared { y.clone() } else { union(&y, &["e"]) })?;
            let order = d.rng.shuffled(&kept);
            let all = d.product(a, b, &union(&order, &["e"]))?;
            // An operand may lack the rows at times, where the law does not hold.
            let [first, second] = [behind(d, &x), behind(d, &y)];
            let [c, e] = d.pair(&first, &second)?;
            let rows = union(&first, if shared { &[] } else { &second }).contains(&"p");
            let kept = if rows { union(&kept, &["p"]) } else { kept };
            let row = d.product(c, if shared { b } else { e }, &kept)?;
            with_rows(d, all, row)
        }
    }
}

pub fn join_scatter(d: &mut Draft) -> Made {
    let axes = d.rng.some(&["a", "b", "s"], 0, 2);
    let order = d.rng.shuffled(&axes);
    let sparse = scatter(d, &axes)?;
    let all = union(&order, &["e"]);
    let sparse_axes = d.axes(sparse);
    let names = Draft::names(&sparse_axes);
    debug_assert_eq!(names.len(), all.len());
    let (row, joint) = d.rng.pick(&[("u", "e1"), ("p", "ep")]);
    let u = d.value(&union(&order, &[row]))?;
    let wanted: Vec<&str> = names.iter().map(|a| if *a == "e" { row } else { a }).collect();
    let u = match d.axes(u) == wanted && d.b.ty(u).dtype() == DType::F32 {
        true => u,
        false => d.b.map("tanh(%x)", &[("x", u)], &wanted)?,
    };
    d.b.concat(&[(sparse, "e"), (u, row)], joint)
}
