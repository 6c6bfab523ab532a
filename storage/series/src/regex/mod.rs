//! Regular expressions with RE2's meaning, anchored at both ends as Prometheus anchors them.
//!
//! Most expressions in configurations and selectors are a word, a few words, or words around `.*`. Those are decided by
//! comparing text. The engine of the `regex` crate is built for them only when a caller needs it.
//!
//! Invariants:
//!   * `is_match` and `find_groups` return what the engine would return, whichever strategy is used
//!   * a clone shares everything with its original
//!   * the cost of one expression is bounded: [`PROGRAM_BYTES_MAX`] compiled, [`SEARCH_BYTES_MAX`] per thread

mod re2;
mod replacement;

pub use replacement::Replacement;

use regex_syntax::hir::{Class, Hir, HirKind, Look};
use std::sync::{Arc, OnceLock};

/// Size of the compiled program of one expression; larger ones are refused.
const PROGRAM_BYTES_MAX: usize = 10 << 20;

/// Size of the cache of a search, per expression and thread. A search that needs more becomes slower, not wrong.
const SEARCH_BYTES_MAX: usize = 512 << 10;

/// Number of alternatives up to which they are listed one by one; above it the engine is smaller.
const LITERALS_MAX: usize = 8192;
/// Size of all listed alternatives.
const LITERAL_BYTES_MAX: usize = 1 << 20;

/// Number of alternatives up to which they are compared one by one; more are searched by bisection.
const LITERALS_LINEAR_MAX: usize = 8;

/// An anchored expression: `^(?s:<source>)$`, in RE2's syntax and with RE2's meaning.
///
/// As in Prometheus the anchors are added to the text, so that `a)|(b` is an expression too, anchored once per side.
/// Equality is that of the sources.
#[derive(Clone)]
pub struct Regex(Arc<Inner>);

struct Inner {
    source: Box<str>,
    /// Whether `source` was anchored by [`Regex::new`].
    is_anchored: bool,
    /// Names by group, that of the whole match included.
    group_names: Box<[Option<Box<str>>]>,
    /// Whether every match is the whole text. Not so for `a)|(b`, although it is anchored.
    matches_whole_text: bool,
    prefix: Box<str>,
    /// All texts that match, sorted and unique, if they are few.
    literals: Option<Box<[Box<str>]>>,
    strategy: Strategy,
    engine: OnceLock<Engine>,
}

/// How to decide a match without the engine.
enum Strategy {
    /// `prefix.*suffix`, `prefix.+suffix` or a single word.
    PrefixSuffix(PrefixSuffix),
    /// `.*word.*`, without groups.
    Contains(Box<str>),
    /// By the list of literals, or by the engine if there is none.
    Other,
}

struct PrefixSuffix {
    prefix: Box<str>,
    suffix: Box<str>,
    gap: Gap,
    /// Start and end of groups 1 and up.
    groups: Box<[(CaptureBound, CaptureBound)]>,
}

/// What may lie between prefix and suffix.
#[derive(Clone, Copy, PartialEq)]
enum Gap {
    /// The text equals the prefix; there is no suffix.
    Nothing,
    Any,
    AtLeastOne,
}

/// Where a group begins or ends, in bytes.
#[derive(Clone, Copy)]
enum CaptureBound {
    FromStart(usize),
    FromEnd(usize),
}

struct Engine {
    compiled: regex::Regex,
    /// RE2's group for each of the engine's groups. They differ where RE2 counts a group that can never match.
    groups: Box<[usize]>,
}

/// Byte offsets of start and end for each group of a match, group 0 being the whole match; none for a group that took no
/// part.
pub type Groups = Vec<Option<(usize, usize)>>;

/// Why an expression was refused, with the text of Go's `regexp`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {0}")]
pub struct RegexError(pub String);

impl Regex {
    /// Compiles `source` between anchors.
    ///
    /// # Errors
    /// Syntax that RE2 refuses, and expressions beyond the bounds of nesting, repetition and compiled size.
    pub fn new(source: &str) -> Result<Regex, RegexError> {
        let parsed = re2::parse(&anchored(source))?;
        let inside = inside_anchors(&parsed.tree);
        let groups = parsed.group_names.len() - 1;
        let strategy = inside.and_then(|inside| text_strategy(inside, groups)).unwrap_or(Strategy::Other);
        let literals = inside.and_then(literals);
        let prefix = match &literals {
            Some(literals) => common_prefix(literals),
            None => inside.map(leading_text).unwrap_or_default(),
        };
        let engine = OnceLock::new();
        if literals.is_none() && matches!(strategy, Strategy::Other) {
            let built = Engine::build(&parsed.tree, PROGRAM_BYTES_MAX).map_err(|error| build_error(source, error))?;
            assert!(engine.set(built).is_ok(), "the engine is built once");
        }
        Ok(Regex(Arc::new(Inner {
            source: source.into(),
            group_names: parsed.group_names.into_boxed_slice(),
            is_anchored: true,
            matches_whole_text: inside.is_some(),
            prefix: prefix.into_boxed_str(),
            literals: literals.map(Vec::into_boxed_slice),
            strategy,
            engine,
        })))
    }

    /// Compiles `source` as it is, for searching within a text: the meaning of Go's `regexp.Compile`.
    ///
    /// # Errors
    /// As [`Regex::new`].
    pub fn unanchored(source: &str) -> Result<Regex, RegexError> {
        let parsed = re2::parse(source)?;
        let built = Engine::build(&parsed.tree, PROGRAM_BYTES_MAX).map_err(|error| build_error(source, error))?;
        Ok(Regex(Arc::new(Inner {
            source: source.into(),
            is_anchored: false,
            group_names: parsed.group_names.into_boxed_slice(),
            matches_whole_text: false,
            prefix: "".into(),
            literals: None,
            strategy: Strategy::Other,
            engine: OnceLock::from(built),
        })))
    }

    /// Returns the text it was made from, without the anchors that [`Regex::new`] adds.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Returns whether `text` matches; as a whole, unless the expression is unanchored.
    pub fn is_match(&self, text: &str) -> bool {
        let inner = &*self.0;
        match (&inner.strategy, &inner.literals) {
            (Strategy::PrefixSuffix(affixes), _) => affixes.is_match(text),
            (Strategy::Contains(word), _) => text.contains(&**word),
            (Strategy::Other, Some(literals)) if literals.len() <= LITERALS_LINEAR_MAX => {
                literals.iter().any(|literal| **literal == *text)
            }
            (Strategy::Other, Some(literals)) => literals.binary_search_by(|literal| (**literal).cmp(text)).is_ok(),
            (Strategy::Other, None) => {
                (inner.prefix.is_empty() || text.starts_with(&*inner.prefix)) && self.engine().compiled.is_match(text)
            }
        }
    }

    /// Returns all texts that match, sorted, if they are a few thousand at most: `a|b`, `node-[1-3]`, or a plain word.
    /// The list is empty for an expression that matches nothing.
    pub fn literal_alternatives(&self) -> Option<&[Box<str>]> {
        self.0.literals.as_deref()
    }

    /// Returns the text with which every match begins; may be empty.
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }

    /// Returns the number of groups, the whole match (group 0) included.
    pub fn group_count(&self) -> usize {
        self.0.group_names.len()
    }

    /// Returns the groups of that name. Go's RE2 lets several groups share one.
    pub fn groups_named(&self, name: &str) -> impl Iterator<Item = usize> {
        let named = move |group: &Option<Box<str>>| group.as_deref() == Some(name);
        self.0.group_names.iter().enumerate().filter(move |(_, group)| named(group)).map(|(index, _)| index)
    }

    /// Finds the first match and writes its groups to `groups`, which is empty if there is no match.
    pub fn find_groups(&self, text: &str, groups: &mut Groups) -> bool {
        groups.clear();
        if let Strategy::PrefixSuffix(affixes) = &self.0.strategy {
            if !affixes.is_match(text) {
                return false;
            }
            groups.push(Some((0, text.len())));
            groups.extend(affixes.groups.iter().map(|(start, end)| Some((start.in_text(text), end.in_text(text)))));
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

    /// Returns `text` with every match replaced by what `expand` appends for its groups. An anchored expression has more
    /// than one match only if it is like `a)|(b`.
    pub fn replace_all(&self, text: &str, mut expand: impl FnMut(&Groups, &mut String)) -> String {
        let expanded = self.try_replace_all(text, |groups, out| {
            expand(groups, out);
            Ok::<_, std::convert::Infallible>(())
        });
        expanded.unwrap_or_else(|never| match never {})
    }

    /// Does the same with an `expand` that can fail.
    ///
    /// # Errors
    /// Stops at the first error of `expand` and returns it.
    pub fn try_replace_all<E>(
        &self,
        text: &str,
        mut expand: impl FnMut(&Groups, &mut String) -> Result<(), E>,
    ) -> Result<String, E> {
        let mut groups = Groups::new();
        let mut out = String::new();
        if self.0.matches_whole_text {
            match self.find_groups(text, &mut groups) {
                true => expand(&groups, &mut out)?,
                false => out.push_str(text),
            }
            return Ok(out);
        }
        let engine = self.engine();
        let mut copied = 0;
        for captures in engine.compiled.captures_iter(text) {
            engine.copy_groups(&captures, self.group_count(), &mut groups);
            let (start, end) = groups[0].expect("group 0 takes part in every match");
            out.push_str(&text[copied..start]);
            expand(&groups, &mut out)?;
            copied = end;
        }
        out.push_str(&text[copied..]);
        Ok(out)
    }

    /// Returns the compiled expression, with its anchors. It knows groups by number only, and lacks those under `{0}`; use
    /// [`Regex::find_groups`] where groups matter.
    pub fn compiled(&self) -> &regex::Regex {
        &self.engine().compiled
    }

    fn engine(&self) -> &Engine {
        self.0.engine.get_or_init(|| {
            let parsed = re2::parse(&anchored(&self.0.source)).expect("the same text was parsed in `new`");
            // Only expressions with a strategy of bounded size get here, see `new`.
            Engine::build(&parsed.tree, usize::MAX).expect("a list of literals compiles")
        })
    }
}

fn build_error(source: &str, error: regex::Error) -> RegexError {
    match error {
        regex::Error::CompiledTooBig(_) => RegexError(format!("expression too large: `{source}`")),
        error => RegexError(format!("regexp/syntax: internal error: `{source}`: {error}")),
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

/// A part of a simple expression.
enum Token<'a> {
    Text(&'a str),
    Any,
    AtLeastOne,
    GroupStart(usize),
    GroupEnd(usize),
}

/// Splits `parts` into tokens; none if they contain more than text, `.*`, `.+` and groups around them.
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

/// Returns whether `tree` is a dot that also matches newlines.
fn is_any_character(tree: &Hir) -> bool {
    match tree.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            matches!(class.ranges(), [range] if range.start() == '\0' && range.end() == char::MAX)
        }
        _ => false,
    }
}

fn text_strategy(parts: &[Hir], group_count: usize) -> Option<Strategy> {
    let mut found = Vec::new();
    tokens(parts, &mut found)?;
    if group_count == 0
        && let [Token::Any, Token::Text(word), Token::Any] = found[..]
    {
        return Some(Strategy::Contains(word.into()));
    }
    let (mut before, mut after) = (String::new(), String::new());
    let mut gap = Gap::Nothing;
    for token in &found {
        match token {
            Token::Text(text) if gap == Gap::Nothing => before.push_str(text),
            Token::Text(text) => after.push_str(text),
            // With two gaps only a search can tell the groups apart.
            Token::Any | Token::AtLeastOne if gap != Gap::Nothing => return None,
            Token::Any => gap = Gap::Any,
            Token::AtLeastOne => gap = Gap::AtLeastOne,
            Token::GroupStart(_) | Token::GroupEnd(_) => {}
        }
    }
    let mut groups = vec![None; group_count];
    let mut starts = vec![CaptureBound::FromStart(0); group_count];
    let mut bound = CaptureBound::FromStart(0);
    for token in &found {
        match (token, &mut bound) {
            (Token::Text(text), CaptureBound::FromStart(bytes)) => *bytes += text.len(),
            (Token::Text(text), CaptureBound::FromEnd(bytes)) => *bytes -= text.len(),
            (Token::Any | Token::AtLeastOne, bound) => *bound = CaptureBound::FromEnd(after.len()),
            (Token::GroupStart(group), bound) => starts[group - 1] = *bound,
            (Token::GroupEnd(group), bound) => groups[group - 1] = Some((starts[group - 1], *bound)),
        }
    }
    // A group that is not in the tree (`(a){0}`) has no bounds.
    let groups: Box<[_]> = groups.into_iter().collect::<Option<_>>()?;
    Some(Strategy::PrefixSuffix(PrefixSuffix { prefix: before.into(), suffix: after.into(), gap, groups }))
}

impl PrefixSuffix {
    fn is_match(&self, text: &str) -> bool {
        if self.gap == Gap::Nothing {
            return *text == *self.prefix;
        }
        let bytes_min = self.prefix.len() + self.suffix.len() + usize::from(self.gap == Gap::AtLeastOne);
        text.len() >= bytes_min && text.starts_with(&*self.prefix) && text.ends_with(&*self.suffix)
    }
}

impl CaptureBound {
    fn in_text(self, text: &str) -> usize {
        match self {
            CaptureBound::FromStart(bytes) => bytes,
            CaptureBound::FromEnd(bytes) => text.len() - bytes,
        }
    }
}

/// Returns all texts that the sequence `parts` can match, sorted and unique, if they are few.
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
        // The tree has classes of bytes only for expressions that never match.
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
    // All others lie between the first and the last in sorted order.
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return String::new() };
    first.chars().zip(last.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

/// Returns the text with which every match of the sequence `parts` begins.
fn leading_text(parts: &[Hir]) -> String {
    let mut text = String::new();
    append_leading_text(parts, &mut text);
    text
}

/// Appends the leading text of `parts`. Returns whether all of them are text, so that the next part may be appended.
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
        self.source() == other.source() && self.0.is_anchored == other.0.is_anchored
    }
}

impl Eq for Regex {}

#[cfg(test)]
mod tests;
