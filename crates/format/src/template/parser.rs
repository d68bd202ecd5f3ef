//! From tokens to the tree that is carried out.

use serde_json::Value;

use super::functions;
use super::lexer::{Fault, Piece, Token, Word};

/// One step of a template.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// Copied.
    Text(String),
    /// Evaluated and printed, unless it declares or assigns.
    Action(Pipeline),
    /// `if`, with its `else`.
    If(Pipeline, Vec<Node>, Vec<Node>),
    /// `with`, with its `else`.
    With(Pipeline, Vec<Node>, Vec<Node>),
    /// `range`, with its `else`.
    Range(Pipeline, Vec<Node>, Vec<Node>),
    /// `break`
    Break,
    /// `continue`
    Continue,
}

/// Commands, each of which takes the result of the one before as its last argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// Variables that are set: one, or two for `range`.
    pub variables: Vec<String>,
    /// `=` rather than `:=`.
    pub is_assignment: bool,
    /// At least one.
    pub commands: Vec<Command>,
}

/// An operand with arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The function, field or value.
    pub operand: Operand,
    /// What it is given.
    pub arguments: Vec<Operand>,
}

/// Something that has a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A function's name.
    Function(String),
    /// `.A.B`; empty for `.`.
    Field(Vec<String>),
    /// `$x.A.B`
    Variable(String, Vec<String>),
    /// A number, text, `true`, `false` or `nil`.
    Literal(Value),
    /// `(…).A.B`
    Pipeline(Box<Pipeline>, Vec<String>),
}

/// How a list of nodes ended.
enum Stop {
    Exhausted,
    End,
    Else(Vec<Token>, usize),
}

/// Deeper nesting is an attack on the stack, not a template.
const MAX_DEPTH: usize = 100;

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    variables: Vec<String>,
    range_depth: usize,
    depth: usize,
}

pub fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>, Fault> {
    let mut parser = Parser {
        pieces: pieces.into_iter(),
        variables: vec![String::new()],
        range_depth: 0,
        depth: 0,
    };
    match parser.nodes(0)? {
        (nodes, Stop::Exhausted, _) => Ok(nodes),
        (_, Stop::End, offset) => Err(Fault::new(offset, "unexpected {{end}}")),
        (_, Stop::Else(..), offset) => Err(Fault::new(offset, "unexpected {{else}}")),
    }
}

impl Parser {
    fn nodes(&mut self, start: usize) -> Result<(Vec<Node>, Stop, usize), Fault> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (offset, tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { offset, tokens } => (offset, tokens),
            };
            let keyword = match tokens.first() {
                Some(Token {
                    word: Word::Name(name),
                    ..
                }) => name.as_str(),
                _ => "",
            };
            let rest = || tokens[1..].to_vec();
            match keyword {
                "end" => return Ok((nodes, Stop::End, offset)),
                "else" => return Ok((nodes, Stop::Else(rest(), offset), offset)),
                "if" | "with" | "range" => {
                    let keyword = keyword.to_owned();
                    let tokens = rest();
                    nodes.push(self.control(&keyword, tokens, offset)?);
                }
                "break" | "continue" if self.range_depth == 0 => {
                    return Err(Fault::new(
                        offset,
                        format!("{{{{{keyword}}}}} outside of {{{{range}}}}"),
                    ));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "template" | "block" => {
                    return Err(Fault::new(
                        offset,
                        format!("{{{{{keyword}}}}} is not supported"),
                    ));
                }
                _ => nodes.push(Node::Action(self.pipeline(tokens, offset, false)?)),
            }
        }
        Ok((nodes, Stop::Exhausted, start))
    }

    fn control(&mut self, keyword: &str, tokens: Vec<Token>, offset: usize) -> Result<Node, Fault> {
        self.enter(offset)?;
        let scope = self.variables.len();
        let is_range = keyword == "range";
        let pipeline = self.pipeline(tokens, offset, is_range)?;
        self.range_depth += usize::from(is_range);
        let body = self.nodes(offset);
        self.range_depth -= usize::from(is_range);
        let (body, end, _) = body?;
        let otherwise = match end {
            Stop::End => Vec::new(),
            Stop::Exhausted => return Err(Fault::new(offset, format!("unclosed {keyword}"))),
            Stop::Else(tokens, at) => self.otherwise(keyword, &tokens, at)?,
        };
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(match keyword {
            "if" => Node::If(pipeline, body, otherwise),
            "with" => Node::With(pipeline, body, otherwise),
            _ => Node::Range(pipeline, body, otherwise),
        })
    }

    fn enter(&mut self, offset: usize) -> Result<(), Fault> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => Err(Fault::new(offset, "nested too deeply")),
            false => Ok(()),
        }
    }

    fn otherwise(
        &mut self,
        keyword: &str,
        tokens: &[Token],
        offset: usize,
    ) -> Result<Vec<Node>, Fault> {
        let chained = match tokens.first().map(|token| &token.word) {
            None => None,
            Some(Word::Name(name)) if name == keyword && keyword != "range" => Some(name.clone()),
            Some(_) => return Err(Fault::new(offset, "unexpected words after {{else}}")),
        };
        if let Some(keyword) = chained {
            // The `end` of the inner one closes both.
            return Ok(vec![self.control(
                &keyword,
                tokens[1..].to_vec(),
                offset,
            )?]);
        }
        match self.nodes(offset)? {
            (nodes, Stop::End, _) => Ok(nodes),
            (_, Stop::Else(..), at) => Err(Fault::new(at, "unexpected {{else}}")),
            (_, Stop::Exhausted, _) => Err(Fault::new(offset, format!("unclosed {keyword}"))),
        }
    }

    fn pipeline(
        &mut self,
        tokens: Vec<Token>,
        offset: usize,
        is_range: bool,
    ) -> Result<Pipeline, Fault> {
        let mut words = Words {
            tokens,
            at: 0,
            offset,
        };
        let (variables, is_assignment) = words.declaration(is_range)?;
        if is_assignment {
            for name in &variables {
                self.check_declared(name, offset)?;
            }
        }
        let commands = self.commands(&mut words, false)?;
        if !is_assignment {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline {
            variables,
            is_assignment,
            commands,
        })
    }

    fn check_declared(&self, name: &String, offset: usize) -> Result<(), Fault> {
        match self.variables.contains(name) {
            true => Ok(()),
            false => Err(Fault::new(
                offset,
                format!("variable ${name} is not declared"),
            )),
        }
    }

    fn commands(&mut self, words: &mut Words, in_parentheses: bool) -> Result<Vec<Command>, Fault> {
        let mut commands = Vec::new();
        loop {
            let mut operands = Vec::new();
            while let Some(operand) = self.operand(words)? {
                operands.push(operand);
            }
            let start = words.place();
            if operands.is_empty() {
                return Err(Fault::new(start, "missing value for command"));
            }
            let arguments = operands.split_off(1);
            let operand = operands.remove(0);
            if let Operand::Literal(_) = operand
                && (!arguments.is_empty() || !commands.is_empty())
            {
                return Err(Fault::new(start, "a constant cannot take arguments"));
            }
            commands.push(Command { operand, arguments });
            match words.next() {
                Some(Word::Pipe) => {}
                Some(Word::Close) if in_parentheses => return Ok(commands),
                None if !in_parentheses => return Ok(commands),
                None => return Err(Fault::new(start, "unclosed left parenthesis")),
                Some(other) => return Err(Fault::new(start, format!("unexpected {other:?}"))),
            }
        }
    }

    fn operand(&mut self, words: &mut Words) -> Result<Option<Operand>, Fault> {
        let Some(token) = words.peek() else {
            return Ok(None);
        };
        let offset = token.offset;
        let word = token.word.clone();
        let operand = match word {
            Word::Pipe | Word::Close => return Ok(None),
            Word::Declare | Word::Assign | Word::Comma => {
                return Err(Fault::new(offset, "unexpected declaration or comma"));
            }
            _ => {
                words.at += 1;
                word
            }
        };
        let operand = match operand {
            Word::Name(name) => match name.as_str() {
                "true" => Operand::Literal(Value::Bool(true)),
                "false" => Operand::Literal(Value::Bool(false)),
                "nil" => Operand::Literal(Value::Null),
                _ if functions::is_known(&name) => Operand::Function(name),
                _ => {
                    return Err(Fault::new(
                        offset,
                        format!("function {name:?} is not known"),
                    ));
                }
            },
            Word::Dot => Operand::Field(Vec::new()),
            Word::Field(name) => {
                let mut path = vec![name];
                path.extend(words.fields());
                Operand::Field(path)
            }
            Word::Variable(name) => {
                self.check_declared(&name, offset)?;
                Operand::Variable(name, words.fields())
            }
            Word::Integer(number) => Operand::Literal(Value::from(number)),
            Word::Float(number) => Operand::Literal(Value::from(number)),
            Word::Text(text) => Operand::Literal(Value::String(text)),
            _ => {
                self.enter(offset)?;
                let commands = self.commands(words, true)?;
                self.depth -= 1;
                let pipeline = Pipeline {
                    variables: Vec::new(),
                    is_assignment: false,
                    commands,
                };
                Operand::Pipeline(Box::new(pipeline), words.fields())
            }
        };
        Ok(Some(operand))
    }
}

struct Words {
    tokens: Vec<Token>,
    at: usize,
    offset: usize,
}

impl Words {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Word> {
        let word = self.tokens.get(self.at)?.word.clone();
        self.at += 1;
        Some(word)
    }

    fn place(&self) -> usize {
        let last = self.at.checked_sub(1).and_then(|at| self.tokens.get(at));
        last.map_or(self.offset, |token| token.offset)
    }

    /// `.B.C` right behind a value.
    fn fields(&mut self) -> Vec<String> {
        let mut path = Vec::new();
        while let Some(Token {
            word: Word::Field(name),
            is_apart: false,
            ..
        }) = self.peek()
        {
            path.push(name.clone());
            self.at += 1;
        }
        path
    }

    /// `$x :=`, `$x =`, and for `range` also `$x, $y :=`.
    fn declaration(&mut self, is_range: bool) -> Result<(Vec<String>, bool), Fault> {
        let word = |index: usize| self.tokens.get(index).map(|token| &token.word);
        let (names, operator) = match (word(0), word(1), word(2)) {
            (Some(Word::Variable(first)), Some(Word::Comma), Some(Word::Variable(second))) => {
                if !is_range {
                    return Err(Fault::new(
                        self.offset,
                        "two variables can only be declared by {{range}}",
                    ));
                }
                (vec![first.clone(), second.clone()], 3)
            }
            (Some(Word::Variable(first)), Some(Word::Declare | Word::Assign), _) => {
                (vec![first.clone()], 1)
            }
            _ => return Ok((Vec::new(), false)),
        };
        let is_assignment = match word(operator) {
            Some(Word::Declare) => false,
            Some(Word::Assign) => true,
            _ => return Err(Fault::new(self.offset, "expected := after the variables")),
        };
        self.at = operator + 1;
        Ok((names, is_assignment))
    }
}
