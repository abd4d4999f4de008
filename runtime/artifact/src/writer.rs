//! Writing an artifact as a stream: sections in order, hashes on the way, one rename at the end.

use crate::error::ArtifactError;
use crate::format::{
    self, CHUNK, Chunks, FORMAT_VERSION, Footer, Hash, Location, PAGE, STUB, Section, WEIGHTS,
};
use crate::unfinished;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightsPlace {
    /// In the artifact.
    #[default]
    Inline,
    /// In a second file, the artifact's name with `.weights` appended.
    External,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The section table.
    pub sections: Vec<Section>,
    /// Bytes of the artifact.
    pub file_bytes: u64,
    /// The weights file, if there is one.
    pub weights_file: Option<PathBuf>,
}

/// Writes one artifact. Nothing appears under the final name before [`Writer::finish`]; a writer
/// that is dropped unfinished leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    main: Output,
    weights: Option<Output>,
    weights_place: WeightsPlace,
    base: u64,
    sections: Vec<Section>,
    open: Option<OpenSection>,
}

#[derive(Debug)]
struct OpenSection {
    name: String,
    attributes: BTreeMap<String, String>,
    offset: u64,
    bytes: u64,
    hasher: blake3::Hasher,
    /// Hashes of the chunks that are full; `None` for a section hashed as a whole.
    chunks: Option<Vec<Hash>>,
    external: bool,
}

impl Writer {
    /// Begins the file `path`. With `stub`, the result is that executable with sections appended.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] when the folder cannot be written to.
    pub fn create(
        path: &Path,
        stub: Option<&[u8]>,
        weights: WeightsPlace,
    ) -> Result<Writer, ArtifactError> {
        let mut writer = Writer {
            path: path.to_owned(),
            main: Output::create(path)?,
            weights: None,
            weights_place: weights,
            base: 0,
            sections: Vec::new(),
            open: None,
        };
        if let Some(stub) = stub.filter(|stub| !stub.is_empty()) {
            writer.main.put(stub)?;
            writer.sections.push(Section {
                name: STUB.into(),
                attributes: BTreeMap::new(),
                location: Location::Here { offset: 0 },
                bytes: stub.len() as u64,
                hash: *blake3::hash(stub).as_bytes(),
                chunks: None,
            });
            writer.main.pad(PAGE)?;
            writer.main.make_executable()?;
        }
        writer.base = writer.main.at;
        writer.main.put(&format::header(FORMAT_VERSION))?;
        Ok(writer)
    }

    /// Writes a whole section.
    ///
    /// # Errors
    /// As [`Writer::begin_section`] and [`Writer::write`].
    pub fn section(
        &mut self,
        name: &str,
        attributes: &[(&str, &str)],
        bytes: &[u8],
    ) -> Result<(), ArtifactError> {
        self.begin_section(name, attributes)?;
        self.write(bytes)?;
        self.end_section()
    }

    /// Writes the code section of a target's ISA level, made by `backend`.
    ///
    /// # Errors
    /// As [`Writer::section`].
    pub fn code(
        &mut self,
        target: &str,
        isa: &str,
        backend: &str,
        image: &[u8],
    ) -> Result<(), ArtifactError> {
        let attributes = [("target", target), ("isa", isa), ("backend", backend)];
        self.section(&format::code_section(target, isa, backend), &attributes, image)
    }

    /// Writes the manifest section.
    ///
    /// # Errors
    /// As [`Writer::section`].
    pub fn manifest(&mut self, manifest: &crate::Manifest) -> Result<(), ArtifactError> {
        self.json(format::MANIFEST, manifest)
    }

    /// Writes the plan section.
    ///
    /// # Errors
    /// As [`Writer::section`].
    pub fn plan(&mut self, plan: &crate::Plan) -> Result<(), ArtifactError> {
        self.json(format::PLAN, plan)
    }

    /// Writes the recipe section.
    ///
    /// # Errors
    /// As [`Writer::section`].
    pub fn recipe(&mut self, recipe: &crate::Recipe) -> Result<(), ArtifactError> {
        self.json(format::RECIPE, recipe)
    }

    fn json(
        &mut self,
        name: &'static str,
        value: &impl serde::Serialize,
    ) -> Result<(), ArtifactError> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| ArtifactError::Schema { section: name, message: error.to_string() })?;
        self.section(name, &[], &bytes)
    }

    /// Begins a section, on a page of its own. The weights are begun by [`Writer::begin_weights`].
    ///
    /// # Errors
    /// [`ArtifactError::Order`] when another section is open or the name is taken.
    pub fn begin_section(
        &mut self,
        name: &str,
        attributes: &[(&str, &str)],
    ) -> Result<(), ArtifactError> {
        if name == WEIGHTS || name == STUB {
            return Err(order(format!("section `{name}`"), "begin_weights, or the stub of create"));
        }
        self.begin(name, attributes, false, false)
    }

    /// Begins the weights, hashed by chunks of [`CHUNK`] bytes.
    ///
    /// # Errors
    /// As [`Writer::begin_section`].
    pub fn begin_weights(&mut self) -> Result<(), ArtifactError> {
        let external = self.weights_place == WeightsPlace::External;
        if external && self.weights.is_none() {
            let mut output = Output::create(&weights_path(&self.path))?;
            // Length and hash are known at the end only: `finish` writes over this page.
            output.put(&[0; PAGE as usize])?;
            self.weights = Some(output);
        }
        self.begin(WEIGHTS, &[], true, external)
    }

    fn begin(
        &mut self,
        name: &str,
        attributes: &[(&str, &str)],
        chunked: bool,
        external: bool,
    ) -> Result<(), ArtifactError> {
        if let Some(open) = &self.open {
            let found = format!("section `{name}` while `{}` is open", open.name);
            return Err(order(found, "end_section first"));
        }
        if self.sections.iter().any(|s| s.name == name) {
            return Err(order(format!("a second section `{name}`"), "unique names"));
        }
        if !external {
            self.main.pad(PAGE)?;
        }
        self.open = Some(OpenSection {
            name: name.into(),
            attributes: attributes.iter().map(|&(k, v)| (k.into(), v.into())).collect(),
            offset: self.main.at,
            bytes: 0,
            hasher: blake3::Hasher::new(),
            chunks: chunked.then(Vec::new),
            external,
        });
        Ok(())
    }

    /// Appends to the open section.
    ///
    /// # Errors
    /// [`ArtifactError::Order`] when no section is open, [`ArtifactError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        let Some(open) = &mut self.open else {
            return Err(order("write".into(), "begin_section first"));
        };
        let output = match (&mut self.weights, open.external) {
            (Some(weights), true) => weights,
            _ => &mut self.main,
        };
        output.put(bytes)?;
        open.hash(bytes);
        Ok(())
    }

    /// Bytes written to the open section so far; 0 when none is open.
    pub fn position(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.bytes)
    }

    /// Appends zeros to the open section until its length is a multiple of `align`, a power of
    /// two of at most a page; gives the new length.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn pad_to(&mut self, align: u64) -> Result<u64, ArtifactError> {
        if !align.is_power_of_two() || align > PAGE {
            return Err(order(format!("alignment {align}"), "a power of two up to 4096"));
        }
        let gap = self.position().wrapping_neg() & (align - 1);
        self.write(&[0; PAGE as usize][..gap as usize])?;
        Ok(self.position())
    }

    /// Ends the open section.
    ///
    /// # Errors
    /// [`ArtifactError::Order`] when no section is open.
    pub fn end_section(&mut self) -> Result<(), ArtifactError> {
        let Some(open) = self.open.take() else {
            return Err(order("end_section".into(), "begin_section first"));
        };
        let location = match open.external {
            true => Location::External { file: file_name(&weights_path(&self.path))? },
            false => Location::Here { offset: open.offset },
        };
        self.sections.push(open.close(location));
        Ok(())
    }

    /// Writes table and footer and gives the files their names.
    ///
    /// # Errors
    /// As [`Writer::seal`] and [`Sealed::publish`].
    pub fn finish(self) -> Result<Summary, ArtifactError> {
        self.seal()?.publish()
    }

    /// Writes all that is left to write, under no final name yet.
    ///
    /// # Errors
    /// [`ArtifactError::Order`] when a section is open, [`ArtifactError::Io`].
    pub fn seal(mut self) -> Result<Sealed, ArtifactError> {
        if let Some(open) = &self.open {
            return Err(order(format!("finish while `{}` is open", open.name), "end_section"));
        }
        let external = |s: &&Section| matches!(s.location, Location::External { .. });
        let external = self.sections.iter().find(external);
        let weights = self.weights.take().zip(external);
        let weights = weights.map(|(mut output, section)| {
            output.put_first(&format::weights_header(section, FORMAT_VERSION))?;
            Ok(output)
        });
        let weights = weights.transpose()?;
        self.main.pad(64)?;
        let table = format::encode_table(&self.sections);
        let footer = Footer {
            base: self.base,
            table: self.main.at,
            table_bytes: table.len() as u64,
            file_bytes: self.main.at + table.len() as u64 + format::FOOTER_BYTES,
            version: FORMAT_VERSION,
        };
        self.main.put(&table)?;
        self.main.put(&footer.encode(&table))?;
        self.main.flush()?;
        let summary = Summary {
            sections: self.sections,
            file_bytes: footer.file_bytes,
            weights_file: weights.as_ref().map(|output| output.path.clone()),
        };
        Ok(Sealed { files: weights.into_iter().chain([self.main]).collect(), last: None, summary })
    }
}

/// Files that are whole, and have no final name yet; they are gone if they are dropped.
#[derive(Debug)]
pub struct Sealed {
    /// In the order in which they get their names.
    files: Vec<Output>,
    /// A file that speaks of the others.
    last: Option<Output>,
    summary: Summary,
}

impl Sealed {
    /// Of each file, the name that it is to have and the one that it has.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.files.iter().map(|file| (file.path.as_path(), file.temporary.as_path()))
    }

    /// Adds the file [`statement_path`], which speaks of the others.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn state(&mut self, path: &Path, statement: &[u8]) -> Result<(), ArtifactError> {
        let mut output = Output::create(&statement_path(path))?;
        output.put(statement)?;
        output.flush()?;
        self.last = Some(output);
        Ok(())
    }

    /// Gives the files their names, when all of them are written. A statement that was there is
    /// removed before and comes last: none is better, meanwhile, than one of other files.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn publish(self) -> Result<Summary, ArtifactError> {
        if let Some(last) = &self.last {
            match std::fs::remove_file(&last.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(last.failed("replace", error));
                }
                _ => {}
            }
        }
        self.files.into_iter().chain(self.last).try_for_each(Output::publish)?;
        Ok(self.summary)
    }
}

/// The statement about the artifact `path`, where there is one.
pub fn statement_path(path: &Path) -> PathBuf {
    with_ending(path, ".intoto.json")
}

/// The weights file of the artifact `path`, where it has one.
pub(crate) fn weights_path(path: &Path) -> PathBuf {
    with_ending(path, ".weights")
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Writer::write(self, bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl OpenSection {
    fn hash(&mut self, mut bytes: &[u8]) {
        if let Some(chunks) = &mut self.chunks {
            loop {
                let room = (CHUNK - self.bytes % CHUNK) as usize;
                if bytes.len() < room {
                    break;
                }
                self.hasher.update(&bytes[..room]);
                chunks.push(*self.hasher.finalize().as_bytes());
                self.hasher.reset();
                self.bytes += room as u64;
                bytes = &bytes[room..];
            }
        }
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn close(mut self, location: Location) -> Section {
        let last = *self.hasher.finalize().as_bytes();
        if let Some(chunks) = &mut self.chunks
            && !self.bytes.is_multiple_of(CHUNK)
        {
            chunks.push(last);
        }
        let hash = self.chunks.as_deref().map_or(last, format::chunked_hash);
        Section {
            name: self.name,
            attributes: self.attributes,
            location,
            bytes: self.bytes,
            hash,
            chunks: self.chunks.map(|hashes| Chunks { bytes: CHUNK, hashes }),
        }
    }
}

fn order(found: String, expected: &'static str) -> ArtifactError {
    ArtifactError::Order { found, expected }
}

fn file_name(path: &Path) -> Result<String, ArtifactError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| ArtifactError::Name { path: path.into() })
}

/// A file under a temporary name in the folder of its final one.
#[derive(Debug)]
struct Output {
    /// The final name, which diagnostics speak of.
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    at: u64,
    done: bool,
}

impl Output {
    fn create(path: &Path) -> Result<Output, ArtifactError> {
        file_name(path)?;
        for attempt in 0u32.. {
            let temporary = unfinished::name(path, attempt);
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    unfinished::hold(&file);
                    let file = BufWriter::with_capacity(1 << 20, file);
                    return Ok(Output {
                        path: path.to_owned(),
                        temporary,
                        file,
                        at: 0,
                        done: false,
                    });
                }
                Err(error)
                    if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 1000 => {}
                Err(source) => {
                    let path = path.to_owned();
                    return Err(ArtifactError::Io { action: "create", path, source });
                }
            }
        }
        Err(order("no temporary name".into(), "an unused name in the destination folder"))
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> ArtifactError {
        ArtifactError::Io { action, path: self.path.clone(), source }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.file.write_all(bytes).map_err(|error| self.failed("write", error))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, align: u64) -> Result<(), ArtifactError> {
        let gap = self.at.wrapping_neg() & (align - 1);
        self.put(&[0; PAGE as usize][..gap as usize])
    }

    fn make_executable(&mut self) -> Result<(), ArtifactError> {
        let mode = Permissions::from_mode(0o755);
        self.file.get_ref().set_permissions(mode).map_err(|error| self.failed("write", error))
    }

    /// Writes `head` over the first bytes.
    fn put_first(&mut self, head: &[u8]) -> Result<(), ArtifactError> {
        let rewind = self.file.seek(SeekFrom::Start(0));
        rewind.map_err(|error| self.failed("write", error))?;
        self.file.write_all(head).map_err(|error| self.failed("write", error))?;
        self.flush()
    }

    fn flush(&mut self) -> Result<(), ArtifactError> {
        self.file.flush().map_err(|error| self.failed("write", error))
    }

    /// Gives the file, which is flushed, its name.
    fn publish(mut self) -> Result<(), ArtifactError> {
        let renamed = std::fs::rename(&self.temporary, &self.path);
        renamed.map_err(|error| self.failed("rename", error))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.done {
            // The writer is going away because of an earlier error, which is the one to report.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
