//! Reads RE2's syntax, as Go's `regexp` accepts it, into the tree that the engine compiles.
//!
//! A tree and not a translated text, because the two languages share most characters and few corner cases: `[a&&b]` is
//! an intersection to the engine and three characters to RE2, `\w` is Unicode to one and ASCII to the other.
//!
//! Invariants:
//!   * whatever is accepted means what RE2 means; what RE2 refuses is refused, in Go's words
//!   * the tree nests at most [`NESTING_MAX`] deep, so code that walks it may recurse
//!
//! Known difference: Go 1.25 stopped finding scripts whose name has an underscore (`\p{Old_Italic}`). They are accepted
//! here, as older versions did.

use super::RegexError;
use regex_syntax::hir::{Capture, Class, ClassUnicode, ClassUnicodeRange, Dot, Hir, HirKind, Look, Repetition};

/// How deep groups and operators nest. Go allows 1000, which would not fit the stack of a small thread here.
pub(super) const NESTING_MAX: u32 = 250;

/// How often the innermost fragment may be repeated, all counted repetitions around it multiplied.
const REPEAT_MAX: u32 = 1000;

/// Go's own bound on the instructions of a compiled expression.
const INSTRUCTIONS_MAX: u64 = (128 << 20) / 40;

/// An expression that was understood.
pub(super) struct Parsed {
    pub(super) tree: Hir,
    /// The name of every group, group 0 (the whole match) included. RE2 lets names repeat and begin with a digit.
    pub(super) group_names: Vec<Option<Box<str>>>,
}

/// Reads the whole of `text`, anchors included.
pub(super) fn parse(text: &str) -> Result<Parsed, RegexError> {
    let flags = Flags { fold_case: false, multi_line: false, dot_newline: false, swap_greed: false };
    let outermost = Frame { capture: None, flags_outside: flags, finished: Vec::new(), open: Vec::new() };
    let mut parser = Parser { whole: text, rest: text, flags, frames: vec![outermost], group_names: vec![None] };
    parser.run()?;
    let frame = parser.frames.pop().expect("the outermost frame is never popped");
    if !parser.frames.is_empty() {
        return Err(error("missing closing )", text));
    }
    let fragment = frame.close();
    parser.check_limits(&fragment)?;
    Ok(Parsed { tree: fragment.tree, group_names: parser.group_names })
}

fn error(what: &str, where_: &str) -> RegexError {
    RegexError(format!("{what}: `{where_}`"))
}

#[derive(Clone, Copy)]
struct Flags {
    /// `i`
    fold_case: bool,
    /// `m`: `^` and `$` also match at line ends.
    multi_line: bool,
    /// `s`: `.` matches a newline.
    dot_newline: bool,
    /// `U`: `x*` prefers fewer, `x*?` more.
    swap_greed: bool,
}

/// A fragment of the tree, with what Go's limits are counted on.
struct Fragment {
    tree: Hir,
    depth: u32,
    instructions: u64,
    /// How often counted repetitions copy the innermost fragment.
    copies: u32,
}

impl Fragment {
    fn leaf(tree: Hir) -> Fragment {
        Fragment { tree, depth: 1, instructions: 1, copies: 1 }
    }

    fn join(fragments: Vec<Fragment>, instructions_between: u64, join: impl FnOnce(Vec<Hir>) -> Hir) -> Fragment {
        let depth = 1 + fragments.iter().map(|fragment| fragment.depth).max().unwrap_or(0);
        let copies = fragments.iter().map(|fragment| fragment.copies).max().unwrap_or(1);
        let between = instructions_between * (fragments.len() as u64).saturating_sub(1);
        let instructions = fragments.iter().map(|fragment| fragment.instructions).sum::<u64>() + between;
        Fragment {
            tree: join(fragments.into_iter().map(|fragment| fragment.tree).collect()),
            depth,
            instructions,
            copies,
        }
    }

    fn concat(mut fragments: Vec<Fragment>) -> Fragment {
        match fragments.len() {
            0 => Fragment::leaf(Hir::empty()),
            1 => fragments.remove(0),
            _ => Fragment::join(fragments, 0, Hir::concat),
        }
    }
}

/// A group that is still open.
struct Frame {
    capture: Option<u32>,
    /// The flags that hold again after the group.
    flags_outside: Flags,
    /// Alternatives that a `|` ended.
    finished: Vec<Fragment>,
    /// The alternative being read.
    open: Vec<Fragment>,
}

impl Frame {
    fn close(mut self) -> Fragment {
        let last = Fragment::concat(self.open);
        if self.finished.is_empty() {
            return last;
        }
        self.finished.push(last);
        Fragment::join(self.finished, 1, Hir::alternation)
    }
}

struct Parser<'a> {
    whole: &'a str,
    rest: &'a str,
    flags: Flags,
    frames: Vec<Frame>,
    group_names: Vec<Option<Box<str>>>,
}

impl<'a> Parser<'a> {
    fn run(&mut self) -> Result<(), RegexError> {
        // Where the last repetition began, if nothing came after it: `a**` is refused.
        let mut repetition: Option<&str> = None;
        while let Some(next) = self.rest.chars().next() {
            let mut this_repetition = None;
            match next {
                '(' if self.rest.starts_with("(?") => self.flags_or_group()?,
                '(' => {
                    self.open_capture(None);
                    self.skip(1);
                }
                '|' => {
                    let frame = self.frame();
                    let alternative = Fragment::concat(std::mem::take(&mut frame.open));
                    frame.finished.push(alternative);
                    self.skip(1);
                }
                ')' => self.close_group()?,
                '^' => self.push_look(if self.flags.multi_line { Look::StartLF } else { Look::Start }, 1),
                '$' => self.push_look(if self.flags.multi_line { Look::EndLF } else { Look::End }, 1),
                '.' => {
                    let dot = if self.flags.dot_newline { Dot::AnyChar } else { Dot::AnyCharExceptLF };
                    self.push(Fragment::leaf(Hir::dot(dot)));
                    self.skip(1);
                }
                '[' => self.class()?,
                '*' | '+' | '?' => {
                    let before = self.rest;
                    self.skip(1);
                    let (min, max) = match next {
                        '*' => (0, None),
                        '+' => (1, None),
                        _ => (0, Some(1)),
                    };
                    self.repeat(min, max, before, repetition, false)?;
                    this_repetition = Some(before);
                }
                '{' => match counted(self.rest) {
                    Some((min, max, rest)) => {
                        let before = self.rest;
                        self.rest = rest;
                        let count = |n: u64| u32::try_from(n).ok().filter(|n| *n <= REPEAT_MAX);
                        let refused = || error("invalid repeat count", consumed(before, rest));
                        let min = count(min).ok_or_else(refused)?;
                        let max = max.map(|max| count(max).ok_or_else(refused)).transpose()?;
                        if max.is_some_and(|max| max < min) {
                            return Err(refused());
                        }
                        self.repeat(min, max, before, repetition, true)?;
                        this_repetition = Some(before);
                    }
                    None => self.push_literal_and_skip('{'),
                },
                '\\' => self.escape()?,
                literal => self.push_literal_and_skip(literal),
            }
            repetition = this_repetition;
        }
        Ok(())
    }

    fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the outermost frame is never popped")
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn push(&mut self, fragment: Fragment) {
        self.frame().open.push(fragment);
    }

    fn push_look(&mut self, look: Look, bytes: usize) {
        self.push(Fragment::leaf(Hir::look(look)));
        self.skip(bytes);
    }

    fn push_literal_and_skip(&mut self, literal: char) {
        self.push_literal(u32::from(literal));
        self.skip(literal.len_utf8());
    }

    fn push_literal(&mut self, code_point: u32) {
        let mut class = ClassUnicode::empty();
        push_range(&mut class, code_point, code_point, self.flags.fold_case);
        self.push_class(class);
    }

    /// A class of one character becomes a literal in [`Hir::class`], an empty one never matches.
    fn push_class(&mut self, class: ClassUnicode) {
        self.push(Fragment::leaf(Hir::class(Class::Unicode(class))));
    }

    /// Every finished group and repetition is held against the limits, so that nothing grows past them first.
    fn check_limits(&self, fragment: &Fragment) -> Result<(), RegexError> {
        if fragment.depth > NESTING_MAX {
            return Err(error("expression nests too deeply", self.whole));
        }
        if fragment.instructions > INSTRUCTIONS_MAX {
            return Err(error("expression too large", self.whole));
        }
        Ok(())
    }

    fn open_capture(&mut self, name: Option<Box<str>>) {
        let capture = Some(self.group_names.len() as u32);
        self.group_names.push(name);
        self.frames.push(Frame { capture, flags_outside: self.flags, finished: Vec::new(), open: Vec::new() });
    }

    fn close_group(&mut self) -> Result<(), RegexError> {
        if self.frames.len() == 1 {
            return Err(error("unexpected )", self.whole));
        }
        let frame = self.frames.pop().expect("more than one frame");
        self.flags = frame.flags_outside;
        let capture = frame.capture;
        let mut fragment = frame.close();
        if let Some(index) = capture {
            fragment.tree = Hir::capture(Capture { index, name: None, sub: Box::new(fragment.tree) });
            fragment.depth += 1;
            fragment.instructions += 2;
        }
        self.check_limits(&fragment)?;
        self.push(fragment);
        self.skip(1);
        Ok(())
    }

    /// `(?flags)`, `(?flags:`, `(?P<name>` and `(?<name>`.
    fn flags_or_group(&mut self) -> Result<(), RegexError> {
        let start = self.rest;
        // Go looks for a name only if something follows the `<`.
        let name_at = [("(?P<", 5), ("(?<", 4)]
            .into_iter()
            .find(|(opening, bytes_min)| start.starts_with(opening) && start.len() >= *bytes_min);
        if let Some((opening, _)) = name_at {
            let end = start.find('>').ok_or_else(|| error("invalid named capture", start))?;
            let name = &start[opening.len()..end];
            if name.is_empty() || !name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
                return Err(error("invalid named capture", &start[..=end]));
            }
            self.open_capture(Some(name.into()));
            self.skip(end + 1);
            return Ok(());
        }
        self.skip(2);
        let mut flags = self.flags;
        let (mut on, mut flag_seen) = (true, false);
        while let Some(next) = self.rest.chars().next() {
            self.skip(next.len_utf8());
            match next {
                'i' => flags.fold_case = on,
                'm' => flags.multi_line = on,
                's' => flags.dot_newline = on,
                'U' => flags.swap_greed = on,
                '-' if on => {
                    (on, flag_seen) = (false, false);
                    continue;
                }
                ':' | ')' if on || flag_seen => {
                    if next == ':' {
                        let flags_outside = self.flags;
                        self.frames.push(Frame {
                            capture: None,
                            flags_outside,
                            finished: Vec::new(),
                            open: Vec::new(),
                        });
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => break,
            }
            flag_seen = true;
        }
        Err(error("invalid or unsupported Perl syntax", consumed(start, self.rest)))
    }

    /// Repeats the fragment before; `before` is the text from the operator on, `previous` that of an operator right before.
    fn repeat(
        &mut self,
        min: u32,
        max: Option<u32>,
        before: &str,
        previous: Option<&str>,
        is_counted: bool,
    ) -> Result<(), RegexError> {
        let mut greedy = !self.flags.swap_greed;
        if self.rest.starts_with('?') {
            self.skip(1);
            greedy = !greedy;
        }
        if let Some(previous) = previous {
            return Err(error("invalid nested repetition operator", consumed(previous, self.rest)));
        }
        let operator = consumed(before, self.rest);
        let Some(fragment) = self.frame().open.pop() else {
            return Err(error("missing argument to repetition operator", operator));
        };
        let factor = max.unwrap_or(min);
        let copies = match (is_counted, max) {
            (true, Some(0)) => 0,
            (true, _) => fragment.copies.saturating_mul(factor.max(1)),
            (false, _) => fragment.copies,
        };
        if is_counted && factor >= 2 && copies > REPEAT_MAX {
            return Err(error("invalid repeat count", operator));
        }
        let instructions = match max {
            None => 2 + fragment.instructions * u64::from(min.max(1)),
            Some(max) => (fragment.instructions * u64::from(max) + u64::from(max - min)).max(1),
        };
        let repetition = Repetition { min, max, greedy, sub: Box::new(fragment.tree) };
        let fragment = Fragment { tree: Hir::repetition(repetition), depth: fragment.depth + 1, instructions, copies };
        self.check_limits(&fragment)?;
        self.push(fragment);
        Ok(())
    }

    /// A backslash outside a class.
    fn escape(&mut self) -> Result<(), RegexError> {
        match self.rest.as_bytes().get(1) {
            Some(b'A') => self.push_look(Look::Start, 2),
            Some(b'z') => self.push_look(Look::End, 2),
            Some(b'b') => self.push_look(Look::WordAscii, 2),
            Some(b'B') => self.push_look(Look::WordAsciiNegate, 2),
            Some(b'C') => return Err(error("invalid escape sequence", &self.rest[..2])),
            Some(b'Q') => {
                let quoted = &self.rest[2..];
                let (literal, rest) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                for c in literal.chars() {
                    self.push_literal(u32::from(c));
                }
                self.rest = rest;
            }
            _ => match self.class_escape()? {
                Some(class) => self.push_class(class),
                None => {
                    let code_point = self.character_escape()?;
                    self.push_literal(code_point);
                }
            },
        }
        Ok(())
    }

    /// `\d`, `\pN`, `\p{Greek}` and their like, inside and outside brackets; none of them leaves the text alone.
    fn class_escape(&mut self) -> Result<Option<ClassUnicode>, RegexError> {
        let start = self.rest;
        let Some(letter) = start.strip_prefix('\\').and_then(|rest| rest.chars().next()) else { return Ok(None) };
        if let Some(ranges) = perl_class(letter.to_ascii_lowercase()) {
            self.skip(2);
            return Ok(Some(self.ascii_class(ranges, letter.is_ascii_uppercase())));
        }
        if !matches!(letter, 'p' | 'P') {
            return Ok(None);
        }
        let Some(first) = start[2..].chars().next() else { return Ok(None) };
        let (name, end) = if first == '{' {
            let close = start.find('}').ok_or_else(|| error("invalid character class range", start))?;
            (&start[3..close], close + 1)
        } else {
            let end = 2 + first.len_utf8();
            (&start[2..end], end)
        };
        let (name, negated) = match name.strip_prefix('^') {
            Some(name) => (name, letter == 'p'),
            None => (name, letter == 'P'),
        };
        let mut class = unicode_class(name).ok_or_else(|| error("invalid character class range", &start[..end]))?;
        if self.flags.fold_case {
            fold(&mut class);
        }
        if negated {
            negate(&mut class);
        }
        self.skip(end);
        Ok(Some(class))
    }

    fn ascii_class(&self, ranges: &[(char, char)], negated: bool) -> ClassUnicode {
        let mut class = ClassUnicode::new(ranges.iter().map(|(first, last)| ClassUnicodeRange::new(*first, *last)));
        if self.flags.fold_case {
            fold(&mut class);
        }
        if negated {
            negate(&mut class);
        }
        class
    }

    /// A backslash that stands for one character.
    fn character_escape(&mut self) -> Result<u32, RegexError> {
        let start = self.rest;
        self.skip(1);
        let Some(next) = self.take() else {
            return Err(RegexError("trailing backslash at end of expression: ``".into()));
        };
        let is_octal = |c: Option<char>| c.is_some_and(|c| matches!(c, '0'..='7'));
        let value = match next {
            '1'..='7' if !is_octal(self.rest.chars().next()) => None,
            '0'..='7' => {
                let mut value = digit(next, 8);
                for _ in 0..2 {
                    if is_octal(self.rest.chars().next()) {
                        value = value.zip(self.take()).and_then(|(value, c)| Some(value * 8 + digit(c, 8)?));
                    }
                }
                value
            }
            'x' => match self.take() {
                Some('{') => self.braced_hex(),
                Some(high) => match self.take() {
                    Some(low) => digit(high, 16).zip(digit(low, 16)).map(|(high, low)| high * 16 + low),
                    None => None,
                },
                None => None,
            },
            'a' => Some(0x07),
            'f' => Some(0x0c),
            'n' => Some(0x0a),
            'r' => Some(0x0d),
            't' => Some(0x09),
            'v' => Some(0x0b),
            other if other.is_ascii() && !other.is_ascii_alphanumeric() => Some(u32::from(other)),
            _ => None,
        };
        value.ok_or_else(|| error("invalid escape sequence", consumed(start, self.rest)))
    }

    fn braced_hex(&mut self) -> Option<u32> {
        let (mut value, mut digits) = (0u32, 0);
        loop {
            match self.take()? {
                '}' => return (digits > 0).then_some(value),
                other => value = value * 16 + digit(other, 16)?,
            }
            digits += 1;
            if value > u32::from(char::MAX) {
                return None;
            }
        }
    }

    fn take(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.skip(next.len_utf8());
        Some(next)
    }

    /// `[...]`. Brackets do not nest and there are no set operations.
    fn class(&mut self) -> Result<(), RegexError> {
        let start = self.rest;
        self.skip(1);
        let negated = self.rest.starts_with('^');
        if negated {
            self.skip(1);
        }
        let mut class = ClassUnicode::empty();
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            first = false;
            if let Some(named) = self.named_class()? {
                class.union(&named);
                continue;
            }
            if let Some(escaped) = self.class_escape()? {
                class.union(&escaped);
                continue;
            }
            let range = self.rest;
            let low = self.class_character(start)?;
            let mut high = low;
            let mut after = self.rest.chars();
            if after.next() == Some('-') && after.next().is_some_and(|c| c != ']') {
                self.skip(1);
                high = self.class_character(start)?;
                if high < low {
                    return Err(error("invalid character class range", consumed(range, self.rest)));
                }
            }
            push_range(&mut class, low, high, self.flags.fold_case);
        }
        self.skip(1);
        if negated {
            negate(&mut class);
        }
        self.push_class(class);
        Ok(())
    }

    fn class_character(&mut self, class: &str) -> Result<u32, RegexError> {
        if self.rest.starts_with('\\') {
            return self.character_escape();
        }
        self.take().map(u32::from).ok_or_else(|| error("missing closing ]", class))
    }

    /// `[:alpha:]` and `[:^alpha:]` inside brackets.
    fn named_class(&mut self) -> Result<Option<ClassUnicode>, RegexError> {
        let Some((name, rest)) = self.rest.strip_prefix("[:").and_then(|inner| inner.split_once(":]")) else {
            return Ok(None);
        };
        let (bare, negated) = name.strip_prefix('^').map_or((name, false), |bare| (bare, true));
        let Some(ranges) = posix_class(bare) else {
            return Err(error("invalid character class range", consumed(self.rest, rest)));
        };
        self.rest = rest;
        Ok(Some(self.ascii_class(ranges, negated)))
    }
}

/// The part of `before` that is not left in `rest`.
fn consumed<'a>(before: &'a str, rest: &str) -> &'a str {
    &before[..before.len() - rest.len()]
}

fn digit(c: char, radix: u32) -> Option<u32> {
    c.to_digit(radix)
}

/// `{min}`, `{min,}` or `{min,max}`, and what follows it; anything else is a literal brace. Numbers saturate.
fn counted(text: &str) -> Option<(u64, Option<u64>, &str)> {
    fn number(text: &str) -> Option<(u64, &str)> {
        let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
        let digits = &text[..end];
        let plain = !digits.is_empty() && (digits.len() == 1 || !digits.starts_with('0'));
        plain.then(|| (digits.parse().unwrap_or(u64::MAX), &text[end..]))
    }
    let (min, rest) = number(text.strip_prefix('{')?)?;
    let (max, rest) = match rest.strip_prefix(',') {
        None => (Some(min), rest),
        Some(rest) if rest.starts_with('}') => (None, rest),
        Some(rest) => number(rest).map(|(max, rest)| (Some(max), rest))?,
    };
    Some((min, max, rest.strip_prefix('}')?))
}

/// Adds a range of code points. Surrogates cannot occur in a text, so a range loses those it begins or ends with.
fn push_range(class: &mut ClassUnicode, low: u32, high: u32, fold_case: bool) {
    let is_surrogate = |code_point: u32| (0xd800..0xe000).contains(&code_point);
    let low = if is_surrogate(low) { 0xe000 } else { low };
    let high = if is_surrogate(high) { 0xd7ff } else { high };
    let (Some(low), Some(high)) = (char::from_u32(low), char::from_u32(high)) else { return };
    if low > high {
        return;
    }
    let mut range = ClassUnicode::new([ClassUnicodeRange::new(low, high)]);
    if fold_case {
        fold(&mut range);
    }
    class.union(&range);
}

/// Bridges the surrogates first where both their neighbours are in the class: regex-syntax takes the two for apart and
/// would leave them in the negation.
fn negate(class: &mut ClassUnicode) {
    let (before, after) = ('\u{d7ff}', '\u{e000}');
    let ranges = class.ranges();
    if ranges.iter().any(|range| range.end() == before) && ranges.iter().any(|range| range.start() == after) {
        class.push(ClassUnicodeRange::new(before, after));
    }
    class.negate();
}

fn fold(class: &mut ClassUnicode) {
    class.try_case_fold_simple().expect("the tables of case folding are compiled in");
}

fn perl_class(letter: char) -> Option<&'static [(char, char)]> {
    Some(match letter {
        'd' => &[('0', '9')],
        's' => &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')],
        'w' => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        _ => return None,
    })
}

fn posix_class(name: &str) -> Option<&'static [(char, char)]> {
    Some(match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    })
}

/// Scripts whose whole name has four letters. Other names of four letters are ISO codes, which RE2 does not know.
const SCRIPTS_OF_FOUR_LETTERS: [&str; 8] = ["ahom", "cham", "kawi", "lisu", "modi", "newa", "thai", "toto"];

/// A general category or a script by its name, upper and lower case, spaces, hyphens and underscores apart.
fn unicode_class(name: &str) -> Option<ClassUnicode> {
    let known_bytes = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b' ');
    if name.is_empty() || !name.bytes().all(known_bytes) {
        return None;
    }
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    // The engine's tables also find `isGreek`, which RE2 refuses. No name begins that way by itself.
    if plain.starts_with("is") {
        return None;
    }
    let look_up = |property: &str| {
        let tree = regex_syntax::parse(&format!("\\p{{{property}{plain}}}")).ok()?;
        match tree.into_kind() {
            HirKind::Class(Class::Unicode(class)) => Some(class),
            _ => None,
        }
    };
    let is_script_code = plain.len() == 4 && !SCRIPTS_OF_FOUR_LETTERS.contains(&plain.as_str());
    match plain.as_str() {
        "any" | "ascii" | "assigned" => look_up(""),
        _ => look_up("gc=").or_else(|| if is_script_code { None } else { look_up("sc=") }),
    }
}
