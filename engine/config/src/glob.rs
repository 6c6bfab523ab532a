//! Shell patterns over the file system: `*`, `?` and `[a-z]`, none of which matches a slash.

use std::path::{Component, Path, PathBuf};

/// Returns the existing paths that match, sorted. A folder that cannot be listed has no matches. A pattern without special
/// characters matches the path itself if it exists.
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

/// Returns whether the pattern is well-formed by the rules of Go's `filepath.Match`.
pub fn is_valid_pattern(pattern: &str) -> bool {
    /// Reads a character of a class, which may be escaped.
    fn class_character(rest: &mut std::str::Chars) -> Option<()> {
        match rest.next()? {
            '-' | ']' => None,
            '\\' => rest.next().map(|_| ()),
            _ => Some(()),
        }
    }
    fn class(rest: &mut std::str::Chars) -> Option<()> {
        if rest.as_str().starts_with('^') {
            rest.next();
        }
        let mut is_empty = true;
        while is_empty || !rest.as_str().starts_with(']') {
            class_character(rest)?;
            if rest.as_str().starts_with('-') {
                rest.next();
                class_character(rest)?;
            }
            is_empty = false;
        }
        rest.next().map(|_| ())
    }
    let mut rest = pattern.chars();
    while let Some(character) = rest.next() {
        let is_valid = match character {
            '\\' => rest.next().is_some(),
            '[' => class(&mut rest).is_some(),
            _ => true,
        };
        if !is_valid {
            return false;
        }
    }
    true
}

/// Returns whether a file name matches. A malformed class matches nothing.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Position of the last star and the end of its match, which a later mismatch extends by one character.
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

/// Returns the length of the start of the pattern that matches this one character.
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
