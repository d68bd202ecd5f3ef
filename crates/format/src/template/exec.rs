//! Carrying a parsed template out.

use serde_json::{Map, Value};

use super::Methods;
use super::functions;
use super::parser::{Command, Node, Operand, Pipeline};
use super::print::{is_true, print_value};

/// What a list of nodes asks of the `range` around it.
enum Flow {
    Next,
    Break,
    Continue,
}

struct Run<'a> {
    root: &'a Value,
    methods: &'a Methods<'a>,
    is_titles: bool,
    variables: Vec<(String, Value)>,
    output: String,
}

pub fn execute(
    nodes: &[Node],
    data: &Value,
    methods: &Methods<'_>,
    is_titles: bool,
) -> Result<String, String> {
    let mut run = Run {
        root: data,
        methods,
        is_titles,
        variables: Vec::new(),
        output: String::new(),
    };
    run.nodes(nodes, data)?;
    Ok(run.output)
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.output.push_str(text);
                    Flow::Next
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    match pipeline.variables.first() {
                        None if value.is_null() && self.is_absent(pipeline, dot) => {
                            self.output.push_str("<no value>");
                        }
                        None => print_value(&mut self.output, &value),
                        Some(name) => self.set(name, value, pipeline.is_assignment),
                    }
                    Flow::Next
                }
                Node::If(pipeline, body, otherwise) => {
                    self.choice(pipeline, body, otherwise, dot, false)?
                }
                Node::With(pipeline, body, otherwise) => {
                    self.choice(pipeline, body, otherwise, dot, true)?
                }
                Node::Range(pipeline, body, otherwise) => {
                    self.range(pipeline, body, otherwise, dot)?
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if !matches!(flow, Flow::Next) {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn choice(
        &mut self,
        pipeline: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
        moves_dot: bool,
    ) -> Result<Flow, String> {
        let scope = self.variables.len();
        let value = self.pipeline(pipeline, dot)?;
        if let Some(name) = pipeline.variables.first() {
            self.set(name, value.clone(), pipeline.is_assignment);
        }
        let flow = match (is_true(&value), moves_dot) {
            (true, true) => self.nodes(body, &value),
            (true, false) => self.nodes(body, dot),
            (false, _) => self.nodes(otherwise, dot),
        };
        self.variables.truncate(scope);
        flow
    }

    fn range(
        &mut self,
        pipeline: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, String> {
        let items: Vec<(Value, Value)> = match self.pipeline(pipeline, dot)? {
            Value::Null => Vec::new(),
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| (Value::from(index), item))
                .collect(),
            Value::Object(map) => {
                let mut entries: Vec<_> = map.into_iter().collect();
                entries.sort_by(|left, right| left.0.cmp(&right.0));
                let value = |(key, value)| (Value::String(key), value);
                entries.into_iter().map(value).collect()
            }
            Value::Number(number) if number.is_i64() || number.is_u64() => {
                let count = number.as_i64().unwrap_or(i64::MAX).clamp(0, 1_000_000);
                (0..count)
                    .map(|n| (Value::from(n), Value::from(n)))
                    .collect()
            }
            other => return Err(format!("range cannot go through {other}")),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in items {
            let scope = self.variables.len();
            match pipeline.variables.as_slice() {
                [] => {}
                [only] => self.set(only, item.clone(), pipeline.is_assignment),
                [first, second, ..] => {
                    self.set(first, key, pipeline.is_assignment);
                    self.set(second, item.clone(), pipeline.is_assignment);
                }
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(scope);
            if let Flow::Break = flow {
                break;
            }
        }
        Ok(Flow::Next)
    }

    /// Whether the pipeline is a mere path to a key that a map does not have: Go then prints other
    /// words than for a value that is there and is nil.
    fn is_absent(&mut self, pipeline: &Pipeline, dot: &Value) -> bool {
        let [command] = pipeline.commands.as_slice() else {
            return false;
        };
        let (operand, name) = match &command.operand {
            Operand::Field(path) => match path.split_last() {
                Some((name, rest)) => (Operand::Field(rest.to_vec()), name),
                None => return false,
            },
            Operand::Variable(variable, path) => match path.split_last() {
                Some((name, rest)) => (Operand::Variable(variable.clone(), rest.to_vec()), name),
                None => return false,
            },
            _ => return false,
        };
        match self.operand(&operand, dot) {
            Ok(Value::Object(map)) => is_map(&map) && !map.contains_key(name),
            _ => false,
        }
    }

    fn set(&mut self, name: &str, value: Value, is_assignment: bool) {
        let known = match is_assignment {
            true => self.variables.iter_mut().rev().find(|(n, _)| n == name),
            false => None,
        };
        match known {
            Some(variable) => variable.1 = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut result = None;
        for command in &pipeline.commands {
            result = Some(self.command(command, result, dot)?);
        }
        Ok(result.unwrap_or(Value::Null))
    }

    fn command(
        &mut self,
        command: &Command,
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        match &command.operand {
            Operand::Function(name) => self.call(name, &command.arguments, piped, dot),
            Operand::Field(path)
                if path.len() == 1 && (!command.arguments.is_empty() || piped.is_some()) =>
            {
                let arguments = self.values(&command.arguments, piped, dot)?;
                (self.methods)(&path[0], &arguments)
                    .ok_or_else(|| format!("field {:?} takes no arguments", path[0]))
            }
            operand if command.arguments.is_empty() && piped.is_none() => {
                self.operand(operand, dot)
            }
            _ => Err("only functions take arguments".to_owned()),
        }
    }

    fn values(
        &mut self,
        operands: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Vec<Value>, String> {
        let mut values = Vec::with_capacity(operands.len() + 1);
        for operand in operands {
            values.push(self.operand(operand, dot)?);
        }
        values.extend(piped);
        Ok(values)
    }

    fn call(
        &mut self,
        name: &str,
        operands: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        // These two stop at the first value that decides, as Go's have since 1.18.
        let stops_at = match name {
            "and" => Some(false),
            "or" => Some(true),
            _ => None,
        };
        if let Some(stops_at) = stops_at {
            let mut last = None;
            for operand in operands {
                let value = self.operand(operand, dot)?;
                if is_true(&value) == stops_at {
                    return Ok(value);
                }
                last = Some(value);
            }
            return piped
                .or(last)
                .ok_or_else(|| format!("{name} needs at least one argument"));
        }
        let arguments = self.values(operands, piped, dot)?;
        match self.is_titles {
            true => Ok(functions::call_on_titles(name, &arguments)),
            false => functions::call(name, &arguments),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Function(name) => self.call(name, &[], None, dot),
            Operand::Field(path) => self.field(dot, path),
            Operand::Variable(name, path) => {
                let known = self.variables.iter().rev().find(|(n, _)| n == name);
                match known {
                    Some((_, value)) => self.field(&value.clone(), path),
                    // `$` is the data that the template was given.
                    None => self.field(&self.root.clone(), path),
                }
            }
            Operand::Pipeline(pipeline, path) => {
                let value = self.pipeline(pipeline, dot)?;
                self.field(&value, path)
            }
        }
    }

    fn field(&self, value: &Value, path: &[String]) -> Result<Value, String> {
        let mut value = value;
        for name in path {
            value = match value {
                Value::Object(map) => match map.get(name) {
                    Some(value) => value,
                    None if self.is_titles => return Ok(Value::String(name.to_uppercase())),
                    None if is_map(map) => return Ok(Value::Null),
                    None => {
                        let mut names: Vec<&str> = map.keys().map(String::as_str).collect();
                        names.sort_unstable();
                        return Err(format!(
                            "there is no field {name:?}; there are {}",
                            names.join(", ")
                        ));
                    }
                },
                Value::Null => return Err(format!("field {name:?} of nothing (nil)")),
                other => return Err(format!("{other} has no field {name:?}")),
            };
        }
        Ok(value.clone())
    }
}

/// JSON does not tell Go's maps from its structs. What Docker shows as a struct has fields that start
/// with a capital; labels, networks and attributes are maps, which may lack a key.
fn is_map(object: &Map<String, Value>) -> bool {
    !object
        .keys()
        .all(|key| key.starts_with(|c: char| c.is_ascii_uppercase()))
        || object.is_empty()
}
