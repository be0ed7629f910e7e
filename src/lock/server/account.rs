//! Users of a server, and their passwords.

use std::path::PathBuf;

/// A word that is never shown: no Debug, no Display.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a word.
    pub fn new(word: String) -> Self {
        Self(word)
    }

    /// The word, for the server only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let mut word = std::mem::take(&mut self.0).into_bytes();
        word.fill(0);
        std::hint::black_box(&word);
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Password {
    Given(Secret),
    /// The first line of this file.
    File(PathBuf),
}

/// A user on a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub user: String,
    password: Password,
}

impl Account {
    /// With this password.
    pub fn given(user: String, password: Secret) -> Self {
        Self { user, password: Password::Given(password) }
    }

    /// With the password in the first line of a file.
    pub fn in_file(user: String, path: PathBuf) -> Self {
        Self { user, password: Password::File(path) }
    }

    /// The password, read from its file each time. An error says for people what is
    /// wrong with the file.
    pub fn password(&self) -> Result<Secret, String> {
        let path = match &self.password {
            Password::Given(secret) => return Ok(secret.clone()),
            Password::File(path) => path,
        };
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map(Secret)
            .map_err(|error| format!("cannot read the password file {shown}: {error}"))?;
        match text.reveal().lines().next() {
            None | Some("") => Err(format!("the password file {shown} is empty")),
            Some(line) => Ok(Secret(line.to_owned())),
        }
    }
}
