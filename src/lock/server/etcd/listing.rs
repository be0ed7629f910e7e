//! The locks that have rows, page by page.

use std::collections::BTreeMap;

use super::Etcd;
use super::answers::KeyValue;
use super::calls::{self, Read};
use crate::lock::server::row::LockName;
use crate::lock::server::store::{Page, Trouble};
use crate::net::Limits;

/// Keys per request of `list`.
const PAGE: u32 = 1000;

impl Etcd {
    pub(super) async fn page(&mut self, from: Option<&str>, limits: Limits) -> Result<Page, Trouble> {
        let mut span = self.prefix.span();
        if let Some(from) = from {
            span.from = from.into();
        }
        let (page, _) = self.calls.read(&Read::page(span, PAGE), limits).await?;
        let mut names: Vec<String> = Vec::new();
        let mut found: BTreeMap<String, Vec<KeyValue>> = BTreeMap::new();
        for key in page.kvs {
            let whole = calls::key_of(&key);
            let Some(name) = self.prefix.encoded_name(&whole) else { continue };
            if names.last().is_none_or(|last| last != name) {
                names.push(name.into());
            }
            found.entry(name.into()).or_default().push(key);
        }
        let mut next = None;
        if page.more
            && let Some(last) = names.last()
        {
            // The page may have cut its rows off.
            let span = self.prefix.lock_of_encoded(last).span();
            next.clone_from(&span.to);
            found.insert(last.clone(), self.calls.read(&Read::all(span), limits).await?.0.kvs);
        }
        let mut locks = Vec::new();
        for encoded in names {
            // Keys of another program, by which no lock of ours can be meant.
            let Some(name) = LockName::from_encoded(&encoded) else { continue };
            let rows = self.prefix.lock(&name).rows(found.remove(&encoded).unwrap_or_default());
            locks.push((name, rows));
        }
        locks.sort_by(|(one, _), (other, _)| one.encoded().cmp(other.encoded()));
        Ok(Page { locks, next })
    }
}
