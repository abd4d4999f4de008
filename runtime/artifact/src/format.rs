//! The bytes of an artifact: header, section table, footer.
//!
//! ```text
//! [executable, zeros to a page]       only in an executable; itself a section, `stub`
//! header                              one page: magic, version, byte order
//! sections                            each begins on a page
//! section table
//! footer                              80 bytes, ends the file
//! ```
//!
//! A weights file has a header page of its own, then the weights. All integers are little-endian,
//! and every byte outside a section is either checked by a hash or must be zero.

use crate::error::ArtifactError;
use std::collections::BTreeMap;

/// Version of the file format: a reader accepts its own major and any minor.
pub const FORMAT_VERSION: (u16, u16) = (1, 0);
/// Alignment of sections, bytes.
pub const PAGE: u64 = 4096;
/// Bytes of weights per hash.
pub const CHUNK: u64 = 16 << 20;
/// Bytes of the footer.
pub const FOOTER_BYTES: u64 = 80;

/// Manifest, JSON.
pub const MANIFEST: &str = "manifest";
/// Plan, JSON.
pub const PLAN: &str = "plan";
/// The checkpoint's `tokenizer.json`, verbatim.
pub const TOKENIZER: &str = "tokenizer";
/// The checkpoint's `tokenizer_config.json`, verbatim.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config";
/// The program that was lowered, as imported: text. Lowering it again gives the kernels.
pub const PROGRAM: &str = "program";
/// How each block's forms came about from its graph as imported: text.
pub const CERTIFICATE: &str = "certificate";
/// How weights come about that are not in the file, JSON.
pub const RECIPE: &str = "recipe";
/// Packed weights.
pub const WEIGHTS: &str = "weights";
/// The executable in front of the header.
pub const STUB: &str = "stub";
/// What the names of code sections begin with.
pub const CODE_PREFIX: &str = "code/";

const HEADER_MAGIC: [u8; 8] = *b"\x7fLATENTC";
const FOOTER_MAGIC: [u8; 8] = *b"LATENTC\x7f";
const WEIGHTS_MAGIC: [u8; 8] = *b"\x7fLATENTW";
const BYTE_ORDER: u32 = 0x0403_0201;
/// More sections than any compiler writes; keeps absurd tables from being parsed.
const MAX_SECTIONS: u32 = 1 << 16;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// A hash as lower-case hexadecimal text.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The hash of some bytes as lower-case hexadecimal text.
pub fn digest(bytes: &[u8]) -> String {
    hex(blake3::hash(bytes).as_bytes())
}

/// Name of the code section for a target, ISA level and backend.
pub fn code_section(target: &str, isa: &str, backend: &str) -> String {
    format!("{CODE_PREFIX}{target}/{isa}/{backend}")
}

/// `value` rounded up to a multiple of `align`, a power of two.
pub fn align_up(value: u64, align: u64) -> Option<u64> {
    Some(value.checked_add(align - 1)? & !(align - 1))
}

/// Where a section's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In this file.
    Here {
        /// First byte, from the start of the file.
        offset: u64,
    },
    /// In a weights file beside this one, after its header page.
    External {
        /// The file's name, without a folder.
        file: String,
    },
}

/// Hashes of equal pieces of a section that is too large to be hashed at every load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Bytes of every piece but the last.
    pub bytes: u64,
    /// One per piece.
    pub hashes: Vec<Hash>,
}

/// One row of the section table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Unique name, e.g. `plan` or `code/cpu/x86-64-v3/llvm`.
    pub name: String,
    /// Further facts, e.g. `isa` of a code section.
    pub attributes: BTreeMap<String, String>,
    /// Where its bytes are.
    pub location: Location,
    /// Number of bytes.
    pub bytes: u64,
    /// Hash of the bytes, or of the hashes of all chunks in order.
    pub hash: Hash,
    /// Present for weights.
    pub chunks: Option<Chunks>,
}

impl Section {
    /// The section's bytes, if they are in `file`, the whole artifact.
    pub fn bytes_in<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        let Location::Here { offset } = self.location else { return None };
        let end = offset.checked_add(self.bytes)?;
        file.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
    }
}

/// Hash of a chunked section: of its chunks' hashes in order.
pub fn chunked_hash(hashes: &[Hash]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for hash in hashes {
        hasher.update(hash);
    }
    *hasher.finalize().as_bytes()
}

/// The header page of an artifact.
pub(crate) fn header(version: (u16, u16)) -> Vec<u8> {
    let mut page = preamble(HEADER_MAGIC, version);
    page.resize(PAGE as usize, 0);
    page
}

/// Whether `bytes` begin like an artifact without an executable in front.
pub(crate) fn begins_with_header(bytes: &[u8]) -> bool {
    bytes.starts_with(&HEADER_MAGIC)
}

/// The header page of a weights file that holds `section`'s bytes.
pub(crate) fn weights_header(section: &Section, version: (u16, u16)) -> Vec<u8> {
    let mut page = preamble(WEIGHTS_MAGIC, version);
    page.extend(section.bytes.to_le_bytes());
    page.extend(section.hash);
    let hash = *blake3::hash(&page).as_bytes();
    page.extend(hash);
    page.resize(PAGE as usize, 0);
    page
}

/// Checks the head of a weights file (at least a page) and gives its format version.
pub(crate) fn weights_version(page: &[u8]) -> Result<(u16, u16), ArtifactError> {
    let mut cursor = Cursor::new(page, "header of the weights file");
    if cursor.take(8)? != WEIGHTS_MAGIC {
        return Err(ArtifactError::NotAnArtifact { bytes: page.len() as u64 });
    }
    check_version(&mut cursor)
}

fn preamble(magic: [u8; 8], version: (u16, u16)) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    put_version(&mut bytes, version);
    bytes
}

fn put_version(bytes: &mut Vec<u8>, version: (u16, u16)) {
    bytes.extend(BYTE_ORDER.to_le_bytes());
    bytes.extend(version.0.to_le_bytes());
    bytes.extend(version.1.to_le_bytes());
}

fn check_version(cursor: &mut Cursor<'_>) -> Result<(u16, u16), ArtifactError> {
    let order = cursor.u32()?;
    if order != BYTE_ORDER {
        return Err(ArtifactError::ByteOrder { found: order, expected: BYTE_ORDER });
    }
    let found = (cursor.u16()?, cursor.u16()?);
    if found.0 != FORMAT_VERSION.0 {
        return Err(ArtifactError::Version { what: "format", found, expected: FORMAT_VERSION });
    }
    Ok(found)
}

/// The last bytes of the file. Version and magic come last, where every major will keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Offset of the header: bytes of the executable in front, rounded up to a page.
    pub base: u64,
    /// Offset of the section table.
    pub table: u64,
    /// Bytes of the section table.
    pub table_bytes: u64,
    /// Bytes of the whole file.
    pub file_bytes: u64,
    /// Format version, major and minor.
    pub version: (u16, u16),
}

impl Footer {
    fn numbers(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES as usize);
        for value in [self.base, self.table, self.table_bytes, self.file_bytes] {
            bytes.extend(value.to_le_bytes());
        }
        bytes
    }

    /// Hash of the table and of the footer's own fields.
    fn hash(&self, table: &[u8]) -> Hash {
        let mut version = Vec::new();
        put_version(&mut version, self.version);
        let mut hasher = blake3::Hasher::new();
        hasher.update(table).update(&self.numbers()).update(&version);
        *hasher.finalize().as_bytes()
    }

    pub(crate) fn encode(&self, table: &[u8]) -> Vec<u8> {
        let mut bytes = self.numbers();
        bytes.extend(self.hash(table));
        put_version(&mut bytes, self.version);
        bytes.extend(FOOTER_MAGIC);
        bytes
    }

    /// Finds and checks the footer of `file`; gives it with the bytes of the table.
    pub(crate) fn find(file: &[u8]) -> Result<(Footer, &[u8]), ArtifactError> {
        let bytes = file.len() as u64;
        if !file.ends_with(&FOOTER_MAGIC) {
            return Err(match begins_with_header(file) {
                true => {
                    let expected = bytes.saturating_add(1);
                    ArtifactError::Truncated { what: "footer", expected, found: bytes }
                }
                false => ArtifactError::NotAnArtifact { bytes },
            });
        }
        let tail = &file[file.len().saturating_sub(FOOTER_BYTES as usize)..];
        if (tail.len() as u64) < FOOTER_BYTES {
            return Err(ArtifactError::NotAnArtifact { bytes });
        }
        let mut cursor = Cursor::new(&tail[64..72], "footer");
        let version = check_version(&mut cursor)?;
        let mut cursor = Cursor::new(tail, "footer");
        let footer = Footer {
            base: cursor.u64()?,
            table: cursor.u64()?,
            table_bytes: cursor.u64()?,
            file_bytes: cursor.u64()?,
            version,
        };
        let table = footer.table_of(file)?;
        let (found, expected) = (footer.hash(table), cursor.hash()?);
        if found != expected {
            let (found, expected) = (hex(&found), hex(&expected));
            return Err(ArtifactError::TableDamaged { found, expected });
        }
        Ok((footer, table))
    }

    fn table_of<'a>(&self, file: &'a [u8]) -> Result<&'a [u8], ArtifactError> {
        let bytes = file.len() as u64;
        if self.file_bytes != bytes {
            let expected = self.file_bytes;
            return Err(ArtifactError::Truncated { what: "file", expected, found: bytes });
        }
        let end = self.table.checked_add(self.table_bytes);
        if end != Some(bytes - FOOTER_BYTES) {
            return Err(ArtifactError::Malformed {
                what: "section table".into(),
                found: format!("{} bytes at {}", self.table_bytes, self.table),
                expected: format!("a table that ends at {}", bytes - FOOTER_BYTES),
            });
        }
        // In range: the end is within the file, and the start is not after the end.
        Ok(&file[self.table as usize..(bytes - FOOTER_BYTES) as usize])
    }
}

/// The section table's bytes.
pub(crate) fn encode_table(sections: &[Section]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((sections.len() as u32).to_le_bytes());
    for section in sections {
        put_text(&mut out, &section.name);
        out.extend((section.attributes.len() as u32).to_le_bytes());
        for (key, value) in &section.attributes {
            put_text(&mut out, key);
            put_text(&mut out, value);
        }
        match &section.location {
            Location::Here { offset } => {
                out.push(0);
                out.extend(offset.to_le_bytes());
            }
            Location::External { file } => {
                out.push(1);
                put_text(&mut out, file);
            }
        }
        out.extend(section.bytes.to_le_bytes());
        out.extend(section.hash);
        let chunks = section.chunks.as_ref();
        out.extend(chunks.map_or(0, |c| c.bytes).to_le_bytes());
        for hash in chunks.iter().flat_map(|c| &c.hashes) {
            out.extend(hash);
        }
    }
    out
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Parses the section table. Bytes after the last row are for newer minor versions to use.
pub(crate) fn decode_table(
    table: &[u8],
    version: (u16, u16),
) -> Result<Vec<Section>, ArtifactError> {
    let mut cursor = Cursor::new(table, "section table");
    let count = cursor.u32()?;
    if count > MAX_SECTIONS {
        return Err(malformed("number of sections", count, format!("at most {MAX_SECTIONS}")));
    }
    let mut sections = Vec::new();
    for _ in 0..count {
        sections.push(decode_section(&mut cursor)?);
    }
    if version.1 <= FORMAT_VERSION.1 && cursor.left() != 0 {
        return Err(malformed("bytes after the section table's last row", cursor.left(), "0"));
    }
    Ok(sections)
}

fn decode_section(cursor: &mut Cursor<'_>) -> Result<Section, ArtifactError> {
    let name = cursor.text()?;
    let mut attributes = BTreeMap::new();
    for _ in 0..cursor.u32()? {
        attributes.insert(cursor.text()?, cursor.text()?);
    }
    let location = match cursor.u8()? {
        0 => Location::Here { offset: cursor.u64()? },
        1 => Location::External { file: cursor.text()? },
        kind => return Err(malformed("location of a section", kind, "0 or 1")),
    };
    let bytes = cursor.u64()?;
    let hash = cursor.hash()?;
    let chunk = cursor.u64()?;
    let mut chunks = None;
    if chunk != 0 {
        let count = bytes.div_ceil(chunk);
        if count > cursor.left() / 32 {
            let expected = format!("at most {}", cursor.left() / 32);
            return Err(malformed("number of chunks", count, expected));
        }
        let hashes = (0..count).map(|_| cursor.hash()).collect::<Result<_, _>>()?;
        chunks = Some(Chunks { bytes: chunk, hashes });
    }
    Ok(Section { name, attributes, location, bytes, hash, chunks })
}

/// A [`ArtifactError::Malformed`] from anything that prints.
pub(crate) fn malformed(
    what: impl ToString,
    found: impl ToString,
    expected: impl ToString,
) -> ArtifactError {
    ArtifactError::Malformed {
        what: what.to_string(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

/// Reads little-endian fields, refusing to run over the end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Cursor { bytes, at: 0, what }
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ArtifactError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            let expected = (self.at as u64).saturating_add(count as u64);
            let found = self.bytes.len() as u64;
            return Err(ArtifactError::Truncated { what: self.what, expected, found });
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ArtifactError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, ArtifactError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, ArtifactError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, ArtifactError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ArtifactError> {
        self.array().map(u64::from_le_bytes)
    }

    fn hash(&mut self) -> Result<Hash, ArtifactError> {
        self.array()
    }

    fn text(&mut self) -> Result<String, ArtifactError> {
        let count = self.u32()? as usize;
        let bytes = self.take(count)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(malformed(self.what, error, "utf-8 text")),
        }
    }
}
