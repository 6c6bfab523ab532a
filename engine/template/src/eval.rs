//! Evaluates the tree and writes its output.

use crate::functions::{FunctionContext, FunctionKind};
use crate::parse::{Command, Defined, Kind, Node, Operand, Pipeline};
use crate::value::{Sample, Value};
use crate::{CALLS_MAX, Context, OUTPUT_BYTES_MAX, Query, STEPS_MAX};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Why an expansion failed, and at which bytes of the text.
pub struct ExecuteError {
    pub at: Range<usize>,
    pub what: String,
}

/// How the evaluation of a list of nodes ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Machine<'a> {
    defined: &'a Defined,
    functions: FunctionContext<'a>,
    variables: Vec<(String, Value)>,
    out: String,
    steps: usize,
    calls: usize,
}

pub fn expand(nodes: &[Node], defined: &Defined, context: &Context, query: Query) -> Result<String, ExecuteError> {
    let labels = Value::Labels(Rc::new(context.labels.clone()));
    let external = Value::Labels(Rc::new(context.external_labels.clone()));
    let url = Value::text(context.external_url);
    let value = Value::Float(context.value);
    let root = Value::Root(Rc::new(BTreeMap::from([
        ("Labels", labels.clone()),
        ("ExternalLabels", external.clone()),
        ("ExternalURL", url.clone()),
        ("Value", value.clone()),
    ])));
    let variables = [("", root.clone()), ("labels", labels), ("externalLabels", external), ("externalURL", url)];
    let variables = variables.into_iter().chain([("value", value)]).map(|(name, value)| (name.to_owned(), value));
    let mut machine = Machine {
        defined,
        functions: FunctionContext { query, external_url: context.external_url, now_ms: context.now_ms },
        variables: variables.collect(),
        out: String::new(),
        steps: 0,
        calls: 0,
    };
    machine.list(nodes, &root)?;
    Ok(machine.out)
}

fn error(at: &Range<usize>, what: impl Into<String>) -> ExecuteError {
    ExecuteError { at: at.clone(), what: what.into() }
}

impl Machine<'_> {
    fn list(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, ExecuteError> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// Evaluates nodes in a scope of their own.
    fn scope(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, ExecuteError> {
        let kept = self.variables.len();
        let flow = self.list(nodes, dot)?;
        self.variables.truncate(kept);
        Ok(flow)
    }

    fn step(&mut self, at: &Range<usize>) -> Result<(), ExecuteError> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(error(at, format!("more than {STEPS_MAX} steps")));
        }
        if self.out.len() > OUTPUT_BYTES_MAX {
            return Err(error(at, format!("more than {OUTPUT_BYTES_MAX} bytes of output")));
        }
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, ExecuteError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.sets.is_empty() {
                    value.print(&mut self.out);
                    self.step(&pipeline.span)?;
                }
            }
            Node::If(pipeline, then, otherwise) => {
                let kept = self.variables.len();
                let holds = self.pipeline(pipeline, dot)?.is_true();
                let flow = self.scope(if holds { then } else { otherwise }, dot);
                self.variables.truncate(kept);
                return flow;
            }
            Node::With(pipeline, then, otherwise) => {
                let kept = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                let flow = if value.is_true() { self.scope(then, &value) } else { self.scope(otherwise, dot) };
                self.variables.truncate(kept);
                return flow;
            }
            Node::Range(pipeline, each, otherwise) => return self.range(pipeline, each, otherwise, dot),
            Node::Call { name, with, span } => {
                let Some(nodes) = self.defined.get(name) else {
                    return Err(error(span, format!("template {name:?} not defined")));
                };
                let value = match with {
                    Some(pipeline) => self.pipeline(pipeline, dot)?,
                    None => Value::Nil,
                };
                if self.calls == CALLS_MAX {
                    return Err(error(span, format!("exceeded maximum template depth ({CALLS_MAX})")));
                }
                self.calls += 1;
                let outer = std::mem::replace(&mut self.variables, vec![(String::new(), value.clone())]);
                self.list(nodes, &value)?;
                self.variables = outer;
                self.calls -= 1;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn range(
        &mut self,
        pipeline: &Pipeline,
        each: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, ExecuteError> {
        let kept = self.variables.len();
        let over = self.value_of(pipeline, dot)?;
        let at = &pipeline.span;
        let indexed = |i: usize| Value::Int(i as i64);
        let items: Vec<(Value, Value)> = match &over {
            Value::List(items) => items.iter().enumerate().map(|(i, item)| (indexed(i), item.clone())).collect(),
            Value::Labels(labels) => {
                labels.iter().map(|(name, value)| (Value::text(name), Value::text(value))).collect()
            }
            Value::Map(map) => map.iter().map(|(name, value)| (Value::text(name.as_str()), value.clone())).collect(),
            Value::Int(count) => {
                let count = usize::try_from(*count).unwrap_or(0);
                if count > STEPS_MAX {
                    return Err(error(at, format!("more than {STEPS_MAX} steps")));
                }
                (0..count).map(|i| (indexed(i), indexed(i))).collect()
            }
            Value::Nil => Vec::new(),
            other => return Err(error(at, format!("range can't iterate over {}", other.to_text()))),
        };
        if items.is_empty() {
            return self.scope(otherwise, dot);
        }
        for (key, item) in items {
            self.step(at)?;
            let inner = self.variables.len();
            let values = match pipeline.sets.len() {
                2 => vec![key, item.clone()],
                _ => vec![item.clone()],
            };
            for (name, value) in pipeline.sets.iter().zip(values) {
                self.set(name, value, pipeline.declares);
            }
            let flow = self.scope(each, &item)?;
            self.variables.truncate(inner);
            if flow == Flow::Break {
                break;
            }
        }
        self.variables.truncate(kept);
        Ok(Flow::On)
    }

    fn set(&mut self, name: &str, value: Value, declares: bool) {
        match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            Some((_, known)) if !declares => *known = value,
            _ => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, ExecuteError> {
        let value = self.value_of(pipeline, dot)?;
        for name in &pipeline.sets {
            self.set(name, value.clone(), pipeline.declares);
        }
        Ok(value)
    }

    fn value_of(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, ExecuteError> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or(Value::Nil))
    }

    fn command(&mut self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Value, ExecuteError> {
        self.step(&command.span)?;
        let (first, rest) = command.operands.split_first().expect("the parser refuses empty commands");
        let Kind::Function(function) = &first.kind else { return self.operand(first, dot) };
        let given = rest.len() + usize::from(piped.is_some());
        let wrong = given < function.arguments.0 || given > function.arguments.1;
        if wrong {
            let want = match function.arguments {
                (least, usize::MAX) => format!("at least {least}"),
                (least, _) => least.to_string(),
            };
            return Err(error(
                &first.span,
                format!("wrong number of args for {}: want {want} got {given}", function.name),
            ));
        }
        let value = match function.kind {
            // The arguments after the deciding one are not evaluated.
            FunctionKind::And | FunctionKind::Or => {
                let decides = |value: &Value| value.is_true() == matches!(function.kind, FunctionKind::Or);
                let mut last = Value::Nil;
                let mut decided = false;
                for operand in rest {
                    last = self.operand(operand, dot)?;
                    decided = decides(&last);
                    if decided {
                        break;
                    }
                }
                if decided { last } else { piped.unwrap_or(last) }
            }
            FunctionKind::Call(call) => {
                let mut arguments = Vec::with_capacity(given);
                for operand in rest {
                    arguments.push(self.operand(operand, dot)?);
                }
                arguments.extend(piped);
                let outcome = call(&arguments, &mut self.functions);
                outcome.map_err(|what| error(&command.span, format!("error calling {}: {what}", function.name)))?
            }
        };
        self.fields(value, first)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, ExecuteError> {
        let value = match &operand.kind {
            Kind::Dot => dot.clone(),
            Kind::Nil => Value::Nil,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Int(value) => Value::Int(*value),
            Kind::Float(value) => Value::Float(*value),
            Kind::Text(text) => Value::text(text.as_str()),
            Kind::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let missing = || error(&operand.span, format!("undefined variable: ${name}"));
                found.map(|(_, value)| value.clone()).ok_or_else(missing)?
            }
            Kind::Function(_) => {
                let alone = Operand { fields: Vec::new(), ..operand.clone() };
                let command = Command { operands: vec![alone], span: operand.span.clone() };
                self.command(&command, dot, None)?
            }
            Kind::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
        };
        self.fields(value, operand)
    }

    fn fields(&mut self, mut value: Value, operand: &Operand) -> Result<Value, ExecuteError> {
        for name in &operand.fields {
            let next = field(&value, name);
            value = next.ok_or_else(|| match &value {
                Value::Nil => error(&operand.span, format!("nil pointer evaluating interface {{}}.{name}")),
                other => error(&operand.span, format!("can't evaluate field {name} in type {}", other.type_name())),
            })?;
        }
        Ok(value)
    }
}

fn field(value: &Value, name: &str) -> Option<Value> {
    match value {
        Value::Labels(labels) => Some(Value::text(labels.get(name).unwrap_or(""))),
        Value::Map(map) => Some(map.get(name).cloned().unwrap_or(Value::Nil)),
        Value::Root(map) => map.get(name).cloned(),
        Value::Sample(sample) => {
            let Sample { labels, value } = &**sample;
            match name {
                "Labels" => Some(Value::Labels(Rc::new(labels.clone()))),
                "Value" => Some(Value::Float(*value)),
                _ => None,
            }
        }
        _ => None,
    }
}
