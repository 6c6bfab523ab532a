//! From text to a checked tree: precedence climbing over the words of [`crate::syntax::lex`].
//!
//! Errors carry the place and use Prometheus' words where it has words for the case.

use crate::syntax::ast::*;
use crate::syntax::error::{ParseError, Span};
use crate::syntax::lex::{Token, duration_ms, go_quoted, lex};
use crate::syntax::signature::{self, Function, ValueType};
use series::{METRIC_NAME, MatchOp, Matcher};

/// Longest query.
pub const QUERY_BYTES_MAX: usize = 1 << 20;
/// Matchers of one selector: each is compared with every series that the others leave.
pub const MATCHERS_MAX: usize = 256;
/// Deepest nesting: parsing and evaluation recurse.
const DEPTH_MAX: usize = 250;
/// Words that stand for nothing but themselves: all other keywords are names where an operand belongs.
const NO_METRIC_NAMES: [&str; 6] = ["bool", "on", "ignoring", "group_left", "group_right", "atan2"];

/// What a server allows, and what arithmetic with durations needs to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct ParseOptions {
    /// `--enable-feature=promql-experimental-functions`
    pub experimental_functions: bool,
    /// `--enable-feature=promql-extended-range-selectors`
    pub extended_range_selectors: bool,
    /// `--enable-feature=promql-binop-fill-modifiers`
    pub fill_modifiers: bool,
    /// Of the range query; 0 for an instant query.
    pub step_ms: i64,
    pub range_ms: i64,
}

fn binary_op(token: &Token) -> Option<BinaryOp> {
    Some(match token {
        Token::Sign("+") => BinaryOp::Add,
        Token::Sign("-") => BinaryOp::Sub,
        Token::Sign("*") => BinaryOp::Mul,
        Token::Sign("/") => BinaryOp::Div,
        Token::Sign("%") => BinaryOp::Mod,
        Token::Sign("^") => BinaryOp::Pow,
        Token::Sign("</") => BinaryOp::TrimUpper,
        Token::Sign(">/") => BinaryOp::TrimLower,
        Token::Sign("==") => BinaryOp::Equal,
        Token::Sign("!=") => BinaryOp::NotEqual,
        Token::Sign(">") => BinaryOp::Greater,
        Token::Sign("<") => BinaryOp::Less,
        Token::Sign(">=") => BinaryOp::GreaterEqual,
        Token::Sign("<=") => BinaryOp::LessEqual,
        Token::Word(word) => match word.to_ascii_lowercase().as_str() {
            "and" => BinaryOp::And,
            "or" => BinaryOp::Or,
            "unless" => BinaryOp::Unless,
            "atan2" => BinaryOp::Atan2,
            _ => return None,
        },
        _ => return None,
    })
}

/// Reads and checks a query.
pub fn parse(text: &str, options: &ParseOptions) -> Result<Expr, ParseError> {
    if text.len() > QUERY_BYTES_MAX {
        let span = Span { start: 0, end: 0 };
        return Err(ParseError::at(span, format!("query is longer than {QUERY_BYTES_MAX} bytes")).placed(text));
    }
    let run = || {
        let tokens = lex(text)?;
        let mut parser = Parser { text, tokens, at: 0, depth: 0, options };
        if *parser.peek() == Token::End {
            return Err(parser.fail("no expression found in input"));
        }
        let expr = parser.expr(0)?;
        if *parser.peek() != Token::End {
            return Err(parser.unexpected(""));
        }
        check(&expr)?;
        Ok(expr)
    };
    run().map_err(|error: ParseError| error.placed(text))
}

/// Reads the description of a series: a name, braces, or both. As test scripts write it.
pub fn parse_metric(text: &str) -> Result<series::Labels, ParseError> {
    let run = || {
        let options = ParseOptions::default();
        let mut parser = Parser { text, tokens: lex(text)?, at: 0, depth: 0, options: &options };
        let selector = parser.selector()?;
        if *parser.peek() != Token::End {
            return Err(parser.unexpected("metric"));
        }
        if selector.matchers.iter().any(|matcher| matcher.op() != MatchOp::Equal) {
            return Err(ParseError::at(Span::default(), "a series is described by `=` alone".into()));
        }
        Ok(series::Labels::from_pairs(selector.matchers.iter().map(|matcher| (matcher.name(), matcher.value()))))
    };
    run().map_err(|error: ParseError| error.placed(text))
}

/// Reads a selector as `match[]` takes it: a name, braces, or both, and nothing else. As with Prometheus it may select
/// everything, such as `{}`, and a keyword may be a name; callers that refuse the former use [`selects_anything`].
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    let run = || {
        let options = ParseOptions::default();
        let mut parser = Parser { text, tokens: lex(text)?, at: 0, depth: 0, options: &options };
        let selector = parser.selector()?;
        if *parser.peek() != Token::End {
            return Err(parser.unexpected(""));
        }
        Ok(selector.matchers)
    };
    run().map_err(|error: ParseError| error.placed(text))
}

/// Whether matchers are satisfied by a series without labels, and so by almost any.
pub fn selects_anything(matchers: &[Matcher]) -> bool {
    matchers.iter().all(|matcher| matcher.matches(""))
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(Token, Span)>,
    at: usize,
    depth: usize,
    options: &'a ParseOptions,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn peek_second(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    fn span(&self) -> Span {
        self.tokens[self.at].1
    }

    fn last_end(&self) -> usize {
        if self.at == 0 { 0 } else { self.tokens[self.at - 1].1.end }
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn take(&mut self, sign: &'static str) -> bool {
        let found = *self.peek() == Token::Sign(sign);
        if found {
            self.next();
        }
        found
    }

    fn word_is(&self, keyword: &str) -> bool {
        matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn take_word(&mut self, keyword: &str) -> bool {
        let found = self.word_is(keyword);
        if found {
            self.next();
        }
        found
    }

    fn fail(&self, text: impl Into<String>) -> ParseError {
        ParseError::at(self.span(), text.into())
    }

    fn unexpected(&self, context: &str) -> ParseError {
        self.unexpected_for(context, "")
    }

    fn unexpected_for(&self, context: &str, wanted: &str) -> ParseError {
        let span = self.span();
        let mut text = format!("unexpected {}", self.peek().describe(&self.text[span.start..span.end]));
        if !context.is_empty() {
            text += &format!(" in {context}");
        }
        if !wanted.is_empty() {
            text += &format!(", expected {wanted}");
        }
        self.fail(text)
    }

    fn want(&mut self, sign: &'static str, context: &str) -> Result<(), ParseError> {
        if self.take(sign) { Ok(()) } else { Err(self.unexpected_for(context, &go_quoted(sign))) }
    }

    // --- expressions ------------------------------------------------------------------------------------------------

    fn expr(&mut self, binding_min: u8) -> Result<Expr, ParseError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.fail(format!("expression is nested deeper than {DEPTH_MAX}")));
        }
        let mut left = self.unary()?;
        let mut links = 0;
        while let Some(op) = binary_op(self.peek()) {
            if op.binding() < binding_min {
                break;
            }
            // A chain of operators is a tree as deep as it is long.
            links += 1;
            if self.depth + links > DEPTH_MAX {
                return Err(self.fail(format!("expression is nested deeper than {DEPTH_MAX}")));
            }
            self.next();
            left = self.binary(op, left)?;
        }
        self.depth -= 1;
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, ParseError> {
        let start = self.span().start;
        let minus = match self.peek() {
            Token::Sign("-") => true,
            Token::Sign("+") => false,
            _ => return self.postfix(),
        };
        self.next();
        // Binds as multiplication does.
        let inner = self.expr(BinaryOp::Mul.binding() + 1)?;
        let span = Span { start, end: self.last_end() };
        if !matches!(inner.value_type(), ValueType::Scalar | ValueType::Vector) {
            let text = format!(
                "unary expression only allowed on expressions of type scalar or instant vector, got {:?}",
                inner.value_type().documented()
            );
            return Err(ParseError::at(span, text));
        }
        Ok(match inner.kind {
            Kind::Number(number) => {
                let value = if minus { -number.value } else { number.value };
                Expr { kind: Kind::Number(Number { value, ..number }), span }
            }
            _ if minus => Expr { kind: Kind::Negation(Box::new(inner)), span },
            _ => Expr { span, ..inner },
        })
    }

    fn binary(&mut self, op: BinaryOp, left: Expr) -> Result<Expr, ParseError> {
        let op_span = self.tokens[self.at - 1].1;
        let is_bool = self.take_word("bool");
        if is_bool && !op.is_comparison() {
            return Err(ParseError::at(op_span, "bool modifier can only be used on comparison operators".into()));
        }
        let mut matching = VectorMatching {
            cardinality: if op.is_set() { Cardinality::ManyToMany } else { Cardinality::OneToOne },
            on: false,
            labels: Vec::new(),
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        };
        let mut named = false;
        if self.word_is("on") || self.word_is("ignoring") {
            named = true;
            matching.on = self.word_is("on");
            self.next();
            matching.labels = self.label_list("grouping opts")?;
            if self.word_is("group_left") || self.word_is("group_right") {
                let left = self.word_is("group_left");
                self.next();
                if op.is_set() {
                    return Err(ParseError::at(op_span, format!("no grouping allowed for {:?} operation", op.name())));
                }
                matching.cardinality = if left { Cardinality::ManyToOne } else { Cardinality::OneToMany };
                if *self.peek() == Token::Sign("(") {
                    matching.include = self.label_list("grouping opts")?;
                }
            }
        }
        while matches!(self.peek(), Token::Word(word) if matches!(word.to_ascii_lowercase().as_str(), "fill" | "fill_left" | "fill_right"))
            && *self.peek_second() == Token::Sign("(")
        {
            self.fill(op, &mut matching)?;
            named = true;
        }
        // `^` is the only operator that groups to the right.
        let right = self.expr(if op == BinaryOp::Pow { op.binding() } else { op.binding() + 1 })?;
        let span = Span { start: left.span.start, end: right.span.end };
        let fail = |text: String| Err(ParseError::at(span, text));
        let (left_type, right_type) = (left.value_type(), right.value_type());
        for (side, kind) in [(&left, left_type), (&right, right_type)] {
            if !matches!(kind, ValueType::Scalar | ValueType::Vector) {
                let text = "binary expression must contain only scalar and instant vector types".to_owned();
                return Err(ParseError::at(side.span, text));
            }
        }
        let vectors = left_type == ValueType::Vector && right_type == ValueType::Vector;
        if !vectors && named {
            return fail("vector matching only allowed between instant vectors".into());
        }
        if !vectors && op.is_set() {
            return fail(format!("set operator {:?} not allowed in binary scalar expression", op.name()));
        }
        if left_type == ValueType::Scalar && right_type == ValueType::Scalar && op.is_comparison() && !is_bool {
            return fail("comparisons between scalars must use BOOL modifier".into());
        }
        if matching.on
            && let Some(label) = matching.include.iter().find(|label| matching.labels.contains(label))
        {
            return fail(format!("label {label:?} must not occur in ON and GROUP clause at once"));
        }
        let matching = vectors.then_some(matching);
        Ok(Expr { kind: Kind::Binary(Box::new(Binary { op, left, right, is_bool, matching })), span })
    }

    fn fill(&mut self, op: BinaryOp, matching: &mut VectorMatching) -> Result<(), ParseError> {
        let span = self.span();
        if !self.options.fill_modifiers {
            let text = "binop fill modifiers are experimental and not enabled";
            return Err(ParseError::at(span, text.into()));
        }
        if op.is_set() {
            return Err(ParseError::at(span, "filling in missing series not allowed for set operators".into()));
        }
        let Token::Word(which) = self.next() else { return Err(self.unexpected("fill modifier")) };
        self.want("(", "fill modifier")?;
        let value = self.signed_number("fill modifier")?;
        self.want(")", "fill modifier")?;
        let which = which.to_ascii_lowercase();
        if which != "fill_right" {
            matching.fill_left = Some(value);
        }
        if which != "fill_left" {
            matching.fill_right = Some(value);
        }
        Ok(())
    }

    fn signed_number(&mut self, context: &str) -> Result<f64, ParseError> {
        let minus = self.take("-");
        if !minus {
            self.take("+");
        }
        let value = match self.peek() {
            Token::Number(value) => *value,
            Token::Duration(ms) => *ms as f64 / 1000.0,
            _ => return Err(self.unexpected_for(context, "number")),
        };
        self.next();
        Ok(if minus { -value } else { value })
    }

    /// An operand with its ranges, offsets and times.
    fn postfix(&mut self) -> Result<Expr, ParseError> {
        let mut expr = self.primary()?;
        for layers in 0.. {
            if self.depth + layers > DEPTH_MAX {
                break;
            }
            let start = expr.span.start;
            if *self.peek() == Token::Sign("[") {
                expr = self.range(expr)?;
            } else if self.word_is("offset") {
                let span = self.span();
                self.next();
                let offset = self.offset()?;
                let place = match &mut expr.kind {
                    Kind::Vector(selector) | Kind::Matrix { selector, .. } => &mut selector.offset,
                    Kind::Subquery(subquery) => &mut subquery.offset,
                    _ => {
                        let text = "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery, but follows a ";
                        return Err(ParseError::at(expr.span, format!("{text}{} instead", kind_name(&expr.kind))));
                    }
                };
                if place.is_some() {
                    return Err(ParseError::at(span, "offset may not be set multiple times".into()));
                }
                *place = Some(offset);
            } else if *self.peek() == Token::Sign("@") {
                let span = self.span();
                self.next();
                let at = self.time()?;
                let place = match &mut expr.kind {
                    Kind::Vector(selector) | Kind::Matrix { selector, .. } => &mut selector.at,
                    Kind::Subquery(subquery) => &mut subquery.at,
                    _ => {
                        let text = "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery, but follows a ";
                        return Err(ParseError::at(expr.span, format!("{text}{} instead", kind_name(&expr.kind))));
                    }
                };
                if place.is_some() {
                    return Err(ParseError::at(span, "@ <timestamp> may not be set multiple times".into()));
                }
                *place = Some(at);
            } else if (self.word_is("anchored") || self.word_is("smoothed"))
                && matches!(expr.kind, Kind::Vector(_) | Kind::Matrix { .. })
            {
                let edges = if self.word_is("anchored") { RangeModifier::Anchored } else { RangeModifier::Smoothed };
                if !self.options.extended_range_selectors {
                    let text =
                        "is experimental and must be enabled with --enable-feature=promql-extended-range-selectors";
                    let name = if edges == RangeModifier::Anchored { "anchored" } else { "smoothed" };
                    return Err(self.fail(format!("{name} modifier {text}")));
                }
                match &mut expr.kind {
                    Kind::Vector(_) if edges == RangeModifier::Anchored => {
                        return Err(self.fail("anchored modifier can only be used with range selectors"));
                    }
                    Kind::Vector(selector) | Kind::Matrix { selector, .. } => {
                        if selector.modifier != RangeModifier::Plain {
                            return Err(self.fail("anchored and smoothed modifiers cannot be used together"));
                        }
                        selector.modifier = edges;
                    }
                    _ => unreachable!("only selectors get here"),
                }
                self.next();
            } else {
                return Ok(expr);
            }
            expr.span = Span { start, end: self.last_end() };
        }
        Err(self.fail(format!("expression is nested deeper than {DEPTH_MAX}")))
    }

    fn range(&mut self, expr: Expr) -> Result<Expr, ParseError> {
        let open = self.span();
        self.next();
        let range = self.length("subquery or range selector", 0)?;
        if range.ms <= 0 {
            return Err(ParseError::at(
                Span { start: open.end, end: self.last_end() },
                "duration must be greater than 0".into(),
            ));
        }
        if self.take(":") {
            let step = match self.peek() {
                Token::Sign("]") => None,
                _ => Some(self.length("subquery selector", 0)?),
            };
            if step.as_ref().is_some_and(|step| step.ms <= 0) {
                return Err(self.fail("duration must be greater than 0"));
            }
            self.want("]", "subquery selector")?;
            let span = Span { start: expr.span.start, end: self.last_end() };
            if expr.value_type() != ValueType::Vector && expr.value_type() != ValueType::Scalar {
                let text =
                    format!("subquery is only allowed on instant vector, got {} instead", expr.value_type().name());
                return Err(ParseError::at(span, text));
            }
            if expr.value_type() == ValueType::Scalar {
                let text = "subquery is only allowed on instant vector, got scalar instead";
                return Err(ParseError::at(span, text.into()));
            }
            return Ok(Expr {
                kind: Kind::Subquery(Box::new(Subquery { expr, range, step, offset: None, at: None })),
                span,
            });
        }
        self.want("]", "subquery or range")?;
        let span = Span { start: expr.span.start, end: self.last_end() };
        match expr.kind {
            Kind::Vector(selector) => {
                if selector.offset.is_some() {
                    return Err(ParseError::at(open, "no offset modifiers allowed before range".into()));
                }
                if selector.at.is_some() {
                    return Err(ParseError::at(open, "no @ modifiers allowed before range".into()));
                }
                Ok(Expr { kind: Kind::Matrix { selector, range }, span })
            }
            _ => Err(ParseError::at(open, "ranges only allowed for vector selectors".into())),
        }
    }

    fn primary(&mut self) -> Result<Expr, ParseError> {
        let start = self.span().start;
        let kind = match self.peek().clone() {
            Token::Number(value) => {
                self.next();
                Kind::Number(Number { value, is_duration: false })
            }
            Token::Duration(ms) => {
                self.next();
                Kind::Number(Number { value: ms as f64 / 1000.0, is_duration: true })
            }
            Token::String(value) => {
                self.next();
                Kind::String(value)
            }
            Token::InvalidString(quoted) => {
                self.next();
                Kind::InvalidString(quoted)
            }
            Token::Sign("(") => {
                self.next();
                let inner = self.expr(0)?;
                self.want(")", "parenthesized expression")?;
                Kind::Paren(Box::new(inner))
            }
            Token::Sign("{") => Kind::Vector(self.selector()?),
            Token::Word(word) => {
                let op = AggregateOp::ALL.into_iter().find(|op| op.name().eq_ignore_ascii_case(&word));
                let calls = *self.peek_second() == Token::Sign("(");
                let groups = matches!(self.peek_second(), Token::Word(next) if next.eq_ignore_ascii_case("by") || next.eq_ignore_ascii_case("without"));
                match op {
                    Some(op) if calls || groups => return self.aggregate(op),
                    _ if calls => return self.call(&word),
                    _ if NO_METRIC_NAMES.iter().any(|name| name.eq_ignore_ascii_case(&word)) => {
                        return Err(self.unexpected(""));
                    }
                    _ => Kind::Vector(self.selector()?),
                }
            }
            _ => return Err(self.unexpected("")),
        };
        Ok(Expr { kind, span: Span { start, end: self.last_end() } })
    }

    fn call(&mut self, name: &str) -> Result<Expr, ParseError> {
        let span = self.span();
        let Some(function) = signature::find(name) else {
            return Err(ParseError::at(span, format!("unknown function with name {name:?}")));
        };
        if function.experimental && !self.options.experimental_functions {
            return Err(ParseError::at(span, format!("function {name:?} is not enabled")));
        }
        self.next();
        self.next();
        let mut args = Vec::new();
        while *self.peek() != Token::Sign(")") {
            args.push(self.expr(0)?);
            if !self.take(",") {
                break;
            }
            if *self.peek() == Token::Sign(")") {
                return Err(self.fail("trailing commas not allowed in function call args"));
            }
        }
        self.want(")", "function call")?;
        let span = Span { start: span.start, end: self.last_end() };
        check_args(function, &args, span)?;
        Ok(Expr { kind: Kind::Call { function, args }, span })
    }

    fn aggregate(&mut self, op: AggregateOp) -> Result<Expr, ParseError> {
        let start = self.span().start;
        if op.is_experimental() && !self.options.experimental_functions {
            return Err(self.fail(format!(
                "{}() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
                op.name()
            )));
        }
        self.next();
        let mut grouping = None;
        if self.word_is("by") || self.word_is("without") {
            grouping = Some((self.word_is("without"), {
                self.next();
                self.label_list("grouping opts")?
            }));
        }
        self.want("(", "aggregation")?;
        let mut args = Vec::new();
        while *self.peek() != Token::Sign(")") {
            args.push(self.expr(0)?);
            if !self.take(",") {
                break;
            }
        }
        self.want(")", "aggregation")?;
        if grouping.is_none() && (self.word_is("by") || self.word_is("without")) {
            grouping = Some((self.word_is("without"), {
                self.next();
                self.label_list("grouping opts")?
            }));
        }
        let span = Span { start, end: self.last_end() };
        let wanted = 1 + usize::from(op.parameter().is_some());
        if args.is_empty() {
            return Err(ParseError::at(span, "no arguments for aggregate expression provided".into()));
        }
        if args.len() != wanted {
            let text = format!(
                "wrong number of arguments for aggregate expression provided, expected {wanted}, got {}",
                args.len()
            );
            return Err(ParseError::at(span, text));
        }
        let expr = args.pop().expect("counted above");
        let parameter = args.pop();
        let (without, labels) = grouping.unwrap_or_default();
        want_type(&expr, ValueType::Vector, "aggregation expression")?;
        if let (Some(parameter), Some(kind)) = (&parameter, op.parameter()) {
            want_type(parameter, kind, "aggregation parameter")?;
        }
        Ok(Expr { kind: Kind::Aggregate(Box::new(Aggregate { op, expr, parameter, without, labels })), span })
    }

    fn label_list(&mut self, context: &str) -> Result<Vec<String>, ParseError> {
        self.want("(", context)?;
        let mut labels = Vec::new();
        while *self.peek() != Token::Sign(")") {
            match self.peek().clone() {
                Token::Word(word) if !word.contains(':') => labels.push(word),
                Token::Number(value) if value.is_nan() || value.is_infinite() => {
                    let span = self.span();
                    labels.push(self.text[span.start..span.end].to_owned());
                }
                Token::String(name) if !name.is_empty() => labels.push(name),
                Token::String(name) => return Err(self.fail(format!("invalid label name for grouping: {name:?}"))),
                _ => return Err(self.unexpected_for(context, "label")),
            }
            self.next();
            if !self.take(",") && *self.peek() != Token::Sign(")") {
                return Err(self.unexpected_for(context, "\",\" or \")\""));
            }
        }
        self.next();
        Ok(labels)
    }

    // --- selectors --------------------------------------------------------------------------------------------------

    fn selector(&mut self) -> Result<Selector, ParseError> {
        let (mut name, span) = (None, self.span());
        if let Token::Word(word) = self.peek().clone() {
            self.next();
            name = Some(word);
        }
        let mut matchers = Vec::new();
        if *self.peek() == Token::Sign("{") {
            self.next();
            while *self.peek() != Token::Sign("}") {
                self.matcher(&mut name, &mut matchers)?;
                if matchers.len() > MATCHERS_MAX {
                    return Err(ParseError::at(span, format!("a selector has more than {MATCHERS_MAX} matchers")));
                }
                if !self.take(",") && *self.peek() != Token::Sign("}") {
                    return Err(self.unexpected_for("label matching", "\",\" or \"}\""));
                }
            }
            self.next();
        } else if name.is_none() {
            return Err(self.unexpected(""));
        }
        if let Some(name) = &name {
            matchers.push(Matcher::new(METRIC_NAME, MatchOp::Equal, name).expect("no expression"));
        }
        Ok(Selector { name, matchers, offset: None, at: None, modifier: RangeModifier::Plain, select: usize::MAX })
    }

    fn matcher(&mut self, name: &mut Option<String>, matchers: &mut Vec<Matcher>) -> Result<(), ParseError> {
        let span = self.span();
        let label = match self.next() {
            Token::Word(word) if !word.contains(':') => word,
            Token::String(quoted) if matches!(self.peek(), Token::Sign("," | "}")) => {
                if let Some(name) = name {
                    return Err(ParseError::at(
                        span,
                        format!("metric name must not be set twice: {name:?} or {quoted:?}"),
                    ));
                }
                *name = Some(quoted);
                return Ok(());
            }
            Token::String(quoted) => quoted,
            _ => {
                self.at -= 1;
                return Err(self.unexpected_for("label matching", "identifier or \"}\""));
            }
        };
        let op = match self.peek() {
            Token::Sign("=") => MatchOp::Equal,
            Token::Sign("!=") => MatchOp::NotEqual,
            Token::Sign("=~") => MatchOp::Regex,
            Token::Sign("!~") => MatchOp::NotRegex,
            _ => return Err(self.unexpected_for("label matching", "label matching operator")),
        };
        self.next();
        let Token::String(value) = self.peek().clone() else {
            return Err(self.unexpected_for("label matching", "string"));
        };
        let span = Span { start: span.start, end: self.span().end };
        self.next();
        matchers.push(Matcher::new(&label, op, &value).map_err(|error| ParseError::at(span, error.to_string()))?);
        Ok(())
    }

    // --- times ------------------------------------------------------------------------------------------------------

    fn time(&mut self) -> Result<At, ParseError> {
        if let Token::Word(word) = self.peek().clone() {
            let at = match word.to_ascii_lowercase().as_str() {
                "start" => At::Start,
                "end" => At::End,
                _ => return Err(self.unexpected_for("@", "timestamp")),
            };
            self.next();
            self.want("(", "@")?;
            self.want(")", "@")?;
            return Ok(at);
        }
        let span = self.span();
        let seconds = self.signed_number("@").map_err(|mut error| {
            error.text = error.text.replace(", expected number", ", expected timestamp");
            error
        })?;
        let ms = (seconds * 1000.0).round();
        if !ms.is_finite() || ms.abs() > i64::MAX as f64 / 4.0 {
            return Err(ParseError::at(span, format!("timestamp out of bounds for @ modifier: {seconds}")));
        }
        Ok(At::Ms(ms as i64))
    }

    /// Signed; arithmetic in parentheses only.
    fn offset(&mut self) -> Result<DurationExpr, ParseError> {
        let start = self.span().start;
        let minus = self.take("-");
        if !minus {
            self.take("+");
        }
        let (seconds, plain) = self.length_operand("offset", 0)?;
        let seconds = if minus { -seconds } else { seconds };
        self.make_length(seconds, plain, Span { start, end: self.last_end() })
    }

    fn length(&mut self, context: &str, depth: usize) -> Result<DurationExpr, ParseError> {
        let start = self.span().start;
        let (seconds, plain) = self.length_expr(context, 0, depth)?;
        self.make_length(seconds, plain, Span { start, end: self.last_end() })
    }

    fn make_length(&self, seconds: f64, plain: bool, span: Span) -> Result<DurationExpr, ParseError> {
        let ms = (seconds * 1000.0).round();
        if !ms.is_finite() || ms.abs() > (i64::MAX / 1_000_000) as f64 {
            return Err(ParseError::at(span, "duration out of range".into()));
        }
        let formula = (!plain).then(|| self.text[span.start..span.end].to_owned());
        Ok(DurationExpr { ms: ms as i64, formula })
    }

    /// Seconds, and whether it is one literal.
    fn length_expr(&mut self, context: &str, binding_min: u8, depth: usize) -> Result<(f64, bool), ParseError> {
        if depth > DEPTH_MAX {
            return Err(self.fail(format!("expression is nested deeper than {DEPTH_MAX}")));
        }
        let (mut left, mut plain) = self.length_operand(context, depth + 1)?;
        while let Some(op) = binary_op(self.peek()) {
            use BinaryOp::*;
            if op.binding() < binding_min || !matches!(op, Add | Sub | Mul | Div | Mod | Pow) {
                break;
            }
            self.next();
            let span = self.span();
            let binding = if op == Pow { op.binding() } else { op.binding() + 1 };
            let (right, _) = self.length_expr(context, binding, depth + 1)?;
            if right == 0.0 && matches!(op, Div | Mod) {
                let what = if op == Div { "division" } else { "modulo" };
                return Err(ParseError::at(span, format!("{what} by zero")));
            }
            left = match op {
                Add => left + right,
                Sub => left - right,
                Mul => left * right,
                Div => left / right,
                Mod => left % right,
                _ => left.powf(right),
            };
            plain = false;
        }
        Ok((left, plain))
    }

    fn length_operand(&mut self, context: &str, depth: usize) -> Result<(f64, bool), ParseError> {
        if depth > DEPTH_MAX {
            return Err(self.fail(format!("expression is nested deeper than {DEPTH_MAX}")));
        }
        let (step, range) = (self.options.step_ms as f64 / 1000.0, self.options.range_ms as f64 / 1000.0);
        match self.peek().clone() {
            Token::Number(value) => {
                self.next();
                Ok((value, true))
            }
            Token::Duration(ms) => {
                self.next();
                Ok((ms as f64 / 1000.0, true))
            }
            // A sign binds as multiplication does: powers come first.
            Token::Sign("-") => {
                self.next();
                Ok((-self.length_expr(context, BinaryOp::Pow.binding(), depth + 1)?.0, false))
            }
            Token::Sign("+") => {
                self.next();
                self.length_expr(context, BinaryOp::Pow.binding(), depth + 1)
            }
            Token::Sign("(") => {
                self.next();
                let (value, _) = self.length_expr(context, 0, depth + 1)?;
                self.want(")", context)?;
                Ok((value, false))
            }
            Token::Word(word)
                if ["step", "range", "min_of", "max_of"].contains(&word.to_ascii_lowercase().as_str()) =>
            {
                let word = word.to_ascii_lowercase();
                self.next();
                self.want("(", context)?;
                let value = match word.as_str() {
                    "step" => step,
                    "range" => range,
                    _ => {
                        let (one, _) = self.length_expr(context, 0, depth + 1)?;
                        self.want(",", context)?;
                        let (other, _) = self.length_expr(context, 0, depth + 1)?;
                        if word == "min_of" { one.min(other) } else { one.max(other) }
                    }
                };
                self.want(")", context)?;
                Ok((value, false))
            }
            _ => Err(self.unexpected_for(context, "number, duration, step(), or range()")),
        }
    }
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Number(_) => "number literal",
        Kind::String(_) | Kind::InvalidString(_) => "string literal",
        Kind::Vector(_) => "vector selector",
        Kind::Matrix { .. } => "matrix selector",
        Kind::Subquery(_) => "subquery",
        Kind::Call { .. } => "function call",
        Kind::Negation(_) => "unary expression",
        Kind::Binary(_) => "binary expression",
        Kind::Aggregate(_) => "aggregation",
        Kind::Paren(_) => "parenthesized expression",
    }
}

fn want_type(expr: &Expr, want: ValueType, context: &str) -> Result<(), ParseError> {
    let got = expr.value_type();
    if got == want {
        return Ok(());
    }
    let text = format!("expected type {} in {context}, got {}", want.documented(), got.documented());
    Err(ParseError::at(expr.span, text))
}

fn check_args(function: &Function, args: &[Expr], span: Span) -> Result<(), ParseError> {
    let (name, count) = (function.name, function.args.len());
    let fail = |text: String| Err(ParseError::at(span, text));
    if function.optional == 0 && function.repeated.is_none() {
        if args.len() != count {
            return fail(format!("expected {count} argument(s) in call to {name:?}, got {}", args.len()));
        }
    } else {
        let least = count - function.optional;
        if args.len() < least {
            return fail(format!("expected at least {least} argument(s) in call to {name:?}, got {}", args.len()));
        }
        let most = match function.repeated {
            None => count,
            Some(repeated) => count.saturating_add(repeated),
        };
        if args.len() > most {
            return fail(format!("expected at most {most} argument(s) in call to {name:?}, got {}", args.len()));
        }
    }
    for (i, arg) in args.iter().enumerate() {
        let want = function.args.get(i).or(function.args.last()).copied().unwrap_or(ValueType::Scalar);
        if function.name == "info" && i == 1 && !matches!(&arg.kind, Kind::Vector(selector) if selector.name.is_none())
        {
            return Err(ParseError::at(arg.span, "expected label selectors only, got vector selector instead".into()));
        }
        want_type(arg, want, &format!("call to function {name:?}"))?;
    }
    Ok(())
}

/// Rules that a node alone cannot see.
fn check(expr: &Expr) -> Result<(), ParseError> {
    let selector_matches = |selector: &Selector| {
        let fail = |text: String| Err(ParseError::at(expr.span, text));
        if let (Some(name), Some((_, others))) = (&selector.name, selector.matchers.split_last()) {
            return match others.iter().find(|matcher| matcher.name() == METRIC_NAME) {
                Some(twice) => fail(format!("metric name must not be set twice: {name:?} or {:?}", twice.value())),
                None => Ok(()),
            };
        }
        if selects_anything(&selector.matchers) {
            return fail("vector selector must contain at least one non-empty matcher".into());
        }
        Ok(())
    };
    match &expr.kind {
        Kind::Number(_) | Kind::String(_) | Kind::InvalidString(_) => Ok(()),
        Kind::Vector(selector) => selector_matches(selector),
        Kind::Matrix { selector, .. } => selector_matches(selector),
        Kind::Subquery(subquery) => check(&subquery.expr),
        Kind::Call { function, args } => args.iter().enumerate().try_for_each(|(i, arg)| {
            // The second argument of info() only describes labels.
            if function.name == "info" && i == 1 { Ok(()) } else { check(arg) }
        }),
        Kind::Negation(inner) | Kind::Paren(inner) => check(inner),
        Kind::Binary(binary) => check(&binary.left).and_then(|()| check(&binary.right)),
        Kind::Aggregate(aggregate) => {
            aggregate.parameter.iter().try_for_each(check)?;
            check(&aggregate.expr)
        }
    }
}

/// A duration as flags and parameters write it: `5m`, or a number of seconds.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    match duration_ms(text) {
        Some(Ok(ms)) => Some(ms),
        _ => {
            let seconds: f64 = text.parse().ok()?;
            let ms = seconds * 1000.0;
            (ms.is_finite() && ms.abs() < (i64::MAX / 1_000_000) as f64).then_some(ms as i64)
        }
    }
}
