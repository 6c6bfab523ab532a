//! Upper and lower case as Go's `strings` maps them: each letter to exactly one letter.
//!
//! Rust's mapping is the full one of Unicode: it turns "ß" into "SS" and depends on the neighbours of a sigma. The two differ
//! for a few letters, which are listed here. Letters that Unicode paired after Go's tables were made follow Rust's tables.

/// Appends `text` in upper case.
pub(crate) fn push_upper(text: &str, out: &mut String) {
    out.extend(text.chars().map(upper));
}

/// Appends `text` in lower case.
pub(crate) fn push_lower(text: &str, out: &mut String) {
    out.extend(text.chars().map(lower));
}

fn upper(c: char) -> char {
    let mut full = c.to_uppercase();
    match (full.next(), full.next()) {
        (Some(one), None) => one,
        _ => match u32::from(c) {
            // Greek vowels with a subscript iota have a title-case letter, which Go uses as upper case.
            code @ (0x1f80..=0x1f87 | 0x1f90..=0x1f97 | 0x1fa0..=0x1fa7) => char::from_u32(code + 8).unwrap_or(c),
            code @ (0x1fb3 | 0x1fc3 | 0x1ff3) => char::from_u32(code + 9).unwrap_or(c),
            _ => c,
        },
    }
}

fn lower(c: char) -> char {
    let mut full = c.to_lowercase();
    match (full.next(), full.next()) {
        (Some(one), None) => one,
        // Only İ: Rust appends its dot as a second character.
        _ => 'i',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want_upper: &str, want_lower: &str) {
        let (mut upper, mut lower) = (String::new(), String::new());
        push_upper(text, &mut upper);
        push_lower(text, &mut lower);
        assert_eq!((&*upper, &*lower), (want_upper, want_lower), "{text:?}");
    }

    #[test]
    fn letters_map_one_for_one() {
        check("", "", "");
        check("Foo-1", "FOO-1", "foo-1");
        check("éÉ", "ÉÉ", "éé");
        check("ß", "ß", "ß");
        check("ẞ", "ẞ", "ß");
        check("ΑΣ", "ΑΣ", "ας".replace('ς', "σ").as_str());
        check("İ", "İ", "i");
        check("ᾀᾳ", "ᾈᾼ", "ᾀᾳ");
        check("ŉﬁ", "ŉﬁ", "ŉﬁ");
    }

    #[test]
    fn only_one_letter_has_a_longer_lower_case() {
        assert_eq!((char::MIN..=char::MAX).filter(|c| c.to_lowercase().count() > 1).collect::<String>(), "İ");
    }
}
