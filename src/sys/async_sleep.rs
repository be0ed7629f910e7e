//! Sleeping on the clock that runs through suspend. tokio's stops then, and a lease
//! would be renewed too late.

use std::io;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::{Awaited, suspend_aware_now};

/// Sleeps until this time of [`suspend_aware_now`].
pub async fn sleep_until(at: Duration) {
    // Longer than any machine stays up.
    if at > Duration::from_secs(1 << 32) {
        return std::future::pending().await;
    }
    while suspend_aware_now() < at {
        match timer(at) {
            Ok(timer) => timer.ready().await,
            // Without a free descriptor, one second at a time.
            Err(_) => tokio::time::sleep((at.saturating_sub(suspend_aware_now())).min(Duration::from_secs(1))).await,
        }
    }
}

fn timer(at: Duration) -> io::Result<Awaited> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
    let at = Timespec { tv_sec: at.as_secs() as i64, tv_nsec: at.subsec_nanos().into() };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &once)?;
    Awaited::new(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sleeps_until_then_and_not_at_all_if_that_is_past() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let at = suspend_aware_now() + Duration::from_millis(30);
        runtime.block_on(sleep_until(at));
        assert!(suspend_aware_now() >= at);
        runtime.block_on(sleep_until(at));
        runtime.block_on(sleep_until(Duration::ZERO));
    }
}
