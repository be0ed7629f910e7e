//! The protocol of Redis, RESP2: a command is a list of texts, an answer one value.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Longest line: an error, or the length of something.
const LONGEST_LINE: u64 = 64 * 1024;
/// Longest text. Redis sends up to 512 MB, lockrun's rows have a few hundred bytes.
const LONGEST_TEXT: u64 = 64 * 1024 * 1024;
/// Lists in lists.
const DEEPEST: usize = 8;

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Bytes.
    Text(Vec<u8>),
    /// A number.
    Number(i64),
    /// Nothing.
    Nil,
    /// Several values.
    List(Vec<Value>),
    /// The command failed.
    Error(String),
}

impl Value {
    /// A text, or a number as text.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Number(number) => Some(number.to_string()),
            Self::Nil | Self::List(_) | Self::Error(_) => None,
        }
    }

    /// A number, or a text that is one.
    pub fn number(&self) -> Option<u64> {
        self.text()?.parse().ok()
    }

    /// Bytes; of anything else, none.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(bytes) => bytes,
            _ => &[],
        }
    }

    /// The values of a list; of anything else, none.
    pub fn list(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }
}

/// A command as it is sent.
pub fn command(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Reads one value. After an error, or if it is dropped, the rest of the stream means
/// nothing.
pub async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Value> {
    // Lists that are not complete: how long they get, and what is there.
    let mut open: Vec<(usize, Vec<Value>)> = Vec::new();
    loop {
        let line = line(from).await?;
        let (kind, rest) = line.split_first().ok_or_else(|| strange("an empty line"))?;
        let text = String::from_utf8_lossy(rest).into_owned();
        let number = || text.parse::<i64>().map_err(|_| strange("a length that is no number"));
        let mut value = match kind {
            b'+' => Value::Text(rest.to_vec()),
            b'-' => Value::Error(text),
            b':' => Value::Number(number()?),
            b'$' => match number()? {
                -1 => Value::Nil,
                length => Value::Text(bytes(from, length).await?),
            },
            b'*' => match number()? {
                -1 => Value::Nil,
                0 => Value::List(Vec::new()),
                length => {
                    let length = usize::try_from(length).map_err(|_| strange("a negative length"))?;
                    if open.len() == DEEPEST {
                        return Err(strange("too many lists in lists"));
                    }
                    open.push((length, Vec::new()));
                    continue;
                }
            },
            _ => return Err(strange("not Redis's protocol")),
        };
        loop {
            let Some((length, list)) = open.last_mut() else { return Ok(value) };
            list.push(value);
            if list.len() < *length {
                break;
            }
            value = Value::List(open.pop().map(|(_, list)| list).unwrap_or_default());
        }
    }
}

async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    match line.strip_suffix(b"\r\n") {
        Some(text) => Ok(text.to_vec()),
        None if line.len() as u64 == LONGEST_LINE => Err(strange("a line without an end")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn bytes(from: &mut (impl AsyncBufRead + Unpin), length: i64) -> io::Result<Vec<u8>> {
    let length = u64::try_from(length).ok().filter(|length| *length <= LONGEST_TEXT);
    let length = length.ok_or_else(|| strange("a text that is too long"))?;
    let mut text = Vec::new();
    from.take(length + 2).read_to_end(&mut text).await?;
    match text.strip_suffix(b"\r\n") {
        Some(text) if text.len() as u64 == length => Ok(text.to_vec()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sends {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> io::Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read(&mut &*bytes))
    }

    #[test]
    fn values_of_every_kind_are_read() {
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(parse(b"+OK\r\n").unwrap(), text("OK"));
        assert_eq!(parse(b"$5\r\na\r\nbc\r\n").unwrap(), text("a\r\nbc"));
        assert_eq!(parse(b"-ERR no\r\n").unwrap(), Value::Error("ERR no".into()));
        let nested = b"*4\r\n:-7\r\n*2\r\n$0\r\n\r\n*0\r\n$-1\r\n*-1\r\n";
        let inner = Value::List(vec![text(""), Value::List(Vec::new())]);
        assert_eq!(parse(nested).unwrap(), Value::List(vec![Value::Number(-7), inner, Value::Nil, Value::Nil]));
        assert_eq!(command(&["GET", "a b"]), b"*2\r\n$3\r\nGET\r\n$3\r\na b\r\n");
    }

    #[test]
    fn what_is_cut_off_or_absurd_is_an_error() {
        let deep = "*1\r\n".repeat(1000);
        for wrong in ["", "+OK", "+OK\n", "$5\r\nabc\r\n", "$3\r\nabcde\r\n", "$-2\r\n", "*-2\r\n", "*2\r\n:1\r\n"] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        for wrong in ["$99999999999999\r\n", ":x\r\n", "HTTP/1.1 400 Bad Request\r\n", "\r\n", &deep] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(prop::sample::select(b"*$:+-0123456789\r\nab".to_vec()), 0..60)) {
            let _ = parse(&bytes);
        }
    }
}
