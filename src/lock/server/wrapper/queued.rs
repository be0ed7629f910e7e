//! While the keeper gets the locks.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Instant;

use super::held::{Grants, ServerHeld};
use super::{Keeper, LEAVING, LifeLine, Plan, how, some};
use crate::lock::server::keeper::Task;
use crate::lock::server::lease::heartbeat;
use crate::lock::server::news::{News, Order, Refused};
use crate::lock::server::page::Page;
use crate::lock::server::pause::Alarm;
use crate::lock::{Refusal, Wakes};
use crate::sys::{self, suspend_aware_now};

/// A request that a keeper works on. Dropping it gives it up.
pub struct ServerQueued {
    plan: Rc<Plan>,
    keeper: Keeper,
    life: LifeLine,
    identity: String,
    alarm: Alarm,
}

/// What a keeper has reported.
pub enum Progress {
    /// The store has answered, so --timeout counts from now. The store, for -v.
    Connected(String),
    /// [`Plan::holders`] has been updated.
    Holders,
    /// For -v.
    Remark(&'static str),
    /// The locks are ours.
    Granted(Grants),
    /// Not granted.
    Refused(Refusal),
    /// Another lockrun ended the wait: how, as a clause.
    GaveUp(String),
    /// The store cannot be used.
    Failed {
        /// Otherwise it refuses us.
        is_unreachable: bool,
        /// The reason, for messages.
        text: String,
    },
}

impl ServerQueued {
    /// Starts a keeper. Fails without memory, a process or a descriptor, and on kernels
    /// before 5.3.
    pub fn start(plan: Plan) -> io::Result<Self> {
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)?;
        let life = LifeLine { read, write };
        let keeper = Keeper::start(&plan, Task::Contend, None, &life, Page::new()?)?;
        Ok(Self { plan: Rc::new(plan), keeper, life, identity: String::new(), alarm: Alarm::default() })
    }

    /// What to wake up for.
    pub fn wakes(&self) -> Wakes<'_> {
        let at = Some(self.keeper.hangs_at(&self.plan));
        self.is_awake();
        self.alarm.set(at);
        Wakes { descriptor: Some(self.keeper.line.as_fd()), at }
    }

    fn is_awake(&self) {
        self.alarm.ring(suspend_aware_now(), heartbeat(self.plan.request.ttl));
    }

    /// Asks for another [`Progress::Holders`].
    pub fn look_again(&self) {
        self.keeper.order(&Order::LookAgain);
    }

    /// The next progress; `None`: sleep until [`wakes`](Self::wakes). An error means
    /// that another keeper is needed and cannot start.
    pub fn progress(&mut self) -> io::Result<Option<Progress>> {
        self.is_awake();
        let news = match self.keeper.news() {
            Ok(Some(news)) => news,
            Ok(None) if self.keeper.hangs_at(&self.plan) > suspend_aware_now() => return Ok(None),
            // It hangs or was killed.
            Ok(None) | Err(_) => {
                self.keeper.kill();
                let page = Page::new()?;
                page.set_attempt(self.keeper.page.attempt());
                self.keeper = Keeper::start(&self.plan, Task::Contend, some(&self.identity), &self.life, page)?;
                return Ok(Some(Progress::Remark("another process waits now, because the first one ended")));
            }
        };
        let progress = match news {
            News::Connected { store, description } => {
                let is_first = self.identity.is_empty();
                self.identity = store;
                match is_first {
                    true => Progress::Connected(description),
                    false => Progress::Remark("connected again"),
                }
            }
            News::Holders { holders } => {
                self.plan.set_holders(holders);
                Progress::Holders
            }
            News::PlaceLost { .. } => Progress::Remark("lost the place in the queue, waiting for another one"),
            News::Granted { grants, rows } => Progress::Granted(Grants::new(grants, rows)),
            News::Refused(refused) => Progress::Refused(match refused {
                Refused::Busy => Refusal::Busy,
                Refused::QueueFull => Refusal::QueueFull,
                Refused::Deadlock { reentrant_helps } => Refusal::Deadlock { reentrant_helps },
            }),
            News::GaveUp(call) => Progress::GaveUp(how(&call)),
            News::Failed { is_unreachable, text } => Progress::Failed { is_unreachable, text },
            News::Trouble { text } => {
                (self.plan.tell)(&format!("the store cannot be reached: {text}; trying again"));
                Progress::Holders
            }
            News::WorksAgain => {
                (self.plan.tell)("the store can be reached again");
                Progress::Holders
            }
            News::Removed { holder } => {
                self.plan.tell_removed(*holder);
                Progress::Holders
            }
            News::Settled | News::Called(_) | News::Lost { .. } | News::Released { .. } => Progress::Holders,
        };
        Ok(Some(progress))
    }

    /// Leaves the queue. Waits a moment for the deletion of the row, so that the next
    /// call does not find it; not for a slow server.
    pub fn give_up(mut self) {
        if rustix::net::shutdown(&self.keeper.line, rustix::net::Shutdown::Write).is_err() {
            return;
        }
        let until = Instant::now() + LEAVING;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.keeper.news() {
                Err(_) => return,
                Ok(None) if left.is_zero() => return,
                Ok(None) => drop(sys::is_readable(&self.keeper.line, Some(left))),
                Ok(Some(_)) => {}
            }
        }
    }

    /// After [`Progress::Granted`].
    pub fn into_held(self, grants: Grants) -> ServerHeld {
        let Self { plan, keeper, life, identity, alarm } = self;
        ServerHeld::new(plan, keeper, life, identity, alarm, grants)
    }
}
