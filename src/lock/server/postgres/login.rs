//! As whom to log in: what the URL says, or else libpq's environment and password
//! file.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::lock::server::account::{Account, Secret};
use crate::net::Address;

/// As whom, and to which database.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The database's name.
    pub database: String,
    /// Where passwords are.
    pub passfile: Option<PathBuf>,
    account: Option<Account>,
}

impl Login {
    /// Without a password of its own.
    pub fn new(user: String, database: String, passfile: Option<PathBuf>) -> Self {
        Self { user, database, passfile, account: None }
    }

    /// Of the database on these hosts.
    pub fn url(&self, hosts: &str) -> String {
        let [user, database] = [&self.user, &self.database].map(|word| encoded(word, ""));
        format!("postgres://{user}@{}/{database}", encoded(hosts, ",:[]"))
    }

    /// With the password of this account, if there is one.
    pub(super) fn with(self, account: Option<Account>) -> Self {
        Self { account, ..self }
    }

    /// The password, read anew each time; `None`: there is none, and the server may
    /// not ask for one.
    ///
    /// # Errors
    /// A file that was named cannot be read.
    pub fn password(&self, address: &Address) -> Result<Option<Secret>, String> {
        if let Some(account) = &self.account {
            return account.password().map(Some);
        }
        let Some(path) = &self.passfile else { return Ok(None) };
        // As libpq: a file that others may read is not used.
        let Ok(about) = std::fs::metadata(path) else { return Ok(None) };
        if !about.is_file() || about.mode() & 0o077 != 0 {
            return Ok(None);
        }
        let Ok(text) = std::fs::read_to_string(path) else { return Ok(None) };
        Ok(password_in(&text, &[&address.host, &address.port.to_string(), &self.database, &self.user]).map(Secret::new))
    }
}

/// For a URL: with `%` where a byte could mean something.
fn encoded(word: &str, also: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || also.as_bytes().contains(&byte);
    word.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The password in the first line `HOST:PORT:DATABASE:USER:PASSWORD` that fits; `*`
/// fits everything, and a backslash takes away what the next character means.
fn password_in(text: &str, wanted: &[&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = fields(line);
        let password = fields.get(4).cloned()?;
        fields.truncate(4);
        let host = if wanted[0].starts_with('/') { "localhost" } else { wanted[0] };
        let fits =
            |(place, field): (usize, &String)| field == "*" || field == wanted[place] || place == 0 && field == host;
        fields.iter().enumerate().all(fits).then_some(password)
    })
}

/// The first five; the last is the rest of the line.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field) = (Vec::new(), String::new());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => field.extend(characters.next()),
            ':' if fields.len() < 4 => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::password_in;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text = "# db:5432:app:deploy:no\nother:*:*:*:one\ndb:5433:*:*:two\ndb:*:app:de\\:ploy:three\n\
                    *:*:*:deploy:four\\\\:f\\:ive\nlocalhost:*:*:root:local\n";
        let password = |host: &str, port: &str, user: &str| password_in(text, &[host, port, "app", user]);
        assert_eq!(password("db", "5432", "de:ploy").as_deref(), Some("three"));
        assert_eq!(password("db", "5432", "deploy").as_deref(), Some("four\\:f:ive"));
        assert_eq!(password("db", "5433", "x").as_deref(), Some("two"));
        assert_eq!(password("/run/postgresql", "5432", "root").as_deref(), Some("local"));
        assert_eq!(password("db", "5432", "x"), None);
        assert_eq!(password_in("a:b:c", &["a", "b", "c", "d"]), None);
    }
}
