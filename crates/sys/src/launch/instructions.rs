//! Instructions as one run of bytes, eight each, as the kernel has them: a policy has hundreds, and
//! whoever takes a plan apart need not look at each.

use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::Serializer;

use super::Instruction;

const BYTES: usize = 8;

pub(super) fn serialize<S: Serializer>(
    program: &[Instruction],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut bytes = Vec::with_capacity(program.len() * BYTES);
    for instruction in program {
        bytes.extend_from_slice(&instruction.code.to_le_bytes());
        bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
        bytes.extend_from_slice(&instruction.k.to_le_bytes());
    }
    serializer.serialize_bytes(&bytes)
}

struct Program;

impl<'de> Visitor<'de> for Program {
    type Value = Vec<Instruction>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("instructions of eight bytes each")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<Instruction>, E> {
        let (instructions, rest) = bytes.as_chunks::<BYTES>();
        if !rest.is_empty() {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        let instruction = |bytes: &[u8; BYTES]| {
            let [c0, c1, jt, jf, k0, k1, k2, k3] = *bytes;
            Instruction {
                code: u16::from_le_bytes([c0, c1]),
                jt,
                jf,
                k: u32::from_le_bytes([k0, k1, k2, k3]),
            }
        };
        Ok(instructions.iter().map(instruction).collect())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Vec<Instruction>, A::Error> {
        let mut all = Vec::new();
        while let Some(byte) = bytes.next_element::<u8>()? {
            all.push(byte);
        }
        self.visit_bytes(&all)
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Instruction>, D::Error> {
    deserializer.deserialize_bytes(Program)
}
