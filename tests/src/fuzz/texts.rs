//! Parsers of the compiler's own texts.

use super::{Outcome, Refusal, utf8};
use compiler::certificate;
use compiler::options::Options;
use ir::device::DeviceSpec;
use ir::error::IrError;
use ir::graph::parse::{parse_graph, parse_program};
use ir::graph::range::Range;
use ir::graph::verify::reach::Caller;
use ir::kernel::parse::{kernels, packing as parse_packing};
use ir::kernel::verify::verify;
use std::fmt::{Debug, Display};

/// Diagnostics of a text, each of which must lie in it.
fn refusals(text: &str, errors: &[IrError]) -> Vec<Refusal> {
    assert!(!errors.is_empty(), "refused without a diagnostic");
    let one = |error: &IrError| {
        if let Some(span) = error.span {
            let inside = text.get(span.start..span.end).is_some();
            assert!(inside, "{error} lies at {span:?} of {} bytes", text.len());
        }
        Refusal::new(error.kind.code(), error)
    };
    errors.iter().map(one).collect()
}

/// What was read must be printed so that the same is read again.
fn same<T, E>(read: &T, parse: impl Fn(&str) -> Result<T, E>)
where
    T: Display + PartialEq,
    E: Debug,
{
    let printed = read.to_string();
    let again = parse(&printed);
    let again = again.unwrap_or_else(|e| panic!("the printed text is refused: {e:?}\n{printed}"));
    assert_eq!(again.to_string(), printed, "printed another way the second time");
    assert!(again == *read || printed.contains("nan"), "another thing is read from\n{printed}");
}

/// A graph.
pub fn graph(input: &[u8]) -> Outcome {
    let text = utf8(input)?;
    let graph = parse_graph(text).map_err(|e| refusals(text, &e))?;
    let sound = graph.verify();
    assert!(sound.is_ok(), "read, but not sound: {sound:?}");
    same(&graph, parse_graph);
    Ok(())
}

/// A program with its blocks.
pub fn program(input: &[u8]) -> Outcome {
    let text = utf8(input)?;
    let program = parse_program(text).map_err(|e| refusals(text, &e))?;
    same(&program, parse_program);
    let inputs = program.entries.iter().flat_map(|entry| &entry.inputs);
    let inputs = inputs.map(|input| (input.name.clone(), Range::number(0))).collect();
    let caller = Caller { symbols: program.symbols.clone(), inputs };
    program
        .verify()
        .and_then(|()| program.verify_reach(&caller))
        .map_err(|errors| errors.iter().map(|e| Refusal::new(e.kind.code(), e)).collect::<Vec<_>>())
}

/// Kernels.
pub fn kernel(input: &[u8]) -> Outcome {
    let text = utf8(input)?;
    for kernel in kernels(text).map_err(|e| refusals(text, &e))? {
        let sound = verify(&kernel);
        assert!(sound.is_ok(), "read, but not sound: {sound:?}");
        same(&kernel, ir::kernel::parse::kernel);
    }
    Ok(())
}

/// A packing alone.
pub fn packing(input: &[u8]) -> Outcome {
    let text = utf8(input)?;
    let packing = parse_packing(text).map_err(|e| refusals(text, &e))?;
    same(&packing, parse_packing);
    Ok(())
}

/// Certificates, and their check.
pub fn certificate(input: &[u8]) -> Outcome {
    let all = certificate::read(input).map_err(|e| vec![Refusal::new(e.code(), e)])?;
    let printed = certificate::text(&all);
    let again = certificate::read(printed.as_bytes());
    let again = again.unwrap_or_else(|e| panic!("the printed text is refused: {e}\n{printed}"));
    assert_eq!(certificate::text(&again), printed, "printed another way the second time");
    for certificate in &all {
        let checked = check::check(certificate, 1);
        checked.map_err(|e| vec![Refusal::new(e.code(), e)])?;
    }
    Ok(())
}

/// A device.
pub fn device(input: &[u8]) -> Outcome {
    let text = utf8(input)?;
    let device = DeviceSpec::from_json(text).map_err(|e| vec![Refusal::new(e.code(), e)])?;
    let printed = serde_json::to_string(&device).unwrap();
    let again = DeviceSpec::from_json(&printed);
    assert_eq!(again.ok().as_ref(), Some(&device), "another device is read from\n{printed}");
    Ok(())
}

/// Choices of `-C`, one a line.
pub fn options(input: &[u8]) -> Outcome {
    let mut options = Options::default();
    for line in utf8(input)?.lines() {
        options.set(line).map_err(|e| vec![Refusal::new(e.code(), e)])?;
    }
    let mut again = Options::default();
    for (key, value) in options.values() {
        let taken = again.set(&format!("{key}={value}"));
        assert_eq!(taken, Ok(()), "its own value is refused");
    }
    assert_eq!(again, options, "its own values mean something else");
    Ok(())
}
