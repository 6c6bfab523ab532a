//! Checks selectors of Kubernetes objects. The server carries them out; a mistake should show before it is asked.

/// Number of characters of the name of a label, and of its value.
const NAME_CHARS_MAX: usize = 63;
/// Number of characters of what stands before the slash of a label's name.
const PREFIX_CHARS_MAX: usize = 253;

/// Checks a selector of labels, such as `app=web,tier in (a, b),!canary`.
///
/// # Errors
/// What is wrong, in the words of the server's library where they help.
pub fn check_label_selector(text: &str) -> Result<(), String> {
    let tokens = tokens(text);
    let mut tokens = Tokens { rest: &tokens };
    if tokens.rest.is_empty() {
        return Ok(());
    }
    loop {
        requirement(&mut tokens)?;
        match tokens.next() {
            None => return Ok(()),
            Some(Token::Comma) if tokens.rest.is_empty() => {
                return Err("found '', expected: identifier after ','".to_owned());
            }
            Some(Token::Comma) => {}
            Some(other) => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
        }
    }
}

/// Checks a selector of fields, such as `spec.nodeName=n1,status.phase!=Failed`.
///
/// # Errors
/// What is wrong.
pub fn check_field_selector(text: &str) -> Result<(), String> {
    let mut term = Vec::new();
    let mut chars = text.chars();
    loop {
        let next = chars.next();
        match next {
            Some('\\') => term.extend(['\\'].into_iter().chain(chars.next())),
            Some(c) if c != ',' => term.push(c),
            _ => {
                let shown: String = term.iter().collect();
                check_term(&term).map_err(|error| format!("invalid selector: '{shown}'; {error}"))?;
                term.clear();
            }
        }
        if next.is_none() {
            return Ok(());
        }
    }
}

fn check_term(term: &[char]) -> Result<(), String> {
    if term.is_empty() {
        return Ok(());
    }
    let mut at = 0;
    let value = loop {
        match &term[at..] {
            [] => return Err(format!("can't understand '{}'", term.iter().collect::<String>())),
            ['\\', ..] => at += 2,
            ['!' | '=', '=', value @ ..] | ['=', value @ ..] => break value,
            _ => at += 1,
        }
        at = at.min(term.len());
    };
    let mut value = value.iter();
    while let Some(c) = value.next() {
        let escaped = if *c == '\\' { value.next() } else { None };
        match (c, escaped) {
            ('\\', Some('\\' | ',' | '=')) => {}
            ('\\', _) => return Err("invalid escape sequence in field selector".to_owned()),
            ('=', _) => return Err("invalid field selector: unescaped character in value: =".to_owned()),
            _ => {}
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Not,
    Open,
    Close,
    Comma,
    /// `=`, `==`, `!=`, `<` or `>`.
    Operator(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Operator(text) => text,
            Token::Not => "!",
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
        }
    }
}

struct Tokens<'a, 't> {
    rest: &'t [Token<'a>],
}

impl<'a> Tokens<'a, '_> {
    fn peek(&self) -> Option<Token<'a>> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Option<Token<'a>> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn word(&mut self) -> Result<&'a str, String> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(format!("found '{}', expected: identifier", other.map_or("", Token::text))),
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_special = |c: char| "()!,=<>".contains(c);
        let length = if rest.starts_with("==") || rest.starts_with("!=") {
            2
        } else if is_special(first) {
            1
        } else {
            rest.find(|c: char| is_special(c) || c.is_ascii_whitespace()).unwrap_or(rest.len())
        };
        let (text, after) = rest.split_at(length);
        tokens.push(match text {
            "!" => Token::Not,
            "(" => Token::Open,
            ")" => Token::Close,
            "," => Token::Comma,
            "=" | "==" | "!=" | "<" | ">" => Token::Operator(text),
            word => Token::Word(word),
        });
        rest = after.trim_start();
    }
    tokens
}

fn requirement(tokens: &mut Tokens) -> Result<(), String> {
    let is_negated = tokens.peek() == Some(Token::Not);
    if is_negated {
        tokens.next();
    }
    check_key(tokens.word()?)?;
    if is_negated || matches!(tokens.peek(), None | Some(Token::Comma)) {
        return Ok(());
    }
    match tokens.next() {
        Some(Token::Word("in" | "notin")) => set_of_values(tokens),
        Some(Token::Operator(operator)) => {
            let value = match tokens.peek() {
                None | Some(Token::Comma) => "",
                _ => tokens.word()?,
            };
            if matches!(operator, "<" | ">") && value.parse::<i64>().is_err() {
                return Err(format!("{value:?}: for 'Gt', 'Lt' operators, the value must be an integer"));
            }
            check_value(value)
        }
        other => {
            let found = other.map_or("", Token::text);
            Err(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt"))
        }
    }
}

/// The values of `in` and `notin`. An empty place between commas is the empty value.
fn set_of_values(tokens: &mut Tokens) -> Result<(), String> {
    match tokens.next() {
        Some(Token::Open) => {}
        other => return Err(format!("found '{}', expected: '('", other.map_or("", Token::text))),
    }
    if tokens.peek() == Some(Token::Close) {
        return Err("for 'in', 'notin' operators, values set can't be empty".to_owned());
    }
    loop {
        if let Some(Token::Word(value)) = tokens.peek() {
            tokens.next();
            check_value(value)?;
        }
        match tokens.next() {
            Some(Token::Comma) => {}
            Some(Token::Close) => return Ok(()),
            other => return Err(format!("found '{}', expected: ',' or ')'", other.map_or("", Token::text))),
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= NAME_CHARS_MAX
        && is_end(text.chars().next())
        && is_end(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn check_key(key: &str) -> Result<(), String> {
    let is_part = |part: &str| {
        let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        is_end(part.chars().next())
            && is_end(part.chars().last())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    let is_good = match key.split_once('/') {
        Some((prefix, name)) => prefix.len() <= PREFIX_CHARS_MAX && prefix.split('.').all(is_part) && is_name(name),
        None => is_name(key),
    };
    if is_good { Ok(()) } else { Err(format!("key: Invalid value: {key:?}: it cannot be the name of a label")) }
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!("values: Invalid value: {value:?}: it cannot be the value of a label"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_selectors() {
        for good in [
            "",
            " ",
            "a",
            "!a",
            "a=b",
            "a==b",
            "a!=b, c",
            "a=",
            "a=,b",
            "a/b-c.d=E_f",
            "k8s.io/x in (y)",
            "x notin (a,,b)",
            "x in (,a)",
            "x in (a,)",
            "in in (in)",
            "a>1,b < 20",
            "! a",
        ] {
            assert_eq!(check_label_selector(good), Ok(()), "{good}");
        }
        for (bad, want) in [
            ("a,", "found '', expected: identifier after ','"),
            (",a", "found ',', expected: identifier"),
            ("a in (b", "found '', expected: ',' or ')'"),
            ("a in b", "found 'b', expected: '('"),
            ("a in ()", "values set can't be empty"),
            ("a b", "found 'b', expected: in, notin"),
            ("===", "found '==', expected: identifier"),
            ("a===b", "found '=', expected: identifier"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a=b/c", "cannot be the value of a label"),
            ("-a", "cannot be the name of a label"),
            ("A.B/c", "cannot be the name of a label"),
            ("a/", "cannot be the name of a label"),
            ("a>x", "must be an integer"),
            ("ä=b", "cannot be the name of a label"),
        ] {
            let error = check_label_selector(bad).expect_err(bad);
            assert!(error.contains(want), "{bad}: {error}");
        }
        assert!(check_label_selector(&"a".repeat(64)).is_err());
    }

    #[test]
    fn field_selectors() {
        for good in ["", "a=b", "a.b==c,d!=e", "a=", "a=b\\,c\\=d", ",a=b,", "=b"] {
            assert_eq!(check_field_selector(good), Ok(()), "{good}");
        }
        for (bad, want) in [
            ("abc", "invalid selector: 'abc'; can't understand 'abc'"),
            ("a=b,c", "can't understand 'c'"),
            ("a=b=c", "unescaped character"),
            ("a=b\\c", "invalid escape sequence"),
            ("a=b\\", "invalid escape sequence"),
            ("a\\=b", "can't understand"),
            ("a\\", "can't understand"),
        ] {
            let error = check_field_selector(bad).expect_err(bad);
            assert!(error.contains(want), "{bad}: {error}");
        }
    }
}
