//! A writer of the smallest images that the loader takes, and of slightly wrong ones. Written
//! apart from the compiler's linker, so that both are held to the format and not to each other.

const PAGE: usize = 65536;
const MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
const RELATIVE: u64 = if cfg!(target_arch = "x86_64") { 8 } else { 1027 };

/// An image to be built: constants at 0, code on the second page, data on the third.
#[derive(Clone)]
pub struct Image {
    pub functions: Vec<(String, Vec<u8>)>,
    pub machine: u16,
    pub kind: u16,
    pub code_flags: u32,
    pub data_flags: u32,
    /// Symbols that the image wants from elsewhere.
    pub imports: Vec<String>,
    /// Place, kind and addend.
    pub relocations: Vec<(u64, u64, u64)>,
    /// Further rows of the dynamic table.
    pub dynamic: Vec<(u64, u64)>,
    pub data: Vec<u8>,
}

/// An image of `functions`.
pub fn of(functions: &[(&str, &[u8])]) -> Image {
    Image {
        functions: functions.iter().map(|(name, code)| (name.to_string(), code.to_vec())).collect(),
        machine: MACHINE,
        kind: 3,
        code_flags: 5,
        data_flags: 6,
        imports: vec![],
        relocations: vec![],
        dynamic: vec![],
        data: vec![0; 64],
    }
}

impl Image {
    /// Address of the data.
    pub fn data_at(&self) -> u64 {
        let code: usize =
            self.functions.iter().map(|(_, code)| code.len().next_multiple_of(16)).sum();
        (PAGE + code).next_multiple_of(PAGE) as u64
    }

    /// Address of a function.
    pub fn address(&self, name: &str) -> u64 {
        let before = self.functions.iter().take_while(|(n, _)| n != name);
        let before: usize = before.map(|(_, code)| code.len().next_multiple_of(16)).sum();
        (PAGE + before) as u64
    }

    /// Fills in `relocations` with the address of `name` at the start of the data.
    pub fn pointing_to(mut self, name: &str) -> Image {
        self.relocations = vec![(self.data_at(), RELATIVE, self.address(name))];
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut file = vec![0; 64 + 4 * 56];
        let rows = self.dynamic_rows(&mut file);
        let front = file.len() as u64;
        file.resize(PAGE, 0);
        for (_, code) in &self.functions {
            file.extend(code);
            file.resize(file.len().next_multiple_of(16), 0);
        }
        let code_bytes = (file.len() - PAGE) as u64;
        file.resize(self.data_at() as usize, 0);
        file.extend(&self.data);
        let data = (self.data_at(), self.data.len() as u64);
        let segments = [
            (1, 4, 0, front),
            (1, self.code_flags, PAGE as u64, code_bytes),
            (1, self.data_flags, data.0, data.1),
            (2, 4, rows.0, rows.1),
        ];
        self.headers(&mut file, segments);
        file
    }

    /// Names of all symbols, and their table.
    fn symbols(&self) -> [Vec<u8>; 2] {
        let mut names = vec![0u8];
        let mut symbols = vec![0u8; 24];
        let all = self.functions.iter().map(|(n, code)| (n, self.address(n), code.len(), 1u16));
        let all = all.chain(self.imports.iter().map(|n| (n, 0, 0, 0)));
        for (name, address, bytes, section) in all {
            symbols.extend((names.len() as u32).to_le_bytes());
            symbols.extend([0x12, 0]);
            symbols.extend(section.to_le_bytes());
            symbols.extend(address.to_le_bytes());
            symbols.extend((bytes as u64).to_le_bytes());
            names.extend(name.bytes());
            names.push(0);
        }
        [names, symbols]
    }

    /// Appends the dynamic table and what it points to; gives its place and bytes.
    fn dynamic_rows(&self, file: &mut Vec<u8>) -> (u64, u64) {
        let [names, symbols] = self.symbols();
        let count = (symbols.len() / 24) as u32;
        let mut hash = [1, count, 0].iter().flat_map(|w: &u32| w.to_le_bytes()).collect::<Vec<_>>();
        hash.resize(hash.len() + 4 * count as usize, 0);
        let relocations: Vec<u8> = self
            .relocations
            .iter()
            .flat_map(|(at, kind, add)| words(&[*at, *kind, *add]))
            .collect();
        let mut place = |bytes: &[u8]| {
            file.resize(file.len().next_multiple_of(8), 0);
            let at = file.len() as u64;
            file.extend(bytes);
            at
        };
        let mut dynamic = vec![
            (4, place(&hash)),
            (5, place(&names)),
            (10, names.len() as u64),
            (6, place(&symbols)),
            (7, place(&relocations)),
            (8, relocations.len() as u64),
        ];
        dynamic.extend(&self.dynamic);
        dynamic.push((0, 0));
        let rows: Vec<u8> =
            dynamic.iter().flat_map(|(tag, value)| words(&[*tag, *value])).collect();
        (place(&rows), rows.len() as u64)
    }

    /// Fills in the file's header and those of its segments: kind, flags, place, bytes.
    fn headers(&self, file: &mut [u8], segments: [(u32, u32, u64, u64); 4]) {
        for (i, (kind, flags, at, bytes)) in segments.into_iter().enumerate() {
            let mut header = kind.to_le_bytes().to_vec();
            header.extend(flags.to_le_bytes());
            header.extend(words(&[at, at, at, bytes, bytes, PAGE as u64]));
            file[64 + 56 * i..][..56].copy_from_slice(&header);
        }
        file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        for (at, value) in [(16, self.kind), (18, self.machine), (54, 56), (56, 4)] {
            file[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        file[32] = 64;
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}
