//! Writing back to disk, beside the loop: whoever waits for a disk holds up nobody else.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{fdatasync, fsync};
use rustix::io::Errno;

/// Threads at most; a disk is not faster for more.
const MOST_THREADS: usize = 4;
/// Requests under way at most.
const MOST: usize = 256;

struct Job {
    unique: u64,
    file: Arc<OwnedFd>,
    is_data_only: bool,
}

/// A request that is done: its number, and how it went.
pub(crate) type Done = (u64, Result<(), Errno>);

/// Returns once the disk has it.
///
/// # Errors
/// When it does not.
pub(crate) fn sync(file: &OwnedFd, is_data_only: bool) -> Result<(), Errno> {
    match is_data_only {
        true => fdatasync(file),
        false => fsync(file),
    }
}

/// Requests that wait for a disk.
#[derive(Debug)]
pub(crate) struct Syncs {
    jobs: Sender<Job>,
    queue: Arc<Mutex<Receiver<Job>>>,
    done: Receiver<Done>,
    tell: Sender<Done>,
    /// Readable when something is done.
    bell: Arc<OwnedFd>,
    threads: usize,
    under_way: usize,
}

impl Syncs {
    /// None yet.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn new() -> Result<Syncs, Errno> {
        let (jobs, queue) = channel();
        let (tell, done) = channel();
        Ok(Syncs {
            jobs,
            queue: Arc::new(Mutex::new(queue)),
            done,
            tell,
            bell: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            threads: 0,
            under_way: 0,
        })
    }

    /// Begins one; `false` when there are too many, and no thread for it can be had.
    pub(crate) fn begin(&mut self, unique: u64, file: &Arc<OwnedFd>, is_data_only: bool) -> bool {
        if self.under_way >= MOST {
            return false;
        }
        if self.threads < MOST_THREADS && self.threads <= self.under_way {
            let _ = self.start_thread();
        }
        if self.threads == 0 {
            return false;
        }
        let job = Job {
            unique,
            file: file.clone(),
            is_data_only,
        };
        let is_sent = self.jobs.send(job).is_ok();
        self.under_way += usize::from(is_sent);
        is_sent
    }

    fn start_thread(&mut self) -> std::io::Result<()> {
        const STACK: usize = 64 << 10;
        let (queue, tell) = (self.queue.clone(), self.tell.clone());
        let bell = self.bell.clone();
        let work = move || {
            loop {
                let job = queue.lock().ok().and_then(|queue| queue.recv().ok());
                // The session is over.
                let Some(job) = job else { return };
                let outcome = sync(&job.file, job.is_data_only);
                drop(job.file);
                if tell.send((job.unique, outcome)).is_err() {
                    return;
                }
                let _ = rustix::io::write(&*bell, &1_u64.to_ne_bytes());
            }
        };
        let builder = thread::Builder::new().stack_size(STACK);
        builder.spawn(work)?;
        self.threads += 1;
        Ok(())
    }

    /// What to wait for while there is something under way.
    pub(crate) fn bell(&self) -> Option<&OwnedFd> {
        (self.under_way > 0).then_some(&*self.bell)
    }

    /// The next one that is done.
    pub(crate) fn next(&mut self) -> Option<Done> {
        if self.under_way == 0 {
            return None;
        }
        let Ok(done) = self.done.try_recv() else {
            // What is told from here on rings again.
            let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
            let done = self.done.try_recv().ok()?;
            self.under_way -= 1;
            return Some(done);
        };
        self.under_way -= 1;
        Some(done)
    }
}
