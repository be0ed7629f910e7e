//! Noticing that a process was stopped, by a signal or with its machine: it was awake
//! later than it wanted to be.

use std::cell::Cell;
use std::time::Duration;

/// A time in which a process did nothing. Nothing happened where it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// The last moment in which the process was awake before.
    pub from: Duration,
    /// The first one after it.
    pub until: Duration,
}

impl Pause {
    /// How long it was, at most.
    pub fn length(self) -> Duration {
        self.until.saturating_sub(self.from)
    }
}

/// When a process was awake, and wants to be again.
#[derive(Debug, Default)]
pub struct Alarm {
    awake: Cell<Duration>,
    due: Cell<Option<Duration>>,
    pause: Cell<Pause>,
}

impl Alarm {
    /// It is awake. `late`: less is no pause.
    pub fn ring(&self, now: Duration, late: Duration) {
        if self.due.get().is_some_and(|due| due.saturating_add(late) < now) {
            self.pause.set(Pause { from: self.awake.get(), until: now });
            self.due.set(None);
        }
        self.awake.set(now);
    }

    /// It wants to be awake then, at the latest. What is due already is due now.
    pub fn set(&self, due: Option<Duration>) {
        self.due.set(due.map(|due| due.max(self.awake.get())));
    }

    pub fn pause(&self) -> Pause {
        self.pause.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_what_is_late() {
        let at = Duration::from_millis;
        let alarm = Alarm::default();
        alarm.ring(at(1000), at(100));
        alarm.set(Some(at(2000)));
        // Woken by something else, and in time.
        alarm.ring(at(1500), at(100));
        alarm.ring(at(2050), at(100));
        assert_eq!(alarm.pause(), Pause::default());
        alarm.set(Some(at(3000)));
        alarm.ring(at(7000), at(100));
        assert_eq!(alarm.pause(), Pause { from: at(2050), until: at(7000) });
        alarm.set(Some(at(6000)));
        alarm.ring(at(7001), at(100));
        assert_eq!(alarm.pause(), Pause { from: at(2050), until: at(7000) });
        // Who wants nothing is not late.
        alarm.set(None);
        alarm.ring(at(20_000), at(100));
        assert_eq!(alarm.pause().length(), at(4950));
    }
}
