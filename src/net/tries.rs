//! How often and how long a request is tried.
//!
//! Times are those of [`suspend_aware_now`], so that a suspended machine does not
//! stretch a limit. A try runs on tokio's clock, which stops during a suspend; so the
//! limit is checked again after each try.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::time::sleep;

use super::{Address, Fault, FaultKind};
use crate::sys::suspend_aware_now;

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// When to give up.
    pub until: Duration,
    /// When to give up if a server has accepted a connection: it may be busy, and gets
    /// more time than a dead one. Not before `until`.
    pub until_accepted: Duration,
    /// The longest time for one try, so that a dead address leaves time for the others.
    /// If servers accept connections without answering in time, it doubles with each
    /// round over the addresses, up to `until_accepted`.
    pub each: Duration,
}

impl Limits {
    /// For a server that has answered before.
    pub fn new(until: Duration, each: Duration) -> Self {
        Self { until, until_accepted: until, each }
    }

    /// For the first contact: `connect` from now, or `accepted` once a server accepts
    /// the connection.
    pub fn first(connect: Duration, accepted: Duration) -> Self {
        let now = suspend_aware_now();
        Self { until: now + connect, until_accepted: now + accepted.max(connect), each: Duration::from_secs(2) }
    }
}

/// How long one try may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TryTime {
    /// Until there is a connection.
    pub connect: Duration,
    /// Until the answer is complete.
    pub answer: Duration,
}

impl From<Duration> for TryTime {
    fn from(time: Duration) -> Self {
        Self { connect: time, answer: time }
    }
}

/// The tries of one request.
pub struct Tries {
    limits: Limits,
    addresses: usize,
    made: usize,
    accepted: bool,
    /// The last fault at each address.
    faults: Vec<(Address, Fault)>,
}

/// No address gave a usable answer in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// The last fault at each address that was tried.
    pub faults: Vec<(Address, Fault)>,
    /// Whether the request was sent, and may have been carried out.
    pub was_sent: bool,
}

impl Unreachable {
    /// Whether another try would fail in the same way at each address.
    pub fn is_refused(&self) -> bool {
        self.faults.iter().all(|(_, fault)| fault.kind == FaultKind::Refused)
    }
}

impl Display for Unreachable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.faults.is_empty() {
            return f.write_str("no time was left to try");
        }
        for (place, (address, fault)) in self.faults.iter().enumerate() {
            write!(f, "{}{address}: {fault}", if place > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl Tries {
    /// One request to a server with this many addresses.
    pub fn new(limits: Limits, addresses: usize) -> Self {
        Self { limits, addresses, made: 0, accepted: false, faults: Vec::new() }
    }

    /// The time for the next try, unless the time is up.
    pub fn next(&self) -> Result<TryTime, Unreachable> {
        let now = suspend_aware_now();
        let connect = self.end().saturating_sub(now);
        if connect.is_zero() {
            return Err(self.unreachable());
        }
        let (longest, answer) = (self.longest(), self.limits.until_accepted.saturating_sub(now));
        Ok(TryTime { connect: connect.min(longest), answer: answer.min(longest) })
    }

    /// Records a failed try and pauses for a random time. Fails if the time is up, or
    /// if another try would not help at any address.
    pub async fn failed(&mut self, address: &Address, fault: Fault) -> Result<(), Unreachable> {
        self.made += 1;
        self.accepted |= fault.kind == FaultKind::NotAnswered;
        match self.faults.iter_mut().find(|(known, _)| known == address) {
            Some((_, last)) => *last = fault,
            None => self.faults.push((address.clone(), fault)),
        }
        let unreachable = self.unreachable();
        if self.faults.len() == self.addresses && unreachable.is_refused() {
            return Err(unreachable);
        }
        let pause = pause(self.made / self.addresses.max(1));
        if suspend_aware_now() + pause >= self.end() {
            return Err(unreachable);
        }
        // At first, the next address is tried at once.
        if self.made >= self.addresses {
            sleep(pause).await;
        }
        Ok(())
    }

    fn unreachable(&self) -> Unreachable {
        Unreachable { faults: self.faults.clone(), was_sent: self.accepted }
    }

    fn end(&self) -> Duration {
        if self.accepted { self.limits.until_accepted } else { self.limits.until }
    }

    /// A single address gets all the time: another try would only add to a busy
    /// server's work.
    fn longest(&self) -> Duration {
        let is_first = self.limits.until_accepted > self.limits.until;
        match (is_first, self.addresses) {
            (true, 1) => Duration::MAX,
            (true, addresses) => self.limits.each * 2u32.saturating_pow((self.made / addresses) as u32),
            (false, _) => self.limits.each,
        }
    }
}

/// Random, and longer with each round: clients that lost their server at the same
/// moment must not come back at the same moment.
fn pause(round: usize) -> Duration {
    let longest = 50 << round.min(4);
    Duration::from_millis(20 + random_below(longest) as u64)
}

/// Pauses between two rounds of tries.
pub async fn pause_randomly(round: usize) {
    sleep(pause(round)).await;
}

pub(super) fn random_below(limit: usize) -> usize {
    let mut bytes = [0; 4];
    // Without random numbers all clients start with the first address, which is safe.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    u32::from_ne_bytes(bytes) as usize % limit.max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::tests::run;
    use super::*;

    fn address(port: u16) -> Address {
        Address { host: "127.0.0.1".into(), port }
    }

    fn from_now(time: Duration) -> Duration {
        suspend_aware_now() + time
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_dead_address_leaves_time_for_the_others() {
        let tries = Tries::new(Limits::new(from_now(LONG), Duration::from_secs(3)), 2);
        assert_eq!(tries.next(), Ok(Duration::from_secs(3).into()));
    }

    #[test]
    fn the_last_fault_of_each_address_is_told() {
        let mut tries = Tries::new(Limits::new(from_now(Duration::from_millis(100)), LONG), 2);
        let faults = [(1, "connection refused"), (2, "no route to the host"), (1, "connection reset")];
        let mut ended = None;
        for (port, text) in faults.into_iter().cycle().take(3000) {
            if let Err(unreachable) = run(tries.failed(&address(port), Fault::not_connected(text))) {
                ended = Some(unreachable);
                break;
            }
        }
        let ended = ended.expect("the time was up").to_string();
        assert!(ended.starts_with("127.0.0.1:1: connection re"), "{ended}");
        assert!(ended.ends_with("; 127.0.0.1:2: no route to the host"), "{ended}");
    }

    #[test]
    fn a_try_that_was_sent_is_remembered() {
        let mut tries = Tries::new(Limits::new(from_now(LONG), LONG), 1);
        run(tries.failed(&address(1), Fault::not_answered("no answer in time"))).unwrap();
        let unreachable = run(tries.failed(&address(1), Fault::refused("its certificate has expired"))).unwrap_err();
        assert!(unreachable.was_sent);
    }

    #[test]
    fn what_every_address_refuses_is_not_tried_again() {
        let mut tries = Tries::new(Limits::new(from_now(LONG), LONG), 2);
        let refused = || Fault::refused("its certificate has expired");
        assert_eq!(run(tries.failed(&address(1), refused())), Ok(()));
        let unreachable = run(tries.failed(&address(2), refused())).unwrap_err();
        assert!(unreachable.is_refused());
        assert!(!unreachable.was_sent);
    }

    #[test]
    fn a_server_that_accepts_is_waited_for_longer_than_a_dead_one() {
        let mut tries = Tries::new(Limits::first(Duration::ZERO, LONG), 1);
        assert!(tries.next().is_err());
        assert!(run(tries.failed(&address(1), Fault::not_connected("connection refused"))).is_err());
        assert_eq!(run(tries.failed(&address(1), Fault::not_answered("no answer in time"))), Ok(()));
        assert!(tries.next().is_ok_and(|time| time.answer > Duration::from_secs(3000)));
    }

    #[test]
    fn the_only_server_is_asked_once_however_busy_it_is() {
        let tries = Tries::new(Limits::first(LONG, LONG * 2), 1);
        let time = tries.next().unwrap();
        assert!(time.connect <= LONG && time.answer > LONG);
    }

    #[test]
    fn each_round_over_silent_addresses_takes_longer() {
        let mut tries = Tries::new(Limits::first(LONG, LONG * 2), 2);
        let mut limits = Vec::new();
        for port in [1, 2, 1, 2] {
            limits.push(tries.next().unwrap().answer.as_secs());
            run(tries.failed(&address(port), Fault::not_answered("no answer in time"))).unwrap();
        }
        assert_eq!(limits, [2, 2, 4, 4]);
    }

    #[test]
    fn the_second_address_is_tried_without_a_pause() {
        let mut tries = Tries::new(Limits::new(from_now(LONG), LONG), 2000);
        let started = Instant::now();
        run(async {
            for port in 1..2000 {
                tries.failed(&address(port), Fault::not_connected("connection refused")).await.unwrap();
            }
        });
        // With pauses it would take at least 40 s.
        assert!(started.elapsed() < Duration::from_secs(30), "it paused");
    }
}
