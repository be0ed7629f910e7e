//! A campaign on one server: it is frozen, killed and started again, its connections are
//! cut, its answers lost, its clock set. `LOCKRUN_TEST_FULL=1` makes 2,000 grants instead
//! of some hundred.

use crate::campaign::size;
use crate::server_callers::Callers;
use crate::support::postgres::{Postgres, Schema};
use crate::support::{Place, Proxy, Random, Sandbox, eventually};

/// In seconds; in the URLs.
const TTL: &str = "ttl=3";
/// Longer than a lease, in milliseconds.
const PAST_THE_LEASE: std::ops::Range<u64> = 3100..4500;
const HOUR: i64 = 3600;

#[derive(Clone, Copy)]
enum Fault {
    Freeze,
    Crash,
    Cut,
    BlackHole,
    LostAnswers,
    /// Its clock is set this many seconds ahead.
    Clock(i64),
}

const FAULTS: [Fault; 8] = [
    Fault::LostAnswers,
    Fault::Clock(HOUR),
    Fault::Crash,
    Fault::Cut,
    Fault::Clock(-HOUR),
    Fault::Freeze,
    Fault::BlackHole,
    Fault::Clock(0),
];

#[test]
fn locks_in_postgresql_exclude_and_nobody_is_stuck() {
    withstand("one PostgreSQL", Place::Postgres(Schema::on(Postgres::start_with_clock())));
}

/// Half of the callers come through a proxy. Each fault happens at least once.
fn withstand(server: &str, mut place: Place) {
    let sandbox = Sandbox::new();
    let proxy = Proxy::to(&place.address());
    let url = place.url().unwrap();
    let url = url.clone() + if url.contains('?') { "&" } else { "?" } + TTL;
    let urls = vec![url.replacen(&place.address(), proxy.address(), 1), url];
    let callers = Callers::new(&sandbox, urls);
    let mut to_come = FAULTS.to_vec();
    callers.run(size(100, 2000), |random| {
        let fault = to_come.pop().unwrap_or_else(|| FAULTS[random.below(FAULTS.len())]);
        disturb(&mut place, &proxy, &callers, random, fault);
        !to_come.is_empty()
    });
    callers.check(server, &[]);
    eventually("no row is left", || place.rows(&sandbox).is_empty());
}

fn disturb(place: &mut Place, proxy: &Proxy, callers: &Callers<'_>, random: &mut Random, fault: Fault) {
    match fault {
        Fault::Freeze => {
            callers.count("server frozen past the lease");
            place.freeze();
            callers.pause(random, PAST_THE_LEASE);
            place.thaw();
        }
        Fault::Crash => {
            callers.count("server killed");
            place.kill();
            callers.pause(random, 0..2000);
            place.restart();
        }
        Fault::Cut => {
            callers.count("connections cut");
            proxy.cut();
        }
        Fault::BlackHole => {
            callers.count("black hole past the lease");
            proxy.swallow();
            callers.pause(random, PAST_THE_LEASE);
            proxy.open();
        }
        Fault::LostAnswers => {
            callers.count("answers lost");
            proxy.lose_answers();
            callers.pause(random, 200..1500);
            proxy.open();
        }
        Fault::Clock(ahead) => {
            callers.count("clock set");
            place.set_clock(ahead);
        }
    }
}
