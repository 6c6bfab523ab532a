//! Shell patterns over the file system: `*`, `?` and `[a-z]`, none of which matches a slash.

use std::path::{Component, Path, PathBuf};

/// Paths that exist now and match, sorted. What cannot be listed matches nothing; a pattern without special characters
/// gives the path itself if it exists.
pub fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let part = match component {
            Component::Normal(part) => part.to_str().filter(|part| part.contains(['*', '?', '[', '\\'])),
            _ => None,
        };
        found = match part {
            None => found.into_iter().map(|path| path.join(component)).collect(),
            Some(part) => found.iter().flat_map(|folder| list(folder, part)).collect(),
        };
    }
    found.retain(|path| path.symlink_metadata().is_ok());
    found.sort();
    found
}

fn list(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let matching = names.filter(|name| name.to_str().is_some_and(|name| matches(pattern, name)));
    matching.map(|name| folder.join(name)).collect()
}

/// Whether a file name matches. A broken class matches nothing.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Where the last star stood, and up to where it has matched: on a mismatch it takes one more.
    let mut star = None;
    let (mut p, mut n) = (0, 0);
    while n < name.len() || p < pattern.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
            continue;
        }
        if let Some(length) = name.get(n).and_then(|c| match_one(&pattern[p..], *c)) {
            p += length;
            n += 1;
            continue;
        }
        match star {
            Some((star_p, star_n)) if star_n < name.len() => {
                star = Some((star_p, star_n + 1));
                (p, n) = (star_p + 1, star_n + 1);
            }
            _ => return false,
        }
    }
    true
}

/// How long the start of the pattern is that matches this one character.
fn match_one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', escaped, ..] => (*escaped == c).then_some(2),
        ['[', class @ ..] => {
            let (negated, skipped) = if class.first() == Some(&'^') { (true, 1) } else { (false, 0) };
            let mut at = skipped;
            let mut found = false;
            while class.get(at) != Some(&']') || at == skipped {
                let low = *class.get(at)?;
                let high = if class.get(at + 1) == Some(&'-') { *class.get(at + 2)? } else { low };
                found |= (low..=high).contains(&c);
                at += if high == low && class.get(at + 1) != Some(&'-') { 1 } else { 3 };
            }
            (found != negated).then_some(at + 2)
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}
