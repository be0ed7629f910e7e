//! The arithmetic of a lease: when to renew, and when COMMAND has to be ended so
//! that it is dead before the server can give the lock to somebody else.
//!
//! ```text
//! sent            renew             TERM          KILL  |  deadline
//! |------ttl/3------|------ ... -----|-- kill-after --|-ttl/20-|
//! ```
//!
//! The deadline counts from *before* the last successful renewal was sent. TERM is
//! due `min(--kill-after, ttl/4)` before it, KILL `ttl/20` before it. So at a ttl of
//! 20 s an outage that begins just before a renewal ends the command after 8.3 s,
//! one that begins just after it after 15 s; at 5 s it is 2.1 and 3.8 s.
//!
//! Times are of [`suspend_aware_now`](crate::sys::suspend_aware_now).

use std::time::Duration;

/// --kill-after gets at most a quarter of the ttl.
const ROOM_TO_TERMINATE: u32 = 4;
/// The wrapper kills this fraction of the ttl before the deadline.
const ROOM_TO_KILL: u32 = 20;
/// Renewals in one ttl.
const RENEWALS: u32 = 3;
/// One try at one address takes at most this fraction of the ttl.
const TRIES: u32 = 6;

/// A server that accepted the first connection may be busy with 500 hosts in the same
/// minute.
pub const ACCEPTED: Duration = Duration::from_secs(30);
/// Pause before a failed request or broken watch is repeated.
pub const PAUSE: Duration = Duration::from_millis(300);
/// Limit for the keeper to release locks, or to delete rows that are given up.
pub const LEAVING: Duration = Duration::from_secs(5);

/// When to end the command of a lease that cannot be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// TERM, by the wrapper.
    pub term_at: Duration,
    /// KILL, by the wrapper.
    pub kill_at: Duration,
    /// KILL, by the keeper if the wrapper is dead or stopped.
    pub last_kill_at: Duration,
}

impl Ending {
    /// For a lease that lives until `deadline`.
    pub fn new(deadline: Duration, ttl: Duration, kill_after: Duration) -> Self {
        let room = ttl / ROOM_TO_KILL;
        Self {
            term_at: deadline.saturating_sub(kill_after.min(ttl / ROOM_TO_TERMINATE).max(room)),
            kill_at: deadline.saturating_sub(room),
            last_kill_at: deadline.saturating_sub(room / 2),
        }
    }
}

/// When to renew. `chance`: a random number, so that the holders of many locks do not
/// come at once.
pub fn renew_at(deadline: Duration, ttl: Duration, chance: u32) -> Duration {
    let third = ttl / RENEWALS;
    // 0.9 to 1.1 of it.
    let jitter = (third / 5).mul_f64(f64::from(chance) / f64::from(u32::MAX));
    deadline.saturating_sub(ttl).saturating_add(third * 9 / 10).saturating_add(jitter)
}

/// Longest time for one try.
pub fn each_try(ttl: Duration) -> Duration {
    ttl / TRIES
}

/// How often a keeper shows that it is alive.
pub fn heartbeat(ttl: Duration) -> Duration {
    ttl / 12
}

/// A keeper hangs if it has not shown for this long that it is alive.
pub fn hung_after(ttl: Duration) -> Duration {
    ttl / 3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// How long a server may be away before the command gets TERM, for an outage just
    /// before a renewal and just after one.
    fn outages(ttl: f64) -> [f64; 2] {
        let ending = Ending::new(seconds(ttl), seconds(ttl), seconds(10.0));
        let renewal = seconds(ttl) / RENEWALS;
        [(ending.term_at - renewal).as_secs_f64(), ending.term_at.as_secs_f64()]
    }

    #[test]
    fn the_outages_that_the_manual_names() {
        let near = |a: [f64; 2], b: [f64; 2]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.06);
        assert!(near(outages(20.0), [8.3, 15.0]), "{:?}", outages(20.0));
        assert!(near(outages(5.0), [2.1, 3.75]), "{:?}", outages(5.0));
    }

    #[test]
    fn a_patient_kill_after_leaves_the_command_no_more_than_a_quarter() {
        let ending = |kill_after| Ending::new(seconds(100.0), seconds(20.0), seconds(kill_after));
        assert_eq!(ending(60.0).term_at, seconds(95.0));
        assert_eq!(ending(2.0).term_at, seconds(98.0));
        assert_eq!(ending(0.0).term_at, seconds(99.0));
        assert_eq!(ending(0.0).kill_at, seconds(99.0));
        assert_eq!(ending(0.0).last_kill_at, seconds(99.5));
    }

    proptest! {
        #[test]
        fn everything_comes_in_its_order(ttl in 2_u64..100_000, kill_after in 0_u64..100_000, chance: u32) {
            let (ttl, deadline) = (Duration::from_secs(ttl), Duration::from_secs(1_000_000));
            let ending = Ending::new(deadline, ttl, Duration::from_secs(kill_after));
            let renew = renew_at(deadline, ttl, chance);
            prop_assert!(deadline - ttl < renew && renew < ending.term_at);
            prop_assert!(ending.term_at <= ending.kill_at && ending.kill_at < ending.last_kill_at);
            prop_assert!(ending.last_kill_at < deadline && deadline - ending.kill_at >= ttl / 20);
            // Two renewals may fail by their own limits before anybody is ended.
            prop_assert!(renew + each_try(ttl) * 2 <= ending.term_at);
        }
    }
}
