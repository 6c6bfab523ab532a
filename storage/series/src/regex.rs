//! Regular expressions with RE2's meaning, anchored at both ends as Prometheus anchors them.
//!
//! Most expressions in configurations and selectors are a word, a few words, or words around `.*`. Those are decided by
//! comparing text, and the engine is not even built for them until someone asks for it.
//!
//! Invariants:
//!   * `is_match` and `find_groups` answer as the engine would, by whichever way they come to the answer
//!   * a clone shares everything with its original
//!   * what one expression may cost is bounded: [`PROGRAM_BYTES_MAX`] compiled, [`SEARCH_BYTES_MAX`] per thread

mod re2;

use regex_syntax::hir::{Class, Hir, HirKind, Look};
use std::sync::{Arc, OnceLock};

/// The compiled program of one expression.
const PROGRAM_BYTES_MAX: usize = 10 << 20;

/// What a search may cache per expression and thread; a search that needs more becomes slower, not wrong.
const SEARCH_BYTES_MAX: usize = 512 << 10;

/// Alternatives are listed one by one up to this many; above, the engine is the smaller.
const LITERALS_MAX: usize = 8192;
const LITERAL_BYTES_MAX: usize = 1 << 20;

/// Up to so many alternatives are compared one after the other, more are searched by halves.
const LITERALS_LINEAR_MAX: usize = 8;

/// An anchored expression: `^(?s:<source>)$`, in RE2's syntax and with RE2's meaning.
///
/// As in Prometheus the anchors are added to the text, so that `a)|(b` is an expression too, anchored once per side.
/// Equality is that of the sources.
#[derive(Clone)]
pub struct Regex(Arc<Inner>);

struct Inner {
    source: Box<str>,
    /// By group, the whole match included.
    group_names: Box<[Option<Box<str>>]>,
    /// Every match is the whole text.
    whole: bool,
    prefix: Box<str>,
    /// Sorted and unique: all the texts that match, if they are few.
    literals: Option<Box<[Box<str>]>>,
    shape: Shape,
    engine: OnceLock<Engine>,
}

/// How a text is decided without the engine.
enum Shape {
    /// `prefix.*suffix`, `prefix.+suffix` or just a word.
    Framed(Framed),
    /// `.*word.*`, without groups.
    Contains(Box<str>),
    /// By the literals, if there are any, or by the engine.
    Other,
}

struct Framed {
    prefix: Box<str>,
    suffix: Box<str>,
    middle: Middle,
    /// Start and end of groups 1 and up.
    groups: Box<[(Place, Place)]>,
}

#[derive(Clone, Copy, PartialEq)]
enum Middle {
    /// The prefix is all there is.
    Nothing,
    Any,
    AtLeastOne,
}

#[derive(Clone, Copy)]
enum Place {
    FromStart(usize),
    FromEnd(usize),
}

struct Engine {
    compiled: regex::Regex,
    /// Our group of each of the engine's groups. They differ where RE2 counts a group that can never match.
    groups: Box<[usize]>,
}

/// Where a match and its groups lie: by group, the byte offsets of start and end if the group took part.
pub type Groups = Vec<Option<(usize, usize)>>;

/// Why an expression was refused, in the words of Go's `regexp`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {0}")]
pub struct RegexError(pub String);

impl Regex {
    /// Reads `source`; its compiled size is bounded, and so are nesting and repetition.
    pub fn new(source: &str) -> Result<Regex, RegexError> {
        let parsed = re2::parse(&anchored(source))?;
        let inside = inside_anchors(&parsed.tree);
        let groups = parsed.group_names.len() - 1;
        let shape = inside.and_then(|inside| shape(inside, groups)).unwrap_or(Shape::Other);
        let literals = inside.and_then(literals);
        let prefix = match &literals {
            Some(literals) => common_prefix(literals),
            None => inside.map(leading_text).unwrap_or_default(),
        };
        let engine = OnceLock::new();
        if literals.is_none() && matches!(shape, Shape::Other) {
            let built = Engine::build(&parsed.tree, PROGRAM_BYTES_MAX).map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => RegexError(format!("expression too large: `{source}`")),
                error => RegexError(format!("regexp/syntax: internal error: `{source}`: {error}")),
            })?;
            assert!(engine.set(built).is_ok(), "the engine is built once");
        }
        Ok(Regex(Arc::new(Inner {
            source: source.into(),
            group_names: parsed.group_names.into_boxed_slice(),
            whole: inside.is_some(),
            prefix: prefix.into_boxed_str(),
            literals: literals.map(Vec::into_boxed_slice),
            shape,
            engine,
        })))
    }

    /// The text it was made from, without the anchors.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Whether `text` matches, as a whole.
    pub fn is_match(&self, text: &str) -> bool {
        let inner = &*self.0;
        match (&inner.shape, &inner.literals) {
            (Shape::Framed(framed), _) => framed.is_match(text),
            (Shape::Contains(word), _) => text.contains(&**word),
            (Shape::Other, Some(literals)) if literals.len() <= LITERALS_LINEAR_MAX => {
                literals.iter().any(|literal| **literal == *text)
            }
            (Shape::Other, Some(literals)) => literals.binary_search_by(|literal| (**literal).cmp(text)).is_ok(),
            (Shape::Other, None) => {
                (inner.prefix.is_empty() || text.starts_with(&*inner.prefix)) && self.engine().compiled.is_match(text)
            }
        }
    }

    /// All the texts that match, sorted, if they are a few thousand at most: `a|b`, `node-[1-3]`, or a plain word.
    /// An expression that matches nothing has none of them.
    pub fn literal_alternatives(&self) -> Option<&[Box<str>]> {
        self.0.literals.as_deref()
    }

    /// What every matching text begins with; may be empty.
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }

    /// How many groups there are, the whole match (group 0) included.
    pub fn group_count(&self) -> usize {
        self.0.group_names.len()
    }

    /// The groups of that name. RE2 as Go has it lets several groups share one.
    pub fn groups_named(&self, name: &str) -> impl Iterator<Item = usize> {
        let named = move |group: &Option<Box<str>>| group.as_deref() == Some(name);
        self.0.group_names.iter().enumerate().filter(move |(_, group)| named(group)).map(|(index, _)| index)
    }

    /// Finds the first match and where its groups lie; without a match `groups` is left empty.
    pub fn find_groups(&self, text: &str, groups: &mut Groups) -> bool {
        groups.clear();
        if let Shape::Framed(framed) = &self.0.shape {
            if !framed.is_match(text) {
                return false;
            }
            groups.push(Some((0, text.len())));
            groups.extend(framed.groups.iter().map(|(start, end)| Some((start.in_text(text), end.in_text(text)))));
            return true;
        }
        if !text.starts_with(&*self.0.prefix) {
            return false;
        }
        let engine = self.engine();
        match engine.compiled.captures(text) {
            Some(captures) => {
                engine.copy_groups(&captures, self.group_count(), groups);
                true
            }
            None => false,
        }
    }

    /// Replaces every match by what `expand` appends for its groups, and keeps the text between matches. There is more
    /// than one match only for an expression like `a)|(b`.
    pub fn replace_all(&self, text: &str, mut expand: impl FnMut(&Groups, &mut String)) -> String {
        let mut groups = Groups::new();
        let mut out = String::new();
        if self.0.whole {
            match self.find_groups(text, &mut groups) {
                true => expand(&groups, &mut out),
                false => out.push_str(text),
            }
            return out;
        }
        let engine = self.engine();
        let mut copied = 0;
        for captures in engine.compiled.captures_iter(text) {
            engine.copy_groups(&captures, self.group_count(), &mut groups);
            let (start, end) = groups[0].expect("a match has a place");
            out.push_str(&text[copied..start]);
            expand(&groups, &mut out);
            copied = end;
        }
        out.push_str(&text[copied..]);
        out
    }

    /// The compiled, anchored expression. It knows groups by number only, and not those under `{0}`: use
    /// [`Regex::find_groups`] where groups matter.
    pub fn compiled(&self) -> &regex::Regex {
        &self.engine().compiled
    }

    fn engine(&self) -> &Engine {
        self.0.engine.get_or_init(|| {
            let parsed = re2::parse(&anchored(&self.0.source)).expect("it was read before");
            // Only expressions of bounded size are built late, see `new`.
            Engine::build(&parsed.tree, usize::MAX).expect("a list of words compiles")
        })
    }
}

fn anchored(source: &str) -> String {
    format!("^(?s:{source})$")
}

impl Engine {
    fn build(tree: &Hir, program_bytes_max: usize) -> Result<Engine, regex::Error> {
        let (mut text, mut groups) = (String::new(), vec![0]);
        print(tree, &mut text, &mut groups);
        let compiled = regex::RegexBuilder::new(&text)
            .size_limit(program_bytes_max)
            .dfa_size_limit(SEARCH_BYTES_MAX)
            .nest_limit(4 * re2::NESTING_MAX)
            .build()?;
        assert_eq!(groups.len(), compiled.captures_len(), "the engine has the groups of the tree");
        Ok(Engine { compiled, groups: groups.into_boxed_slice() })
    }

    fn copy_groups(&self, captures: &regex::Captures<'_>, group_count: usize, groups: &mut Groups) {
        groups.clear();
        groups.resize(group_count, None);
        for (theirs, ours) in self.groups.iter().enumerate() {
            groups[*ours] = captures.get(theirs).map(|group| (group.start(), group.end()));
        }
    }
}

/// Writes the tree in the engine's syntax and lists the numbers of its groups in order. regex-syntax has a printer too,
/// which we use for leaves only: it writes `(?:a{2})?` as `a{2}?`, something else.
fn print(tree: &Hir, text: &mut String, groups: &mut Vec<usize>) {
    match tree.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => {
            text.push_str(&tree.to_string());
        }
        HirKind::Capture(capture) => {
            groups.push(capture.index as usize);
            text.push('(');
            print(&capture.sub, text, groups);
            text.push(')');
        }
        HirKind::Repetition(repetition) => {
            text.push_str("(?:");
            print(&repetition.sub, text, groups);
            let max = repetition.max.map(|max| max.to_string()).unwrap_or_default();
            text.push_str(&format!("){{{},{max}}}{}", repetition.min, if repetition.greedy { "" } else { "?" }));
        }
        HirKind::Concat(parts) => parts.iter().for_each(|part| print(part, text, groups)),
        HirKind::Alternation(parts) => {
            for (i, part) in parts.iter().enumerate() {
                text.push_str(if i == 0 { "(?:" } else { "|" });
                print(part, text, groups);
            }
            text.push(')');
        }
    }
}

/// The parts between the anchors, if the tree is one sequence with an anchor at each end. Anchors that the user wrote
/// as well (`^word$`) say nothing new and are left out.
fn inside_anchors(tree: &Hir) -> Option<&[Hir]> {
    let HirKind::Concat(parts) = tree.kind() else { return None };
    let is = |look: Look| move |part: &Hir| matches!(part.kind(), HirKind::Look(l) if *l == look);
    let start = parts.iter().take_while(|part| is(Look::Start)(part)).count();
    let end = parts.iter().rev().take_while(|part| is(Look::End)(part)).count();
    (start > 0 && end > 0).then(|| &parts[start..parts.len() - end])
}

/// Piece by piece what a simple expression is made of.
enum Token<'a> {
    Text(&'a str),
    Any,
    AtLeastOne,
    GroupStart(usize),
    GroupEnd(usize),
}

/// Whether `parts` is text, `.*`, `.+` and groups around them only.
fn tokens<'a>(parts: &'a [Hir], out: &mut Vec<Token<'a>>) -> Option<()> {
    for part in parts {
        match part.kind() {
            HirKind::Empty => {}
            HirKind::Literal(literal) => out.push(Token::Text(std::str::from_utf8(&literal.0).ok()?)),
            HirKind::Concat(parts) => tokens(parts, out)?,
            HirKind::Capture(capture) => {
                out.push(Token::GroupStart(capture.index as usize));
                tokens(std::slice::from_ref(&capture.sub), out)?;
                out.push(Token::GroupEnd(capture.index as usize));
            }
            HirKind::Repetition(repetition) if repetition.max.is_none() && is_any_character(&repetition.sub) => {
                match repetition.min {
                    0 => out.push(Token::Any),
                    1 => out.push(Token::AtLeastOne),
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    Some(())
}

/// Whether it is a dot that takes newlines too.
fn is_any_character(tree: &Hir) -> bool {
    match tree.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            matches!(class.ranges(), [range] if range.start() == '\0' && range.end() == char::MAX)
        }
        _ => false,
    }
}

fn shape(parts: &[Hir], group_count: usize) -> Option<Shape> {
    let mut found = Vec::new();
    tokens(parts, &mut found)?;
    if group_count == 0
        && let [Token::Any, Token::Text(word), Token::Any] = found[..]
    {
        return Some(Shape::Contains(word.into()));
    }
    let (mut before, mut after) = (String::new(), String::new());
    let mut middle = Middle::Nothing;
    for token in &found {
        match token {
            Token::Text(text) if middle == Middle::Nothing => before.push_str(text),
            Token::Text(text) => after.push_str(text),
            // With two of them it takes a search to say which group has what.
            Token::Any | Token::AtLeastOne if middle != Middle::Nothing => return None,
            Token::Any => middle = Middle::Any,
            Token::AtLeastOne => middle = Middle::AtLeastOne,
            Token::GroupStart(_) | Token::GroupEnd(_) => {}
        }
    }
    let mut groups = vec![None; group_count];
    let mut starts = vec![Place::FromStart(0); group_count];
    let mut place = Place::FromStart(0);
    for token in &found {
        match (token, &mut place) {
            (Token::Text(text), Place::FromStart(bytes)) => *bytes += text.len(),
            (Token::Text(text), Place::FromEnd(bytes)) => *bytes -= text.len(),
            (Token::Any | Token::AtLeastOne, place) => *place = Place::FromEnd(after.len()),
            (Token::GroupStart(group), place) => starts[group - 1] = *place,
            (Token::GroupEnd(group), place) => groups[group - 1] = Some((starts[group - 1], *place)),
        }
    }
    // A group that the tree lost (`(a){0}`) is none that we could place.
    let groups: Box<[_]> = groups.into_iter().collect::<Option<_>>()?;
    Some(Shape::Framed(Framed { prefix: before.into(), suffix: after.into(), middle, groups }))
}

impl Framed {
    fn is_match(&self, text: &str) -> bool {
        if self.middle == Middle::Nothing {
            return *text == *self.prefix;
        }
        let bytes_min = self.prefix.len() + self.suffix.len() + usize::from(self.middle == Middle::AtLeastOne);
        text.len() >= bytes_min && text.starts_with(&*self.prefix) && text.ends_with(&*self.suffix)
    }
}

impl Place {
    fn in_text(self, text: &str) -> usize {
        match self {
            Place::FromStart(bytes) => bytes,
            Place::FromEnd(bytes) => text.len() - bytes,
        }
    }
}

/// All the texts that `parts` in a row can match, sorted and unique, if they are few.
fn literals(parts: &[Hir]) -> Option<Vec<Box<str>>> {
    let mut all = list_concat(parts)?;
    all.sort_unstable();
    all.dedup();
    Some(all.into_iter().map(String::into_boxed_str).collect())
}

fn list_concat(parts: &[Hir]) -> Option<Vec<String>> {
    let mut all = vec![String::new()];
    for part in parts {
        let next = list(part)?;
        all = cross(&all, &next)?;
    }
    Some(all)
}

fn cross(left: &[String], right: &[String]) -> Option<Vec<String>> {
    let bytes = |texts: &[String]| texts.iter().map(String::len).sum::<usize>();
    let count = left.len() * right.len();
    if count > LITERALS_MAX || bytes(left) * right.len() + bytes(right) * left.len() > LITERAL_BYTES_MAX {
        return None;
    }
    Some(left.iter().flat_map(|l| right.iter().map(move |r| format!("{l}{r}"))).collect())
}

fn list(tree: &Hir) -> Option<Vec<String>> {
    match tree.kind() {
        HirKind::Empty => Some(vec![String::new()]),
        HirKind::Literal(literal) => Some(vec![std::str::from_utf8(&literal.0).ok()?.to_owned()]),
        HirKind::Class(Class::Unicode(class)) => {
            let count: usize = class.ranges().iter().map(|range| range.len()).sum();
            let characters = || class.ranges().iter().flat_map(|range| range.start()..=range.end());
            (count <= LITERALS_MAX).then(|| characters().map(String::from).collect())
        }
        // The tree has classes of bytes only for what never matches.
        HirKind::Class(Class::Bytes(class)) => class.ranges().is_empty().then(Vec::new),
        HirKind::Look(_) => None,
        HirKind::Repetition(repetition) => {
            let max = repetition.max?;
            let once = list(&repetition.sub)?;
            let mut all = Vec::new();
            let mut repeated = vec![String::new()];
            for times in 0..=max {
                if times >= repetition.min {
                    all.extend_from_slice(&repeated);
                }
                if times < max {
                    repeated = cross(&repeated, &once)?;
                }
                let bytes: usize = all.iter().map(String::len).sum();
                if all.len() > LITERALS_MAX || bytes > LITERAL_BYTES_MAX {
                    return None;
                }
            }
            Some(all)
        }
        HirKind::Capture(capture) => list(&capture.sub),
        HirKind::Concat(parts) => list_concat(parts),
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            let mut bytes = 0;
            for part in parts {
                let next = list(part)?;
                bytes += next.iter().map(String::len).sum::<usize>();
                all.extend(next);
                if all.len() > LITERALS_MAX || bytes > LITERAL_BYTES_MAX {
                    return None;
                }
            }
            Some(all)
        }
    }
}

fn common_prefix(sorted: &[Box<str>]) -> String {
    // Between the first and the last in order lie all the others.
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return String::new() };
    first.chars().zip(last.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

/// The text that `parts` begin with in every case.
fn leading_text(parts: &[Hir]) -> String {
    let mut text = String::new();
    append_leading_text(parts, &mut text);
    text
}

/// Whether all of `parts` is text, so that what follows may be appended too.
fn append_leading_text(parts: &[Hir], text: &mut String) -> bool {
    parts.iter().all(|part| match part.kind() {
        HirKind::Empty => true,
        HirKind::Literal(literal) => {
            let literal = std::str::from_utf8(&literal.0).ok();
            text.push_str(literal.unwrap_or_default());
            literal.is_some()
        }
        HirKind::Capture(capture) => append_leading_text(std::slice::from_ref(&capture.sub), text),
        HirKind::Concat(parts) => append_leading_text(parts, text),
        HirKind::Repetition(repetition) if repetition.min > 0 => {
            append_leading_text(std::slice::from_ref(&repetition.sub), text);
            false
        }
        _ => false,
    })
}

impl std::fmt::Debug for Regex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Regex").field(&self.source()).finish()
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Regex) -> bool {
        self.source() == other.source()
    }
}

impl Eq for Regex {}

#[cfg(test)]
mod tests;
