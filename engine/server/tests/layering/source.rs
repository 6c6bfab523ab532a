//! Reads Rust source as a list of tokens, without comments, literals and test code.
//!
//! A full parser is not needed: modules, `use` trees, paths and item names can be told from tokens alone, and the test
//! keeps no copy of the language that could become outdated.

/// One token. Literals and lifetimes are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    Word(String),
    /// `::`
    PathSeparator,
    Punctuation(char),
}

impl Token {
    pub fn word(&self) -> Option<&str> {
        match self {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }

    pub fn is(&self, text: &str) -> bool {
        match self {
            Token::Word(word) => word == text,
            Token::PathSeparator => text == "::",
            Token::Punctuation(character) => text.chars().eq([*character]),
        }
    }
}

/// The tokens of a file outside `#[cfg(test)]`.
pub fn tokens(text: &str) -> Vec<Token> {
    without_tests(&all_tokens(text))
}

fn all_tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        at += match rest[0] {
            c if c.is_whitespace() => 1,
            '/' if rest.get(1) == Some(&'/') => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            '/' if rest.get(1) == Some(&'*') => block_comment_length(rest),
            '"' => string_length(rest),
            'r' | 'b' | 'c' if literal_prefix_length(rest).is_some() => literal_prefix_length(rest).unwrap_or(1),
            '\'' => quote_length(rest),
            c if c.is_alphanumeric() || c == '_' => {
                let length = rest.iter().position(|c| !c.is_alphanumeric() && *c != '_').unwrap_or(rest.len());
                if !c.is_ascii_digit() {
                    tokens.push(Token::Word(rest[..length].iter().collect()));
                }
                length
            }
            ':' if rest.get(1) == Some(&':') => {
                tokens.push(Token::PathSeparator);
                2
            }
            c => {
                tokens.push(Token::Punctuation(c));
                1
            }
        };
    }
    tokens
}

fn block_comment_length(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of a string that begins with a quotation mark.
fn string_length(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Length of `r"…"`, `br#"…"#`, `b"…"`, `b'…'` and the like; none if it is an ordinary word.
fn literal_prefix_length(rest: &[char]) -> Option<usize> {
    let letters = rest.iter().take(2).take_while(|c| matches!(c, 'r' | 'b' | 'c')).count();
    let hashes = rest[letters..].iter().take_while(|c| **c == '#').count();
    let start = letters + hashes;
    match rest.get(start)? {
        '"' if rest[..letters].contains(&'r') => {
            let mut end: Vec<char> = vec!['"'];
            end.extend(std::iter::repeat_n('#', hashes));
            let found = rest[start + 1..].windows(end.len()).position(|window| window == end)?;
            Some(start + 1 + found + end.len())
        }
        '"' if hashes == 0 => Some(start + string_length(&rest[start..])),
        '\'' if hashes == 0 && rest[0] == 'b' => Some(start + quote_length(&rest[start..])),
        _ => None,
    }
}

/// Length of a character literal or of a lifetime.
fn quote_length(rest: &[char]) -> usize {
    match (rest.get(1), rest.get(2)) {
        (Some('\\'), _) => 3 + rest[3..].iter().position(|c| *c == '\'').unwrap_or(0) + 1,
        (Some(_), Some('\'')) => 3,
        _ => 1 + rest[1..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count(),
    }
}

fn without_tests(tokens: &[Token]) -> Vec<Token> {
    const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if TEST.iter().enumerate().all(|(i, text)| tokens.get(at + i).is_some_and(|token| token.is(text))) {
            at = item_end(tokens, at + TEST.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// The end of the item that begins at `start`, its further attributes included.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0usize;
    let mut is_attribute = false;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        let Token::Punctuation(character) = token else { continue };
        match character {
            '#' if depth == 0 => is_attribute = true,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && *character == ']' && is_attribute {
                    is_attribute = false;
                } else if depth == 0 && *character == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

#[test]
fn comments_literals_and_tests_are_left_out() {
    let text = r##"
        //! crate::doc
        use crate::a::{B, c}; /* crate::x /* nested */ still */
        fn f<'a>(x: &'a str) -> char { g(r#"crate::y " "#, b"crate", 'x', '\'', "\" crate::z"); 'q' }
        #[cfg(test)]
        #[expect(dead_code, reason = "x")]
        fn only_in_tests() -> [u8; 2] { crate::t(); [1, 2] }
        #[cfg(test)]
        mod tests;
        struct Kept;
    "##;
    let words: Vec<_> = tokens(text).iter().filter_map(|token| token.word().map(str::to_owned)).collect();
    assert_eq!(words, ["use", "crate", "a", "B", "c", "fn", "f", "x", "str", "char", "g", "struct", "Kept"]);
}
