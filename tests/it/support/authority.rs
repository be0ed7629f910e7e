//! Certificates for tests, made by openssl(1).

use super::Sandbox;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate authority.
pub struct Authority {
    directory: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Authority {
    /// A new one.
    pub fn in_directory(sandbox: &Sandbox, directory: &str) -> Self {
        let directory = sandbox.make_dir(directory, 0o755);
        let [cert, key] = ["ca.pem", "ca.key"].map(|name| directory.join(name));
        openssl(
            &directory,
            directory.file_name().unwrap().to_str().unwrap(),
            "basicConstraints=critical,CA:TRUE",
            &cert,
            &key,
            &[],
        );
        Self { directory, cert, key }
    }

    /// Its certificate.
    pub fn cert(&self) -> &PathBuf {
        &self.cert
    }

    /// A certificate with this extension, and its key.
    pub fn sign(&self, name: &str, extension: &str) -> (PathBuf, PathBuf) {
        let [cert, key] = ["pem", "key"].map(|ending| self.directory.join(format!("{name}.{ending}")));
        let [ca, ca_key] = [&self.cert, &self.key].map(|path| path.to_str().unwrap());
        openssl(&self.directory, "", extension, &cert, &key, &["-CA", ca, "-CAkey", ca_key]);
        (cert, key)
    }
}

fn openssl(directory: &Path, name: &str, extension: &str, cert: &Path, key: &Path, signer: &[&str]) {
    let config = directory.join("openssl.cnf");
    let subject = if name.is_empty() { "O=lockrun test".to_owned() } else { format!("CN={name}") };
    let text = format!("[req]\nprompt=no\ndistinguished_name=who\n[who]\n{subject}\n[extensions]\n{extension}\n");
    fs::write(&config, text).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-extensions", "extensions"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(signer)
        .arg("-config")
        .arg(&config)
        .arg("-out")
        .arg(cert)
        .arg("-keyout")
        .arg(key)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
