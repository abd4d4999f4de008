//! Every kernel of `tests/files/kernel` is its own canonical text, and verifies.

use ir::kernel::{parse, verify::verify};
use std::path::Path;

#[test]
fn files_are_canonical() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files/kernel");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the folder of kernels") {
        let path = entry.expect("a file").path();
        let source = std::fs::read_to_string(&path).expect("a text");
        let kernels =
            parse::kernels(&source).unwrap_or_else(|e| panic!("{}: {e:#?}", path.display()));
        let text: String = kernels.iter().map(ToString::to_string).collect();
        let lines = source.lines().filter(|l| !l.starts_with("//"));
        let bare: String = lines.flat_map(|l| [l, "\n"]).collect();
        assert_eq!(text, bare, "{}", path.display());
        for kernel in &kernels {
            assert_eq!(verify(kernel), Ok(()));
            assert_eq!(parse::kernel(&kernel.to_string()).as_ref(), Ok(kernel));
            seen += 1;
        }
    }
    assert!(seen >= 9, "{seen} kernels");
}
