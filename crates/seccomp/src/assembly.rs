//! Classic BPF, written from its end to its beginning.
//!
//! Jumps in classic BPF only go forward. Written backwards, the place that an instruction jumps to
//! is known when the instruction is written, and a shared end is written once.

/// One classic BPF instruction, `struct sock_filter` of linux/filter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

// Operation codes of linux/bpf_common.h.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// A comparison of the accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Test {
    Equal = 0x15,          // BPF_JMP | BPF_JEQ | BPF_K
    Greater = 0x25,        // BPF_JMP | BPF_JGT | BPF_K
    GreaterOrEqual = 0x35, // BPF_JMP | BPF_JGE | BPF_K
}

/// A place in a program: how many instructions follow it, counted from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A program in the making; its last instruction first.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    reversed: Vec<Instruction>,
    returns: Vec<(u32, Label)>,
}

impl Assembly {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        Label(self.reversed.len())
    }

    /// Instructions to skip from the one written next to `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label.0
    }

    /// Ends with `value`. Shared when there is one near already.
    pub fn end(&mut self, value: u32) -> Label {
        let near = self
            .returns
            .iter()
            .rev()
            .find(|(known, label)| *known == value && self.distance(*label) < 200);
        if let Some(&(_, label)) = near {
            return label;
        }
        let label = self.push(RETURN, 0, 0, value);
        self.returns.push((value, label));
        label
    }

    /// Loads a word of `struct seccomp_data`.
    pub fn load(&mut self, offset: u32, then: Label) -> Label {
        self.fall_through(then);
        self.push(LOAD, 0, 0, offset)
    }

    /// Masks the accumulator.
    pub fn and(&mut self, mask: u32, then: Label) -> Label {
        self.fall_through(then);
        self.push(AND, 0, 0, mask)
    }

    /// Compares the accumulator.
    pub fn test(&mut self, test: Test, value: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        // A conditional jump reaches 255 instructions; farther goes by an unconditional one, which
        // moves the other target one farther away.
        let (mut yes, mut no) = (yes, no);
        loop {
            if self.distance(yes) > 254 {
                yes = self.jump(yes);
            } else if self.distance(no) > 254 {
                no = self.jump(no);
            } else {
                break;
            }
        }
        let (jt, jf) = (self.distance(yes), self.distance(no));
        self.push(
            test as u16,
            u8::try_from(jt).expect("checked above"),
            u8::try_from(jf).expect("checked above"),
            value,
        )
    }

    fn jump(&mut self, to: Label) -> Label {
        let distance = u32::try_from(self.distance(to)).expect("programs are short");
        self.push(JUMP, 0, 0, distance)
    }

    /// Makes sure that the instruction written next is followed by `then`.
    fn fall_through(&mut self, then: Label) {
        if self.distance(then) > 0 {
            self.jump(then);
        }
    }

    /// The program that begins at `start`, which must be the label written last.
    pub fn finish(mut self, start: Label) -> Vec<Instruction> {
        self.fall_through(start);
        self.reversed.reverse();
        self.reversed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_reads_from_its_beginning() {
        let mut assembly = Assembly::default();
        let yes = assembly.end(1);
        let no = assembly.end(2);
        let test = assembly.test(Test::Equal, 7, yes, no);
        let start = assembly.load(4, test);
        let program = assembly.finish(start);
        let codes: Vec<_> = program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
        assert_eq!(
            codes,
            [
                (LOAD, 0, 0, 4),
                (0x15, 1, 0, 7),
                (RETURN, 0, 0, 2),
                (RETURN, 0, 0, 1)
            ]
        );
    }

    #[test]
    fn far_targets_are_reached_by_a_second_jump() {
        let mut assembly = Assembly::default();
        let far = assembly.end(1);
        let mut at = assembly.end(2);
        for number in 0..600 {
            at = assembly.test(Test::Equal, number, far, at);
        }
        let start = assembly.load(0, at);
        let program = assembly.finish(start);
        assert!(program.iter().filter(|i| i.code == JUMP).count() >= 2);
    }
}
