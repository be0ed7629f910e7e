//! What happens to rows, from the stream of changes.

use std::collections::BTreeMap;

use super::watch::{self, Heard};
use super::{calls, keys};
use crate::lock::server::queue::Id;
use crate::lock::server::store::{self, Event};

/// A watch of rows.
pub struct EtcdWatch {
    pub(super) watch: watch::Watch,
    /// The keys of our own rows.
    pub(super) own: BTreeMap<String, Id>,
}

impl store::Watch for EtcdWatch {
    async fn next(&mut self) -> Event {
        match self.watch.next().await {
            Heard::Ended(_) => Event::Ended,
            Heard::Removed(key) => self.own.get(&key).map_or(Event::Moved, |id| Event::Lost(*id)),
            Heard::Changed(found) => match self.own.get(&calls::key_of(&found)) {
                None => Event::Moved,
                Some(id) => {
                    let note = keys::parse(&found.value).map(|(note, _)| note).unwrap_or_default();
                    Event::Called(*id, Box::new(note))
                }
            },
        }
    }
}
