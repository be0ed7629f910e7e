//! A process that holds a lock and tends it until there is a reason to let go: a
//! release by its token, the end of something that it is [tied](Tie) to, its expiry,
//! the loss of the lock, or a signal.
//!
//! The keeper of a token listens on a socket in the abstract namespace (unix(7)), which
//! leaves no file behind and vanishes with the process.

mod clients;
mod protocol;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags};

use crate::lock::{Held, Note};
use crate::message;
use crate::record::{RELEASED, timestamp};
use crate::sys::{self, Arrived, LetGo, SignalFd, Timer};
use crate::token::{AnyToken, Token};

use clients::is_not_yet;
pub use clients::{Client, Clients};
pub use protocol::{Answer, Ask, Contact, TokenState, ask, listen, take_over};

pub struct Keeper<H> {
    pub held: H,
    pub token: Token,
    /// Where clients connect.
    pub listener: UnixListener,
    /// What else ends it.
    pub ties: Vec<Tie>,
    /// How long it was taken for; `None`: until released.
    pub lease: Option<Duration>,
    /// `acquire` sends one byte when it has printed the token; if the stream ends
    /// without it, nobody will ever have the token. The keeper writes why it let go
    /// before that.
    pub printed: UnixStream,
}

/// Something whose end releases the lock: an owner's process, or a life line that a
/// command has inherited.
pub struct Tie {
    /// Readable when it is over.
    pub descriptor: OwnedFd,
    /// The reason to record: "its owner ended".
    pub end: &'static str,
}

/// Clients of a release do not wait longer.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// Pause after a failed poll(2), which would otherwise be repeated at once.
const A_PAUSE: Duration = Duration::from_millis(100);

/// A lack of memory that ends within seconds loses no lock.
const MOST_FAILURES: u32 = 100;

/// A keeper with all that it needs of the system.
pub struct ReadyKeeper<H> {
    holding: Holding<H>,
    ties: Vec<Tie>,
    signals: SignalFd,
}

impl<H: Held> Keeper<H> {
    /// Does what may fail, so that no token is handed out for a lock that cannot be kept.
    /// `granted_at` counts from boot (CLOCK_BOOTTIME).
    ///
    /// # Errors
    /// No memory, or a limit is reached.
    pub fn get_ready(self, granted_at: Duration) -> io::Result<ReadyKeeper<H>> {
        let Self { held, token, listener, ties, lease, printed } = self;
        let clients = Clients::new(listener, token.secret.clone())?;
        printed.set_nonblocking(true)?;
        let mut holding = Holding {
            held,
            token,
            lease,
            expires_at: lease.map(|lease| granted_at.saturating_add(lease)),
            timer: Timer::new()?,
            armed_for: None,
            printed: Some(printed),
            clients,
        };
        holding.arm()?;
        let signals = SignalFd::new(&[libc::SIGTERM, sys::timer_signal()])?;
        Ok(ReadyKeeper { holding, ties, signals })
    }
}

impl<H: Held> ReadyKeeper<H> {
    /// Hands out the token, and holds the lock until there is a reason to let go.
    pub fn hold(self) -> ! {
        let Self { mut holding, ties, signals } = self;
        // Without memory or descriptors nobody could release the lock, so it is not
        // kept.
        let end = holding.serve(&ties, &signals).unwrap_or_else(|error| format!("failed: {error}").into());
        holding.let_go(end)
    }
}

struct End {
    why: String,
    client: Option<Client>,
}

impl<T: Into<String>> From<T> for End {
    fn from(why: T) -> Self {
        Self { why: why.into(), client: None }
    }
}

struct Holding<H> {
    held: H,
    token: Token,
    lease: Option<Duration>,
    expires_at: Option<Duration>,
    timer: Timer,
    armed_for: Option<Duration>,
    /// `None`: the token has been printed.
    printed: Option<UnixStream>,
    clients: Clients,
}

impl<H: Held> Holding<H> {
    /// Returns when the lock must be released.
    fn serve(&mut self, ties: &[Tie], signals: &SignalFd) -> io::Result<End> {
        if let Some(caller) = &mut self.printed {
            caller.write_all((AnyToken::Files(self.token.clone()).to_word() + "\n").as_bytes())?;
        }
        let mut failures = 0;
        loop {
            self.arm()?;
            let ready = {
                let sources =
                    [self.printed.as_ref().map(AsFd::as_fd), Some(signals.as_fd()), self.held.wakes().descriptor];
                let ties = ties.iter().map(|tie| Some(tie.descriptor.as_fd()));
                let clients = self.clients.descriptors().map(Some);
                let sources: Vec<_> = sources.into_iter().chain(ties).chain(clients).collect();
                match wait_for_any(&sources) {
                    Err(_) if failures < MOST_FAILURES => {
                        failures += 1;
                        sys::nap(A_PAUSE);
                        vec![false; sources.len()]
                    }
                    ready => ready?,
                }
            };
            let (tied, clients) = ready[3..].split_at(ties.len());
            if let Some((tie, _)) = ties.iter().zip(tied).find(|(_, is_over)| **is_over) {
                return Ok(tie.end.into());
            }
            let signal = if ready[1] { signals.read() } else { None };
            let now = sys::suspend_aware_now();
            if self.expires_at.is_some_and(|at| at <= now) {
                return Ok("expired".into());
            }
            if (ready[2] || self.held.wakes().at.is_some_and(|at| at <= now))
                && let Some(loss) = self.held.tend()
            {
                return Ok(loss.lost.to_string().into());
            }
            if ready[0]
                && let Some(caller) = &mut self.printed
            {
                match caller.read(&mut [0]) {
                    Ok(1..) => self.printed = None,
                    Err(e) if is_not_yet(&e) => {}
                    _ => return Ok("its token was never printed".into()),
                }
            }
            match signal {
                Some(Arrived::LetGo { ask: LetGo::Replace, sender }) => {
                    return Ok(format!("replaced by {}", message::by(sender)).into());
                }
                Some(Arrived::LetGo { sender, .. } | Arrived::Signal { sender, .. }) => {
                    return Ok(format!("broken by {}", message::by(sender)).into());
                }
                _ => {}
            }
            for (client, ask) in self.clients.hear(clients) {
                match ask {
                    Ask::Release => return Ok(End { why: RELEASED.into(), client: Some(client) }),
                    Ask::Renew { lease } => self.renew(lease.unwrap_or(self.lease)),
                    Ask::Check => {}
                }
                client.tell_state(self.state());
            }
        }
    }

    fn renew(&mut self, lease: Option<Duration>) {
        self.expires_at = lease.map(|lease| sys::suspend_aware_now().saturating_add(lease));
        let expires = self.expires();
        self.held.note(&Note::Expires(expires.as_deref()));
    }

    fn state(&mut self) -> TokenState {
        let lost = self.lost();
        TokenState { expires: self.expires(), remaining: self.remaining(), lost }
    }

    fn lost(&mut self) -> Option<String> {
        self.held.tend().map(|loss| loss.lost.how)
    }

    fn remaining(&self) -> Option<Duration> {
        self.expires_at.map(|at| at.saturating_sub(sys::suspend_aware_now()))
    }

    fn expires(&self) -> Option<String> {
        self.remaining().and_then(|left| SystemTime::now().checked_add(left)).map(timestamp)
    }

    /// Sets the timer to the expiry or the next time to tend the lock.
    fn arm(&mut self) -> io::Result<()> {
        let next = [self.expires_at, self.held.wakes().at].into_iter().flatten().min();
        if next == self.armed_for {
            return Ok(());
        }
        self.armed_for = next;
        // One that fires without a need does no harm.
        next.map_or(Ok(()), |next| self.timer.fire_at(next))
    }

    /// Frees the lock, then reports the end: to the record, to `acquire` if it still
    /// listens, and to the client that asked for it.
    fn let_go(mut self, end: End) -> ! {
        let lost = self.lost();
        let ended = format!("{} at {}", end.why, timestamp(SystemTime::now()));
        self.held.note(&Note::Ended(&ended));
        // Even if it cannot be unlocked: no other process has the descriptor, so
        // closing it frees the lock.
        let _ = self.held.release(RELEASE_LIMIT);
        drop(self.held);
        self.clients.close();
        if let Some(mut caller) = self.printed {
            let _ = caller.write_all((ended + "\n").as_bytes());
        }
        if let Some(client) = end.client {
            client.tell_released(lost);
        }
        sys::exit_now(0)
    }
}

/// Sleeps until one of the descriptors is readable; which of them, in the order given.
fn wait_for_any(sources: &[Option<std::os::fd::BorrowedFd<'_>>]) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = sources.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    sys::wait_until_ready(&mut polled, None)?;
    let mut events = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(sources.iter().map(|source| source.is_some() && events.next().unwrap_or(false)).collect())
}
