//! What a keeper shares with its wrapper: a line, a page, and the end of COMMAND's
//! life line.

use tokio::net::UnixDatagram;
use tokio::net::unix::pipe;

use super::last_resort::Victims;
use super::news::{News, Order};
use super::page::Page;

pub struct Ties<'a> {
    pub line: &'a UnixDatagram,
    /// Ends when the wrapper, COMMAND and all that inherited it have ended.
    pub life: &'a pipe::Receiver,
    pub page: &'a Page,
    pub victims: Victims,
}

/// `None`: the wrapper has died.
pub async fn next_order(line: &UnixDatagram, buffer: &mut [u8]) -> Option<Order> {
    loop {
        match line.recv(buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(length) => {
                if let Ok(order) = serde_json::from_slice(&buffer[..length]) {
                    return Some(order);
                }
            }
        }
    }
}

/// All holders of the other end have gone.
pub async fn life_ended(life: &pipe::Receiver) {
    let mut byte = [0];
    loop {
        if life.readable().await.is_err() {
            return;
        }
        match life.try_read(&mut byte) {
            // COMMAND may write into a descriptor that it finds.
            Ok(1..) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Without waiting for a wrapper that does not read: it is dead or stopped.
pub fn tell(line: &UnixDatagram, news: &News) {
    if let Ok(text) = serde_json::to_vec(news) {
        let _ = line.try_send(&text);
    }
}
