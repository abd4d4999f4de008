//! Reading an artifact out of mapped bytes, believing none of them.

use crate::error::ArtifactError;
use crate::format::{
    self, CODE_PREFIX, Footer, Location, MANIFEST, PAGE, PLAN, RECIPE, STUB, Section, WEIGHTS, hex,
    malformed,
};
use crate::{Manifest, Plan, Recipe};

/// A checked artifact: every section but the weights has the hash that the table states.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    file: &'a [u8],
    version: (u16, u16),
    sections: Vec<Section>,
}

/// One code section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code<'a> {
    /// Target, e.g. `cpu`.
    pub target: &'a str,
    /// Level of its instruction set, e.g. `x86-64-v3`.
    pub isa: &'a str,
    /// What made it, e.g. `llvm`.
    pub backend: &'a str,
    /// Name of the section.
    pub name: &'a str,
    /// The image.
    pub bytes: &'a [u8],
}

/// Where the weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights<'a> {
    /// In the artifact: their bytes, not checked yet.
    Here(&'a [u8]),
    /// In a file of this name beside the artifact; [`Reader::external_weights`] takes its bytes.
    External(&'a str),
}

impl<'a> Reader<'a> {
    /// Checks `file`: magic, version, byte order, bounds, the hash of the table and of every
    /// section except the weights.
    ///
    /// # Errors
    /// Any [`ArtifactError`] that speaks of a file; never panics, whatever the bytes.
    pub fn open(file: &'a [u8]) -> Result<Reader<'a>, ArtifactError> {
        let (footer, table) = Footer::find(file)?;
        let sections = format::decode_table(table, footer.version)?;
        check_layout(file, &footer, &sections)?;
        let reader = Reader { file, version: footer.version, sections };
        for section in &reader.sections {
            reader.check_hash(section)?;
        }
        Ok(reader)
    }

    /// Format version of the file.
    pub fn version(&self) -> (u16, u16) {
        self.version
    }

    /// All sections in the order of the table.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The bytes of section `name`, if the file has it and holds it itself.
    pub fn find(&self, name: &str) -> Option<&'a [u8]> {
        let section = self.sections.iter().find(|s| s.name == name)?;
        section.bytes_in(self.file)
    }

    /// The bytes of section `name`.
    ///
    /// # Errors
    /// [`ArtifactError::MissingSection`].
    pub fn section(&self, name: &str) -> Result<&'a [u8], ArtifactError> {
        self.find(name).ok_or_else(|| self.missing(name))
    }

    /// The manifest.
    ///
    /// # Errors
    /// [`ArtifactError::MissingSection`], [`ArtifactError::Schema`].
    pub fn manifest(&self) -> Result<Manifest, ArtifactError> {
        parse(MANIFEST, self.section(MANIFEST)?)
    }

    /// The plan, checked against itself and the length of the weights.
    ///
    /// # Errors
    /// [`ArtifactError::MissingSection`], [`ArtifactError::Version`], [`ArtifactError::Schema`],
    /// [`ArtifactError::Plan`].
    pub fn plan(&self) -> Result<Plan, ArtifactError> {
        let plan = Plan::parse(self.section(PLAN)?)?;
        // Of weights that a recipe makes, the section holds but some.
        let weights = match self.find(RECIPE) {
            Some(_) => u64::MAX,
            None => self.weights_bytes(),
        };
        plan.check(weights)?;
        Ok(plan)
    }

    /// How the weights of a plan come about, if not as the weights section has them; checked
    /// against both.
    ///
    /// # Errors
    /// [`ArtifactError::Version`], [`ArtifactError::Schema`], [`ArtifactError::Malformed`].
    pub fn recipe(&self, plan: &Plan) -> Result<Option<Recipe>, ArtifactError> {
        let Some(json) = self.find(RECIPE) else { return Ok(None) };
        let recipe = Recipe::parse(json)?;
        recipe.check(plan, self.weights_bytes())?;
        Ok(Some(recipe))
    }

    fn weights_bytes(&self) -> u64 {
        let weights = self.sections.iter().find(|s| s.name == WEIGHTS);
        weights.map_or(0, |section| section.bytes)
    }

    /// All code sections, in the order of the table.
    pub fn code(&self) -> Vec<Code<'_>> {
        let code = self.sections.iter().filter(|s| s.name.starts_with(CODE_PREFIX));
        code.filter_map(|s| {
            Some(Code {
                target: attribute_of(s, "target"),
                isa: attribute_of(s, "isa"),
                backend: attribute_of(s, "backend"),
                name: &s.name,
                bytes: s.bytes_in(self.file)?,
            })
        })
        .collect()
    }

    /// Where the weights are.
    ///
    /// # Errors
    /// [`ArtifactError::MissingSection`].
    pub fn weights(&self) -> Result<Weights<'_>, ArtifactError> {
        let section = self.weights_section()?;
        match &section.location {
            Location::External { file } => Ok(Weights::External(file)),
            Location::Here { .. } => {
                let bytes = section.bytes_in(self.file).ok_or_else(|| self.missing(WEIGHTS))?;
                Ok(Weights::Here(bytes))
            }
        }
    }

    /// Checks the bytes of a weights file against the reference to it, and gives the weights,
    /// whose own hashes are not checked yet.
    ///
    /// # Errors
    /// [`ArtifactError::ExternalWeights`], and what is wrong with the file's header.
    pub fn external_weights<'w>(&self, file: &'w [u8]) -> Result<&'w [u8], ArtifactError> {
        let section = self.weights_section()?;
        let Location::External { file: name } = &section.location else {
            return Err(malformed("weights", "a weights file", "weights in the artifact"));
        };
        let differs = |what, found: String, expected: String| ArtifactError::ExternalWeights {
            file: name.clone(),
            what,
            found,
            expected,
        };
        // The sum cannot overflow: the table's check bounds the length of sections.
        let expected = PAGE + section.bytes;
        if file.len() as u64 != expected {
            return Err(differs("length", file.len().to_string(), expected.to_string()));
        }
        let (header, weights) = file.split_at(PAGE as usize);
        let version = format::weights_version(header)?;
        let expected = format::weights_header(section, version);
        if header != expected {
            let (found, expected) = (blake3::hash(header), blake3::hash(&expected));
            let (found, expected) = (found.to_hex().to_string(), expected.to_hex().to_string());
            return Err(differs("header's hash", found, expected));
        }
        Ok(weights)
    }

    /// Checks every chunk of `weights` (from [`Reader::weights`] or
    /// [`Reader::external_weights`]) on `threads` threads. `progress` is told the bytes done and
    /// their total, from any thread.
    ///
    /// # Errors
    /// [`ArtifactError::WeightsDamaged`] for the first chunk that differs.
    pub fn verify_weights(
        &self,
        weights: &[u8],
        threads: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), ArtifactError> {
        self.weights_section()?.verify_chunks(weights, threads, progress)
    }

    fn weights_section(&self) -> Result<&Section, ArtifactError> {
        let section = self.sections.iter().find(|s| s.name == WEIGHTS);
        section.ok_or_else(|| self.missing(WEIGHTS))
    }

    fn missing(&self, name: &str) -> ArtifactError {
        let names: Vec<&str> = self.sections.iter().map(|s| s.name.as_str()).collect();
        ArtifactError::MissingSection { name: name.into(), found: names.join(", ") }
    }

    fn check_hash(&self, section: &Section) -> Result<(), ArtifactError> {
        let found = match (&section.chunks, section.bytes_in(self.file)) {
            (Some(chunks), _) => format::chunked_hash(&chunks.hashes),
            (None, Some(bytes)) => *blake3::hash(bytes).as_bytes(),
            (None, None) => return Err(malformed("external section", "no chunks", "chunks")),
        };
        if found == section.hash {
            return Ok(());
        }
        let (found, expected) = (hex(&found), hex(&section.hash));
        Err(ArtifactError::SectionDamaged { name: section.name.clone(), found, expected })
    }
}

fn attribute_of<'s>(section: &'s Section, key: &str) -> &'s str {
    section.attributes.get(key).map_or("", String::as_str)
}

fn parse<T: serde::de::DeserializeOwned>(
    section: &'static str,
    bytes: &[u8],
) -> Result<T, ArtifactError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ArtifactError::Schema { section, message: error.to_string() })
}

/// Sections lie one after another, page-aligned, with nothing but zeros between them.
fn check_layout(file: &[u8], footer: &Footer, sections: &[Section]) -> Result<(), ArtifactError> {
    let mut end = check_front(file, footer, sections.first())?;
    let mut names = std::collections::BTreeSet::new();
    for (i, section) in sections.iter().enumerate() {
        if !names.insert(section.name.as_str()) {
            return Err(malformed("section names", format!("two `{}`", section.name), "one"));
        }
        let offset = match &section.location {
            Location::Here { offset } => *offset,
            Location::External { file } => {
                check_external(section, file)?;
                continue;
            }
        };
        if section.name == STUB {
            if i != 0 || footer.base == 0 {
                return Err(malformed("section `stub`", format!("row {i}"), "the file's front"));
            }
            continue;
        }
        let after = offset.checked_add(section.bytes).filter(|after| *after <= footer.table);
        let Some(after) = after.filter(|_| offset >= end && offset.is_multiple_of(PAGE)) else {
            return Err(malformed(
                format!("section `{}`", section.name),
                format!("{} bytes at {offset}", section.bytes),
                format!("a page-aligned range from {end} to {}", footer.table),
            ));
        };
        check_zeros(file, end, offset)?;
        end = after;
    }
    check_zeros(file, end, footer.table)
}

/// Checks the executable's range and the header page; gives the header's end.
fn check_front(
    file: &[u8],
    footer: &Footer,
    first: Option<&Section>,
) -> Result<u64, ArtifactError> {
    let base = footer.base;
    let end = base.checked_add(PAGE).filter(|end| *end <= footer.table);
    let Some(end) = end.filter(|_| base.is_multiple_of(PAGE)) else {
        return Err(malformed("header", format!("offset {base}"), "a page before the table"));
    };
    if base > 0 {
        let stub = first.filter(|s| s.name == STUB && s.location == Location::Here { offset: 0 });
        let bytes = stub.map(|s| s.bytes).filter(|bytes| *bytes <= base);
        let Some(bytes) = bytes else {
            return Err(malformed("front of the file", "no section `stub`", "a section `stub`"));
        };
        check_zeros(file, bytes, base)?;
    }
    if file[base as usize..end as usize] != format::header(footer.version) {
        return Err(malformed("header", "other bytes", "magic, byte order, version and zeros"));
    }
    Ok(end)
}

fn check_external(section: &Section, file: &str) -> Result<(), ArtifactError> {
    let plain = !file.is_empty() && file != "." && file != ".." && !file.contains(['/', '\0']);
    let bounded = section.bytes.checked_add(PAGE).is_some_and(|bytes| bytes <= i64::MAX as u64);
    if plain && bounded && section.name == WEIGHTS && section.chunks.is_some() {
        return Ok(());
    }
    let found = format!("section `{}` of {} bytes in `{file}`", section.name, section.bytes);
    Err(malformed("external section", found, "chunked weights in a file named without a folder"))
}

/// Both ends are offsets in the file, `from <= to`.
fn check_zeros(file: &[u8], from: u64, to: u64) -> Result<(), ArtifactError> {
    let gap = &file[from as usize..to as usize];
    match gap.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => {
            let what = format!("padding at byte {}", from + at as u64);
            Err(malformed(what, gap[at], 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FOOTER_BYTES, FORMAT_VERSION, encode_table};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A file with any table, whose hashes are right: what a faulty or malicious writer can make.
    fn signed(sections: &[Section], extra: &[u8], version: (u16, u16)) -> Vec<u8> {
        let mut table = encode_table(sections);
        table.extend(extra);
        let mut file = format::header(version);
        file.resize(4 * PAGE as usize, 0);
        let footer = Footer {
            base: 0,
            table: file.len() as u64,
            table_bytes: table.len() as u64,
            file_bytes: file.len() as u64 + table.len() as u64 + FOOTER_BYTES,
            version,
        };
        file.extend(&table);
        file.extend(footer.encode(&table));
        file
    }

    fn section(name: &str, offset: u64, bytes: u64) -> Section {
        let zeros = vec![0; usize::try_from(bytes).unwrap_or(0).min(1 << 16)];
        Section {
            name: name.into(),
            attributes: BTreeMap::new(),
            location: Location::Here { offset },
            bytes,
            hash: *blake3::hash(&zeros).as_bytes(),
            chunks: None,
        }
    }

    fn code(sections: &[Section]) -> &'static str {
        let file = signed(sections, &[], FORMAT_VERSION);
        Reader::open(&file).map_or_else(|error| error.code(), |_| "ok")
    }

    #[test]
    fn ranges_are_checked() {
        assert_eq!(code(&[]), "ok");
        assert_eq!(code(&[section("a", 4096, 5000), section("b", 12288, 4096)]), "ok");
        assert_eq!(code(&[section("a", 4096, 5000), section("b", 8192, 10)]), "E0406");
        assert_eq!(code(&[section("a", 0, 10)]), "E0406");
        assert_eq!(code(&[section("a", 4100, 10)]), "E0406");
        assert_eq!(code(&[section("a", 12288, 4097)]), "E0406");
        assert_eq!(code(&[section("a", 4096, u64::MAX)]), "E0406");
        assert_eq!(code(&[section("a", u64::MAX - 4095, 4096)]), "E0406");
        assert_eq!(code(&[section("a", 4096, 1), section("a", 8192, 1)]), "E0406");
        assert_eq!(code(&[section("stub", 4096, 1)]), "E0406");
    }

    #[test]
    fn weights_files_are_named_without_a_folder() {
        let external = |file: &str, chunks: Option<format::Chunks>| {
            let hash = format::chunked_hash(&[]);
            let location = Location::External { file: file.into() };
            Section { location, hash, chunks, ..section(WEIGHTS, 0, 0) }
        };
        let chunks = Some(format::Chunks { bytes: 1 << 24, hashes: vec![] });
        assert_eq!(code(&[external("w", chunks.clone())]), "ok");
        for name in ["", ".", "..", "/etc/passwd", "../w", "a/b"] {
            assert_eq!(code(&[external(name, chunks.clone())]), "E0406", "{name}");
        }
        assert_eq!(code(&[external("w", None)]), "E0406");
    }

    #[test]
    fn newer_minors_are_read_and_other_majors_are_not() {
        let (major, minor) = FORMAT_VERSION;
        let newer = signed(&[section("a", 4096, 10)], b"later", (major, minor + 1));
        assert_eq!(Reader::open(&newer).map(|r| r.version()).ok(), Some((major, minor + 1)));
        let same = signed(&[], b"later", FORMAT_VERSION);
        assert_eq!(Reader::open(&same).map_err(|e| e.code()).err(), Some("E0406"));
        let other = signed(&[], &[], (major + 1, 0));
        assert_eq!(Reader::open(&other).map_err(|e| e.code()).err(), Some("E0403"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn absurd_tables_are_refused(rows in prop::collection::vec(
            (any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>()), 1..4)) {
            let row = |(i, &(offset, bytes, chunk, external)): (usize, &(u64, u64, u64, bool))| {
                let mut section = section(&format!("s{i}"), offset, bytes);
                if external {
                    section.location = Location::External { file: "w".into() };
                }
                section.chunks = Some(format::Chunks { bytes: chunk, hashes: vec![] });
                section
            };
            let sections: Vec<_> = rows.iter().enumerate().map(row).collect();
            prop_assert!(Reader::open(&signed(&sections, &[], FORMAT_VERSION)).is_err());
        }

        #[test]
        fn noise_as_table_is_refused(noise in prop::collection::vec(any::<u8>(), 1..300)) {
            let file = signed(&[section("a", 4096, 10)], &noise, FORMAT_VERSION);
            prop_assert!(Reader::open(&file).is_err());
        }
    }
}
