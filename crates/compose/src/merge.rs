//! Two trees made one: later files over earlier ones, a service over what it extends.
//!
//! By the rules of the [specification](https://github.com/compose-spec/compose-spec/blob/main/13-merge.md): mappings by key, lists
//! one after the other, commands replaced, items with a key of their own (ports, mounts) replaced by those with the same key;
//! `!reset` takes out, `!override` replaces. Both trees are in long form already.

use crate::schema::{Shape, unique};
use crate::yaml::{Entry, Merging, Node, Value};

/// Puts `over` on top of `base`.
#[must_use]
pub fn merge(base: Node, over: Node, shape: &Shape) -> Node {
    match (over.merging, &over.value) {
        (Merging::Reset, _) => return over,
        (Merging::Override, _) => return over,
        (Merging::Usual, Value::Null) => return base,
        (Merging::Usual, _) => {}
    }
    let at = over.at.clone();
    let value = match (base.value, over.value) {
        (Value::Map(below), Value::Map(above)) => Value::Map(maps(below, above, shape)),
        (Value::List(below), Value::List(above)) => match inner(shape) {
            Shape::Command => Value::List(above),
            shape => Value::List(unique(below.into_iter().chain(above).collect(), shape)),
        },
        (_, above) => above,
    };
    Node {
        value,
        at,
        merging: base.merging,
    }
}

fn inner(shape: &Shape) -> &Shape {
    match shape {
        Shape::Short(_, shape) => inner(shape),
        shape => shape,
    }
}

fn maps(mut below: Vec<Entry>, above: Vec<Entry>, shape: &Shape) -> Vec<Entry> {
    let shape = inner(shape);
    // Options belong to their driver.
    let driver = |entries: &[Entry]| {
        let entry = entries.iter().find(|entry| entry.key == "driver");
        entry.and_then(|entry| entry.node.scalar())
    };
    if let Shape::Fields(fields) = shape
        && fields.iter().any(|field| field.name == "options")
        && let (Some(old), Some(new)) = (driver(&below), driver(&above))
        && old != new
    {
        return above;
    }
    for entry in above {
        let of_key = match shape {
            Shape::Fields(fields) => fields
                .iter()
                .find(|field| field.name == entry.key)
                .map_or(&Shape::Any, |field| &field.shape),
            Shape::Named(inner) => inner,
            _ => &Shape::Any,
        };
        match below.iter().position(|other| other.key == entry.key) {
            Some(index) => {
                let old =
                    std::mem::replace(&mut below[index].node, Node::new(Value::Null, &entry.at));
                below[index].node = merge(old, entry.node, of_key);
                below[index].at = entry.at;
            }
            None => below.push(entry),
        }
    }
    below
}

/// Takes out what was reset, once everything is merged.
pub fn settle(node: &mut Node) {
    node.merging = Merging::Usual;
    match &mut node.value {
        Value::List(items) => {
            items.retain(|item| item.merging != Merging::Reset);
            items.iter_mut().for_each(settle);
        }
        Value::Map(entries) => {
            entries.retain(|entry| entry.node.merging != Merging::Reset);
            entries.iter_mut().for_each(|entry| settle(&mut entry.node));
        }
        _ => {}
    }
}
