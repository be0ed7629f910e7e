//! What to do next, as the last clause of an error:
//! `error.context(Advice("use another --dir"))` ends the line on stderr with
//! "; use another --dir".

use std::borrow::Cow;
use std::fmt;

#[derive(Debug)]
pub struct Advice(pub Cow<'static, str>);

impl Advice {
    pub const fn new(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
