//! Damage to safetensors files.

use serde_json::Value;

/// Length of the header, which begins at byte 8.
fn header_bytes(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

/// Changes the header's text, and its length with it.
pub fn in_header(
    bytes: &[u8],
    change: impl Fn(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, String> {
    let end = 8 + header_bytes(bytes);
    let header = change(&bytes[8..end])?;
    Ok([&(header.len() as u64).to_le_bytes(), &header[..], &bytes[end..]].concat())
}

/// Puts a number that is none into a tensor, at one element or at `all`.
pub fn plant(
    mut bytes: Vec<u8>,
    tensor: &str,
    index: &str,
    value: &str,
) -> Result<Vec<u8>, String> {
    let end = 8 + header_bytes(&bytes);
    let header: Value = serde_json::from_slice(&bytes[8..end]).map_err(|e| e.to_string())?;
    let entry = header.get(tensor).ok_or(format!("no tensor {tensor}"))?;
    let pattern: &[u8] = match (entry["dtype"].as_str(), value) {
        (Some("BF16"), "nan") => &[0xc0, 0x7f],
        (Some("BF16"), "inf") => &[0x80, 0x7f],
        (Some("BF16"), "-inf") => &[0x80, 0xff],
        (Some("F16"), "nan") => &[0x00, 0x7e],
        (Some("F32"), "nan") => &[0, 0, 0xc0, 0x7f],
        (Some("F32"), "inf") => &[0, 0, 0x80, 0x7f],
        (Some("F8_E4M3"), "nan") => &[0x7f],
        (dtype, value) => return Err(format!("{value} of {dtype:?}")),
    };
    let offset = |i: usize| entry["data_offsets"][i].as_u64().map(|at| end + at as usize);
    let (from, to) = offset(0).zip(offset(1)).ok_or("no offsets")?;
    let data = bytes.get_mut(from..to).ok_or("beyond the file")?;
    match index {
        "all" => data.chunks_exact_mut(pattern.len()).for_each(|e| e.copy_from_slice(pattern)),
        index => {
            let at = index.parse::<usize>().map_err(|e| e.to_string())? * pattern.len();
            let element = data.get_mut(at..at + pattern.len()).ok_or("beyond the tensor")?;
            element.copy_from_slice(pattern);
        }
    }
    Ok(bytes)
}
