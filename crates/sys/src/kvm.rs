//! Is `/dev/kvm` able to run a guest? Documentation/virt/kvm/api.rst
//!
//! A host can have `/dev/kvm` and yet be unable to run an ordinary kernel (hosts that are guests
//! themselves and lend KVM to guests of a special make). So a guest of some 20 instructions runs in
//! 64-bit mode, with page tables, at the highest privilege: it reads and writes control registers,
//! a model-specific register and the descriptor tables, takes an exception through its own interrupt
//! table and returns from it, as a kernel does within its first milliseconds. It says so by writing a
//! byte to a port, and halts.
//!
//! The return (`iretq`), `swapgs` and the vector instruction are there because KVM's instruction
//! emulator has none of them (arch/x86/kvm/emulate.c): on a host that runs ordinary guests by
//! emulation, the instructions before them work, and a kernel stops at the first of these.
//!
//! All of it happens in a process of its own, which ends when the answer is there or time is up.

use std::io;
use std::time::Duration;

/// What became of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran to its end.
    Works,
    /// A step of making the virtual machine failed with this error.
    Refused {
        /// The ioctl or call.
        step: &'static str,
        /// The error number.
        errno: i32,
    },
    /// It ran, and left the processor for another reason than asking for it (`KVM_EXIT_…`).
    Stopped {
        /// The reason's number.
        reason: u32,
    },
    /// It did not come to its end in time.
    TimedOut,
}

/// Runs the guest, for at most `timeout`.
///
/// # Errors
/// When no process could be made for it, or it ended without an answer.
#[cfg(target_arch = "x86_64")]
pub fn probe(timeout: Duration) -> io::Result<Outcome> {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    let (mut answer, to_parent) = io::pipe()?;
    // SAFETY: the child calls nothing but `guest::run`, which makes system calls and touches memory that
    // it has mapped itself, and `_exit`; so it needs no lock that another thread of ours may hold.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        let (step, value) = guest::run();
        let message = [step, value];
        // SAFETY: `message` is 8 bytes that live until `_exit`, which does not return.
        unsafe {
            libc::write(to_parent.as_raw_fd(), message.as_ptr().cast(), 8);
            libc::_exit(0);
        }
    }
    drop(to_parent);
    let mut poll = libc::pollfd {
        fd: answer.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let milliseconds = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: `poll` is one live structure. A signal that interrupts it counts as time being up.
    let ready = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    let mut message = [0_u8; 8];
    let read = if ready > 0 {
        answer.read_exact(&mut message)
    } else {
        Ok(())
    };
    // SAFETY: `child` is our own child, not waited for yet, so the number is still its. Killing one
    // that has ended is harmless.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    if ready <= 0 {
        return Ok(Outcome::TimedOut);
    }
    read?;
    let [a, b, c, d, e, f, g, h] = message;
    Ok(guest::outcome(
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
    ))
}

/// Runs the guest, for at most `timeout`.
///
/// # Errors
/// `Unsupported`: the guest is written for `x86_64` alone.
#[cfg(not(target_arch = "x86_64"))]
pub fn probe(_timeout: Duration) -> io::Result<Outcome> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_arch = "x86_64")]
mod guest {
    use super::Outcome;

    const GET_API_VERSION: libc::c_ulong = 0xae00;
    const CREATE_VM: libc::c_ulong = 0xae01;
    const GET_VCPU_MMAP_SIZE: libc::c_ulong = 0xae04;
    const GET_SUPPORTED_CPUID: libc::c_ulong = 0xc008_ae05;
    const CREATE_VCPU: libc::c_ulong = 0xae41;
    const SET_USER_MEMORY_REGION: libc::c_ulong = 0x4020_ae46;
    const SET_TSS_ADDR: libc::c_ulong = 0xae47;
    const RUN: libc::c_ulong = 0xae80;
    const SET_REGS: libc::c_ulong = 0x4090_ae82;
    const GET_SREGS: libc::c_ulong = 0x8138_ae83;
    const SET_SREGS: libc::c_ulong = 0x4138_ae84;
    const SET_CPUID2: libc::c_ulong = 0x4008_ae90;

    const EXIT_IO: u32 = 2;
    const EXIT_HLT: u32 = 5;

    // What the child answers: a step (index + 1) with its error number, or one of these.
    const STEPS: [&str; 12] = [
        "open /dev/kvm",
        "KVM_GET_API_VERSION",
        "KVM_CREATE_VM",
        "mmap",
        "KVM_SET_USER_MEMORY_REGION",
        "KVM_CREATE_VCPU",
        "KVM_GET_VCPU_MMAP_SIZE",
        "KVM_SET_CPUID2",
        "KVM_GET_SREGS",
        "KVM_SET_SREGS",
        "KVM_SET_REGS",
        "KVM_RUN",
    ];
    const WORKS: u32 = 100;
    const STOPPED: u32 = 101;

    pub(super) fn outcome(step: u32, value: u32) -> Outcome {
        match step {
            WORKS => Outcome::Works,
            STOPPED => Outcome::Stopped { reason: value },
            step => Outcome::Refused {
                step: usize::try_from(step)
                    .ok()
                    .and_then(|step| STEPS.get(step.wrapping_sub(1)))
                    .copied()
                    .unwrap_or("the probe"),
                errno: value.cast_signed(),
            },
        }
    }

    const MEMORY_SIZE: usize = 0x8000;
    const PAGE_MAP: u64 = 0x1000;
    const PAGE_DIRECTORY_POINTERS: u64 = 0x2000;
    const PAGE_DIRECTORY: u64 = 0x3000;
    const DESCRIPTORS: u64 = 0x4000;
    const INTERRUPTS: u64 = 0x5000;
    const INTERRUPTS_POINTER: u64 = 0x5800;
    const DESCRIPTORS_POINTER: u64 = 0x5810;
    const CODE: u64 = 0x6000;
    const HANDLER: u64 = 0x6800;
    const STACK: u64 = 0x8000;
    const PORT: u16 = 0x10;
    const ANSWER: u8 = b'K';

    const PROGRAM: [u8; 65] = [
        0xfa, // cli
        0x0f, 0x20, 0xc0, // mov rax, cr0
        0x0f, 0x22, 0xc0, // mov cr0, rax
        0x0f, 0x20, 0xd8, // mov rax, cr3
        0x0f, 0x22, 0xd8, // mov cr3, rax
        0x0f, 0x20, 0xe0, // mov rax, cr4
        0x0f, 0x22, 0xe0, // mov cr4, rax
        0x0f, 0x01, 0x3c, 0x25, 0, 0, 0, 0, // invlpg [0]
        0x0f, 0x01, 0x1c, 0x25, 0x00, 0x58, 0, 0, // lidt [INTERRUPTS_POINTER]
        0x0f, 0x01, 0x14, 0x25, 0x10, 0x58, 0, 0, // lgdt [DESCRIPTORS_POINTER]
        0xb9, 0x00, 0x01, 0x00, 0xc0, // mov ecx, IA32_FS_BASE
        0x0f, 0x32, // rdmsr
        0x0f, 0x30, // wrmsr
        0x0f, 0x0b, // ud2: goes to HANDLER and comes back to the next instruction
        0x0f, 0x01, 0xf8, // swapgs
        0x0f, 0x57, 0xc0, // xorps xmm0, xmm0
        0xb0, ANSWER, // mov al, ANSWER
        0xe6, 0x10, // out PORT, al
        0xf4, // hlt
    ];
    const HANDLER_PROGRAM: [u8; 7] = [
        0x48, 0x83, 0x04, 0x24, 0x02, // add qword [rsp], 2
        0x48, 0xcf, // iretq
    ];

    #[repr(C)]
    struct MemoryRegion {
        slot: u32,
        flags: u32,
        guest_address: u64,
        size: u64,
        address: u64,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Segment {
        base: u64,
        limit: u32,
        selector: u16,
        kind: u8,
        present: u8,
        dpl: u8,
        db: u8,
        s: u8,
        l: u8,
        g: u8,
        avl: u8,
        unusable: u8,
        padding: u8,
    }

    #[repr(C)]
    struct Table {
        base: u64,
        limit: u16,
        padding: [u16; 3],
    }

    /// `struct kvm_sregs`
    #[repr(C)]
    struct SpecialRegisters {
        cs: Segment,
        ds: Segment,
        es: Segment,
        fs: Segment,
        gs: Segment,
        ss: Segment,
        tr: Segment,
        ldt: Segment,
        gdt: Table,
        idt: Table,
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        cr8: u64,
        efer: u64,
        apic_base: u64,
        interrupt_bitmap: [u64; 4],
    }

    /// `struct kvm_regs`
    #[repr(C)]
    #[derive(Default)]
    struct Registers {
        general: [u64; 6],
        rsp: u64,
        rbp: u64,
        numbered: [u64; 8],
        rip: u64,
        rflags: u64,
    }

    /// `struct kvm_cpuid2` with its entries.
    #[repr(C)]
    struct Cpuid {
        count: u32,
        padding: u32,
        entries: [[u32; 10]; 256],
    }

    /// The beginning of `struct kvm_run`, with the union's `io`.
    #[repr(C)]
    struct Run {
        before: [u8; 8],
        exit_reason: u32,
        between: [u8; 20],
        io_direction: u8,
        io_size: u8,
        io_port: u16,
        io_count: u32,
        io_data_offset: u64,
    }

    const _: () = assert!(size_of::<SpecialRegisters>() == 0x138);
    const _: () = assert!(size_of::<Registers>() == 0x90);
    const _: () = assert!(size_of::<MemoryRegion>() == 32);
    const _: () = assert!(std::mem::offset_of!(Run, io_direction) == 32);

    fn errno() -> u32 {
        // SAFETY: the location of this thread's errno is always valid.
        unsafe { *libc::__errno_location() }.cast_unsigned()
    }

    /// ioctl(2) with a number as its argument.
    fn control(fd: libc::c_int, request: libc::c_ulong, argument: libc::c_ulong) -> libc::c_int {
        // SAFETY: the requests this is called with take a number, no pointer.
        unsafe { libc::ioctl(fd, request, argument) }
    }

    /// ioctl(2) with a structure as its argument.
    fn control_with<T>(fd: libc::c_int, request: libc::c_ulong, argument: &mut T) -> libc::c_int {
        // SAFETY: `argument` is live, and each caller gives the structure that belongs to the request
        // (their sizes are part of the request numbers and asserted above).
        unsafe { libc::ioctl(fd, request, std::ptr::from_mut(argument)) }
    }

    /// Makes the machine and runs it. Does not allocate; leaves descriptors and maps to the end of
    /// the process.
    pub(super) fn run() -> (u32, u32) {
        match try_run() {
            Ok(answer) => answer,
            Err(step) => (step, errno()),
        }
    }

    fn check(step: u32, result: libc::c_int) -> Result<libc::c_int, u32> {
        if result < 0 { Err(step) } else { Ok(result) }
    }

    fn try_run() -> Result<(u32, u32), u32> {
        // SAFETY: the path is a C string.
        let kvm = unsafe { libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        check(1, kvm)?;
        check(2, control(kvm, GET_API_VERSION, 0))?;
        let machine = check(3, control(kvm, CREATE_VM, 0))?;
        let memory = map(MEMORY_SIZE, -1, libc::MAP_ANONYMOUS | libc::MAP_PRIVATE)?;
        fill(memory);
        let mut region = MemoryRegion {
            slot: 0,
            flags: 0,
            guest_address: 0,
            size: MEMORY_SIZE as u64,
            address: memory as u64,
        };
        check(
            5,
            control_with(machine, SET_USER_MEMORY_REGION, &mut region),
        )?;
        // Old Intel processors need a place for this; others do not mind.
        control(machine, SET_TSS_ADDR, 0xfffb_d000);
        let processor = check(6, control(machine, CREATE_VCPU, 0))?;
        let size = check(7, control(kvm, GET_VCPU_MMAP_SIZE, 0))?;
        let mut cpuid = Cpuid {
            count: 256,
            padding: 0,
            entries: [[0; 10]; 256],
        };
        check(8, control_with(kvm, GET_SUPPORTED_CPUID, &mut cpuid))?;
        check(8, control_with(processor, SET_CPUID2, &mut cpuid))?;
        set_registers(processor)?;
        let run = map(size.cast_unsigned() as usize, processor, libc::MAP_SHARED)?;
        enter(processor, run)
    }

    fn map(size: usize, fd: libc::c_int, flags: libc::c_int) -> Result<*mut u8, u32> {
        // SAFETY: a new mapping at a place that the kernel chooses.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            Err(4)
        } else {
            Ok(address.cast())
        }
    }

    fn fill(memory: *mut u8) {
        let put = |at: u64, bytes: &[u8]| {
            // SAFETY: `memory` is a mapping of MEMORY_SIZE bytes that only this process has; every
            // constant address here plus its bytes is below that.
            unsafe {
                memory
                    .add(at as usize)
                    .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
        };
        let present_and_writable = 3;
        let large = 0x80;
        put(
            PAGE_MAP,
            &(PAGE_DIRECTORY_POINTERS | present_and_writable).to_le_bytes(),
        );
        put(
            PAGE_DIRECTORY_POINTERS,
            &(PAGE_DIRECTORY | present_and_writable).to_le_bytes(),
        );
        put(
            PAGE_DIRECTORY,
            &(present_and_writable | large).to_le_bytes(),
        );
        // After the null descriptor: 64-bit code, data.
        put(DESCRIPTORS + 8, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
        put(DESCRIPTORS + 16, &0x00cf_9300_0000_ffff_u64.to_le_bytes());
        // Vector 6, invalid opcode: a present 64-bit interrupt gate to HANDLER in code segment 8.
        let gate = (HANDLER & 0xffff) | (8 << 16) | (0x8e00 << 32) | ((HANDLER >> 16) << 48);
        put(INTERRUPTS + 6 * 16, &gate.to_le_bytes());
        put(INTERRUPTS_POINTER, &(7_u16 * 16 - 1).to_le_bytes());
        put(INTERRUPTS_POINTER + 2, &INTERRUPTS.to_le_bytes());
        put(DESCRIPTORS_POINTER, &(3_u16 * 8 - 1).to_le_bytes());
        put(DESCRIPTORS_POINTER + 2, &DESCRIPTORS.to_le_bytes());
        put(CODE, &PROGRAM);
        put(HANDLER, &HANDLER_PROGRAM);
    }

    fn set_registers(processor: libc::c_int) -> Result<(), u32> {
        // SAFETY: all fields are numbers, for which zero is a value.
        let mut special: SpecialRegisters = unsafe { std::mem::zeroed() };
        check(9, control_with(processor, GET_SREGS, &mut special))?;
        let code = Segment {
            base: 0,
            limit: u32::MAX,
            selector: 8,
            kind: 11,
            present: 1,
            dpl: 0,
            db: 0,
            s: 1,
            l: 1,
            g: 1,
            avl: 0,
            unusable: 0,
            padding: 0,
        };
        let data = Segment {
            selector: 16,
            kind: 3,
            db: 1,
            l: 0,
            ..code
        };
        special.cs = code;
        special.ds = data;
        special.es = data;
        special.fs = data;
        special.gs = data;
        special.ss = data;
        special.gdt.base = DESCRIPTORS;
        special.gdt.limit = 3 * 8 - 1;
        special.cr0 = 0x8000_0033; // PG, NE, ET, MP, PE
        special.cr3 = PAGE_MAP;
        special.cr4 = 0x220; // OSFXSR, PAE
        special.efer = 0x500; // LMA, LME
        check(10, control_with(processor, SET_SREGS, &mut special))?;
        let mut registers = Registers {
            rsp: STACK,
            rip: CODE,
            rflags: 2,
            ..Registers::default()
        };
        check(11, control_with(processor, SET_REGS, &mut registers))?;
        Ok(())
    }

    fn enter(processor: libc::c_int, run: *mut u8) -> Result<(u32, u32), u32> {
        let mut has_answered = false;
        // The answer, the halt, and a few returns without a reason of ours.
        for _ in 0..16 {
            if control(processor, RUN, 0) < 0 {
                if errno() == libc::EINTR.cast_unsigned() {
                    continue;
                }
                return Err(12);
            }
            // SAFETY: `run` is the processor's shared page, at least as large as `Run` and aligned to
            // a page; the kernel writes it only during KVM_RUN.
            let state = unsafe { run.cast::<Run>().read_volatile() };
            match state.exit_reason {
                EXIT_IO if state.io_port == PORT => {
                    // SAFETY: the kernel's offset is within the mapping that it told the size of.
                    let byte = unsafe { run.add(state.io_data_offset as usize).read_volatile() };
                    has_answered = byte == ANSWER;
                }
                EXIT_HLT if has_answered => return Ok((WORKS, 0)),
                reason => return Ok((STOPPED, reason)),
            }
        }
        Ok((STOPPED, EXIT_IO))
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_probe_answers_in_time_whatever_the_host_is() {
        let start = std::time::Instant::now();
        let outcome = probe(Duration::from_secs(2));
        eprintln!("{outcome:?} after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(outcome.is_ok());
    }
}
