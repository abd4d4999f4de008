//! Parsers of an artifact's sections.

use super::corpus::small_manifest;
use super::{Outcome, Refusal};
use artifact::format::{FOOTER_BYTES, PAGE};
use artifact::plan::{Entry, Grid, Step};
use artifact::reader::Weights;
use artifact::size::{SizeExpr, SizeOp};
use artifact::{ArtifactError, Manifest, Plan, Reader};
use compiler::attest::{AttestError, Statement};
use runtime::load::Image;
use std::path::Path;

/// Bytes of the weights that plans are checked against.
pub const WEIGHTS_BYTES: u64 = 1 << 30;

fn refused(error: ArtifactError) -> Vec<Refusal> {
    vec![Refusal::new(error.code(), error)]
}

/// A file, as it is and with its hashes put right: as a faulty or malicious writer makes it.
pub fn artifact(input: &[u8]) -> Outcome {
    let plain = open(input);
    let mut signed = input.to_vec();
    sign(&mut signed);
    open(&signed).and(plain).map_err(refused)
}

/// Opens a file as a runtime that checks everything does.
fn open(file: &[u8]) -> Result<(), ArtifactError> {
    let reader = Reader::open(file)?;
    for section in reader.sections() {
        assert!(section.name.len() + section.attributes.len() <= file.len());
    }
    assert!(reader.code().len() <= reader.sections().len());
    reader.manifest()?;
    reader.plan()?;
    match reader.weights()? {
        Weights::Here(weights) => reader.verify_weights(weights, 1, &|_, _| {}),
        Weights::External(_) => {
            // Some file that is none of weights.
            let other = reader.external_weights(&file[..file.len().min(2 * PAGE as usize)]);
            assert!(other.is_err(), "the file itself is taken for its weights");
            Ok(())
        }
    }
}

/// Writes the hashes of sections, table and footer that the bytes in hand have.
fn sign(file: &mut [u8]) {
    let Some(footer) = file.len().checked_sub(FOOTER_BYTES as usize) else { return };
    let bytes = file.len() as u64;
    file[footer + 24..footer + 32].copy_from_slice(&bytes.to_le_bytes());
    let table = u64::from_le_bytes(file[footer + 8..footer + 16].try_into().unwrap());
    let Some(table) = usize::try_from(table).ok().filter(|at| *at <= footer) else { return };
    let _ = sign_sections(file, table, footer);
    let signed =
        [&file[table..footer], &file[footer..footer + 32], &file[footer + 64..footer + 72]];
    let hash = *blake3::hash(&signed.concat()).as_bytes();
    file[footer + 32..footer + 64].copy_from_slice(&hash);
}

/// Walks the rows of the table as far as they make sense; puts right each hash on the way.
fn sign_sections(file: &mut [u8], table: usize, end: usize) -> Option<()> {
    let mut at = table;
    let mut take = |file: &[u8], count: usize| {
        let from = at;
        at = at.checked_add(count).filter(|to| *to <= end)?;
        file.get(from..at).map(|_| from)
    };
    let word = |file: &[u8], at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let long = |file: &[u8], at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let rows = word(file, take(file, 4)?);
    for _ in 0..rows {
        let name = word(file, take(file, 4)?);
        take(file, name as usize)?;
        let attributes = word(file, take(file, 4)?);
        for _ in 0..attributes.checked_mul(2)? {
            let text = word(file, take(file, 4)?);
            take(file, text as usize)?;
        }
        let external = file[take(file, 1)?] == 1;
        let place = take(file, if external { 4 } else { 8 })?;
        if external {
            take(file, word(file, place) as usize)?;
        }
        let bytes = long(file, take(file, 8)?);
        let hash = take(file, 32)?;
        let chunk = long(file, take(file, 8)?);
        let signed = if chunk > 0 {
            let hashes = usize::try_from(bytes.div_ceil(chunk)).ok()?.checked_mul(32)?;
            let first = take(file, hashes)?;
            *blake3::hash(&file[first..first + hashes]).as_bytes()
        } else {
            let from = usize::try_from(long(file, place)).ok()?;
            let to = from.checked_add(usize::try_from(bytes).ok()?)?;
            *blake3::hash(file.get(from..to)?).as_bytes()
        };
        file[hash..hash + 32].copy_from_slice(&signed);
    }
    Some(())
}

/// The manifest's JSON, as a reader takes it.
pub fn manifest(input: &[u8]) -> Outcome {
    let read = serde_json::from_slice(input);
    let manifest: Manifest = read.map_err(|e| vec![Refusal::new("E0409", e)])?;
    let printed = serde_json::to_vec(&manifest).unwrap();
    let again: Manifest = serde_json::from_slice(&printed).unwrap();
    assert_eq!(again, manifest, "another manifest is read again");
    Ok(())
}

/// A statement of provenance, held against a file that it does not speak of.
pub fn statement(input: &[u8]) -> Outcome {
    let refused = |e: AttestError| vec![Refusal::new(e.code(), e)];
    let statement = Statement::parse("statement", input).map_err(refused)?;
    let again = Statement::parse("printed", statement.text().as_bytes());
    assert_eq!(again.unwrap(), statement, "another statement is read again");
    let other = statement.check_subject("statement", Path::new("file"), "no digest");
    assert!(other.is_err(), "it speaks of any file");
    statement.check_build("statement", &small_manifest()).map_err(refused)
}

/// The plan: its JSON, its check, and every size in it for steps of all kinds.
pub fn plan(input: &[u8]) -> Outcome {
    let plan = Plan::parse(input).map_err(refused)?;
    let printed = serde_json::to_vec(&plan).unwrap();
    assert_eq!(Plan::parse(&printed).ok().as_ref(), Some(&plan), "another plan is read again");
    plan.check(WEIGHTS_BYTES).map_err(refused)?;
    for value in [0, 1, 513, i64::from(i32::MAX), i64::MAX, i64::MIN, -1] {
        let symbols = vec![value; plan.symbols.len()];
        plan.entries.iter().for_each(|entry| measure(entry, &symbols));
    }
    Ok(())
}

fn measure(entry: &Entry, symbols: &[i64]) {
    let size = |expr: &SizeExpr| check_size(expr, symbols);
    for tensor in entry.inputs.iter().chain(&entry.outputs) {
        tensor.dims.iter().chain([&tensor.bytes]).for_each(size);
    }
    for bucket in &entry.buckets {
        bucket.covers(symbols);
        bucket.when.iter().flatten().for_each(|condition| size(&condition.expr));
        bucket.arenas.iter().for_each(size);
        bucket.buffers.iter().flat_map(|b| [&b.offset, &b.bytes]).for_each(size);
        for step in &bucket.steps {
            match step {
                Step::Barrier => {}
                Step::Copy { bytes, .. } => size(bytes),
                Step::Launch(launch) => {
                    size(&launch.work.bytes);
                    size(&launch.work.flops);
                    let (Grid::Dense(count) | Grid::List { each: count, .. }) = &launch.grid;
                    size(count);
                }
            }
        }
    }
}

/// A size program in bytes: each begins with an operation, and constants and symbols have more.
pub fn size(input: &[u8]) -> Outcome {
    let mut ops = vec![];
    let mut rest = input;
    while let Some((op, more)) = rest.split_first() {
        rest = more;
        let mut number = |count: usize| {
            let (own, more) = rest.split_at(rest.len().min(count));
            rest = more;
            own.iter().rev().fold(0i64, |n, byte| n << 8 | i64::from(*byte))
        };
        ops.push(match op % 9 {
            0 => SizeOp::Const(number(8)),
            1 => SizeOp::Symbol(number(1) as u32),
            2 => SizeOp::Add,
            3 => SizeOp::Mul,
            4 => SizeOp::FloorDiv,
            5 => SizeOp::CeilDiv,
            6 => SizeOp::Min,
            7 => SizeOp::Max,
            _ => SizeOp::Const(number(1)),
        });
    }
    let expr = SizeExpr(ops);
    let symbols = [0, 1, -1, 4096, i64::MAX, i64::MIN];
    check_size(&expr, &symbols);
    match expr.is_well_formed(symbols.len()) {
        true => Ok(()),
        false => Err(vec![Refusal::new("E0410", "not a whole program")]),
    }
}

/// Compares a size with the same in integers twice as wide.
fn check_size(expr: &SizeExpr, symbols: &[i64]) {
    let expected = wide(expr, symbols);
    assert_eq!(expr.eval(symbols), expected, "{expr:?} for {symbols:?}");
    if expected.is_some() {
        assert!(expr.is_well_formed(symbols.len()), "{expr:?} has a value");
    }
}

/// The value of a size, if it and every part of it is a number of 64 bits.
fn wide(expr: &SizeExpr, symbols: &[i64]) -> Option<i64> {
    let mut stack: Vec<i128> = vec![];
    for op in &expr.0 {
        let value = match *op {
            SizeOp::Const(c) => c.into(),
            SizeOp::Symbol(i) => (*symbols.get(i as usize)?).into(),
            _ => {
                let (b, a) = (stack.pop()?, stack.pop()?);
                match op {
                    SizeOp::Add => a + b,
                    SizeOp::Mul => a * b,
                    SizeOp::FloorDiv | SizeOp::CeilDiv if b <= 0 => return None,
                    SizeOp::FloorDiv => a.div_euclid(b),
                    SizeOp::CeilDiv => -(-a).div_euclid(b),
                    SizeOp::Min => a.min(b),
                    _ => a.max(b),
                }
            }
        };
        stack.push(i64::try_from(value).ok()?.into());
    }
    match stack[..] {
        [value] => i64::try_from(value).ok(),
        _ => None,
    }
}

/// A code image; nothing of it is called.
pub fn image(input: &[u8]) -> Outcome {
    let loaded = Image::load(input);
    loaded.map(|_| ()).map_err(|e| vec![Refusal::new(e.code(), e)])
}
