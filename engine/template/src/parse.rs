//! Parses tokens into a tree.

use crate::NESTING_MAX;
use crate::functions;
use crate::lex::{Lexed, ParseError, Token, lex};
use std::collections::BTreeMap;
use std::ops::Range;

type Span = Range<usize>;

#[derive(Clone, Debug)]
pub enum Node {
    Text(String),
    /// A pipeline whose value is printed, unless it only sets variables.
    Action(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    Call {
        name: String,
        with: Option<Pipeline>,
        span: Span,
    },
    Break,
    Continue,
}

#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Variables that are set to the value, and whether they are declared here.
    pub sets: Vec<String>,
    pub declares: bool,
    pub commands: Vec<Command>,
    pub span: Span,
}

/// A function with its arguments, or one operand.
#[derive(Clone, Debug)]
pub struct Command {
    pub operands: Vec<Operand>,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Operand {
    pub kind: Kind,
    /// Fields that are selected from it, in order.
    pub fields: Vec<String>,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Variable(String),
    Function(&'static functions::Function),
    Pipeline(Box<Pipeline>),
}

pub type Defined = BTreeMap<String, Vec<Node>>;

/// The template, and the templates defined within.
pub fn parse(text: &str) -> Result<(Vec<Node>, Defined), ParseError> {
    let tokens = lex(text)?;
    let globals = ["", "labels", "externalLabels", "externalURL", "value"];
    let variables = globals.map(str::to_owned).to_vec();
    let mut parser =
        Parser { tokens, next: 0, end: text.len(), depth: 0, loops: 0, variables, defined: Defined::new() };
    let (nodes, end) = parser.list()?;
    match end {
        Ending::Text => Ok((nodes, parser.defined)),
        Ending::Else => Err(parser.error_before("unexpected {{else}}")),
        Ending::Closed => Err(parser.error_before("unexpected {{end}}")),
    }
}

/// The action that ends a list of nodes.
#[derive(PartialEq)]
enum Ending {
    Text,
    /// `{{else`; the rest of the action has not been read.
    Else,
    Closed,
}

struct Parser {
    tokens: Vec<Lexed>,
    next: usize,
    end: usize,
    depth: usize,
    loops: usize,
    variables: Vec<String>,
    defined: Defined,
}

impl Parser {
    fn peek(&self) -> Option<&Lexed> {
        self.tokens.get(self.next)
    }

    fn is(&self, token: &Token) -> bool {
        self.peek().is_some_and(|next| next.token == *token)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Lexed { token: Token::Word(next), .. }) if next == word)
    }

    fn take(&mut self) -> Result<Lexed, ParseError> {
        let token = self.peek().cloned().ok_or_else(|| self.error("unexpected EOF"))?;
        self.next += 1;
        Ok(token)
    }

    fn at(&self) -> usize {
        self.peek().map_or(self.end, |next| next.span.start)
    }

    fn error(&self, what: impl Into<String>) -> ParseError {
        ParseError { at: self.at(), what: what.into() }
    }

    fn error_before(&self, what: &str) -> ParseError {
        let at = self.tokens.get(self.next.saturating_sub(1)).map_or(self.end, |last| last.span.start);
        ParseError { at, what: what.into() }
    }

    fn close(&mut self, context: &str) -> Result<(), ParseError> {
        if !self.is(&Token::Close) {
            return Err(self.error(format!("unexpected {} in {context}", self.describe())));
        }
        self.next += 1;
        Ok(())
    }

    fn describe(&self) -> String {
        match self.peek().map(|next| &next.token) {
            None => "EOF".into(),
            Some(Token::Word(word)) => format!("<{word}>"),
            Some(Token::Field(name)) => format!("<.{name}>"),
            Some(Token::Variable(name)) => format!("\"${name}\""),
            Some(Token::Right) => "right paren".into(),
            Some(Token::Close) => "}}".into(),
            Some(other) => format!("{other:?}"),
        }
    }

    fn deeper(&mut self) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(self.error(format!("nested deeper than {NESTING_MAX} levels")));
        }
        Ok(())
    }

    /// Parses nodes up to `{{end}}`, `{{else` or the end of the text.
    fn list(&mut self) -> Result<(Vec<Node>, Ending), ParseError> {
        self.deeper()?;
        let mut nodes = Vec::new();
        let end = loop {
            let Some(next) = self.peek().cloned() else { break Ending::Text };
            self.next += 1;
            if let Token::Text(text) = next.token {
                nodes.push(Node::Text(text));
                continue;
            }
            let word = match self.peek() {
                Some(Lexed { token: Token::Word(word), .. }) => word.clone(),
                _ => String::new(),
            };
            let start = self.next;
            self.next += 1;
            match word.as_str() {
                "end" => {
                    self.close("end")?;
                    break Ending::Closed;
                }
                "else" => break Ending::Else,
                "if" => nodes.push(self.branch("if")?),
                "with" => nodes.push(self.branch("with")?),
                "range" => nodes.push(self.branch("range")?),
                "define" => self.define()?,
                "block" => nodes.push(self.block()?),
                "template" => nodes.push(self.call()?),
                "break" | "continue" => {
                    if self.loops == 0 {
                        return Err(self.error(format!("{{{{{word}}}}} outside {{{{range}}}}")));
                    }
                    self.close(&word)?;
                    nodes.push(if word == "break" { Node::Break } else { Node::Continue });
                }
                _ => {
                    self.next = start;
                    let pipeline = self.pipeline("command")?;
                    self.close("command")?;
                    nodes.push(Node::Action(pipeline));
                }
            }
        };
        self.depth -= 1;
        Ok((nodes, end))
    }

    fn branch(&mut self, word: &'static str) -> Result<Node, ParseError> {
        let variables = self.variables.len();
        let pipeline = self.pipeline(word)?;
        self.close(word)?;
        let is_loop = word == "range";
        self.loops += usize::from(is_loop);
        let (then, end) = self.list()?;
        self.loops -= usize::from(is_loop);
        let mut otherwise = Vec::new();
        match end {
            Ending::Text => return Err(self.error("unexpected EOF")),
            Ending::Closed => {}
            // `{{else if x}}` is an `if` in the `else` that shares its `{{end}}`.
            Ending::Else if !self.is(&Token::Close) => {
                let same = self.is_word(word) && word != "range";
                if !same {
                    return Err(self.error(format!("unexpected {} in else", self.describe())));
                }
                self.next += 1;
                self.deeper()?;
                otherwise.push(self.branch(word)?);
                self.depth -= 1;
            }
            Ending::Else => {
                self.next += 1;
                let (nodes, end) = self.list()?;
                match end {
                    Ending::Closed => otherwise = nodes,
                    Ending::Else => return Err(self.error("expected end; found {{else}}")),
                    Ending::Text => return Err(self.error("unexpected EOF")),
                }
            }
        }
        self.variables.truncate(variables);
        Ok(match word {
            "if" => Node::If(pipeline, then, otherwise),
            "with" => Node::With(pipeline, then, otherwise),
            _ => Node::Range(pipeline, then, otherwise),
        })
    }

    fn name(&mut self, context: &str) -> Result<String, ParseError> {
        match self.take()?.token {
            Token::String(name) => Ok(name),
            _ => {
                self.next -= 1;
                Err(self.error(format!("unexpected {} in {context}", self.describe())))
            }
        }
    }

    /// Parses the body of a defined template, in which no outer variables are visible.
    fn body(&mut self, name: &str) -> Result<(), ParseError> {
        let outer = std::mem::replace(&mut self.variables, vec![String::new()]);
        let loops = std::mem::take(&mut self.loops);
        let (nodes, end) = self.list()?;
        self.variables = outer;
        self.loops = loops;
        if end != Ending::Closed {
            return Err(self.error("unexpected EOF"));
        }
        self.defined.insert(name.to_owned(), nodes);
        Ok(())
    }

    fn define(&mut self) -> Result<(), ParseError> {
        let name = self.name("define clause")?;
        self.close("define clause")?;
        self.body(&name)
    }

    fn block(&mut self) -> Result<Node, ParseError> {
        let span = self.tokens[self.next - 1].span.clone();
        let name = self.name("block clause")?;
        let with = self.pipeline("block clause")?;
        self.close("block clause")?;
        self.body(&name)?;
        Ok(Node::Call { name, with: Some(with), span })
    }

    fn call(&mut self) -> Result<Node, ParseError> {
        let span = self.tokens[self.next - 1].span.clone();
        let name = self.name("template clause")?;
        let with = if self.is(&Token::Close) { None } else { Some(self.pipeline("template clause")?) };
        self.close("template clause")?;
        Ok(Node::Call { name, with, span })
    }

    fn pipeline(&mut self, context: &'static str) -> Result<Pipeline, ParseError> {
        self.deeper()?;
        let start = self.at();
        let (sets, declares) = self.sets(context)?;
        let mut commands = vec![self.command(context)?];
        while self.is(&Token::Pipe) {
            self.next += 1;
            let command = self.command(context)?;
            if !matches!(command.operands[0].kind, Kind::Function(_)) {
                return Err(self.error("non executable command in pipeline"));
            }
            commands.push(command);
        }
        let end = commands.last().map_or(start, |command| command.span.end);
        self.depth -= 1;
        Ok(Pipeline { sets, declares, commands, span: start..end })
    }

    /// `$x :=`, `$x =` and, for a range, `$i, $x :=`.
    fn sets(&mut self, context: &str) -> Result<(Vec<String>, bool), ParseError> {
        let variable = |at: usize| match self.tokens.get(at) {
            Some(Lexed { token: Token::Variable(name), .. }) => Some(name.clone()),
            _ => None,
        };
        let token = |at: usize| self.tokens.get(at).map(|lexed| &lexed.token);
        let Some(first) = variable(self.next) else { return Ok((Vec::new(), false)) };
        let (names, operator) = match (token(self.next + 1), variable(self.next + 2)) {
            (Some(Token::Comma), Some(second)) if context == "range" => (vec![first, second], self.next + 3),
            _ => (vec![first], self.next + 1),
        };
        let declares = match token(operator) {
            Some(Token::Declare) => true,
            Some(Token::Assign) => false,
            _ => return Ok((Vec::new(), false)),
        };
        if !declares && let Some(unknown) = names.iter().find(|name| !self.variables.contains(name)) {
            return Err(self.error(format!("undefined variable \"${unknown}\"")));
        }
        self.next = operator + 1;
        if declares {
            self.variables.extend(names.iter().cloned());
        }
        Ok((names, declares))
    }

    fn command(&mut self, context: &str) -> Result<Command, ParseError> {
        let start = self.at();
        let mut operands: Vec<Operand> = Vec::new();
        loop {
            match self.peek().map(|next| &next.token) {
                None | Some(Token::Pipe | Token::Right | Token::Close) => break,
                Some(_) => operands.push(self.operand(context)?),
            }
        }
        let Some(first) = operands.first() else {
            return Err(self.error(format!("missing value for {context}")));
        };
        if operands.len() > 1 && !matches!(first.kind, Kind::Function(_)) {
            let at = operands[1].span.start;
            return Err(ParseError { at, what: "can't give argument to non-function".into() });
        }
        let end = operands.last().map_or(start, |last| last.span.end);
        Ok(Command { operands, span: start..end })
    }

    fn operand(&mut self, context: &str) -> Result<Operand, ParseError> {
        let taken = self.take()?;
        let start = taken.span.start;
        let mut fields = Vec::new();
        let kind = match taken.token {
            Token::Dot => Kind::Dot,
            Token::Field(name) => {
                fields.push(name);
                Kind::Dot
            }
            Token::String(text) => Kind::Text(text),
            Token::Int(value) => Kind::Int(value),
            Token::Float(value) => Kind::Float(value),
            Token::Variable(name) if self.variables.contains(&name) => Kind::Variable(name),
            Token::Variable(name) => {
                return Err(ParseError { at: start, what: format!("undefined variable \"${name}\"") });
            }
            Token::Left => {
                let pipeline = self.pipeline("parenthesized pipeline")?;
                if !self.is(&Token::Right) {
                    return Err(self.error("unclosed left paren"));
                }
                self.next += 1;
                Kind::Pipeline(Box::new(pipeline))
            }
            Token::Word(word) => match word.as_str() {
                "true" => Kind::Bool(true),
                "false" => Kind::Bool(false),
                "nil" => Kind::Nil,
                name => match functions::find(name) {
                    Some(function) => Kind::Function(function),
                    None => return Err(ParseError { at: start, what: format!("function {name:?} not defined") }),
                },
            },
            _ => {
                self.next -= 1;
                return Err(self.error(format!("unexpected {} in {context}", self.describe())));
            }
        };
        while let Some(Lexed { token: Token::Field(name), spaced: false, .. }) = self.peek() {
            let name = name.clone();
            if !matches!(kind, Kind::Dot | Kind::Variable(_) | Kind::Pipeline(_) | Kind::Function(_)) {
                return Err(self.error(format!("unexpected <.{name}> after a constant")));
            }
            fields.push(name);
            self.next += 1;
        }
        let end = self.tokens[self.next - 1].span.end;
        Ok(Operand { kind, fields, span: start..end })
    }
}
