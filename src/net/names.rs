//! Host names, resolved by a child process that can be killed.
//!
//! getaddrinfo(3) must not run in this program: with a dead name server it blocks for
//! 10 s, and in a static program it may load the host's NSS modules together with a
//! second libc.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};

use super::Fault;

/// In bytes; the rest is not read.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// The addresses of a host, in the order in which to try them.
pub(super) async fn resolve(host: &str, limit: Duration) -> Result<Vec<IpAddr>, Fault> {
    if let Ok(literal) = host.parse() {
        return Ok(vec![literal]);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let Ok(answer) = timeout(limit, ask_getent(host)).await else {
        return Err(Fault::not_connected(format!("no name server answered for {host} in time")));
    };
    let answer =
        answer.map_err(|error| Fault::not_connected(format!("cannot run getent to resolve {host}: {error}")))?;
    let addresses = addresses_in(&answer);
    if addresses.is_empty() {
        return Err(Fault::not_connected(format!("host {host} not found")));
    }
    Ok(addresses)
}

async fn ask_getent(host: &str) -> io::Result<String> {
    let mut getent = Getent::start(host)?;
    let stdout = getent.0.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut answer = String::new();
    pipe::Receiver::from_owned_fd(stdout.into())?.take(LONGEST_ANSWER).read_to_string(&mut answer).await?;
    getent.end().await;
    Ok(answer)
}

/// A running getent(1), killed when dropped.
struct Getent(Child);

impl Getent {
    fn start(host: &str) -> io::Result<Self> {
        // After '--', because a host may start with a dash.
        let child = Command::new("getent")
            .args(["ahosts", "--", host])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// It has closed its output and is about to end. Not waited for in an
    /// uninterruptible sleep.
    async fn end(&mut self) {
        for _ in 0..20 {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Getent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.try_wait();
    }
}

/// The first column of `getent ahosts`, each address once.
fn addresses_in(answer: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in answer.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_read_once_and_in_order() {
        let answer = "10.0.0.2        STREAM db.example\n10.0.0.2        DGRAM  \n10.0.0.2        RAW    \n\
                      2001:db8::7     STREAM \n2001:db8::7     DGRAM  \n";
        let expected: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        assert_eq!(addresses_in(answer), expected);
    }

    #[test]
    fn what_is_no_address_is_passed_over() {
        assert_eq!(addresses_in("fe80::1%eth0 STREAM x\n\nwords\n"), [] as [IpAddr; 0]);
    }

    #[test]
    fn literal_addresses_and_localhost_need_no_process() {
        let resolve = |host| super::super::tests::run(resolve(host, Duration::ZERO)).unwrap();
        assert_eq!(resolve("127.0.0.2"), ["127.0.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(resolve("::1"), ["::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(resolve("LOCALHOST"), ["127.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    }

    #[test]
    fn a_host_that_nobody_knows_is_named() {
        let fault = super::super::tests::run(resolve("no-such-host.invalid", Duration::from_secs(20))).unwrap_err();
        assert!(fault.text.contains("no-such-host.invalid"), "{fault}");
    }
}
