//! The clock that runs through suspend.

use std::time::Duration;

/// Time since boot, including suspend. Only for use within one process family: time
/// namespaces shift it.
pub fn suspend_aware_now() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // Through libc, which has found the vDSO already. SAFETY: writes to a live local;
    // every supported Linux has the clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// `time` as the kernel takes it, cut to longer than any machine stays up.
pub(super) fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX / 2).min(libc::time_t::MAX / 2),
        tv_nsec: time.subsec_nanos().into(),
    }
}
