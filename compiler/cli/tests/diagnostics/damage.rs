//! What can be done to a file of a scene.

use crate::tensors;
use artifact::Reader;
use artifact::format::{STUB, WEIGHTS};
use artifact::writer::{WeightsPlace, Writer};
use serde_json::Value;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

type Done = Result<(), String>;

/// Does one damage: the words of a line, and the text below it.
pub fn apply(scene: &Path, words: &[&str], text: &str) -> Done {
    let file = |name: &str| scene.join(name);
    match words {
        ["write", name] => save(&file(name), text.as_bytes()),
        ["folder", name] => fs::create_dir(file(name)).map_err(said),
        ["link", name, to] => std::os::unix::fs::symlink(to, file(name)).map_err(said),
        ["pipe", name] => pipe(&file(name)),
        ["mode", octal, name] => {
            let mode = u32::from_str_radix(octal, 8).map_err(said)?;
            fs::set_permissions(file(name), fs::Permissions::from_mode(mode)).map_err(said)
        }
        ["rename", from, to] => fs::rename(file(from), file(to)).map_err(said),
        ["copy", from, to] => {
            let from = match from.strip_prefix("ROOT/") {
                Some(rest) => crate::root().join(rest),
                None => file(from),
            };
            fs::copy(from, file(to)).map(drop).map_err(said)
        }
        ["remove", name] => fs::remove_file(file(name)).map_err(said),
        ["in", name, section, rest @ ..] => within(&file(name), section, rest, text),
        ["flip", name, section, at] => flip(&file(name), section, at),
        [verb, name, rest @ ..] => {
            let path = file(name);
            let bytes = fs::read(&path).map_err(said)?;
            save(&path, &changed(verb, bytes, rest)?)
        }
        _ => Err("no such damage".into()),
    }
}

fn pipe(path: &Path) -> Done {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(said)?;
    // SAFETY: the name is a C string.
    match unsafe { libc::mkfifo(name.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(said(std::io::Error::last_os_error())),
    }
}

fn said(e: impl ToString) -> String {
    e.to_string()
}

fn save(path: &Path, bytes: &[u8]) -> Done {
    fs::write(path, bytes).map_err(said)
}

/// A file's bytes after a damage to them.
fn changed(verb: &str, mut bytes: Vec<u8>, words: &[&str]) -> Result<Vec<u8>, String> {
    match (verb, words) {
        ("set", [pointer, value]) => in_json(&bytes, |json| set(json, pointer, Some(value))),
        ("unset", [pointer]) => in_json(&bytes, |json| set(json, pointer, None)),
        ("replace", [old, new]) => replaced(&bytes, old, new, 1),
        ("replace-all", [old, new]) => replaced(&bytes, old, new, usize::MAX),
        ("cut", [length]) => {
            let length = place(length, bytes.len())?;
            bytes.truncate(length);
            Ok(bytes)
        }
        ("poke", [at, hex]) => {
            let at = place(at, bytes.len())?;
            let new = unhex(hex)?;
            let range = bytes.get_mut(at..at + new.len()).ok_or("beyond the file")?;
            range.copy_from_slice(&new);
            Ok(bytes)
        }
        ("append", [hex]) => Ok([bytes, unhex(hex)?].concat()),
        ("zeros", [count]) => Ok(vec![0; count.parse().map_err(said)?]),
        ("header", [old, new]) => {
            tensors::in_header(&bytes, |header| replaced(header, old, new, 1))
        }
        ("plant", [tensor, index, value]) => tensors::plant(bytes, tensor, index, value),
        _ => Err("no such damage".into()),
    }
}

/// A place in `length` bytes; from the end where it is negative.
fn place(text: &str, length: usize) -> Result<usize, String> {
    let at: i64 = text.parse().map_err(said)?;
    let at = if text.starts_with('-') { length as i64 + at } else { at };
    usize::try_from(at).ok().filter(|at| *at <= length).ok_or(format!("{text} of {length} bytes"))
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits = |i: usize| u8::from_str_radix(text.get(i..i + 2).unwrap_or("-"), 16).map_err(said);
    (0..text.len()).step_by(2).map(digits).collect()
}

fn replaced(bytes: &[u8], old: &str, new: &str, count: usize) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(bytes).map_err(said)?;
    if !text.contains(old) {
        return Err(format!("{old:?} is not there"));
    }
    Ok(text.replacen(old, new, count).into_bytes())
}

fn in_json(bytes: &[u8], change: impl Fn(&mut Value) -> Done) -> Result<Vec<u8>, String> {
    let mut json: Value = serde_json::from_slice(bytes).map_err(said)?;
    change(&mut json)?;
    serde_json::to_vec_pretty(&json).map_err(said)
}

/// Sets what a JSON pointer names, or removes it.
fn set(json: &mut Value, pointer: &str, value: Option<&str>) -> Done {
    let (parent, key) = pointer.rsplit_once('/').ok_or("a pointer begins with `/`")?;
    let parent = json.pointer_mut(parent).ok_or(format!("{parent} is not there"))?;
    let value = value.map(serde_json::from_str::<Value>).transpose().map_err(said)?;
    match (parent, value) {
        (Value::Object(map), Some(value)) => drop(map.insert(key.into(), value)),
        (Value::Object(map), None) => drop(map.shift_remove(key).ok_or(format!("no {key}"))?),
        (Value::Array(list), value) => {
            let at: usize = key.parse().map_err(said)?;
            match value {
                Some(value) if at == list.len() => list.push(value),
                Some(value) => *list.get_mut(at).ok_or(format!("no {at}"))? = value,
                None if at < list.len() => drop(list.remove(at)),
                None => return Err(format!("no {at}")),
            }
        }
        _ => return Err(format!("{pointer} is within neither an object nor a list")),
    }
    Ok(())
}

/// Flips a bit of a section's byte; nothing vouches for the file afterwards.
fn flip(path: &Path, section: &str, at: &str) -> Done {
    let mut bytes = fs::read(path).map_err(said)?;
    let start = {
        let reader = Reader::open(&bytes).map_err(said)?;
        let row = reader.sections().iter().find(|s| s.name.starts_with(section));
        let found = row.ok_or(format!("no section {section}"))?.bytes_in(&bytes);
        let found = found.ok_or("it is in another file")?;
        found.as_ptr() as usize - bytes.as_ptr() as usize + place(at, found.len())?
    };
    bytes[start] ^= 0x10;
    save(path, &bytes)
}

/// Does a damage to a section and writes the artifact anew, with hashes that are right. `remove`
/// leaves the section out, `write` replaces it by the text, `add` adds one that was not there.
fn within(path: &Path, name: &str, words: &[&str], text: &str) -> Done {
    let bytes = fs::read(path).map_err(said)?;
    let reader = Reader::open(&bytes).map_err(said)?;
    let found = |wanted: &str| reader.sections().iter().find(|s| s.name.starts_with(wanted));
    if words == ["add"] && found(name).is_some() {
        return Err(format!("there is a section {name}"));
    }
    let damaged = match words {
        ["add"] => name,
        _ => &found(name).ok_or(format!("no section {name}"))?.name,
    };
    let stub = found(STUB).and_then(|s| s.bytes_in(&bytes));
    let mut writer = Writer::create(path, stub, WeightsPlace::Inline).map_err(said)?;
    for section in reader.sections().iter().filter(|s| s.name != STUB) {
        let content = section.bytes_in(&bytes).ok_or("a section in another file")?;
        let mut attributes = section.attributes.clone();
        let content = match words {
            _ if section.name != *damaged => content.to_vec(),
            ["remove"] => continue,
            ["attribute", key, value] => {
                attributes.insert(key.to_string(), value.to_string());
                content.to_vec()
            }
            ["write"] => text.as_bytes().to_vec(),
            [verb, rest @ ..] => changed(verb, content.to_vec(), rest)?,
            [] => return Err("a damage is missing".into()),
        };
        let attributes: Vec<(&str, &str)> =
            attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        match section.name.as_str() {
            WEIGHTS => writer.begin_weights().map_err(said)?,
            name => writer.begin_section(name, &attributes).map_err(said)?,
        }
        writer.write(&content).and_then(|()| writer.end_section()).map_err(said)?;
    }
    if words == ["add"] {
        writer.section(name, &[], text.as_bytes()).map_err(said)?;
    }
    writer.finish().map(drop).map_err(said)
}
