//! Token ids from the command line and from files.

use crate::error::{GenerateError, Result};
use serde_json::Value;
use std::path::Path;

/// One prompt: `1,2,3`, or the name of a JSON file that holds one list of ids (`[1, 2, 3]` or
/// `[[1, 2, 3]]`).
///
/// # Errors
/// [`GenerateError::BadIds`] or [`GenerateError::Io`].
pub fn prompt(argument: &str) -> Result<Vec<i32>> {
    let list: std::result::Result<Vec<i32>, _> =
        argument.split(',').map(|id| id.trim().parse()).collect();
    if let Ok(ids) = list {
        return Ok(ids);
    }
    if !argument.ends_with(".json") {
        return Err(GenerateError::BadIds {
            name: "--prompt-ids".to_owned(),
            detail: format!("`{argument}` is neither a list of numbers nor a .json file"),
        });
    }
    let path = Path::new(argument);
    let value = value(path, &super::read_file(path)?)?;
    if value.as_array().is_some_and(|all| all.iter().all(Value::is_number)) {
        return ids(path, "the list", &value);
    }
    match <[Vec<i32>; 1]>::try_from(lists(path, &value)?) {
        Ok([ids]) => Ok(ids),
        Err(all) => Err(bad(path, format!("{} lists, expected one", all.len()))),
    }
}

/// A list of ids for each sequence: `[[1, 2, 3], [4, 5]]`.
///
/// # Errors
/// [`GenerateError::BadIds`] or [`GenerateError::Io`].
pub fn sequences(path: &Path) -> Result<Vec<Vec<i32>>> {
    parse(path, &super::read_file(path)?)
}

/// [`sequences`] of `bytes`, which came from `path`.
///
/// # Errors
/// [`GenerateError::BadIds`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Vec<i32>>> {
    let all = lists(path, &value(path, bytes)?)?;
    if all.is_empty() {
        return Err(bad(path, "the list is empty, expected at least one sequence".to_owned()));
    }
    Ok(all)
}

fn value(path: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| bad(path, e.to_string()))
}

fn bad(path: &Path, detail: String) -> GenerateError {
    GenerateError::BadIds { name: path.display().to_string(), detail }
}

fn lists(path: &Path, value: &Value) -> Result<Vec<Vec<i32>>> {
    let all = value.as_array().ok_or_else(|| bad(path, "it is not a list".to_owned()))?;
    all.iter().enumerate().map(|(i, v)| ids(path, &format!("sequence {i}"), v)).collect()
}

fn ids(path: &Path, name: &str, value: &Value) -> Result<Vec<i32>> {
    let all = value.as_array().ok_or_else(|| bad(path, format!("{name} is {value}")))?;
    if all.is_empty() {
        return Err(bad(path, format!("{name} is empty, expected at least one id")));
    }
    let id = |(at, v): (usize, &Value)| {
        let id = v.as_i64().and_then(|id| i32::try_from(id).ok()).filter(|id| *id >= 0);
        id.ok_or_else(|| bad(path, format!("{name} has {v} at position {at}")))
    };
    all.iter().enumerate().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("ids.json");
        std::fs::write(&path, text).expect("it is writable");
        (dir, path)
    }

    #[test]
    fn prompts_come_as_text_or_file() {
        assert_eq!(prompt("7").expect("a number"), [7]);
        assert_eq!(prompt("1, 2,3").expect("numbers"), [1, 2, 3]);
        for text in ["[1, 2]", "[[1, 2]]"] {
            let (_dir, path) = file(text);
            assert_eq!(prompt(path.to_str().expect("UTF-8")).expect("ids"), [1, 2]);
        }
        let (_dir, two) = file("[[1], [2]]");
        let (_dir, none) = file("[]");
        let none = none.to_str().expect("UTF-8");
        for bad in ["1,x", "", "ids.txt", none, two.to_str().expect("UTF-8")] {
            assert_eq!(prompt(bad).expect_err(bad).code(), "E0617");
        }
        assert_eq!(prompt("/nowhere/ids.json").expect_err("no file").code(), "E0615");
    }

    #[test]
    fn sequences_are_lists_of_ids_only() {
        let (_dir, path) = file("[[1, 2, 3], [4]]");
        assert_eq!(sequences(&path).expect("ids"), [vec![1, 2, 3], vec![4]]);
        let (_dir, path) = file("[[1], []]");
        let error = sequences(&path).expect_err("an empty one").to_string();
        assert!(error.ends_with("sequence 1 is empty, expected at least one id"), "{error}");
        for text in
            ["", "{}", "[]", "[[]]", "[1]", "[[1.5]]", "[[-1]]", "[[3000000000]]", "[[\"1\"]]"]
        {
            let (_dir, path) = file(text);
            assert_eq!(sequences(&path).expect_err(text).code(), "E0617");
        }
    }
}
