//! A queue of contenders for one lock, all asleep before the first may start.

use std::ffi::OsString;
use std::io::Read;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::Bench;
use crate::peers::{Lock, Tool};
use crate::processes::{self, Pid};

/// One process holds the lock until [`Queue::release`], the others wait for it.
pub struct Queue {
    holder: Child,
    /// The holder's COMMAND ends when this is closed.
    reins: Option<ChildStdin>,
    contenders: Vec<Child>,
    /// From the first contender's start until all were found asleep.
    pub formed_in: Duration,
}

impl Queue {
    /// Returns once `count` runs of `tool` sleep for the lock, behind a run of
    /// `holder` that has the lock. The contender with index I runs `command(I)`.
    pub fn form(
        bench: &Bench,
        lock: &Lock,
        holder: &Tool,
        tool: &Tool,
        count: usize,
        command: impl Fn(usize) -> Vec<OsString>,
    ) -> anyhow::Result<Queue> {
        let mut holder = holder
            .command(lock, &[bench.yardstick.hold.clone().into()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", holder.way.name()))?;
        let reins = holder.stdin.take();
        let mut queue = Queue { holder, reins, contenders: Vec::with_capacity(count), formed_in: Duration::ZERO };
        queue.wait_for_the_holder()?;

        let begun = Instant::now();
        for index in 0..count {
            let contender =
                tool.command(lock, &command(index)).spawn().with_context(|| format!("starting contender {index}"))?;
            queue.contenders.push(contender);
        }
        processes::wait_until("all contenders wait for the lock", || queue.waiters().all(processes::waits_for_a_lock))?;
        queue.formed_in = begun.elapsed();
        Ok(queue)
    }

    /// The tool that holds the lock.
    pub fn holder(&self) -> Pid {
        self.holder.id()
    }

    /// The tools that wait for it.
    pub fn waiters(&self) -> impl Iterator<Item = Pid> {
        self.contenders.iter().map(Child::id)
    }

    /// Lets the holder end and returns how long it took until everybody had had
    /// a turn and was gone.
    ///
    /// # Errors
    /// Somebody is stuck, or did not end with code 0.
    pub fn release(mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        drop(self.reins.take());
        // The last one first: whoever waits for all in order is woken, and in
        // the way, at every turn.
        for contender in self.contenders.iter_mut().rev() {
            let status = processes::wait_for(contender)?;
            ensure!(status.success(), "a contender ended with {status}");
        }
        let took = begun.elapsed();
        let status = processes::wait_for(&mut self.holder)?;
        ensure!(status.success(), "the holder ended with {status}");
        Ok(took)
    }

    fn wait_for_the_holder(&mut self) -> anyhow::Result<()> {
        let mut running = [0];
        let mut says = self.holder.stdout.take().context("no pipe to the holder")?;
        says.read_exact(&mut running).context("the holder ended before its COMMAND ran")
    }
}

impl Drop for Queue {
    /// Leaves nobody behind when a measurement ends early. After a release all
    /// are gone, and this does nothing.
    fn drop(&mut self) {
        for child in self.contenders.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
        }
        drop(self.reins.take());
        for child in self.contenders.iter_mut().chain([&mut self.holder]) {
            let _ = child.wait();
        }
    }
}
